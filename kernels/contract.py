"""Every op: its operands in order, their shapes and types, what it costs, and what it computes.

One table for all backends. An op has the same name and the same positional order of operands in each: outputs, inputs, parameters.
`reference.py` is its meaning in plain NumPy, `cpu/` the compiled one. The executors, the listing, the tests and the benchmarks all read this
table.

The alphabet of dimensions: B rows of a batch, I inputs of a layer, O outputs of a layer, C classes, N rows of the data set, M entries of
the order, S steps of an epoch, R x Q any matrix, Z stored values, P row pointers of compressed rows; of image layers X = H W C values of an
image that is read, Y = OH OW O values of one that is made, K = kernel_height kernel_width C weights of a filter, O filters;
V = 36 C places of a filter's transformed
channels; F slots of features in blocks, W words of a row's bitmap of blocks, E elements of weights that lie block by block.

Images are rows of a matrix: pixel by pixel from the top left, the channels of a pixel side by side (height, width, channels). What a shape
cannot tell stands in the params `height width channels` of the image X, and in those of the window that moves over it without padding:
OH = (height - kernel_height) // stride + 1, OW likewise; `pad` and `crop` make and take away a border of zeros.

Strides. Two-dimensional operands are row-major with a leading dimension of their own (`ld_<name>`, in elements), so an op works on a block of
a larger array; one-dimensional operands are contiguous. At the surface (`fastmnist.call_kernel`) everything is C-contiguous.

Cursor. What changes from step to step lies in memory, never in a by-value scalar. `cursor[0]` is the first position in `order` of the
current batch, `cursor[1]` the number of the step in the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Dims = Mapping[str, int]


@dataclass(frozen=True)
class Operand:
    """One array an op reads or writes.

    Attributes
    ----------
    name : str
    shape : tuple of str
        Names of dimensions, or decimal numbers.
    dtypes : tuple of str
        The types it may have. "float" stands for the executor's arithmetic type: float32 in compiled kernels, float32 or float64 in the oracle.
    """

    name: str
    shape: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float",)


@dataclass(frozen=True)
class Op:
    """One line of the contract.

    Attributes
    ----------
    name : str
    outs : tuple of Operand
        Written. Those also named in `updates` are read first, the others are overwritten.
    ins : tuple of Operand
        Only read.
    params : tuple of str
        By-value scalars (float64), constant for a whole run.
    updates : tuple of str
        Names of the outs whose old content matters.
    flops, nbytes : callable
        From a mapping of dimensions to floating-point operations and to bytes of compulsory traffic (float32).
    doc : str
        The formula.
    """

    name: str
    outs: tuple[Operand, ...]
    ins: tuple[Operand, ...]
    params: tuple[str, ...]
    updates: tuple[str, ...]
    flops: Callable[[Dims], float]
    nbytes: Callable[[Dims], float]
    doc: str

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Outputs, then inputs: the positional order of every implementation."""
        return self.outs + self.ins

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions, in order of first appearance."""
        seen = dict.fromkeys(d for operand in self.operands for d in operand.shape if not d.isdecimal())
        return tuple(seen)

    def bind_dims(self, shapes: list[tuple[int, ...]]) -> dict[str, int]:
        """Match the operands' shapes with the dimensions' names.

        Raises
        ------
        ValueError
            A rank or a dimension does not fit; the message names the operand.
        """
        dims: dict[str, int] = {}
        for operand, shape in zip(self.operands, shapes, strict=True):
            expected = f"{self.name}: {operand.name} must have shape ({', '.join(operand.shape)})"
            if len(shape) != len(operand.shape):
                raise ValueError(f"{expected}; got {shape}.")
            for name, size in zip(operand.shape, shape, strict=True):
                want = int(name) if name.isdecimal() else dims.setdefault(name, size)
                if want != size:
                    raise ValueError(f"{expected} with {name} = {want}; got {shape}.")
        return dims


CONTRACT: dict[str, Op] = {}
# Whole jobs, described and compiled like ops, that no program contains: called one by one from the host. What they cost depends on the data.
JOBS: dict[str, Op] = {}

_INTEGER = {"cursor": "int64", "order": "int64", "labels": "int32", "indptr": "int64"}


def _operands(text: str, types: Mapping[str, tuple[str, ...]]) -> tuple[Operand, ...]:
    """Parse "y[B,O] x[B,I]"."""
    result = []
    for word in text.split():
        name, shape = word.rstrip("]").split("[")
        dtypes = types.get(name) or ((_INTEGER[name],) if name in _INTEGER else ("float",))
        result.append(Operand(name, tuple(shape.split(",")), dtypes))
    return tuple(result)


def _op(
    name: str,
    outs: str,
    ins: str,
    doc: str,
    *,
    params: str = "",
    updates: str = "",
    flops: Callable[[Dims], float] = lambda d: 0,
    nbytes: Callable[[Dims], float] | None = None,
    types: Mapping[str, tuple[str, ...]] | None = None,
    table: dict[str, Op] = CONTRACT,
) -> None:
    outputs, inputs = _operands(outs, types or {}), _operands(ins, types or {})

    def traffic(d: Dims) -> float:
        size = lambda o: 1.0 * _product(d[s] if not s.isdecimal() else int(s) for s in o.shape) * _itemsize(o.dtypes[0])  # noqa: E731
        return sum(map(size, outputs + inputs)) + sum(size(o) for o in outputs if o.name in updates.split())

    table[name] = Op(
        name,
        outputs,
        inputs,
        tuple(params.split()),
        tuple(updates.split()),
        flops,
        nbytes or traffic,
        " ".join(doc.split()),
    )


def _product(sizes) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _itemsize(dtype: str) -> int:
    return {"float": 4, "float32": 4, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "float64": 8}[dtype]


_PIXELS = {"source": ("uint8", "float")}
_COMPRESSED = {"columns": ("uint16", "int32"), "values": ("uint8", "float")}

# --- reading the batch ------------------------------------------------------------------------------------------------------------
_op(
    "advance",
    "cursor[2]",
    "",
    "cursor[0] += rows; cursor[1] += 1: on to the next batch.",
    params="rows",
    updates="cursor",
)
_op(
    "scatter_rows",
    "target[M,C]",
    "p[B,C] cursor[2]",
    "target[cursor[0] + r] = p[r].",
    updates="target",
    nbytes=lambda d: 8.0 * d["B"] * d["C"],
)
_op(
    "gather_rows",
    "x[B,I]",
    "source[N,I] order[M] cursor[2]",
    "x[r] = scale * source[order[cursor[0] + r]].",
    params="scale",
    types=_PIXELS,
    flops=lambda d: d["B"] * d["I"],
    nbytes=lambda d: 5.0 * d["B"] * d["I"],
)

# --- matrix products ------------------------------------------------------------------------------------------------------------------
_gemm = lambda d: 2.0 * d["B"] * d["I"] * d["O"]  # noqa: E731
for _name, _a, _b, _formula in (
    ("nn", "a[B,I]", "b[I,O]", "a b"),
    ("nt", "a[B,I]", "b[O,I]", "a b^T"),
    ("tn", "a[I,B]", "b[I,O]", "a^T b"),
    ("tt", "a[I,B]", "b[O,I]", "a^T b^T"),
):
    _op(
        f"gemm_{_name}",
        "c[B,O]",
        f"{_a} {_b}",
        f"c = alpha {_formula} + beta c (Dongarra et al. 1990, level 3 BLAS); with beta 0 c is not read, with alpha 0 a and b are not.",
        params="alpha beta",
        updates="c",
        flops=_gemm,
    )

# --- fully connected layer ----------------------------------------------------------------------------------------------------------
_op("linear", "y[B,O]", "x[B,I] w[I,O] b[O]", "y = x w + b.", flops=_gemm)
_op("linear_relu", "y[B,O]", "x[B,I] w[I,O] b[O]", "y = max(x w + b, 0).", flops=_gemm)
_op("linear_dx", "dx[B,I]", "dy[B,O] w[I,O]", "dx = dy w^T.", flops=_gemm)
_op(
    "linear_dx_add",
    "dx[B,I]",
    "dy[B,O] w[I,O]",
    "dx += dy w^T: the next panel of columns of w.",
    updates="dx",
    flops=_gemm,
)
_op("linear_dw", "dw[I,O]", "x[B,I] dy[B,O]", "dw = x^T dy.", flops=_gemm)
_op("linear_dw_add", "dw[I,O]", "x[B,I] dy[B,O]", "dw += x^T dy.", updates="dw", flops=_gemm)
_op("linear_db", "db[O]", "dy[B,O]", "db = column sums of dy.", flops=lambda d: d["B"] * d["O"])
_op("linear_db_add", "db[O]", "dy[B,O]", "db += column sums of dy.", updates="db", flops=lambda d: d["B"] * d["O"])

# --- first layer on compressed rows: zero pixels are skipped, exactly ---------------------------------------------------------------
# Row i of the data set is columns[indptr[i]:indptr[i+1]] with values[...] (multiplied by scale when read).
_op(
    "count_nonzeros",
    "counts[B]",
    "source[B,I]",
    "counts[r] = number of values of source[r] that are not 0; NaN counts.",
    types={**_PIXELS, "counts": ("int64",)},
    nbytes=lambda d: 1.0 * d["B"] * d["I"] + 8.0 * d["B"],
)
_op(
    "compress_rows",
    "columns[Z] values[Z]",
    "source[B,I] indptr[P]",
    """Row r's values that are not 0 go to values[indptr[r]:indptr[r+1]], their column numbers to columns[...], ascending; indptr says where each
    row begins and must leave room for exactly its nonzeros. Floats become bytes only where they are whole numbers from 0 to 255.""",
    types={**_COMPRESSED, **_PIXELS},
    nbytes=lambda d: 1.0 * d["B"] * d["I"] + 3.0 * d["Z"] + 8.0 * d["P"],
)
for _name, _formula in (("sparse_linear", "y = x w + b"), ("sparse_linear_relu", "y = max(x w + b, 0)")):
    _op(
        _name,
        "y[B,O]",
        "indptr[P] columns[Z] values[Z] w[I,O] b[O] order[M] cursor[2]",
        f"{_formula}, where row r of x is the compressed row order[cursor[0] + r].",
        params="scale",
        types=_COMPRESSED,
        flops=lambda d: 2.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"] * d["O"],
        nbytes=lambda d: 4.0 * (d["B"] * d["O"] + d["I"] * d["O"]) + 3.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"],
    )
for _name, _formula in (("skipping_linear", "y = x w + b"), ("skipping_linear_relu", "y = max(x w + b, 0)")):
    _op(
        _name,
        "y[B,O]",
        "source[N,I] w[I,O] b[O] order[M] cursor[2]",
        f"{_formula}, where x[r] = scale * source[order[cursor[0] + r]], of which only the values that are not 0 are multiplied.",
        params="scale",
        types=_PIXELS,
        flops=lambda d: _gemm(d) * 0.2,
        nbytes=lambda d: 4.0 * (d["B"] * d["O"] + d["I"] * d["O"]) + 1.0 * d["B"] * d["I"],
    )
_op(
    "sparse_transpose",
    "counts[I] rows[I,B] entries[I,B]",
    "indptr[P] columns[Z] values[Z] order[M] cursor[2]",
    """The batch by feature: feature i is nonzero in the batch's rows rows[i, :counts[i]], in ascending order, with values
    entries[i, :counts[i]]. What lies behind counts[i] is unspecified.""",
    params="scale",
    types={**_COMPRESSED, "counts": ("int32",), "rows": ("int32",)},
    nbytes=lambda d: 11.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"],
)
_op(
    "sparse_linear_dw",
    "dw[I,O]",
    "counts[I] rows[I,B] entries[I,B] dy[B,O]",
    "dw = x^T dy, x given by feature as `sparse_transpose` leaves it.",
    types={"counts": ("int32",), "rows": ("int32",)},
    flops=lambda d: 2.0 * d["I"] * d["O"] * d["B"] * 0.2,
)
_op(
    "sparse_linear_dw_add",
    "dw[I,O]",
    "indptr[P] columns[Z] values[Z] dy[B,O] order[M] cursor[2]",
    "dw += x^T dy, where row r of x is the compressed row order[cursor[0] + r]; rows are added in ascending r.",
    params="scale",
    updates="dw",
    types=_COMPRESSED,
    flops=lambda d: 2.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"] * d["O"],
    nbytes=lambda d: 4.0 * d["B"] * d["O"] + 3.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"] + 8.0 * d["I"] * d["O"],
)

# --- convolution: every image a row, every filter a column of w ---------------------------------------------------------------------
_IMAGE, _WINDOW = "height width channels", "kernel_height kernel_width stride"
_conv = lambda d: 2.0 * d["B"] * d["Y"] * d["K"]  # noqa: E731
for _name, _formula in (("conv2d", "{}"), ("conv2d_relu", "max({}, 0)")):
    _sum = "b[o] + sum over i, j, c of x[oy stride + i, ox stride + j, c] w[(i, j, c), o]"
    _op(
        _name,
        "y[B,Y]",
        "x[B,X] w[K,O] b[O]",
        f"y[oy, ox, o] = {_formula.format(_sum)}.",
        params=f"{_IMAGE} {_WINDOW}",
        flops=_conv,
    )
_op(
    "conv2d_dx",
    "dx[B,X]",
    "dy[B,Y] wt[O,K]",
    "dx[iy, ix, c] = sum over i, j, oy, ox, o with iy = oy stride + i, ix = ox stride + j of dy[oy, ox, o] wt[o, (i, j, c)]; wt = w^T.",
    params=f"{_IMAGE} {_WINDOW}",
    flops=_conv,
)
for _name, _formula, _updates in (("conv2d_dw", "=", ""), ("conv2d_dw_add", "+=", "dw")):
    _op(
        _name,
        "dw[K,O]",
        "x[B,X] dy[B,Y]",
        f"dw[(i, j, c), o] {_formula} sum over images, oy, ox of x[oy stride + i, ox stride + j, c] dy[oy, ox, o].",
        params=f"{_IMAGE} {_WINDOW}",
        updates=_updates,
        flops=_conv,
    )
for _name, _formula, _updates in (("conv2d_db", "=", ""), ("conv2d_db_add", "+=", "db")):
    _op(
        _name,
        "db[O]",
        "dy[B,Y]",
        f"db[o] {_formula} sum over images and pixels of dy[pixel, o].",
        updates=_updates,
        flops=lambda d: d["B"] * d["Y"],
    )
# A convolution whose output goes through max pooling alone: the pixels that were not chosen have no gradient, and are not looked at.
_POOLED = f"{_IMAGE} {_WINDOW} pool_height pool_width pool_stride"
_CHOSEN = (
    "(ay, ax) is the place argmax[py, px, o] of the pooling window: ay = py pool_stride + argmax // pool_width, "
    "ax = px pool_stride + argmax % pool_width"
)
for _name, _formula, _updates in (("conv2d_pooled_dwt", "=", ""), ("conv2d_pooled_dwt_add", "+=", "dwt")):
    _op(
        _name,
        "dwt[O,K]",
        "x[B,X] dy[B,Y] argmax[B,Y]",
        f"dwt[o, (i, j, c)] {_formula} sum over images, py, px of x[ay stride + i, ax stride + j, c] dy[py, px, o], where dy is not 0; "
        f"{_CHOSEN}.",
        params=_POOLED,
        updates=_updates,
        types={"argmax": ("uint8",)},
        flops=_conv,
    )
_op(
    "conv2d_pooled_dx",
    "dx[B,X]",
    "dy[B,Y] argmax[B,Y] wt[O,K]",
    f"""dx[iy, ix, c] = sum over i, j, py, px, o with iy = ay stride + i, ix = ax stride + j of dy[py, px, o] wt[o, (i, j, c)], where dy is not 0;
    {_CHOSEN}.""",
    params=_POOLED,
    types={"argmax": ("uint8",)},
    flops=_conv,
)
_op(
    "conv2d_grey_pooled",
    "y[B,Y] argmax[B,Y]",
    "x[B,X] w[K,O] b[O]",
    """y, argmax = max_pool of 2 x 2 pixels, 2 apart, of conv2d_relu(x, w, b) of images of one channel with stride 1. NaN in a window makes y NaN, and
    argmax unspecified.""",
    params="height width kernel_height kernel_width",
    types={"argmax": ("uint8",)},
    flops=lambda d: 8.0 * d["B"] * d["Y"] * d["K"],
)
# 3 x 3 pixels, stride 1, by transformed tiles (Lavin and Gray 2016, F(4 x 4, 3 x 3)).
_op(
    "winograd_filters",
    "u[V,O]",
    "w[K,O]",
    "u[(p, q, c), o] = (G w[:, :, c, o] G^T)[p, q], p, q < 6; w of 3 x 3 pixels.",
    flops=lambda d: 90.0 * d["V"] / 36 * d["O"],
)
for _name, _formula in (("conv2d_winograd", "{}"), ("conv2d_winograd_relu", "max({}, 0)")):
    _sum = "b[o] + (A^T (sum over c of u[(:, :, c), o] * (B^T d[:, :, c] B)) A)[i, j]"
    _op(
        _name,
        "y[B,Y]",
        "x[B,X] u[V,O] b[O]",
        f"""y[4 ty + i, 4 tx + j, o] = {_formula.format(_sum)}, i, j < 4, d the tile of 6 x 6 pixels from x[4 ty, 4 tx] on, 0 beyond the edge:
    the convolution with the filters of 3 x 3 pixels that u was made of.""",
        params=_IMAGE,
        flops=lambda d: 4.5 * d["B"] * d["Y"] * d["V"] / 36,
    )
_op("transpose", "wt[O,K]", "w[K,O]", "wt = w^T.")
_op(
    "pad",
    "y[B,Y]",
    "x[B,X]",
    "y is the image x with a border of zeros: y[top + iy, left + ix, c] = x[iy, ix, c], y has height + top + bottom rows.",
    params=f"{_IMAGE} top bottom left right",
)
_op(
    "crop",
    "x[B,X]",
    "y[B,Y]",
    "x[iy, ix, c] = y[top + iy, left + ix, c], the adjoint of `pad`; height and width are those of x.",
    params=f"{_IMAGE} top bottom left right",
)

# --- pooling ------------------------------------------------------------------------------------------------------------------------
_POOL = "pool_height pool_width stride"
_op(
    "max_pool",
    "y[B,Y] argmax[B,Y]",
    "x[B,X]",
    """y[oy, ox, c] = the largest x[oy stride + i, ox stride + j, c] of a window of pool_height x pool_width pixels, argmax its i pool_width + j,
    the first of equals. NaN in a window makes y NaN, and argmax unspecified.""",
    params=f"{_IMAGE} {_POOL}",
    types={"argmax": ("uint8",)},
    flops=lambda d: d["B"] * d["X"],
)
_op(
    "max_pool_dx",
    "dx[B,X]",
    "dy[B,Y] argmax[B,Y]",
    "dx[iy, ix, c] = sum of the dy of the windows whose largest value was there.",
    params=f"{_IMAGE} {_POOL}",
    types={"argmax": ("uint8",)},
    flops=lambda d: d["B"] * d["Y"],
)
_op(
    "avg_pool",
    "y[B,Y]",
    "x[B,X]",
    "y[oy, ox, c] = mean over i, j of x[oy stride + i, ox stride + j, c].",
    params=f"{_IMAGE} {_POOL}",
    flops=lambda d: d["B"] * d["X"],
)
_op(
    "avg_pool_dx",
    "dx[B,X]",
    "dy[B,Y]",
    "dx[iy, ix, c] = sum of the dy of the windows that hold the pixel, divided by pool_height pool_width.",
    params=f"{_IMAGE} {_POOL}",
    flops=lambda d: d["B"] * d["X"],
)

# --- batch normalisation of images (Ioffe & Szegedy 2015): O channels, n pixels of all images ---------------------------------------
# Moments of some pixels: the mean of each channel, and the sum of its squared deviations from it.
_op(
    "batch_moments",
    "moments[2,O]",
    "x[B,Y]",
    "moments[0, o] = mean of x[pixel, o] over images and pixels, moments[1, o] = sum of (x[pixel, o] - mean)^2.",
    flops=lambda d: 4.0 * d["B"] * d["Y"],
)
_op(
    "merge_moments",
    "total[2,O]",
    "part[2,O]",
    """Moments of n_total + n_part pixels from those of both: d = part[0] - total[0]; total[0] += d n_part / (n_total + n_part); total[1] += part[1]
    + d^2 n_total n_part / (n_total + n_part) (Chan, Golub & LeVeque 1983).""",
    params="n_total n_part",
    updates="total",
    flops=lambda d: 8.0 * d["O"],
)
_op(
    "moving_moments",
    "mean[O] variance[O]",
    "moments[2,O]",
    "mean += (1 - momentum) (moments[0] - mean); variance += (1 - momentum) (moments[1] / max(n - 1, 1) - variance).",
    params="n momentum",
    updates="mean variance",
    flops=lambda d: 6.0 * d["O"],
)
_op(
    "batch_norm",
    "y[B,Y]",
    "x[B,Y] moments[2,O] gamma[O] beta[O]",
    "y = gamma (x - moments[0]) / sqrt(moments[1] / n + epsilon) + beta.",
    params="n epsilon",
    flops=lambda d: 3.0 * d["B"] * d["Y"],
)
_op(
    "batch_norm_inference",
    "y[B,Y]",
    "x[B,Y] gamma[O] beta[O] mean[O] variance[O]",
    "y = gamma (x - mean) / sqrt(variance + epsilon) + beta.",
    params="epsilon",
    flops=lambda d: 3.0 * d["B"] * d["Y"],
)
_op(
    "batch_norm_sums",
    "sums[2,O]",
    "dy[B,Y] x[B,Y] moments[2,O]",
    "sums[0] = sum of dy over images and pixels (dbeta), sums[1] = sum of dy (x - moments[0]) / sqrt(moments[1] / n + epsilon) (dgamma).",
    params="n epsilon",
    flops=lambda d: 5.0 * d["B"] * d["Y"],
)
_op(
    "batch_norm_dx",
    "dx[B,Y]",
    "dy[B,Y] x[B,Y] moments[2,O] gamma[O] sums[2,O]",
    "s = 1 / sqrt(moments[1] / n + epsilon); dx = gamma s (dy - sums[0] / n - (x - moments[0]) s sums[1] / n).",
    params="n epsilon",
    flops=lambda d: 7.0 * d["B"] * d["Y"],
)

# --- a layer of few outputs on rows in occupied blocks -----------------------------------------------------------------------------
# Features stand in F slots, 16 to a block: slot s holds feature features[s], or none (-1). Of each row those blocks are stored that are not
# all 0, one behind the other from values[indptr[i]] on, 16 values each, 0 in empty slots; bit k of word v of bitmap[i] says whether block
# 64 v + k is among them, W = ceil(F / 1024). Weights lie block by block: w[(k O + o) 16 + j] is that of slot j of block k for output o, E = F O.
BLOCK = 16  # slots
WINOGRAD_PLACES = 36  # of a transformed tile of 6 x 6 pixels
WINOGRAD_CHANNELS = 128  # of an image that goes by tiles, at most: what compiled code has room for
_BLOCKS = {"bitmap": ("int64",), "features": ("int32",), "values": ("uint8", "float")}
_op(
    "occupied_blocks",
    "bitmap[B,W]",
    "source[B,I] features[F]",
    "Which blocks of row r are not all 0; NaN is not 0. Bits behind the last block are 0.",
    types={**_PIXELS, **_BLOCKS},
    nbytes=lambda d: 1.0 * d["B"] * d["I"] + 8.0 * d["B"] * d["W"],
)
_op(
    "pack_blocks",
    "values[Z]",
    "source[B,I] features[F] bitmap[B,W] indptr[P]",
    """Row r's blocks that bitmap[r] names go to values[indptr[r]:indptr[r+1]]; indptr must leave room for exactly these. Floats become bytes only
    where they are whole numbers from 0 to 255.""",
    types={**_PIXELS, **_BLOCKS},
    nbytes=lambda d: 1.0 * d["B"] * d["I"] + 1.0 * d["Z"] + 8.0 * d["P"],
)
_block_flops = lambda d: 2.0 * d["Z"] / max(d["P"] - 1, 1) * d["B"] * d["O"]  # noqa: E731
_block_traffic = lambda d: d["B"] * (d["Z"] / max(d["P"] - 1, 1) + 8.0 * d["W"] + 4.0 * d["O"])  # noqa: E731
_op(
    "block_linear",
    "y[B,O]",
    "indptr[P] bitmap[N,W] values[Z] w[E] b[O] order[M] cursor[2]",
    "y = x w + b, where row r of x are the blocks of row order[cursor[0] + r], multiplied by scale.",
    params="scale",
    types=_BLOCKS,
    flops=_block_flops,
    nbytes=lambda d: _block_traffic(d) + 4.0 * d["E"],
)
_op(
    "block_linear_dw_add",
    "dw[E]",
    "indptr[P] bitmap[N,W] values[Z] dy[B,O] order[M] cursor[2]",
    "dw += x^T dy, x as in `block_linear`; 64 rows at a time are summed in ascending r, then added to dw.",
    params="scale",
    updates="dw",
    types=_BLOCKS,
    flops=_block_flops,
    nbytes=lambda d: _block_traffic(d) + 8.0 * d["E"],
)

# --- activations: y may be x itself (in place); the backward of gelu needs x, of the others y ---------------------------------------
for _name, _y, _dx in (
    ("leaky_relu", "x if x > 0 else 0.01 x", "dy if y > 0 else 0.01 dy"),
    ("elu", "x if x > 0 else exp(x) - 1", "dy if y > 0 else dy (y + 1)"),
    ("sigmoid", "1 / (1 + exp(-x))", "dy y (1 - y)"),
    ("tanh", "tanh(x)", "dy (1 - y^2)"),
    ("relu", "max(x, 0)", "dy if y > 0 else 0"),
):
    _op(_name, "y[B,O]", "x[B,O]", f"y = {_y}.", flops=lambda d: d["B"] * d["O"])
    _op(f"{_name}_backward", "dx[B,O]", "dy[B,O] y[B,O]", f"dx = {_dx}.", flops=lambda d: d["B"] * d["O"])
_op(
    "gelu",
    "y[B,O]",
    "x[B,O]",
    "y = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2 (Hendrycks & Gimpel 2016).",
    flops=lambda d: d["B"] * d["O"],
)
_op(
    "gelu_backward",
    "dx[B,O]",
    "dy[B,O] x[B,O]",
    "dx = dy (Phi(x) + x phi(x)), phi the normal density.",
    flops=lambda d: d["B"] * d["O"],
)

# --- dropout ------------------------------------------------------------------------------------------------------------------------
_op(
    "dropout",
    "y[B,O] mask[B,O]",
    "x[B,O] key[2] cursor[2]",
    """mask = 0 with probability rate, else 1 / (1 - rate); y = x mask. Element (r, c) draws word c mod 4 of Philox4x32-10 (Salmon et al. 2011)
    with counter (c div 4, cursor[0] + row_offset + r, layer, 0) and key = key; it is dropped when word < rate 2^32. So the mask depends on the
    position in the epoch and not on batch size, threads or backend.""",
    params="rate layer row_offset column_offset",
    types={"key": ("uint32",)},
)
_op("dropout_backward", "dx[B,O]", "dy[B,O] mask[B,O]", "dx = dy mask.", flops=lambda d: d["B"] * d["O"])

# --- losses: logits to gradient in one pass -----------------------------------------------------------------------------------------
_op(
    "softmax_cross_entropy",
    "dz[B,C] losses[M] hits[M]",
    "z[B,C] labels[N] sample_weight[N] order[M] scale[S] cursor[2]",
    """For row r with i = order[cursor[0] + r], p = softmax(z[r]) and t = (1 - s) onehot(labels[i]) + s / C, s = label_smoothing:
    losses[cursor[0] + r] = -sum t log p; hits[...] = (argmax z[r] == labels[i]), the first of equals; dz[r] = sample_weight[i]
    scale[cursor[1]] (p - t).""",
    params="label_smoothing",
    types={"losses": ("float32",), "hits": ("uint8",), "sample_weight": ("float32",), "scale": ("float32",)},
    updates="losses hits",
    flops=lambda d: 6.0 * d["B"] * d["C"],
    nbytes=lambda d: 8.0 * d["B"] * d["C"] + 25.0 * d["B"],
)
_op(
    "softmax_twice_cross_entropy",
    "dz[B,C] losses[M] hits[M]",
    "z[B,C] labels[N] sample_weight[N] order[M] scale[S] cursor[2]",
    """Cross-entropy that takes probabilities for logits. For row r with i = order[cursor[0] + r], p = softmax(z[r]), q = softmax(p) and
    t = onehot(labels[i]): losses[cursor[0] + r] = -sum t log q; hits as softmax_cross_entropy; with g = q - t, the gradient at p:
    dz[r] = sample_weight[i] scale[cursor[1]] p (g - sum g p).""",
    types={"losses": ("float32",), "hits": ("uint8",), "sample_weight": ("float32",), "scale": ("float32",)},
    updates="losses hits",
    flops=lambda d: 14.0 * d["B"] * d["C"],
    nbytes=lambda d: 8.0 * d["B"] * d["C"] + 25.0 * d["B"],
)
_op(
    "binary_cross_entropy",
    "dz[B,C] losses[M] hits[M]",
    "z[B,C] labels[N] sample_weight[N] order[M] scale[S] cursor[2]",
    """One-vs-rest. With t[c] = (labels[i] == c): losses[...] = sum over c of max(z, 0) - z t + log(1 + exp(-|z|)); dz[r] = sample_weight[i]
    scale[cursor[1]] (sigmoid(z) - t); hits[...] = (argmax z[r] == labels[i]), and with one output ((z > 0) == (labels[i] == 0)).""",
    types={"losses": ("float32",), "hits": ("uint8",), "sample_weight": ("float32",), "scale": ("float32",)},
    updates="losses hits",
    flops=lambda d: 6.0 * d["B"] * d["C"],
    nbytes=lambda d: 8.0 * d["B"] * d["C"] + 25.0 * d["B"],
)
_op(
    "binary_cross_entropy_by_class",
    "dz[B,C] losses[M,C] hits[M]",
    "z[B,C] labels[N] sample_weight[N] order[M] scale[S] cursor[2]",
    """binary_cross_entropy with each class's loss by itself: losses[cursor[0] + r, c] = max(z, 0) - z t + log(1 + exp(-|z|)), z = z[r, c],
    t = (labels[i] == c). dz and hits are the same.""",
    types={"hits": ("uint8",), "sample_weight": ("float32",), "scale": ("float32",)},
    updates="losses hits",
    flops=lambda d: 6.0 * d["B"] * d["C"],
    nbytes=lambda d: 12.0 * d["B"] * d["C"] + 21.0 * d["B"],
)
_op(
    "softmax",
    "p[B,C]",
    "z[B,C]",
    "p = softmax of each row, shifted by its maximum.",
    flops=lambda d: 4.0 * d["B"] * d["C"],
)

# --- optimizers: one stream over weights, moments and gradient ----------------------------------------------------------------------
# hyper[cursor[1]] = (step size, decoupled decay, l2): g = dw + l2 w; w is multiplied by 1 - decay before the step.
_op(
    "sgd",
    "w[R,Q]",
    "dw[R,Q] hyper[S,3] cursor[2]",
    "w -= step_size (dw + l2 w), with (step_size, decay, l2) = hyper[cursor[1]].",
    updates="w",
    flops=lambda d: 4.0 * d["R"] * d["Q"],
    nbytes=lambda d: 12.0 * d["R"] * d["Q"],
)
for _name, _formula in (("momentum", "w += velocity"), ("nesterov", "w += momentum velocity - step_size g")):
    _op(
        _name,
        "w[R,Q] velocity[R,Q]",
        "dw[R,Q] hyper[S,3] cursor[2]",
        f"g = dw + l2 w; velocity = momentum velocity - step_size g; {_formula}.",
        params="momentum",
        updates="w velocity",
        flops=lambda d: 6.0 * d["R"] * d["Q"],
        nbytes=lambda d: 20.0 * d["R"] * d["Q"],
    )
_op(
    "adam",
    "w[R,Q] m[R,Q] v[R,Q]",
    "dw[R,Q] hyper[S,3] cursor[2]",
    """g = dw + l2 w; m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g^2; w = w - decay w - step_size m / (sqrt(v) + epsilon).
    step_size holds the bias correction lr sqrt(1 - beta_2^t) / (1 - beta_1^t) (Kingma & Ba 2015, section 2).""",
    params="beta_1 beta_2 epsilon",
    updates="w m v",
    flops=lambda d: 14.0 * d["R"] * d["Q"],
    nbytes=lambda d: 28.0 * d["R"] * d["Q"],
)
_op("add", "total[R,Q]", "part[R,Q]", "total += part.", updates="total", flops=lambda d: d["R"] * d["Q"])


# --- random forest: jobs ------------------------------------------------------------------------------------------------------------
# T trees, M nodes, V distributions of mixed leaves. A reference is the number of a node, or ~c for a leaf of class c alone, or ~(C + v) for
# the mixed leaf v. Random words are those of Philox4x32-10 with counter (i div 4 mod 2^32, i div 2^34, purpose, tree) and key = key, word i mod 4;
# a word stands for the integer floor(word n / 2^32) below n.
_FOREST = {
    **dict.fromkeys(("weights", "sample_weight", "gains", "carried", "sums", "p", "values"), ("float64",)),
    **dict.fromkeys(("nodes", "spans", "rows", "classes", "drawn", "roots"), ("int32",)),
    **dict.fromkeys(("summary", "scratch", "stack", "stop"), ("int64",)),
    **dict.fromkeys(("source", "columns", "block"), ("uint8",)),
    "key": ("uint32",),
    "thresholds": ("float32",),
    "x": ("uint8", "float32"),
}
_op(
    "bootstrap",
    "weights[N]",
    "sample_weight[N] key[2]",
    """weights[i] = sample_weight[i] times how often i was drawn in n_draws draws with replacement, draw d by word d of purpose 1.""",
    params="tree n_draws",
    types=_FOREST,
    table=JOBS,
)
_op(
    "grow_tree",
    "nodes[N,4] gains[N] spans[N,2] rows[N] summary[4] classes[N] carried[2,N] scratch[4,N] stack[N,4] sums[2,C] drawn[I] block[K]",
    "source[N,I] columns[I,N] labels[N] weights[N] key[2] stop[1]",
    """A classification tree on the rows with weights > 0 (Breiman et al. 1984; features drawn at each node as in Breiman 2001). columns =
    source^T. Nodes are numbered parents first, left before right. Node k sends x to the left if x[feature] <= low: nodes[k] = (feature, 256 low +
    high, left, right), low < high the values in the node on both sides of its cut; gains[k] = SL / WL + SR / WR - S / W, S the sum of the classes'
    squared weights and W the weight, of the sides and of the node: W times the decrease of Gini's impurity. The mixed leaf v has rows[first:last],
    (first, last) = spans[v]. summary = (nodes, mixed leaves, reference of the root, depth). A node draws features, without repetition, by the
    words of purpose 0 that follow each other in the tree, until max_features were drawn and one of them varied, or a cut separates the classes;
    of equal cuts the lowest of the feature drawn first wins. It ends as summary[0] = -1 once stop[0] is not 0. What lies behind the numbers in
    summary, and classes, carried, scratch, stack, sums, drawn and block, which are workspace, is unspecified; block has room for block_rows rows,
    see `layout.block_stride`.""",
    params="tree max_features max_depth min_samples_split min_samples_leaf min_weight_leaf min_decrease block_rows",
    types=_FOREST,
    table=JOBS,
)
_op(
    "forest_proba",
    "p[B,C]",
    "x[B,I] nodes[M,3] thresholds[M] roots[T] values[V,C]",
    """p = mean over the trees of the distribution in the leaf that a row arrives at: 1 for class c, or values[v]. nodes[k] = (feature, left,
    right); a row goes to the left if scale x[feature] <= thresholds[k].""",
    params="scale",
    types=_FOREST,
    table=JOBS,
)

# --- images that are bent: jobs --------------------------------------------------------------------------------------------------------
# A pixel of the result is read where a map sends it, between pixels by bilinear interpolation; outside of the image all is 0. Bytes are rounded.
_WARP = {
    **dict.fromkeys(("images", "source"), ("uint8", "float")),
    **dict.fromkeys(("rows", "numbers"), ("int64",)),
    "key": ("uint32",),
}
_op(
    "augment_images",
    "images[B,X] scratch[K]",
    "source[N,X] rows[B] numbers[B] key[2] taps[T]",
    """images[i] = source[rows[i]], changed at random. With uniform random u from -1 to 1, each its own: the image is flipped left to right with
    probability flip, sheared by u shear degrees, made 1 + u scale times as large, turned by u rotate degrees about its centre, and moved by u
    translate pixels each way; then pixel (y, x) is taken from (y, x) + elastic_alpha d[y, x], where d are two fields of u, one for each pixel and 0
    outside, smoothed by `taps` both ways (Simard et al. 2003; no taps: no displacement); all this is one map, sampled once. Then, with probability
    erase, a rectangle of erase_least to erase_most of the area, its height over its width from 0.3 to 1 / 0.3, is set to 0 (Zhong et al. 2020). The
    words are those of Philox4x32-10 with counter (word div 4, numbers[i], epoch, purpose) and key = key, so an image depends on nothing else.
    scratch, of `layout.warp_scratch` values, is workspace.""",
    params="height width channels epoch translate rotate scale shear flip elastic_alpha erase erase_least erase_most",
    types=_WARP,
    table=JOBS,
)
_op(
    "deskew_images",
    "images[B,X] scratch[K]",
    "source[B,X]",
    """images[i] = source[i], its centre of mass moved to the centre of the image and sheared so that the covariance of x and y is 0: pixel (y, x) is
    taken from (y - cy + my, x - cx + mx + (y - cy) mu_xy / mu_yy), (cy, cx) the centre, (my, mx) the mean and mu the covariance of the pixels'
    places, weighted by their positive values summed over channels. An image without any is copied.""",
    params="height width channels",
    types=_WARP,
    table=JOBS,
)


def find(name: str) -> Op:
    """The op or job of that name.

    Raises
    ------
    KeyError
        There is none.
    """
    return CONTRACT[name] if name in CONTRACT else JOBS[name]


def check(name: str, *arrays: object, backend: str = "numba") -> dict[str, int]:
    """Check arrays against the contract; runs once, when an executor or a call is set up, never in the hot path.

    Parameters
    ----------
    name : str
        An op of `CONTRACT`, or a job.
    *arrays
        Objects with `shape` and `dtype`, outputs first.

    Returns
    -------
    dict
        Sizes by dimension name.

    Raises
    ------
    ValueError
        Unknown op, wrong number of arrays, or a shape that does not fit.
    TypeError
        A dtype that the op does not take.
    """
    if name not in CONTRACT and name not in JOBS:
        raise ValueError(f"Unknown op {name!r}; known: {', '.join(sorted(CONTRACT))}.")
    op = find(name)
    if len(arrays) != len(op.operands):
        raise ValueError(
            f"{name} takes {len(op.operands)} arrays ({', '.join(o.name for o in op.operands)}); got {len(arrays)}."
        )
    floats = ("float32", "float64") if backend == "numpy" else ("float32",)
    for operand, array in zip(op.operands, arrays, strict=True):
        allowed = [t for d in operand.dtypes for t in (floats if d == "float" else (d,))]
        if str(array.dtype) not in allowed:  # type: ignore[attr-defined]
            raise TypeError(f"{name}: {operand.name} must have dtype {' or '.join(allowed)}; got {array.dtype}.")  # type: ignore[attr-defined]
    return op.bind_dims([tuple(array.shape) for array in arrays])  # type: ignore[attr-defined]
