"""An epoch of a small network in one launch (persistent.cu): whether a device can hold it, and what the kernel is told."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .launch import QUAD, THREADS, Array, Facts, Launch

# In the order of the enumerations in persistent.cu.
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam")
LOSSES = ("softmax_cross_entropy", "binary_cross_entropy")

COLUMNS = (2, 4)  # units of the first layer that a block owns: the kernels that there are
MOST_HEAD_UNITS = THREADS * QUAD  # of each layer behind the first: a quad for each thread
# Weights behind the first layer times the rows that one block takes through them: it reads each from the level-2 cache, some
# 64 bytes a cycle, so this is 8 us, as much as all else of a step.
MOST_HEAD_READS = 1 << 18
_HEAD_FLOATS, _LAYER_WORDS = 40, 13  # see HEAD_FLOATS and Layer in persistent.cu

# The fields of `Job` and `Constants` in persistent.cu.
JOB = (
    *("source", "labels", "sample_weight", "order", "scale", "hyper_weights", "hyper_biases"),
    *("losses", "hits", "cursor", "arrivals", "rows", "batch", "features", "layers", "optimizer", "loss"),
)
LAYER = (
    *("w", "w_first", "w_second", "b", "b_first", "b_second", "h", "dz"),
    *("inputs", "units", "ld_w", "activation", "has_bias"),
)
CONSTANTS = ("pixel_scale", "beta_1", "rest_1", "beta_2", "rest_2", "epsilon", "label_smoothing")


@dataclass(frozen=True)
class Layout:
    """How an epoch lies on a device.

    Attributes
    ----------
    columns : int
        Units of the first layer in a block, one of `COLUMNS`.
    blocks : int
        At most one for each multiprocessor: so all are resident at once, whatever they take.
    shared : int
        Bytes of shared memory of a block.
    """

    columns: int
    blocks: int
    shared: int


def padded(n: int, to: int = QUAD) -> int:
    """The next multiple."""
    return -(-n // to) * to


def shared_bytes(columns: int, features: int, units: Sequence[int], batch: int, itemsize: int, moments: int) -> int:
    """Shared memory of a block, as persistent.cu lays it out.

    Parameters
    ----------
    columns, features, batch : int
    units : sequence of int
        Of all layers.
    itemsize : int
        Bytes of a stored value of X.
    moments : int
        That the optimizer keeps of each parameter.
    """
    pixels = batch * padded(features, 16 // itemsize) * itemsize // 4
    own = (1 + moments) * padded(columns * padded(features)) + 3 * QUAD + 3 * padded(columns * batch)
    rows = 3 * sum(map(padded, units)) + THREADS * QUAD
    updates = (batch + columns) * padded(units[1]) if len(units) > 1 else 0
    floats = _HEAD_FLOATS + padded(2 * _LAYER_WORDS * len(units)) + 2 * padded(pixels) + own + max(rows, updates)
    return 4 * floats


def choose_layout(
    facts: Facts, features: int, units: Sequence[int], batch: int, itemsize: int, moments: int
) -> Layout | str:
    """The layout with the most blocks, or why there is none.

    Few units a block leave little to compute between two meetings of all blocks, and a meeting costs hardly more with many blocks than with few.
    """
    if not facts.cooperative:
        return "the device has no cooperative launches"
    columns = next((c for c in COLUMNS if math.ceil(units[0] / c) <= facts.multiprocessors), 0)
    if not columns:
        return f"{units[0]} units in the first layer are more than {COLUMNS[-1]} for each of {facts.multiprocessors} multiprocessors"
    blocks = math.ceil(units[0] / columns)
    if max(units[1:], default=0) > MOST_HEAD_UNITS:
        return f"a layer behind the first has more than {MOST_HEAD_UNITS} units"
    weights = sum(a * b for a, b in itertools.pairwise(units))
    reads = weights * math.ceil(batch / blocks)
    if reads > MOST_HEAD_READS:
        return (
            f"a block would read {reads:,} weights behind the first layer in each step; at most {MOST_HEAD_READS:,} pay"
        )
    shared = shared_bytes(columns, features, units, batch, itemsize, moments)
    if shared > facts.shared:
        return (
            f"two batches of {batch} rows and the weights of {columns} units take {shared / 1024:.0f} KB of shared memory; "
            f"a block has {facts.shared / 1024:.0f}"
        )
    return Layout(columns, blocks, shared)


def job(values: Mapping[str, Array | int], layers: Sequence[Mapping[str, Array | int]]) -> np.ndarray:
    """The table that the kernel reads: the fields of `JOB`, then those of `LAYER` for each layer."""
    rows = [[values[name] for name in JOB], *([layer[name] for name in LAYER] for layer in layers)]
    return np.array([v.address if isinstance(v, Array) else v for row in rows for v in row], np.int64)


def constants(**values: float) -> np.ndarray:
    """The fields of `CONSTANTS`."""
    return np.array([values[name] for name in CONSTANTS], np.float32)


def launch(layout: Layout, dtype: str, job: Array, constants: Array) -> Launch:
    """The launch of an epoch.

    Parameters
    ----------
    layout : Layout
    dtype : {"uint8", "float32"}
        Of the stored values of X.
    job, constants : Array
        See the functions of these names, on the device.
    """
    kernel = f"persistent_{dtype}_{layout.columns}_kernel"
    return Launch(kernel, (layout.blocks,), (THREADS,), (job, constants), layout.shared, cooperative=True)
