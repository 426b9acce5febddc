"""A second process that compiles, where many kernels are missing: the two share them through the cache's files.

A process, because LLVM lets one thread of a process compile at a time. Nothing depends on it: what it has not made when its turn comes is
compiled by the process that asked, and a helper that dies, or never starts, costs time alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

# Starting Python and importing Numba takes as long as compiling one or two kernels.
HELP_FROM = 4
PATIENCE = 30.0  # seconds; no kernel takes so long: then one does not wait for the helper any more

Kernel = tuple[str, tuple[str, ...]]

_PROGRAM = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
sys.path[:] = json.loads(sys.stdin.readline())
from {module} import work_through
work_through(sys.stdin, answers)
"""

_waiting: list[
    _Helper
] = []  # one that was summoned and has no work yet; threads take it by `pop`, so that one of them gets it


def summon() -> None:
    """Start the helper, for kernels that `helped` will name: until then it imports the compiler, and waits."""
    if not _waiting and (helper := _Helper.start()):
        _waiting.append(helper)


@contextlib.contextmanager
def helped(missing: Sequence[Kernel]) -> Iterator[Callable[[Kernel], None]]:
    """Have another process compile what is missing, from the last one on, while the block compiles from the first one on.

    Parameters
    ----------
    missing : sequence of (name, dtypes)
        Kernels that are not in the cache.

    Yields
    ------
    callable
        `wait_for(kernel)` returns when the helper is not at that kernel: at once, or when it has ended with it.
    """
    helper = None
    with contextlib.suppress(IndexError):
        helper = _waiting.pop()
    try:
        if len(missing) >= HELP_FROM:
            helper = helper or _Helper.start()
            if helper is not None:
                helper.say([(name, list(dtypes)) for name, dtypes in missing])
        yield helper.wait_for if helper is not None else lambda kernel: None
    finally:
        if helper is not None:
            helper.end()


class _Helper:
    """The process, seen from the one that asked."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._requests, self._answers = process, process.stdin, process.stdout
        self._at: object = None  # the kernel that it said last that it begins

    @classmethod
    def start(cls) -> _Helper | None:
        """None where there is no process to be had."""
        # Windows cannot say whether a pipe has something to read; a program that embeds Python is not to be started again.
        if os.name == "nt" or not os.path.basename(sys.executable or "").lower().startswith("python"):
            return None
        command = [sys.executable, "-P", "-c", _PROGRAM.format(module=__name__)]
        pipe = subprocess.PIPE
        try:
            # Without buffers: what `select` does not see is not there.
            helper = cls(subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL))
        except OSError:
            return None
        helper.say([entry for entry in sys.path if isinstance(entry, str)])
        return helper

    def say(self, what: object) -> None:
        """Send a line."""
        with contextlib.suppress(BrokenPipeError):  # it has died
            self._requests.write(json.dumps(what).encode() + b"\n")

    def wait_for(self, kernel: Kernel) -> None:
        """See `helped`."""
        while self._reads_line(0):
            pass
        if self._at == [kernel[0], list(kernel[1])]:
            self._reads_line(PATIENCE)  # it begins another one, or has ended

    def _reads_line(self, seconds: float) -> bool:
        """Read a line, if one comes within so many seconds; False if there is none, or will never be one."""
        if not select.select([self._answers], [], [], seconds)[0]:
            return False
        line = self._answers.readline()
        self._at = json.loads(line) if line else None
        return bool(line)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def work_through(requests: TextIO, answers: TextIO) -> None:
    """In the helping process: import the compiler, then compile the kernels of the next line, the last one first, while the parent lives."""
    from . import compiler, entry, is_kept  # noqa: F401 (the compiler takes a second)

    parent = os.getppid()
    for name, dtypes in reversed(json.loads(requests.readline() or "[]")):
        if os.getppid() != parent:
            return
        kernel = name, tuple(dtypes)
        if not is_kept(kernel):
            answers.write(json.dumps(kernel) + "\n")
            entry(*kernel)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.clear)  # the helper is the parent's
