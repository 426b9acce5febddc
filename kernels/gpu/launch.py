"""From an op of the contract to kernel launches: the types, and the registry that the files beside the `.cu` files fill.

A launch is a value: it names a kernel, its grid and its arguments, and refers to nothing else. So a list of launches can be run as it is,
captured in a CUDA graph, or compared in a test.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..contract import CONTRACT, JOBS
from ..contract.table import Op

THREADS = 256  # of a block of the streaming kernels: eight warps, enough blocks fit on a multiprocessor to hide the memory's latency
BLOCKS_PER_MULTIPROCESSOR = 32  # four times what is resident at once: more would only add overhead
QUAD = 4  # as in common.cuh
MOST_BLOCKS = 65_535  # along y and along z; CUDA C++ Programming Guide, "Compute Capabilities"

# Ops that the GPU does not offer, with the reason. A new op of the contract must get a launcher or a line here.
NOT_ON_GPU = {
    **dict.fromkeys(
        (
            "count_nonzeros",
            "compress_rows",
            "sparse_linear",
            "sparse_linear_relu",
            "skipping_linear",
            "skipping_linear_relu",
            "sparse_quads",
            "skipping_quads",
            "quad_linear_dw",
            "sparse_linear_dw_add",
            "quad_linear_dw_sgd",
            "quad_linear",
            "quad_linear_relu",
            "occupied_blocks",
            "pack_blocks",
            "block_linear",
            "block_linear_dw_add",
        ),
        "the data set stays on the device as dense bytes: 47 MB for MNIST, less than its level-2 cache",
    ),
    "linear_dw_sgd": "no lowering for a GPU asks for it: `plan` fuses any optimizer's step with the gradient before it",
    "binary_cross_entropy_sums": "no lowering for a GPU asks for it: full-batch gradients read the loss of each row",
    "softmax_twice_cross_entropy": "it is a mistake that is kept for comparison; nobody is in a hurry to make it",
    **dict.fromkeys(
        ("gemm_nn", "gemm_nt", "gemm_tn", "gemm_tt"),
        "it multiplies matrices as linear layers, which need no alpha and beta; a product for itself is not asked of it yet",
    ),
    **dict.fromkeys(
        (
            "winograd_filters",
            "winograd_filters_kept",
            "winograd_filters_turned",
            "conv2d_winograd",
            "conv2d_winograd_relu",
        ),
        "no lowering for a GPU asks for it: the tile of all products reads windows in place",
    ),
    **dict.fromkeys(
        ("conv2d_pooled_dwt", "conv2d_pooled_dwt_add", "conv2d_pooled_dx", "conv2d_grey_pooled"),
        "it fuses a convolution with its pooling for one core's registers; a GPU runs the layers one by one",
    ),
}

# Jobs likewise.
JOBS_NOT_ON_GPU = {
    **dict.fromkeys(
        ("bootstrap", "grow_tree", "forest_proba"),
        "trees branch on every value: random forests run on the CPU only",
    ),
    "deskew_images": "it is done once, before training, by a transformer of scikit-learn's pipelines",
    "weighted_sums": "the device sums its losses as it makes them",
}


@dataclass(frozen=True)
class Array:
    """A block of device memory as an op sees it.

    Attributes
    ----------
    address : int
    shape : tuple of int
    ld : int
        Distance of two rows, in elements.
    dtype : str
    """

    address: int
    shape: tuple[int, ...]
    ld: int
    dtype: str


@dataclass(frozen=True)
class Facts:
    """What launchers must know of a device.

    Attributes
    ----------
    multiprocessors : int
    scratch : Array, optional
        Floats for the shares of long sums. Launches are made one after the other on one stream, so one piece of memory serves them all;
        without it no sum is cut.
    shared : int
        Bytes of shared memory that a block may have.
    cooperative : bool
        Whether a launch can guarantee that all its blocks are resident at once.
    precision : str
        What factors of products are rounded to: "float32" (nothing), "tf32" or "bf16", on tensor cores; see tensor_tile.cuh.
    """

    multiprocessors: int
    scratch: Array | None = None
    shared: int = 48 << 10
    cooperative: bool = False
    precision: str = "float32"


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes
    ----------
    kernel : str
    grid, block : tuple of int
    arguments : tuple
        `Array` for a pointer, None for a null pointer, else a NumPy scalar of exactly the parameter's type.
    shared : int
        Bytes of dynamic shared memory.
    cooperative : bool
        Blocks wait for each other: all must be resident at once. Never part of a graph.

    Raises
    ------
    OverflowError
        No GPU has such a grid.
    """

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    shared: int = 0
    cooperative: bool = False

    def __post_init__(self) -> None:
        if max(self.grid[1:], default=0) > MOST_BLOCKS:
            raise OverflowError(
                f"{self.kernel}: a grid of {self.grid} blocks; a GPU has at most {MOST_BLOCKS} along y and z. Use smaller blocks of rows."
            )


LAUNCHERS: dict[str, Callable[..., list[Launch]]] = {}
JOB_LAUNCHERS: dict[str, Callable[..., list[Launch]]] = {}


def launcher(function: Callable[..., list[Launch]]) -> Callable[..., list[Launch]]:
    """Register `function(facts, *operands, *params)` as the op of its name.

    Raises
    ------
    TypeError
        The signature is not the contract's.
    """
    LAUNCHERS[function.__name__] = _checked(function, CONTRACT[function.__name__])
    return function


def job_launcher(function: Callable[..., list[Launch]]) -> Callable[..., list[Launch]]:
    """Register `function(facts, *operands, *params)` as the job of its name, see `launcher`."""
    JOB_LAUNCHERS[function.__name__] = _checked(function, JOBS[function.__name__])
    return function


def _checked(function: Callable[..., list[Launch]], op: Op) -> Callable[..., list[Launch]]:
    expected = ["facts", *(operand.name for operand in op.operands), *op.params]
    actual = list(inspect.signature(function).parameters)
    if actual != expected:
        raise TypeError(f"{op.name}: the contract wants the parameters {expected}; got {actual}.")
    return function


def launches(op: str, facts: Facts, arrays: Sequence[Array], params: Sequence[float]) -> list[Launch]:
    """The launches that compute an op, in order; none where there is nothing to write.

    Parameters
    ----------
    op : str
        An op of the contract that is not in `NOT_ON_GPU`.
    facts : Facts
    arrays, params
        In the contract's order.
    """
    return LAUNCHERS[op](facts, *arrays, *params)


def stream(facts: Facts, kernel: str, shape: tuple[int, ...], *arguments: Any) -> list[Launch]:
    """One launch of a kernel that walks a matrix quad by quad (`for_each_quad`)."""
    rows, columns = shape
    return spread(facts, kernel, rows * -(-columns // QUAD), *arguments)


def spread(facts: Facts, kernel: str, items: int, *arguments: Any) -> list[Launch]:
    """One launch of a kernel whose threads share `items` among them.

    Raises
    ------
    OverflowError
        The kernels count in 32 bits.
    """
    if not items:
        return []
    if items >= 1 << 31:
        raise OverflowError(f"{kernel}: {items} items; a launch may have 2^31 - 1. Use smaller blocks of rows.")
    blocks = min(-(-items // THREADS), facts.multiprocessors * BLOCKS_PER_MULTIPROCESSOR)
    return [Launch(kernel, (blocks,), (THREADS,), arguments)]


def integers(*values: float) -> tuple[np.int32, ...]:
    """Arguments of C type int."""
    return tuple(np.int32(int(value)) for value in values)


def leading(*matrices: Array) -> tuple[np.int32, ...]:
    """The leading dimensions, as arguments."""
    return tuple(np.int32(matrix.ld) for matrix in matrices)
