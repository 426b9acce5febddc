"""The numpy executor: walks the same tables with the oracle's ops. Readable first; it is what the others are compared with."""

from __future__ import annotations

import time

import numpy as np

import fastmnist.kernels.reference as reference
from fastmnist.backends.base import Epoch, Parameters, mean_losses
from fastmnist.backends.binding import Binding, constant_scale, epoch_inputs, logical_parameters, place_parameters
from fastmnist.backends.dispatch_log import announce_decisions
from fastmnist.backends.recording import TRACED_STEPS, Span, Table, Trace, active, line_of
from fastmnist.backends.rows import CompressedRows
from fastmnist.network.lowering import DataFormat, Target, gradient_program, inference_program, training_program
from fastmnist.network.program import BARRIER, Instruction, Program
from fastmnist.network.spec import Spec

BLOCK_ROWS = (
    1024  # rows of a block of the full-batch gradient and of prediction: NumPy's overhead a call is small beside them
)
# Where somebody profiles: Python's clock costs 1.5 us an instruction, 4 % of a small network's step.
TIMED_EVERY = 4


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
    precision = "float32"
    takes_compressed = False
    rows_reason = ""
    reading_order = None

    def __init__(
        self, spec: Spec, *, dtype: np.dtype | type = np.float32, n_threads: int = 1, target: Target | None = None
    ) -> None:
        self.spec, self.dtype, self.n_threads = spec, np.dtype(dtype), n_threads
        self.compile_seconds = 0.0
        self._recorder = active()
        self._target = target or Target(n_threads=n_threads, dtype=self.dtype.name)
        self._state: np.ndarray | None = None
        self._step = 0
        self._initial: list[np.ndarray] | None = None
        self._gradient_decisions: list[str] = []  # that were announced
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
            announce_decisions(self.backend, program.decisions)
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
        recorded = self._recorded("training", program, binding, sizes)
        walked = time.perf_counter()
        try:
            for rows in sizes:
                # An interrupted step is undone, so that the parameters are those of the last completed one.
                before = binding.state.copy()
                self._run(program, binding, rows, recorded)
                steps += 1
        except KeyboardInterrupt:
            binding.state[:] = before
            interrupted = True
        self._end(recorded, walked, steps)
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
        if self._gradient_decisions != program.decisions:
            self._gradient_decisions = program.decisions
            announce_decisions(self.backend, program.decisions)
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
        watches, start = self._recorded("gradient", program, binding, sizes), time.perf_counter()
        for rows in sizes:
            for i in range(len(gradient)):
                binding[f"gradient_{i}"][...] = 0
            self._run(program, binding, rows, watches)
            for i, total in enumerate(gradient):
                total += binding[f"gradient_{i}"]
        self._end(watches, start, len(sizes))
        return mean_losses(losses, weight), gradient

    def outputs(
        self, parameters: Parameters, X: np.ndarray, *, pixel_scale: float = 1.0, link: bool = True
    ) -> np.ndarray:
        """See `Executor.outputs`."""
        n = len(X)
        outputs = np.empty((n, self.spec.n_outputs), self.dtype)
        sizes = [BLOCK_ROWS] * (n // BLOCK_ROWS) + [n % BLOCK_ROWS] * (n % BLOCK_ROWS > 0)
        if not sizes:
            return outputs
        data = DataFormat(X.dtype.name, pixel_scale)
        program = inference_program(self.spec, data, tuple(dict.fromkeys(sizes)), self.dtype.name, link=link)
        binding = Binding(program)
        binding.bind(
            **{f"parameter_{i}": np.ascontiguousarray(p, self.dtype) for i, p in enumerate(parameters)},
            source=X,
            order=np.arange(n),
            outputs=outputs,
        )
        recorded, start = self._recorded("inference", program, binding, sizes), time.perf_counter()
        for rows in sizes:
            self._run(program, binding, rows, recorded)
        self._end(recorded, start, len(sizes))
        return outputs

    def _recorded(self, phase: str, program: Program, binding: Binding, sizes: list[int]) -> dict[int, _Stopwatch]:
        """Where somebody profiles: what takes the time of each table that will be run for these sizes of batches."""
        if self._recorder is None:
            return {}
        if phase != "inference":
            self._recorder.decisions = program.decisions
        watches = {}
        for rows in dict.fromkeys(sizes):
            lines = [
                [line_of(i, [binding.array(view).shape for view in (*i.outs, *i.ins)]) for i in thread]
                for thread in program.tables[rows].threads
            ]
            table = self._recorder.table(phase, rows, lines)
            watches[rows] = _Stopwatch(table, sizes.count(rows), self._recorder.every or TIMED_EVERY)
        return watches

    def _end(self, recorded: dict[int, _Stopwatch], start: float, steps: int) -> None:
        if self._recorder is not None:
            seconds = time.perf_counter() - start
            for watch in recorded.values():
                watch.finish()
            phase = next(iter(recorded.values())).table.phase
            self._recorder.spans.append(Span(phase, start, seconds, 1, steps))

    @staticmethod
    def _run(program: Program, binding: Binding, rows: int, recorded: dict[int, _Stopwatch]) -> None:
        """One step: between two barriers the threads' instructions run one thread after the other."""
        watch = recorded.get(rows)
        if watch is not None and not watch.begin_step():
            watch = None
        threads = [enumerate(thread) for thread in program.tables[rows].threads]
        running = True
        while running:
            for lane, thread in enumerate(threads):
                running = False
                for i, instruction in thread:
                    if instruction is BARRIER:
                        running = True
                        break
                    execute(instruction, binding)
                    if watch is not None:
                        watch.stop(lane, i)


class _Stopwatch:
    """Takes the time of the instructions of a table.

    Parameters
    ----------
    table : Table
    steps : int
        How often the table will be run; steps in the middle are traced.
    every : int
        Every so manieth step is timed, and those that are traced.
    """

    def __init__(self, table: Table, steps: int, every: int) -> None:
        self.table, self._every, self._first = table, every, min(every, steps) - 1
        self._traced_from, self._step = max(steps - TRACED_STEPS, 0) // 2, -1
        self._last = 0.0
        self._traced: list[tuple[int, int, float, float]] = []

    def finish(self) -> None:
        """Hand over the trace."""
        traced = np.array(self._traced, np.float64).reshape(-1, 4)
        for lane, lines in enumerate(self.table.lanes):
            rows, _, starts, seconds = traced[traced[:, 1] == lane].T
            self.table.traces.append(Trace(lines, rows.astype(int), np.zeros(len(rows), int), starts, seconds))

    def begin_step(self) -> bool:
        """The first instruction begins now; whether it and the others will be timed."""
        self._step += 1
        traced = 0 <= self._step - self._traced_from < TRACED_STEPS
        timed = traced or self._step % self._every == self._first
        for lane in range(len(self.table.lanes)):
            self.table.calls[lane] += 1
            self.table.timed[lane] += timed
        self._last = time.perf_counter()
        return timed

    def stop(self, lane: int, i: int) -> None:
        """An instruction has ended; the next one begins."""
        now = time.perf_counter()
        table, seconds = self.table, now - self._last
        table.timed_seconds[lane][i] += seconds
        if 0 <= self._step - self._traced_from < TRACED_STEPS:
            self._traced.append((i, lane, self._last, seconds))
        self._last = now


def execute(instruction: Instruction, binding: Binding) -> None:
    """Run one instruction with the oracle."""
    arrays = [binding.array(view) for view in (*instruction.outs, *instruction.ins)]
    getattr(reference, instruction.op)(*arrays, *instruction.params)
