"""What `fastmnist info` tells: everything about this machine and installation that decides how a fit runs."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fastmnist.backends import available_backends
from fastmnist.backends.gpu_probe import probe
from fastmnist.threads import thread_limits
from fastmnist.version import __version__

ENVIRONMENT_VARIABLES = {
    "FASTMNIST_BACKEND": "what backend='auto' means: numpy, numba, cupy or auto",
    "FASTMNIST_NUM_THREADS": "most threads of compiled code",
    "FASTMNIST_VERBOSE": "comma-separated: dispatch (print choices of backends and kernels), traceback (of errors on the command line)",
    "FASTMNIST_CACHE_DIR": "folder of the compiled kernels",
    "FASTMNIST_DATA": "folder of downloaded data sets",
    "FASTMNIST_LIBCUDA": "the CUDA driver library to probe",
}


def system_info() -> dict[str, Any]:
    """Collect the facts.

    Returns
    -------
    dict
        Plain values, ready for JSON.
    """
    limits = thread_limits()
    threads = min(limits)
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "cpu": {"name": _cpu_name(), **_cpu_target()},
        "threads": {
            "default": threads[0],
            "reason": threads[1],
            "limits": [{"threads": n, "origin": origin} for n, origin in limits],
        },
        "backends": {name: {"available": ok, "reason": why} for name, (ok, why) in available_backends().items()},
        "gpu": asdict(probe()),
        "caches": {
            "kernels": _cache(_kernel_cache(), "*/*.o"),
            "datasets": _cache(_dataset_cache(), "*mnist/**/*"),  # may be the same folder
        },
        "environment": {
            name: {"value": os.environ.get(name), "meaning": meaning} for name, meaning in ENVIRONMENT_VARIABLES.items()
        },
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpu_target() -> dict[str, Any]:
    """What the compiled kernels make of the CPU; empty where they cannot be loaded."""
    try:
        from fastmnist.kernels.cpu.isa import MACHINE
    except (ImportError, OSError):
        return {}
    return {
        "architecture": MACHINE.architecture,
        "compiled_for": MACHINE.cpu_name,
        "simd": MACHINE.simd,
        "float32_lanes": MACHINE.lanes,
    }


def _kernel_cache() -> Path | None:
    try:
        from fastmnist.kernels.cpu.objects import cache_root
    except (ImportError, OSError):
        return None
    return cache_root()


def _dataset_cache() -> Path | None:
    chosen = os.environ.get("FASTMNIST_DATA")
    if chosen:
        return Path(os.path.expanduser(chosen))  # as pooch does
    if importlib.util.find_spec("platformdirs") is None:
        return None  # it comes with pooch: nothing can have been downloaded, see the extra "datasets"
    import platformdirs

    return Path(platformdirs.user_cache_dir("fastmnist"))  # as pooch.os_cache has it


def _cache(folder: Path | None, pattern: str) -> dict[str, Any]:
    files = [file for file in folder.glob(pattern) if file.is_file()] if folder else []
    return {
        "path": str(folder) if folder else None,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
    }
