"""What `profile` finds, and the files and lines that it is written to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastmnist.backends.recording import Event
from fastmnist.files import write_atomically
from fastmnist.profiling.machine import Roofs

PROFILE_VERSION = 1
TRAINING = ("training", "gradient")  # phases


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
        """Lines for people: the backends, and each one's longest kernels of the training.

        Parameters
        ----------
        n_kernels : int, default=8
            Of each backend, at most.

        Returns
        -------
        list of str
        """
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

        Returns
        -------
        DataFrame
            A row for each of `kernels`, columns as the attributes of `KernelTime`.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        import pandas

        return pandas.DataFrame([asdict(kernel) for kernel in self.kernels])

    def to_json(self, path: str | Path) -> None:
        """Write everything but the trace.

        Parameters
        ----------
        path : str or Path
            Written at once; replaced if it exists.

        Raises
        ------
        OSError
            The file cannot be written; one that was there before is whole.
        """
        write_atomically(path, json.dumps(self.as_dict(), indent=1).encode())

    def to_trace(self, path: str | Path) -> None:
        """Write a trace for ui.perfetto.dev or chrome://tracing, with a lane for each thread.

        Parameters
        ----------
        path : str or Path
            Written at once; replaced if it exists.

        Raises
        ------
        OSError
            The file cannot be written; one that was there before is whole.
        """
        from fastmnist.profiling.trace import trace_events

        write_atomically(path, json.dumps(trace_events(self)).encode())

    def to_html(self, path: str | Path) -> None:
        """Write the report: one page that needs no network.

        Parameters
        ----------
        path : str or Path
            Written at once; replaced if it exists.

        Raises
        ------
        OSError
            The file cannot be written; one that was there before is whole.
        """
        from fastmnist.profiling.report import page

        write_atomically(path, page(self).encode())

    def _repr_html_(self) -> str:
        from fastmnist.profiling.report import fragment

        return fragment(self)


def _microseconds(value: float) -> str:
    """Three digits, or the whole number where there are more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
