"""Which networks train an epoch in one launch on a GPU, and the runner that does it; the others replay graphs of single steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fastmnist.backends.gpu_device import Device
from fastmnist.kernels.gpu import Array, Facts, persistent
from fastmnist.kernels.gpu.persistent import Layout, padded
from fastmnist.network.layers import Dense
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from fastmnist.network.lowering import DataFormat, optimizer_op
from fastmnist.network.program import Placement, Program, Tensor
from fastmnist.network.spec import Spec


@dataclass(frozen=True)
class Choice:
    """How the epochs of a Spec run.

    Attributes
    ----------
    layout : Layout or None
        None: a graph of single steps.
    reason : str
        For people: `fastmnist explain`.
    """

    layout: Layout | None
    reason: str


def choose(spec: Spec, data: DataFormat, batch_size: int, facts: Facts, wanted: bool | None = None) -> Choice:
    """Whether an epoch is one launch.

    Parameters
    ----------
    spec : Spec
    data : DataFormat
    batch_size : int
        Rows of the largest batch.
    facts : Facts
        Of the device, with the precision of products.
    wanted : bool, optional
        False: never. None and True: where it can be.
    """
    if wanted is False:
        return Choice(None, "training: a graph of steps, as asked for")
    found = (
        "" if all(isinstance(layer, Dense) for layer in spec.layers) else "only plain dense layers have such a kernel"
    )
    if not found and data.dtype not in ("uint8", "float32"):
        found = f"X is {data.dtype}"
    if not found and facts.precision != "float32":
        found = f"it multiplies in float32, not in {facts.precision}"
    if found:
        return Choice(None, f"training: a graph of steps, not one launch an epoch: {found}")
    units = [shape[-1] for shape in spec.parameter_shapes[::2]]
    moments = optimizer_op(spec.optimizer)[1]
    layout = persistent.choose_layout(facts, spec.n_features, units, batch_size, np.dtype(data.dtype).itemsize, moments)
    if isinstance(layout, str):
        return Choice(None, f"training: a graph of steps, not one launch an epoch: {layout}")
    return Choice(
        layout,
        f"training: one launch an epoch: {layout.blocks} blocks of {layout.columns} units of the first layer each, "
        f"{layout.shared / 1024:.0f} KB of shared memory (by count; not measured on a GPU)",
    )


class Operands(Protocol):
    """What is needed of the executor's runner."""

    program: Program

    def operand(self, tensor: Tensor | str) -> Array:
        """A tensor of the state or the workspace, by itself or by its name."""

    def arrays(self) -> dict[str, Array]:
        """All that is bound."""

    def put(self, **arrays: np.ndarray) -> None:
        """Bind more."""

    def rewind(self) -> None:
        """Back to the first batch."""

    def steps_done(self) -> int:
        """Steps since then."""


class PersistentEpochs:
    """Runs epochs as one launch each.

    Parameters
    ----------
    device : Device
    spec : Spec
    data : DataFormat
    layout : Layout
    batch_size : int
        Rows of the largest batch.
    operands : Operands
    """

    def __init__(
        self, device: Device, spec: Spec, data: DataFormat, layout: Layout, batch_size: int, operands: Operands
    ) -> None:
        self._device, self._spec, self._layout = device, spec, layout
        self._data, self._batch, self._operands = data, batch_size, operands
        self._dense = [layer for layer in spec.layers if isinstance(layer, Dense)]
        widths = [padded(layer.units) for layer in self._dense]
        # Where blocks leave for each other the outputs of each layer and the gradients of its sums.
        operands.put(exchange=np.zeros(2 * batch_size * sum(widths), np.float32), arrivals=np.zeros(1, np.uint32))
        op, _, params = optimizer_op(spec.optimizer)
        self._optimizer = persistent.OPTIMIZERS.index(op)
        beta_1, beta_2, epsilon = (*params, 0.0, 0.0, 0.0)[:3]
        smoothing = spec.loss.label_smoothing if isinstance(spec.loss, SoftmaxCrossEntropy) else 0.0
        self._constants = persistent.constants(
            pixel_scale=data.scale,
            beta_1=beta_1,
            rest_1=1 - beta_1,
            beta_2=beta_2,
            rest_2=1 - beta_2,
            epsilon=epsilon,
            label_smoothing=smoothing,
        )

    def _layers(self) -> list[dict[str, Array | int]]:
        operands, placements = self._operands, self._operands.program.placements
        exchange = operands.arrays()["exchange"].address
        layers: list[dict[str, Array | int]] = []
        for i, layer in enumerate(self._dense):
            (weights,), (biases,) = placements[2 * i : 2 * i + 2]
            each = self._batch * padded(layer.units) * 4
            layers.append(
                {
                    **self._with_moments("w", weights),
                    **self._with_moments("b", biases),
                    "h": exchange,
                    "dz": exchange + each,
                    "inputs": weights.tensor.shape[0],
                    "units": layer.units,
                    "ld_w": weights.tensor.strides[0],
                    "activation": persistent.ACTIVATIONS.index(layer.activation),
                    "has_bias": int(layer.use_bias),
                }
            )
            exchange += 2 * each
        return layers

    def _with_moments(self, name: str, placement: Placement) -> dict[str, Array | int]:
        """A parameter and its moments; those that the optimizer does not keep are not looked at."""
        tensors = (placement.tensor, *placement.moments)
        first, second = (tensors[min(k, len(tensors) - 1)] for k in (1, 2))
        found = {"": placement.tensor, "_first": first, "_second": second}
        return {f"{name}{end}": self._operands.operand(tensor) for end, tensor in found.items()}

    def walk(self, rows: int, batch_size: int) -> bool:
        """Train on the bound `order` of so many rows; returns whether Ctrl-C came meanwhile, which is heard when the epoch is over.

        Raises
        ------
        RuntimeError
            CuPy launched fewer blocks than it was told to, and nothing was done.
        """
        operands = self._operands
        operands.rewind()
        values: dict[str, Array | int] = {
            **operands.arrays(),
            "cursor": operands.operand("cursor_0"),
            "rows": rows,
            "batch": min(batch_size, self._batch),  # larger: the epoch is one batch
            "features": self._spec.n_features,
            "layers": len(self._dense),
            "optimizer": self._optimizer,
            "loss": int(isinstance(self._spec.loss, BinaryCrossEntropy)),
        }
        operands.put(job=persistent.job(values, self._layers()), constants=self._constants)
        bound = operands.arrays()
        self._device.clear(bound["arrivals"].address, 4)
        try:
            launch = persistent.launch(self._layout, self._data.dtype, bound["job"], bound["constants"])
            self._device.run([launch])
            self._device.synchronize()
        except KeyboardInterrupt:
            self._device.synchronize()
            return True
        if not operands.steps_done():
            raise RuntimeError(
                f"{self._device.name} did not start the {self._layout.blocks} blocks of an epoch together: other programs may limit "
                "its multiprocessors (MPS). Use backend='numba', or let the program have the whole device."
            )
        return False
