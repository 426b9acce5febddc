"""What every runner has: the settings it may be given, and the answers that the comparing process may ask for. Light to import."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import numpy as np


class Runner:
    """One provider at one job, in a process of its own.

    A subclass's `__init__(parameters, settings)` imports the library, prepares what lies outside of the clock, and warms up.

    Attributes
    ----------
    CHOICES : dict
        Setting: values to try. Each combination is tried once, the fastest is kept.
    version : str
        Of the library and of what it computes with.
    """

    CHOICES: ClassVar[dict[str, list[Any]]] = {}
    version: str

    @classmethod
    def settings(cls, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """What to try at a job with these parameters: every combination of `CHOICES`; one empty one if there are none."""
        return combinations(cls.CHOICES)

    @staticmethod
    def environment(settings: dict[str, Any]) -> dict[str, str]:
        """Variables that must be set before the process starts."""
        return {}

    def sample(self, seed: int) -> dict[str, Any]:
        """One measurement: "seconds", and where the job has them "fit_seconds", "loss", "accuracy" and a "note"."""
        raise NotImplementedError

    def trial(self) -> float:
        """Seconds by which settings are chosen."""
        return min(self.sample(0)["seconds"] for _ in range(2))

    def prepare(self, theirs: dict[str, Any]) -> None:
        """Outside of the clock, once: see the peer's first sample."""


class EagerStep:
    """The update of a PyTorch model as its tutorials write it."""

    model: Any
    optimizer: Any
    criterion: Any

    def step(self, x: Any, t: Any) -> Any:
        """One update; returns the loss, unread."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.criterion(self.model(x), t)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def combinations(choices: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values of each setting."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def blas_threads(settings: dict[str, Any]) -> dict[str, str]:
    """Threads of OpenBLAS, MKL and OpenMP, as variables."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: str(settings["threads"]) for name in names if "threads" in settings}


def xla_threads(settings: dict[str, Any]) -> dict[str, str]:
    """One thread or all for JAX on a CPU; it has no finer switch."""
    return {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if settings.get("threads") == 1 else {}


def mnist() -> tuple[np.ndarray, ...]:
    """Training and test images as uint8 (n, 784), labels as int64 (n,): X, y, X_test, y_test."""
    from fastmnist.datasets import load_mnist

    return *load_mnist("train", return_X_y=True), *load_mnist("test", return_X_y=True)


def as_float(X: np.ndarray) -> np.ndarray:
    """uint8 pixels as float32 in [0, 1]; in place, which is NumPy's fastest way."""
    scaled = X.astype(np.float32)
    scaled *= np.float32(1 / 255)
    return scaled


def initial_parameters(sizes: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """scikit-learn's (and fastmnist's) initial values, `[W0 (inputs, units), b0, ...]`: losses of the first epochs depend on them."""
    rng = np.random.default_rng(seed)
    parameters = []
    for inputs, units in itertools.pairwise(sizes):
        bound = np.sqrt(6 / (inputs + units))
        for shape in ((inputs, units), (units,)):
            parameters.append(rng.uniform(-bound, bound, shape).astype(np.float32))
    return parameters


def forward(parameters: list[np.ndarray], X: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Logits of a ReLU network in plain NumPy, for checks."""
    h = X.astype(dtype)
    for i in range(0, len(parameters), 2):
        h = h @ parameters[i].astype(dtype) + parameters[i + 1].astype(dtype)
        if i < len(parameters) - 2:
            h = np.maximum(h, 0)
    return h
