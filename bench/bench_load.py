"""An epoch on cores that are shared with others: alone, and beside one and two processes that are always busy.

    python bench/bench_load.py [--rounds 5] [--epochs 6]

Trains 784-128-64-10 (Adam, batch 32) on MNIST, the neighbours changing from round to round; prints medians beside what the lost share of the
cores explains, and appends them to `bench/results/load.csv`.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fastmnist import load_mnist
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.network.initializers import initial_parameters
from fastmnist.network.layers import Dense
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec

RESULTS = Path(__file__).resolve().parent / "results" / "load.csv"
BATCH = 32


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many busy processes."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.3)  # until they are
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def slowdown_explained(neighbours: int, threads: int, cores: int) -> float:
    """Where the cores are shared evenly among all that want to run, each of our threads has this many times less of one."""
    return max(1.0, (threads + neighbours) / cores)


def measure(rounds: int, epochs: int) -> dict[tuple[int, int], list[float]]:
    """Seconds of each epoch by (threads, neighbours)."""
    X, y = load_mnist("train", return_X_y=True)
    spec = Spec(784, (Dense(128, "relu"), Dense(64, "relu"), Dense(10)), optimizer=Adam())
    rng = np.random.default_rng(0)
    order, rates = rng.permutation(len(X)), np.full(-(-len(X) // BATCH), 1e-3)
    executors = {}
    for threads in (1, 2):
        executors[threads] = CpuExecutor(spec, n_threads=threads)
        executors[threads].bind(X, y.astype(np.int32), pixel_scale=1 / 255)
        executors[threads].set_parameters(initial_parameters(spec, np.random.RandomState(0), np.float32))
        executors[threads].run_epoch(order, rates, BATCH)
    seconds: dict[tuple[int, int], list[float]] = {}
    for _ in range(rounds):
        for count in (0, 1, 2):
            with neighbours(count):
                for threads, executor in executors.items():
                    times = [executor.run_epoch(order, rates, BATCH).seconds for _ in range(epochs)]
                    seconds.setdefault((threads, count), []).extend(times)
    return seconds


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6, help="per round and setting")
    arguments = parser.parse_args()
    seconds = measure(arguments.rounds, arguments.epochs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    RESULTS.parent.mkdir(exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            columns = ["median_seconds", "first_quartile", "third_quartile", "slowdown", "slowdown_explained_by_share"]
            writer.writerow(["date", "threads", "neighbours", "cores", "epochs", *columns])
        for (threads, count), values in sorted(seconds.items()):
            low, middle, high = statistics.quantiles(values, n=4)
            slowdown = middle / statistics.median(seconds[threads, 0])
            explained = slowdown_explained(count, threads, cores)
            print(
                f"{threads} thread(s), {count} neighbour(s): {middle:.3f} s ({low:.3f} .. {high:.3f}), "
                f"{slowdown:.2f} x; the lost share explains {explained:.2f} x"
            )
            numbers = [f"{v:.4f}" for v in (middle, low, high)] + [f"{slowdown:.2f}", f"{explained:.2f}"]
            today = datetime.date.today().isoformat()
            writer.writerow([today, threads, count, cores, len(values), *numbers])


if __name__ == "__main__":
    main()
