"""The epoch loop: order of the rows, learning rates, validation, when to stop, Ctrl-C. The arithmetic is the executor's.

The rules of stopping and of the learning rate, and the use of the random numbers, are those of scikit-learn's
`MLPClassifier` (`sklearn/neural_network/_multilayer_perceptron.py`), so that runs of both can be compared epoch by epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from fastmnist.backends.base import BoundExecutor, Epoch, Parameters, ReadingOrder
from fastmnist.network.layers import Dropout
from fastmnist.network.schedules import Schedule
from fastmnist.network.spec import Spec
from fastmnist.training.averaging import ParameterAverage
from fastmnist.training.history import EpochRecord, History, OnEpoch, append, empty_history
from fastmnist.training.validation import Validation

SMALLEST_ADAPTIVE_RATE = 1e-6  # scikit-learn's: "adaptive" gives up below it
ADAPTIVE_DIVISOR = 5.0


@dataclass(frozen=True)
class Plan:
    """How to train: what stays the same from the first epoch to the last.

    Attributes
    ----------
    max_epochs, batch_size : int
    learning_rate : float
        The initial one.
    schedule : Schedule or None
        Learning rate of every step; takes precedence over `rule`.
    rule : {"constant", "invscaling", "adaptive"}
        scikit-learn's `learning_rate`: `initial / (samples seen + 1) ** power_t`, or divided by 5 instead of stopping.
    power_t : float
    shuffle : bool
    tol, n_iter_no_change : float
        Stop when loss or validation accuracy was not better by `tol` for more than `n_iter_no_change` epochs.
    early_stopping : bool
        Judge by the validation accuracy, and keep the best parameters.
    l2 : float
        The Spec's, for the loss that is reported.
    record_steps : bool
        Keep the loss of every step.
    ema_decay : float
        Of the average of the parameters that is validated and kept; 0: there is none.
    """

    max_epochs: int
    batch_size: int
    learning_rate: float
    schedule: Schedule | None = None
    rule: str = "constant"
    power_t: float = 0.5
    shuffle: bool = True
    tol: float = 1e-4
    n_iter_no_change: float = 10
    early_stopping: bool = False
    l2: float = 0.0
    record_steps: bool = False
    ema_decay: float = 0.0


@dataclass
class Progress:
    """How far training has come. Handed in again, it goes on from there (warm start, `partial_fit`).

    Attributes
    ----------
    samples_seen : int
        Over all fits.
    epochs, steps : int
        Since `begin_fit`.
    learning_rate : float
        Of the next epoch, unless there is a schedule.
    loss : float
        Of the last epoch; of the steps that were completed when not even the first epoch was; NaN before that.
    loss_curve, validation_scores : list of float
    best_loss, best_score : float
    best_parameters : list of ndarray or None
        Those of the best validation score, with early stopping.
    average : ParameterAverage or None
        Of the parameters, if the plan asks for one.
    last_parameters : list of ndarray or None
        Those that the optimizer reached, where an average was kept instead of them.
    no_improvement : int
        Epochs since the last improvement.
    history : dict of lists
    step_losses : list of ndarray
        Weighted mean loss of each batch, without L2; an array an epoch.
    converged, interrupted, diverged : bool
        Why the last fit ended: by `tol`, by Ctrl-C, with a loss that is no finite number; none of them: by `max_epochs`.
    """

    samples_seen: int = 0
    epochs: int = 0
    steps: int = 0
    learning_rate: float = math.nan
    loss: float = math.nan
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_score: float = -math.inf
    best_parameters: list[np.ndarray] | None = None
    average: ParameterAverage | None = None
    last_parameters: list[np.ndarray] | None = None
    no_improvement: int = 0
    history: History = field(default_factory=empty_history)
    step_losses: list[np.ndarray] = field(default_factory=list)
    converged: bool = False
    interrupted: bool = False
    diverged: bool = False

    def begin_fit(self, plan: Plan) -> None:
        """Start counting epochs and steps anew, with the initial learning rate; losses and scores go on."""
        self.epochs = self.steps = 0
        self.learning_rate = plan.learning_rate

    def begin_average(self, plan: Plan, *, continued: bool) -> None:
        """Go on with the average, or start it anew."""
        if not plan.ema_decay:
            self.average = self.last_parameters = None
        elif not continued or self.average is None:
            self.average = ParameterAverage(plan.ema_decay)
        else:
            self.average.decay = plan.ema_decay

    def parameters_behind(self, kept: list[np.ndarray]) -> list[np.ndarray]:
        """What the optimizer goes on from: what it had reached if `kept` is the average of that, else `kept`."""
        average = None if self.average is None else self.average.parameters
        if average is None or self.last_parameters is None or not all(map(np.array_equal, average, kept)):
            return kept
        return self.last_parameters


def train(
    executor: BoundExecutor,
    rows: np.ndarray,
    plan: Plan,
    progress: Progress,
    rng: np.random.RandomState,
    *,
    n_epochs: int | None = None,
    sample_weight: np.ndarray | None = None,
    validation: Validation | None = None,
    on_epoch: OnEpoch | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Train for at most `n_epochs` epochs; what is reached is left in `progress` and in the executor.

    Parameters
    ----------
    executor : BoundExecutor
        With parameters set.
    rows : ndarray of shape (n,), int64
        The bound rows to train on.
    plan : Plan
    progress : Progress
        Changed in place.
    rng : RandomState
        Shuffles, as scikit-learn does, and seeds dropout.
    n_epochs : int, optional
        None: `plan.max_epochs`.
    sample_weight : ndarray or None
        Of all bound rows, as they were bound: for the loss that is reported.
    validation : Validation, optional
        Evaluated after each epoch.
    on_epoch : callable, optional
        Called with an `EpochRecord` after each epoch.
    say : callable, optional
        Called with a sentence when training stops or changes its learning rate.
    """
    order = np.ascontiguousarray(rows, np.int64)
    batch_size = min(plan.batch_size, len(order))
    n_steps = math.ceil(len(order) / batch_size)
    has_dropout = any(isinstance(layer, Dropout) for layer in executor.spec.layers)
    # Drawn only where needed: other runs shuffle as scikit-learn's.
    seed = int(rng.randint(2**31)) if has_dropout else 0
    average = progress.average
    progress.converged = progress.interrupted = progress.diverged = False
    try:
        for _ in range(plan.max_epochs if n_epochs is None else n_epochs):
            start, compiled = time.perf_counter(), executor.compile_seconds
            if plan.shuffle:
                order = _shuffle(order, executor.reading_order, batch_size, rng)
            rates = _learning_rates(plan, progress, n_steps)
            run = executor.run_epoch if average is None else partial(average.run_epoch, executor)
            epoch = run(order, rates, batch_size, seed=seed + progress.steps)
            progress.steps += epoch.steps
            batches = _Batches.of(epoch, None if sample_weight is None else sample_weight[order], batch_size)
            if epoch.interrupted:
                progress.interrupted = True
                if not progress.loss_curve and len(batches.losses):
                    progress.loss = batches.mean_loss
                break
            parameters = executor.get_parameters()
            averaged = parameters if average is None or average.parameters is None else average.parameters
            loss = batches.mean_loss + batches.penalty(plan.l2, executor.spec, parameters)
            val_loss, val_accuracy = validation.evaluate(executor, averaged) if validation else (None, None)
            progress.epochs += 1
            progress.samples_seen += len(order)
            progress.loss = loss
            progress.loss_curve.append(loss)
            if plan.record_steps:
                progress.step_losses.append(batches.losses)
            record = EpochRecord(
                epoch=progress.epochs,
                n_epochs=plan.max_epochs,
                loss=loss,
                val_loss=val_loss,
                accuracy=float(np.mean(epoch.hits)),
                val_accuracy=val_accuracy,
                learning_rate=float(rates[0]),
                seconds=time.perf_counter() - start - (executor.compile_seconds - compiled),
            )
            append(progress.history, record)
            if on_epoch is not None:
                on_epoch(record)
            if not math.isfinite(loss):
                progress.diverged = True
                break
            _note_improvement(plan, progress, val_accuracy, averaged)
            if _should_stop(plan, progress, say):
                progress.converged = True
                break
    except KeyboardInterrupt:  # outside a step, or before the executor was listening: between two steps
        progress.interrupted = True


def _shuffle(
    order: np.ndarray, reading: ReadingOrder | None, batch_size: int, rng: np.random.RandomState
) -> np.ndarray:
    """A new random order of the rows.

    Of rows in memory with the draws of `sklearn.utils.shuffle`. Of rows in a file blocks of neighbours are put in random order, and then
    the rows of each window, which is many blocks, are shuffled.
    """
    if reading is None:
        indices = np.arange(len(order))
        rng.shuffle(indices)
        return order[indices]
    rows = np.sort(order)
    starts = np.arange(0, len(rows), reading.block_rows)
    rng.shuffle(starts)
    rows = np.concatenate([rows[start : start + reading.block_rows] for start in starts])
    window = reading.window(batch_size)
    for start in range(0, len(rows), window):
        rng.shuffle(rows[start : start + window])
    return rows


def _learning_rates(plan: Plan, progress: Progress, n_steps: int) -> np.ndarray:
    """One value for each step of the next epoch."""
    if plan.schedule is None:
        return np.full(n_steps, progress.learning_rate)
    total = plan.max_epochs * n_steps
    return plan.schedule.learning_rates(plan.learning_rate, progress.steps, n_steps, total, n_steps)


@dataclass(frozen=True)
class _Batches:
    """Weighted mean loss, number of samples and sum of weights of each batch of an epoch; float64."""

    losses: np.ndarray
    counts: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, epoch: Epoch, sample_weight: np.ndarray | None, batch_size: int) -> _Batches:
        """From the recorded losses; `sample_weight` is in the order of the visit."""
        losses = epoch.losses.astype(np.float64)
        weight = np.ones_like(losses) if sample_weight is None else sample_weight[: len(losses)].astype(np.float64)
        starts = np.arange(0, len(losses), batch_size)
        if len(starts) == 0:
            return cls(losses, losses, losses)
        weights = np.add.reduceat(weight, starts)
        counts = np.diff(starts, append=len(losses)).astype(np.float64)
        return cls(np.add.reduceat(losses * weight, starts) / weights, counts, weights)

    @property
    def mean_loss(self) -> float:
        """scikit-learn's: each batch counts by its number of samples."""
        return float(np.average(self.losses, weights=self.counts))

    def penalty(self, l2: float, spec: Spec, parameters: Parameters) -> float:
        """The L2 term of the epoch's loss: the mean over the batches of `l2 / 2 * sum(W ** 2) / sum of the batch's weights`.

        scikit-learn evaluates it with the weights before each step; here it is evaluated once, with those at the epoch's end.
        """
        if l2 == 0:
            return 0.0
        squares = sum(float(np.vdot(w, w)) for w in (parameters[i] for i in spec.weight_indices))
        return 0.5 * l2 * squares * float(np.average(1 / self.weights, weights=self.counts))


def _note_improvement(plan: Plan, progress: Progress, score: float | None, parameters: list[np.ndarray]) -> None:
    """Count the epochs without improvement, by the validation accuracy or by the training loss."""
    if plan.early_stopping:
        assert score is not None
        progress.validation_scores.append(score)
        better_by_tol = score >= progress.best_score + plan.tol
        if score > progress.best_score:
            progress.best_score = score
            progress.best_parameters = [p.copy() for p in parameters]
    else:
        better_by_tol = progress.loss <= progress.best_loss - plan.tol
        progress.best_loss = min(progress.best_loss, progress.loss)
    progress.no_improvement = 0 if better_by_tol else progress.no_improvement + 1


def _should_stop(plan: Plan, progress: Progress, say: Callable[[str], None] | None) -> bool:
    """Whether to stop; moves the learning rate where the rule says so."""
    if plan.rule == "invscaling":
        progress.learning_rate = plan.learning_rate / (progress.samples_seen + 1) ** plan.power_t
    if progress.no_improvement <= plan.n_iter_no_change:
        return False
    what = "Validation score" if plan.early_stopping else "Training loss"
    message = f"{what} did not improve more than tol={plan.tol:f} for {plan.n_iter_no_change:g} consecutive epochs."
    adaptive = plan.rule == "adaptive" and plan.schedule is None
    stop = not adaptive or progress.learning_rate <= SMALLEST_ADAPTIVE_RATE
    if adaptive and not stop:
        progress.learning_rate /= ADAPTIVE_DIVISOR
        progress.no_improvement = 0
        message += f" Setting learning rate to {progress.learning_rate:f}"
    else:
        message += " Learning rate too small. Stopping." if adaptive else " Stopping."
    if say is not None:
        say(message)
    return stop
