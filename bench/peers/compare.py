"""Times fastmnist against its peers: processes side by side, one at work at a time, alternating.

    python bench/peers/compare.py [--jobs NAME ...] [--peers NAME ...] [--rounds N] [--budget MINUTES] [--resume] [--tune] [--list]

For each job and peer two fresh processes are started, one for each side; each imports, prepares and warms up outside of the clock, then they
are sampled in turn, and whoever is not being sampled is stopped (SIGSTOP), so that none of its threads spins. A peer with settings to choose
from (threads, data layout, ...) is first tried with each; the fastest is kept. Trials are records too: the next run on the same machine with
the same versions reuses them, unless told to `--tune`.

Every sample is appended to `bench/results/peers.csv` as soon as its pair is done; `readme_tables.py` makes README's tables from it. A run that was
interrupted goes on with `--resume`, which leaves out pairs that have records of the same commit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import records
from jobs import JOBS, OURS, Job
from records import FAILED, NUMBERS, TRIAL, Record
from runner import Runner
from verdict import Outcome, judge

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INHERITED = ("PATH", "HOME", "TMPDIR", "LANG", "FASTMNIST_CACHE_DIR")

LEAST_ROUNDS = 6  # for a verdict
INTERRUPTED = 130  # 128 + SIGINT
# What a pair takes beyond its samples: starting, importing, preparing and warming up both sides; a setting that is tried does it once more.
OVERHEAD_SECONDS = 12.0
UNKNOWN_SECONDS = 5.0  # of a round that has no record yet
MOST_SECONDS = 600  # for one answer, import and warm-up among them; then a process is taken for dead


class WorkerError(Exception):
    """Its message says why a provider has no number."""


class Worker:
    """A runner in a process of its own, stopped while nothing is asked of it; `root` is the tree whose fastmnist it imports, by default this one."""

    def __init__(
        self,
        python: str,
        job: Job,
        provider: str,
        parameters: dict[str, Any],
        settings: dict[str, Any],
        path: Sequence[str] = (),
        root: Path | None = None,
    ) -> None:
        command = [os.path.abspath(python), str(HERE / "worker.py"), job.runners[provider]]
        command += [json.dumps(parameters), json.dumps(settings)]
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join([str(root or ROOT), *path]), "PYTHONWARNINGS": "ignore"}
        environment |= runner_class(job, provider).environment(settings)
        # A process group of its own, so that its children end with it.
        # A pipe that nobody reads would fill up. It lives as long as the process.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            cwd=HERE,
            process_group=0,
        )
        hello = self._read()
        if "unavailable" in hello:
            self.close()
            raise WorkerError(f"not available: {hello['unavailable']}")
        self.version: str = hello["version"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        timer = threading.Timer(MOST_SECONDS, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            raise WorkerError(f"failed: {self._last_words()}")
        self.process.send_signal(signal.SIGSTOP)
        try:
            return json.loads(line)
        except ValueError:  # something of the library's writes to the pipe: this peer's problem, not the others'
            raise WorkerError(f"failed: it answered {line.strip()[:100]!r}") from None

    def _last_words(self) -> str:
        code = self.process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1][:300] if lines else f"its process ended with code {code} (-9: no answer in {MOST_SECONDS} s)"

    def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method of the runner."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it is dead: reading says why
            self.process.stdin.write(json.dumps({"ask": method, **arguments}) + "\n")
            self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self._errors.close()


def runner_class(job: Job, provider: str) -> type[Runner]:
    """The class, without the library that it is about."""
    module, _, name = job.runners[provider].partition(":")
    return getattr(importlib.import_module(module), name)


class Pair:
    """One job, one peer, one run: starts both sides and collects their records; by default the run begins now."""

    def __init__(self, job: Job, peer: str, python: str, path: Sequence[str] = (), run: str = "") -> None:
        self.job, self.peer, self.python, self.path = job, peer, python, path
        self.parameters = job.parameters_for(peer)
        self.run = run or now()
        self.records: list[Record] = []
        self._versions = {OURS: "", peer: ""}

    def _start(self, provider: str, settings: dict[str, Any]) -> Worker:
        worker = Worker(self.python, self.job, provider, self.parameters, settings, self.path)
        self._versions[provider] = worker.version
        return worker

    def _add(self, provider: str, settings: dict[str, Any], number: str, values: dict[str, Any]) -> None:
        numbers = {name: values.get(name) for name in NUMBERS}
        context = {"python": platform.python_version(), "machine": machine(), "commit": commit()}
        common = {"run": self.run, "job": self.job.name, "peer": self.peer, "provider": provider, **context}
        text = {"settings": as_text(settings), "round": number, "note": values.get("note", "")}
        self.records.append(Record(**common, **text, **numbers, versions=self._versions[provider]))

    def _fail(self, provider: str, reason: str) -> None:
        self._add(provider, {}, FAILED, {"note": reason if provider == self.peer else f"{provider} {reason}"})

    def _trials(self) -> dict[str, Any]:
        """Try every combination of settings; the fastest."""
        choices = runner_class(self.job, self.peer).settings(self.parameters)
        if len(choices) == 1:
            return choices[0]
        seconds = []
        for choice in choices:
            with contextlib.closing(self._start(self.peer, choice)) as worker:
                seconds.append(worker.ask("trial"))
            self._add(self.peer, choice, TRIAL, {"seconds": seconds[-1]})
        return choices[seconds.index(min(seconds))]

    def _start_peer(self, known: Sequence[Record]) -> tuple[Worker, dict[str, Any]]:
        """The peer with its fastest settings: of the trials among the known records if they cover all settings of this version, else of new ones."""
        choices = runner_class(self.job, self.peer).settings(self.parameters)
        tried: dict[str, Record] = {}
        for record in known:
            if (record.job, record.provider, record.round, record.machine) == (
                self.job.name,
                self.peer,
                TRIAL,
                machine(),
            ):
                tried[record.settings] = record
        if len(choices) > 1 and all(as_text(choice) in tried for choice in choices):
            best = min(choices, key=lambda choice: tried[as_text(choice)].seconds or 0.0)
            worker = self._start(self.peer, best)
            if worker.version == tried[as_text(best)].versions:
                return worker, best
            worker.close()
        best = self._trials()
        return self._start(self.peer, best), best

    def sample(self, rounds: int, known: Sequence[Record] = (), seconds: float = float("inf")) -> list[Record]:
        """Alternate; a provider that cannot run, or fails, leaves a record that says so.

        Parameters
        ----------
        rounds : int
            At most; fewer, but not fewer than a verdict takes, when the seconds are over.
        known : sequence of Record
            Whose trials may be used.
        seconds : float
            From now on.
        """
        side, end = self.peer, time.perf_counter() + seconds
        try:
            with contextlib.ExitStack() as stack:
                theirs, settings = self._start_peer(known)
                stack.callback(theirs.close)
                side = OURS
                ours = self._start(OURS, {})
                stack.callback(ours.close)
                for number in range(rounds):
                    if number >= LEAST_ROUNDS and time.perf_counter() > end:
                        break
                    side = self.peer
                    values = theirs.ask("sample", seed=number)
                    self._add(self.peer, settings, str(number), values)
                    side = OURS
                    if number == 0:
                        ours.ask("prepare", theirs=values)
                    self._add(OURS, {}, str(number), ours.ask("sample", seed=number))
        except WorkerError as error:
            self._fail(side, str(error))
        return self.records


def now() -> str:
    """What a run is called: when it was begun, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def as_text(settings: dict[str, Any]) -> str:
    """As in the records: "threads=2 images=rows"."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


@functools.cache
def machine() -> str:
    """This machine in a few words."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    family = f" (family {about['cpu family']} model {about['model']})" if "cpu family" in about else ""
    return f"{about.get('model name', platform.machine())}{family}, {len(os.sched_getaffinity(0))} cores"


@functools.cache
def commit() -> str:
    """Short hash of the last commit that changed what is timed, `+` when the tree has changes."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    return git("log", "-1", "--format=%h", "--", "kernels", "fastmnist") + (
        "+" if git("status", "--porcelain", "kernels", "fastmnist") else ""
    )


def describe(job: Job, peer: str, outcome: Outcome) -> str:
    """A line or two for the terminal."""
    if outcome.problem:
        return f"{job.name} against {peer}: no number, {outcome.problem}"
    lines = []
    for column, c in outcome.comparisons.items():
        lines.append(
            f"{job.name} against {peer}, {job.label(column, peer)}: {c.verdict}, {c.ratio:.2f} x ({c.low:.2f} .. {c.high:.2f}, {c.rounds} rounds); "
            f"{c.ours:.3g} {job.unit} and {c.theirs:.3g} {job.unit} [{outcome.peer.settings}]"
        )
    return "\n".join(lines)


@dataclasses.dataclass
class Plan:
    """The pairs of a run, and how long they should take.

    Parameters
    ----------
    pairs : list of (Job, str)
        Jobs and peers.
    seconds : dict
        Estimates by (job, peer).
    budget : float
        Seconds for all of them.
    """

    pairs: list[tuple[Job, str]]
    seconds: dict[tuple[str, str], float]
    budget: float = float("inf")

    def __post_init__(self) -> None:
        self._start, self._done = time.perf_counter(), 0.0

    def begun(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._start

    def left(self, first: int) -> float:
        """Seconds that the pairs from `first` on should take, at the pace of those that are done."""
        pace = self.begun() / self._done if self._done else 1.0
        return pace * sum(self.seconds[job.name, peer] for job, peer in self.pairs[first:])

    def share(self, index: int) -> float:
        """Seconds of the budget for a pair."""
        rest = sum(self.seconds[job.name, peer] for job, peer in self.pairs[index:])
        job, peer = self.pairs[index]
        return (self.budget - self.begun()) * self.seconds[job.name, peer] / rest

    @property
    def over(self) -> bool:
        """Whether there is no time to begin another pair."""
        return self.begun() >= self.budget

    def finish(self, index: int) -> None:
        """A pair is done."""
        job, peer = self.pairs[index]
        self._done += self.seconds[job.name, peer]


def estimate(job: Job, peer: str, rounds: int, known: Sequence[Record]) -> float:
    """Seconds that a pair should take, by its last samples on this machine."""
    records_of_pair = [r for r in known if (r.job, r.peer, r.machine) == (job.name, peer, machine())]
    newest = records_of_pair[-1].run if records_of_pair else ""
    samples = [r for r in records_of_pair if r.run == newest and r.round.isdecimal() and r.seconds is not None]
    # Without records of the pair those of the job's other peers are a guess.
    samples = samples or [r for r in known if (r.job, r.machine) == (job.name, machine()) and r.round.isdecimal()]
    a_round = UNKNOWN_SECONDS
    if samples:
        # A sample of a column in bytes takes as long as it takes to look; a few calls are repeated for a fifth of a second.
        took = [
            max((r.seconds or 0.0) + (r.fit_seconds or 0.0), 0.2) if job.unit == "s" else UNKNOWN_SECONDS
            for r in samples
        ]
        a_round = 2 * sum(took) / len(took)
    tried = {r.settings for r in records_of_pair if r.round == TRIAL}
    new_settings = [s for s in runner_class(job, peer).settings(job.parameters_for(peer)) if as_text(s) not in tried]
    trials = len(new_settings) * (OVERHEAD_SECONDS / 2 + a_round) if len(new_settings) > 1 else 0.0
    return OVERHEAD_SECONDS + rounds * a_round + trials


def is_done(job: Job, peer: str, known: Sequence[Record]) -> bool:
    """Whether the pair's last run was with the sources as they are."""
    own = [r for r in known if (r.job, r.peer, r.machine) == (job.name, peer, machine()) and r.round != TRIAL]
    if not own or own[-1].commit != commit() or commit().endswith("+"):
        return False
    return own[-1].round != FAILED or own[-1].note.startswith("not available")


def compare_all(plan: Plan, arguments: argparse.Namespace) -> tuple[bool, int]:
    """Run the pairs; whether one failed, and how many there was no time for."""
    failed, run = False, now()
    for index, (job, peer) in enumerate(plan.pairs):
        if plan.over:
            return failed, len(plan.pairs) - index
        known = [] if arguments.tune else records.load(arguments.results)
        rounds = arguments.rounds or job.rounds
        found = Pair(job, peer, arguments.python, run=run).sample(rounds, known, plan.share(index))
        records.append(found, arguments.results)
        outcome = judge(job, [record for record in found if record.round != TRIAL])
        failed |= bool(outcome.problem) and not outcome.problem.startswith("not available")
        plan.finish(index)
        print(describe(job, peer, outcome))
        to_go = f", some {minutes(plan.left(index + 1))} to go" if index + 1 < len(plan.pairs) else ""
        print(f"  [{index + 1} of {len(plan.pairs)}: {minutes(plan.begun())}{to_go}]", flush=True)
    return failed, 0


def minutes(seconds: float) -> str:
    """For people."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and compare; 1 if a provider failed (one that is not installed has not failed)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every_peer = sorted({peer for job in JOBS.values() for peer in job.peers})
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS), metavar="NAME")
    parser.add_argument("--peers", nargs="+", default=every_peer, choices=every_peer, metavar="NAME")
    parser.add_argument("--rounds", type=int, help="instead of each job's own number; below 6 no verdict is possible")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="MINUTES",
        help="fewer rounds, six at least, to keep to it; begin no pair after it",
    )
    parser.add_argument("--resume", action="store_true", help="leave out pairs that have records of this commit")
    parser.add_argument("--tune", action="store_true", help="try all settings again")
    parser.add_argument("--list", action="store_true", help="the jobs and their peers")
    parser.add_argument("--results", type=Path, default=records.RESULTS)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    arguments = parser.parse_args(argv)
    if (arguments.rounds is not None and arguments.rounds < 1) or (
        arguments.budget is not None and not arguments.budget > 0
    ):
        parser.error("--rounds and --budget must be above 0.")
    if arguments.list:
        print("\n".join(f"{job.name:24} {job.title}\n{'':24} {', '.join(job.peers)}" for job in JOBS.values()))
        return 0
    known = records.load(arguments.results)
    pairs = [(JOBS[name], peer) for name in arguments.jobs for peer in JOBS[name].peers if peer in arguments.peers]
    chosen = [pair for pair in pairs if not (arguments.resume and is_done(*pair, known))]
    trials = [] if arguments.tune else known
    seconds = {(job.name, peer): estimate(job, peer, arguments.rounds or job.rounds, trials) for job, peer in chosen}
    plan = Plan(chosen, seconds, 60 * arguments.budget if arguments.budget else float("inf"))
    skipped = f", {len(pairs) - len(chosen)} have records of commit {commit()}" if arguments.resume else ""
    print(f"{len(chosen)} pairs{skipped}; an estimated {minutes(sum(seconds.values()))}", flush=True)
    try:
        failed, missing = compare_all(plan, arguments)
    except KeyboardInterrupt:
        print("Interrupted; what was finished is recorded. Go on: make peers ARGS=--resume", file=sys.stderr)
        return INTERRUPTED
    if missing:
        print(f"The time is over, {missing} pairs are left. Go on: make peers ARGS=--resume", file=sys.stderr)
    return int(failed or missing > 0)


if __name__ == "__main__":
    sys.exit(main())
