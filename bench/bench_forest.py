"""A random forest of 100 trees on MNIST against scikit-learn's with 2 jobs: alternating fits and predictions in one process.

`python bench/bench_forest.py [--rounds 3] [--seeds 5]` prints the medians of ratios and appends every run to `bench/results/forest.csv`. Accuracies
are compared first: without as good a forest there is no number.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import sklearn
from sklearn.ensemble import RandomForestClassifier as ScikitForest

import fastmnist
from fastmnist import RandomForestClassifier, load_mnist
from fastmnist.system_info import system_info

RESULTS = Path(__file__).parent / "results" / "forest.csv"
COLUMNS = (
    "date",
    "provider",
    "version",
    "threads",
    "seed",
    "fit_seconds",
    "predict_seconds",
    "accuracy",
    "python",
    "machine",
)
TREES, JOBS = 100, 2
TOLERANCE = 0.002  # of mean accuracy
PREDICTIONS = 5  # of which the median counts


def run(provider: str, seed: int, data: tuple[np.ndarray, ...]) -> dict[str, object]:
    """Fit and predict once."""
    X, y, X_test, y_test = data
    ours = provider == "fastmnist"
    model = (RandomForestClassifier if ours else ScikitForest)(TREES, n_jobs=JOBS, random_state=seed)
    start = time.perf_counter()
    model.fit(X, y)
    fit_seconds = time.perf_counter() - start
    seconds = []
    for _ in range(PREDICTIONS):
        start = time.perf_counter()
        predicted = model.predict(X_test)
        seconds.append(time.perf_counter() - start)
    cpu = system_info()["cpu"]
    return {
        "date": datetime.date.today().isoformat(),
        "provider": provider,
        "version": fastmnist.__version__ if ours else sklearn.__version__,
        "threads": JOBS,
        "seed": seed,
        "fit_seconds": round(fit_seconds, 4),
        "predict_seconds": round(statistics.median(seconds), 5),
        "accuracy": float((predicted == y_test).mean()),
        "python": platform.python_version(),
        "machine": f"{cpu['name']}, {JOBS} cores",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="alternating runs, each with its own seed")
    parser.add_argument("--seeds", type=int, default=5, help="further seeds of ours, for the accuracy alone")
    options = parser.parse_args()
    data = (*load_mnist("train", return_X_y=True), *load_mnist("test", return_X_y=True))
    RandomForestClassifier(2).fit(*data[:2]).predict(data[2])  # compiled, or loaded
    rows = []
    for seed in range(max(options.rounds, options.seeds)):
        for provider in ("fastmnist", "scikit-learn") if seed < options.rounds else ("fastmnist",):
            rows.append(run(provider, seed, data))
            print(
                provider, seed, rows[-1]["fit_seconds"], rows[-1]["predict_seconds"], rows[-1]["accuracy"], flush=True
            )
    write(rows)
    ours, theirs = ([row for row in rows if row["provider"] == p] for p in ("fastmnist", "scikit-learn"))
    accuracies = [[row["accuracy"] for row in side] for side in (ours, theirs)]
    for name, values in zip(("fastmnist", "scikit-learn"), accuracies, strict=True):
        print(
            f"{name}: accuracy {np.mean(values):.4f} +- {np.std(values, ddof=1) if len(values) > 1 else 0:.4f} ({len(values)} seeds)"
        )
    if not np.mean(accuracies[0]) >= np.mean(accuracies[1]) - TOLERANCE:
        raise SystemExit("Less accurate than scikit-learn: no ratios.")
    for what in ("fit_seconds", "predict_seconds"):
        ratios = [b[what] / a[what] for a, b in zip(ours, theirs, strict=False)]
        print(f"{what}: {statistics.median(ratios):.1f} x faster ({min(ratios):.1f} .. {max(ratios):.1f})")


def write(rows: list[dict[str, object]]) -> None:
    """Append to the record."""
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
