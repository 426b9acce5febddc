"""Times of kernels: a line for each kernel of each layer, with its rates, its part of the roof, and why it is no faster."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from fastmnist.backends.recording import Line, Recorder, Table
from fastmnist.profiling.machine import Roofs
from fastmnist.profiling.profiles import BackendProfile, KernelTime
from fastmnist.threads import default_threads


def lines_of(table: Table) -> list[tuple[Line, float, int]]:
    """(line, seconds, calls) of every instruction of every lane."""
    waited = Line("barrier", "while one thread works for all")
    return [
        *(
            (line, float(seconds), table.calls[lane])
            for lane, lines in enumerate(table.lanes)
            for line, seconds in zip(lines, table.seconds_a_call(lane) * table.calls[lane], strict=True)
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


def kernel_times(recorder: Recorder, run: BackendProfile, known: Roofs | None) -> list[KernelTime]:
    """The lines of a backend, phase by phase, the longest first."""
    sums: dict[tuple[str, str, str, str], _Sum] = defaultdict(_Sum)
    for table in recorder.tables:
        for line, seconds, calls in lines_of(table):
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
    if op.startswith(("sparse", "quad", "skipping", "block")):
        return next((d.partition(". ")[2] for d in run.decisions if d.startswith("rows of X")), "")
    return "The oracle: readable, not fast." if run.backend == "numpy" else ""
