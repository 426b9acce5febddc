"""Why a first fit waits: said when the first kernel is compiled, then every few seconds how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

SILENCE = 5.0  # seconds: a first fit takes some ten, and minutes where other programs have the cores


class CompileNotice:
    """Called with the name of each kernel that is about to be compiled.

    Parameters
    ----------
    clock : callable, optional
        Seconds since some moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kernels = 0
        self._began = self._said = 0.0

    def __call__(self, name: str) -> None:
        """Say it, or how far it is."""
        now = self._clock()
        self._kernels += 1
        if self._kernels == 1:
            self._began = self._said = now
            _say(
                "compiling kernels that this machine has not run yet, some ten seconds of a whole core for a first fit "
                "(they are kept; `fastmnist warmup` does it ahead) ..."
            )
        elif now - self._said >= SILENCE:
            self._said = now
            _say(f"compiling kernel {self._kernels}, {name}, after {now - self._began:.0f} s ...")


def _say(message: str) -> None:
    print(f"fastmnist: {message}", file=sys.stderr, flush=True)
