"""Work on rows, shared by threads."""

from __future__ import annotations

from collections.abc import Callable

from fastmnist.backends.team import Team

ROWS_A_THREAD = 1024  # fewer rows are compressed sooner than another thread is started


def by_rows(n: int, n_threads: int, work: Callable[[int, int], None]) -> None:
    """Call `work(lo, hi)` for shares of n rows, on several threads where that pays."""
    n_threads = max(1, min(n_threads, n // ROWS_A_THREAD))
    if n_threads == 1:
        work(0, n)
        return
    team = Team(n_threads)

    def share(thread: int) -> int:
        work(n * thread // n_threads, n * (thread + 1) // n_threads)
        return 0

    team.run(share)
    if team.stop_requested:
        raise KeyboardInterrupt
