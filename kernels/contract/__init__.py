"""Every op: its operands in order, their shapes and types, what it costs, and what it computes.

One table for all backends. An op has the same name and the same positional order of operands in each: outputs, inputs, parameters.
`reference/` is its meaning in plain NumPy, `cpu/` the compiled one. The executors, the listing, the tests and the benchmarks all read this
table.

One module a topic, named as in `reference/`, `cpu/` and `gpu/`. The next op stands in the module of its topic; a new topic is named in
`CONTRACT` below, or in `JOBS`. `table.py` says what describes an op.

The alphabet of dimensions: B rows of a batch, I inputs of a layer, O outputs of a layer, C classes, N rows of the data set, M entries of
the order, S steps of an epoch, R x Q any matrix, Z stored values, P row pointers of compressed rows; of image layers X = H W C values of an
image that is read, Y = OH OW O values of one that is made, K = kernel_height kernel_width C weights of a filter, O filters;
V = 36 C places of a filter's transformed channels (V = 36 O where C channels are made of O); F slots of features in blocks, W words of a row's
bitmap of blocks, E elements of weights that lie block by block; G quads of features, J their values in a batch.

Images are rows of a matrix: pixel by pixel from the top left, the channels of a pixel side by side (height, width, channels). What a shape
cannot tell stands in the params `height width channels` of the image X, and in those of the window that moves over it without padding:
OH = (height - kernel_height) // stride + 1, OW likewise; `pad` and `crop` make and take away a border of zeros.

Strides. Two-dimensional operands are row-major with a leading dimension of their own (`ld_<name>`, in elements), so an op works on a block of
a larger array; one-dimensional operands are contiguous. At the surface (`fastmnist.call_kernel`) everything is C-contiguous.

Cursor. What changes from step to step lies in memory, never in a by-value scalar. `cursor[0]` is the first position in `order` of the
current batch, `cursor[1]` the number of the step in the epoch.
"""

from __future__ import annotations

from . import (
    activations,
    batch_norm,
    blocks,
    convolution,
    forest,
    losses,
    matmul,
    optimizers,
    pooled_convolution,
    pooling,
    quads,
    rows,
    sparse,
    warping,
    winograd,
)
from .blocks import BLOCK
from .quads import QUAD
from .table import Dims, Op, Operand
from .winograd import WINOGRAD_CHANNELS, WINOGRAD_PLACES

__all__ = [
    "BLOCK",
    "CONTRACT",
    "JOBS",
    "QUAD",
    "WINOGRAD_CHANNELS",
    "WINOGRAD_PLACES",
    "Dims",
    "Op",
    "Operand",
    "check",
    "find",
]

# In the order in which they are listed.
CONTRACT: dict[str, Op] = {
    **rows.OPS,
    **matmul.OPS,
    **sparse.OPS,
    **quads.OPS,
    **convolution.OPS,
    **pooled_convolution.OPS,
    **winograd.OPS,
    **pooling.OPS,
    **batch_norm.OPS,
    **blocks.OPS,
    **activations.OPS,
    **losses.OPS,
    **optimizers.OPS,
}
# Whole jobs, described and compiled like ops, that no program contains: called one by one from the host. What they cost depends on the data.
JOBS: dict[str, Op] = {**losses.JOBS, **forest.JOBS, **warping.JOBS}


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
