"""What the compiled code may assume of this machine: the one file that knows instruction sets.

The vector width is the widest that pays: 16 float32 lanes with AVX-512, 8 with AVX2 + FMA, 4 with SSE2 and NEON. The same generator makes all
of them. A machine whose vectors this file does not know gets 4 lanes too, which LLVM turns into whatever that machine has, scalar instructions
at worst: correct, but slower. `MACHINE.simd` says which of these it is, `fastmnist info` prints it.

`NUMBA_CPU_NAME` (`haswell`, `x86-64`, `znver4`, ... or `generic`) compiles for another processor of the same architecture, with the features of
that name alone; `NUMBA_CPU_FEATURES` adds and removes features, in LLVM's notation.
"""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass

import llvmlite.binding as llvm

_X86_64 = ("x86_64", "AMD64")
_X86 = (*_X86_64, "i386", "i686")
_ARM_64 = ("aarch64", "arm64")
# What every 64-bit x86 processor has. LLVM ends the process when they are missing, as they are behind a name that it does not know.
_X86_64_BASELINE = "+64bit,+sse2"


@dataclass(frozen=True)
class Machine:
    """The target of the compiled code.

    Attributes
    ----------
    architecture : str
        "x86_64", "aarch64", ...
    cpu_name : str
        As LLVM calls it.
    features : str
        What the name alone does not say, in LLVM's notation.
    simd : str
        The vector unit, for people.
    lanes : int
        float32 values in a vector.
    registers : int
        Vector registers.
    has_fma : bool
        Whether multiply-add with one rounding is an instruction. Elsewhere it would be a call of the C library for each lane, so products are
        rounded before they are added.
    packs_lanes : bool
        Whether an instruction pushes the chosen bytes and 16-bit numbers of a register together.
    system : str
        "Linux", "Darwin", "Windows", ...
    """

    architecture: str
    cpu_name: str
    features: str
    simd: str
    lanes: int
    registers: int
    has_fma: bool
    packs_lanes: bool = False
    system: str = platform.system()

    @property
    def is_x86(self) -> bool:
        """Whether x86's control register and pause exist."""
        return self.architecture in _X86

    @property
    def is_known(self) -> bool:
        """Whether this file knows the machine's vectors: False means the slow fall-back."""
        return self.architecture in (*_X86, *_ARM_64)

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
    """The machine to compile for: this one, unless `NUMBA_CPU_NAME` or `NUMBA_CPU_FEATURES` say otherwise."""
    architecture = platform.machine()
    name, features = _target(architecture)
    if architecture in _ARM_64:  # both are part of the architecture
        return Machine(architecture, name, features, "NEON", lanes=4, registers=32, has_fma=True)
    sample = _assembly(_SAMPLE, name, features)
    has_fma = not re.search(r"\bfmaf\b", sample)  # else LLVM calls the C library
    if architecture not in _X86:
        unit = f"no vector unit that fastmnist knows ({architecture}): portable code, correct but slow"
        return Machine(architecture, name, features, unit, lanes=4, registers=16, has_fma=has_fma)
    if has_fma and "%zmm" in sample:
        packs = bool(re.search(r"vpcompressb\s+%zmm", _assembly(_PACKING_SAMPLE, name, features)))
        return Machine(architecture, name, features, "AVX-512", 16, registers=32, has_fma=True, packs_lanes=packs)
    if has_fma:
        return Machine(architecture, name, features, "AVX2 and FMA", lanes=8, registers=16, has_fma=True)
    return Machine(architecture, name, features, "SSE2, without FMA", lanes=4, registers=16, has_fma=False)


def _target(architecture: str) -> tuple[str, str]:
    """Name and features of the processor to compile for."""
    name = os.environ.get("NUMBA_CPU_NAME", "")
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if name in ("", "host"):
        name = llvm.get_host_cpu_name()
        return name, llvm.get_host_cpu_features().flatten() if features is None else features
    baseline = _X86_64_BASELINE if architecture in _X86_64 else ""
    return name, ",".join(filter(None, (baseline, features)))


_SAMPLE = """
define void @sample(ptr %p) {
  %x = load <16 x float>, ptr %p
  %y = call <16 x float> @llvm.fma.v16f32(<16 x float> %x, <16 x float> %x, <16 x float> %x)
  store <16 x float> %y, ptr %p
  ret void
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""


_PACKING_SAMPLE = """
define void @sample(ptr %p, <64 x i1> %m) {
  %x = load <64 x i8>, ptr %p
  %y = call <64 x i8> @llvm.experimental.vector.compress.v64i8(<64 x i8> %x, <64 x i1> %m, <64 x i8> %x)
  store <64 x i8> %y, ptr %p
  ret void
}
declare <64 x i8> @llvm.experimental.vector.compress.v64i8(<64 x i8>, <64 x i1>, <64 x i8>)
"""


def _assembly(sample: str, name: str, features: str) -> str:
    """What LLVM makes of some vector code for a processor: it knows every name and what follows from it, we do not. One millisecond."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(cpu=name, features=features, opt=0)
    return target.emit_assembly(llvm.parse_assembly(sample))


MACHINE = detect()
LANES = MACHINE.lanes
