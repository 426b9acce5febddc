"""`profile`: the same fit and the same prediction on several backends, with the time of every kernel."""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastmnist.backends import BackendUnavailable, require
from fastmnist.backends.recording import Event, Line, Recorder, Table, recording_to
from fastmnist.files import write_atomically
from fastmnist.profiling.machine import Roofs, roofs
from fastmnist.profiling.memory import PeakMemory
from fastmnist.threads import default_threads

if TYPE_CHECKING:
    from fastmnist.estimators import (
        CNNClassifier,
        LogisticRegression,
        MLPClassifier,
        OneVsRestLogisticRegression,
        RandomForestClassifier,
    )


PROFILE_VERSION = 1
TRAINING = ("training", "gradient")
_FOREST = (
    "Threads take whole trees. Histograms, search for the best cut and partition of the rows happen inside one kernel, `grow_tree`, node by node: "
    "a clock around each of them would take longer than most of them do, so a tree is timed as a whole."
)
OVERHEAD_PAIRS = 25  # short fits with and without records, taking turns
OVERHEAD_LEAST_PAIRS = 5  # however long they take
OVERHEAD_EPOCHS, OVERHEAD_TREES = 3, 8  # of each; the shortest epoch counts: whatever disturbs one makes it longer
OVERHEAD_ROWS = 2000  # of the data, at most; more where there is time
OVERHEAD_SECONDS = 3.0  # at most, after the first fit, if the least number of pairs is done


@dataclass(frozen=True)
class KernelTime:
    """What one kernel of one layer took.

    Attributes
    ----------
    backend : str
    phase : str
        "training" (mini-batches; the trees of a forest), "gradient" (all rows) or "inference"; of forests also "preparation" and "out of bag".
    op, place : str
        Of the contract; the layer and direction, or the tensor that is written.
    calls : int
    seconds : float
        Of all calls on all threads together.
    mean_us : float
        Microseconds of a call.
    share : float
        Part of the phase's time on all threads.
    gflops, gbytes : float or None
        GFLOP/s and GB/s of one thread while it runs the kernel, by the contract's counts; None where the contract counts none.
    intensity : float or None
        FLOPs a byte.
    roof : float or None
        Part of what one thread could reach at this intensity with its data in the level-1 cache; None without a measured roof.
    variant, sizes : str
        Types and vectors it was compiled for; dimensions of a call.
    reason : str
        Why no faster variant was used, where there is one.
    """

    backend: str
    phase: str
    op: str
    place: str
    calls: int
    seconds: float
    mean_us: float
    share: float
    gflops: float | None
    gbytes: float | None
    intensity: float | None
    roof: float | None
    variant: str
    sizes: str
    reason: str


@dataclass(frozen=True)
class Overhead:
    """What recording cost: epochs (or gradients) with and without it took turns.

    Attributes
    ----------
    median, low, high : float
        Of the ratios of neighbours minus 1: the median and the quartiles. None where nothing was measured.
    pairs : int
    """

    median: float | None
    low: float | None
    high: float | None
    pairs: int

    @property
    def within_noise(self) -> bool:
        """Whether the quartiles lie on both sides of 0: what recording costs is less than what these pairs can tell."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high

    def __str__(self) -> str:
        if self.median is None:
            return "not measured"
        noise = ": within noise" if self.within_noise else ""
        return f"{self.median:+.1%} (half of {self.pairs} pairs between {self.low:+.1%} and {self.high:+.1%}{noise})"


@dataclass(frozen=True)
class BackendProfile:
    """One training run and one prediction on one backend.

    Attributes
    ----------
    backend, reason : str
    n_threads : int
    fit_seconds : float
        Wall time of the fit without compiling.
    compile_seconds, prepare_seconds, train_seconds : float
        Compiling; everything of the fit that is neither compiling nor training: checks, compressing, initial weights; epochs or gradients.
    predict_seconds : float
        Wall time of the prediction, without compiling.
    idle_seconds : float
        Waiting at barriers, of all threads together, while training.
    accounted : float
        Time of all kernels and of the waiting, as a part of the epochs' wall time on all threads.
    steps : int
        Steps of the optimizer, gradients, or trees.
    host_peak, host_grown : int or None
        Bytes that the process had at most during the run, and by how much that is more than before.
    device_peak : int or None
        Bytes of the GPU's memory that were taken at once; None of other backends.
    overhead : Overhead
    decisions : list of str
        What the program's lowering chose, with reasons.
    timed : float
        Part of the steps whose kernels were timed.
    unit : str
        What the steps are: "step", or of forests "tree".
    """

    backend: str
    reason: str
    n_threads: int
    fit_seconds: float
    compile_seconds: float
    prepare_seconds: float
    train_seconds: float
    predict_seconds: float
    idle_seconds: float
    accounted: float
    steps: int
    host_peak: int | None
    host_grown: int | None
    device_peak: int | None
    overhead: Overhead
    decisions: list[str]
    timed: float
    unit: str = "step"


@dataclass(frozen=True)
class SpeedUp:
    """How much faster one backend is than another.

    Attributes
    ----------
    fast, slow : str
        Backends.
    training, inference : float
        Seconds of `slow` divided by those of `fast`.
    """

    fast: str
    slow: str
    training: float
    inference: float


@dataclass(frozen=True, eq=False)
class Profile:
    """What `profile` found.

    Attributes
    ----------
    model, data : str
    backends : list of BackendProfile
    missing : dict of str to str
        Backends that could not run, and why.
    kernels : list of KernelTime
        The longest first, backend by backend and phase by phase.
    speed_ups : list of SpeedUp
        Of every backend over every other.
    roofs : Roofs or None
    events : dict of str to list of Event
        Of some steps in the middle, by backend.
    """

    model: str
    data: str
    backends: list[BackendProfile]
    missing: dict[str, str]
    kernels: list[KernelTime]
    speed_ups: list[SpeedUp]
    roofs: Roofs | None
    events: dict[str, list[Event]]

    def __repr__(self) -> str:
        return "\n".join(self.summary())

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name: what `to_json` writes."""
        return {
            "version": PROFILE_VERSION,
            "model": self.model,
            "data": self.data,
            "missing": self.missing,
            "backends": [asdict(backend) for backend in self.backends],
            "speed_ups": [asdict(pair) for pair in self.speed_ups],
            "kernels": [asdict(kernel) for kernel in self.kernels],
            "roofs": None if self.roofs is None else asdict(self.roofs),
        }

    def summary(self, n_kernels: int = 8) -> list[str]:
        """Lines for people: the backends, and each one's longest kernels of the training."""
        lines = [self.model, self.data] if self.data else [self.model]
        for run in self.backends:
            cost = "" if run.overhead.median is None else f"; recording costs {run.overhead}"
            lines.append(
                f"{run.backend}: training {run.train_seconds:.3g} s, compiling {run.compile_seconds:.3g} s, preparing "
                f"{run.prepare_seconds:.3g} s, prediction {run.predict_seconds:.3g} s, waiting {run.idle_seconds / run.n_threads:.3g} s a "
                f"thread{cost}"
            )
            kernels = [k for k in self.kernels if k.backend == run.backend and k.phase in TRAINING]
            for kernel in kernels[:n_kernels]:
                roof = "" if kernel.roof is None else f", {kernel.roof:.0%} of the roof"
                rate = "" if kernel.gflops is None else f", {kernel.gflops:.3g} GFLOP/s"
                lines.append(
                    f"  {kernel.share:6.1%}  {kernel.op} ({kernel.place}): {_microseconds(kernel.mean_us)} us a call{rate}{roof}"
                )
        lines += [f"{pair.fast} is {pair.training:.2f} x faster than {pair.slow}" for pair in self.speed_ups]
        return [*lines, *(f"{name} did not run: {why}" for name, why in self.missing.items())]

    def to_frame(self) -> Any:
        """The kernels as a pandas DataFrame.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        import pandas

        return pandas.DataFrame([asdict(kernel) for kernel in self.kernels])

    def to_json(self, path: str | Path) -> None:
        """Write everything but the trace."""
        write_atomically(path, json.dumps(self.as_dict(), indent=1).encode())

    def to_trace(self, path: str | Path) -> None:
        """Write a trace for ui.perfetto.dev or chrome://tracing, with a lane for each thread."""
        from fastmnist.profiling.trace import trace_events

        write_atomically(path, json.dumps(trace_events(self)).encode())

    def to_html(self, path: str | Path) -> None:
        """Write the report: one page that needs no network."""
        from fastmnist.profiling.report import page

        write_atomically(path, page(self).encode())

    def _repr_html_(self) -> str:
        from fastmnist.profiling.report import fragment

        return fragment(self)


def _microseconds(value: float) -> str:
    """Three digits, or the whole number where there are more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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
        kernels += _kernels(recorder, run, known)
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
    lines = [line for table in tables for line in _lines(table)]
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


def _seconds(table: Table, lane: int) -> np.ndarray:
    """Seconds of each instruction of a lane in all steps."""
    return table.seconds_a_call(lane) * table.calls[lane]


def _lines(table: Table) -> list[tuple[Line, float, int]]:
    """(line, seconds, calls) of every instruction of every lane."""
    waited = Line("barrier", "while one thread works for all")
    return [
        *(
            (line, float(seconds), table.calls[lane])
            for lane, lines in enumerate(table.lanes)
            for line, seconds in zip(lines, _seconds(table, lane), strict=True)
        ),
        *((waited, seconds, 1) for seconds in table.waited_alone if seconds),
    ]


@dataclass
class _Sum:
    """What the instructions of one line took together."""

    seconds: float = 0.0
    calls: int = 0
    flops: float = 0.0
    nbytes: float = 0.0
    longest: float = -1.0
    sizes: str = ""

    def add(self, line: Line, seconds: float, calls: int) -> None:
        """One instruction in all its calls."""
        self.seconds += seconds
        self.calls += calls
        self.flops += line.flops * calls
        self.nbytes += line.nbytes * calls
        if seconds > self.longest:
            self.longest, self.sizes = seconds, line.sizes


def _kernels(recorder: Recorder, run: BackendProfile, known: Roofs | None) -> list[KernelTime]:
    """The lines of a backend, phase by phase, the longest first."""
    sums: dict[tuple[str, str, str, str], _Sum] = defaultdict(_Sum)
    for table in recorder.tables:
        for line, seconds, calls in _lines(table):
            if calls:
                sums[table.phase, line.op, line.place, line.variant].add(line, seconds, calls)
    totals: dict[str, float] = defaultdict(float)
    for (phase, *_), total in sums.items():
        totals[phase] += total.seconds
    result = []
    for (phase, op, place, variant), total in sums.items():
        gflops = total.flops / total.seconds / 1e9 if total.flops and total.seconds else None
        gbytes = total.nbytes / total.seconds / 1e9 if total.nbytes and total.seconds else None
        intensity = total.flops / total.nbytes if total.flops and total.nbytes else None
        roof = None
        if known is not None and gflops and intensity:
            roof = _share_of_roof(known, run.backend, gflops, intensity)
        result.append(
            KernelTime(
                run.backend,
                phase,
                op,
                place,
                total.calls,
                total.seconds,
                1e6 * total.seconds / total.calls,
                total.seconds / totals[phase] if totals[phase] else 0.0,
                gflops,
                gbytes,
                intensity,
                roof,
                _variant(run.backend, op, variant),
                total.sizes,
                _reason(run, op, place),
            )
        )
    order = list(dict.fromkeys(kernel.phase for kernel in result))
    return sorted(result, key=lambda kernel: (order.index(kernel.phase), -kernel.seconds))


def _share_of_roof(known: Roofs, backend: str, gflops: float, intensity: float) -> float | None:
    if backend == "cupy":
        return gflops / min(known.gpu["gflops"], intensity * known.gpu["memory"]) if known.gpu else None
    # Compiled kernels run on one thread each; NumPy's products on as many as its BLAS takes.
    return gflops / known.roof(intensity, default_threads() if backend == "numpy" else 1)


def _variant(backend: str, op: str, types: str) -> str:
    """How the kernel was made."""
    if op == "barrier":
        return ""
    if backend == "numba":
        from fastmnist.kernels.cpu.isa import MACHINE

        return f"{MACHINE.simd}, {MACHINE.lanes} lanes{', ' + types if types else ''}"
    return f"NumPy {np.__version__}" if backend == "numpy" else "CUDA"


_OF_FORESTS = {
    "grow_tree": "Compares and counts bytes, almost without arithmetic: what limits it is reading rows that lie apart, not a roof of GFLOP/s.",
    "forest_proba": "Follows links from node to node: what limits it is the time to reach L2, of 512 rows at a time.",
    "transpose": "One thread copies X column by column: bytes that are moved, no arithmetic.",
    "bin_values": "NumPy sorts each feature's values.",
    "leaf_distributions": "NumPy, once a tree.",
}
# By how the op's name begins, the first that fits.
_CONVOLUTIONS = {
    "conv2d_grey_pooled": "Direct convolution of one channel: pixels are the lanes, ReLU and pooling happen in registers.",
    "conv2d_pooled": "Direct convolution that reads the pixels that pooling kept, a quarter of all.",
    "conv2d_winograd": "Winograd's algorithm F(4 x 4, 3 x 3): 36 products for 144, counted here as they are, not as those of the convolution.",
    "conv2d": "Direct convolution, filters or channels are the lanes; Winograd's algorithm is for 3 x 3 pixels with stride 1.",
}


def _reason(run: BackendProfile, op: str, place: str) -> str:
    """Why there is no faster variant of this line, where there is one."""
    first_layer = place.endswith(" 1") or op in ("gather_rows", "sparse_quads")
    if run.unit == "tree" and op in _OF_FORESTS:
        return _OF_FORESTS[op]
    if op == "barrier":
        return "Threads wait for the slowest: work that does not divide, or a neighbour on the same core."
    if run.backend == "numba" and op.startswith("conv2d") and not op.startswith("conv2d_db"):
        number = place.removeprefix("forward ")
        decided = next(
            (d.partition(": ")[2] for d in run.decisions if d.startswith(f"convolution {number}: direct, ")), ""
        )
        how = next(text for start, text in _CONVOLUTIONS.items() if op.startswith(start))
        return f"{how} {decided[0].upper()}{decided[1:]}." if decided else how
    if first_layer and op.startswith(("linear", "gather")):
        return next((d.partition(". ")[2] for d in run.decisions if d.startswith("rows of X: dense")), "")
    if op.startswith(("sparse", "quad", "block")):
        return next((d.partition(". ")[2] for d in run.decisions if d.startswith("rows of X")), "")
    return "The oracle: readable, not fast." if run.backend == "numpy" else ""


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
