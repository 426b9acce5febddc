"""The cupy executor: the Program's table as kernel launches on a GPU, recorded once as a graph and replayed for every step.

The data set is uploaded once and stays; an epoch uploads its order and step sizes, replays the graph of a step for each batch, and downloads
losses and hits. Nothing is read back in between. All of it goes through `gpu_device.Device`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from fastmnist.backends import BackendUnavailable
from fastmnist.backends.base import Epoch, Parameters, mean_losses
from fastmnist.backends.binding import constant_scale, epoch_inputs
from fastmnist.backends.device_rows import DeviceLabels, DeviceRows
from fastmnist.backends.dispatch_log import announce_decisions
from fastmnist.backends.gpu_device import Buffer, Device
from fastmnist.backends.gpu_inference import Inference, Judgement
from fastmnist.backends.gpu_memory import Bound, reserve
from fastmnist.backends.gpu_persistent import Choice, PersistentEpochs, choose
from fastmnist.backends.gpu_recording import Watch
from fastmnist.backends.gpu_runner import Runner
from fastmnist.backends.gpu_search import DeviceSearch
from fastmnist.backends.recording import active
from fastmnist.backends.rows import CompressedRows
from fastmnist.kernels.contract import CONTRACT
from fastmnist.kernels.gpu import NOT_ON_GPU, Array, Launch, decisions, launches
from fastmnist.network.losses import SoftmaxTwiceCrossEntropy
from fastmnist.network.lowering import DataFormat, Target, gradient_program, training_program
from fastmnist.network.program import BARRIER, Program
from fastmnist.network.spec import Spec

# Rows of a block of the full-batch gradient and of prediction: enough tiles for every multiprocessor, and its
# activations (a few MB a layer) still stay in the level-2 cache.
BLOCK_ROWS = 4096
IMAGE_BLOCK_ROWS = 512  # of layers of images, whose activations are some 50 KB a row each


@cache
def open_device() -> Device:
    """The first GPU that CuPy sees; its compiled kernels serve all executors of the process."""
    from fastmnist.backends.gpu_device import CupyDevice

    return CupyDevice()


class CupyExecutor:
    """Runs programs on a GPU.

    Parameters
    ----------
    spec : Spec
    device : Device, optional
        Default: the first one that CuPy sees.
    persistent : bool, optional
        False: epochs are never one launch each. Default: where it can be, see `gpu_persistent.choose`.
    precision : {"float32", "tf32", "bf16"}, default="float32"
        What factors of products are rounded to; the device must have tensor cores for all but float32. Parameters, activations and sums are
        float32 in all.
    """

    backend = "cupy"
    dtype = np.dtype(np.float32)
    n_threads = 1
    takes_compressed = False
    rows_reason = ""
    reading_order = None

    def __init__(
        self, spec: Spec, *, device: Device | None = None, persistent: bool | None = None, precision: str = "float32"
    ) -> None:
        if isinstance(spec.loss, SoftmaxTwiceCrossEntropy):
            reason = f"it has no loss 'softmax_twice': {NOT_ON_GPU['softmax_twice_cross_entropy']}."
            raise BackendUnavailable("cupy", "no-kernel", reason, "Use backend='numba'.")
        device = device or open_device()
        self.spec, self.device, self.precision = spec, device, precision
        self._facts = replace(device.facts, precision=precision)
        self._compiled_before = device.compile_seconds
        self._data = Bound(device)
        self._format = DataFormat("")  # nothing is bound
        self._state: Buffer | None = None
        self._initial: list[np.ndarray] | None = None
        self._persistent = persistent
        self._training: tuple[tuple[int, ...], Runner] | None = None
        self._epochs: PersistentEpochs | None = None  # in place of the runner's graphs
        self._gradient: tuple[tuple[int, ...], Runner] | None = None
        self._inference = Inference(self)
        self._recorder = active()
        self._step = 0

    @property
    def block_rows(self) -> int:
        """Rows of a block of the full-batch gradient and of prediction."""
        return BLOCK_ROWS if self.spec.image_shape is None else IMAGE_BLOCK_ROWS

    @property
    def compile_seconds(self) -> float:
        """Seconds spent compiling since this executor was made."""
        return self.device.compile_seconds - self._compiled_before

    def bind(
        self,
        X: np.ndarray | CompressedRows | DeviceRows,
        y: np.ndarray | DeviceLabels,
        sample_weight: np.ndarray | None = None,
        *,
        pixel_scale: float = 1.0,
        max_memory: int | None = None,
        full_batch: bool = False,
    ) -> None:
        """See `Executor.bind`; takes dense rows only, and no memory of the host's. What is on the device is used where it lies.

        Raises
        ------
        BackendUnavailable
            The data set does not fit into the device's memory.
        """
        if isinstance(X, CompressedRows):
            raise TypeError("The GPU multiplies dense rows: bind an array.")
        data = DataFormat(X.dtype.name, pixel_scale, reason="The GPU keeps dense rows.")
        if self._training is not None and not data.same_program(self._format):
            self._initial, self._training = self.get_parameters(), None  # another program; the moments stay
        self._gradient = None
        self._format = data
        self._weight = np.ones(len(X), np.float32) if sample_weight is None else np.asarray(sample_weight, np.float32)
        self._data.put(sample_weight=self._weight)
        if isinstance(X, DeviceRows):
            self._data.adopt("source", X.array, X)
        else:
            self._data.put(source=X)
        if isinstance(y, DeviceLabels):
            self._data.adopt("labels", y.array, y)
        else:
            self._data.put(labels=np.asarray(y, np.int32))

    def program(self, batch_sizes: tuple[int, ...]) -> Program:
        """The training program for batches of these sizes, on the bound data."""
        program = training_program(self.spec, Target(), self._format, batch_sizes)
        choice = self._choice(batch_sizes)
        program.decisions.append(choice.reason)
        if choice.layout is None:
            (instructions,) = program.tables[batch_sizes[0]].threads
            shapes = [
                (i.op, [view.shape for view in (*i.outs, *i.ins)], i.label) for i in instructions if i is not BARRIER
            ]
            program.decisions.extend(decisions(self._facts, shapes))
        return program

    @property
    def one_launch_an_epoch(self) -> bool:
        """Whether the last epoch was one launch, not a graph of steps."""
        return self._epochs is not None

    def _choice(self, batch_sizes: tuple[int, ...]) -> Choice:
        return choose(self.spec, self._format, max(batch_sizes), self._facts, self._persistent)

    def launches(self, rows: int) -> list[Launch]:
        """The kernel launches of one training step of `rows` rows, the epoch's first; for benchmarks and profiles.

        The last one moves on to the next batch: whoever runs the list again and again must stop before the epoch ends.
        """
        if self._training is None:
            raise RuntimeError("run_epoch was not called.")
        self._training[1].rewind()
        return self._training[1].launches(rows)

    # --- training -----------------------------------------------------------------------------------------------------------------

    def _prepare(self, batch_sizes: tuple[int, ...]) -> Runner:
        if self._training is None or not set(batch_sizes) <= set(self._training[0]):
            program = self.program(batch_sizes)
            if self._state is None:
                self._state = reserve(self.device, {"parameters and moments": program.state.size})
                self.device.clear(self._state.address, self._state.nbytes)
            runner = Runner(self.device, self._facts, program, self._data, self._state)
            self._training = (batch_sizes, self._watched(runner, "training"))
            # Single launches are what a profile takes the time of.
            self._epochs = None if self._recorder is not None else self._persistent_epochs(batch_sizes, runner)
            announce_decisions(self.backend, program.decisions)
        runner = self._training[1]
        if self._initial is not None:
            runner.place_parameters(self._initial)
            self._initial = None
        return runner

    def _persistent_epochs(self, batch_sizes: tuple[int, ...], runner: Runner) -> PersistentEpochs | None:
        layout = self._choice(batch_sizes).layout
        if layout is None:
            return None
        return PersistentEpochs(self.device, self.spec, self._format, layout, max(batch_sizes), runner)

    def set_parameters(self, parameters: Parameters) -> None:
        """See `Executor.set_parameters`."""
        self._initial = [np.array(p, np.float32) for p in parameters]

    def get_parameters(self) -> list[np.ndarray]:
        """See `Executor.get_parameters`."""
        if self._initial is not None:
            return [p.copy() for p in self._initial]
        if self._training is None:
            raise RuntimeError("set_parameters was not called.")
        return self._training[1].parameters()

    def reset_optimizer(self) -> None:
        """See `Executor.reset_optimizer`."""
        self._step = 0
        if self._state is not None:
            self._initial = self.get_parameters()
            self.device.clear(self._state.address, self._state.nbytes)

    def run_epoch(self, order: np.ndarray, learning_rates: np.ndarray, batch_size: int, *, seed: int = 0) -> Epoch:
        """See `Executor.run_epoch`."""
        full, tail = divmod(len(order), batch_size)
        sizes = ((batch_size,) if full else ()) + ((tail,) if tail else ())
        runner = self._prepare(sizes)
        inputs = epoch_inputs(self.spec, order, learning_rates, batch_size, self._weight, self._step, self.dtype, seed)
        losses, hits = inputs["losses"], inputs["hits"]
        start = time.perf_counter()
        compiled = self.device.compile_seconds
        runner.own.put(**inputs)
        if self._epochs:
            interrupted = self._epochs.walk(len(order), batch_size)
        else:
            interrupted = runner.walk([(batch_size, full)] * (full > 0) + [(tail, 1)] * (tail > 0))
        runner.own.get("losses", losses)
        runner.own.get("hits", hits)
        steps = runner.steps_done()
        seconds = time.perf_counter() - start - (self.device.compile_seconds - compiled)
        self._step += steps
        done = min(steps * batch_size, len(order))
        return Epoch(losses[:done], hits[:done].astype(bool), steps, interrupted, seconds)

    # --- full-batch gradient ------------------------------------------------------------------------------------------------------

    def loss_and_gradient(self, parameters: Parameters) -> tuple[float, list[np.ndarray]]:
        """See `Executor.loss_and_gradient`."""
        losses, gradient = self.losses_and_gradient(parameters)
        return float(losses.sum()), gradient

    def gradient_program(self, block_sizes: tuple[int, ...] | None = None) -> Program:
        """What a gradient of all rows runs for blocks of so many of them (default: `block_rows`), on the bound data."""
        return gradient_program(self.spec, self._format, block_sizes or (self.block_rows,))

    def losses_and_gradient(self, parameters: Parameters) -> tuple[np.ndarray, list[np.ndarray]]:
        """See `Executor.losses_and_gradient`."""
        runner = self.place_gradient_parameters(parameters)
        self.run_gradient()
        losses = np.empty(runner.own.arrays["losses"].shape, np.float32)
        runner.own.get("losses", losses)
        gradient = [np.ascontiguousarray(runner.tensor(f"gradient_{i}")) for i in range(len(parameters))]
        return mean_losses(losses, self._weight), [part.astype(np.float64) for part in gradient]

    def place_gradient_parameters(self, parameters: Parameters) -> Runner:
        """Upload the parameters at which `run_gradient` is to work, and make what it needs."""
        n = len(self._weight)
        sizes = self._gradient_blocks()
        if self._gradient is None or self._gradient[0] != sizes:
            program = self.gradient_program(sizes)
            announce_decisions(self.backend, program.decisions)
            runner = self._watched(Runner(self.device, self._facts, program, self._data), "gradient")
            shape = (n, *program.bound["losses"].shape[1:])
            runner.own.put(
                order=np.arange(n),
                scale=constant_scale(self._weight, -(-n // self.block_rows)),
                losses=np.zeros(shape, np.float32),
                hits=np.zeros(n, np.uint8),
            )
            self._gradient = (sizes, runner)
        runner = self._gradient[1]
        runner.place_parameters(parameters)
        return runner

    def _gradient_blocks(self) -> tuple[int, ...]:
        full, tail = divmod(len(self._weight), self.block_rows)
        return ((self.block_rows,) if full else ()) + ((tail,) if tail else ())

    def run_gradient(self) -> None:
        """Losses of all rows and the gradient, left on the device.

        Raises
        ------
        KeyboardInterrupt
        """
        assert self._gradient is not None
        runner = self._gradient[1]
        for i in range(len(self.spec.parameter_shapes)):
            runner.clear(f"gradient_{i}")
        full, tail = divmod(len(self._weight), self.block_rows)
        if runner.walk([(self.block_rows, full)] * (full > 0) + [(tail, 1)] * (tail > 0)):
            raise KeyboardInterrupt

    def gradient_operands(self) -> tuple[list[Array], list[Array], Array, Array]:
        """Where `run_gradient` reads the parameters and leaves their gradients and the losses; and the sample weights."""
        assert self._gradient is not None
        runner = self._gradient[1]
        gradients = [runner.array(f"gradient_{i}") for i in range(len(self.spec.parameter_shapes))]
        return runner.parameter_arrays(), gradients, runner.own.arrays["losses"], self._data.arrays["sample_weight"]

    @property
    def total_weight(self) -> float:
        """Of the bound rows."""
        return float(self._weight.sum(dtype=np.float64))

    def reserve(self, **arrays: np.ndarray) -> Bound:
        """Arrays of a caller's on the device.

        Raises
        ------
        BackendUnavailable
            No memory for them.
        """
        bound = Bound(self.device)
        bound.put(**arrays)
        return bound

    def begin_search(
        self,
        start: Parameters,
        l2: float,
        *,
        fit_intercept: bool,
        by_output: bool,
        transform: np.ndarray | None = None,
        variables: np.ndarray | None = None,
    ) -> DeviceSearch:
        """L-BFGS with its vectors on the device, see `gpu_search`."""
        problems = self.spec.n_outputs if by_output else 1
        return DeviceSearch(
            self,
            start,
            l2,
            fit_intercept=fit_intercept,
            problems=problems,
            transform=transform,
            variables=variables,
        )

    # --- inference ----------------------------------------------------------------------------------------------------------------

    def runner(self, program: Program, own: Bound | None = None) -> Runner:
        """A program with memory of its own."""
        return self._watched(Runner(self.device, self._facts, program, own or Bound(self.device)), "inference")

    def _watched(self, runner: Runner, phase: str) -> Runner:
        """Have its launches timed, where somebody profiles."""
        if self._recorder is not None:
            runner.watch = Watch(self._recorder, self.device, phase)
        return runner

    def outputs(
        self, parameters: Parameters, X: np.ndarray | DeviceRows, *, pixel_scale: float = 1.0, link: bool = True
    ) -> np.ndarray:
        """See `Executor.outputs`; without the link, logits. May be called from several threads, which take turns."""
        return self._inference.outputs(parameters, X, pixel_scale, link=link)

    def predicted_labels(
        self, parameters: Parameters, X: np.ndarray | DeviceRows, *, pixel_scale: float = 1.0
    ) -> np.ndarray:
        """The label of each row, (n,) int32: only they reach the host. -1 where the outputs are no finite numbers."""
        return self._inference.labels(parameters, X, pixel_scale)

    def judge(
        self,
        parameters: Parameters,
        X: np.ndarray | DeviceRows,
        labels: np.ndarray | DeviceLabels,
        sample_weight: np.ndarray | None = None,
        *,
        pixel_scale: float = 1.0,
        link: bool = True,
    ) -> Judgement:
        """Weight, cross-entropy and hits of all rows, of which only the sums reach the host; without the link, the hits of the logits."""
        return self._inference.judge(parameters, X, labels, sample_weight, pixel_scale, link=link)


def call(op: str, arrays: Sequence[np.ndarray], params: Sequence[float] = (), *, device: Device | None = None) -> None:
    """Run one op on C-contiguous NumPy arrays in the contract's order: upload, compute, download the outputs.

    Raises
    ------
    BackendUnavailable
        The op is not on the GPU.
    """
    if op in NOT_ON_GPU:
        raise BackendUnavailable("cupy", "no-kernel", f"it has no {op}: {NOT_ON_GPU[op]}.", "Use backend='numba'.")
    device = device or open_device()
    operands = Bound(device)
    named = {f"{i}": array for i, array in enumerate(arrays)}
    operands.put(**named)
    device.run(launches(op, device.facts, list(operands.arrays.values()), params))
    for name, array in list(named.items())[: len(CONTRACT[op].outs)]:
        operands.get(name, array)
