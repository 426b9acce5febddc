"""The numba executor: compiled kernels, one call a thread for a whole epoch."""

from __future__ import annotations

import ctypes
import functools
import operator
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

import fastmnist.kernels.cpu as cpu
from fastmnist.backends.base import Epoch, Parameters
from fastmnist.backends.binding import Binding, constant_scale, epoch_inputs, logical_parameters, place_parameters
from fastmnist.backends.blocks import BlockRows
from fastmnist.backends.compile_notice import CompileNotice
from fastmnist.backends.compressed import choose_format, most_nonzeros, skips_zeros
from fastmnist.backends.crossovers import winograd_limit
from fastmnist.backends.dispatch_log import announce_decisions
from fastmnist.backends.recording import TRACED_STEPS, Line, Recorder, Span, Trace, active, line_of
from fastmnist.backends.recording import Table as RecordedTable
from fastmnist.backends.rows import CompressedRows
from fastmnist.backends.team import Team
from fastmnist.kernels.cpu.isa import LANES, MACHINE
from fastmnist.kernels.cpu.layout import (
    BEGAN_CYCLES,
    BEGAN_NS,
    ENDED_CYCLES,
    ENDED_NS,
    EVENT_WORDS,
    MAX_EVENTS,
    N_EVENTS,
    NEXT_TIMED,
    RECORD,
    RECORD_STEPS,
    RECORD_WORDS,
    ROWS,
    SHORTEST_PLAIN,
    SHORTEST_TIMED,
    TABLE,
    TIMED_EVERY,
    TIMED_STEPS,
    TRACED_FROM,
    TRACED_TO,
    WAITED_ALONE,
)
from fastmnist.network.folding import FoldedNetwork
from fastmnist.network.layers import Dense
from fastmnist.network.lowering import DataFormat, Target, gradient_program, inference_program, training_program
from fastmnist.network.program import BARRIER, Instruction, Program, Table, View
from fastmnist.network.spec import Spec

# Rows of a block of the full-batch gradient and of prediction: two layers' activations of so many rows stay in L2.
BLOCK_ROWS = 120
# So few rows are predicted with everything settled beforehand: one such prediction is kept for each number of rows.
SMALL_ROWS = 16
# Where training steps would take so few FLOPs, predicting takes 100 us at most and keeps the interpreter's lock: other Python threads hold it
# for 5 ms before they give it back.
LOCKED_FLOPS = 1e7
# Blocks that make it worth starting another thread to predict.
BLOCKS_A_THREAD = 4
# The full-batch gradient is summed in at most so many chunks of rows, each from its first row to its last, then chunk by chunk in float64:
# the bits depend on the data alone, not on the number of threads.
CHUNKS = 16
CHUNK_ROWS = 512  # no chunk is shorter
# Weight rows of one update: 32 rows of a 64-column panel are 8 KB of gradient, which stay in L1 between
# gradient and optimizer; with 16 rows the calls cost more.
ROW_BLOCK = 32
# Parts of a batch of images whose filter gradients are summed apart: the work of at most so many threads. Each costs a pass over all filters.
GRADIENT_GROUPS = 8
# Images that go through the image layers together: the largest tensor between two layers and its gradient take half of the smallest L2 (512 KB).
CHUNK_BYTES = 1 << 17
# Width of a weight panel: whole strips of the register tile. Narrower panels lost (bench/ladder): layers too narrow to share columns share rows.
PANEL_WIDTHS = (4 * LANES,)
# Of a profiled run: one step in so many is timed until it is known what readings of the cycle counter cost, then as many as keep that within
# OVERHEAD. The first steps, which wait for memory to be mapped, are not timed where others follow.
DEFAULT_TIMED_EVERY, LONGEST_TIMED_EVERY = 16, 64
OVERHEAD = 0.015
COLD_STEPS = 3

_notice = CompileNotice()
cpu.on_compile.append(_notice.compiles)
_lock_owners: weakref.WeakSet[CpuExecutor | SmallPrediction] = weakref.WeakSet()


def _free_locks() -> None:
    """In a forked child: the thread that held a lock when the parent forked does not exist here."""
    for owner in _lock_owners:
        owner._predicting = threading.Lock()


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
    precision = "float32"
    reading_order = None

    def __init__(self, spec: Spec, *, n_threads: int | None = None) -> None:
        if n_threads is None:
            from fastmnist.threads import default_threads

            n_threads = default_threads()
        self.spec, self.n_threads = spec, n_threads
        self._recorder = active()
        self._predicted = FoldedNetwork(spec)
        self._compiled_before = cpu.compile_seconds()
        self._target = Target(
            n_threads,
            PANEL_WIDTHS,
            ROW_BLOCK,
            gradient_groups=GRADIENT_GROUPS,
            lanes=LANES,
            chunk_bytes=CHUNK_BYTES,
            winograd=winograd_limit(),
            fuses_sgd=True,
        )
        self._state: np.ndarray | None = None
        self._initial: list[np.ndarray] | None = None
        self._training: tuple[tuple[int, ...], _Runner] | None = None
        self._gradient: tuple[tuple[int, ...], list[_Runner]] | None = None
        self._gradient_data: dict[str, np.ndarray] = {}  # what its runners are bound to
        self._total_weight = np.float64(0)
        self._fixed: dict[str, np.ndarray] = {}
        self._loss_sums: list[_WeightedSums] = []  # of each chunk
        self._gradient_sums: list[_WeightedSums] = []  # of each parameter, over the chunks
        self._inference: dict[Any, _Runner] = {}
        self._small_predictions: dict[Any, SmallPrediction] = {}
        self._step = 0
        self._format, self._n_rows = DataFormat(""), 0  # nothing is bound
        self._blocks: BlockRows | None = None
        self._bind_for_epochs: Callable[[], None] | None = None
        self._bind_for_gradients: Callable[[], None] | None = None
        self._positions = np.arange(BLOCK_ROWS)
        self._predicting = threading.Lock()
        _lock_owners.add(self)

    @property
    def compile_seconds(self) -> float:
        """Seconds spent compiling since this executor was made."""
        return cpu.compile_seconds() - self._compiled_before

    @property
    def rows_reason(self) -> str:
        """See `Executor.rows_reason`."""
        return f"Rows of X: {self._format.reason}" if self._format.reason and self.takes_compressed else ""

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
        cpu.expect(cpu.WALKERS[0], self.n_threads)
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
        labels = np.ascontiguousarray(y, np.int32)
        if self._blocks is not None:
            labels, weight = labels[self._blocks.rows], weight[self._blocks.rows]
        self._data = {**arrays, "labels": labels, "sample_weight": weight}
        again = functools.partial(self.bind, X, y, sample_weight, pixel_scale=pixel_scale, max_memory=max_memory)
        self._bind_for_epochs = again if data.blocked else None
        self._bind_for_gradients = functools.partial(again, full_batch=True) if data.skipping else None

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

    def _rebind_for_gradients(self) -> None:
        """Dense rows whose zeros are skipped serve epochs only."""
        if self._bind_for_gradients is not None:
            self._bind_for_gradients()

    # --- training -----------------------------------------------------------------------------------------------------------------

    def _prepare(self, batch_sizes: tuple[int, ...]) -> _Runner:
        self._rebind_for_epochs()
        if self._training is None or not set(batch_sizes) <= set(self._training[0]):
            program = self.program(batch_sizes)
            # What `predict` will need is compiled with the rest: the first prediction should not wait.
            data_format = DataFormat(self._format.dtype, self._format.scale, skipping=not self._format.dense)
            _compile(program, _inference_program(self._predicted.spec, data_format, (1,)), n_processes=self.n_threads)
            if self._state is None:
                self._state = aligned_bytes(program.state.size)
            self._training = (batch_sizes, _Runner(program, self._state, "training", self._recorder))
            announce_decisions(self.backend, program.decisions)
            self._team = Team(self.n_threads)
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
        seconds = time.perf_counter() - start
        self._record([runner], start, seconds, self.n_threads, steps)
        self._step += steps
        done = min(steps * batch_size, len(order))
        return Epoch(inputs["losses"][:done], inputs["hits"][:done].astype(bool), steps, interrupted, seconds)

    def _record(self, runners: Iterable[_Runner], start: float, seconds: float, n_threads: int, steps: int) -> None:
        """Where somebody profiles: write down what runners did from `start` (`time.perf_counter`) on."""
        if self._recorder is None:
            return
        for thread, runner in enumerate(runners):
            runner.collect(thread)
            self._recorder.decisions = (
                runner.program.decisions if runner.phase != "inference" else self._recorder.decisions
            )
            phase = runner.phase
        self._recorder.spans.append(Span(phase, start, seconds, n_threads, steps))

    # --- full-batch gradient ------------------------------------------------------------------------------------------------------

    def gradient_program(self, block_sizes: tuple[int, ...] = (BLOCK_ROWS,)) -> Program:
        """What is run for blocks of so many rows, on the bound data."""
        self._rebind_for_gradients()
        return gradient_program(self.spec, self._format, block_sizes, chunk_bytes=CHUNK_BYTES, sums_losses=True)

    def loss_and_gradient(self, parameters: Parameters) -> tuple[float, list[np.ndarray]]:
        """See `Executor.loss_and_gradient`."""
        losses, gradient = self.losses_and_gradient(parameters)
        return float(losses.sum()), gradient

    def losses_and_gradient(self, parameters: Parameters) -> tuple[np.ndarray, list[np.ndarray]]:
        """See `Executor.losses_and_gradient`."""
        self._rebind_for_gradients()
        chunks = _Chunks.of(self._n_rows)
        runners = self._gradient_runners(chunks)
        if self._blocks is not None:
            parameters = [self._blocks.to_blocks(parameters[0]), parameters[1]]
        if self._gradient_data is not self._data:
            self._bind_gradient(chunks, parameters)
        partial = [sums.rows for sums in self._gradient_sums]
        todo = iter(range(len(chunks)))  # a thread without a core of its own takes fewer

        team = Team(len(runners))
        start = time.perf_counter()

        def work(thread: int) -> int:
            runner = runners[thread]
            place_parameters(runner.binding, parameters)
            gradient = [runner.binding[f"gradient_{i}"] for i in range(len(partial))]
            for chunk in todo:
                for part in gradient:
                    part[...] = 0
                runner.walk(0, chunks.passes(chunk), team, position=chunks.rows[chunk], step=chunks.blocks[chunk])
                self._loss_sums[chunk]()
                for part, total in zip(gradient, partial, strict=True):
                    total[chunk] = part.ravel()
            return 0

        team.run(work)
        if team.stop_requested:
            raise KeyboardInterrupt
        self._record(runners, start, time.perf_counter() - start, len(runners), 1)
        mean = np.sum([sums.sums for sums in self._loss_sums], axis=0) / self._total_weight
        gradient = [
            sums().copy().reshape(parameter.shape)
            for sums, parameter in zip(self._gradient_sums, parameters, strict=True)
        ]
        if self._blocks is not None:
            gradient[0] = self._blocks.from_blocks(gradient[0], self.spec.parameter_shapes[0])
        return mean, gradient

    def _gradient_runners(self, chunks: _Chunks) -> list[_Runner]:
        """A runner for each thread, and what is the same in each evaluation on data of this format and length."""
        if self._gradient is None or self._gradient[0] != chunks.sizes:
            program = self.gradient_program(chunks.sizes)
            _compile(program, n_processes=self.n_threads)
            announce_decisions(self.backend, program.decisions)
            n_runners = min(self.n_threads, len(chunks))
            runners = [_Runner(program, None, "gradient", self._recorder) for _ in range(n_runners)]
            self._gradient = chunks.sizes, runners
            columns = program.bound["losses"].shape[1:]  # losses of several outputs are summed block by block
            self._fixed = {
                "order": np.arange(self._n_rows),
                "losses": np.empty((chunks.blocks[-1] if columns else self._n_rows, *columns), np.float32),
                "hits": np.empty(self._n_rows, np.uint8),
            }
        return self._gradient[1]

    def _bind_gradient(self, chunks: _Chunks, parameters: Parameters) -> None:
        """Bind the runners of the gradient to the data."""
        assert self._gradient is not None
        weight = self._data["sample_weight"]
        self._fixed["scale"] = constant_scale(weight, chunks.blocks[-1])
        self._total_weight = weight.sum(dtype=np.float64)
        for runner in self._gradient[1]:
            runner.bind(**self._data, **self._fixed)
        self._gradient_data = self._data
        losses = self._fixed["losses"]
        bounds, weights = chunks.rows, weight
        if losses.ndim == 2:  # sums of weighted losses
            bounds, weights = chunks.blocks, np.ones(len(losses), np.float32)
        recorded = losses.reshape(len(losses), -1)
        self._loss_sums = [_WeightedSums(recorded[lo:hi], weights[lo:hi]) for lo, hi in pairwise(bounds)]
        self._gradient_sums = [
            _WeightedSums(np.empty((len(chunks), parameter.size), np.float32), np.ones(len(chunks), np.float32))
            for parameter in parameters
        ]

    # --- inference ----------------------------------------------------------------------------------------------------------------

    def outputs(
        self, parameters: Parameters, X: np.ndarray, *, pixel_scale: float = 1.0, link: bool = True
    ) -> np.ndarray:
        """See `Executor.outputs`; may be called from several threads, which take turns."""
        if 0 < len(X) <= SMALL_ROWS:
            return self.small_prediction(len(X), X.dtype, pixel_scale=pixel_scale, link=link)(parameters, X)
        parameters = self._predicted.parameters(parameters)
        with self._predicting:
            result = np.empty((len(X), self.spec.n_outputs), np.float32)
            if len(X):
                data = DataFormat(X.dtype.name, pixel_scale, skipping=skips_zeros(X, self._predicted.spec))
                self._predict(parameters, X, data, link, result)
            return result

    def small_prediction(self, rows: int, dtype: np.dtype, *, pixel_scale: float, link: bool) -> SmallPrediction:
        """What predicts so few rows of a dtype: `outputs` without what can be settled before the values are known."""
        key = rows, dtype, pixel_scale, link
        known = self._small_predictions.get(key)
        if known is None:
            made = SmallPrediction(self._predicted, rows, DataFormat(dtype.name, pixel_scale), link)
            known = self._small_predictions.setdefault(key, made)
        return known

    def _predict(self, parameters: Parameters, X: np.ndarray, data: DataFormat, link: bool, result: np.ndarray) -> None:
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
        start = time.perf_counter()

        def work(thread: int) -> int:
            lo, hi = shares[thread]
            full, tail = divmod(hi - lo, BLOCK_ROWS)
            passes = ([(BLOCK_ROWS, full)] if full else []) + ([(tail, 1)] if tail else [])
            runner = self._inference_runner(thread, data, link, tuple(rows for rows, _ in passes))
            runner.bind(**arrays)
            used[thread] = runner
            return runner.walk(0, passes, team, position=lo)

        used: dict[int, _Runner] = {}
        if blocks < 2 * BLOCKS_A_THREAD:
            work(0)  # a millisecond at most: starting threads would take as long
        else:
            team.run(work)
        if team.stop_requested:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - start
        self._record([used[thread] for thread in range(n_threads)], start, seconds, n_threads, blocks)

    def _inference_runner(self, thread: int, data: DataFormat, link: bool, sizes: tuple[int, ...]) -> _Runner:
        key = (thread, data, link, sizes)
        if key not in self._inference:
            program = _inference_program(self._predicted.spec, data, sizes, link, CHUNK_BYTES)
            self._inference[key] = _Runner(program, None, "inference", self._recorder)
        return self._inference[key]


@dataclass(frozen=True)
class _Chunks:
    """The chunks of a full-batch gradient: where each begins, and behind the last one its end.

    Attributes
    ----------
    rows, blocks : list of int
        Counted in rows, and in blocks of at most `BLOCK_ROWS` of them; no block belongs to two chunks.
    """

    rows: list[int]
    blocks: list[int]

    @classmethod
    def of(cls, n: int) -> _Chunks:
        """Those of n rows: by their number alone."""
        chunks = max(1, min(CHUNKS, n // CHUNK_ROWS))
        rows = [n * chunk // chunks for chunk in range(chunks + 1)]
        return cls(rows, [0, *accumulate(-(-(hi - lo) // BLOCK_ROWS) for lo, hi in pairwise(rows))])

    def __len__(self) -> int:
        return len(self.rows) - 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of the blocks that there are."""
        lengths = {hi - lo for lo, hi in pairwise(self.rows)}
        return tuple(sorted({BLOCK_ROWS, *(length % BLOCK_ROWS for length in lengths)} - {0}))

    def passes(self, chunk: int) -> list[tuple[int, int]]:
        """What a runner walks for a chunk: rows of a block, and how many such blocks."""
        full, tail = divmod(self.rows[chunk + 1] - self.rows[chunk], BLOCK_ROWS)
        return ([(BLOCK_ROWS, full)] if full else []) + ([(tail, 1)] if tail else [])


class SmallPrediction:
    """Prediction of a few rows with everything settled beforehand: a call copies the rows in, walks, and copies the outputs out.

    May be called from several threads, which take turns.

    Parameters
    ----------
    network : FoldedNetwork
    rows : int
    data : DataFormat
        Of the rows.
    link : bool
        Whether outputs pass the loss's link.
    """

    def __init__(self, network: FoldedNetwork, rows: int, data: DataFormat, link: bool) -> None:
        self._network, self._data, self._link = network, data, link
        self._source = np.empty((rows, network.spec.n_features), data.dtype)
        self._outputs = np.empty((rows, network.spec.n_outputs), np.float32)
        self._most_nonzeros = most_nonzeros(network.spec, self._source.size)
        self._walks: dict[bool, _SmallWalk] = {}  # by whether zeros are skipped
        self._predicting = threading.Lock()
        _lock_owners.add(self)

    def __call__(self, parameters: Parameters, X: np.ndarray) -> np.ndarray:
        """Outputs (rows, n_outputs) for X (rows, n_features).

        What is written into the parameters is followed. It is found out fastest of a tuple that they are the same arrays as before.
        """
        with self._predicting:
            self._source[...] = X
            skipping = self._most_nonzeros >= 0 and int(np.count_nonzero(self._source)) <= self._most_nonzeros
            walk = self._walks.get(skipping) or self._prepare(skipping)
            if walk.parameters is not parameters and not _same_arrays(walk.parameters, parameters):
                walk.bind(parameters, self._network.parameters(parameters))
            walk()
            return self._outputs.copy()

    def _prepare(self, skipping: bool) -> _SmallWalk:
        data = replace(self._data, skipping=skipping)
        program = _inference_program(self._network.spec, data, (len(self._source),), self._link)
        walk = _SmallWalk(program, self._source, self._outputs, self._network.spec.flops_per_sample)
        self._walks[skipping] = walk
        return walk


def _same_arrays(one: Parameters, other: Parameters) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))


class _SmallWalk:
    """One table of a `SmallPrediction`, and the arguments of the compiled call.

    Attributes
    ----------
    parameters : tuple of ndarray
        What the table is bound to, and may stay bound to whatever is written into it; () for nothing.
    """

    def __init__(self, program: Program, source: np.ndarray, outputs: np.ndarray, flops: float) -> None:
        self._runner = _Runner(program)
        self._rows = len(source)
        self._fixed = {"source": source, "outputs": outputs, "order": np.arange(self._rows)}
        self._walk = cpu.walk(keeps_lock=self._rows * flops <= LOCKED_FLOPS)
        self._team = Team(1)
        self._arguments: tuple[Any, ...] = ()
        self._rewind = self._runner.binding["cursor_0"].fill
        self.parameters: tuple[np.ndarray, ...] = ()

    def bind(self, given: Parameters, used: Parameters) -> None:
        """Bind the table to `used`, which the network makes of the parameters that were `given`."""
        self.parameters = ()
        arrays = [np.ascontiguousarray(p, np.float32) for p in used]
        self._runner.bind(**self._fixed, **{f"parameter_{i}": array for i, array in enumerate(arrays)})
        lanes, address = self._runner._bound.lanes[self._rows]
        p, n = ctypes.c_void_p, ctypes.c_int64  # made once: ctypes takes as long to convert numbers as to call
        self._arguments = p(address), n(len(lanes)), n(0), n(1), p(self._team.control_address)
        # A copy would not follow what its owner writes into the original: it is made anew for each call. (That arrays are the same objects is
        # not asked: those of an unpickled model have dtypes that are equal, but not float32 itself, and come back as views.)
        if len(arrays) == len(given) and all(map(np.may_share_memory, arrays, given)):
            self.parameters = tuple(given)

    def __call__(self) -> None:
        self._rewind(0)
        self._walk(*self._arguments)


def _inference_program(
    spec: Spec, data: DataFormat, sizes: tuple[int, ...], link: bool = True, chunk_bytes: int = 0
) -> Program:
    """For this machine."""
    return inference_program(
        spec,
        data,
        sizes,
        chunk_bytes=chunk_bytes,
        lanes=LANES,
        winograd=winograd_limit(),
        lists_bytes=MACHINE.packs_lanes and max(sizes) > SMALL_ROWS,
        link=link,
    )


def _compile(*programs: Program, n_processes: int) -> None:
    """Compile, or load, every op of these programs."""
    instructions = {
        i for program in programs for table in program.tables.values() for thread in table.threads for i in thread
    }
    kernels = [(i.op, tuple(view.tensor.dtype for view in (*i.outs, *i.ins))) for i in instructions if i is not BARRIER]
    cpu.prepare([(cpu.WALKERS[0], ()), *sorted(set(kernels))], n_processes, _notice.comes_to)


@dataclass
class _Encoded:
    """The tables of a Program as the walker reads them, for bound arrays of certain shapes.

    Attributes
    ----------
    shapes : dict
        Of the bound arrays, by name.
    tables : dict
        For each number of rows of a batch the table of each thread.
    lanes : dict
        For each number of rows where the tables of the threads are, and the address of that array.
    places : dict
        Where the addresses of a bound tensor stand: rows of a table, word, distance from the start of the array.
    records : dict
        Where somebody profiles: what is recorded of each number of rows.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tables: dict[int, list[np.ndarray]] = field(default_factory=dict)
    lanes: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)
    places: dict[str, list[tuple[np.ndarray, int, int]]] = field(default_factory=dict)
    records: dict[int, _Records] = field(default_factory=dict)


class _Runner:
    """A Program with its memory, its encoded tables and the compiled walker; with a recorder, the one that records."""

    def __init__(
        self, program: Program, state: np.ndarray | None = None, phase: str = "", recorder: Recorder | None = None
    ) -> None:
        self.program, self.phase, self._recorder = program, phase, recorder
        state = aligned_bytes(program.state.size) if state is None else state
        self.binding = Binding(program, state, aligned_bytes(program.workspace.size))
        self._cursors = [self.binding[f"cursor_{t}"] for t in range(len(next(iter(program.tables.values())).threads))]
        self._walk = cpu.walk(recording=recorder is not None)
        self._bound = _Encoded()
        self._encoded: list[_Encoded] = []  # the last two: what is run in parts has a part of another length

    def bind(self, **arrays: np.ndarray) -> None:
        """Bind arrays. The tables are encoded once; arrays of the same shapes later only change addresses in them."""
        self.binding.bind(**arrays)
        shapes = {name: array.shape for name, array in arrays.items()}
        known = next((encoded for encoded in self._encoded if encoded.shapes == shapes), None)
        if known is not None:
            self._bound = known
            for name, places in known.places.items():
                address = arrays[name].ctypes.data
                for row, word, distance in places:
                    row[word] = address + distance
            return
        self._bound = _Encoded(shapes)
        self._bound.tables = {rows: self._encode(table) for rows, table in self.program.tables.items()}
        lanes = {rows: _lanes(tables) for rows, tables in self._bound.tables.items()}
        if self._recorder is not None:
            self._bound.records = {rows: self._records(rows, lanes[rows], self._recorder) for rows in lanes}
        self._bound.lanes = {rows: (array, array.ctypes.data) for rows, array in lanes.items()}
        self._encoded = [self._bound, *self._encoded[:1]]

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
                            self._bound.places.setdefault(view.tensor.name, []).append(place)
            encoded.append(rows)
        return encoded

    def _records(self, rows: int, lanes: np.ndarray, recorder: Recorder) -> _Records:
        lines = [[line_of(i, self._shapes_of(i)) for i in thread] for thread in self.program.tables[rows].threads]
        return _Records(recorder.table(self.phase, rows, lines), lanes, recorder.every)

    def _shapes_of(self, instruction: Instruction) -> list[tuple[int, ...]]:
        views = (*instruction.outs, *instruction.ins)
        return [view.shape if view.r1 else self.binding.array(view).shape for view in views]

    def collect(self, thread: int) -> None:
        """Write down what was recorded since the last time, when all threads have ended; of a single lane, under the number `thread`."""
        for encoded in self._encoded:
            for records in encoded.records.values():
                records.collect(thread)

    def walk(self, thread: int, passes: list[tuple[int, int]], team: Team, position: int = 0, step: int = 0) -> int:
        """Walk `steps` times the table for `rows` rows, for each (rows, steps) of `passes`, from a row and the step that is to have this number on;
        returns the steps done.
        """
        self._cursors[thread][:] = position, step
        done = 0
        for rows, steps in passes:
            lanes, address = self._bound.lanes[rows]
            if self._recorder is not None:
                self._bound.records[rows].begin(thread, steps)
            completed = self._walk(address, len(lanes), thread, steps, team.control_address)
            done += completed
            if completed < steps:
                break
        return done


class _Records:
    """What `walk_recording` keeps of the lanes of a table, and the recorder's table that it is added to."""

    def __init__(self, table: RecordedTable, lanes: np.ndarray, every: int | None) -> None:
        self._table, self._every = table, every or DEFAULT_TIMED_EVERY
        self._chosen = every is not None
        self._words = [
            np.zeros(RECORD_WORDS + len(lines) + len(lines) * TRACED_STEPS * EVENT_WORDS, np.int64)
            for lines in table.lanes
        ]
        lanes[:, RECORD] = [words.ctypes.data for words in self._words]

    def begin(self, lane: int, steps: int) -> None:
        """A thread is about to walk `steps` steps of its lane: those in the middle will be traced."""
        words = self._words[lane]
        first = words[RECORD_STEPS] + max(steps - TRACED_STEPS, 0) // 2
        words[TIMED_EVERY] = self._every
        if not words[RECORD_STEPS] and steps > COLD_STEPS and not self._chosen:
            words[NEXT_TIMED] = COLD_STEPS
        words[N_EVENTS], words[MAX_EVENTS] = 0, len(self._table.lanes[lane]) * TRACED_STEPS
        words[TRACED_FROM], words[TRACED_TO] = first, first + TRACED_STEPS

    def collect(self, thread: int) -> None:
        """Add what there is to the table."""
        traces = []
        for lane, (words, lines) in enumerate(zip(self._words, self._table.lanes, strict=True)):
            if words[ENDED_NS] == 0:
                continue  # not walked since the last time
            second = 1e-9 * (words[ENDED_NS] - words[BEGAN_NS]) / max(words[ENDED_CYCLES] - words[BEGAN_CYCLES], 1)
            self._table.calls[lane] = int(words[RECORD_STEPS])
            self._table.timed[lane] = int(words[TIMED_STEPS])
            cycles = words[RECORD_WORDS : RECORD_WORDS + len(lines)]
            self._table.timed_seconds[lane] += cycles * second
            if words[SHORTEST_PLAIN] and words[SHORTEST_TIMED]:
                extra = max(int(words[SHORTEST_TIMED] - words[SHORTEST_PLAIN]), 0)
                self._table.reading_seconds[lane] = extra * second / len(lines)
                self._settle(len(lines), words[SHORTEST_PLAIN] * second)
            traces.append(self._trace(words, lines, second, thread))
            self._table.walked_seconds[lane] += 1e-9 * float(words[ENDED_NS] - words[BEGAN_NS])
            self._table.waited_alone[lane] += float(words[WAITED_ALONE] * second)
            cycles[:] = words[WAITED_ALONE] = 0
            words[ENDED_NS] = 0
        self._table.traces = traces or self._table.traces

    def _settle(self, n_lines: int, step_seconds: float) -> None:
        """Time as many steps as `OVERHEAD` allows."""
        if not self._chosen:
            share = n_lines * max(self._table.reading(lane) for lane in range(len(self._words))) / step_seconds
            self._every = min(max(int(np.ceil(share / OVERHEAD)), 1), LONGEST_TIMED_EVERY)

    def _trace(self, words: np.ndarray, lines: list[Line], second: float, thread: int) -> Trace:
        first = RECORD_WORDS + len(lines)
        rows, threads, starts, ends = words[first : first + words[N_EVENTS] * EVENT_WORDS].reshape(-1, EVENT_WORDS).T
        if len(self._words) == 1:  # its thread is no lane's: it is known to the caller alone
            threads = np.full(len(rows), thread)
        began = 1e-9 * words[BEGAN_NS] + (starts - words[BEGAN_CYCLES]) * second
        return Trace(lines, rows.copy(), threads.copy(), began, (ends - starts) * second)


class _WeightedSums:
    """Sums of columns in float64, encoded once: preparing a call takes longer than the sums of a chunk.

    Attributes
    ----------
    rows : ndarray of float32, shape (n, columns)
    sums : ndarray of float64, shape (columns,)
        Of the rows times their weights, when it was last called.
    """

    def __init__(self, rows: np.ndarray, weights: np.ndarray) -> None:
        self.rows, self.sums = rows, np.empty(rows.shape[1])
        self._weights = weights  # kept alive: compiled code has its address
        self._row = np.zeros(cpu.ROW_WORDS, np.int64)
        operands = [(a.ctypes.data, a.shape, a.shape[-1], a.dtype.name) for a in (self.sums, rows, weights)]
        cpu.encode(self._row, "weighted_sums", operands, ())
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(self._row[0]))
        self._address = self._row.ctypes.data

    def __call__(self) -> np.ndarray:
        self._run(self._address)
        return self.sums


def _lanes(tables: list[np.ndarray]) -> np.ndarray:
    """Where the walker finds the table of each thread."""
    lanes = np.zeros((len(tables), cpu.LANE_WORDS), np.int64)
    lanes[:, TABLE] = [table.ctypes.data for table in tables]
    lanes[:, ROWS] = [len(table) for table in tables]
    return lanes
