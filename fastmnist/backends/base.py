"""What an executor offers to the trainer and the estimators, whatever it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fastmnist.backends.rows import CompressedRows
from fastmnist.network.spec import Spec

Parameters = Sequence[np.ndarray]


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training returns.

    Attributes
    ----------
    losses : ndarray of shape (n,), float32
        Loss of each sample at the moment it was visited, in the order of the visit (`losses[i]` belongs to row `order[i]`),
        without weights and without the L2 term.
    hits : ndarray of shape (n,), bool
        Whether the sample was classified correctly at that moment.
    steps : int
        Steps that were completed; less than asked for when the run was interrupted.
    interrupted : bool
        Ctrl-C arrived: the parameters are those of the last completed step.
    seconds : float
        Wall time of the epoch.
    """

    losses: np.ndarray
    hits: np.ndarray
    steps: int
    interrupted: bool
    seconds: float

    @classmethod
    def joined(cls, parts: Sequence[Epoch]) -> Epoch:
        """One epoch of parts that ran one after the other; the last one tells whether it was interrupted."""
        return cls(
            np.concatenate([np.empty(0, np.float32), *(part.losses for part in parts)]),
            np.concatenate([np.empty(0, bool), *(part.hits for part in parts)]),
            sum(part.steps for part in parts),
            bool(parts) and parts[-1].interrupted,
            sum(part.seconds for part in parts),
        )


@dataclass(frozen=True)
class ReadingOrder:
    """How an epoch should visit rows that lie in a file: near each other in time what is near each other in the file.

    Attributes
    ----------
    block_rows : int
        Consecutive rows that are read together; the blocks are visited in random order.
    window_rows : int
        Rows that are in memory at the same time, of some tens of blocks: they are shuffled together.
    """

    block_rows: int
    window_rows: int

    def window(self, batch_size: int) -> int:
        """Rows of a window, in whole batches and at least one."""
        return max(self.window_rows // batch_size, 1) * batch_size


class BoundExecutor(Protocol):
    """Runs a Spec's programs on one backend, on data that are attached: what trainer and solvers see."""

    backend: str  # "numpy" | "numba" | "cupy"
    spec: Spec
    dtype: np.dtype  # of parameters and arithmetic
    n_threads: int

    @property
    def reading_order(self) -> ReadingOrder | None:
        """Which orders of the rows are cheap; None: all."""

    @property
    def compile_seconds(self) -> float:
        """Seconds spent compiling so far; 0 when everything came from the cache."""

    def set_parameters(self, parameters: Parameters) -> None:
        """Upload `[W0, b0, W1, b1, ...]`; the optimizer's state is left alone."""

    def get_parameters(self) -> list[np.ndarray]:
        """Download `[W0, b0, W1, b1, ...]`: fresh C-contiguous arrays of `dtype`."""

    def reset_optimizer(self) -> None:
        """Set the optimizer's moments to zero and its step count to 0."""

    def run_epoch(self, order: np.ndarray, learning_rates: np.ndarray, batch_size: int, *, seed: int = 0) -> Epoch:
        """Train on the bound rows `order` (int64, any length >= 1), `batch_size` at a time; the last batch may be shorter.

        `learning_rates` (float64) has one value a step. `seed` (different each epoch) drives dropout.

        What a thread raises reaches the caller. Parameters and moments are then of a step that is half done: `set_parameters` and
        `reset_optimizer` before going on.
        """

    def loss_and_gradient(self, parameters: Parameters) -> tuple[float, list[np.ndarray]]:
        """Weighted mean loss of all bound rows and its gradient (float64 arrays shaped like the parameters), without L2, without dropout.

        Does not touch the parameters or the optimizer's state of the training run.
        """

    def losses_and_gradient(self, parameters: Parameters) -> tuple[np.ndarray, list[np.ndarray]]:
        """As `loss_and_gradient`, but the loss of each one-vs-rest problem by itself.

        Returns
        -------
        losses : ndarray, float64
            With `BinaryCrossEntropy` of shape (n_outputs,): the weighted mean loss of each output. With `SoftmaxCrossEntropy`, whose loss does
            not fall into parts, of shape (1,).
        gradient : list of ndarray
            Of the losses' sum.
        """

    def outputs(
        self, parameters: Parameters, X: np.ndarray, *, pixel_scale: float = 1.0, link: bool = True
    ) -> np.ndarray:
        """Network outputs (n, n_outputs) after the loss's link: softmax probabilities, or one sigmoid each for one-vs-rest; without the link,
        logits.
        """


class Executor(BoundExecutor, Protocol):
    """A `BoundExecutor` to which any data can be attached."""

    @property
    def precision(self) -> str:
        """What factors of products are rounded to: one of `backends.PRECISIONS`."""

    @property
    def rows_reason(self) -> str:
        """In which form the bound rows are kept, and why, a sentence; "" where there is no choice."""

    @property
    def takes_compressed(self) -> bool:
        """Whether `bind` takes `CompressedRows`."""

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
        """Attach the training data.

        Parameters
        ----------
        X : ndarray of shape (n, n_features), C-contiguous, uint8 or float32 (the numpy executor: or float64), or compressed rows
        y : ndarray of shape (n,), int32
            Labels (see DESIGN.md, Vocabulary).
        sample_weight : ndarray of shape (n,), float32, or None for ones
        pixel_scale : float
            Every value of X is multiplied by it when it is read.
        max_memory : int, optional
            Bytes that may be taken for a copy of X in another form.
        full_batch : bool, default=False
            Whether gradients of all rows will be asked for, rather than epochs. Either may be: the form of the rows is chosen for this one.
        """


def weighted_sum(losses: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
    """Sum over the samples of their losses, (n,) or (n, n_losses), times their weights, in float64."""
    # einsum by itself calls no BLAS, whose sums depend on its number of threads.
    return np.einsum("i,i...->...", sample_weight, losses, dtype=np.float64)


def mean_losses(losses: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
    """Weighted means over the samples, summed in float64.

    Parameters
    ----------
    losses : ndarray of shape (n,) or (n, n_losses)
    sample_weight : ndarray of shape (n,)

    Returns
    -------
    ndarray of shape (1,) or (n_losses,), float64
    """
    return np.atleast_1d(weighted_sum(losses, sample_weight) / sample_weight.sum(dtype=np.float64))
