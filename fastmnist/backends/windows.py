"""Training on rows that are not in memory in the form that an executor reads: a window of them is, at any time.

Whatever the order of an epoch, it is cut into windows of whole batches; the rows of a window are read in the order of the file, converted,
compressed if that pays, and trained on as if they were the data set. The batches, and hence the bits, are those of training on the whole
(but for dropout, whose masks start anew in each window). Only the speed of reading wants an order with a near past and future:
`ReadingOrder` says which.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from fastmnist.backends.base import BoundExecutor, Epoch, Executor, Parameters, ReadingOrder
from fastmnist.backends.rows import StoredRows

# A window is a quarter of `max_memory`: one in dense form, the compressed rows of this one and of the one before it, and as much for the rest.
WINDOWS_A_MEMORY = 4
LARGEST_WINDOW = 256 << 20  # bytes; larger ones would shuffle hardly better
BLOCK_BYTES = 256 << 10  # read as one piece: more than a disk reads ahead
# At least: in a file that is sorted by class a block has one class, and a window should have its share of each.
BLOCKS_A_WINDOW = 128


def bind_rows(
    executor: Executor,
    X: np.ndarray | StoredRows,
    y: np.ndarray,
    sample_weight: np.ndarray | None,
    *,
    pixel_scale: float,
    max_memory: int,
    full_batch: bool = False,
) -> BoundExecutor:
    """Attach training data of any kind to an executor.

    Parameters
    ----------
    executor : Executor
    X : ndarray, C-contiguous of a dtype that the executor reads, or StoredRows
    y, sample_weight, pixel_scale
        See `Executor.bind`.
    max_memory : int
        Bytes that may be taken for copies of X in another form.
    full_batch : bool, default=False
        See `Executor.bind`.

    Returns
    -------
    BoundExecutor
        What to train with: the executor itself, with all rows bound, or one that has it read them window by window.
    """
    if isinstance(X, StoredRows) and not (X.is_sparse and executor.takes_compressed):
        windowed = WindowedExecutor(
            executor, X, y, sample_weight, pixel_scale=pixel_scale, max_memory=max_memory, full_batch=full_batch
        )
        return windowed if windowed.n_windows > 1 else executor
    data = X.compressed() if isinstance(X, StoredRows) else X
    executor.bind(data, y, sample_weight, pixel_scale=pixel_scale, max_memory=max_memory, full_batch=full_batch)
    return executor


class WindowedExecutor:
    """An executor with data of which only a window is in memory; for the trainer and the solvers it is like any other.

    Parameters
    ----------
    executor : Executor
        Does the arithmetic; keeps parameters and optimizer.
    X : StoredRows
    y, sample_weight, pixel_scale, max_memory, full_batch
        See `bind_rows`.

    Attributes
    ----------
    n_windows : int
        For a whole epoch; with one, all rows are bound to the executor.
    """

    _largest_window = LARGEST_WINDOW
    _first_rows = sys.maxsize  # that are bound before training begins

    def __init__(
        self,
        executor: Executor,
        X: StoredRows,
        y: np.ndarray,
        sample_weight: np.ndarray | None,
        *,
        pixel_scale: float,
        max_memory: int,
        full_batch: bool = False,
    ) -> None:
        self._executor, self._X, self._y, self._weight = executor, X, y, sample_weight
        self._scale, self._max_memory = pixel_scale, max_memory
        self.backend, self.spec, self.dtype, self.n_threads = (
            executor.backend,
            executor.spec,
            executor.dtype,
            executor.n_threads,
        )
        self._window_bytes = min(max_memory // WINDOWS_A_MEMORY, self._largest_window)
        self._rows = max(1, self._window_bytes // max(X.row_bytes, 1))
        self.n_windows = -(-len(X) // self._rows)
        self._buffer = np.empty((0, X.shape[1]), X.dtype)
        self._bind(np.arange(min(self._rows, self._first_rows, len(X))), full_batch)

    @property
    def compile_seconds(self) -> float:
        """See `Executor.compile_seconds`."""
        return self._executor.compile_seconds

    @property
    def reading_order(self) -> ReadingOrder | None:
        """See `Executor.reading_order`: of rows in memory any order is cheap."""
        if not self._X.is_mapped:
            return None
        block_bytes = min(BLOCK_BYTES, self._window_bytes // BLOCKS_A_WINDOW)
        return ReadingOrder(max(1, block_bytes // max(self._X.row_bytes, 1)), self._rows)

    @property
    def reason(self) -> str:
        """Why rows are read in windows, for people."""
        need = f"{len(self._X) * self._X.row_bytes:,} bytes as {self._X.dtype}"
        where = "lies in a file" if self._X.is_mapped else "is stored in another form"
        return (
            f"X {where} and would take {need}, too much for max_memory of {self._max_memory:,}: "
            f"{self._rows:,} rows at a time are in memory."
        )

    def _bind(self, rows: np.ndarray, full_batch: bool = False) -> None:
        """Attach some rows, ascending, to the executor."""
        self._attach(self._read(rows), rows, full_batch)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) > len(self._buffer):
            self._buffer = np.empty((len(rows), self._X.shape[1]), self._X.dtype)
        return self._X[rows].dense(self._buffer[: len(rows)])

    def _attach(self, window: np.ndarray, rows: np.ndarray, full_batch: bool = False) -> None:
        """Attach a window that stands for some rows."""
        weight = None if self._weight is None else self._weight[rows]
        # The compressed rows of a window never take more than the window.
        self._executor.bind(
            window,
            self._y[rows],
            weight,
            pixel_scale=self._scale,
            max_memory=window.nbytes,
            full_batch=full_batch,
        )

    def program(self, batch_sizes: tuple[int, ...]) -> object:
        """The training program on the bound window."""
        return self._executor.program(batch_sizes)  # type: ignore[attr-defined]

    def set_parameters(self, parameters: Parameters) -> None:
        """See `Executor.set_parameters`."""
        self._executor.set_parameters(parameters)

    def get_parameters(self) -> list[np.ndarray]:
        """See `Executor.get_parameters`."""
        return self._executor.get_parameters()

    def reset_optimizer(self) -> None:
        """See `Executor.reset_optimizer`."""
        self._executor.reset_optimizer()

    def run_epoch(
        self,
        order: np.ndarray,
        learning_rates: np.ndarray,
        batch_size: int,
        *,
        seed: int = 0,
        run: Callable[..., Epoch] | None = None,
    ) -> Epoch:
        """See `Executor.run_epoch`; `run`, if given, is called in its place for each window, with the executor in front of its arguments."""
        run = partial(run, self._executor) if run else self._executor.run_epoch
        start = time.perf_counter()
        size = ReadingOrder(1, self._rows).window(batch_size)
        parts: list[Epoch] = []
        interrupted = False
        for first in range(0, len(order), size):
            window = order[first : first + size]
            rows = np.sort(window)
            try:
                self._bind(rows)
            except KeyboardInterrupt:
                interrupted = True
                break
            steps = slice(first // batch_size, -(-(first + len(window)) // batch_size))
            local = np.searchsorted(rows, window)
            part = run(local, learning_rates[steps], batch_size, seed=seed + steps.start)
            parts.append(part)
            interrupted = part.interrupted
            if interrupted:
                break
        return replace(Epoch.joined(parts), interrupted=interrupted, seconds=time.perf_counter() - start)

    def loss_and_gradient(self, parameters: Parameters) -> tuple[float, list[np.ndarray]]:
        """See `Executor.loss_and_gradient`."""
        losses, gradient = self.losses_and_gradient(parameters)
        return float(losses.sum()), gradient

    def losses_and_gradient(self, parameters: Parameters) -> tuple[np.ndarray, list[np.ndarray]]:
        """See `Executor.losses_and_gradient`: the windows' means, weighted by their weights, from the first row to the last."""
        total = 0.0
        losses = np.zeros(1)
        gradient = [np.zeros(shape) for shape in self.spec.parameter_shapes]
        for first in range(0, len(self._X), self._rows):
            rows = np.arange(first, min(first + self._rows, len(self._X)))
            share = float(len(rows)) if self._weight is None else float(self._weight[rows].sum(dtype=np.float64))
            if share == 0:
                continue
            self._bind(rows, full_batch=True)
            window_losses, window_gradient = self._executor.losses_and_gradient(parameters)
            total += share
            losses = losses + share * window_losses
            for sum_, part in zip(gradient, window_gradient, strict=True):
                sum_ += share * part
        return losses / total, [sum_ / total for sum_ in gradient]

    def outputs(
        self, parameters: Parameters, X: np.ndarray, *, pixel_scale: float = 1.0, link: bool = True
    ) -> np.ndarray:
        """See `Executor.outputs`."""
        return self._executor.outputs(parameters, X, pixel_scale=pixel_scale, link=link)


def outputs_of(
    executor: BoundExecutor,
    parameters: Parameters,
    X: np.ndarray | StoredRows,
    *,
    pixel_scale: float,
    link: bool = True,
) -> np.ndarray:
    """`Executor.outputs` of data of any kind; stored rows are converted block by block."""
    if not isinstance(X, StoredRows):
        return executor.outputs(parameters, X, pixel_scale=pixel_scale, link=link)
    result = np.empty((len(X), executor.spec.n_outputs), executor.dtype)
    for block, dense in X.blocks():
        result[block] = executor.outputs(parameters, dense, pixel_scale=pixel_scale, link=link)
    return result
