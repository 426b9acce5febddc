"""How the cost of training grows with the data: an epoch of 1,000 to 1,000,000 images, seconds a row and memory beyond the data.

    python bench/bench_scaling.py [--rows 1000 10000 100000 1000000] [--rounds 3]

The images are MNIST's, repeated and each moved by up to two pixels; each size runs in a process of its own, the sizes take turns. Prints
medians and appends every run to `bench/results/scaling.csv`. Compiled code should be in the cache: `fastmnist warmup`.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import statistics
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "scaling.csv"
COLUMNS = (
    "date",
    "rows",
    "threads",
    "epoch_seconds",
    "epoch_us_a_row",
    "fit_seconds",
    "data_mb",
    "beyond_data_mb",
    "compressed_share",
    "python",
)


def images(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's training images in order, again and again, every round moved by other distances; and their classes."""
    from fastmnist import load_mnist

    X, y = load_mnist("train", return_X_y=True)
    rng = np.random.default_rng(0)
    result = np.empty((rows, 28, 28), np.uint8)
    for first in range(0, rows, len(X)):
        part = X[: rows - first].reshape(-1, 28, 28)
        result[first : first + len(part)] = np.roll(part, rng.integers(-2, 3, 2), axis=(1, 2))
    return result.reshape(rows, 784), np.resize(y, rows)


def anonymous_memory() -> int:
    """Bytes of this process that are no pages of files; Linux."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def measure(rows: int) -> dict[str, float]:
    """Two epochs; the second one is timed, the first one touches memory for the first time."""
    from fastmnist import MLPClassifier
    from fastmnist.backends.compressed import row_pointers

    warnings.simplefilter("ignore")
    X, y = images(rows)

    def model(epochs: int) -> MLPClassifier:
        return MLPClassifier((128, 64), batch_size=32, max_iter=epochs, random_state=0, backend="numba")

    model(1).fit(X[:1000], y[:1000])  # everything is imported and loaded
    baseline = peak = anonymous_memory()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    fitted = model(2).fit(X, y)
    done.set()
    watcher.join()
    executor = fitted._current_executor()
    return {
        "threads": executor.n_threads,
        "epoch": fitted.history_["seconds"][1],
        "fit": fitted.fit_seconds_,
        "data": X.nbytes,
        "beyond": peak - baseline,
        "compressed": (3 * int(row_pointers(X)[-1]) + 8 * (rows + 1)) / X.nbytes,
    }


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)  # what the processes are called with
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    seconds: dict[int, list[float]] = {rows: [] for rows in arguments.rows}
    memory: dict[int, list[float]] = {rows: [] for rows in arguments.rows}
    for _ in range(arguments.rounds):
        for rows in arguments.rows:
            result = _run(rows)
            seconds[rows].append(result["epoch"] / rows)
            memory[rows].append(result["beyond"] / result["data"])
            _append(rows, result)
    least = min(statistics.median(values) for values in seconds.values())
    for rows, values in seconds.items():
        middle = statistics.median(values)
        beyond = statistics.median(memory[rows])
        print(
            f"{rows:>9,} rows: {middle * 1e6:6.3f} us a row an epoch, {middle / least:5.2f} x the least; memory beyond the data "
            f"{beyond:.2f} x the data"
        )


def _run(rows: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", str(rows)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _append(rows: int, result: dict[str, float]) -> None:
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(
            [
                datetime.date.today().isoformat(),
                rows,
                result["threads"],
                f"{result['epoch']:.6f}",
                f"{result['epoch'] / rows * 1e6:.4f}",
                f"{result['fit']:.4f}",
                f"{result['data'] / 1e6:.2f}",
                f"{result['beyond'] / 1e6:.2f}",
                f"{result['compressed']:.4f}",
                sys.version.split()[0],
            ]
        )


if __name__ == "__main__":
    main()
