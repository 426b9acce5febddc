"""One op on random operands: verified against the oracle in float64, then timed, beside a function of the user's own. What `fastmnist bench` prints.

A kernel that is wrong has no time.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastmnist import backends
from fastmnist.kernel_call import STANDARD_DIMS
from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT, WINOGRAD_PLACES, Op
from fastmnist.profiling.machine import known_roofs
from fastmnist.threads import one_blas_thread

Function = Callable[..., object]

SAMPLES = 15
SAMPLE_SECONDS = 2e-3  # of calls that are timed together
BUDGET = 8  # times NumPy's own error in float32, of one draw: the kernels' tests allow 4, of sums of many terms 8, of the largest of several
SMALLEST = 2.0**-22  # of the largest magnitude: two units in the last place
# What the parameters of an op are without another word, and the image, window and filter of those on images.
PARAMETERS = {
    "alpha": 1.0,
    "beta": 1.0,
    "scale": 1.0,
    "momentum": 0.9,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-8,
    "rate": 0.5,
    "label_smoothing": 0.0,
    "layer": 0,
    "row_offset": 0,
    "column_offset": 0,
    "n": 64,
    "n_total": 64,
    "n_part": 32,
    "rows": 1,
    "height": 13,
    "width": 13,
    "channels": 32,
    "kernel_height": 3,
    "kernel_width": 3,
    "stride": 1,
    "pool_height": 2,
    "pool_width": 2,
    "pool_stride": 2,
    "top": 1,
    "bottom": 1,
    "left": 1,
    "right": 1,
}
# Their operands follow from each other: rows that are compressed or cut into blocks, lists of pixels.
_LINKED = {"indptr", "bitmap", "entries", "argmax", "features"}
_POSITIVE = {"v", "variance", "moments", "sample_weight", "hyper"}


@dataclass(frozen=True)
class Timing:
    """How fast one implementation of an op is.

    Attributes
    ----------
    op, provider : str
        The provider is "numba", "numpy", "cupy", or module:function.
    sizes : str
        Dimensions of the call, as in "B=32 I=784".
    microseconds, low, high : float or None
        Of a call: median and quartiles of the samples. None where it is wrong or can't run.
    gflops, gbytes, roof : float or None
        GFLOP/s and GB/s by the contract's counts; the part of what one thread can reach at most, where the roofs are known
        (above 1 for a function that starts threads of its own).
    problem : str
        Why there is no time; empty if there is.
    """

    op: str
    provider: str
    sizes: str
    microseconds: float | None = None
    low: float | None = None
    high: float | None = None
    gflops: float | None = None
    gbytes: float | None = None
    roof: float | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def benched_ops() -> list[str]:
    """Ops whose operands can be drawn at random, each by itself."""
    return [name for name, op in CONTRACT.items() if not _LINKED & {o.name for o in op.operands}]


def bench_op(
    name: str,
    *,
    sizes: Mapping[str, int] | None = None,
    providers: Sequence[str] = ("numba", "numpy"),
    functions: Mapping[str, Function] | None = None,
    seed: int = 0,
) -> list[Timing]:
    """Verify every implementation of one op, then time those that are right: compiled ones and NumPy's BLAS on one thread.

    Parameters
    ----------
    name : str
        One of `benched_ops()`.
    sizes : dict of str to int, optional
        Dimensions of the op and parameters that are numbers, where they are not to be those of MNIST's first layer with batch 32.
    providers : sequence of str, default=("numba", "numpy")
        Backends.
    functions : dict of str to callable, optional
        Further implementations by name, called as those of `fastmnist.kernels.reference`: outputs, inputs, parameters, all as positional arguments.
    seed : int, default=0
        Of the operands.

    Returns
    -------
    list of Timing
        Backends first, then functions.

    Raises
    ------
    ValueError
        An unknown op, one whose operands follow from each other, or a size that the op does not have.
    fastmnist.BackendUnavailable
        A backend cannot run here.
    """
    op = _known(name)
    arrays, params = operands(op, sizes or {}, seed)
    dims = op.bind_dims([array.shape for array in arrays])
    shown = " ".join(f"{dim}={size}" for dim, size in dims.items() if dim not in "MNSP")
    exact = [a.astype(np.float64) if a.dtype == np.float32 else a.copy() for a in arrays]
    single = [a.copy() for a in arrays]
    with np.errstate(all="ignore"):
        getattr(reference, name)(*exact, *params.values())
        getattr(reference, name)(*single, *params.values())
    verified = []
    for provider, call in [*((p, _of_backend(p, op)) for p in providers), *(functions or {}).items()]:
        own = [a.copy() for a in arrays]
        verified.append((provider, call, own, _verified(op, call, own, params, exact, single)))
    with one_blas_thread():
        return [
            Timing(name, provider, shown, problem=problem)
            if problem
            else _timed(op, provider, shown, dims, _prepared(provider, op, call, own, params))
            for provider, call, own, problem in verified
        ]


def operands(op: Op, sizes: Mapping[str, int], seed: int = 0) -> tuple[list[np.ndarray], dict[str, float]]:
    """Random arrays for an op, outputs first, and its parameters."""
    unknown = set(sizes) - set(op.dims) - set(op.params)
    if unknown:
        raise ValueError(
            f"{op.name} has no size {', '.join(map(repr, sorted(unknown)))}; dimensions: {', '.join(op.dims)}; "
            f"parameters: {', '.join(op.params) or 'none'}."
        )
    params: dict[str, float] = {p: sizes.get(p, PARAMETERS[p]) for p in op.params}
    dims = {d: STANDARD_DIMS[d] for d in op.dims} | dict.fromkeys({"N", "M"} & set(op.dims), STANDARD_DIMS["B"])
    dims |= {"S": 1} if "S" in op.dims else {}
    dims |= _image_sizes(op, params, sizes.get("O", 64 if "height" in params else dims.get("O", 1)))
    dims |= {d: size for d, size in sizes.items() if d in op.dims}
    for rows in {"N", "M"} & set(op.dims):
        dims[rows] = max(dims[rows], dims.get("B", 1))
    rng = np.random.default_rng(seed)
    return [
        _content(o.name, tuple(int(d) if d.isdecimal() else dims[d] for d in o.shape), o.dtypes[0], dims, rng)
        for o in op.operands
    ], params


def _known(name: str) -> Op:
    if name not in CONTRACT:
        raise ValueError(f"Unknown op {name!r}; known: {', '.join(CONTRACT)}. `fastmnist kernels` explains them.")
    if name not in benched_ops():
        raise ValueError(
            f"{name} takes operands that follow from each other, which can't be drawn at random here. Time it within a model: fastmnist profile mlp."
        )
    return CONTRACT[name]


def _image_sizes(op: Op, params: Mapping[str, float], n_filters: int) -> dict[str, int]:
    """X, Y and K of an op on images, from its parameters."""
    if "height" not in params:
        if {"V", "C", "K"} <= set(op.dims):  # turned filters of 3 x 3 pixels: V sums over what K has not
            return {"V": WINOGRAD_PLACES * n_filters, "K": 9 * STANDARD_DIMS["C"], "O": n_filters}
        if {"Y", "O"} <= set(op.dims):
            return {"Y": STANDARD_DIMS["Y"] // STANDARD_DIMS["O"] * n_filters, "O": n_filters}
        return {}
    of = {name: int(value) for name, value in params.items()}
    height, width, channels = of["height"], of["width"], of.get("channels", 1)
    sizes = {"X": height * width * channels}
    if "top" in of:
        sizes["Y"] = (height + of["top"] + of["bottom"]) * (width + of["left"] + of["right"]) * channels
    elif "V" in op.dims:  # by transformed tiles, of filters of 3 x 3 pixels
        sizes |= {"Y": (height - 2) * (width - 2) * n_filters, "V": WINOGRAD_PLACES * channels, "O": n_filters}
    else:
        kind = "kernel" if "kernel_height" in of else "pool"
        window = of[f"{kind}_height"], of[f"{kind}_width"]
        made = [(size - length) // of["stride"] + 1 for size, length in zip((height, width), window, strict=True)]
        sizes |= {
            "Y": made[0] * made[1] * (n_filters if kind == "kernel" else channels),
            "K": window[0] * window[1] * channels,
            "O": n_filters,
        }
    return {dim: size for dim, size in sizes.items() if dim in op.dims}


def _content(
    name: str, shape: tuple[int, ...], dtype: str, dims: Mapping[str, int], rng: np.random.Generator
) -> np.ndarray:
    if name == "cursor":
        return np.zeros(shape, np.int64)
    if name == "order":
        return rng.permutation(shape[0]).astype(np.int64)
    if name == "labels":
        return rng.integers(0, dims["C"], shape, dtype=np.int32)
    if dtype in ("float", "float32"):
        values = rng.standard_normal(shape, dtype=np.float32)
        return np.abs(values) + np.float32(0.1) if name in _POSITIVE else values
    return rng.integers(0, 256, shape).astype(dtype)


def _of_backend(backend: str, op: Op) -> Function:
    """An op as a function of its operands and parameters, in place."""
    backends.require(backend)
    if backend == "numpy":
        return getattr(reference, op.name)
    if backend == "cupy":
        from fastmnist.backends.gpu import call as on_gpu

        count = len(op.operands)
        return lambda *values: on_gpu(op.name, list(values[:count]), list(values[count:]))
    from fastmnist.kernels import cpu

    count = len(op.operands)
    return lambda *values: cpu.call(op.name, *values[:count], **dict(zip(op.params, values[count:], strict=True)))


def _verified(
    op: Op,
    call: Function,
    arrays: list[np.ndarray],
    params: Mapping[str, float],
    exact: list[np.ndarray],
    single: list[np.ndarray],
) -> str:
    """What is wrong with a call; empty if nothing is. NaN is never right where the oracle has a number."""
    try:
        with np.errstate(all="ignore"):
            call(*arrays, *params.values())
    except Exception as error:  # a user's function may raise anything
        return f"it failed: {type(error).__name__}: {error}"
    for operand, got, true, rounded in zip(op.outs, arrays, exact, single, strict=False):
        if true.dtype != np.float64:
            if not np.array_equal(got, true):
                return (
                    f"wrong: {operand.name} differs from the oracle in {int((got != true).sum())} of {got.size} values"
                )
            continue
        allowed = BUDGET * np.abs(rounded - true).max(initial=0.0) + SMALLEST * np.abs(true).max(initial=0.0)
        off = np.where(np.isfinite(got), np.abs(got - true), np.inf)
        if not (off <= allowed).all():
            bad = int((~(off <= allowed)).sum())
            return f"wrong: {operand.name} is off by up to {off.max():.3g} in {bad} of {got.size} values, {allowed:.3g} is allowed"
    return ""


def _prepared(
    provider: str, op: Op, call: Function, arrays: list[np.ndarray], params: Mapping[str, float]
) -> Callable[[], object]:
    """The call that is timed: compiled code by its address, as executors call it."""
    if provider != "numba":
        values = [*arrays, *params.values()]
        return lambda: call(*values)
    from fastmnist.kernels import cpu

    row = np.zeros(cpu.ROW_WORDS, np.int64)
    described = [
        (a.ctypes.data, a.shape, a.strides[0] // a.itemsize if a.ndim == 2 else 0, a.dtype.name) for a in arrays
    ]
    cpu.encode(row, op.name, described, list(params.values()))
    entry, address = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(row[0])), row.ctypes.data
    kept = row, arrays  # the addresses lead here

    def run(_kept: object = kept) -> None:
        entry(address)

    return run


def _timed(op: Op, provider: str, shown: str, dims: Mapping[str, int], call: Callable[[], object]) -> Timing:
    repeats, seconds = 1, 0.0
    with np.errstate(all="ignore"):
        while seconds < SAMPLE_SECONDS:
            seconds = _of(call, repeats)
            repeats = repeats if seconds >= SAMPLE_SECONDS else repeats * 2
        samples = [_of(call, repeats) / repeats for _ in range(SAMPLES)]
    low, middle, high = statistics.quantiles(samples, n=4)
    flops, nbytes = float(op.flops(dims)), float(op.nbytes(dims))
    gflops = flops / middle / 1e9 if flops else None
    known, roof = known_roofs(), None
    if known is not None and gflops and nbytes and provider != "cupy":
        roof = gflops / known.roof(flops / nbytes, 1)
    return Timing(op.name, provider, shown, 1e6 * middle, 1e6 * low, 1e6 * high, gflops, nbytes / middle / 1e9, roof)


def _of(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - start
