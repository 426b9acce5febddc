"""Threads that run compiled code side by side, and stop together."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

import numpy as np

from fastmnist.kernels.cpu.layout import ABORT, CONTROL_WORDS, REMEMBERED, STOP

# Seconds that an exiting interpreter waits for its teams to leave compiled code, which takes them some ms.
EXIT_PATIENCE = 5.0


class _Worker:
    """A thread that waits for jobs without using the CPU, from one run to the next."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        # A daemon: nobody tells parked threads that the interpreter ends. Those at work are stopped by `_Pool.close`.
        threading.Thread(target=self._serve, name="fastmnist-worker", daemon=True).start()

    def begin(self, job: Callable[[], None]) -> None:
        """Run `job`, which does not raise, on this thread."""
        self._jobs.put(job)

    def _serve(self) -> None:
        while True:
            self._jobs.get()()


class _Pool:
    """The workers that have nothing to do. Runs lease what they need, so any number of Python threads may train at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._running: set[Team] = set()
        self._closed = False

    def lease(self, team: Team) -> list[_Worker]:
        """As many workers as the team has threads, started where too few are idle."""
        with self._lock:
            if self._closed:
                raise SystemExit("The interpreter is exiting.")
            self._running.add(team)
            workers = [self._idle.pop() for _ in range(min(team.n_threads, len(self._idle)))]
        try:
            while len(workers) < team.n_threads:
                workers.append(_Worker())
        except BaseException:
            self.park(workers)
            self.end(team)
            raise
        return workers

    def park(self, workers: list[_Worker]) -> None:
        """Take workers back."""
        with self._lock:
            self._idle += workers

    def end(self, team: Team) -> None:
        """The team's run is over."""
        with self._lock:
            self._running.discard(team)

    def close(self) -> None:
        """Have running teams leave compiled code, before the interpreter takes it away under them."""
        with self._lock:
            self._closed = True
            for team in self._running:
                team.control[ABORT] = 1
        deadline = time.monotonic() + EXIT_PATIENCE
        while self._running and time.monotonic() < deadline:
            time.sleep(0.001)


_pool = _Pool()


def _start_afresh() -> None:
    """In a forked child: the parent's threads do not exist here."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
atexit.register(lambda: _pool.close())


class Team:
    """Runs one function on several threads at once; the caller waits and stays open to Ctrl-C.

    The workers spend their time in compiled code without the interpreter's lock. They are started when first needed and kept, asleep between
    runs. A forked child starts its own. Several teams may run at once, one team only once at a time.

    Parameters
    ----------
    n_threads : int

    Attributes
    ----------
    control : ndarray of int64
        Shared with the compiled walker: its barrier, the requests to stop and to abort, and what it remembers of the team's pace.
    stop_requested : bool
        Ctrl-C arrived during the last run.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        memory = np.zeros(CONTROL_WORDS + 8, np.int64)
        start = -memory.ctypes.data % 64 // 8
        self.control = memory[start : start + CONTROL_WORDS]  # on a cache line of its own
        self.control_address = self.control.ctypes.data  # asking for it takes as long as a small network's prediction
        self.stop_requested = False

    def run(self, work: Callable[[int], int]) -> int:
        """Call `work(thread)` on every thread; return the first one's result.

        Raises
        ------
        BaseException
            What a worker raised, the first of them if several did: the others are aborted where they stand, so what they were working on is
            half done. All have ended before this returns.
        """
        self.control[:REMEMBERED] = 0
        self.stop_requested = False
        run = _Run(self, work)
        with _interrupts_to(self._stop):
            workers = _pool.lease(self)
            for thread, worker in enumerate(workers):
                run.begin(thread, worker)
            run.wait()
            _pool.end(self)
        if run.errors:
            raise run.errors[0]
        return run.results[0]

    def _stop(self) -> None:
        """Ask all threads to stop after the same step."""
        self.stop_requested = True
        self.control[STOP] = 1


class _Run:
    """One run of a team: what its workers were given to do and what came of it."""

    def __init__(self, team: Team, work: Callable[[int], int]) -> None:
        self._team, self._work, self._pool = team, work, _pool
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._begun = 0
        self.results = [0] * team.n_threads
        self.errors: list[BaseException] = []

    def begin(self, thread: int, worker: _Worker) -> None:
        """Put a worker to work."""

        def job() -> None:
            try:
                # Not a look at STOP: it may be set between two workers' looks, and one alone would wait at the barrier for ever.
                # All begin, and agree at the end of their first step.
                self.results[thread] = self._work(thread)
            except BaseException as error:
                self._fail(error)
            # Parked before the caller hears of it: its next run shall find this worker, not start another one.
            self._pool.park([worker])
            self._ended.put(None)

        self._begun += 1
        worker.begin(job)

    def wait(self) -> None:
        """Until all workers that have begun have ended, whatever signals arrive."""
        while self._begun:
            try:
                self._ended.get()
                self._begun -= 1
            except KeyboardInterrupt:
                self._team._stop()
            except BaseException as error:  # raised by a signal's handler
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.errors.append(error)
        self._team.control[ABORT] = 1


@contextmanager
def _interrupts_to(stop: Callable[[], None]) -> Iterator[None]:
    """Have Ctrl-C call `stop` instead of raising KeyboardInterrupt, which could strike between any two lines."""
    mine = threading.current_thread() is threading.main_thread()  # signals are the main thread's
    before = signal.getsignal(signal.SIGINT) if mine else None
    if before is not signal.default_int_handler:
        yield  # where somebody else handles Ctrl-C: what that raises is met while waiting
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
