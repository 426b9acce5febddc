"""Fit the same model with several settings and seeds, on all cores or all machines, and never do the same work twice.

Each result is one line of a file of JSON lines, written as soon as it is there: whatever ends the sweep, the next one goes on
behind it. A line that was torn by a crash is skipped and its run repeated; two processes may write one file. Work is spread by
joblib, so a backend that the user has registered (Dask, Ray) carries it beyond this machine; fastmnist must be installed there too:

    ray.init(address="auto")
    ray.util.joblib.register_ray()
    with joblib.parallel_config("ray", n_jobs=-1):
        runs = sweep(candidates, data, RunFile("sweep.jsonl"))
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmnist.files import explained
from fastmnist.training.history import EpochRecord, History, append, empty_history
from fastmnist.version import __version__

if TYPE_CHECKING:
    from fastmnist.estimators.base import Classifier

# How a fit is carried out, not what it computes: the same bits on any number of threads.
_IMMATERIAL = ("n_threads", "n_jobs", "verbose", "max_memory")
OnRun = Callable[["Run", int, int], None]


@dataclass(frozen=True, eq=False)
class Data:
    """What a sweep fits on, and what it judges by.

    Attributes
    ----------
    X_train, X_test : ndarray of shape (n, n_features)
    y_train, y_test : ndarray of shape (n,)
        "test" is what the models are judged by: validation data, as long as settings are being chosen.
    """

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray

    def digest(self) -> str:
        """Hash of all values, so that results are never taken for those of other data."""
        hasher = hashlib.blake2b(digest_size=12)
        for array in (self.X_train, self.y_train, self.X_test, self.y_test):
            hasher.update(f"{array.dtype.str}{array.shape}".encode())
            hasher.update(
                np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(array.tolist()).encode()
            )
        return hasher.hexdigest()


@dataclass(frozen=True)
class Run:
    """One fit.

    Attributes
    ----------
    key : str
        Hash of everything that the result depends on.
    setting : dict
        The parameters that the sweep changes.
    seed : int
    accuracy : float
        On the data to judge by; 0 where the fit diverged.
    seconds : float
        Of the fit, without compiling.
    diverged : bool
        The loss overflowed.
    history : dict of lists
        As `history_`, as far as the fit came.
    """

    key: str
    setting: dict[str, Any]
    seed: int
    accuracy: float
    seconds: float
    diverged: bool = False
    history: History = field(default_factory=empty_history)


@dataclass(frozen=True)
class Summary:
    """All seeds of one setting.

    Attributes
    ----------
    setting : dict
    n_seeds, n_diverged : int
    mean, deviation : float
        Of the accuracy; the deviation is that of a sample (n - 1), 0 of a single seed.
    seconds : float
        Median of a fit.
    """

    setting: dict[str, Any]
    n_seeds: int
    n_diverged: int
    mean: float
    deviation: float
    seconds: float


# --- the file -------------------------------------------------------------------------------------------------------------------


class RunFile:
    """Results, one JSON object a line.

    Parameters
    ----------
    path : path
        Need not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def read(self) -> dict[str, Run]:
        """All results by key; lines that are no result, torn ones for example, are left out.

        Raises
        ------
        OSError
            The file can't be read.
        """
        if not self.path.exists():
            return {}
        with explained(self.path, "read"):
            lines = self.path.read_bytes().splitlines()
        runs: dict[str, Run] = {}
        for line in lines:
            run = _parse(line)
            if run is not None:
                runs.setdefault(run.key, run)
        return runs

    def append(self, run: Run) -> None:
        """Add a result; it is on the disk when this returns.

        Raises
        ------
        OSError
            The file can't be written.
        """
        line = json.dumps(_finite(asdict(run)), allow_nan=False).encode() + b"\n"
        with explained(self.path, "written"), self.path.open("ab+") as file, _locked(file):
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # torn by a crash: what follows must not become part of it
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _parse(line: bytes) -> Run | None:
    try:
        fields = json.loads(line)
        fields["history"] = {key: list(fields["history"][key]) for key in empty_history()}
        run = Run(**fields)
        sound = isinstance(run.key, str) and isinstance(run.setting, dict) and math.isfinite(run.accuracy + run.seconds)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return run if sound else None


class _locked:
    """Hold a file against other processes, where the system can."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> None:
        self._lock("LOCK_EX")

    def __exit__(self, *_: object) -> None:
        self._lock("LOCK_UN")

    def _lock(self, operation: str) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows; lines are appended in one piece there too
            return
        fcntl.flock(self.file, getattr(fcntl, operation))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


# --- the sweep ------------------------------------------------------------------------------------------------------------------


def sweep(
    candidates: Sequence[tuple[Mapping[str, Any], Classifier]],
    data: Data,
    file: RunFile,
    *,
    n_jobs: int | None = None,
    on_run: OnRun | None = None,
) -> list[Run]:
    """Fit every candidate that the file does not have yet.

    Parameters
    ----------
    candidates : sequence of (setting, estimator)
        Unfitted, with an int as `random_state`; the setting is what is shown of its parameters.
    data : Data
    file : RunFile
        Is read, and gets a line for each fit.
    n_jobs : int, default=None
        Fits at a time; None: what `joblib.parallel_config` says, else 1. The backend is the one chosen there too.
    on_run : callable, optional
        Called with each run, those from the file first, with its number from 1 and how many there are.

    Returns
    -------
    list of Run
        In the order of the candidates.

    Raises
    ------
    ValueError
        Parameters or data break a rule.
    OSError
        The file can't be read or written.
    KeyboardInterrupt
        Ctrl-C; what was finished is in the file.
    """
    digest = data.digest()
    keyed = {run_key(estimator, digest): (dict(setting), estimator) for setting, estimator in candidates}
    known = file.read()
    done = {key: known[key] for key in keyed if key in known}
    for number, run in enumerate(done.values(), 1):
        if on_run is not None:
            on_run(run, number, len(keyed))
    pending = [(key, *keyed[key]) for key in keyed if key not in done]
    for result in _fit_all(pending, data, n_jobs):
        if result is None:
            raise KeyboardInterrupt
        file.append(result)
        done[result.key] = result
        if on_run is not None:
            on_run(result, len(done), len(keyed))
    return [done[key] for key in keyed]


def run_key(estimator: Classifier, digest: str) -> str:
    """Hash of what a fit depends on: class, parameters, seed, data, version."""
    parameters = {k: v for k, v in estimator.get_params(deep=False).items() if k not in _IMMATERIAL}
    described = json.dumps([type(estimator).__name__, parameters, digest, __version__], sort_keys=True, default=repr)
    return hashlib.blake2b(described.encode(), digest_size=12).hexdigest()


def _fit_all(
    pending: Sequence[tuple[str, dict[str, Any], Classifier]], data: Data, n_jobs: int | None
) -> Iterator[Run | None]:
    """Results as they come; from backends that only return whole lists, list by list."""
    from joblib import Parallel, delayed

    def jobs(part: Iterable[tuple[str, dict[str, Any], Classifier]]) -> Iterator[Any]:
        return (
            delayed(fit_one)(key, setting, estimator, data.X_train, data.y_train, data.X_test, data.y_test)
            for key, setting, estimator in part
        )

    if not pending:
        return
    try:
        parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered", pre_dispatch="n_jobs")
    except ValueError:
        with Parallel(n_jobs=n_jobs) as parallel:  # one pool for all lists: Ray takes seconds to start one
            workers = max(1, parallel._effective_n_jobs())
            for start in range(0, len(pending), workers):
                yield from parallel(jobs(pending[start : start + workers]))
        return
    yield from parallel(jobs(pending))


def fit_one(
    key: str,
    setting: dict[str, Any],
    estimator: Classifier,
    X_train: np.ndarray,
    y_train: np.ndarray,
    X_test: np.ndarray,
    y_test: np.ndarray,
) -> Run | None:
    """Fit one candidate, in whatever process or machine.

    Parameters
    ----------
    key : str
        Its `run_key`.
    setting : dict
        Parameters that the sweep varies, by name, for the result.
    estimator : Classifier
        With these parameters; it is fitted.
    X_train, y_train, X_test, y_test : ndarray
        See `Data`.

    Returns
    -------
    Run or None
        None if Ctrl-C came between. A fit that diverges has a result that says so.
    """
    from fastmnist.estimators.base import DivergedError

    history = empty_history()

    def listen(record: EpochRecord) -> None:
        append(history, record)

    model: Any = type(estimator)(**estimator.get_params(deep=False))
    aside = {} if hasattr(model, "n_estimators") else {"validation_data": (X_test, y_test)}
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of fits that might go on, or overflow: both are what a sweep is to find out
            model.set_on_epoch(listen).fit(X_train, y_train, **aside)
    except DivergedError:
        return Run(key, setting, model.random_state, 0.0, time.perf_counter() - start, True, history)
    if getattr(model, "interrupted_", False):
        return None
    accuracy = float(model.score(X_test, y_test))
    return Run(key, setting, model.random_state, accuracy, model.fit_seconds_, False, history)


# --- what comes out -------------------------------------------------------------------------------------------------------------


def summarize(runs: Iterable[Run]) -> list[Summary]:
    """Mean and deviation of each setting, in the order in which the settings first come."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.setting), []).append(run)
    return [_summary(several) for several in groups.values()]


def best(summaries: Sequence[Summary]) -> Summary:
    """The setting of the highest mean accuracy; of equal ones the first."""
    return max(summaries, key=lambda summary: summary.mean)


def _summary(runs: Sequence[Run]) -> Summary:
    accuracies = [run.accuracy for run in runs]
    return Summary(
        setting=runs[0].setting,
        n_seeds=len(runs),
        n_diverged=sum(run.diverged for run in runs),
        mean=statistics.fmean(accuracies),
        deviation=statistics.stdev(accuracies) if len(runs) > 1 else 0.0,
        seconds=statistics.median(run.seconds for run in runs),
    )
