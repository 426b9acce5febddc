"""Random operands for every op of the contract.

A case's arrays are cut out of larger buffers. What lies around and between their rows is filled with a signal (NaN in
floats), so a kernel that reads there spoils its own result, and one that writes there is found out.

A new op is tested by standing in the contract. If its operands need values of their own, say indices, `_content` says so until it has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT, QUAD, Operand

BLOCK = 16  # slots of a block of features
GUARD = 16  # elements before and behind an operand, at least a vector's worth
PADDING = 5  # elements between the rows of a strided matrix: no multiple of any vector's width
INTEGER_SIGNAL = 77
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
ONE_VS_REST = ("binary_cross_entropy", "binary_cross_entropy_by_class", "binary_cross_entropy_sums")
_WIDE = {*_OUTPUT_OF.values(), "gelu", "softmax", "softmax_cross_entropy", "softmax_twice_cross_entropy", *ONE_VS_REST}


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
    if "G" in contract.dims:
        dims.setdefault("I", 33)  # `sparse_quads` has no operand that shows it
        dims["G"], dims["J"] = -(-dims["I"] // QUAD), QUAD * n_batch
    if "bitmap" in names:
        contents.update(_block_rows(op, rng, dims, dtypes, values))
    elif op == "compress_rows":
        contents.update(_rows_to_compress(rng, dims, dtypes, values))
    elif "columns" in names:
        contents.update(_compressed_rows(rng, dims, dtypes, values, params["scale"]))
    if op.startswith("quad_"):
        contents.update(_quads(rng, dims, values))
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
        if (
            name == "source" and dtype == "float32" and "scale" in params
        ):  # of order 1 when scaled, as compressed rows are
            contents[name] /= np.float32(params["scale"])
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
        return rng.integers(0, max(dims["C"], 2) if op in ONE_VS_REST else dims["C"], shape).astype(np.int32)
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
        return {"source": source, "features": features, "bitmap": bitmap, "starts": indptr[:-1]}
    return {"bitmap": bitmap, "indptr": indptr, "values": content((dims["Z"],), dtypes["values"])}


def _quads(rng: np.random.Generator, dims: dict[str, int], values: str) -> dict[str, np.ndarray]:
    """A random sparse batch as `sparse_quads` leaves it: behind its entries lies anything, here the signals."""
    listed = rng.random((dims["G"], dims["B"])) < rng.choice([0.0, 0.2, 1.0], (dims["G"], 1))
    rows = np.full(listed.shape, INTEGER_SIGNAL, np.int32)
    entries = np.full((dims["G"], dims["J"]), np.nan, np.float32)
    for g, present in enumerate(listed):
        n = int(present.sum())
        rows[g, :n] = np.flatnonzero(present)
        quads = np.where(rng.random((n, QUAD)) < 0.7, floats(rng, (n, QUAD), values), 0)
        quads[:, dims["I"] - QUAD * g :] = 0  # there are no such features
        entries[g, : QUAD * n] = quads.ravel()
    return {"counts": listed.sum(axis=1).astype(np.int32), "rows": rows, "entries": entries}


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
