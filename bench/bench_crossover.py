"""Up to which share of nonzeros compressed rows beat dense ones: an epoch of mini-batches, and a full-batch gradient, both ways.

    python bench/bench_crossover.py [--rounds 5] [--rows 4000]

Random rows of 784 values, a given share of them not zero. Both ways take turns; prints medians and where they cross, and appends them to
`bench/results/crossover.csv`. `STATED_SHARE` in `fastmnist/backends/crossovers.py` is set from it; `fastmnist info --measure` is the short form.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from fastmnist.backends.compressed import compress
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.network.layers import Dense
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec

RESULTS = Path(__file__).resolve().parent / "results" / "crossover.csv"
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
JOBS = {
    "epoch, 128-64, batch 32": (128, 64),
    "epoch, 128-64, batch 256": (128, 64),
    "epoch, 500-250-100, batch 64": (500, 250, 100),
    "gradient, softmax": (),
}


def rows(n: int, share: float, dtype: str) -> np.ndarray:
    """Random values of which `share` are not zero."""
    rng = np.random.default_rng(0)
    X = rng.integers(1, 256, (n, 784), dtype=np.uint8) * (rng.random((n, 784)) < share)
    return X.astype(dtype) / np.float32(255) if dtype == "float32" else X.astype(np.uint8)


def work(job: str, X: np.ndarray, *, compressed: bool) -> Callable[[], object]:
    """What is timed, with the data bound one way or the other."""
    spec = Spec(784, (*(Dense(units, "relu") for units in JOBS[job]), Dense(10)), optimizer=Adam())
    executor = CpuExecutor(spec)
    labels = np.arange(len(X), dtype=np.int32) % 10
    scale = 1 / 255 if X.dtype == np.uint8 else 1.0
    # No memory for compressed rows leaves the dense ones.
    executor.bind(compress(X) if compressed else X, labels, pixel_scale=scale, max_memory=0)
    rng = np.random.default_rng(1)
    parameters = [(rng.normal(size=s) * 0.05).astype(np.float32) for s in spec.parameter_shapes]
    if job.startswith("gradient"):
        return lambda: executor.loss_and_gradient(parameters)
    batch = int(job.rpartition(" ")[2])
    executor.set_parameters(parameters)
    order = rng.permutation(len(X))
    rates = np.full(-(-len(X) // batch), 1e-3)
    return lambda: executor.run_epoch(order, rates, batch)


def times(ways: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each way, taking turns."""
    seconds: list[list[float]] = [[] for _ in ways]
    for round_ in range(rounds + 1):
        for way, values in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            way()
            if round_:  # the first one compiles
                values.append(time.perf_counter() - start)
    return [statistics.median(values) for values in seconds]


def crossing(ratios: list[float]) -> float:
    """Share at which dense / compressed falls to 1, between the measured ones; the last share where it never does."""
    for (low, high), (before, after) in zip(pairwise(SHARES), pairwise(ratios), strict=True):
        if before >= 1 > after:
            return low + (high - low) * (before - 1) / (before - after)
    return SHARES[-1] if ratios[-1] >= 1 else SHARES[0]


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4_000)
    arguments = parser.parse_args()
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(
                ["date", "job", "dtype", "share", "rows", "rounds", "dense_seconds", "compressed_seconds", "python"]
            )
        for job in JOBS:
            for dtype in ("uint8", "float32"):
                ratios = []
                for share in SHARES:
                    X = rows(arguments.rows, share, dtype)
                    ways = [work(job, X, compressed=compressed) for compressed in (False, True)]
                    dense, compressed = times(ways, arguments.rounds)
                    ratios.append(dense / compressed)
                    numbers = [f"{dense:.6f}", f"{compressed:.6f}"]
                    writer.writerow(
                        [
                            datetime.date.today().isoformat(),
                            job,
                            dtype,
                            share,
                            len(X),
                            arguments.rounds,
                            *numbers,
                            sys.version.split()[0],
                        ]
                    )
                line = ", ".join(f"{share:.0%} {ratio:.2f}" for share, ratio in zip(SHARES, ratios, strict=True))
                print(f"{job}, {dtype}: crossover at {crossing(ratios):.0%}; dense / compressed: {line}", flush=True)


if __name__ == "__main__":
    main()
