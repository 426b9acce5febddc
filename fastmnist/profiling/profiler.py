"""`profile`: the same fit and the same prediction on several backends, with the time of every kernel."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastmnist.backends import BackendUnavailable, require
from fastmnist.backends.recording import Recorder, recording_to
from fastmnist.profiling.kernel_times import kernel_times, lines_of
from fastmnist.profiling.machine import Roofs, roofs
from fastmnist.profiling.memory import PeakMemory
from fastmnist.profiling.profiles import TRAINING, BackendProfile, Overhead, Profile, SpeedUp

if TYPE_CHECKING:
    from fastmnist.estimators import (
        CNNClassifier,
        LogisticRegression,
        MLPClassifier,
        OneVsRestLogisticRegression,
        RandomForestClassifier,
    )

_FOREST = (
    "Threads take whole trees. Histograms, search for the best cut and partition of the rows happen inside one kernel, `grow_tree`, node by node: "
    "a clock around each of them would take longer than most of them do, so a tree is timed as a whole."
)
OVERHEAD_PAIRS = 25  # short fits with and without records, taking turns
OVERHEAD_LEAST_PAIRS = 5  # however long they take
OVERHEAD_EPOCHS, OVERHEAD_TREES = 3, 8  # of each; the shortest epoch counts: whatever disturbs one makes it longer
OVERHEAD_ROWS = 2000  # of the data, at most; more where there is time
OVERHEAD_SECONDS = 3.0  # at most, after the first fit, if the least number of pairs is done


def profile(
    estimator: LogisticRegression
    | OneVsRestLogisticRegression
    | MLPClassifier
    | CNNClassifier
    | RandomForestClassifier,
    X: ArrayLike,
    y: ArrayLike,
    *,
    backends: Sequence[str] = ("numpy", "numba"),
    data: str = "",
) -> Profile:
    """Fit and predict on several backends, and say what took the time.

    Each backend gets one fit as it is asked for, and one prediction of X. Kernels are timed inside the compiled epoch, by the processor's cycle
    counter, in as many steps as cost little; what that cost is measured and stated.

    Parameters
    ----------
    estimator : LogisticRegression, OneVsRestLogisticRegression, MLPClassifier, CNNClassifier or RandomForestClassifier
        Stays as it is: copies of it are fitted.
    X : array-like of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
    backends : sequence of str, default=("numpy", "numba")
        "numpy", "numba" or "cupy". One that cannot run here is listed with the reason. On "cupy" the first steps of each epoch
        run as single launches between events; the rest as ever.
    data : str, optional
        What X is, for the report.

    Returns
    -------
    Profile

    Raises
    ------
    ValueError
        As in `fit`; an unknown backend.
    fastmnist.BackendUnavailable
        None of the backends can run here.

    Examples
    --------
    >>> import fastmnist
    >>> X, y = fastmnist.load_mnist("test", return_X_y=True)
    >>> model = fastmnist.MLPClassifier(hidden_layer_sizes=(16,), max_iter=1)
    >>> fastmnist.profile(model, X, y).to_html("report.html")  # doctest: +SKIP
    """
    if not backends:
        raise ValueError("backends must name at least one of 'numpy', 'numba', 'cupy'; got none.")
    missing, possible = {}, []
    for name in dict.fromkeys(backends):
        try:
            require(name)
            possible.append(name)
        except BackendUnavailable as problem:
            missing[name] = f"{problem.reason} {problem.remedy}"
            last = problem
    if not possible:
        raise last
    known = _roofs()
    runs, kernels, events = [], [], {}
    for name in possible:
        try:
            recorder, run = _run(estimator, X, y, name)
        except BackendUnavailable as problem:  # a network that it has no kernels for
            missing[name] = f"{problem.reason} {problem.remedy}"
            last = problem
            continue
        runs.append(run)
        kernels += kernel_times(recorder, run, known)
        events[name] = [event for table in recorder.tables for event in table.events]
    if not runs:
        raise last
    return Profile(" ".join(repr(estimator).split()), data, runs, missing, kernels, _speed_ups(runs), known, events)


def _roofs() -> Roofs | None:
    try:
        return roofs()
    except (ImportError, OSError):
        return None  # no compiled code here: NumPy's figures stand without a roof


def _copy(estimator: Any, backend: str) -> Any:
    return type(estimator)(**{**estimator.get_params(deep=False), "backend": backend})


def _run(estimator: Any, X: ArrayLike, y: ArrayLike, backend: str) -> tuple[Recorder, BackendProfile]:
    """Fit and predict with records."""
    recorder, model = Recorder(), _copy(estimator, backend)
    memory = PeakMemory()
    if backend == "cupy":
        from fastmnist.backends.gpu import open_device

        open_device().forget_peak()
    with recording_to(recorder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Stochastic Optimizer: Maximum iterations")
        model.fit(X, y)
        compiled, start = _compile_seconds(model), time.perf_counter()
        model.predict(X)
        more = _compile_seconds(model) - compiled
        predict_seconds = time.perf_counter() - start - more
    peak, grown = memory.stop()
    training = [span for span in recorder.spans if span.phase in TRAINING]
    tables = [table for table in recorder.tables if table.phase in TRAINING]
    train_seconds = sum(span.seconds for span in training)
    compile_seconds = (model.compile_seconds_ if _is_forest(model) else compiled) + more
    n_threads = max(span.threads for span in training) if _is_forest(model) else model._executor.n_threads
    on_all_threads = sum(span.seconds * span.threads for span in training)
    lines = [line for table in tables for line in lines_of(table)]
    total = sum(seconds for _, seconds, _ in lines)
    idle = sum(seconds for line, seconds, _ in lines if line.op == "barrier")
    walked = sum(sum(table.calls) for table in tables)
    run = BackendProfile(
        backend=backend,
        reason=model.backend_reason_,
        n_threads=n_threads,
        fit_seconds=model.fit_seconds_,
        compile_seconds=compile_seconds,
        prepare_seconds=max(model.fit_seconds_ - train_seconds, 0.0),
        train_seconds=train_seconds,
        predict_seconds=predict_seconds,
        idle_seconds=idle,
        accounted=total / on_all_threads if on_all_threads else 0.0,
        steps=sum(span.steps for span in training),
        host_peak=peak,
        host_grown=grown,
        device_peak=model._executor.device.peak_bytes if backend == "cupy" else None,
        overhead=_overhead(estimator, X, y, backend),
        decisions=recorder.decisions or [_FOREST] * _is_forest(model),
        timed=sum(sum(table.timed) for table in tables) / walked if walked else 0.0,
        unit="tree" if _is_forest(model) else "step",
    )
    return recorder, run


def _is_forest(model: Any) -> bool:
    return not hasattr(model, "solver")


def _compile_seconds(model: Any) -> float:
    """Seconds spent compiling so far: for an executor, or, of forests, which keep none, in this process."""
    if not _is_forest(model):
        return float(model._executor.compile_seconds)
    if model.backend_ != "numba":
        return 0.0
    from fastmnist.kernels import cpu

    return cpu.compile_seconds()


def _speed_ups(runs: list[BackendProfile]) -> list[SpeedUp]:
    """Of every backend over every other, the faster one first."""
    by_speed = sorted(runs, key=lambda run: run.train_seconds)
    return [
        SpeedUp(
            fast.backend,
            slow.backend,
            slow.train_seconds / max(fast.train_seconds, 1e-9),
            slow.predict_seconds / max(fast.predict_seconds, 1e-9),
        )
        for i, fast in enumerate(by_speed)
        for slow in by_speed[i + 1 :]
    ]


def _overhead(estimator: Any, X: ArrayLike, y: ArrayLike, backend: str) -> Overhead:
    """Short fits with and without records, taking turns at being first: what the records cost."""
    n = min(len(X), OVERHEAD_ROWS)  # type: ignore[arg-type]
    part, labels = X[:n], y[:n]  # type: ignore[index]
    if len(np.unique(labels)) < 2:
        return Overhead(None, None, None, 0)
    forest = _is_forest(estimator)
    short = {"n_estimators": OVERHEAD_TREES} if forest else {"max_iter": OVERHEAD_EPOCHS}

    def seconds(recorder: Recorder | None) -> float:
        model = _copy(estimator, backend).set_params(**short)
        with warnings.catch_warnings(), recording_to(recorder) if recorder else nullcontext():
            warnings.simplefilter("ignore")
            model.fit(part, labels)
        return float(model.fit_seconds_ if forest else min(model.history_["seconds"]))

    start = time.perf_counter()
    seconds(None)
    a_fit, ratios = time.perf_counter() - start, []
    # More rows where they cost little: what recording costs once an epoch weighs too much in a short one.
    most = int(n * OVERHEAD_SECONDS / (2 * OVERHEAD_LEAST_PAIRS + 1) / a_fit)
    if most > n:
        part, labels = X[:most], y[:most]  # type: ignore[index]
        a_fit *= min(most, len(X)) / n  # type: ignore[arg-type]
    end = time.perf_counter() + OVERHEAD_SECONDS
    for pair in range(OVERHEAD_PAIRS):
        times = {recorded: seconds(Recorder() if recorded else None) for recorded in (bool(pair % 2), not pair % 2)}
        ratios.append(times[True] / times[False] - 1)
        if len(ratios) >= OVERHEAD_LEAST_PAIRS and time.perf_counter() + 2 * a_fit > end:
            break
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Overhead(middle, low, high, len(ratios))
