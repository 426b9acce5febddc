"""Times fastmnist against its peers: processes side by side, one at work at a time, alternating.

    python bench/peers/compare.py [--jobs NAME ...] [--peers NAME ...] [--rounds N] [--tune] [--list]

For each job and peer two fresh processes are started, one for each side; each imports, prepares and warms up outside of the clock, then they
are sampled in turn, and whoever is not being sampled is stopped (SIGSTOP), so that none of its threads spins. A peer with settings to choose
from (threads, data layout, ...) is first tried with each; the fastest is kept. Trials are records too: the next run on the same machine with
the same versions reuses them, unless told to `--tune`.

Every sample is appended to `bench/results/peers.csv`; `readme_tables.py` makes README's tables from it.
"""

from __future__ import annotations

import argparse
import contextlib
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

MOST_SECONDS = 600  # for one answer, import and warm-up among them; then a process is taken for dead


class WorkerError(Exception):
    """Its message says why a provider has no number."""


class Worker:
    """A runner in a process of its own, stopped while nothing is asked of it."""

    def __init__(
        self,
        python: str,
        job: Job,
        provider: str,
        parameters: dict[str, Any],
        settings: dict[str, Any],
        path: Sequence[str] = (),
    ) -> None:
        command = [os.path.abspath(python), str(HERE / "worker.py"), job.runners[provider]]
        command += [json.dumps(parameters), json.dumps(settings)]
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *path]), "PYTHONWARNINGS": "ignore"}
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
        return json.loads(line)

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
    """One job, one peer, one run: starts both sides and collects their records."""

    def __init__(self, job: Job, peer: str, python: str, path: Sequence[str] = ()) -> None:
        self.job, self.peer, self.python, self.path = job, peer, python, path
        self.parameters = job.parameters_for(peer)
        self.run = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
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

    def sample(self, rounds: int, known: Sequence[Record] = ()) -> list[Record]:
        """Alternate; a provider that cannot run, or fails, leaves a record that says so."""
        side = self.peer
        try:
            with contextlib.ExitStack() as stack:
                theirs, settings = self._start_peer(known)
                stack.callback(theirs.close)
                side = OURS
                ours = self._start(OURS, {})
                stack.callback(ours.close)
                for number in range(rounds):
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


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and compare; 1 if a provider failed (one that is not installed has not failed)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every_peer = sorted({peer for job in JOBS.values() for peer in job.peers})
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS), metavar="NAME")
    parser.add_argument("--peers", nargs="+", default=every_peer, choices=every_peer, metavar="NAME")
    parser.add_argument("--rounds", type=int, help="instead of each job's own number; below 6 no verdict is possible")
    parser.add_argument("--tune", action="store_true", help="try all settings again")
    parser.add_argument("--list", action="store_true", help="the jobs and their peers")
    parser.add_argument("--results", type=Path, default=records.RESULTS)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(f"{job.name:24} {job.title}\n{'':24} {', '.join(job.peers)}" for job in JOBS.values()))
        return 0
    failed = False
    for name in arguments.jobs:
        job = JOBS[name]
        begin = time.perf_counter()
        for peer in (p for p in job.peers if p in arguments.peers):
            known = [] if arguments.tune else records.load(arguments.results)
            found = Pair(job, peer, arguments.python).sample(arguments.rounds or job.rounds, known)
            records.append(found, arguments.results)
            outcome = judge(job, [record for record in found if record.round != TRIAL])
            failed |= bool(outcome.problem) and not outcome.problem.startswith("not available")
            print(describe(job, peer, outcome), flush=True)
        print(f"  ({name}: {time.perf_counter() - begin:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
