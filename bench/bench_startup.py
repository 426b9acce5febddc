"""What a user waits for first: import, and the first fit of each kind of model with an empty and with a warm compile cache, in fresh processes.

    python bench/bench_startup.py [--rounds 5] [--models mlp lenet5 ...]
    pytest bench/bench_startup.py --benchmark-only

Of a model: the seconds that only a process' first `fit` and `predict` take, that is those of the same once more in that process subtracted, on
2,000 images. The command prints medians and appends them to `bench/results/startup.csv`; pytest-benchmark times whole processes, and has those
seconds in `extra_info`. A model that has not learned gets no number.
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
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "startup.csv"
MODELS = {
    "mlp": "MLPClassifier((128, 64), batch_size=32, max_iter=1, random_state=0, backend='numba')",
    "mlp, dense": "MLPClassifier((128, 64), batch_size=32, max_iter=1, random_state=0, backend='numba')",
    "lenet5": "CNNClassifier('lenet5', max_iter=1, random_state=0, backend='numba')",
    "simple": "CNNClassifier('simple', max_iter=1, random_state=0, backend='numba')",
    "fast": "CNNClassifier('fast', max_iter=1, random_state=0, backend='numba')",
    "accurate": "CNNClassifier('accurate', max_iter=1, random_state=0, backend='numba')",
    "softmax": "LogisticRegression(max_iter=3, backend='numba')",
    "ovr": "OneVsRestLogisticRegression(max_iter=3, backend='numba')",
    "forest": "RandomForestClassifier(2, random_state=0, backend='numba')",
}
FIT = """
import time, warnings
import numpy as np
warnings.simplefilter("ignore")
from fastmnist import *
X, y = load_mnist("train", return_X_y=True)
X, y = X[:2000], y[:2000]
if {dense}:
    X = np.maximum(X / np.float32(255), np.float32(0.01))
seconds = []
for _ in range(2):
    start = time.perf_counter()
    model = {model}.fit(X, y)
    model.predict(X[:1])
    seconds.append(time.perf_counter() - start)
assert model.score(X, y) > 0.2, "it has not learned"
print(seconds[0] - seconds[1])
"""


def _process(code: str, cache: str) -> tuple[float, str]:
    """Seconds that a process takes, and what it prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FASTMNIST_CACHE_DIR": cache}
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, run.stdout


@pytest.mark.parametrize("library", ["numpy", "fastmnist"])
def bench_import(benchmark: Any, library: str, tmp_path: Path) -> None:
    """A process that imports it; what fastmnist adds to NumPy is the difference."""
    benchmark.group = "import"  # pytest-benchmark looks at it when it starts
    benchmark.pedantic(_process, args=(f"import {library}", str(tmp_path)), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("state", ["empty", "warm"])
@pytest.mark.parametrize("model", MODELS)
def bench_first_fit(benchmark: Any, model: str, state: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A process that fits twice, its compile cache as it is after installing, or after an earlier process."""
    code = FIT.format(model=MODELS[model], dense=model.endswith("dense"))
    folder = tmp_path_factory.mktemp("cache")
    if state == "warm":
        _process(code, str(folder))

    def before() -> tuple[tuple[str, str], dict[str, Any]]:
        return (code, str(folder if state == "warm" else tmp_path_factory.mktemp("cache"))), {}

    benchmark.group = f"first fit, {model}"
    _, printed = benchmark.pedantic(_process, setup=before, rounds=3)
    benchmark.extra_info["seconds that only the first fit takes"] = float(printed)


def measure(rounds: int, models: list[str]) -> dict[str, list[float]]:
    """Seconds by what was timed, one value a round."""
    seconds: dict[str, list[float]] = {"import over numpy": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            bare, ours = _process("import numpy", cache)[0], _process("import numpy, fastmnist", cache)[0]
        seconds["import over numpy"].append(ours - bare)
        for model in models:
            code = FIT.format(model=MODELS[model], dense=model.endswith("dense"))
            with tempfile.TemporaryDirectory() as cache:
                for state in ("empty", "warm"):
                    name = f"{model}: first fit, {state} cache"
                    seconds.setdefault(name, []).append(float(_process(code, cache)[1]))
    return seconds


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    arguments = parser.parse_args()
    seconds = measure(arguments.rounds, arguments.models)
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
