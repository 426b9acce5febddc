"""From a Program's tensors to arrays: what every executor on the host shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmnist.network.optimizers import SGD, AdamW
from fastmnist.network.program import Program, Tensor, View
from fastmnist.network.spec import Spec


class Binding:
    """Arrays for all tensors of a Program.

    Parameters
    ----------
    program : Program
    state : ndarray of uint8, optional
        Memory of the parameters and moments; made here when not given.
    workspace : ndarray of uint8, optional
        Memory of the workspace; made here when not given.
    """

    def __init__(self, program: Program, state: np.ndarray | None = None, workspace: np.ndarray | None = None) -> None:
        self.program = program
        self.state = np.zeros(program.state.size, np.uint8) if state is None else state
        self.workspace = np.zeros(program.workspace.size, np.uint8) if workspace is None else workspace
        self._bound: dict[str, np.ndarray] = {}
        self._bound_dtypes = {name: np.dtype(tensor.dtype) for name, tensor in program.bound.items()}
        self._by_name = {
            view.tensor.name: view.tensor
            for table in program.tables.values()
            for thread in table.threads
            for instruction in thread
            for view in (*instruction.outs, *instruction.ins)
        }
        self._cursors = [self[name] for name in self._by_name if name.startswith("cursor_")]

    def bind(self, **arrays: np.ndarray) -> None:
        """Give arrays to bound tensors; names that the program does not use are ignored.

        Raises
        ------
        TypeError
            An array has another dtype than its tensor.
        """
        for name, array in arrays.items():
            dtype = self._bound_dtypes.get(name)
            if dtype is None:
                continue
            if array.dtype != dtype or not array.flags.c_contiguous:
                raise TypeError(f"{name} must be C-contiguous {dtype}; got {array.dtype}.")
            self._bound[name] = array
        self.rewind()

    def release(self) -> None:
        """Let go of the bound arrays; the next `bind` brings others."""
        self._bound.clear()

    def rewind(self, position: int = 0, step: int = 0) -> None:
        """Set every thread's cursor."""
        for cursor in self._cursors:
            cursor[:] = position, step

    def __getitem__(self, name: str) -> np.ndarray:
        """The whole tensor `name`."""
        return self.whole(self._by_name[name])

    def whole(self, tensor: Tensor) -> np.ndarray:
        """The array of a tensor."""
        if tensor.memory == "bound":
            return self._bound[tensor.name]
        memory = self.state if tensor.memory == "state" else self.workspace
        dtype = np.dtype(tensor.dtype)
        strides = [s * dtype.itemsize for s in tensor.strides]
        return np.ndarray(tensor.shape, dtype, memory, tensor.offset, strides)

    def array(self, view: View) -> np.ndarray:
        """The array of a view."""
        whole = self.whole(view.tensor)
        rows = whole[view.r0 :] if view.tensor.memory == "bound" and not view.r1 else whole[view.r0 : view.r1]
        if rows.ndim == 2:
            return rows[:, view.c0 : view.c1]
        return rows[None] if view.as_row else rows


def place_parameters(binding: Binding, parameters: Sequence[np.ndarray]) -> None:
    """Copy `[W0, b0, ...]` into the program's layout."""
    for parameter, pieces in zip(parameters, binding.program.placements, strict=True):
        for piece in pieces:
            binding.whole(piece.tensor)[...] = parameter[..., piece.c0 : piece.c1]


def logical_parameters(binding: Binding, spec: Spec) -> list[np.ndarray]:
    """Copy `[W0, b0, ...]` out of the program's layout."""
    result = []
    for shape, pieces in zip(spec.parameter_shapes, binding.program.placements, strict=True):
        parameter = np.empty(shape, np.dtype(pieces[0].tensor.dtype))
        for piece in pieces:
            parameter[..., piece.c0 : piece.c1] = binding.whole(piece.tensor)
        result.append(parameter)
    return result


def constant_scale(sample_weight: np.ndarray, steps: int) -> np.ndarray:
    """The `scale` of a full-batch gradient: 1 / sum of all weights, for each block."""
    return np.full(steps, 1 / sample_weight.sum(dtype=np.float64), np.float32)


def batch_weights(sample_weight: np.ndarray, order: np.ndarray, batch_size: int) -> np.ndarray:
    """Sum of the sample weights of each batch, float64."""
    return np.add.reduceat(sample_weight[order].astype(np.float64), np.arange(0, len(order), batch_size))


def epoch_inputs(
    spec: Spec,
    order: np.ndarray,
    learning_rates: np.ndarray,
    batch_size: int,
    sample_weight: np.ndarray,
    first_step: int,
    dtype: np.dtype,
    seed: int,
) -> dict[str, Any]:
    """What the host computes once an epoch: everything that changes from step to step, and room for what is recorded.

    Parameters
    ----------
    first_step : int
        Optimizer steps taken before this epoch (Adam's bias correction counts them).

    Returns
    -------
    dict
        Arrays for the bound tensors `order, scale, hyper_weights, hyper_biases, key, losses, hits`.
    """
    optimizer = spec.optimizer
    rates = np.asarray(learning_rates, np.float64)
    total = batch_weights(sample_weight, order, batch_size)
    if len(rates) != len(total):
        raise ValueError(f"learning_rates must have one value a step ({len(total)}); got {len(rates)}.")
    # A batch whose weights are all 0 contributes nothing, instead of 0 / 0.
    scale = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    step_size = rates.copy()
    if not isinstance(optimizer, SGD):
        t = first_step + 1.0 + np.arange(len(rates))
        step_size *= np.sqrt(1 - optimizer.beta_2**t) / (1 - optimizer.beta_1**t)
    decoupled = isinstance(optimizer, AdamW)
    decay = rates * optimizer.weight_decay if decoupled else np.zeros_like(rates)
    coupled = 0.0 if decoupled else optimizer.weight_decay
    weights = np.stack([step_size, decay, coupled + spec.l2 * scale], axis=1)
    biases = np.stack([step_size, decay, np.full_like(rates, coupled)], axis=1)
    return {
        "order": np.ascontiguousarray(order, np.int64),
        "scale": scale.astype(np.float32),
        "hyper_weights": weights.astype(dtype),
        "hyper_biases": biases.astype(dtype),
        "key": np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32),
        "losses": np.zeros(len(order), np.float32),
        "hits": np.zeros(len(order), np.uint8),
    }
