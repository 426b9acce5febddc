"""One op of the contract on arrays: `call_kernel` runs it, `warmup` compiles all of them ahead of time.

For study, tests and benchmarks. A fit does not come along here: executors run whole tables of ops.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fastmnist import backends
from fastmnist.kernels.contract import (
    BLOCK,
    CONTRACT,
    JOBS,
    QUAD,
    WINOGRAD_CHANNELS,
    WINOGRAD_PLACES,
    Op,
    Operand,
    check,
)
from fastmnist.threads import default_threads

# The first layer of the default network (batch 32, 784-128) on MNIST, whose 60,000 images have some 150 nonzero
# pixels each; images of 13 x 13 pixels and 32 channels, and 3 x 3 filters, which make 11 x 11 pixels.
STANDARD_DIMS = {
    "B": 32,
    "I": 784,
    "O": 128,
    "C": 10,
    "R": 784,
    "Q": 128,
    "N": 60_000,
    "M": 60_000,
    "S": 1_875,
    "P": 60_001,
    "Z": 9_000_000,
    "X": 13 * 13 * 32,
    "Y": 11 * 11 * 128,
    "K": 3 * 3 * 32,
    "V": 6 * 6 * 32,
    "F": 784,
    "W": 1,
    "E": 784 * 10,
    "G": 784 // QUAD,
    "J": QUAD * 32,
}


def call_kernel(
    name: str, *inputs: ArrayLike, backend: str = "numba", **keywords: ArrayLike
) -> np.ndarray | tuple[np.ndarray, ...]:
    """Run one op: check the operands, allocate the outputs, compute.

    Parameters
    ----------
    name : str
        An op of `fastmnist.kernels.contract.CONTRACT`; `fastmnist kernels` lists them.
    *inputs : array-like
        The op's inputs in the contract's order, C-contiguous or not. Types are not converted: floats are float32 (with
        backend "numpy" float64 as well), indices and labels as the contract says.
    backend : {"numba", "numpy", "cupy"}, default="numba"
        "numpy" is the oracle. With "cupy" the operands are copied to the GPU and back.
    **keywords
        The op's parameters by name; and by the name of an output its old content, for outputs that the op updates and
        for those whose shape does not follow from the inputs. They are copied, never written to.

    Returns
    -------
    ndarray, or tuple of ndarray when the op has several outputs

    Raises
    ------
    ValueError
        Unknown op or backend, a missing or unknown keyword, a shape that does not fit, an index out of range.
    TypeError
        Wrong number of inputs, or a dtype that the op does not take.
    fastmnist.BackendUnavailable
        The backend cannot run here.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmnist import call_kernel
    >>> x, w, b = np.ones((1, 2), np.float32), np.ones((2, 3), np.float32), np.zeros(3, np.float32)
    >>> call_kernel("linear_relu", x, w, b, backend="numpy")
    array([[2., 2., 2.]], dtype=float32)
    """
    if name not in CONTRACT:
        raise ValueError(
            f"Unknown op {name!r}; known: {', '.join(sorted(CONTRACT))}. `fastmnist kernels` explains them."
        )
    op = CONTRACT[name]
    ins = _inputs(op, inputs)
    outs, params = _keywords(op, keywords)
    floats = [ins[o.name].dtype for o in op.ins if "float" in o.dtypes and ins[o.name].dtype.kind == "f"]
    dtype = np.result_type(*floats) if floats and backend == "numpy" else np.dtype(np.float32)
    backends.require(backend, dtype=dtype)
    operands = {**_outputs(op, ins, outs, dtype), **ins}
    dims = check(name, *operands.values(), backend=backend)
    _check_contents(op, operands, dims, params)
    if backend == "numba":
        from fastmnist.kernels import cpu

        cpu.call(name, *operands.values(), **params)
    elif backend == "cupy":
        from fastmnist.backends.gpu import call

        call(name, list(operands.values()), list(params.values()))
    else:
        from fastmnist.kernels import reference

        getattr(reference, name)(*operands.values(), *params.values())
    results = tuple(operands[o.name] for o in op.outs)
    return results if len(results) > 1 else results[0]


def _inputs(op: Op, inputs: tuple[ArrayLike, ...]) -> dict[str, np.ndarray]:
    if len(inputs) != len(op.ins):
        names = ", ".join(f"{o.name}[{','.join(o.shape)}]" for o in op.ins) or "none"
        raise TypeError(
            f"{op.name} takes {len(op.ins)} inputs ({names}); got {len(inputs)}. Its outputs are allocated."
        )
    return {o.name: np.asarray(value, order="C") for o, value in zip(op.ins, inputs, strict=True)}


def _keywords(op: Op, keywords: Mapping[str, ArrayLike]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Tell initial contents of outputs and parameters apart; parameters come back in the contract's order."""
    out_names = [o.name for o in op.outs]
    unknown = set(keywords) - set(op.params) - set(out_names)
    if unknown:
        raise ValueError(
            f"{op.name} has no keyword {', '.join(map(repr, sorted(unknown)))}; parameters: {', '.join(op.params) or 'none'}; "
            f"outputs: {', '.join(out_names)}."
        )
    missing = [p for p in op.params if p not in keywords]
    if missing:
        raise ValueError(
            f"{op.name} needs the parameters {', '.join(op.params)}; missing: {', '.join(missing)}. ({op.doc})"
        )
    missing = [u for u in op.updates if u not in keywords]
    if missing:
        raise ValueError(
            f"{op.name} updates {', '.join(op.updates)}: give the old content by keyword; missing: {', '.join(missing)}. "
            f"({op.doc})"
        )
    outs = {o: np.array(keywords[o], order="C") for o in out_names if o in keywords}
    params = {}
    for p in op.params:
        value = np.asarray(keywords[p])
        if value.ndim or value.dtype.kind not in "uif" or not np.isfinite(value):
            raise ValueError(f"{op.name}: parameter {p} must be a finite number; got {keywords[p]!r}.")
        params[p] = float(value)
    return outs, params


def _outputs(
    op: Op, ins: Mapping[str, np.ndarray], outs: Mapping[str, np.ndarray], float_dtype: np.dtype
) -> dict[str, np.ndarray]:
    """The outputs that were given, and zeros for the others."""
    known: dict[str, int] = {}
    for operand in op.operands:
        array = ins.get(operand.name, outs.get(operand.name))
        if array is not None and array.ndim == len(operand.shape):
            known.update(zip(operand.shape, array.shape, strict=True))
    result = {}
    for operand in op.outs:
        if operand.name in outs:
            result[operand.name] = outs[operand.name]
            continue
        open_dims = [d for d in operand.shape if not d.isdecimal() and d not in known]
        if open_dims:
            raise ValueError(
                f"{op.name}: the size {', '.join(open_dims)} of output {operand.name} does not follow from the inputs; pass an "
                f"array {operand.name}=... of shape ({', '.join(operand.shape)}), whose content does not matter."
            )
        shape = tuple(int(d) if d.isdecimal() else known[d] for d in operand.shape)
        dtype = float_dtype if operand.dtypes[0] == "float" else np.dtype(operand.dtypes[0])
        result[operand.name] = np.zeros(shape, dtype)
    return result


def _check_contents(
    op: Op, operands: Mapping[str, np.ndarray], dims: Mapping[str, int], params: Mapping[str, float]
) -> None:
    """Refuse indices that point outside their array: compiled kernels follow them without looking."""

    def within(name: str, values: np.ndarray, low: int, high: int) -> None:
        if values.size and not (low <= values.min() and values.max() < high):
            raise ValueError(
                f"{op.name}: {name} must be >= {low} and < {high}; got {values.min()} to {values.max()}. "
                "Check it against the shapes of the other operands."
            )

    if "cursor" in operands and op.name != "advance":
        position, step = operands["cursor"]
        if "M" in dims:
            within("cursor[0]", np.array([position]), 0, dims["M"] - dims["B"] + 1)
        if "S" in dims:
            within("cursor[1]", np.array([step]), 0, dims["S"])
    if "indptr" in operands:
        indptr = operands["indptr"]
        within("indptr", indptr, 0, dims["Z"] + 1)
        if len(indptr) == 0 or (np.diff(indptr) < 0).any():
            raise ValueError(f"{op.name}: indptr must have at least one value and never fall; got {indptr!r}.")
        if op.name == "compress_rows":
            counts = (operands["source"] != 0).sum(axis=1)
            _check_room(
                op, indptr, counts, "nonzeros", "Make it of the cumulated counts of `count_nonzeros`, after a 0."
            )
        elif "bitmap" in operands:
            _check_room(
                op,
                indptr,
                _stored_values(operands["bitmap"]),
                "blocks",
                f"Make it of the cumulated bits of its bitmap times {BLOCK}, after a 0.",
            )
        else:
            _check_columns(op, indptr, operands["columns"], within, dims["I"] if "I" in dims else QUAD * dims["G"])
    if "starts" in operands:
        within("starts", operands["starts"], 0, dims["Z"] + 1)
        ends = operands["starts"] + _stored_values(operands["bitmap"])
        if (ends > dims["Z"]).any():
            raise ValueError(
                f"{op.name}: values must have room for all blocks of each row from its start on: {ends.max()} values; got {dims['Z']}."
            )
    if op.name in ("compress_rows", "pack_blocks"):
        _check_bytes(op, operands["source"], operands["values"])
    if "bitmap" in operands:
        _check_blocks(op, operands, dims, within)
    if "order" in operands:
        within("order", operands["order"], 0, dims["N"] if "N" in dims else dims["P"] - 1)
    if "labels" in operands:
        # One-vs-rest with a single output: the negative class is label 1, which names no output.
        n_labels = max(dims["C"], 2) if op.name.startswith("binary_cross_entropy") else dims["C"]
        within("labels", operands["labels"], 0, n_labels)
    if "J" in dims and (dims["J"] != QUAD * dims["B"] or ("I" in dims and dims["G"] != -(-dims["I"] // QUAD))):
        raise ValueError(
            f"{op.name}: I features are G = ceil(I / {QUAD}) quads, and entries has J = {QUAD} B columns; got dimensions {dict(dims)}."
        )
    if "counts" in operands and "counts" not in {o.name for o in op.outs}:
        counts, rows = operands["counts"], operands["rows"]
        within("counts", counts, 0, dims["B"] + 1)
        within("rows", rows[np.arange(dims["B"]) < counts[:, None]], 0, dims["B"])
    if op.name.startswith("winograd_filters"):
        _check_tile_filters(op, dims)
    if "height" in params:
        _check_images(op, operands, dims, params)
    elif {"Y", "O"} <= dims.keys() and (dims["O"] == 0 or dims["Y"] % dims["O"]):
        raise ValueError(f"{op.name}: Y = pixels * O must be a multiple of O = {dims['O']}; got {dims['Y']}.")
    for name in ("n", "n_total", "n_part"):
        if name in params and not params[name] > 0:
            raise ValueError(f"{op.name}: {name} must be > 0; got {params[name]:g}.")
    for name in ("rate", "label_smoothing"):
        if name in params and not (0 <= params[name] < 1):
            raise ValueError(f"{op.name}: {name} must be in [0, 1); got {params[name]:g}.")


def _check_tile_filters(op: Op, dims: Mapping[str, int]) -> None:
    channels, summed = dims["K"] // 9, "C"
    places = channels * WINOGRAD_PLACES
    if "C" in dims:  # turned: the convolution's filters are summed
        channels, summed, places = dims["C"], "O", dims["O"] * WINOGRAD_PLACES
    if dims["K"] != 9 * channels or dims["V"] != places:
        raise ValueError(
            f"{op.name}: filters of 3 x 3 pixels have K = 9 C weights and V = {WINOGRAD_PLACES} {summed}; got K = {dims['K']}, V = {dims['V']}."
        )


def _check_columns(op: Op, indptr: np.ndarray, columns: np.ndarray, within: Callable[..., None], n: int) -> None:
    """Of compressed rows that are read."""
    within("columns", columns, 0, n)
    first_of_row = np.isin(np.arange(1, len(columns)), indptr)
    if (~(np.diff(columns.astype(np.int64)) > 0) & ~first_of_row).any():
        raise ValueError(f"{op.name}: columns must ascend within each row, none of them twice.")


def _check_room(op: Op, indptr: np.ndarray, counts: np.ndarray, what: str, advice: str) -> None:
    """Of rows whose stored values lie one behind the other."""
    if not np.array_equal(np.diff(indptr), counts):
        raise ValueError(
            f"{op.name}: indptr must leave room for each row's {what} ({counts!r}); it leaves {np.diff(indptr)!r}. {advice}"
        )


def _check_bytes(op: Op, source: np.ndarray, values: np.ndarray) -> None:
    if values.dtype == np.uint8 and not np.isin(source, np.arange(256)).all():
        raise ValueError(f"{op.name}: to become bytes the source's values must be whole numbers from 0 to 255.")


def _stored_values(bitmap: np.ndarray) -> np.ndarray:
    """Values of each row's occupied blocks."""
    return np.bitwise_count(bitmap.view(np.uint64)).sum(axis=1, dtype=np.int64) * BLOCK


def _check_blocks(
    op: Op, operands: Mapping[str, np.ndarray], dims: Mapping[str, int], within: Callable[..., None]
) -> None:
    """Of rows in occupied blocks."""
    n_slots, rest = (dims["F"], 0) if "F" in dims else divmod(dims["E"], max(dims["O"], 1))
    if rest or n_slots % BLOCK or dims["W"] != -(-n_slots // (64 * BLOCK)):
        raise ValueError(
            f"{op.name}: features come in blocks of {BLOCK} slots, 64 blocks to a word of the bitmap, weights {BLOCK} to a block and "
            f"output; got dimensions {dict(dims)}."
        )
    if "features" in operands:
        within("features", operands["features"], -1, dims["I"])
    if op.name != "occupied_blocks":
        used = n_slots // BLOCK - 64 * np.arange(dims["W"])
        beyond = [
            word >> np.uint64(max(bits, 0))
            for word, bits in zip(operands["bitmap"].view(np.uint64).T, used, strict=True)
            if bits < 64
        ]
        if any(word.any() for word in beyond):
            raise ValueError(f"{op.name}: bits of bitmap behind the last of {n_slots // BLOCK} blocks must be 0.")


def _check_images(
    op: Op, operands: Mapping[str, np.ndarray], dims: Mapping[str, int], params: Mapping[str, float]
) -> None:
    """Refuse images whose sizes contradict each other: compiled kernels compute addresses from the parameters alone."""
    borders = ("top", "bottom", "left", "right")
    for name, value in params.items():
        least = 0 if name in borders else 1
        if value != int(value) or value < least:
            raise ValueError(f"{op.name}: {name} must be an integer >= {least}; got {value:g}.")
    of = {name: int(value) for name, value in params.items()}
    height, width, channels = of["height"], of["width"], of.get("channels", 1)
    sizes = {"X": height * width * channels}
    if "V" in dims:
        if channels > WINOGRAD_CHANNELS:
            raise ValueError(f"{op.name}: channels must be at most {WINOGRAD_CHANNELS}; got {channels}. Call conv2d.")
        of |= {"kernel_height": 3, "kernel_width": 3}
        sizes["V"] = WINOGRAD_PLACES * channels
    if "top" in of:
        sizes["Y"] = (height + of["top"] + of["bottom"]) * (width + of["left"] + of["right"]) * channels
    else:
        kind = "kernel" if "kernel_height" in of else "pool"
        rows, columns = of[f"{kind}_height"], of[f"{kind}_width"]
        if rows > height or columns > width:
            raise ValueError(
                f"{op.name}: the window must fit into the image of {height} x {width}; got {rows} x {columns}."
            )
        stride, pool, step = of.get("stride", 1), (rows, columns), of.get("pool_stride", 2)
        size = (height - rows) // stride + 1, (width - columns) // stride + 1
        if kind == "kernel" and "argmax" in operands:
            pool = of.get("pool_height", 2), of.get("pool_width", 2)
            if pool[0] > size[0] or pool[1] > size[1]:
                raise ValueError(
                    f"{op.name}: the pooling window must fit into the {size[0]} x {size[1]} pixels that the convolution makes; "
                    f"got {pool[0]} x {pool[1]}."
                )
            size = (size[0] - pool[0]) // step + 1, (size[1] - pool[1]) // step + 1
        sizes |= {"Y": size[0] * size[1] * dims.get("O", channels), "K": rows * columns * channels}
        if "argmax" in operands:
            if pool[0] * pool[1] > 256:
                raise ValueError(f"{op.name}: the window must have at most 256 pixels; got {pool[0]} x {pool[1]}.")
            if "pool_stride" in of and (operands["argmax"] >= pool[0] * pool[1]).any():
                raise ValueError(
                    f"{op.name}: argmax must be in 0 .. {pool[0] * pool[1] - 1} for windows of {pool[0]} x {pool[1]} pixels; "
                    f"got {operands['argmax'].max()}."
                )
    for name in sizes.keys() & dims.keys():
        if dims[name] != sizes[name]:
            raise ValueError(f"{op.name}: {name} must be {sizes[name]} for {params}; got {dims[name]}.")


@dataclass(frozen=True)
class Warmup:
    """What `warmup` did.

    Attributes
    ----------
    folder : Path
        Of the compiled code.
    n_kernels : int
        Compiled functions that are ready now.
    n_compiled : int
        Those that were not in the cache.
    seconds : float
        Wall time.
    """

    folder: Path
    n_kernels: int
    n_compiled: int
    seconds: float


def warmup(on_kernel: Callable[[str, int, int], None] | None = None) -> Warmup:
    """Compile every kernel that is not in the cache yet, so that no fit has to wait for it.

    Parameters
    ----------
    on_kernel : callable, optional
        Called before each kernel with its name, its number from 1 and how many there are.

    Returns
    -------
    Warmup

    Raises
    ------
    fastmnist.BackendUnavailable
        Compiled code cannot run here.
    """
    start = time.perf_counter()
    backends.require("numba")
    from fastmnist.kernels import cpu
    from fastmnist.kernels.cpu import objects

    kernels = [
        *((name, ()) for name in (*cpu.WALKERS, *cpu.CREW)),
        *((op.name, dtypes) for op in (*CONTRACT.values(), *JOBS.values()) for dtypes in _variants(op)),
    ]
    listeners = cpu.on_compile[:]
    cpu.on_compile.clear()  # the caller knows that this compiles: no announcement
    try:
        n_compiled = cpu.prepare(kernels, default_threads(), on_kernel)
    finally:
        cpu.on_compile[:] = listeners
    return Warmup(objects.cache_folder(), len(kernels), n_compiled, time.perf_counter() - start)


def _variants(op: Op) -> Iterator[tuple[str, ...]]:
    """The combinations of dtypes that a kernel is compiled for."""

    def choices(operand: Operand) -> list[str]:
        return ["float32" if dtype == "float" else dtype for dtype in operand.dtypes]

    return itertools.product(*map(choices, op.operands))
