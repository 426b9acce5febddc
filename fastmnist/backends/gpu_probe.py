"""Is there a GPU that CUDA code could use? Answered from the driver alone: no context is created, cupy is not imported.

Every way in which a GPU can be unusable has a code for programs, a reason for people, and the remedy. The probe calls a
handful of functions of the CUDA driver library through ctypes; constants and error numbers are those of `cuda.h` (CUDA
Driver API reference).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from dataclasses import dataclass
from importlib import metadata

LIBRARY_VARIABLE = "FASTMNIST_LIBCUDA"

MIN_COMPUTE_CAPABILITY = (7, 0)  # Volta: the oldest that CUDA 12's compiler still serves
MIN_DRIVER_CUDA = (12, 0)  # the oldest CUDA for which current CuPy is built
TENSOR_COMPUTE_CAPABILITY = (8, 0)  # Ampere: the oldest whose tensor cores take TF32 and bf16
MIN_MEMORY = 256 << 20  # bytes: a context, the whole MNIST data set and any model of this package

_CUPY_DISTRIBUTIONS = {
    "cupy-cuda13x": (13, 0),
    "cupy-cuda12x": (12, 0),
    "cupy": None,
}  # with the CUDA version its driver must support
_CUDA13_MIN_COMPUTE_CAPABILITY = (7, 5)  # CUDA 13 dropped Volta

_ATTRIBUTE_CC_MAJOR, _ATTRIBUTE_CC_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_SMI = "Run nvidia-smi: its message names the trouble; then reinstall or restart the NVIDIA driver."

# CUresult -> (code, meaning, remedy)
_DRIVER_ERRORS = {
    2: ("no-memory", "out of memory", "Free GPU memory (nvidia-smi lists who holds it), then try again."),
    3: ("forked", "not initialised", "Start worker processes with 'spawn': CUDA does not survive a fork."),
    34: (
        "stub-library",
        "a stub library was loaded, not the driver",
        "Remove the CUDA toolkit's 'stubs' folder from LD_LIBRARY_PATH.",
    ),
    35: ("old-driver", "the driver is older than this library", "Update the NVIDIA driver."),
    46: (
        "busy",
        "the device is busy or unavailable",
        "Wait for the process that holds the GPU exclusively; nvidia-smi lists it.",
    ),
    100: (
        "no-device",
        "no CUDA device was found",
        "Check that CUDA_VISIBLE_DEVICES does not hide it; a container needs --gpus all.",
    ),
    304: (
        "no-permission",
        "an operating system call failed",
        "Check the access rights of /dev/nvidia*; a container needs --gpus all.",
    ),
    800: ("no-permission", "the operation is not permitted", "Check the access rights of /dev/nvidia*."),
    802: ("not-ready", "the system is not ready", "Run: systemctl start nvidia-fabricmanager"),
    803: (
        "driver-mismatch",
        "driver library and kernel module have different versions",
        "Reboot, so that the updated kernel module is loaded.",
    ),
    804: (
        "compat-unsupported",
        "this GPU does not support the forward-compatible driver",
        "Remove the cuda-compat folder from LD_LIBRARY_PATH.",
    ),
}


@dataclass(frozen=True)
class GpuStatus:
    """What the probe found.

    Attributes
    ----------
    code : str
        "ok", or the kind of obstacle in one word.
    usable : bool
        Whether CUDA code could run, now.
    reason, remedy : str
        What is wrong and what mends it, a sentence each; empty when nothing is.
    name : str
        The device's; empty when the probe did not get that far, as the following.
    compute_capability : tuple of int or None
    memory : int or None
        Total memory in bytes.
    driver_cuda : tuple of int or None
        The newest CUDA version that the driver supports.
    device_count : int or None
    cupy : str
        The installed CuPy distribution with its version; empty when there is none.
    """

    code: str
    usable: bool
    reason: str = ""
    remedy: str = ""
    name: str = ""
    compute_capability: tuple[int, int] | None = None
    memory: int | None = None
    driver_cuda: tuple[int, int] | None = None
    device_count: int | None = None
    cupy: str = ""

    @property
    def precisions(self) -> tuple[str, ...]:
        """What products can be computed in: on tensor cores, factors can be rounded to TF32 or bf16."""
        tensor_cores = (self.compute_capability or (0, 0)) >= TENSOR_COMPUTE_CAPABILITY
        return ("float32", "tf32", "bf16") if tensor_cores else ("float32",)

    @property
    def summary(self) -> str:
        """One line for people: the facts when usable, else the reason."""
        if not self.usable:
            return f"GPU: {self.reason}"
        assert self.compute_capability and self.memory and self.driver_cuda
        gibibytes = f"{self.memory / 2**30:.1f} GiB"
        compute_capability, cuda = _dotted(self.compute_capability), _dotted(self.driver_cuda)
        facts = f"compute capability {compute_capability}, {gibibytes}, driver for CUDA {cuda}, {self.cupy}, precisions {' '.join(self.precisions)}"
        return f"GPU: {self.name}, {facts}."


def probe(index: int = 0, *, library: str | None = None) -> GpuStatus:
    """Ask the driver for a device and judge whether CUDA code could run on it.

    Takes a few milliseconds and never raises. It initialises the driver, but creates no context.

    Parameters
    ----------
    index : int, default=0
        Which device, counted after `CUDA_VISIBLE_DEVICES`.
    library : str, optional
        The driver library; default: `FASTMNIST_LIBCUDA`, else the system's libcuda.so.1 (Windows: nvcuda.dll).

    Returns
    -------
    GpuStatus
    """
    facts: dict = {"cupy": _cupy_distribution()}
    try:
        _ask_driver(index, library or os.environ.get(LIBRARY_VARIABLE) or _system_library(), facts)
        _judge(facts)
    except _Unusable as obstacle:
        code, reason, remedy = obstacle.args
        return GpuStatus(code, False, reason, remedy, **facts)
    return GpuStatus("ok", True, **facts)


class _Unusable(Exception):
    """Carries code, reason and remedy out of the probe."""


def _system_library() -> str:
    return "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def _ask_driver(index: int, library: str, facts: dict) -> None:
    """Fill in what the driver knows, as far as it answers."""
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise _Unusable(
            "no-driver",
            f"the NVIDIA driver library {library} cannot be loaded ({error}).",
            "Install the NVIDIA driver; start a container with --gpus all.",
        ) from error

    def call(function: str, *arguments: object) -> None:
        try:
            result = getattr(driver, function)(*arguments)
        except AttributeError as error:
            raise _Unusable(
                "not-a-driver",
                f"{library} has no function {function}: it is not the NVIDIA driver library.",
                f"Remove it from LD_LIBRARY_PATH and unset {LIBRARY_VARIABLE}.",
            ) from error
        if result != 0:
            code, meaning, remedy = _DRIVER_ERRORS.get(result, ("driver-error", "see CUresult in cuda.h", _SMI))
            raise _Unusable(code, f"{function} failed with CUDA error {result} ({meaning}).", remedy)

    version, count, device, value = (ctypes.c_int() for _ in range(4))
    call("cuInit", 0)
    call("cuDriverGetVersion", ctypes.byref(version))
    facts["driver_cuda"] = (version.value // 1000, version.value % 1000 // 10)
    call("cuDeviceGetCount", ctypes.byref(count))
    facts["device_count"] = count.value
    if count.value == 0:
        _, _, remedy = _DRIVER_ERRORS[100]
        raise _Unusable("no-device", "the driver reports no CUDA device.", remedy)
    if not 0 <= index < count.value:
        raise _Unusable(
            "bad-index", f"device {index} was asked for; there are {count.value}.", f"Ask for 0 to {count.value - 1}."
        )

    def attribute(number: int) -> int:
        call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    call("cuDeviceGet", ctypes.byref(device), index)
    facts["compute_capability"] = (attribute(_ATTRIBUTE_CC_MAJOR), attribute(_ATTRIBUTE_CC_MINOR))
    call("cuDeviceGetName", name, len(name), device)
    facts["name"] = name.value.decode(errors="replace")
    call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    facts["memory"] = memory.value


def _judge(facts: dict) -> None:
    """Refuse what is too old or too small, then look for a CuPy that fits."""
    name, cc, cuda, memory = facts["name"], facts["compute_capability"], facts["driver_cuda"], facts["memory"]
    if cuda < MIN_DRIVER_CUDA:
        raise _Unusable(
            "old-driver",
            f"the driver supports CUDA {_dotted(cuda)}; {_dotted(MIN_DRIVER_CUDA)} is needed.",
            "Update the NVIDIA driver.",
        )
    if cc < MIN_COMPUTE_CAPABILITY:
        raise _Unusable(
            "old-gpu",
            f"{name} has compute capability {_dotted(cc)}; {_dotted(MIN_COMPUTE_CAPABILITY)} (Volta) is needed.",
            "Use a newer GPU, or backend='numba'.",
        )
    if memory < MIN_MEMORY:
        raise _Unusable(
            "small-memory",
            f"{name} has {memory >> 20} MiB of memory; {MIN_MEMORY >> 20} MiB is needed.",
            "Use a larger GPU (or MIG slice), or backend='numba'.",
        )
    extra = "cuda13" if cuda >= (13, 0) and cc >= _CUDA13_MIN_COMPUTE_CAPABILITY else "cuda12"
    install = f"Run: pip install 'fastmnist[{extra}]'"
    if importlib.util.find_spec("cupy") is None:
        raise _Unusable("no-cupy", f"{name} is present, but CuPy is not installed.", install)
    installed = _cupy_distributions()
    if len(installed) > 1:
        names = " ".join(installed)
        raise _Unusable(
            "cupy-conflict",
            f"several CuPy packages are installed ({names}) and overwrite each other.",
            f"Run: pip uninstall {names}; {install[5:]}",
        )
    needed = _CUPY_DISTRIBUTIONS[installed[0]] if installed else None
    if needed is not None and cuda < needed:
        raise _Unusable(
            "cupy-driver",
            f"{installed[0]} needs a driver for CUDA {_dotted(needed)}; this one supports {_dotted(cuda)}.",
            f"Update the NVIDIA driver, or run: pip uninstall {installed[0]}; {install[5:]}",
        )
    if needed == (13, 0) and cc < _CUDA13_MIN_COMPUTE_CAPABILITY:
        raise _Unusable(
            "cupy-gpu",
            f"{installed[0]} no longer serves {name} (compute capability {_dotted(cc)}).",
            f"Run: pip uninstall {installed[0]}; {install[5:]}",
        )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _cupy_distributions() -> list[str]:
    found = []
    for name in _CUPY_DISTRIBUTIONS:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def _cupy_distribution() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in _cupy_distributions())
