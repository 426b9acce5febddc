"""A random forest of 100 trees on MNIST against scikit-learn's with 2 jobs: alternating fits and predictions in one process.

`python bench/bench_forest.py [--rounds 3] [--seeds 5]` prints the medians of ratios and appends every run to `bench/results/forest.csv`. Accuracies
are compared first: without as good a forest there is no number. `--small N` compares accuracies alone, on scikit-learn's small data sets (or those of
`--data`): N times five folds, the same ones for both, into `bench/results/forest_accuracy.csv`.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sklearn
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier as ScikitForest
from sklearn.model_selection import StratifiedKFold, cross_val_score

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
SMALL_RESULTS = RESULTS.with_name("forest_accuracy.csv")
SMALL_COLUMNS = ("date", "data", "provider", "version", "seed", "accuracy", "python")
TREES, JOBS = 100, 2
TOLERANCE = 0.002  # of mean accuracy
SMALL = {"digits": load_digits, "breast_cancer": load_breast_cancer, "iris": load_iris}
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


def compare_small(repetitions: int, data: Sequence[str]) -> None:
    """Accuracies of scikit-learn's parameters on small data sets."""
    rows: list[dict[str, object]] = []
    for name in data:
        X, y = SMALL[name](return_X_y=True)
        means: dict[str, list[float]] = {"fastmnist": [], "scikit-learn": []}
        for seed in range(repetitions):
            folds = StratifiedKFold(5, shuffle=True, random_state=seed)
            for provider, values in means.items():
                ours = provider == "fastmnist"
                model = (
                    RandomForestClassifier(TREES, random_state=seed, backend="numba")
                    if ours
                    else ScikitForest(TREES, random_state=seed)
                )
                values.append(float(cross_val_score(model, X, y, cv=folds).mean()))
                about = (datetime.date.today().isoformat(), name, provider)
                version = fastmnist.__version__ if ours else sklearn.__version__
                about += (version, seed, round(values[-1], 6), platform.python_version())
                rows.append(dict(zip(SMALL_COLUMNS, about, strict=True)))
        difference = np.subtract(means["fastmnist"], means["scikit-learn"])
        error = difference.std(ddof=1) / np.sqrt(repetitions) if repetitions > 1 else float("nan")
        print(
            f"{name}: {np.mean(means['fastmnist']):.4f}, scikit-learn {np.mean(means['scikit-learn']):.4f}, "
            f"difference {difference.mean():+.4f} +- {error:.4f} ({repetitions} x 5 folds)",
            flush=True,
        )
    write(rows, SMALL_RESULTS, SMALL_COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="alternating runs, each with its own seed")
    parser.add_argument("--seeds", type=int, default=5, help="further seeds of ours, for the accuracy alone")
    parser.add_argument("--small", type=int, metavar="N", help="accuracies on small data sets, and nothing else")
    parser.add_argument(
        "--data", nargs="+", choices=list(SMALL), default=list(SMALL), help="with --small; default: all"
    )
    options = parser.parse_args()
    if options.small:
        compare_small(options.small, options.data)
        return
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


def write(rows: list[dict[str, object]], path: Path = RESULTS, columns: tuple[str, ...] = COLUMNS) -> None:
    """Append to a record."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
