"""What training records: one `EpochRecord` an epoch, handed to listeners and kept as the dict of lists that users see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

KEYS = ("loss", "val_loss", "accuracy", "val_accuracy", "learning_rate", "seconds")

History = dict[str, list[float | None]]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of mini-batches, one iteration of a full-batch solver, or one tree of a forest.

    Attributes
    ----------
    epoch, n_epochs : int
        Its number, from 1, and the largest number that this fit may reach.
    loss : float or None
        Training loss with the L2 term, as in `loss_curve_`; None for a tree.
    val_loss, val_accuracy : float or None
        Mean loss (without L2 and without label smoothing) and accuracy on the validation data; None without any.
    accuracy : float or None
        Share of the training samples classified correctly when they were visited; None for full-batch solvers.
    learning_rate : float or None
        Of the epoch's first step; None for L-BFGS, which has none.
    seconds : float
        Wall time of the epoch, validation included.
    losses : ndarray or None
        With full-batch gradient descent, of each one-vs-rest problem by itself; their sum is `loss`. Else None.
    """

    epoch: int
    n_epochs: int
    loss: float | None
    val_loss: float | None
    accuracy: float | None
    val_accuracy: float | None
    learning_rate: float | None
    seconds: float
    losses: np.ndarray | None = None


OnEpoch = Callable[[EpochRecord], None]


def empty_history() -> History:
    """A dict of empty lists, one for each of `KEYS`."""
    return {key: [] for key in KEYS}


def append(history: History, record: EpochRecord) -> None:
    """Add a record at the end of each list."""
    for key in KEYS:
        history[key].append(getattr(record, key))
