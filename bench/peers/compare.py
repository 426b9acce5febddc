"""Times an epoch of fastmnist against its peers: processes side by side, one at work at a time, alternating; medians of ratios.

    python bench/peers/compare.py [--peers torch scikit-learn jax] [--jobs ...] [--rounds 7] [--python .venv-peers/bin/python]

Before a ratio is printed, training losses of the third epoch must agree within 3 % and test accuracies within 0.3 points (means of 10 seeds).
Records are appended to `bench/results/peers.csv`, every round a line; rows `check` are what was compared.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from jobs import JOBS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "bench" / "results" / "peers.csv"
EPOCHS = {"fastmnist": 5, "jax": 3, "torch": 2, "scikit-learn": 2}  # an estimate needs more epochs where one is short
CHECK_EPOCHS, CHECK_SEEDS = 3, 10


class Worker:
    """A provider's process."""

    def __init__(self, python: str, provider: str, job: str, threads: int) -> None:
        self.provider = provider
        arguments = [os.path.abspath(python), str(HERE / "worker.py"), provider, job, str(threads)]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
        environment |= {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONWARNINGS": "ignore",
            "FASTMNIST_NUM_THREADS": str(threads),
        }
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE
        )
        self.version = self._answer()["version"]

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.provider} ended with code {self.process.wait()}; see its message above.")
        return json.loads(line)

    def train(self, epochs: int, seed: int = 0) -> dict:
        """Train that many epochs from scratch."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{epochs} {seed}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.communicate("")


def mean_over_seeds(worker: Worker) -> dict:
    """Loss and accuracy of some trainings: one seed's loss is off by 4 % as easily as not."""
    results = [worker.train(CHECK_EPOCHS, seed) for seed in range(CHECK_SEEDS)]
    return {key: statistics.mean(r[key] for r in results) for key in results[0]}


def agree(ours: dict, theirs: dict) -> str:
    """Why two trainings are not the same job; empty when they are."""
    if not (abs(ours["loss"] - theirs["loss"]) <= 0.03 * max(ours["loss"], theirs["loss"])):
        return f"training losses {ours['loss']:.4f} and {theirs['loss']:.4f} differ by more than 3 %"
    if not (abs(ours["accuracy"] - theirs["accuracy"]) <= 0.003):
        return f"accuracies {ours['accuracy']:.4f} and {theirs['accuracy']:.4f} differ by more than 0.3 points"
    return ""


def machine() -> str:
    """This machine in a few words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """Short hash of what is timed, `+` when the tree has changes."""
    run = lambda *a: subprocess.run(["git", *a], cwd=ROOT, capture_output=True, text=True).stdout.strip()  # noqa: E731
    return run("rev-parse", "--short", "HEAD") + ("+" if run("status", "--porcelain", "kernels", "fastmnist") else "")


def compare(job: str, peer: str, python: str, rounds: int, threads: int) -> None:
    """Alternate fastmnist and one peer, print the median ratio, append the record."""
    workers = [Worker(python, "fastmnist", job, threads), Worker(python, peer, job, threads)]
    checks = [mean_over_seeds(worker) for worker in workers]
    problem = agree(*checks)
    records: list = [("check", CHECK_EPOCHS, worker, result) for worker, result in zip(workers, checks, strict=True)]
    ratios = []
    for number in range(rounds):
        a, b = (worker.train(EPOCHS[worker.provider]) for worker in workers)
        ratios.append(b["epoch_seconds"] / a["epoch_seconds"])
        records += [(number, EPOCHS[w.provider], w, r) for w, r in zip(workers, (a, b), strict=True)]
    for worker in workers:
        worker.close()
    if problem:
        print(f"{job} against {peer}: no number, {problem}")
        return
    low, middle, high = statistics.quantiles(ratios, n=4)
    medians = [
        statistics.median(r["epoch_seconds"] for n, _, w, r in records if w is worker and n != "check")
        for worker in workers
    ]
    print(
        f"{job} against {peer} {workers[1].version}: {middle:.1f} x faster (quartiles {low:.1f} .. {high:.1f}, {rounds} rounds); "
        f"epoch {medians[0]:.3f} s and {medians[1]:.3f} s",
        flush=True,
    )
    append(job, peer, threads, records)


def append(job: str, peer: str, threads: int, records: list) -> None:
    """One line a round and provider."""
    RESULTS.parent.mkdir(exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            what = ["date", "job", "against", "provider", "version", "threads", "round", "epochs"]
            writer.writerow([*what, "epoch_seconds", "fit_seconds", "loss", "accuracy", "python", "machine", "commit"])
        today = datetime.date.today().isoformat()
        for number, epochs, worker, r in records:
            numbers = [f"{r[k]:.5f}" for k in ("epoch_seconds", "fit_seconds", "loss", "accuracy")]
            row = [today, job, peer, worker.provider, worker.version, threads, number, epochs, *numbers]
            writer.writerow([*row, platform.python_version(), machine(), commit()])


def main() -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", nargs="+", default=["torch", "scikit-learn"], choices=[p for p in EPOCHS if p != "fastmnist"]
    )
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter that has the peers and fastmnist's dependencies"
    )
    arguments = parser.parse_args()
    for job in arguments.jobs:
        for peer in arguments.peers:
            compare(job, peer, arguments.python, arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()
