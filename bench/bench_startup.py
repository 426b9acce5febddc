"""What a user waits for first: import, the first fit on an empty compile cache, and on a warm one. Each in fresh processes.

    python bench/bench_startup.py [--rounds 5]

Prints medians and appends them to `bench/results/startup.csv`.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "startup.csv"
FIT = """
import time, warnings
start = time.perf_counter()
warnings.simplefilter("ignore")
from fastmnist import MLPClassifier, load_mnist
X, y = load_mnist("train", return_X_y=True)
loaded = time.perf_counter()
model = MLPClassifier((128, 64), batch_size=32, max_iter=2, random_state=0).fit(X, y)
model.predict(X[:1])
ended = time.perf_counter()
# The second epoch is pure training; the first may contain compiling.
print(ended - start, ended - loaded - 2 * model.history_["seconds"][1], model.compile_seconds_)
"""


def _process(code: str, cache: str) -> tuple[float, list[float]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FASTMNIST_CACHE_DIR": cache}
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, [float(word) for word in run.stdout.split()]


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds by what was timed, one value a round."""
    names = ["import over numpy", "first fit, empty cache: beyond training", "first fit, warm cache: beyond training"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            bare, ours = _process("import numpy", cache)[0], _process("import numpy, fastmnist", cache)[0]
            seconds[names[0]].append(ours - bare)
            for name in names[1:]:
                seconds[name].append(_process(FIT, cache)[1][1])
    return seconds


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    seconds = measure(parser.parse_args().rounds)
    RESULTS.parent.mkdir(exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["date", "what", "rounds", "median_seconds", "min_seconds", "max_seconds", "python"])
        for name, values in seconds.items():
            middle = statistics.median(values)
            print(f"{name}: {middle:.3f} s ({min(values):.3f} .. {max(values):.3f}, {len(values)} rounds)")
            numbers = [f"{v:.4f}" for v in (middle, min(values), max(values))]
            writer.writerow([datetime.date.today().isoformat(), name, len(values), *numbers, sys.version.split()[0]])


if __name__ == "__main__":
    main()
