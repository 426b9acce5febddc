"""Crews: helper threads that stand by between calls, for single ops too short for a team to gather."""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from pathlib import Path

import numpy as np

from fastmnist.backends.team import Team
from fastmnist.kernels import cpu
from fastmnist.kernels.cpu.isa import MACHINE
from fastmnist.kernels.cpu.layout import CREW_QUITS, CREW_WORDS

# Seconds that an exiting interpreter waits for crews to leave compiled code.
EXIT_PATIENCE = 5.0


class Crew:
    """Runs the rows of a table on the calling thread and on helpers, which spin for some 50 us after each run, then sleep.

    One run at a time: `run_at_once` gives each caller its own.

    Parameters
    ----------
    n_threads : int
        At least 2, the calling thread included.

    Raises
    ------
    RuntimeError
        The system starts no more threads.
    """

    def __init__(self, n_threads: int) -> None:
        serve, self._share_out = cpu.helpers()
        memory = np.zeros(CREW_WORDS + 8, np.int64)
        start = -memory.ctypes.data % 64 // 8
        self._words = memory[start : start + CREW_WORDS]  # on cache lines of their own
        self._address = self._words.ctypes.data

        caller = threading.get_native_id()

        def help_out(words: np.ndarray = self._words, address: int = self._address) -> None:
            _leave_core_of(caller)
            serve(address)  # with `words` the memory lives as long as its reader

        try:
            for helper in range(1, n_threads):
                threading.Thread(target=help_out, name=f"fastmnist-helper-{helper}", daemon=True).start()
        except BaseException:
            self.dismiss()
            raise

    def run(self, rows: np.ndarray) -> None:
        """Run all rows of an int64 (n, ROW_WORDS); none may touch what another one writes."""
        self._share_out(self._address, rows.ctypes.data, len(rows))

    def dismiss(self) -> None:
        """End the helpers."""
        self._words[CREW_QUITS] = 1
        self._share_out(self._address, 0, 0)


def _leave_core_of(thread: int) -> None:
    """Move this thread off the core where `thread` was last; it may go anywhere afterwards.

    Linux starts a thread on its parent's core, and two threads that spin in turns were seen to share it for a tenth of a second, another core
    idle: the product then takes as long as on one thread.
    """
    try:
        # The 39th field of /proc/.../stat (proc_pid_stat(5)); what stands before ")" may hold spaces.
        core = int(Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[36])
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, allowed - {core} or allowed)
        os.sched_setaffinity(0, allowed)
    except (AttributeError, OSError, ValueError, IndexError):
        pass  # no Linux, or no /proc: a matter of speed alone


class _Crews:
    """Crews that nobody uses, by their number of threads, and how many are at work."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: dict[int, list[Crew]] = {}
        self.at_work = 0
        self.closed = False


_crews = _Crews()


def run_at_once(rows: np.ndarray, n_threads: int) -> None:
    """Run the rows of a table on `n_threads` threads, this one included.

    Several Python threads may call this at once: each gets a crew. Where there are no threads to be had, the rows run one after the other.

    Parameters
    ----------
    rows : ndarray of int64, shape (n, ROW_WORDS)
        As `kernels.cpu.encode` fills them; none may touch what another one writes.
    """
    if not MACHINE.futex_number:  # helpers that can't sleep would poll for ever
        Team(n_threads).run(lambda thread: _run_rows(rows[thread::n_threads]))
        return
    crews = _crews
    with crews.lock:
        crews.at_work += 1
        idle = crews.idle.setdefault(n_threads, [])
        crew = idle.pop() if idle else None
    try:
        if crew is None and not crews.closed:
            crew = _gather(n_threads)
        if crew is None:
            _run_rows(rows)
        else:
            crew.run(rows)
    finally:
        with crews.lock:
            crews.at_work -= 1
            if crew is not None:
                idle.append(crew)


def _gather(n_threads: int) -> Crew | None:
    try:
        return Crew(n_threads)
    except RuntimeError:  # the system starts no more threads
        return None


def _run_rows(rows: np.ndarray) -> int:
    for row in rows:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(row[0]))(row.ctypes.data)
    return 0


def _close() -> None:
    """Have all helpers leave compiled code, before the interpreter takes it away under them."""
    with _crews.lock:
        _crews.closed = True
    deadline = time.monotonic() + EXIT_PATIENCE
    while _crews.at_work and time.monotonic() < deadline:
        time.sleep(0.001)
    for crews in _crews.idle.values():
        for crew in crews:
            crew.dismiss()


def _start_afresh() -> None:
    """In a forked child: the parent's helpers do not exist here."""
    global _crews
    _crews = _Crews()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
atexit.register(_close)
