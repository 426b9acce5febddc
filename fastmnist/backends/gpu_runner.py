"""A Program on a GPU: its memory, its launches, and the graphs that are recorded from them and replayed for every step."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from fastmnist.backends.base import Parameters
from fastmnist.backends.gpu_device import Buffer, Device, Graph
from fastmnist.backends.gpu_memory import Bound, reserve
from fastmnist.backends.gpu_recording import Watch
from fastmnist.kernels.gpu import Array, Facts, Launch, plan
from fastmnist.kernels.gpu.fusion import Call
from fastmnist.network.program import BARRIER, Instruction, Program, Tensor, View

# Steps in one recorded graph: launching one costs the host some microseconds, as much as a small network's whole step.
STEPS_PER_GRAPH = 16
# How the lowering labels the ops that make probabilities of logits.
LINKS = ("softmax", "sigmoid")


class Runner:
    """A Program with its device memory, its launches and the graphs recorded from them.

    Parameters
    ----------
    device : Device
    facts : Facts
        The device's, with the precision of products.
    program : Program
    shared : Bound
        Bound tensors that other runners use as well: the data set.
    state : Buffer, optional
        Memory of the parameters and moments.
    """

    def __init__(
        self, device: Device, facts: Facts, program: Program, shared: Bound, state: Buffer | None = None
    ) -> None:
        self._device, self.facts, self.program, self._shared = device, facts, program, shared
        self.own = Bound(device)
        self.link = True  # whether outputs pass the loss's link
        self.watch: Watch | None = None  # while somebody profiles
        self._state = state
        self._workspace = reserve(device, {"workspace": program.workspace.size})
        device.clear(self._workspace.address, self._workspace.nbytes)
        instructions = [i for table in program.tables.values() for thread in table.threads for i in thread]
        self._tensors = {v.tensor.name: v.tensor for i in instructions for v in (*i.outs, *i.ins)}
        self._recorded_for: dict[str, Array] = {}
        self._graphs: dict[tuple[int, int], Graph] = {}

    # --- memory -------------------------------------------------------------------------------------------------------------------

    def _operand(self, view: View) -> Array:
        tensor = view.tensor
        if tensor.memory == "bound":
            whole = self.own.arrays.get(tensor.name) or self._shared.arrays[tensor.name]
            shape = view.shape
            if not view.r1:  # to the end of an array whose size is known only now
                rows = whole.shape[0] - view.r0
                shape = (rows, view.c1 - view.c0) if len(whole.shape) == 2 else (rows,)
            return Array(whole.address + view.byte_offset, shape, view.leading_dimension, tensor.dtype)
        return Array(
            self._address(tensor) + view.byte_offset - tensor.offset, view.shape, view.leading_dimension, tensor.dtype
        )

    def _address(self, tensor: Tensor) -> int:
        memory = self._state if tensor.memory == "state" else self._workspace
        assert memory is not None
        return memory.address + tensor.offset

    def _extent(self, tensor: Tensor) -> int:
        """Bytes from a tensor's first element to its last, padding between rows included."""
        return tensor.shape[0] * tensor.strides[0] * np.dtype(tensor.dtype).itemsize

    def _host_array(self, tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of a tensor, padding between its rows included, and the tensor as a view of them."""
        raw = np.zeros(self._extent(tensor), np.uint8)
        dtype = np.dtype(tensor.dtype)
        return raw, np.ndarray(tensor.shape, dtype, raw, 0, [s * dtype.itemsize for s in tensor.strides])

    def clear(self, name: str) -> None:
        """Set a tensor of the workspace to zero."""
        tensor = self._tensors[name]
        self._device.clear(self._address(tensor), self._extent(tensor))

    def tensor(self, tensor: Tensor | str) -> np.ndarray:
        """Download a tensor of the state or the workspace."""
        if isinstance(tensor, str):
            tensor = self._tensors[tensor]
        raw, array = self._host_array(tensor)
        self._device.download(raw, self._address(tensor))
        return array

    def array(self, name: str) -> Array:
        """A tensor of the workspace as an operand."""
        return self.operand(name)

    def operand(self, tensor: Tensor | str) -> Array:
        """A tensor as an operand."""
        return self._operand((self._tensors[tensor] if isinstance(tensor, str) else tensor).view)

    def arrays(self) -> dict[str, Array]:
        """All that is bound."""
        return self._shared.arrays | self.own.arrays

    def put(self, **arrays: np.ndarray) -> None:
        """Bind more, see `Bound.put`."""
        self.own.put(**arrays)

    def parameter_arrays(self) -> list[Array]:
        """The parameters as operands."""
        return [self._operand(piece.tensor.view) for (piece,) in self.program.placements]

    def parameters(self) -> list[np.ndarray]:
        """Download the parameters."""
        (pieces,) = zip(*self.program.placements, strict=True)  # no panels: every parameter is one tensor
        return [np.ascontiguousarray(self.tensor(piece.tensor)) for piece in pieces]

    def place_parameters(self, parameters: Parameters) -> None:
        """Upload the parameters; the moments beside them stay as they are."""
        for parameter, (piece,) in zip(parameters, self.program.placements, strict=True):
            raw, array = self._host_array(piece.tensor)
            array[...] = parameter
            self._device.upload(self._address(piece.tensor), raw)

    # --- running ------------------------------------------------------------------------------------------------------------------

    def launches(self, rows: int) -> list[Launch]:
        """The launches of one step of `rows` rows."""
        return plan(self.facts, self.calls(rows))

    def instructions(self, rows: int) -> list[Instruction]:
        """What one step of `rows` rows runs; barriers among them, which one stream needs none of."""
        (instructions,) = self.program.tables[rows].threads  # kernels have threads of their own: one list
        if not self.link:
            last = max(k for k, i in enumerate(instructions) if i.label in LINKS)
            instructions = [*instructions[:last], *instructions[last + 1 :]]
        return list(instructions)

    def calls(self, rows: int) -> list[Call]:
        """The instructions with their operands, as `plan` takes them."""
        return [
            (i.op, [self._operand(view) for view in (*i.outs, *i.ins)], i.params)
            for i in self.instructions(rows)
            if i is not BARRIER
        ]

    def _graph(self, rows: int, steps: int) -> Graph:
        if (rows, steps) not in self._graphs:
            self._graphs[rows, steps] = self._device.record(self.launches(rows) * steps)
        return self._graphs[rows, steps]

    def walk(self, passes: Sequence[tuple[int, int]]) -> bool:
        """Run `steps` steps of `rows` rows for each (rows, steps) of `passes`; returns whether Ctrl-C came in between.

        A graph is launched whole or not at all, so an interrupted run ends between two steps.
        """
        arrays = self.arrays()
        if arrays != self._recorded_for:
            self._graphs, self._recorded_for = {}, arrays
            if self.watch is not None:
                self.watch.forget()
        self.rewind()
        start = time.perf_counter()
        try:
            for rows, steps in passes:
                if self.watch is not None:
                    steps -= self.watch.time(self, rows, steps)
                many, single = divmod(steps, STEPS_PER_GRAPH)
                for _ in range(many):
                    self._graph(rows, STEPS_PER_GRAPH).replay()
                for _ in range(single):
                    self._graph(rows, 1).replay()
            self._device.synchronize()
        except KeyboardInterrupt:
            self._device.synchronize()
            return True
        if self.watch is not None:
            self.watch.ended(self, start, sum(steps for _, steps in passes))
        return False

    def rewind(self) -> None:
        """Back to the first batch of the order."""
        self._device.upload(self._address(self._tensors["cursor_0"]), np.zeros(2, np.int64))

    def steps_done(self) -> int:
        """Steps since `walk` began, as the device counted them."""
        return int(self.tensor("cursor_0")[1])
