"""The numba executor: compiled kernels, one call a thread for a whole epoch."""

from __future__ import annotations

import operator
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

import fastmnist.kernels.cpu as cpu
from fastmnist.backends.base import Epoch, Parameters, weighted_sum
from fastmnist.backends.binding import Binding, constant_scale, epoch_inputs, logical_parameters, place_parameters
from fastmnist.backends.blocks import BlockRows
from fastmnist.backends.compressed import choose_format
from fastmnist.backends.rows import CompressedRows
from fastmnist.backends.team import Team
from fastmnist.kernels.cpu.isa import LANES
from fastmnist.kernels.cpu.layout import ROWS, TABLE
from fastmnist.network.layers import Dense
from fastmnist.network.lowering import DataFormat, Target, gradient_program, inference_program, training_program
from fastmnist.network.program import BARRIER, Program, Table, View
from fastmnist.network.spec import Spec

# Rows of a block of the full-batch gradient and of prediction: two layers' activations of so many rows stay in L2.
BLOCK_ROWS = 120
# So few rows are predicted with everything settled beforehand: one such prediction is kept for each number of rows.
SMALL_ROWS = 16
# Blocks that make it worth starting another thread to predict.
BLOCKS_A_THREAD = 4
# The full-batch gradient is summed in at most so many chunks of rows, each from its first row to its last, then chunk by chunk in float64:
# the bits depend on the data alone, not on the number of threads.
CHUNKS = 16
CHUNK_ROWS = 512  # no chunk is shorter
# Weight rows of one update: 16 rows of a 64-column panel are 4 KB of gradient, which stay in L1 between gradient and optimizer.
ROW_BLOCK = 16
# Parts of a batch of images whose filter gradients are summed apart: the work of at most so many threads. Each costs a pass over all filters.
GRADIENT_GROUPS = 8
# Images that go through the image layers together: the largest tensor between two layers and its gradient take half of the smallest L2 (512 KB).
CHUNK_BYTES = 1 << 17
# Width of a weight panel: whole strips of the register tile. Narrower panels lost (bench/ladder): layers too narrow to share columns share rows.
PANEL_WIDTHS = (4 * LANES,)

_announced = False


def _announce(op: str) -> None:
    """Say once why the first fit takes longer."""
    global _announced
    if not _announced:
        _announced = True
        print(
            "fastmnist: compiling kernels that this machine has not run yet, some fifteen seconds for a first fit "
            "(they are kept; `fastmnist warmup` does it ahead) ...",
            file=sys.stderr,
            flush=True,
        )


cpu.on_compile.append(_announce)
_executors: weakref.WeakSet[CpuExecutor] = weakref.WeakSet()


def _free_locks() -> None:
    """In a forked child: the thread that held a lock when the parent forked does not exist here."""
    for executor in _executors:
        executor._predicting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)


def aligned_bytes(size: int) -> np.ndarray:
    """`size` zero bytes that start on a page."""
    memory = np.zeros(size + 4096, np.uint8)
    start = -memory.ctypes.data % 4096
    return memory[start : start + size]


class CpuExecutor:
    """Runs programs with the compiled kernels.

    Parameters
    ----------
    spec : Spec
    n_threads : int, optional
        Default: one for each core that this process may use, see `fastmnist.threads`.
    """

    backend = "numba"
    dtype = np.dtype(np.float32)
    reading_order = None

    def __init__(self, spec: Spec, *, n_threads: int | None = None) -> None:
        if n_threads is None:
            from fastmnist.threads import default_threads

            n_threads = default_threads()
        self.spec, self.n_threads = spec, n_threads
        self._compiled_before = cpu.compile_seconds()
        self._target = Target(
            n_threads, PANEL_WIDTHS, ROW_BLOCK, gradient_groups=GRADIENT_GROUPS, lanes=LANES, chunk_bytes=CHUNK_BYTES
        )
        self._state: np.ndarray | None = None
        self._initial: list[np.ndarray] | None = None
        self._training: tuple[tuple[int, ...], _Runner] | None = None
        self._gradient: tuple[tuple[int, ...], list[_Runner]] | None = None
        self._gradient_data: dict[str, np.ndarray] = {}  # what its runners are bound to
        self._fixed: dict[str, np.ndarray] = {}
        self._partial: list[np.ndarray] = []  # the chunks' gradients
        self._inference: dict[Any, _Runner] = {}
        self._small_predictions: dict[Any, _SmallPrediction] = {}
        self._step = 0
        self._format, self._n_rows = DataFormat(""), 0  # nothing is bound
        self._blocks: BlockRows | None = None
        self._bind_for_epochs: Callable[[], None] | None = None
        self._positions = np.arange(BLOCK_ROWS)
        self._predicting = threading.Lock()
        _executors.add(self)

    @property
    def compile_seconds(self) -> float:
        """Seconds spent compiling since this executor was made."""
        return cpu.compile_seconds() - self._compiled_before

    @property
    def takes_compressed(self) -> bool:
        """See `Executor.takes_compressed`."""
        return isinstance(self.spec.layers[0], Dense)

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
        """See `Executor.bind`."""
        data, stored = choose_format(
            X, pixel_scale, self.spec, self.n_threads, max_memory=max_memory, full_batch=full_batch
        )
        if not data.same_program(self._format):
            if self._training is not None and self._initial is None:
                self._initial = self.get_parameters()  # the moments stay in the state
            self._training = self._gradient = None
        if len(X) != self._n_rows:
            self._gradient, self._fixed = None, {}
        self._release_data()
        self._format, self._n_rows = data, len(X)
        arrays: dict[str, Any] = {"source": X} if stored is None else stored.arrays
        self._blocks = stored if isinstance(stored, BlockRows) else None
        weight = (
            np.ones(len(X), np.float32) if sample_weight is None else np.ascontiguousarray(sample_weight, np.float32)
        )
        self._data = {**arrays, "labels": np.ascontiguousarray(y, np.int32), "sample_weight": weight}
        self._bind_for_epochs = None
        if data.blocked:
            self._bind_for_epochs = lambda: self.bind(
                X, y, sample_weight, pixel_scale=pixel_scale, max_memory=max_memory
            )

    def _release_data(self) -> None:
        """Runners are kept for data of the same format; the arrays they are bound to are not."""
        self._gradient_data = {}
        for runner in [
            *([self._training[1]] if self._training else []),
            *(self._gradient[1] if self._gradient else []),
        ]:
            runner.binding.release()

    def program(self, batch_sizes: tuple[int, ...]) -> Program:
        """The training program for batches of these sizes, on the bound data."""
        self._rebind_for_epochs()
        return training_program(self.spec, self._target, self._format, batch_sizes)

    def _rebind_for_epochs(self) -> None:
        """Blocks serve gradients only."""
        if self._bind_for_epochs is not None:
            self._bind_for_epochs()

    # --- training -----------------------------------------------------------------------------------------------------------------

    def _prepare(self, batch_sizes: tuple[int, ...]) -> _Runner:
        self._rebind_for_epochs()
        if self._training is None or self._training[0] != batch_sizes:
            program = self.program(batch_sizes)
            if self._state is None:
                self._state = aligned_bytes(program.state.size)
            self._training = (batch_sizes, _Runner(program, self._state))
            self._team = Team(self.n_threads)
            # What `predict` will need is compiled with the rest: the first prediction should not wait.
            _compile(
                inference_program(self.spec, DataFormat(self._format.dtype, self._format.scale), (1,), lanes=LANES)
            )
        runner = self._training[1]
        if self._initial is not None:
            place_parameters(runner.binding, self._initial)
            self._initial = None
        return runner

    def set_parameters(self, parameters: Parameters) -> None:
        """See `Executor.set_parameters`."""
        self._initial = [np.array(p, np.float32) for p in parameters]

    def get_parameters(self) -> list[np.ndarray]:
        """See `Executor.get_parameters`."""
        if self._initial is not None:
            return [p.copy() for p in self._initial]
        if self._training is None:
            raise RuntimeError("set_parameters was not called.")
        return logical_parameters(self._training[1].binding, self.spec)

    def reset_optimizer(self) -> None:
        """See `Executor.reset_optimizer`."""
        self._step = 0
        if self._state is not None:
            self._initial = self.get_parameters()
            self._state[:] = 0

    def run_epoch(self, order: np.ndarray, learning_rates: np.ndarray, batch_size: int, *, seed: int = 0) -> Epoch:
        """See `Executor.run_epoch`."""
        full, tail = divmod(len(order), batch_size)
        sizes = ((batch_size,) if full else ()) + ((tail,) if tail else ())
        runner = self._prepare(sizes)
        weight = self._data["sample_weight"]
        inputs = epoch_inputs(self.spec, order, learning_rates, batch_size, weight, self._step, self.dtype, seed)
        runner.bind(**self._data, **inputs)
        team = self._team
        start = time.perf_counter()
        passes = ([(batch_size, full)] if full else []) + ([(tail, 1)] if tail else [])
        steps = team.run(lambda thread: runner.walk(thread, passes, team))
        interrupted = team.stop_requested
        self._step += steps
        done = min(steps * batch_size, len(order))
        return Epoch(
            inputs["losses"][:done], inputs["hits"][:done].astype(bool), steps, interrupted, time.perf_counter() - start
        )

    # --- full-batch gradient ------------------------------------------------------------------------------------------------------

    def gradient_program(self, block_sizes: tuple[int, ...] = (BLOCK_ROWS,)) -> Program:
        """What is run for blocks of so many rows, on the bound data."""
        return gradient_program(self.spec, self._format, block_sizes, chunk_bytes=CHUNK_BYTES)

    def loss_and_gradient(self, parameters: Parameters) -> tuple[float, list[np.ndarray]]:
        """See `Executor.loss_and_gradient`."""
        losses, gradient = self.losses_and_gradient(parameters)
        return float(losses.sum()), gradient

    def losses_and_gradient(self, parameters: Parameters) -> tuple[np.ndarray, list[np.ndarray]]:
        """See `Executor.losses_and_gradient`."""
        n = self._n_rows
        chunks = max(1, min(CHUNKS, n // CHUNK_ROWS))
        bounds = [n * c // chunks for c in range(chunks + 1)]
        lengths = [hi - lo for lo, hi in pairwise(bounds)]
        sizes = tuple(sorted({BLOCK_ROWS, *(length % BLOCK_ROWS for length in lengths)} - {0}))
        weight = self._data["sample_weight"]
        if self._gradient is None or self._gradient[0] != sizes:
            program = self.gradient_program(sizes)
            self._gradient = sizes, [_Runner(program) for _ in range(min(self.n_threads, chunks))]
            self._fixed = {
                "order": np.arange(n),
                "losses": np.empty((n, *program.bound["losses"].shape[1:]), np.float32),
                "hits": np.empty(n, np.uint8),
            }
        runners = self._gradient[1]
        if self._gradient_data is not self._data:
            self._fixed["scale"] = constant_scale(weight, n)
            for runner in runners:
                runner.bind(**self._data, **self._fixed)
            self._gradient_data = self._data
        recorded = self._fixed["losses"]
        losses = np.empty((chunks, *recorded.shape[1:]), np.float64)
        if self._blocks is not None:
            parameters = [self._blocks.to_blocks(parameters[0]), parameters[1]]
        if [partial.shape[1:] for partial in self._partial] != [parameter.shape for parameter in parameters]:
            # Kept from call to call: fresh pages would cost a twentieth of the gradient.
            self._partial = [np.empty((CHUNKS, *parameter.shape), np.float32) for parameter in parameters]
        partial = [kept[:chunks] for kept in self._partial]

        team = Team(len(runners))

        def work(thread: int) -> int:
            runner = runners[thread]
            place_parameters(runner.binding, parameters)
            for chunk in range(thread, chunks, len(runners)):
                for i in range(len(partial)):
                    runner.binding[f"gradient_{i}"][...] = 0
                full, tail = divmod(lengths[chunk], BLOCK_ROWS)
                passes = ([(BLOCK_ROWS, full)] if full else []) + ([(tail, 1)] if tail else [])
                runner.walk(0, passes, team, position=bounds[chunk])
                rows = slice(bounds[chunk], bounds[chunk + 1])
                losses[chunk] = weighted_sum(recorded[rows], weight[rows])
                for i, total in enumerate(partial):
                    total[chunk] = runner.binding[f"gradient_{i}"]
            return 0

        team.run(work)
        if team.stop_requested:
            raise KeyboardInterrupt
        mean = np.atleast_1d(losses.sum(axis=0) / weight.sum(dtype=np.float64))
        gradient = [total.sum(axis=0, dtype=np.float64) for total in partial]
        if self._blocks is not None:
            gradient[0] = self._blocks.from_blocks(gradient[0], self.spec.parameter_shapes[0])
        return mean, gradient

    # --- inference ----------------------------------------------------------------------------------------------------------------

    def outputs(self, parameters: Parameters, X: np.ndarray, *, pixel_scale: float = 1.0) -> np.ndarray:
        """See `Executor.outputs`; may be called from several threads, which take turns."""
        with self._predicting:
            if 0 < len(X) <= SMALL_ROWS:
                key = (len(X), X.dtype, pixel_scale)
                if key not in self._small_predictions:
                    self._small_predictions[key] = _SmallPrediction(self.spec, *key)
                return self._small_predictions[key](parameters, X)
            result = np.empty((len(X), self.spec.n_outputs), np.float32)
            if len(X):
                self._predict(parameters, X, pixel_scale, result)
            return result

    def _predict(self, parameters: Parameters, X: np.ndarray, pixel_scale: float, result: np.ndarray) -> None:
        n = len(X)
        if n > len(self._positions):
            self._positions = np.arange(n)
        blocks = -(-n // BLOCK_ROWS)
        n_threads = max(1, min(self.n_threads, blocks // BLOCKS_A_THREAD))
        shares = [
            (blocks * t // n_threads * BLOCK_ROWS, min(blocks * (t + 1) // n_threads * BLOCK_ROWS, n))
            for t in range(n_threads)
        ]
        arrays: dict[str, np.ndarray] = {
            f"parameter_{i}": np.ascontiguousarray(p, np.float32) for i, p in enumerate(parameters)
        }
        arrays |= {"source": X, "order": self._positions[:n], "outputs": result}
        team = Team(n_threads)

        def work(thread: int) -> int:
            lo, hi = shares[thread]
            full, tail = divmod(hi - lo, BLOCK_ROWS)
            passes = ([(BLOCK_ROWS, full)] if full else []) + ([(tail, 1)] if tail else [])
            runner = self._inference_runner(thread, X.dtype.name, pixel_scale, tuple(rows for rows, _ in passes))
            runner.bind(**arrays)
            return runner.walk(0, passes, team, position=lo)

        if blocks < 2 * BLOCKS_A_THREAD:
            work(0)  # a millisecond at most: starting threads would take as long
            return
        team.run(work)
        if team.stop_requested:
            raise KeyboardInterrupt

    def _inference_runner(self, thread: int, dtype: str, scale: float, sizes: tuple[int, ...]) -> _Runner:
        key = (thread, dtype, scale, sizes)
        if key not in self._inference:
            self._inference[key] = _Runner(
                inference_program(self.spec, DataFormat(dtype, scale), sizes, chunk_bytes=CHUNK_BYTES, lanes=LANES)
            )
        return self._inference[key]


class _SmallPrediction:
    """Prediction of a few rows with everything settled beforehand: a call copies the rows in, walks, and copies the outputs out.

    Parameters
    ----------
    spec : Spec
    rows : int
    dtype : dtype
        Of the rows.
    pixel_scale : float
    """

    def __init__(self, spec: Spec, rows: int, dtype: np.dtype, pixel_scale: float) -> None:
        self._runner = _Runner(inference_program(spec, DataFormat(dtype.name, pixel_scale), (rows,), lanes=LANES))
        self._passes = [(rows, 1)]
        self._team = Team(1)
        self._source = np.empty((rows, spec.n_features), dtype)
        self._outputs = np.empty((rows, spec.n_outputs), np.float32)
        self._order = np.arange(rows)
        self._bound: list[np.ndarray] = []

    def __call__(self, parameters: Parameters, X: np.ndarray) -> np.ndarray:
        if len(self._bound) != len(parameters) or not all(map(operator.is_, parameters, self._bound)):
            self._bind(parameters)
        self._source[...] = X
        self._runner.walk(0, self._passes, self._team)
        return self._outputs.copy()

    def _bind(self, parameters: Parameters) -> None:
        arrays = [np.ascontiguousarray(p, np.float32) for p in parameters]
        self._runner.bind(
            source=self._source,
            order=self._order,
            outputs=self._outputs,
            **{f"parameter_{i}": array for i, array in enumerate(arrays)},
        )
        # A converted copy would not follow what its owner writes into the original: it is made anew for each call.
        self._bound = list(parameters) if all(map(operator.is_, arrays, parameters)) else []


def _compile(program: Program) -> None:
    """Compile, or load, every op of a program."""
    for table in program.tables.values():
        for instruction in {i for thread in table.threads for i in thread if i is not BARRIER}:
            views = (*instruction.outs, *instruction.ins)
            cpu.entry(instruction.op, tuple(view.tensor.dtype for view in views))


class _Runner:
    """A Program with its memory, its encoded tables and the compiled walker."""

    def __init__(self, program: Program, state: np.ndarray | None = None) -> None:
        self.program = program
        state = aligned_bytes(program.state.size) if state is None else state
        self.binding = Binding(program, state, aligned_bytes(program.workspace.size))
        self._cursors = [self.binding[f"cursor_{t}"] for t in range(len(next(iter(program.tables.values())).threads))]
        self._walk = cpu.walk()
        self._tables: dict[int, list[np.ndarray]] = {}
        self._lanes: dict[int, tuple[np.ndarray, int]] = {}  # and their addresses
        self._shapes: dict[str, tuple[int, ...]] = {}
        # Where the addresses of a bound tensor stand: rows of a table, word, distance from the start of the array.
        self._places: dict[str, list[tuple[np.ndarray, int, int]]] = {}

    def bind(self, **arrays: np.ndarray) -> None:
        """Bind arrays. The tables are encoded once; arrays of the same shapes later only change addresses in them."""
        self.binding.bind(**arrays)
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes == self._shapes:
            for name, places in self._places.items():
                address = arrays[name].ctypes.data
                for row, word, distance in places:
                    row[word] = address + distance
            return
        self._shapes, self._places = shapes, {}
        self._tables = {rows: self._encode(table) for rows, table in self.program.tables.items()}
        lanes = {rows: _lanes(tables) for rows, tables in self._tables.items()}
        self._lanes = {rows: (array, array.ctypes.data) for rows, array in lanes.items()}

    def _encode(self, table: Table) -> list[np.ndarray]:
        addresses: dict[str, int] = {}

        def operand(view: View) -> tuple[int, tuple[int, ...], int, str]:
            tensor = view.tensor
            if tensor.name not in addresses:
                addresses[tensor.name] = self.binding.whole(tensor).ctypes.data - tensor.offset
            if tensor.memory == "bound" and not view.r1:
                array = self.binding.array(view)
                return array.ctypes.data, array.shape, tensor.strides[0], tensor.dtype
            return addresses[tensor.name] + view.byte_offset, view.shape, view.leading_dimension, tensor.dtype

        encoded = []
        for instructions in table.threads:
            rows = np.zeros((len(instructions), cpu.ROW_WORDS), np.int64)
            for row, instruction in zip(rows, instructions, strict=True):
                if instruction is not BARRIER:
                    views = (*instruction.outs, *instruction.ins)
                    cpu.encode(row, instruction.op, [operand(view) for view in views], instruction.params)
                    for word, view in enumerate(views, start=1):
                        if view.tensor.memory == "bound":
                            place = (row, word, view.byte_offset)
                            self._places.setdefault(view.tensor.name, []).append(place)
            encoded.append(rows)
        return encoded

    def walk(self, thread: int, passes: list[tuple[int, int]], team: Team, position: int = 0) -> int:
        """Walk `steps` times the table for `rows` rows, for each (rows, steps) of `passes`; returns the steps done."""
        self._cursors[thread][:] = position, 0
        done = 0
        for rows, steps in passes:
            lanes, address = self._lanes[rows]
            completed = self._walk(address, len(lanes), thread, steps, team.control_address, 0, 0)
            done += completed
            if completed < steps:
                break
        return done


def _lanes(tables: list[np.ndarray]) -> np.ndarray:
    """Where the walker finds the table of each thread."""
    lanes = np.zeros((len(tables), cpu.LANE_WORDS), np.int64)
    lanes[:, TABLE] = [table.ctypes.data for table in tables]
    lanes[:, ROWS] = [len(table) for table in tables]
    return lanes
