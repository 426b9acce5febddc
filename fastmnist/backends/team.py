"""Threads that run compiled code side by side, and stop together."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from fastmnist.kernels.cpu.layout import CONTROL_WORDS, STOP


class Team:
    """Runs one function on several threads at once; the caller waits and stays open to Ctrl-C.

    The workers spend their time in compiled code without the interpreter's lock. They are started for each run: that costs some 50 us a
    thread, against epochs of many milliseconds, and leaves nothing behind that a `fork` could break.

    Parameters
    ----------
    n_threads : int

    Attributes
    ----------
    control : ndarray of int64
        Shared with the compiled walker: its barrier, and the request to stop.
    stop_requested : bool
        Ctrl-C arrived during the last run.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        memory = np.zeros(CONTROL_WORDS + 8, np.int64)
        start = -memory.ctypes.data % 64 // 8
        self.control = memory[start : start + CONTROL_WORDS]  # on a cache line of its own
        self.stop_requested = False

    def run(self, work: Callable[[int], int]) -> int:
        """Call `work(thread)` on every thread; return the first one's result.

        Raises
        ------
        BaseException
            What a worker raised; the others are asked to stop first, and all have ended before this returns.
        """
        results: list[int] = [0] * self.n_threads
        errors: list[BaseException] = []
        ended = [threading.Event() for _ in range(self.n_threads)]
        everyone_started = threading.Event()
        cancelled = threading.Event()

        def worker(thread: int) -> None:
            try:
                everyone_started.wait()
                # Not a look at STOP: it may be set between two workers' looks, and one alone would wait at the barrier for ever.
                # All begin, and agree at the end of their first step.
                if not cancelled.is_set():
                    results[thread] = work(thread)
            except BaseException as error:
                errors.append(error)
                self.control[STOP] = 1
            finally:
                ended[thread].set()

        threads = []
        try:
            for t in range(self.n_threads):
                thread = threading.Thread(target=worker, args=(t,), name=f"fastmnist-{t}", daemon=True)
                thread.start()
                threads.append(thread)
        except BaseException:
            # A thread that can't be started would be waited for at the barrier for ever: let nobody begin.
            cancelled.set()
            everyone_started.set()
            for thread in threads:
                thread.join()
            raise
        everyone_started.set()
        for event in ended:
            while not event.is_set():
                try:
                    event.wait()
                except KeyboardInterrupt:
                    self.stop_requested = True
                    self.control[STOP] = 1
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results[0]
