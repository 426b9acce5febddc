"""The benchmarks of kernels as users of pytest-benchmark have them: a file of JSON with groups and rates."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_records_have_a_group_and_rates(tmp_path):
    path = tmp_path / "benchmarks.json"
    command = [sys.executable, "-m", "pytest", "-q", "bench/bench_kernels.py", "-p", "no:xdist", "--benchmark-only"]
    chosen = [
        "-k",
        "bench_op and numpy and tanh and not backward",
        "--benchmark-max-time=0.01",
        f"--benchmark-json={path}",
    ]
    # A worker of pytest-xdist says so to its children, and pytest-benchmark then times nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run([*command, *chosen], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(path.read_text())["benchmarks"]
    assert found and all(benchmark["group"].startswith("tanh, B=") for benchmark in found)
    assert len({benchmark["group"] for benchmark in found}) == len(found), "each shape is a group"
    for benchmark in found:
        rates = {"provider": "numpy"}.items() & benchmark["extra_info"].items()
        assert rates and benchmark["extra_info"]["GFLOP/s"] > 0 and benchmark["extra_info"]["GB/s"] > 0
