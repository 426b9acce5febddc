"""Fit a model, test it, and keep everything that is worth telling: what `fastmnist train` prints."""

from __future__ import annotations

import copy
import math
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmnist.evaluation.report import Report, classification_report

if TYPE_CHECKING:
    from fastmnist.datasets import Splits
    from fastmnist.estimators import (
        CNNClassifier,
        LogisticRegression,
        MLPClassifier,
        OneVsRestLogisticRegression,
        RandomForestClassifier,
    )
    from fastmnist.training.history import OnEpoch


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """A fit and its test.

    Attributes
    ----------
    model, description, data : str
        Name on the command line; the estimator with its parameters; where the data came from.
    backend, reason : str
        What computed, and why.
    report : Report
        On the test part.
    train_seconds, compile_seconds : float
        Wall time of the fit without compiling, and of all compiling, that for the test included.
    epochs : int
        How much was done, in `unit`s.
    unit : str
        "epoch", "iteration" of a full-batch solver, or "tree".
    n_train, n_test : int
    loss_curve : list of float
    interrupted : bool
    """

    model: str
    description: str
    data: str
    backend: str
    reason: str
    report: Report
    train_seconds: float
    compile_seconds: float
    epochs: int
    unit: str
    n_train: int
    n_test: int
    loss_curve: list[float]
    interrupted: bool

    @property
    def accuracy(self) -> float:
        """On the test part."""
        return self.report.accuracy

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return {
            "model": self.model,
            "description": self.description,
            "data": self.data,
            "backend": self.backend,
            "reason": self.reason,
            "accuracy": self.accuracy,
            "train_seconds": self.train_seconds,
            "compile_seconds": self.compile_seconds,
            "epochs": self.epochs,
            "unit": self.unit,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "interrupted": self.interrupted,
            "loss_curve": [float(loss) for loss in self.loss_curve],
            "report": self.report.as_dict(),
            "confusion_matrix": self.report.confusion.tolist(),
        }

    def summary(self) -> list[str]:
        """Lines for people."""
        each = f", {self.train_seconds / self.epochs:.2f} s each" if self.epochs else ""
        return [
            f"{self.description}",
            f"data: {self.data}",
            f"backend {self.backend}: {self.reason}",
            f"compiling {self.compile_seconds:.2f} s, training {self.train_seconds:.2f} s ({self.epochs} {self.unit}s{each})",
            f"test accuracy {self.accuracy:.4f} on {self.n_test:,} samples",
        ]


def training_run(
    model: str,
    estimator: LogisticRegression
    | OneVsRestLogisticRegression
    | MLPClassifier
    | CNNClassifier
    | RandomForestClassifier,
    splits: Splits,
    on_epoch: OnEpoch | None = None,
    *,
    save: str | None = None,
    validation: float = 0.0,
) -> TrainingRun:
    """Fit an estimator on the training part, save it, and judge it on the test part.

    Parameters
    ----------
    model : str
        Its name in what is returned.
    estimator : LogisticRegression, OneVsRestLogisticRegression, MLPClassifier, CNNClassifier or RandomForestClassifier
        Is fitted.
    splits : Splits
    on_epoch : callable, optional
        See `NetworkClassifier.set_on_epoch`.
    save : str, optional
        File for the model; written as soon as it is fitted.
    validation : float, default=0.0
        In [0, 1): part of the training part that is held out for `history_`, drawn by the estimator's `random_state`; not for forests.

    Returns
    -------
    TrainingRun

    Raises
    ------
    ValueError
        As in `fit`.
    fastmnist.BackendUnavailable
        The backend that was asked for cannot run here.
    OSError
        The file can't be written; the message says where the model was saved instead.
    """
    compiled_before = _compile_seconds()
    unit = unit_of_work(estimator)
    kept, held_out = hold_out(len(splits.X_train), validation, estimator.random_state)
    X, y = (splits.X_train[kept], splits.y_train[kept]) if len(held_out) else (splits.X_train, splits.y_train)
    aside = {"validation_data": (splits.X_train[held_out], splits.y_train[held_out])} if len(held_out) else {}
    with warnings.catch_warnings():
        # Whoever asks for ten epochs knows that the optimizer might go on.
        warnings.filterwarnings("ignore", message="Stochastic Optimizer: Maximum iterations")
        estimator.set_on_epoch(on_epoch).fit(X, y, **aside)
    estimator.set_on_epoch(None)
    if save is not None:
        _save(estimator, Path(save))
    # Whoever has pressed Ctrl-C shall not wait for more kernels to be compiled: NumPy predicts at once.
    interrupted = getattr(estimator, "interrupted_", False)  # a forest is grown whole or not at all
    judge = copy.copy(estimator).set_params(backend="numpy") if interrupted else estimator
    predicted = judge.predict(splits.X_test)
    return TrainingRun(
        model=model,
        description=" ".join(repr(estimator).split()),
        data=splits.source,
        backend=estimator.backend_,
        reason=estimator.backend_reason_,
        report=classification_report(splits.y_test, predicted),
        train_seconds=estimator.fit_seconds_,
        compile_seconds=_compile_seconds() - compiled_before,
        epochs=len(estimator.tree_roots_) if unit == "tree" else int(np.max(estimator.n_iter_)),
        unit=unit,
        n_train=len(X),
        n_test=len(splits.X_test),
        loss_curve=list(getattr(estimator, "loss_curve_", [])),
        interrupted=interrupted,
    )


def hold_out(n_samples: int, fraction: float, seed: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on, each ascending, drawn at random.

    Parameters
    ----------
    n_samples : int
    fraction : float
        In [0, 1): of the rows, rounded up, to validate on; 0: none.
    seed : int or None

    Returns
    -------
    kept, held_out : ndarray, int64

    Raises
    ------
    ValueError
        No row would be left to train on.
    """
    n_held_out = math.ceil(fraction * n_samples)
    if n_held_out >= n_samples:
        raise ValueError(
            f"validation={fraction:g} of {n_samples} samples leaves none to train on. Take a smaller part."
        )
    order = np.random.default_rng(seed).permutation(n_samples)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def unit_of_work(
    estimator: LogisticRegression | OneVsRestLogisticRegression | MLPClassifier | RandomForestClassifier,
) -> str:
    """What a fit of the estimator counts: "epoch", "iteration" or "tree"."""
    solver = getattr(estimator, "solver", None)
    if solver is None:
        return "tree"
    return "iteration" if solver in ("lbfgs", "gd") else "epoch"


def _compile_seconds() -> float:
    """Seconds that this process has spent compiling; the compiled kernels are not loaded for the question."""
    cpu = sys.modules.get("fastmnist.kernels.cpu")
    return 0.0 if cpu is None else cpu.compile_seconds()


def _save(estimator: Any, path: Path) -> None:
    """Save a model that took its time to train: a disk that has filled up meanwhile must not cost it."""
    try:
        estimator.save(path)
    except OSError as error:
        refuge = Path(tempfile.mkdtemp(prefix="fastmnist-")) / path.name
        estimator.save(refuge)
        raise OSError(f"{error} The trained model was saved to {refuge} instead.") from error
