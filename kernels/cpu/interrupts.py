"""Ctrl-C while Numba is imported or compiles: not lost, and nothing left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_kept(*, at_once: bool) -> Iterator[None]:
    """Have a Ctrl-C within the block raise KeyboardInterrupt, at the latest at its end.

    LLVM calls back into Python while it compiles; an exception raised there is printed and forgotten. An import that is broken off leaves
    submodules behind with which the next import fails.

    Parameters
    ----------
    at_once : bool
        Raise where the block stands, and again at its end if that was lost; False: at its end only.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    caught = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        caught = True
        if at_once and callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
    if caught:  # and not raised, or lost
        signal.raise_signal(signal.SIGINT)
