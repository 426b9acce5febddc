"""Which backend runs a fit: ONE decision, with its reason, made here and never again below.

`select` decides, `build` makes the executor, `available_backends` tells people what this machine offers.
Nothing is imported before it is wanted: neither numba nor cupy, and no executor.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from fastmnist.backends.dispatch_log import announce
from fastmnist.threads import default_threads
from fastmnist.warning import warn_user

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastmnist.backends.base import Executor
    from fastmnist.backends.gpu_memory import MemoryPlan
    from fastmnist.network.spec import Spec

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "BackendUnavailable",
    "Choice",
    "available_backends",
    "build",
    "default_threads",
    "require",
    "select",
]

BACKENDS = ("numpy", "numba", "cupy")
DEFAULT_VARIABLE = "FASTMNIST_BACKEND"
# Of products: what their factors are rounded to. All but the first need tensor cores; sums and parameters are float32 in all.
PRECISIONS = ("float32", "tf32", "bf16")

# What "auto" takes NumPy's time to be: steps * NUMPY_STEP_SECONDS + flops / NUMPY_FLOPS_PER_SECOND + values / NUMPY_VALUES_PER_SECOND. Measured on
# two cores of a Xeon at 2.5 GHz: a step takes 70 us (4-3, batch 10) to 180 us (64-32-10, batch 32) whatever its
# arithmetic, because it is some ten calls of NumPy a layer; with more arithmetic NumPy reaches 20 GFLOP/s
# (784-128-64-10, batch 32) to 100 GFLOP/s (784-512-256-10, batch 256). The low rate stands here: where it is wrong
# the work is large, and compiled code wins anyway. A value of X costs its conversion and its way through the caches whatever is computed of it: of a
# model with one output that is most of the time (784-1, 60,000 rows: 24 to 29 ms an evaluation, of which the multiplications would take 5).
NUMPY_STEP_SECONDS = 150e-6
NUMPY_FLOPS_PER_SECOND = 20e9
NUMPY_VALUES_PER_SECOND = 2.5e9
# Compiled code costs 0.05 s to load from the cache; on an empty cache importing Numba alone takes half a second, and
# compiling some seconds more, once in the life of an installation. The choice must not depend on whether the cache
# happens to be warm, so one number stands for both: a fit that NumPy ends sooner than Numba is imported is left to
# NumPy.
SMALL_WORK_SECONDS = 0.5


class BackendUnavailable(RuntimeError):
    """A backend that was asked for by name cannot run here.

    Parameters
    ----------
    backend : str
        Its name.
    code : str
        The kind of obstacle in one word, for programs: "not-installed", "broken-install", "switched-off", "dtype", "memory", "precision"; of the GPU
        those of `fastmnist.backends.gpu_probe`.
    reason : str
        What is wrong, a sentence.
    remedy : str
        What to do about it, a sentence; with the command where one helps.

    Attributes
    ----------
    backend, code, reason, remedy : str
        As given; the message is made of all but the code.
    """

    def __init__(self, backend: str, code: str, reason: str, remedy: str) -> None:
        super().__init__(backend, code, reason, remedy)
        self.backend, self.code, self.reason, self.remedy = backend, code, reason, remedy

    def __str__(self) -> str:
        return f"backend {self.backend!r}: {self.reason} {self.remedy}"

    def with_origin(self, origin: str) -> BackendUnavailable:
        """The same, saying who asked for the backend."""
        return BackendUnavailable(self.backend, self.code, f"{self.reason} It was {origin}.", self.remedy)


@dataclass(frozen=True)
class Choice:
    """The backend that was chosen, and why.

    Attributes
    ----------
    backend : str
        "numpy", "numba" or "cupy".
    reason : str
        For people: `backend_reason_` of estimators, `fastmnist explain`.
    """

    backend: str
    reason: str


def select(
    backend: str,
    *,
    n_samples: int,
    n_features: int,
    flops: float,
    steps: int,
    values: float = 0.0,
    dtype: DTypeLike = np.float32,
    numpy_flops: float = 0.0,
    precision: str = "float32",
    memory: Callable[[], MemoryPlan] | None = None,
) -> Choice:
    """Choose the backend of a fit.

    A name is taken at its word: it runs or `BackendUnavailable` is raised. "auto" means `FASTMNIST_BACKEND` where
    that is set; else NumPy for float64 and for work that NumPy would finish in less than `SMALL_WORK_SECONDS` by the
    estimate above; the GPU where there is one that wins by `fastmnist.backends.gpu_crossover` and has the memory; and compiled
    code for the rest. With `FASTMNIST_VERBOSE=dispatch` every choice is written to
    stderr.

    Parameters
    ----------
    backend : str
        "auto", "numpy", "numba" or "cupy".
    n_samples, n_features : int
        Size of the training data; for the reason.
    flops : float
        Floating-point operations of the whole fit.
    steps : int
        Optimizer steps, or full-batch evaluations, of the whole fit.
    values : float, default=0
        Values of X that the whole fit reads, each as often as it is read.
    dtype : dtype, default=float32
        Of the arithmetic: float32 or float64.
    numpy_flops : float, default=0
        What NumPy does besides that costs the other backends next to nothing, in the operations that it does in that time.
    precision : str, default="float32"
        One of `PRECISIONS`; "auto" takes the GPU where it is reduced.
    memory : callable, optional
        Makes the plan of the GPU's memory, when the GPU is considered.

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        Unknown backend, here or in `FASTMNIST_BACKEND`.
    BackendUnavailable
        The backend asked for cannot run; has the reason and what mends it.
    """
    _require_known(backend, "backend")
    origin = "asked for"
    from_environment = backend == "auto" and bool(os.environ.get(DEFAULT_VARIABLE))
    if from_environment:
        backend = os.environ[DEFAULT_VARIABLE]
        _require_known(backend, f"environment variable {DEFAULT_VARIABLE}")
        origin = f"asked for by environment variable {DEFAULT_VARIABLE}"
    needs_gpu = backend == "auto" and precision != "float32"
    if needs_gpu:
        backend, origin = "cupy", f"asked for by precision={precision!r}, which needs a GPU"
    if backend == "auto":
        nbytes = np.dtype(dtype).itemsize * n_samples * n_features
        choice = _choose(flops, numpy_flops, steps, values, np.dtype(dtype), nbytes, memory)
    else:
        try:
            require(backend, dtype=dtype, precision=precision)
        except BackendUnavailable as problem:
            raise (problem.with_origin(origin) if from_environment or needs_gpu else problem) from None
        if backend == "cupy" and memory is not None:
            too_large = _memory_problem(memory)
            if too_large is not None:
                raise too_large
        choice = Choice(backend, f"{origin}.")
    if choice.backend == "numba":
        choice = Choice("numba", choice.reason + _vectors_missing())
    work = f"{n_samples:,} x {n_features:,}, {steps:,} steps, {flops / 1e9:.3g} GFLOP, {np.dtype(dtype).name}"
    announce(f"backend {choice.backend} for {work}: {choice.reason}")
    return choice


def require(backend: str, *, dtype: DTypeLike = np.float32, precision: str = "float32") -> None:
    """Make sure that a backend can run.

    Parameters
    ----------
    backend : str
        One of `BACKENDS`.
    dtype : dtype, default=float32
        Of the arithmetic.
    precision : str, default="float32"
        One of `PRECISIONS`.

    Raises
    ------
    ValueError
        Unknown backend ("auto" is none: `select` has to decide first).
    BackendUnavailable
        It cannot run here, or not in this dtype or precision.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}; got {backend!r}.")
    problem = None
    if backend != "numpy" and np.dtype(dtype) != np.float32:
        reason = f"its kernels compute in float32; {np.dtype(dtype).name} was asked for."
        problem = BackendUnavailable(backend, "dtype", reason, "Use float32, or backend='numpy'.")
    elif backend != "cupy" and precision != "float32":
        reason = f"precision={precision!r} was asked for, which needs a GPU's tensor cores."
        problem = BackendUnavailable(backend, "precision", reason, "Use precision='float32', or backend='cupy'.")
    elif backend == "cupy":
        problem = _cupy_problem(precision)
    elif backend == "numba":
        problem = _numba_problem()
    if problem is not None:
        raise problem


def build(
    backend: str,
    spec: Spec,
    *,
    n_threads: int | None = None,
    dtype: DTypeLike = np.float32,
    precision: str = "float32",
) -> Executor:
    """Make the executor of a chosen backend.

    Parameters
    ----------
    backend : str
        As in `Choice.backend`.
    spec : Spec
        The network, its loss and its optimizer.
    n_threads : int, optional
        Threads of compiled code; None: `default_threads()`. The numpy executor walks a program with one thread always
        (NumPy's BLAS has threads of its own).
    dtype : dtype, default=float32
        Of parameters and arithmetic; float64 needs the numpy backend.
    precision : str, default="float32"
        One of `PRECISIONS`; all but float32 need the cupy backend.

    Returns
    -------
    Executor

    Raises
    ------
    ValueError
        As in `require`.
    BackendUnavailable
        The backend cannot run here.
    """
    require(backend, dtype=dtype, precision=precision)
    if backend == "numpy":
        from fastmnist.backends.reference import ReferenceExecutor

        return ReferenceExecutor(spec, dtype=np.dtype(dtype), n_threads=1)
    if backend == "cupy":
        from fastmnist.backends.gpu import CupyExecutor

        return CupyExecutor(spec, precision=precision)
    from fastmnist.backends.cpu import CpuExecutor

    return CpuExecutor(spec, n_threads=default_threads() if n_threads is None else n_threads)


def available_backends() -> dict[str, tuple[bool, str]]:
    """What this machine offers, and why not the rest. Takes milliseconds: nothing big is imported.

    Returns
    -------
    dict of str to (bool, str)
        For each backend whether it can be used, and the version found or the reason and what mends it.
    """
    found = {"numpy": (True, f"NumPy {np.__version__}")}
    problem = _numba_missing()
    if problem is not None:
        found["numba"] = (False, f"{problem.reason} {problem.remedy}")
    else:
        found["numba"] = (True, f"Numba {_version('numba')}, {default_threads()} thread(s)")
    from fastmnist.backends.gpu_probe import probe

    gpu = probe()
    found["cupy"] = (gpu.usable, gpu.summary if gpu.usable else f"{gpu.summary} {gpu.remedy}")
    return found


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # importable, but not installed by a packaging tool
        return "of unknown version"


def _require_known(backend: str, what: str) -> None:
    known = ("auto", *BACKENDS)
    if backend not in known:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, known))}; got {backend!r}.")


def _choose(
    flops: float,
    numpy_flops: float,
    steps: int,
    values: float,
    dtype: np.dtype,
    nbytes: int,
    memory: Callable[[], MemoryPlan] | None,
) -> Choice:
    """The rule of "auto"."""
    if dtype != np.float32:
        return Choice("numpy", f"auto: {dtype.name} arithmetic is numpy's alone.")
    seconds = steps * NUMPY_STEP_SECONDS + values / NUMPY_VALUES_PER_SECOND
    seconds += (flops + numpy_flops) / NUMPY_FLOPS_PER_SECOND
    estimate = f"an estimated {seconds:.3g} s of work in NumPy"
    if seconds < SMALL_WORK_SECONDS:
        return Choice(
            "numpy", f"auto: {estimate} is less than the {SMALL_WORK_SECONDS:g} s that compiled kernels are worth."
        )
    gpu, why_not = _gpu_choice(flops, steps, nbytes, memory)
    if gpu is not None:
        return gpu
    problem = _numba_problem()
    if problem is not None:
        _notice_fallback(problem, "numpy")
        return Choice("numpy", f"auto: fell back from numba: {problem.reason} {problem.remedy}")
    return Choice("numba", f"auto: {estimate} is worth compiled kernels.{why_not}")


# Codes of the probe on machines that nobody expects a GPU of.
_NO_GPU = ("no-driver", "no-device")


def _gpu_choice(
    flops: float, steps: int, nbytes: int, memory: Callable[[], MemoryPlan] | None
) -> tuple[Choice | None, str]:
    """The GPU, where there is one that wins; else a sentence that says why not, empty where there is none."""
    from fastmnist.backends.gpu_crossover import crossover_of
    from fastmnist.backends.gpu_probe import probe

    status = probe()
    if status.code in _NO_GPU:
        return None, ""
    wins, estimate = crossover_of(status.name).judge(flops, steps, nbytes)
    if not wins:
        return None, f" The GPU is not worth it: {estimate}."
    problem = _cupy_problem()
    if problem is None and memory is not None:
        problem = _memory_problem(memory)
    if problem is not None:
        _notice_fallback(problem, "numba")
        return None, f" Fell back from cupy: {problem.reason} {problem.remedy}"
    return Choice("cupy", f"auto: {estimate}."), ""


def _memory_problem(memory: Callable[[], MemoryPlan]) -> BackendUnavailable | None:
    """Why a fit does not fit into the GPU's memory, or None."""
    from fastmnist.backends.gpu import open_device

    return memory().problem(open_device())


_fallback_noticed = False


def _notice_fallback(problem: BackendUnavailable, backend: str) -> None:
    """Say once per process that what would be faster is not to be had."""
    global _fallback_noticed
    if not _fallback_noticed:
        _fallback_noticed = True
        warn_user(f"fastmnist falls back to backend {backend!r}, which is slower; {problem}", RuntimeWarning)


def _numba_missing() -> BackendUnavailable | None:
    """Why Numba cannot compile, as far as that shows without importing it."""
    if importlib.util.find_spec("numba") is None:
        return BackendUnavailable("numba", "not-installed", "Numba is not installed.", "Run: pip install numba")
    if os.environ.get("NUMBA_DISABLE_JIT", "").strip() not in ("", "0"):
        reason = "the environment variable NUMBA_DISABLE_JIT switches Numba's compiler off."
        return BackendUnavailable("numba", "switched-off", reason, "Unset it.")
    return None


def _numba_problem() -> BackendUnavailable | None:
    """Why compiled code cannot run, or None. Finds out by loading it: what is installed may still not import."""
    problem = _numba_missing()
    if problem is not None:
        return problem
    try:
        importlib.import_module("fastmnist.backends.cpu")
        from fastmnist.kernels.cpu import objects
        from fastmnist.kernels.cpu.interrupts import interrupts_kept

        # Code from the cache runs without Numba, whose import takes half a second; an empty cache needs it anyway.
        if not (objects.cache_folder() / "walk.o").exists():
            with interrupts_kept(at_once=False):
                importlib.import_module("numba")
    except (
        ImportError,
        OSError,
        SystemError,
    ) as error:  # what numba and llvmlite raise on a broken or mismatched install
        return BackendUnavailable(
            "numba",
            "broken-install",
            f"its compiled kernels cannot be loaded ({error}).",
            "Run: pip install --upgrade --force-reinstall numba llvmlite",
        )
    return None


def _vectors_missing() -> str:
    """A sentence for the reason on a machine that the kernels were not written for."""
    from fastmnist.kernels.cpu.isa import MACHINE

    if MACHINE.is_known:
        return ""
    return f" The kernels found {MACHINE.simd}; backend='numpy' may be faster here."


def _cupy_problem(precision: str = "float32") -> BackendUnavailable | None:
    """Why the GPU cannot run, or not in this precision, or None. CuPy is imported only when the driver has said that a GPU is there."""
    from fastmnist.backends.gpu_probe import probe

    status = probe()
    if not status.usable:
        alternative = "" if "backend='numba'" in status.remedy else " Or use backend='numba'."
        return BackendUnavailable("cupy", status.code, status.summary, status.remedy + alternative)
    if precision != "float32" and precision not in status.precisions:
        reason = (
            f"precision={precision!r} needs tensor cores of compute capability 8.0 (Ampere) or newer. {status.summary}"
        )
        return BackendUnavailable("cupy", "precision", reason, "Use precision='float32', or a newer GPU.")
    try:
        importlib.import_module("cupy")
    except Exception as error:  # what a CuPy that does not fit the driver raises is its own affair
        return BackendUnavailable(
            "cupy",
            "broken-install",
            f"CuPy cannot be loaded ({error}).",
            "Run: pip install --upgrade --force-reinstall " + status.cupy.partition(" ")[0],
        )
    return None
