"""What the compiled code may assume of this machine: the one file that knows instruction sets.

The vector width is the widest that pays: 16 float32 lanes with AVX-512, 8 with AVX2 + FMA, 4 with SSE, NEON or anything LLVM legalises. The
same generator makes all of them. `NUMBA_CPU_NAME` (for tests: `haswell`, `x86-64`) narrows it.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass

import llvmlite.binding as llvm

# NUMBA_CPU_NAME -> lanes; LLVM does not tell a named CPU's features, so the names that tests and users pass are listed.
_LANES_BY_NAME = {
    "generic": 4,
    "x86-64": 4,
    "x86-64-v2": 4,
    "nehalem": 4,
    "haswell": 8,
    "broadwell": 8,
    "skylake": 8,
    "x86-64-v3": 8,
    "znver1": 8,
    "znver2": 8,
    "znver3": 8,
    "skylake-avx512": 16,
    "x86-64-v4": 16,
    "znver4": 16,
    "znver5": 16,
}


@dataclass(frozen=True)
class Machine:
    """The target of the compiled code.

    Attributes
    ----------
    architecture : str
        "x86_64", "aarch64", ...
    cpu_name : str
        As LLVM calls it.
    lanes : int
        float32 values in a vector.
    registers : int
        Vector registers.
    system : str
        "Linux", "Darwin", "Windows", ...
    """

    architecture: str
    cpu_name: str
    lanes: int
    registers: int
    system: str

    @property
    def is_x86(self) -> bool:
        """Whether x86's control register and pause exist."""
        return self.architecture in ("x86_64", "AMD64", "i386", "i686")

    @property
    def futex_number(self) -> int:
        """Number of Linux's futex system call; 0 where there is none that we know."""
        if self.system != "Linux":
            return 0
        return {"x86_64": 202, "aarch64": 98}.get(self.architecture, 0)

    @property
    def monotonic_clock(self) -> int:
        """The C library's number of the clock that never goes back, which differs from system to system."""
        return getattr(time, "CLOCK_MONOTONIC", 1)


def detect() -> Machine:
    """The machine that Numba compiles for: this one, unless `NUMBA_CPU_NAME` says otherwise."""
    architecture = platform.machine()
    name = os.environ.get("NUMBA_CPU_NAME", "")
    if name and name != "host":
        lanes = _LANES_BY_NAME.get(name, 4)
    else:
        name = llvm.get_host_cpu_name()
        features = llvm.get_host_cpu_features()
        has = lambda *names: all(features.get(n) for n in names)  # noqa: E731
        lanes = 16 if has("avx512f", "avx512vl", "avx512dq") else 8 if has("avx2", "fma") else 4
    registers = 32 if lanes == 16 or architecture == "aarch64" else 16
    return Machine(architecture, name, lanes, registers, platform.system())


MACHINE = detect()
LANES = MACHINE.lanes
