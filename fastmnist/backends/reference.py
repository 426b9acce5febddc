"""The numpy executor: walks the same tables with the oracle's ops. Readable first; it is what the others are compared with."""

from __future__ import annotations

import time

import numpy as np

import fastmnist.kernels.reference as reference
from fastmnist.backends.base import Epoch, Parameters, mean_losses
from fastmnist.backends.binding import Binding, constant_scale, epoch_inputs, logical_parameters, place_parameters
from fastmnist.backends.rows import CompressedRows
from fastmnist.network.lowering import DataFormat, Target, gradient_program, inference_program, training_program
from fastmnist.network.program import BARRIER, Instruction, Program
from fastmnist.network.spec import Spec

BLOCK_ROWS = (
    1024  # rows of a block of the full-batch gradient and of prediction: NumPy's overhead a call is small beside them
)


class ReferenceExecutor:
    """Runs programs one instruction at a time in NumPy, float32 or float64.

    Parameters
    ----------
    spec : Spec
    dtype : dtype, default=float32
        Of parameters and arithmetic.
    n_threads : int, default=1
        Threads that the program is lowered for; they are walked one after the other between barriers, which gives the same result.
    target : Target, optional
        Overrides the plain layout; tests use it to run a compiled executor's own tables.
    """

    backend = "numpy"
    takes_compressed = False
    reading_order = None

    def __init__(
        self, spec: Spec, *, dtype: np.dtype | type = np.float32, n_threads: int = 1, target: Target | None = None
    ) -> None:
        self.spec, self.dtype, self.n_threads = spec, np.dtype(dtype), n_threads
        self.compile_seconds = 0.0
        self._target = target or Target(n_threads=n_threads, dtype=self.dtype.name)
        self._state: np.ndarray | None = None
        self._step = 0
        self._initial: list[np.ndarray] | None = None
        self._training: tuple[tuple[int, ...], Program, Binding] | None = None
        self._format = DataFormat("")  # nothing is bound

    def bind(
        self,
        X: np.ndarray | CompressedRows,
        y: np.ndarray,
        sample_weight: np.ndarray | None = None,
        *,
        pixel_scale: float = 1.0,
        max_memory: int | None = None,
        full_batch: bool = False,
    ) -> None:
        """See `Executor.bind`; takes dense rows only."""
        if isinstance(X, CompressedRows):
            raise TypeError("NumPy's executor multiplies dense rows: bind an array.")
        data = DataFormat(X.dtype.name, pixel_scale, reason="NumPy multiplies dense rows.")
        if self._training is not None and not data.same_program(self._format):
            self._initial, self._training = self.get_parameters(), None
        elif self._training is not None:
            self._training[2].release()
        self._format = data
        self._data = {
            "source": X,
            "labels": np.ascontiguousarray(y, np.int32),
            "sample_weight": np.ones(len(X), np.float32)
            if sample_weight is None
            else np.asarray(sample_weight, np.float32),
        }

    def program(self, batch_sizes: tuple[int, ...]) -> Program:
        """The training program for batches of these sizes, on the bound data."""
        return training_program(self.spec, self._target, self._format, batch_sizes)

    def gradient_program(self, block_sizes: tuple[int, ...] = (BLOCK_ROWS,)) -> Program:
        """What a gradient of all rows runs for blocks of so many of them, on the bound data."""
        return gradient_program(self.spec, self._format, block_sizes, self.dtype.name)

    def _prepare(self, batch_sizes: tuple[int, ...]) -> tuple[Program, Binding]:
        if self._training is None or not set(batch_sizes) <= set(self._training[0]):
            program = self.program(batch_sizes)
            if self._state is None:
                self._state = np.zeros(program.state.size, np.uint8)
            self._training = (batch_sizes, program, Binding(program, self._state))
            if self._initial is not None:
                place_parameters(self._training[2], self._initial)
                self._initial = None
        return self._training[1:]

    def set_parameters(self, parameters: Parameters) -> None:
        """See `Executor.set_parameters`."""
        if self._training is None:
            self._initial = [np.array(p, self.dtype) for p in parameters]
        else:
            place_parameters(self._training[2], parameters)

    def get_parameters(self) -> list[np.ndarray]:
        """See `Executor.get_parameters`."""
        if self._training is None:
            if self._initial is None:
                raise RuntimeError("set_parameters was not called.")
            return [p.copy() for p in self._initial]
        return logical_parameters(self._training[2], self.spec)

    def reset_optimizer(self) -> None:
        """See `Executor.reset_optimizer`."""
        self._step = 0
        if self._state is not None:
            parameters = self.get_parameters()
            self._state[:] = 0
            self.set_parameters(parameters)

    def run_epoch(self, order: np.ndarray, learning_rates: np.ndarray, batch_size: int, *, seed: int = 0) -> Epoch:
        """See `Executor.run_epoch`."""
        start = time.perf_counter()
        sizes = [batch_size] * (len(order) // batch_size) + [len(order) % batch_size] * (len(order) % batch_size > 0)
        program, binding = self._prepare(tuple(dict.fromkeys(sizes)))
        inputs = epoch_inputs(
            self.spec, order, learning_rates, batch_size, self._data["sample_weight"], self._step, self.dtype, seed
        )
        binding.bind(**self._data, **inputs)
        steps, interrupted = 0, False
        before = binding.state.copy()
        try:
            for rows in sizes:
                # An interrupted step is undone, so that the parameters are those of the last completed one.
                before = binding.state.copy()
                self._run(program, binding, rows)
                steps += 1
        except KeyboardInterrupt:
            binding.state[:] = before
            interrupted = True
        self._step += steps
        done = sum(sizes[:steps])
        return Epoch(
            inputs["losses"][:done], inputs["hits"][:done].astype(bool), steps, interrupted, time.perf_counter() - start
        )

    def loss_and_gradient(self, parameters: Parameters) -> tuple[float, list[np.ndarray]]:
        """See `Executor.loss_and_gradient`."""
        losses, gradient = self.losses_and_gradient(parameters)
        return float(losses.sum()), gradient

    def losses_and_gradient(self, parameters: Parameters) -> tuple[np.ndarray, list[np.ndarray]]:
        """See `Executor.losses_and_gradient`."""
        n = len(self._data["labels"])
        sizes = [BLOCK_ROWS] * (n // BLOCK_ROWS) + [n % BLOCK_ROWS] * (n % BLOCK_ROWS > 0)
        program = self.gradient_program(tuple(dict.fromkeys(sizes)))
        binding = Binding(program)
        weight = self._data["sample_weight"]
        recorded = program.bound["losses"]
        losses, hits = np.empty((n, *recorded.shape[1:]), recorded.dtype), np.empty(n, np.uint8)
        binding.bind(
            **self._data,
            order=np.arange(n),
            scale=constant_scale(weight, len(sizes)),
            losses=losses,
            hits=hits,
        )
        place_parameters(binding, parameters)
        gradient = [np.zeros(shape) for shape in self.spec.parameter_shapes]
        for rows in sizes:
            for i in range(len(gradient)):
                binding[f"gradient_{i}"][...] = 0
            self._run(program, binding, rows)
            for i, total in enumerate(gradient):
                total += binding[f"gradient_{i}"]
        return mean_losses(losses, weight), gradient

    def outputs(self, parameters: Parameters, X: np.ndarray, *, pixel_scale: float = 1.0) -> np.ndarray:
        """See `Executor.outputs`."""
        n = len(X)
        outputs = np.empty((n, self.spec.n_outputs), self.dtype)
        sizes = [BLOCK_ROWS] * (n // BLOCK_ROWS) + [n % BLOCK_ROWS] * (n % BLOCK_ROWS > 0)
        if not sizes:
            return outputs
        data = DataFormat(X.dtype.name, pixel_scale)
        program = inference_program(self.spec, data, tuple(dict.fromkeys(sizes)), self.dtype.name)
        binding = Binding(program)
        binding.bind(
            **{f"parameter_{i}": np.ascontiguousarray(p, self.dtype) for i, p in enumerate(parameters)},
            source=X,
            order=np.arange(n),
            outputs=outputs,
        )
        for rows in sizes:
            self._run(program, binding, rows)
        return outputs

    @staticmethod
    def _run(program: Program, binding: Binding, rows: int) -> None:
        """One step: between two barriers the threads' instructions run one thread after the other."""
        threads = [iter(thread) for thread in program.tables[rows].threads]
        running = True
        while running:
            for thread in threads:
                running = False
                for instruction in thread:
                    if instruction is BARRIER:
                        running = True
                        break
                    execute(instruction, binding)


def execute(instruction: Instruction, binding: Binding) -> None:
    """Run one instruction with the oracle."""
    arrays = [binding.array(view) for view in (*instruction.outs, *instruction.ins)]
    getattr(reference, instruction.op)(*arrays, *instruction.params)
