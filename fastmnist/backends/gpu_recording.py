"""What the GPU's executor writes down while somebody profiles: some steps of each walk run as plain launches, with events around each.

The other steps are replayed from graphs as ever. An event is a mark in the stream with the device's own clock, so the time between two is the
kernel's and what the device needs to start it; the host is not in it. Small kernels take longer this way than in a graph, where the next one is
ready before the last has ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastmnist.backends.recording import TRACED_STEPS, Line, Recorder, Span, Table, Trace, line_of
from fastmnist.kernels.contract import JOBS
from fastmnist.kernels.gpu import Array, Facts, Launch, plan
from fastmnist.kernels.gpu.fusion import Call
from fastmnist.network.program import BARRIER

if TYPE_CHECKING:
    from fastmnist.backends.gpu_device import Device
    from fastmnist.backends.gpu_runner import Runner

TIMED_STEPS = 4  # of each batch size in each walk

Group = tuple[int, int, Sequence[Launch]]  # from the first instruction to behind the last, and their launches


def grouped(facts: Facts, calls: Sequence[Call]) -> list[Group]:
    """Which launches belong to which instructions; those that are fused are one group."""
    whole = plan(facts, calls)
    groups, first, done = [], 0, 0
    for end in range(1, len(calls) + 1):
        part = plan(facts, calls[:end])
        if part == whole[: len(part)] and (end == len(calls) or plan(facts, calls[end:]) == whole[len(part) :]):
            groups.append((first, end, whole[done : len(part)]))
            first, done = end, len(part)
    return groups


def run_job(
    recorder: Recorder, device: Device, job: str, operands: Sequence[Array], launches: Sequence[Launch], place: str
) -> None:
    """Run a job that comes before steps of training, and write down how long it took.

    Parameters
    ----------
    recorder : Recorder
    device : Device
    job : str
        Of `JOBS`.
    operands : sequence of Array
        Its own, in the contract's order.
    launches : sequence of Launch
    place : str
        What it makes.
    """
    op = JOBS[job]
    dims = op.bind_dims([operand.shape for operand in operands])
    sizes = " ".join(f"{dim}={size}" for dim, size in dims.items())
    line = Line(job, place, operands[0].dtype, sizes, float(op.flops(dims)), float(op.nbytes(dims)))
    table = recorder.table("training", operands[0].shape[0], [[line]])
    start = time.perf_counter()
    ((_, seconds),) = device.timed([(f"{job} {place}", launches)])
    table.calls[0] = table.timed[0] = 1
    table.timed_seconds[0] += seconds
    table.traces.append(Trace([line], np.zeros(1, int), np.zeros(1, int), np.array([start]), np.array([seconds])))
    recorder.spans.append(Span("training", start, time.perf_counter() - start, 1, 0))


class Watch:
    """Times the launches of one runner.

    Parameters
    ----------
    recorder : Recorder
    device : Device
    phase : str
        "training", "gradient" or "inference".
    """

    def __init__(self, recorder: Recorder, device: Device, phase: str) -> None:
        self._recorder, self._device, self._phase = recorder, device, phase
        self._tables: dict[int, Table] = {}
        self._groups: dict[int, list[Group]] = {}

    def forget(self) -> None:
        """The runner's memory lies elsewhere now: launches are made anew."""
        self._groups = {}

    def time(self, runner: Runner, rows: int, steps: int) -> int:
        """Run the first ones of so many steps, and say how many these were."""
        if rows not in self._groups:
            self._groups[rows] = grouped(runner.facts, runner.calls(rows))
        groups = self._groups[rows]
        if rows not in self._tables:
            self._tables[rows] = self._recorder.table(self._phase, rows, [self._lines(runner, rows, groups)])
        table, timed = self._tables[rows], min(steps, TIMED_STEPS)
        named = [(f"{line.op} {line.place}", group[2]) for line, group in zip(table.lanes[0], groups, strict=True)]
        for _ in range(timed):
            start = time.perf_counter()
            starts, seconds = np.array(self._device.timed(named), np.float64).reshape(-1, 2).T
            table.timed_seconds[0] += seconds
            table.timed[0] += 1
            if len(table.traces) < TRACED_STEPS:
                n = len(groups)
                table.traces.append(Trace(table.lanes[0], np.arange(n), np.zeros(n, int), start + starts, seconds))
        table.calls[0] += steps
        return timed

    def ended(self, runner: Runner, start: float, steps: int) -> None:
        """A walk has ended."""
        if self._phase != "inference":
            self._recorder.decisions = runner.program.decisions
        self._recorder.spans.append(Span(self._phase, start, time.perf_counter() - start, 1, steps))

    def _lines(self, runner: Runner, rows: int, groups: Sequence[Group]) -> list[Line]:
        instructions = [i for i in runner.instructions(rows) if i is not BARRIER]
        shapes = [[array.shape for array in arrays] for _, arrays, _ in runner.calls(rows)]
        single = [line_of(i, shape) for i, shape in zip(instructions, shapes, strict=True)]
        return [_joined(single[first:end]) for first, end, _ in groups]


def _joined(lines: Sequence[Line]) -> Line:
    """Fused instructions as one line."""
    if len(lines) == 1:
        return lines[0]
    return Line(
        " + ".join(dict.fromkeys(line.op for line in lines)),
        lines[0].place,
        lines[0].variant,
        lines[0].sizes,
        sum(line.flops for line in lines),
        sum(line.nbytes for line in lines),
    )
