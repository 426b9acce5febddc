"""Is fastmnist slower than it was? Jobs of the comparison with peers, this tree beside an older one: `make bench-check`.

    python bench/check.py [--base REVISION] [--jobs NAME ...] [--rounds N]

The older tree is checked out beside this one, in a temporary folder; each side has a process of its own, and they take turns, so that a machine that
is slow today is slow for both. Ends with 1 if a job is SLOWER by the rank test of README's table of peers: not a part of the tests, since it needs
a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench" / "peers"))

from compare import Worker, WorkerError, commit  # noqa: E402
from jobs import JOBS, OURS, Job  # noqa: E402
from verdict import Comparison, compare  # noqa: E402

WATCHED = (
    "mlp-128-64-adam-32",
    "mlp-128-64-adam-256",
    "ovr-gradient-step",
    "predict-1",
    "predict-10000",
    "forest",
    "cnn-example",
)
ROUNDS = 7


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """The tree of a revision, in a folder that is removed in the end.

    Raises
    ------
    ValueError
        There is no such revision.
    """
    with tempfile.TemporaryDirectory(prefix="fastmnist-base-") as folder:
        packed = subprocess.run(["git", "archive", "--format=tar", revision], cwd=ROOT, capture_output=True)
        if packed.returncode:
            raise ValueError(f"--base must be a commit of this repository; git says: {packed.stderr.decode().strip()}")
        subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
        yield Path(folder)


def default_base() -> str:
    """What the sources are compared with: the last commit if they have changed since then, else the one before the last that changed them."""
    return "HEAD" if commit().endswith("+") else f"{commit()}~1"


def paired(job: Job, base: Path, rounds: int) -> Comparison:
    """Seconds of the tree in `base` over those of this one.

    Raises
    ------
    WorkerError
        A side can't run the job.
    """
    with contextlib.ExitStack() as stack:
        sides = []
        for tree in (base, ROOT):
            sides.append(Worker(sys.executable, job, OURS, job.parameters, {}, root=tree))
            stack.callback(sides[-1].close)
        times: list[list[float]] = [[], []]
        for number in range(rounds):
            for side in (0, 1) if number % 2 else (1, 0):
                times[side].append(sides[side].ask("sample", seed=number)["seconds"])
    return compare(ours=times[1], theirs=times[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 1 if something is slower, or has no number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [name for name, job in JOBS.items() if job.loss_rule != "at most"]  # those need a peer's objective
    parser.add_argument("--base", help="a commit, branch or tag; default: before the last change of the sources")
    parser.add_argument("--jobs", nargs="+", default=list(WATCHED), choices=choices, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}; below 6 nothing is significant")
    arguments = parser.parse_args(argv)
    base, bad = arguments.base or default_base(), 0
    try:
        with checked_out(base) as folder:
            for name in arguments.jobs:
                try:
                    c = paired(JOBS[name], folder, arguments.rounds)
                except WorkerError as error:
                    print(f"{name}: no number, {error}", flush=True)
                    bad += 1
                    continue
                bad += c.verdict == "SLOWER"
                print(
                    f"{name}: {c.verdict}, {c.ratio:.2f} x as fast as {base} ({c.low:.2f} .. {c.high:.2f}, {c.rounds} rounds); {c.ours:.3g} s",
                    flush=True,
                )
    except ValueError as error:
        parser.error(str(error))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
