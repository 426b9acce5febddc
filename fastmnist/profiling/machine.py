"""The roofs of this machine: how many multiply-adds and how many bytes a second there can be at most.

Measured once, kept in the cache folder, and compared with what kernels reach. On a machine that is shared with others a measurement may be too
low: measuring again keeps the better of both.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fastmnist.backends import crossovers as known_crossovers
from fastmnist.files import write_atomically
from fastmnist.threads import default_threads

ROUND_SECONDS = 2e-3  # of one call that is timed: longer than a thread needs to start, shorter than a time slice
TURNS = 12
# Bytes of the triad's three arrays together, of one thread; sizes from the first level's cache to memory.
TRIAD_BYTES = tuple(1 << k for k in range(13, 27))
NAMES_OF_LEVELS = {1: "L1", 2: "L2", 3: "L3"}


@dataclass(frozen=True)
class Roofs:
    """What this machine can do at most.

    Attributes
    ----------
    machine : str
        Processor and vector unit.
    threads : int
        As many as were measured at most.
    gflops : dict
        GFLOP/s of float32 multiply-adds in registers, by threads and then by float32 lanes of a vector.
    bandwidth : dict
        GB/s of a triad, by threads and then by the level that its arrays fit into: "L1", "L2", "L3", "memory".
    triad : dict
        The same by threads and by bytes of the arrays of a thread.
    gpu : dict
        Of the GPU, where there is one: "name", "gflops", "memory" (GB/s that it is filled with), "upload", "download".
    crossovers : dict
        Shares by name, see `fastmnist.backends.crossovers`; empty where they were not measured.
    measured : str
        When.
    """

    machine: str
    threads: int
    gflops: dict[int, dict[int, float]]
    bandwidth: dict[int, dict[str, float]]
    triad: dict[int, dict[int, float]]
    gpu: dict[str, Any] = field(default_factory=dict)
    crossovers: dict[str, float] = field(default_factory=dict)
    measured: str = ""
    version: int = known_crossovers.VERSION

    def peak(self, threads: int) -> float:
        """GFLOP/s of the widest vectors on so many threads."""
        return max(self.gflops[self.nearest(threads)].values())

    def bandwidth_of(self, level: str, threads: int) -> float:
        """GB/s of a level of the memory on so many threads."""
        return self.bandwidth[self.nearest(threads)][level]

    def nearest(self, threads: int) -> int:
        """The measured number of threads that is nearest from below."""
        return max((n for n in self.gflops if n <= threads), default=min(self.gflops))

    def roof(self, intensity: float, threads: int, level: str = "L1") -> float:
        """GFLOP/s that a kernel can reach at most (Williams, Waterman & Patterson 2009): the lower one of peak and bandwidth.

        Parameters
        ----------
        intensity : float
            FLOPs a byte.
        threads : int
        level : str, default="L1"
            Of the memory where its data lie: a key of `bandwidth`.

        Returns
        -------
        float
        """
        return min(self.peak(threads), intensity * self.bandwidth_of(level, threads))

    def summary(self) -> list[str]:
        """Lines for people."""
        lines = []
        for threads, by_lanes in self.gflops.items():
            peaks = ", ".join(f"{value:,.0f} with {lanes} lanes" for lanes, value in by_lanes.items())
            levels = ", ".join(f"{level} {value:,.0f}" for level, value in self.bandwidth[threads].items())
            lines.append(f"{threads} thread(s): GFLOP/s {peaks}; GB/s {levels}")
        if self.gpu:
            lines.append(f"GPU: {', '.join(f'{name} {value}' for name, value in self.gpu.items())}")
        return lines


def roofs(*, measure: bool = False) -> Roofs:
    """This machine's roofs, measured when they are not known yet, which takes some three seconds.

    Parameters
    ----------
    measure : bool, default=False
        Measure again, and keep the better of both.

    Returns
    -------
    Roofs

    Raises
    ------
    ImportError, OSError
        The compiled kernels cannot be loaded.
    """
    known = _known()
    if known is not None and not measure and default_threads() in known.gflops:
        return known
    found = _measure()
    if known is not None:
        found = _better(known, found)
    _keep(found)
    return found


def measure_machine() -> Roofs:
    """Roofs and crossovers, measured now and kept: from now on fits go by these crossovers."""
    from fastmnist.profiling.crossovers import measure_crossovers

    found = replace(roofs(measure=True), crossovers=measure_crossovers())
    _keep(found)
    return found


def known_roofs() -> Roofs | None:
    """This machine's roofs if they have been measured on as many threads as there are to use, else None."""
    known = _known()
    return known if known is not None and default_threads() in known.gflops else None


def _known() -> Roofs | None:
    """What has been measured, on whatever number of threads."""
    try:
        values = known_crossovers.read_machine_file()
        if values is None:
            return None
        for name in ("gflops", "triad"):
            values[name] = {int(n): {int(k): float(v) for k, v in row.items()} for n, row in values[name].items()}
        values["bandwidth"] = {int(n): dict(row) for n, row in values["bandwidth"].items()}
        return Roofs(**values)
    except (OSError, ImportError, ValueError, TypeError, KeyError, AttributeError):
        return None  # missing, or damaged: measured again


def _keep(found: Roofs) -> None:
    """Write the file, whole or not at all; where nothing can be written the next one measures again."""
    path = known_crossovers.machine_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(found), indent=1).encode())
    known_crossovers.crossovers.cache_clear()


def _better(one: Roofs, other: Roofs) -> Roofs:
    """The best seen of everything; crossovers are the first's."""

    def best(name: str) -> dict[Any, dict[Any, float]]:
        a, b = getattr(one, name), getattr(other, name)
        new = {n: {k: max(a.get(n, {}).get(k, 0.0), value) for k, value in row.items()} for n, row in b.items()}
        return dict(sorted({**a, **new}.items()))

    return replace(
        other,
        threads=max(one.threads, other.threads),
        gflops=best("gflops"),
        bandwidth=best("bandwidth"),
        triad=best("triad"),
        gpu=other.gpu or one.gpu,
        crossovers=one.crossovers,
    )


def _measure() -> Roofs:
    from fastmnist.kernels.cpu.isa import MACHINE

    most = default_threads()
    counts = sorted({1, most})
    gflops = {n: _multiply_adds(n) for n in counts}
    triad = {n: _triad(n) for n in counts}
    bandwidth = {n: _levels(triad[n], n) for n in counts}
    name = f"{MACHINE.cpu_name}, {MACHINE.simd}"
    return Roofs(name, most, gflops, bandwidth, triad, _gpu(), measured=time.strftime("%Y-%m-%d"))


def best_seconds(call: Callable[[int], None], n_threads: int) -> float:
    """Seconds of the fastest of some rounds in which each thread calls `call(thread)`."""
    from fastmnist.backends.team import Team

    team = Team(n_threads)
    best = float("inf")
    spans: list[tuple[float, float]] = [(0.0, 0.0)] * n_threads

    def work(thread: int) -> int:
        start = time.perf_counter()
        call(thread)
        spans[thread] = start, time.perf_counter()
        return 0

    for _ in range(TURNS):
        team.run(work)
        best = min(best, max(end - start for start, end in spans))
    return best


def _calibrated(call: Callable[[int, int], None]) -> int:
    """Rounds that take `call(thread, rounds)` some `ROUND_SECONDS`."""
    rounds = 1
    while True:
        start = time.perf_counter()
        call(0, rounds)
        seconds = time.perf_counter() - start
        if seconds > ROUND_SECONDS / 4:
            return max(int(rounds * ROUND_SECONDS / seconds), 1)
        rounds *= 2


def _multiply_adds(n_threads: int) -> dict[int, float]:
    from fastmnist.kernels.cpu.roofs import CHAINS, multiply_adds, widths

    result = {}
    for lanes in widths():
        function = multiply_adds(lanes)
        # Small factors: sums neither overflow nor become denormal.
        memory = [np.full(3 * lanes + 16, 1e-3, np.float32) for _ in range(n_threads)]

        def call(thread: int, rounds: int, function: Any = function, memory: list[np.ndarray] = memory) -> None:
            function(memory[thread].ctypes.data, rounds)

        rounds = _calibrated(call)
        seconds = best_seconds(lambda thread, call=call, rounds=rounds: call(thread, rounds), n_threads)  # type: ignore[misc]
        result[lanes] = n_threads * rounds * CHAINS * lanes * 2.0 / seconds / 1e9
    return result


def _triad(n_threads: int) -> dict[int, float]:
    from fastmnist.kernels.cpu import roofs as kernels

    function, result = kernels.triad(), {}
    for nbytes in TRIAD_BYTES:
        items = nbytes // kernels.TRIAD_BYTES // kernels.TRIAD_ITEMS * kernels.TRIAD_ITEMS
        # One block a thread, its arrays a cache line apart: equal distances to a page would hinder each other.
        blocks = [np.ones(3 * items + 64, np.float32) for _ in range(n_threads)]

        def call(thread: int, rounds: int, items: int = items, blocks: list[np.ndarray] = blocks) -> None:
            start = blocks[thread].ctypes.data
            step = 4 * items + 64
            function(start + 2 * step, start + step, start, items, rounds)

        rounds = _calibrated(call)
        seconds = best_seconds(lambda thread, call=call, rounds=rounds: call(thread, rounds), n_threads)  # type: ignore[misc]
        result[nbytes] = n_threads * rounds * items * kernels.TRIAD_BYTES / seconds / 1e9
    return result


def _levels(triad: dict[int, float], n_threads: int) -> dict[str, float]:
    """The best of the sizes that fill no more than three quarters of a cache and do not fit into the one below; the largest for memory."""
    from fastmnist.kernels.cpu.caches import CACHES

    result, below = {}, 0
    for level, size in sorted(CACHES.items()):
        share = size // n_threads if level >= 3 else size  # the last level is shared
        inside = [value for nbytes, value in triad.items() if below < nbytes <= 0.75 * share]
        if inside:
            result[NAMES_OF_LEVELS.get(level, f"L{level}")] = max(inside)
            below = share
    result["memory"] = triad[max(triad)]
    return result


def _gpu() -> dict[str, Any]:
    """Roofs of the GPU; empty where there is none."""
    from fastmnist.backends.gpu_probe import probe

    if not probe().usable:
        return {}
    from fastmnist.backends.gpu import open_device

    return gpu_roofs(open_device())


def gpu_roofs(device: Any, nbytes: int = 1 << 28) -> dict[str, Any]:
    """Copy bandwidth of a device, and the GFLOP/s that its own matrix product reaches, which is below what the hardware's data sheet names.

    Parameters
    ----------
    device : fastmnist.backends.gpu_device.Device
    nbytes : int
        Of the arrays that are copied.
    """
    from fastmnist.kernels.gpu import Array, launches

    host, memory = np.ones(nbytes // 4, np.float32), device.allocate(nbytes)

    def best(call: Callable[[], None], turns: int = 5) -> float:
        times = []
        for _ in range(turns):
            device.synchronize()
            start = time.perf_counter()
            call()
            device.synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    upload = nbytes / best(lambda: device.upload(memory.address, host)) / 1e9
    download = nbytes / best(lambda: device.download(host, memory.address)) / 1e9
    clear = nbytes / best(lambda: device.clear(memory.address, nbytes)) / 1e9
    side = max(int((nbytes / 16) ** 0.5) // 64 * 64, 64)
    arrays = [device.allocate(4 * side * side) for _ in range(4)]
    y, x, w, b = (Array(a.address, (side, side), side, "float32") for a in arrays)
    product = launches("linear", device.facts, [y, x, w, Array(b.address, (side,), 1, "float32")], [])
    device.run(product)
    gflops = 2.0 * side**3 / best(lambda: device.run(product)) / 1e9
    return {
        "name": device.name,
        "gflops": round(gflops, 1),
        "memory": round(clear, 1),
        "upload": round(upload, 1),
        "download": round(download, 1),
    }
