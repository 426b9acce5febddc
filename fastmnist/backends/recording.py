"""What executors write down while somebody profiles: how often each instruction ran, how long it took, and when.

    with recording_to(Recorder()) as recorder:
        estimator.fit(X, y)

An executor that is made inside such a block keeps its records in that recorder, any other one pays nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from fastmnist.kernels.contract import CONTRACT
from fastmnist.network.program import BARRIER, Instruction

TRACED_STEPS = 4  # of a walk, from its middle on

_active: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@dataclass(frozen=True)
class Line:
    """What records of an instruction are filed under: the instructions of a layer that do the same are one line.

    Attributes
    ----------
    op : str
        Of the contract; "barrier" for waiting.
    place : str
        Layer and direction as the lowering names them, or the tensor that is written.
    variant : str
        The types of the operands that have a choice.
    sizes : str
        The dimensions of one call.
    flops, nbytes : float
        Of one call, from the contract.
    """

    op: str
    place: str
    variant: str = ""
    sizes: str = ""
    flops: float = 0.0
    nbytes: float = 0.0


@dataclass(frozen=True)
class Event:
    """One instruction that ran.

    Attributes
    ----------
    line : Line
    thread : int
    start, seconds : float
        Of the clock of `time.perf_counter`.
    """

    line: Line
    thread: int
    start: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Trace:
    """When instructions of one table ran.

    Attributes
    ----------
    lines : list of Line
        The instructions of the table.
    rows, threads : ndarray of int
        Of each event the place in `lines` and the thread.
    starts, seconds : ndarray of float64
        Of the clock of `time.perf_counter`.
    """

    lines: list[Line]
    rows: np.ndarray
    threads: np.ndarray
    starts: np.ndarray
    seconds: np.ndarray


@dataclass
class Table:
    """The records of one table of instructions.

    Attributes
    ----------
    phase : str
        "training", "gradient" or "inference".
    rows : int
        Rows of a batch.
    lanes : list of list of Line
        The instructions of each thread.
    calls, timed : list of int
        Steps of each lane, and those among them whose instructions were timed.
    timed_seconds : list of ndarray of float64
        How long each instruction took in the timed steps together, on whatever thread; of barriers, the waiting.
    reading_seconds : list of float
        By how much a reading of the clock prolongs a timed step, as the shortest steps with and without tell.
    walked_seconds : list of float
        Wall time that the thread of each lane spent in compiled code, by the clock; 0 where it was not taken.
    waited_alone : list of float
        Seconds that the thread of each lane waited while another one walked all lanes, in all steps.
    traces : list of Trace
        Of some steps in the middle.
    """

    phase: str
    rows: int
    lanes: list[list[Line]]
    calls: list[int] = field(default_factory=list)
    timed: list[int] = field(default_factory=list)
    timed_seconds: list[np.ndarray] = field(default_factory=list)
    reading_seconds: list[float] = field(default_factory=list)
    walked_seconds: list[float] = field(default_factory=list)
    waited_alone: list[float] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = len(self.lanes)
        self.calls, self.timed = [0] * n, [0] * n
        self.walked_seconds = [0.0] * n
        self.reading_seconds, self.waited_alone = [0.0] * n, [0.0] * n
        self.timed_seconds = [np.zeros(len(lane)) for lane in self.lanes]

    @property
    def events(self) -> list[Event]:
        """What is traced, from the first to the last."""
        events = [
            Event(trace.lines[row], int(thread), float(start), float(seconds))
            for trace in self.traces
            for row, thread, start, seconds in zip(trace.rows, trace.threads, trace.starts, trace.seconds, strict=True)
        ]
        return sorted(events, key=lambda event: event.start)

    def seconds_a_call(self, lane: int) -> np.ndarray:
        """Mean seconds of each instruction of a lane, without what it took to read the clock; zeros where none was timed."""
        return self._timed_mean(lane) - self.reading(lane)

    def reading(self, lane: int) -> float:
        """Seconds of one reading of the clock, by which a timed instruction is prolonged.

        `reading_seconds` says too much where steps differ for other reasons too, as beside busy neighbours. But the shortest instruction's time has
        a reading in it.
        """
        return min(self.reading_seconds[lane], float(self._timed_mean(lane).min(initial=np.inf)))

    def _timed_mean(self, lane: int) -> np.ndarray:
        return self.timed_seconds[lane] / max(self.timed[lane], 1)


@dataclass(frozen=True)
class Span:
    """One run of an executor: an epoch, a gradient, a prediction.

    Attributes
    ----------
    phase : str
    start, seconds : float
    threads, steps : int
    """

    phase: str
    start: float
    seconds: float
    threads: int
    steps: int


class Recorder:
    """Collects the records of all executors that are made for it.

    Parameters
    ----------
    every : int, optional
        The instructions of every so manieth step are timed; default: as many as cost little.

    Attributes
    ----------
    tables : list of Table
    spans : list of Span
    decisions : list of str
        What the lowering of the last training or gradient program chose, with reasons.
    """

    def __init__(self, every: int | None = None) -> None:
        self.every = every
        self.tables: list[Table] = []
        self.spans: list[Span] = []
        self.decisions: list[str] = []

    def table(self, phase: str, rows: int, lanes: list[list[Line]]) -> Table:
        """Open the records of a table."""
        table = Table(phase, rows, lanes)
        self.tables.append(table)
        return table


def active() -> Recorder | None:
    """The recorder of executors that are made now."""
    return _active.get()


@contextmanager
def recording_to(recorder: Recorder) -> Iterator[Recorder]:
    """Have executors that are made in the block write to `recorder`."""
    token = _active.set(recorder)
    try:
        yield recorder
    finally:
        _active.reset(token)


_THREADS_OWN = re.compile(r"^(cursor|counts|x|d?[a-z0-9]+_\d+)_\d+$")  # tensors of which each thread has one


def line_of(instruction: Instruction, shapes: Sequence[tuple[int, ...]]) -> Line:
    """The line of an instruction whose operands have these shapes."""
    if instruction is BARRIER:
        return Line("barrier", "waiting")
    op, views = CONTRACT[instruction.op], (*instruction.outs, *instruction.ins)
    dims = op.bind_dims(list(shapes))
    types = [view.tensor.dtype for view, operand in zip(views, op.operands, strict=True) if len(operand.dtypes) > 1]
    name = instruction.outs[0].tensor.name
    owned = _THREADS_OWN.match(name)
    return Line(
        op.name,
        instruction.label if " " in instruction.label else owned[1] if owned else name,
        " ".join(types),
        " ".join(f"{dim}={size}" for dim, size in dims.items() if dim not in _SIZES_OF_DATA),
        float(op.flops(dims)),
        float(op.nbytes(dims)),
    )


# Dimensions of the data set and of the epoch: they say nothing about a call.
_SIZES_OF_DATA = ("N", "M", "S", "P", "Z")
