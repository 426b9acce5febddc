"""Why a first fit waits: said once when a kernel is compiled, then every few seconds how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

SILENCE = 5.0  # seconds: a first fit takes some ten, and minutes where other programs have the cores


class CompileNotice:
    """Told by `kernels.cpu` what it does.

    Parameters
    ----------
    clock : callable, optional
        Seconds since some moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._explained = self._compiles = False
        self._began = self._said = 0.0

    def compiles(self, name: str) -> None:
        """A kernel is not in the cache."""
        self._compiles = True
        if not self._explained:
            self._explained = True
            _say(
                "compiling kernels that this machine has not run yet, some ten seconds of idle cores for a first fit "
                "(they are kept; `fastmnist warmup` does it ahead) ..."
            )

    def comes_to(self, name: str, number: int, n_kernels: int) -> None:
        """This kernel of those that a program needs is next."""
        now = self._clock()
        if number == 1:
            self._compiles, self._began, self._said = False, now, now
        elif self._compiles and now - self._said >= SILENCE:
            self._said = now
            _say(f"kernel {number} of {n_kernels}, {name}, after {now - self._began:.0f} s ...")


def _say(message: str) -> None:
    print(f"fastmnist: {message}", file=sys.stderr, flush=True)
