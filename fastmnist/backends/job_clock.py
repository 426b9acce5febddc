"""Times of jobs, which no program contains, for a recorder: how long each thread spent on which part of a forest's work.

A job takes milliseconds, so Python's clock is read around each one. Where nobody profiles a clock does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from fastmnist.backends.recording import Line, Recorder, Span, Trace

TRACED = 2_000  # jobs of a thread, the first ones
WAITING = Line("barrier", "waiting for the last thread")


@dataclass
class _Lap:
    part: int
    start: float
    seconds: float


@dataclass
class JobClock:
    """What the threads of one run did.

    Parameters
    ----------
    recorder : Recorder or None
        Who wants to know; None: nobody.
    phase : str
        As of `Table`.
    parts : sequence of Line
        What a thread may be doing.
    rows, n_threads : int
    """

    recorder: Recorder | None
    phase: str
    parts: Sequence[Line]
    rows: int
    n_threads: int
    start: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._laps: list[list[_Lap]] = [[] for _ in range(self.n_threads)]

    @contextmanager
    def timing(self, thread: int, part: int) -> Iterator[None]:
        """The block is a job of that kind, on that thread."""
        if self.recorder is None:
            yield
            return
        start = time.perf_counter()
        yield
        self._laps[thread].append(_Lap(part, start, time.perf_counter() - start))

    def stop(self) -> None:
        """All threads are done: write the records."""
        if self.recorder is None:
            return
        end = time.perf_counter()
        steps = sum(lap.part == len(self.parts) - 1 for laps in self._laps for lap in laps)
        self.recorder.spans.append(Span(self.phase, self.start, end - self.start, self.n_threads, steps))
        for part, line in enumerate(self.parts):
            table = self.recorder.table(self.phase, self.rows, [[line]] * self.n_threads)
            for lane, laps in enumerate(self._laps):
                own = [lap.seconds for lap in laps if lap.part == part]
                table.calls[lane] = table.timed[lane] = len(own)
                table.timed_seconds[lane][0] = sum(own)
            traced = [(lane, lap) for lane, laps in enumerate(self._laps) for lap in laps[:TRACED] if lap.part == part]
            table.traces.append(
                Trace(
                    [line],
                    np.zeros(len(traced), np.int64),
                    np.array([lane for lane, _ in traced], np.int64),
                    np.array([lap.start for _, lap in traced]),
                    np.array([lap.seconds for _, lap in traced]),
                )
            )
        waiting = self.recorder.table(self.phase, self.rows, [[WAITING]] * self.n_threads)
        for lane, laps in enumerate(self._laps):  # before its first job, and after its last one for the others
            waiting.calls[lane] = waiting.timed[lane] = 1
            idle = (
                (laps[0].start - self.start) + (end - laps[-1].start - laps[-1].seconds) if laps else end - self.start
            )
            waiting.timed_seconds[lane][0] = idle
