"""Random operands for every op of the contract, and the rule that a kernel is judged by.

A case's arrays are cut out of larger buffers. What lies around and between their rows is filled with a signal (NaN in
floats), so a kernel that reads there spoils its own result, and one that writes there is found out.

The rule is a budget: max |kernel - float64| <= 4 x max |NumPy float32 - float64| + 2 ulp of the largest magnitude in
that output (8 x for long sums, more ulp for scaled ones, see below), over several draws; NaN and inf stand in the same places; integers agree.

What NaN and inf do is what the formula makes of them in IEEE 754, as in the oracle: no kernel hides one, none makes one of finite values whose
result float32 can hold. Where the formula has no value (`determined`) anything goes. Denormal results may be flushed to zero.

A new op is tested by standing in the contract. If its operands need values of their own, say indices, `_content` says so until it has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT, Operand

Kernel = Callable[..., None]

DRAWS = (3, 20)  # at least, at most
ENOUGH = 100  # elements of an output that make its largest error a fair sample
BLOCK = 16  # slots of a block of features
GUARD = 16  # elements before and behind an operand, at least a vector's worth
PADDING = 5  # elements between the rows of a strided matrix: no multiple of any vector's width
INTEGER_SIGNAL = 77
FACTOR = 4
# Long sums may err twice as much. A kernel adds in one fixed order, whatever the number of threads; BLAS adds blocks
# whose number depends on the machine, and its error falls with the root of it. Among 16,000 cases 3 came to 5-6 times.
LONG_SUM, LONG_SUM_FACTOR = 64, 8
# Ops that scale the rows of a data set, of I features, add their products to the bias one by one; the oracle adds it last. Where the scale makes
# the products small, each sum so far is as large as the bias, and each addition rounds by up to half its ulp, 0.29 by the mean square: five such
# deviations of I of them.
ULPS_OF_SCALED_SUMS = 1.5  # times the root of I
TINY = float(np.finfo(np.float32).tiny)

VALUES = ("normal", "denormal", "huge", "one_huge", "zero_rows", "all_zero", "special")

# Params of image ops.
_WINDOW = ("kernel_height", "kernel_width", "pool_height", "pool_width", "stride", "pool_stride")
GEOMETRY = ("height", "width", "channels", "top", "bottom", "left", "right", *_WINDOW)

# Operand that may share memory with the first output.
IN_PLACE = {
    **dict.fromkeys(("relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu"), "x"),
    **{f"{name}_backward": "dy" for name in ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "dropout")},
    "softmax": "z",
}

# Operands that an op multiplies by themselves: they can't be of order 1e30.
_SQUARED = {"adam": {"w", "dw"}, "batch_moments": {"x"}, "merge_moments": {"total", "part"}}
_MANY_FACTORS = {"batch_norm_dx", "batch_norm_sums"}  # products of up to five operands

# Backward ops whose second input is an activation's output: where its values lie.
_OUTPUT_OF = {f"{name}_backward": name for name in ("relu", "leaky_relu", "elu", "sigmoid", "tanh")}
# Ops that never multiply two operands: values may span nearly the whole range.
_ONE_VS_REST = ("binary_cross_entropy", "binary_cross_entropy_by_class")
_WIDE = {*_OUTPUT_OF.values(), "gelu", "softmax", "softmax_cross_entropy", "softmax_twice_cross_entropy", *_ONE_VS_REST}


@dataclass
class Case:
    """Operands of one call.

    Attributes
    ----------
    op : str
    dims : dict
        Sizes by dimension name.
    arrays : dict
        Operands by name, views of `buffers`.
    params : dict
    buffers : dict
        One-dimensional arrays around the operands.
    """

    op: str
    dims: dict[str, int]
    arrays: dict[str, np.ndarray]
    params: dict[str, float]
    buffers: dict[str, np.ndarray]

    @property
    def out_names(self) -> tuple[str, ...]:
        return tuple(o.name for o in CONTRACT[self.op].outs)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self.dims.items())
        return f"{self.op}({sizes})"


# --- operands ---------------------------------------------------------------------------------------------------------


def floats(rng: np.random.Generator, shape: tuple[int, ...], values: str, *, wide: bool = False) -> np.ndarray:
    """Random float32 numbers of one of the `VALUES` modes."""
    x = rng.standard_normal(shape)
    if values == "wide":
        values, wide = "huge", True
    if values == "denormal":
        small = rng.choice([0.0, 1e-45, -1e-42, 3e-39, TINY, -0.0], shape)
        x = np.where(rng.random(shape) < 0.4, small, x)
    elif values == "huge":
        span = 30 if wide else 12  # products of three and their sums stay finite in float32
        x = x * 10.0 ** rng.uniform(-span, span, shape)
    elif values == "all_zero":
        x = x * 0.0  # of both signs
    elif values == "zero_rows":
        x = x * (rng.random((*shape[:-1], 1)) < 0.5) if len(shape) > 1 else x * (rng.random(shape) < 0.5)
    elif values == "special":
        x = np.where(rng.random(shape) < 0.03, rng.choice([np.nan, np.inf, -np.inf], shape), x)
    return x.astype(np.float32)


def make_case(
    op: str,
    dims: dict[str, int],
    rng: np.random.Generator,
    *,
    values: str = "normal",
    strided: bool | str = False,
    variant: int = 0,
) -> Case:
    """Random valid operands.

    Parameters
    ----------
    dims : dict
        The op's main dimensions, of B I O C R Q; the others (of the data set, the order, ...) are drawn.
    values : str
        One of `VALUES`.
    strided : bool or "each"
        Whether matrices have a leading dimension larger than their row; "each": every operand one of its own, and any alignment.
    variant : int
        Picks the dtypes of operands that have a choice.
    """
    contract = CONTRACT[op]
    dims = dict(dims)
    dtypes = _dtypes(contract.operands, variant)
    params = {name: float(dims[name]) if name in dims else drawn for name, drawn in _params(op, rng).items()}
    contents: dict[str, np.ndarray] = {}
    n_batch = dims.get("B", 0)
    position, step = int(rng.integers(0, 4)), int(rng.integers(0, 3))
    dims["M"] = position + n_batch + int(rng.integers(0, 4))
    dims["N"] = max(n_batch, 1) + int(rng.integers(0, 4))
    dims["S"] = step + 1 + int(rng.integers(0, 2))
    names = [operand.name for operand in contract.operands]
    if "bitmap" in names:
        contents.update(_block_rows(op, rng, dims, dtypes, values))
    elif op == "compress_rows":
        contents.update(_rows_to_compress(rng, dims, dtypes, values))
    elif "columns" in names:
        contents.update(_compressed_rows(rng, dims, dtypes, values, params["scale"]))
    if "counts" in names and op not in ("sparse_transpose", "count_nonzeros"):
        contents.update(_by_feature(rng, dims, values))
    huge = ""
    if values == "one_huge":  # one operand up to 1e30, the others of order 1
        read = [o.name for o in contract.operands if o in contract.ins or o.name in contract.updates]
        candidates = [name for name in read if name not in _SQUARED.get(op, ())]
        huge = str(rng.choice(candidates)) if candidates else ""
    for operand in contract.operands:
        name, dtype = operand.name, dtypes[operand.name]
        shape = tuple(int(d) if d.isdecimal() else dims[d] for d in operand.shape)
        if name in contents:
            continue
        if name == "cursor":
            contents[name] = np.array([position, step])
        elif operand in contract.outs and name not in contract.updates:
            contents[name] = _signal(dtype, shape)
        else:
            contents[name] = _content(op, name, dtype, shape, dims, "wide" if name == huge else values, rng)
    buffers, arrays = {}, {}
    for name in names:
        buffers[name], arrays[name] = _embed(contents[name], strided, rng)
    dims = {name: dims[name] for name in contract.dims}
    return Case(op, dims, arrays, params, buffers)


def _dtypes(operands: Sequence[Operand], variant: int) -> dict[str, str]:
    """One dtype for each operand: `variant` counts through all combinations."""
    chosen = {}
    for operand in operands:
        variant, index = divmod(variant, len(operand.dtypes))
        chosen[operand.name] = "float32" if operand.dtypes[index] == "float" else operand.dtypes[index]
    return chosen


def n_variants(op: str) -> int:
    """How many combinations of dtypes the op takes."""
    return int(np.prod([len(operand.dtypes) for operand in CONTRACT[op].operands]))


def _content(
    op: str, name: str, dtype: str, shape: tuple[int, ...], dims: dict[str, int], values: str, rng: np.random.Generator
) -> np.ndarray:
    if name == "order":
        return rng.integers(0, dims["N"], shape)
    if name == "labels":
        # With one output label 1 names none: the negative class of a binary problem.
        return rng.integers(0, max(dims["C"], 2) if op in _ONE_VS_REST else dims["C"], shape).astype(np.int32)
    if name == "key":
        return rng.integers(0, 2**32, shape).astype(np.uint32)
    if name == "argmax":
        return rng.integers(0, dims["pool_height"] * dims["pool_width"], shape).astype(np.uint8)
    if name == "hits":
        return rng.integers(0, 2, shape).astype(np.uint8)
    if name == "source":
        source = rng.integers(0, 256, shape).astype(np.uint8) if dtype == "uint8" else floats(rng, shape, values)
        if op.startswith("skipping"):
            source[rng.random(shape) >= rng.choice([0.0, 0.2, 1.0], (shape[0], 1))] = 0
        return source
    if name in ("sample_weight", "scale"):
        return (rng.random(shape) * (rng.random(shape) < 0.9)).astype(np.float32)
    if name == "hyper":
        return (rng.random(shape) * [0.1, 0.01, 0.01]).astype(np.float32)
    if name == "mask":
        return np.where(rng.random(shape) < 0.3, 0, 1 / 0.7).astype(np.float32)
    if name == "y" and op in _OUTPUT_OF:
        y = floats(rng, shape, "denormal" if values == "denormal" else "normal")
        getattr(reference, _OUTPUT_OF[op])(y, y)
        return y
    if dtype != "float32":
        raise LookupError(f"{op}: tests/kernel_cases.py has no values for {name} ({dtype}): add them to `_content`.")
    x = floats(rng, shape, values, wide=op in _WIDE)
    if values == "huge" and op in _MANY_FACTORS:
        x = np.sign(x) * np.sqrt(np.abs(x))
    if name == "moments" or op == "merge_moments":  # the second row are sums of squares
        x[1] = np.abs(x[1])
    return np.abs(x) if name in ("v", "variance") else x


def _compressed_rows(
    rng: np.random.Generator, dims: dict[str, int], dtypes: dict[str, str], values: str, scale: float
) -> dict[str, np.ndarray]:
    """A data set of compressed rows, some empty and some full; stored values are not 0, and of order 1 when scaled."""
    density = rng.choice([0.0, 0.2, 0.2, 1.0], dims["N"])
    stored = rng.random((dims["N"], dims["I"])) < density[:, np.newaxis]
    if values == "zero_rows":
        stored &= rng.random((dims["N"], 1)) < 0.5
    n_stored = int(stored.sum())
    if dtypes["values"] == "uint8":
        pixels = rng.integers(1, 256, n_stored).astype(np.uint8)
    else:
        pixels = floats(rng, (n_stored,), values) / np.float32(scale)
        pixels[pixels == 0] = 1
    dims["Z"], dims["P"] = n_stored, dims["N"] + 1
    return {
        "indptr": np.concatenate([[0], np.cumsum(stored.sum(axis=1))]).astype(np.int64),
        "columns": np.nonzero(stored)[1].astype(dtypes["columns"]),
        "values": pixels,
    }


def _rows_to_compress(
    rng: np.random.Generator, dims: dict[str, int], dtypes: dict[str, str], values: str
) -> dict[str, np.ndarray]:
    """Rows, some empty and some full, and where their nonzeros go; whole numbers where bytes are stored."""
    shape = dims["B"], dims["I"]
    source = rng.integers(0, 256, shape).astype(dtypes["source"])
    if dtypes["values"] == dtypes["source"] == "float32":
        source = floats(rng, shape, values)
    source[rng.random(shape) >= rng.choice([0.0, 0.2, 1.0], (shape[0], 1))] = 0
    indptr = np.concatenate([[0], np.cumsum((source != 0).sum(axis=1))]).astype(np.int64)
    dims["Z"], dims["P"] = int(indptr[-1]), len(indptr)
    return {"source": source, "indptr": indptr}


def _block_rows(
    op: str, rng: np.random.Generator, dims: dict[str, int], dtypes: dict[str, str], values: str
) -> dict[str, np.ndarray]:
    """Rows in occupied blocks, some empty and some full, their features in any slots."""
    n_rows = dims["B"] if op in ("occupied_blocks", "pack_blocks") else dims["N"]
    n_features = dims.get("I", int(rng.choice([1, 16, 40, 784, 1100])))
    n_blocks = -(-n_features // BLOCK) + int(rng.integers(0, 2))
    dims["F"], dims["W"] = n_blocks * BLOCK, -(-n_blocks // 64)
    features = rng.permutation(np.r_[:n_features, np.full(dims["F"] - n_features, -1)]).astype(np.int32)
    occupied = rng.random((n_rows, n_blocks)) < rng.choice([0.0, 0.3, 1.0], (n_rows, 1))
    bitmap = np.zeros((n_rows, dims["W"]), np.int64)
    for k in range(n_blocks):
        bitmap[:, k // 64] |= occupied[:, k].astype(np.int64) << k % 64
    indptr = np.r_[0, BLOCK * np.cumsum(occupied.sum(axis=1))].astype(np.int64)
    dims["E"], dims["P"], dims["Z"] = dims["F"] * dims.get("O", 0), n_rows + 1, int(indptr[-1])
    whole_numbers = "uint8" in (dtypes.get("source"), dtypes.get("values"))

    def content(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return (rng.integers(0, 256, shape) if whole_numbers else floats(rng, shape, values)).astype(dtype)

    if op == "occupied_blocks":
        source = content((n_rows, n_features), dtypes["source"])
        source[rng.random(source.shape) >= rng.choice([0.0, 0.03, 1.0], (n_rows, 1))] = 0
        return {"source": source, "features": features}
    if op == "pack_blocks":
        source = content((n_rows, n_features), dtypes["source"])
        return {"source": source, "features": features, "bitmap": bitmap, "indptr": indptr}
    return {"bitmap": bitmap, "indptr": indptr, "values": content((dims["Z"],), dtypes["values"])}


def _by_feature(rng: np.random.Generator, dims: dict[str, int], values: str) -> dict[str, np.ndarray]:
    """A random sparse batch as `sparse_transpose` leaves it: behind its entries lies anything, here the signals."""
    stored = rng.random((dims["I"], dims["B"])) < rng.choice([0.0, 0.2, 1.0], (dims["I"], 1))
    rows = np.full(stored.shape, INTEGER_SIGNAL, np.int32)
    entries = np.full(stored.shape, np.nan, np.float32)
    for i, present in enumerate(stored):
        n = int(present.sum())
        rows[i, :n] = np.flatnonzero(present)
        entries[i, :n] = floats(rng, (n,), values)
    return {"counts": stored.sum(axis=1).astype(np.int32), "rows": rows, "entries": entries}


def _params(op: str, rng: np.random.Generator) -> dict[str, float]:
    drawn = {
        "rows": float(rng.integers(0, 200)),
        "scale": float(rng.choice([1.0, 1 / 255, 0.3])),
        "rate": float(rng.choice([0.0, 0.1, 0.5, 0.9])),
        "layer": float(rng.integers(0, 5)),
        "row_offset": float(rng.integers(0, 40)),
        "column_offset": float(rng.integers(0, 40)),
        "label_smoothing": float(rng.choice([0.0, 0.1])),
        "momentum": 0.9,
        "alpha": float(rng.choice([0.0, 1.0, -2.5])),
        "beta": float(rng.choice([0.0, 1.0, -2.5])),
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-5 if op.startswith("batch_norm") else 1e-8,
        "n": float(rng.integers(1, 9)),
        "n_total": float(rng.integers(1, 9)),
        "n_part": float(rng.integers(1, 9)),
        **dict.fromkeys(GEOMETRY, 0.0),  # an image's are those of its sizes
    }
    for name in CONTRACT[op].params:
        if name not in drawn:
            raise LookupError(f"{op}: tests/kernel_cases.py has no value for {name}: add it to `_params`.")
    return {name: drawn[name] for name in CONTRACT[op].params}


def _signal(dtype: str | np.dtype, shape: int | tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(dtype)
    return np.full(shape, np.nan if dtype.kind == "f" else INTEGER_SIGNAL, dtype)


def _embed(content: np.ndarray, strided: bool | str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Put an array into a larger buffer; returns the buffer and the view."""
    start, padding = GUARD, PADDING if strided else 0
    if strided == "each":
        start, padding = GUARD + int(rng.integers(GUARD)), int(rng.integers(20))
    if content.ndim == 1:
        buffer = _signal(content.dtype, start + len(content) + GUARD)
        view = buffer[start : start + len(content)]
    else:
        n_rows, n_columns = content.shape
        ld = n_columns + padding
        buffer = _signal(content.dtype, start + n_rows * ld + GUARD)
        view = buffer[start : start + n_rows * ld].reshape(n_rows, ld)[:, :n_columns]
    view[...] = content
    return buffer, view


# --- sizes ------------------------------------------------------------------------------------------------------------

# One, primes, and a vector, tile or strip with one less and one more; the last is an ordinary layer's.
UGLY_LAYERS = (  # B, I, O
    (0, 3, 4),
    (1, 1, 1),
    (2, 7, 5),
    (15, 16, 17),
    (31, 33, 32),
    (64, 65, 63),
    (16, 100, 10),
    (5, 257, 130),
    (130, 31, 257),
    (33, 196, 128),
)
UGLY_MATRICES = (  # rows, columns
    (0, 3),
    (1, 1),
    (2, 7),
    (15, 17),
    (16, 16),
    (17, 15),
    (31, 33),
    (64, 65),
    (100, 10),
    (5, 130),
    (3, 257),
)


def sizes(op: str) -> Iterator[dict[str, int]]:
    """Main dimensions to try an op with."""
    if is_image_op(op):
        yield from image_sizes(op)
        return
    if {"Y", "O"} <= set(CONTRACT[op].dims):
        yield from ({"B": b, "O": o, "Y": o * pixels} for b, pixels, o in UGLY_CHANNELS)
        return
    if op == "winograd_filters_turned":
        yield from ({"V": 36 * o, "C": c, "O": o, "K": 9 * c} for c, o in ((1, 1), (2, 17), (17, 3), (33, 5)))
        return
    if op.startswith("winograd_filters"):
        yield from ({"V": 36 * c, "O": o, "K": 9 * c} for c, o in ((1, 1), (2, 17), (17, 33), (5, 48)))
        return
    if op == "transpose":
        yield from ({"O": rows, "K": columns} for rows, columns in UGLY_MATRICES)
        return
    main = sorted((name for name in CONTRACT[op].dims if name in "BIOCRQ"), key="BRIOCQ".index)
    if len(main) == 3:
        yield from (dict(zip(main, size, strict=True)) for size in UGLY_LAYERS)
    elif len(main) == 2:
        yield from (dict(zip(main, size, strict=True)) for size in UGLY_MATRICES)
    else:
        yield dict.fromkeys(main, 3)


# --- images -----------------------------------------------------------------------------------------------------------

# images, height, width, channels, rows and columns of the window, stride, filters: a tile's rows and lanes with one less and one more, windows as
# large as the image, strides that leave a rest, the layers of LeNet-5 in small.
UGLY_WINDOWS = (
    (0, 3, 3, 1, 2, 2, 1, 2),
    (1, 1, 1, 1, 1, 1, 1, 1),
    (2, 5, 4, 1, 3, 2, 1, 3),
    (3, 6, 6, 3, 3, 3, 2, 17),
    (1, 9, 7, 2, 2, 3, 3, 33),
    (2, 12, 13, 1, 5, 5, 1, 6),
    (2, 9, 9, 6, 5, 5, 1, 16),
    (2, 5, 6, 16, 3, 3, 1, 15),
    (1, 4, 5, 17, 2, 2, 1, 49),
    (2, 6, 5, 32, 3, 3, 1, 65),
    (1, 3, 3, 33, 3, 3, 1, 64),
    (1, 14, 3, 5, 3, 1, 1, 48),
)
UGLY_CHANNELS = (
    (0, 3, 4),
    (1, 1, 1),
    (2, 5, 17),
    (3, 4, 16),
    (5, 9, 33),
    (1, 130, 6),
    (17, 2, 64),
)  # images, pixels, channels
UGLY_POOLS = (
    (0, 4, 4, 3, 2, 2, 2, 0),
    (1, 1, 1, 1, 1, 1, 1, 0),
    (2, 4, 6, 16, 2, 2, 2, 0),
    (3, 7, 5, 17, 2, 2, 2, 0),
    (1, 6, 6, 33, 3, 3, 2, 0),
    (2, 5, 7, 5, 2, 3, 1, 0),
    (1, 8, 8, 15, 2, 3, 3, 0),
    (2, 7, 7, 6, 7, 7, 1, 0),
)


# The same with rows and columns of the pooling window and its stride behind them: windows that overlap, that leave a rest, that are the whole image.
UGLY_POOLED = (
    (0, 4, 4, 1, 2, 2, 1, 2, 2, 2, 2),
    (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    (2, 12, 13, 1, 5, 5, 1, 6, 2, 2, 2),
    (1, 36, 5, 1, 3, 2, 1, 3, 2, 2, 2),
    (1, 5, 38, 1, 4, 5, 1, 9, 2, 2, 2),
    (2, 3, 3, 1, 2, 2, 1, 65, 2, 2, 2),
    (2, 9, 9, 6, 5, 5, 1, 16, 2, 2, 2),
    (1, 8, 7, 32, 3, 3, 1, 65, 2, 2, 2),
    (3, 7, 6, 17, 3, 3, 2, 15, 2, 1, 1),
    (1, 7, 7, 40, 6, 3, 1, 17, 2, 2, 1),
    (2, 6, 9, 3, 2, 6, 1, 33, 2, 3, 3),
    (1, 40, 14, 16, 3, 4, 1, 5, 3, 3, 2),
    (1, 8, 16, 5, 1, 16, 1, 4, 1, 1, 1),
)


def is_image_op(op: str) -> bool:
    """Whether its operands are images, whose sizes stand in its params."""
    return "height" in CONTRACT[op].params


def image_sizes(op: str) -> Iterator[dict[str, int]]:
    """Dimensions and geometry to try an op on images with."""
    params = CONTRACT[op].params
    if "pool_stride" in params:
        yield from pooled_sizes()
        return
    if op == "conv2d_grey_pooled":
        yield from grey_sizes()
        return
    if "V" in CONTRACT[op].dims:
        yield from winograd_sizes()
        return
    for images, height, width, channels, rows, columns, stride, filters in (
        UGLY_WINDOWS if "kernel_height" in params else UGLY_POOLS
    ):
        geometry = {"height": height, "width": width, "channels": channels}
        if "top" in params:  # of padding: as many as the window has
            geometry |= {"top": rows - 1, "bottom": rows // 2, "left": columns // 3, "right": stride - 1}
            wide = width + geometry["left"] + geometry["right"]
            n_out = (height + geometry["top"] + geometry["bottom"]) * wide * channels
        else:
            window = "kernel" if "kernel_height" in params else "pool"
            geometry |= {f"{window}_height": rows, f"{window}_width": columns, "stride": stride}
            n_out = ((height - rows) // stride + 1) * ((width - columns) // stride + 1) * (filters or channels)
        sizes = {"B": images, "X": height * width * channels, "Y": n_out, "K": rows * columns * channels, "O": filters}
        yield {name: size for name, size in sizes.items() if name in CONTRACT[op].dims} | geometry


def winograd_sizes() -> Iterator[dict[str, int]]:
    """Tiles that hang over edges, blocks of them that end within an image, channels and filters around a vector and a strip."""
    for images, height, width, channels, filters in (
        (0, 3, 3, 1, 1),
        (1, 3, 3, 1, 1),
        (2, 6, 6, 16, 32),
        (3, 7, 5, 17, 15),
        (2, 13, 15, 5, 33),
        (1, 4, 30, 33, 49),
        (5, 8, 9, 2, 65),
    ):
        image, made = height * width, (height - 2) * (width - 2)
        sizes = {"B": images, "X": image * channels, "Y": made * filters, "V": 36 * channels, "O": filters}
        yield sizes | {"height": height, "width": width, "channels": channels}


def grey_sizes() -> Iterator[dict[str, int]]:
    """Of a convolution of one channel that is pooled: pixels and filters of a tile with one less and one more."""
    for images, height, width, rows, columns, filters in (
        (0, 4, 4, 1, 1, 1),
        (1, 2, 2, 1, 1, 1),
        (2, 12, 13, 5, 5, 6),
        (3, 7, 6, 2, 3, 5),
        (1, 6, 36, 3, 4, 7),
        (1, 9, 72, 4, 5, 3),
        (2, 5, 33, 2, 1, 13),
        (1, 8, 11, 7, 2, 8),
    ):
        pooled = ((height - rows + 1) // 2) * ((width - columns + 1) // 2)
        sizes = {"B": images, "X": height * width, "Y": pooled * filters, "K": rows * columns, "O": filters}
        yield sizes | {"height": height, "width": width, "kernel_height": rows, "kernel_width": columns}


def pooled_sizes() -> Iterator[dict[str, int]]:
    """Of a convolution whose output is pooled."""
    for images, height, width, channels, rows, columns, stride, filters, *pool in UGLY_POOLED:
        geometry = {"height": height, "width": width, "channels": channels}
        geometry |= {"kernel_height": rows, "kernel_width": columns, "stride": stride}
        geometry |= dict(zip(("pool_height", "pool_width", "pool_stride"), pool, strict=True))
        made = (height - rows) // stride + 1, (width - columns) // stride + 1
        pooled = ((made[0] - pool[0]) // pool[2] + 1) * ((made[1] - pool[1]) // pool[2] + 1)
        sizes = {"X": height * width * channels, "Y": pooled * filters, "K": rows * columns * channels}
        yield {"B": images, **sizes, "O": filters} | geometry


# --- judgement --------------------------------------------------------------------------------------------------------


def run_reference(case: Case, dtype: type[np.floating]) -> dict[str, np.ndarray]:
    """What the oracle gives for a case when it computes in `dtype`, by output name; the case is left as it is."""
    copies = {name: a.astype(dtype) if a.dtype == np.float32 else a.copy() for name, a in case.arrays.items()}
    getattr(reference, case.op)(*copies.values(), **case.params)
    return {name: copies[name] for name in case.out_names}


def determined(case: Case, name: str) -> np.ndarray:
    """Which elements of an output the contract determines, as a mask."""
    shape = case.arrays[name].shape
    mask = np.ones(shape, bool)
    if case.op == "sparse_transpose" and name in ("rows", "entries"):
        counts = run_reference(case, np.float64)["counts"]
        mask &= np.arange(shape[1]) < counts[:, np.newaxis]
    if case.op == "conv2d_grey_pooled" and name == "argmax":
        mask &= _clear_winners(case)
    if case.op == "max_pool" and name == "argmax":
        mask &= ~np.isnan(run_reference(case, np.float64)["y"])
    if case.op in ("softmax_cross_entropy", "softmax_twice_cross_entropy", *_ONE_VS_REST):
        z, start = case.arrays["z"], int(case.arrays["cursor"][0])
        batch = slice(start, start + len(z))
        if name == "hits":  # no largest logit beside a NaN
            mask[batch] &= ~np.isnan(z).any(axis=1)
        if case.op in _ONE_VS_REST and name == "losses":  # inf - inf or inf - 0 inf: the formula has no value
            mask[batch] &= ~(np.isinf(z) if mask.ndim == 2 else np.isinf(z).any(axis=1))
    return mask


def _clear_winners(case: Case) -> np.ndarray:
    """Where rounding cannot change which of 2 x 2 sums is the largest, nor whether one is above 0."""
    x, w, b = (case.arrays[name].astype(np.float64) for name in ("x", "w", "b"))
    height, width, rows, columns = (
        int(case.params[name]) for name in ("height", "width", "kernel_height", "kernel_width")
    )
    made = height - rows + 1, width - columns + 1, len(b)
    sums, sizes = (np.empty((len(x), math.prod(made))) for _ in range(2))
    with np.errstate(all="ignore"):
        reference.conv2d(sums, x, w, b, height, width, 1, rows, columns, 1)
        reference.conv2d(sizes, abs(x), abs(w), abs(b), height, width, 1, rows, columns, 1)
        pooled = made[0] // 2, 2, made[1] // 2, 2, made[2]
        cut = (slice(None), slice(2 * pooled[0]), slice(2 * pooled[2]))
        four, size = (
            np.moveaxis(a.reshape(-1, *made)[cut].reshape(-1, *pooled), 4, 3).reshape(-1, pooled[0], 4, *pooled[2::2])
            for a in (sums, sizes)
        )
        slack = 1e-5 * size.max(axis=2) + TINY
        ordered = np.sort(four, axis=2)
        clear = (ordered[:, :, 3] > slack) & (ordered[:, :, 3] - ordered[:, :, 2] > slack)
        return (clear | (ordered[:, :, 3] < -slack)).reshape(case.arrays["argmax"].shape)


@dataclass
class Errors:
    """Largest errors of one output over the draws so far."""

    factor: int
    ulps: float = 2.0
    ours: float = 0.0
    numpy: float = 0.0
    largest: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def budget(self) -> float:
        # Compiled kernels may flush denormals to zero: below the smallest normal number there is no ulp to count.
        ulp = max(float(np.spacing(np.float32(self.largest))), TINY)
        return self.factor * self.numpy + self.ulps * ulp


def assert_within_budget(
    kernel: Kernel,
    op: str,
    dims: dict[str, int],
    *,
    values: str = "normal",
    strided: bool | str = False,
    variant: int = 0,
    in_place: bool = False,
    seed: int = 0,
) -> None:
    """Run `kernel(op, *arrays, **params)` on several random cases and compare it with the oracle.

    Raises
    ------
    AssertionError
        Outside the budget, NaN or inf in other places, an integer that differs, a write outside the outputs; the
        message says how many and where.
    """
    rng = np.random.default_rng([seed, *dims.values(), *op.encode()])
    factor = LONG_SUM_FACTOR if _terms(op, dims) > LONG_SUM else FACTOR
    scaled = "scale" in CONTRACT[op].params and any(operand.name == "b" for operand in CONTRACT[op].ins)
    ulps = max(2.0, ULPS_OF_SCALED_SUMS * math.sqrt(dims.get("I", LONG_SUM))) if scaled else 2.0
    errors = {operand.name: Errors(factor, ulps) for operand in CONTRACT[op].outs}
    for draw in range(DRAWS[1]):
        case = make_case(op, dims, rng, values=values, strided=strided, variant=variant)
        if in_place:
            shared = IN_PLACE[op]
            case.buffers[case.out_names[0]] = case.buffers[shared]
            case.arrays[case.out_names[0]] = case.arrays[shared]
        exact, single = run_reference(case, np.float64), run_reference(case, np.float32)
        masks = {name: determined(case, name) for name in case.out_names}
        before = {name: buffer.copy() for name, buffer in case.buffers.items()}
        kernel(op, *case.arrays.values(), **case.params)
        _assert_nothing_else_written(case, before)
        for name in case.out_names:
            _compare(case, name, exact[name], single[name], masks[name], errors[name])
        size = case.arrays[case.out_names[0]].size
        if draw + 1 >= DRAWS[0] and ((draw + 1) * size >= ENOUGH or size == 0):
            break
    for name, error in errors.items():
        if not (error.ours <= error.budget):
            notes = "\n  ".join(error.notes)
            raise AssertionError(
                f"{op}: {name} is off by {error.ours:.3g}, budget {error.budget:.3g} (NumPy's float32 error "
                f"{error.numpy:.3g}, largest value {error.largest:.3g}); values={values}, strided={strided}, "
                f"variant={variant}, in_place={in_place}\n  {notes}"
            )


def _terms(op: str, dims: dict[str, int]) -> int:
    """How many products each element of the first output sums: over the main dimensions that it does not have."""
    if op == "block_linear":  # its features are drawn
        return LONG_SUM + 1
    if op in ("conv2d_dx", "conv2d_pooled_dx"):
        return dims["kernel_height"] * dims["kernel_width"] * dims["O"]
    if op.startswith(("conv2d_dw", "conv2d_db", "conv2d_pooled_dw")) or op in ("batch_moments", "batch_norm_sums"):
        return dims["B"] * dims["Y"] // dims["O"]
    if op in ("conv2d", "conv2d_relu", "conv2d_grey_pooled"):
        return dims["K"]
    if op.startswith("conv2d_winograd"):
        return dims["V"]
    if op.startswith("winograd_filters"):
        return 9
    if op == "avg_pool":
        return dims["pool_height"] * dims["pool_width"]
    if is_image_op(op) or {"Y", "O"} <= set(CONTRACT[op].dims):
        return 1
    return math.prod(size for name, size in dims.items() if name not in CONTRACT[op].outs[0].shape)


def _assert_nothing_else_written(case: Case, before: dict[str, np.ndarray]) -> None:
    writable = {id(case.buffers[name]) for name in case.out_names}
    for name, buffer in case.buffers.items():
        after = buffer.copy()
        if id(buffer) in writable:  # put the old content back into the operand: what still differs lies outside it
            _view_like(after, buffer, case.arrays[name])[...] = _view_like(before[name], buffer, case.arrays[name])
        changed = np.flatnonzero(_bits(after) != _bits(before[name]))
        if len(changed):
            what = "outside of" if id(buffer) in writable else "into the input"
            raise AssertionError(
                f"{case}: {len(changed)} elements written {what} {name} (shape {case.arrays[name].shape}, strides "
                f"{case.arrays[name].strides}), at {(changed[:8] - _start(buffer, case.arrays[name])).tolist()} from its start"
            )


def _view_like(buffer: np.ndarray, original: np.ndarray, view: np.ndarray) -> np.ndarray:
    """The part of `buffer` that corresponds to `view`, a view of `original`."""
    start = _start(original, view)
    return np.lib.stride_tricks.as_strided(buffer[start:], view.shape, view.strides)


def _start(buffer: np.ndarray, view: np.ndarray) -> int:
    """Index in `buffer` of the first element of `view`."""
    return (view.__array_interface__["data"][0] - buffer.__array_interface__["data"][0]) // buffer.itemsize


def _bits(a: np.ndarray) -> np.ndarray:
    return a.view(f"u{a.itemsize}")  # NaN equals NaN here, and -0 differs from 0


def _compare(case: Case, name: str, exact: np.ndarray, single: np.ndarray, mask: np.ndarray, errors: Errors) -> None:
    got = case.arrays[name]
    if got.dtype.kind != "f":
        wrong = mask & (got != exact)
        assert not wrong.any(), f"{case}: {name}: {_where(wrong)}, e.g. {got[wrong][0]} instead of {exact[wrong][0]}"
        return
    got = got.astype(np.float64)
    single = single.astype(np.float64)
    for kind, test in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        assert np.array_equal(test(exact) & mask, test(single) & mask), f"{case}: {name}: float32 cannot hold this case"
        missing, surplus = mask & test(exact) & ~test(got), mask & test(got) & ~test(exact)
        assert not missing.any(), f"{case}: {name}: {kind} missing: {_where(missing)}"
        assert not surplus.any(), f"{case}: {name}: {kind} where there is none: {_where(surplus)}"
    mask = mask & np.isfinite(exact)
    if not mask.any():
        return
    error = np.zeros(got.shape)
    error[mask] = np.abs(got[mask] - exact[mask])
    errors.ours = max(errors.ours, float(error.max()))
    errors.numpy = max(errors.numpy, float(np.abs(single[mask] - exact[mask]).max()))
    errors.largest = max(errors.largest, float(np.abs(exact[mask]).max()))
    wrong = ~(error <= errors.budget)
    if wrong.any():
        worst = np.unravel_index(int(error.argmax()), error.shape)
        errors.notes.append(f"{case}: {_where(wrong)}; worst {got[worst]:.9g} instead of {exact[worst]:.9g}")


def _where(wrong: np.ndarray) -> str:
    places = ", ".join(str(tuple(map(int, index))) for index in np.argwhere(wrong)[:6])
    return f"{int(wrong.sum())} of {wrong.size} elements, at {places}" + (", ..." if wrong.sum() > 6 else "")
