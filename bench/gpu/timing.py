"""Timing on a GPU: events around replays of a graph, after a warm-up; medians with quartiles."""

from __future__ import annotations

import csv
import importlib.util
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median, quantiles

import cupy

from fastmnist.backends.gpu_device import CupyDevice
from fastmnist.kernels.gpu import Launch

ROUNDS = 15
TARGET_SECONDS = 2e-3  # of a round: long against the events' resolution of half a microsecond


def time_calls(device: CupyDevice, call: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Seconds that the stream takes for one call, one value a round."""
    start, stop = cupy.cuda.Event(), cupy.cuda.Event()

    def measure(repeats: int) -> float:
        start.record(device.stream)
        for _ in range(repeats):
            call()
        stop.record(device.stream)
        stop.synchronize()
        return cupy.cuda.get_elapsed_time(start, stop) * 1e-3 / repeats

    measure(3)
    repeats = max(1, int(TARGET_SECONDS / max(measure(3), 1e-7)))
    return [measure(repeats) for _ in range(rounds)]


def time_launches(device: CupyDevice, launches: Sequence[Launch], copies: int = 20) -> list[float]:
    """Seconds of a list of launches, from a graph that holds several copies of it: the host's part is left out."""
    graph = device.record(list(launches) * copies)
    return [seconds / copies for seconds in time_calls(device, graph.replay)]


def spread(seconds: Sequence[float]) -> tuple[float, float]:
    """Median, and the distance of the quartiles."""
    low, _, high = quantiles(seconds, n=4)
    return median(seconds), high - low


def torch_runs() -> bool:
    """Whether torch is here and can use the GPU; one built for processors alone cannot."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def facts(device: CupyDevice) -> dict[str, object]:
    """What stands in every record."""
    return {
        "gpu": device.name,
        "cupy": cupy.__version__,
        "driver_cuda": cupy.cuda.runtime.driverGetVersion(),
        "runtime_cuda": cupy.cuda.runtime.runtimeGetVersion(),
        "python": platform.python_version(),
        "rounds": ROUNDS,
    }


def write(path: Path, rows: Iterable[dict[str, object]]) -> None:
    """A CSV file; columns in order of first appearance."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def show(rows: Iterable[dict[str, object]], columns: Sequence[str]) -> None:
    """A short table for people."""
    for row in rows:
        print(
            "  ".join(
                f"{row.get(c, ''):>12.4g}" if isinstance(row.get(c), float) else f"{row.get(c, '')!s:>12}"
                for c in columns
            )
        )
