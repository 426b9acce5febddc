"""Full-batch solvers: L-BFGS (SciPy's) and gradient descent, on an executor's compiled loss and gradient.

Both minimise `F(w) = mean_i(weighted loss_i) + l2 / 2 * sum(W ** 2)` over the parameters as one float64 vector; the L2 term is
added here, in float64. Biases are not penalised. One-vs-rest models have an L-BFGS for each class, see `lockstep.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize

from fastmnist.backends.base import BoundExecutor, Parameters
from fastmnist.training.history import EpochRecord, History, OnEpoch, append, empty_history
from fastmnist.training.preconditioner import Preconditioner
from fastmnist.training.validation import Validation

STOPPED_BY_CALLBACK = 99  # SciPy's status of a search that its callback has ended


@dataclass(frozen=True)
class Evaluation:
    """The objective at a point.

    Attributes
    ----------
    value : float
    gradient : ndarray
        With respect to the variables of the search.
    steepness : float
        Largest absolute value of the components of the gradient with respect to the parameters.
    values : ndarray
        Of each output, where each has a loss of its own; else `value` alone.
    """

    value: float
    gradient: np.ndarray
    steepness: float
    values: np.ndarray


class Objective:
    """F and its gradient as functions of one float64 vector.

    Parameters
    ----------
    executor : BoundExecutor
    l2 : float
    fit_intercept : bool, default=True
        With False the biases stay 0 and are no part of the vector.
    preconditioner : Preconditioner, optional
        Of networks of one layer: the vector holds its variables instead of the parameters themselves.
    """

    def __init__(
        self,
        executor: BoundExecutor,
        l2: float,
        *,
        fit_intercept: bool = True,
        preconditioner: Preconditioner | None = None,
    ) -> None:
        self.executor = executor
        self.l2 = l2
        self.fit_intercept = fit_intercept
        self.preconditioner = preconditioner

    def to_vector(self, parameters: Parameters) -> np.ndarray:
        """`[W0, b0, ...]` as one vector."""
        vector = self._flatten(parameters)
        return (
            vector if self.preconditioner is None else self.preconditioner.to_variables(self._columns(vector)).ravel()
        )

    def to_parameters(self, vector: np.ndarray) -> list[np.ndarray]:
        """The vector as `[W0, b0, ...]`, float64."""
        if self.preconditioner is not None:
            vector = self.preconditioner.to_parameters(self._columns(vector)).ravel()
        parameters, start = [], 0
        for shape in self.executor.spec.parameter_shapes:
            if len(shape) == 1 and not self.fit_intercept:
                parameters.append(np.zeros(shape))
                continue
            stop = start + math.prod(shape)
            parameters.append(vector[start:stop].reshape(shape))
            start = stop
        return parameters

    def __call__(self, vector: np.ndarray) -> Evaluation:
        """F and its gradient, float64."""
        parameters = self.to_parameters(vector)
        values, gradient = self.executor.losses_and_gradient(self._as_computed(parameters))
        value = float(values.sum())
        for i in range(0, len(parameters), 2):
            penalties = 0.5 * self.l2 * np.square(parameters[i]).sum(axis=0)
            value += float(penalties.sum())
            # Only the outputs of a single layer have losses and penalties of their own.
            values = values + (penalties if len(penalties) == len(values) else penalties.sum())
            gradient[i] = gradient[i] + self.l2 * parameters[i]
        flat = self._flatten(gradient)
        return Evaluation(value, self._to_variables(flat), float(np.abs(flat).max()), values)

    def by_output(self, vector: np.ndarray) -> list[Evaluation]:
        """F and its gradient for each output of a network of one layer, which share no parameter."""
        weights, bias = self.to_parameters(vector)
        losses, gradient = self.executor.losses_and_gradient(self._as_computed([weights, bias]))
        values = losses + 0.5 * self.l2 * (weights * weights).sum(axis=0)
        gradient[0] = gradient[0] + self.l2 * weights
        flat = self._flatten(gradient)
        steepness = np.abs(self._columns(flat)).max(axis=0)
        columns = self._columns(self._to_variables(flat))
        return [
            Evaluation(float(values[k]), columns[:, k].copy(), float(steepness[k]), values[k : k + 1])
            for k in range(columns.shape[1])
        ]

    def _as_computed(self, parameters: Parameters) -> list[np.ndarray]:
        return [np.ascontiguousarray(p, self.executor.dtype) for p in parameters]

    def _flatten(self, parameters: Parameters) -> np.ndarray:
        kept = parameters if self.fit_intercept else parameters[::2]
        return np.concatenate([np.asarray(p, np.float64).ravel() for p in kept])

    def _columns(self, vector: np.ndarray) -> np.ndarray:
        """Of a network of one layer: for each output a column with its weights and, below them, its bias."""
        return vector.reshape(-1, self.executor.spec.n_outputs)

    def _to_variables(self, gradient: np.ndarray) -> np.ndarray:
        if self.preconditioner is None:
            return gradient
        return self.preconditioner.to_gradient(self._columns(gradient)).ravel()


class SmoothObjective:
    """The objective with differences that stay exact where the values are rounded.

    Losses are recorded in float32. Close to the minimum a step gains less than their rounding error and a line search on the values
    fails, although the gradient is still accurate. There the difference to the last accepted point x_k is taken from the gradients,
    `(g(x_k) + g(x)) . (x - x_k) / 2`: a sufficient decrease of it is the approximate Wolfe condition of Hager & Zhang (2005,
    "A new conjugate gradient method with guaranteed descent and an efficient line search", equation 4.1).
    """

    ROUNDING = 2.0**-20  # differences below this, relative to the value, come from the gradients: 8 units of float32

    def __init__(self, objective: Callable[[np.ndarray], Evaluation]) -> None:
        self._objective = objective
        self.accepted: Point | None = None
        self._latest: Point | None = None

    def __call__(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """The smoothed value and the gradient."""
        latest = self._latest
        if latest is not None and np.array_equal(vector, latest.vector):  # the start: it was looked at before
            return latest.smooth, latest.gradient
        new = self._objective(vector)
        smooth, old = new.value, self.accepted
        if old is not None:
            difference = new.value - old.value
            if abs(difference) < self.ROUNDING * abs(old.value):
                difference = 0.5 * float((old.gradient + new.gradient) @ (vector - old.vector))
            smooth = old.smooth + difference
        self._latest = Point(vector.copy(), new.value, smooth, new.gradient, new.steepness)
        if self.accepted is None:
            self.accepted = self._latest
        return smooth, new.gradient

    def accept(self) -> Point:
        """The line search has ended, at the point that was evaluated last."""
        assert self._latest is not None
        self.accepted = self._latest
        return self._latest


@dataclass(frozen=True)
class Point:
    """A vector with the objective's value there, its smoothed value, its gradient and its steepness."""

    vector: np.ndarray
    value: float
    smooth: float
    gradient: np.ndarray
    steepness: float


@dataclass
class Solution:
    """What a full-batch solver returns.

    Attributes
    ----------
    parameters : list of ndarray, float64
        `[W0, b0, ...]`.
    loss : float
        F there.
    gradient_max : float
        Largest absolute value of the gradient's components there.
    n_iter : int
    n_iter_by_output : list of int
        Where each output has a search of its own; `n_iter` is then the largest. Else empty.
    converged : bool
        A stopping criterion was met.
    message : str
        Why it ended, for people.
    loss_curve : list of float
    loss_curve_by_output : list of ndarray
        With gradient descent, the loss of each one-vs-rest problem by itself.
    history : dict of lists
    interrupted : bool
        Ctrl-C arrived: the parameters are those of the last completed iteration.
    """

    parameters: list[np.ndarray] = field(default_factory=list)
    loss: float = math.nan
    gradient_max: float = math.inf
    n_iter: int = 0
    n_iter_by_output: list[int] = field(default_factory=list)
    converged: bool = False
    message: str = ""
    loss_curve: list[float] = field(default_factory=list)
    loss_curve_by_output: list[np.ndarray] = field(default_factory=list)
    history: History = field(default_factory=empty_history)
    interrupted: bool = False


class Recorder:
    """Writes the iterations into a Solution and tells the listener."""

    def __init__(
        self, objective: Objective, max_iter: int, validation: Validation | None, on_epoch: OnEpoch | None
    ) -> None:
        self.solution = Solution()
        self._objective = objective
        self._max_iter = max_iter
        self._validation = validation
        self._on_epoch = on_epoch
        self._last = time.perf_counter()

    def iteration(
        self, loss: float, vector: np.ndarray, learning_rate: float | None = None, losses: np.ndarray | None = None
    ) -> None:
        """One more iteration, which led to `vector`; `losses` as in `EpochRecord`."""
        val_loss, val_accuracy = None, None
        if self._validation is not None:
            executor = self._objective.executor
            parameters = [np.ascontiguousarray(p, executor.dtype) for p in self._objective.to_parameters(vector)]
            val_loss, val_accuracy = self._validation.evaluate(executor, parameters)
        solution = self.solution
        solution.n_iter += 1
        solution.loss_curve.append(loss)
        now = time.perf_counter()
        record = EpochRecord(
            solution.n_iter, self._max_iter, loss, val_loss, None, val_accuracy, learning_rate, now - self._last, losses
        )
        self._last = now
        append(solution.history, record)
        if self._on_epoch is not None:
            self._on_epoch(record)

    def finish(self, vector: np.ndarray, loss: float, steepness: float) -> Solution:
        """Where it ended."""
        self.solution.parameters = self._objective.to_parameters(vector.copy())
        self.solution.loss = loss
        self.solution.gradient_max = steepness
        return self.solution

    def finish_at_start(self, start: np.ndarray) -> Solution:
        """It was interrupted before the first evaluation was completed."""
        return self.finish(start, math.nan, math.inf)


def scipy_lbfgs(
    smooth: SmoothObjective,
    start: np.ndarray,
    on_iteration: Callable[[Point], None],
    *,
    tol: float,
    max_iter: int,
    options: dict[str, float],
) -> scipy.optimize.OptimizeResult:
    """SciPy's L-BFGS-B on one vector; `on_iteration` is called with the point that each iteration led to.

    Whether it is steep no more is asked here and not by SciPy, which does not know the parameters behind the variables.
    """
    smooth(start)
    flat = scipy.optimize.OptimizeResult(
        status=0, message=f"no component of the gradient is larger than tol={tol:g}", success=True
    )
    if smooth.accepted is not None and smooth.accepted.steepness <= tol:
        return flat

    def callback(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        point = smooth.accept()
        on_iteration(point)
        if point.steepness <= tol:
            raise StopIteration

    result = scipy.optimize.minimize(
        smooth,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=callback,
        options={"maxiter": max_iter, "gtol": 0.0, **options},
    )
    return flat if result.status == STOPPED_BY_CALLBACK else result


def lbfgs(
    objective: Objective,
    start: Parameters,
    *,
    tol: float,
    max_iter: int,
    options: dict[str, float],
    validation: Validation | None = None,
    on_epoch: OnEpoch | None = None,
) -> Solution:
    """Minimise with SciPy's L-BFGS-B (Byrd et al. 1995; Zhu et al. 1997).

    Parameters
    ----------
    objective : Objective
    start : list of ndarray
        `[W0, b0, ...]`.
    tol : float
        Stop when no component of the gradient is larger.
    max_iter : int
    options : dict
        More options of `scipy.optimize.minimize(method="L-BFGS-B")`, such as "maxls" and "ftol".
    validation : Validation, optional
        Evaluated after each iteration.
    on_epoch : callable, optional
        Called with an `EpochRecord` after each iteration.

    Returns
    -------
    Solution
        `loss_curve` has the objective after each iteration.
    """
    smooth = SmoothObjective(objective)
    recorder = Recorder(objective, max_iter, validation, on_epoch)
    x0 = objective.to_vector(start)

    def on_iteration(point: Point) -> None:
        recorder.iteration(point.value, point.vector)

    solution = recorder.solution
    try:
        result = scipy_lbfgs(smooth, x0, on_iteration, tol=tol, max_iter=max_iter, options=options)
        solution.converged = result.status == 0
        solution.message = str(result.message)
    except KeyboardInterrupt:
        solution.interrupted = True
        solution.message = "interrupted by user"
    end = smooth.accepted
    if end is None:
        return recorder.finish_at_start(x0)
    return recorder.finish(end.vector, end.value, end.steepness)


def gradient_descent(
    objective: Objective,
    start: Parameters,
    *,
    learning_rate: float,
    tol: float,
    max_iter: int,
    validation: Validation | None = None,
    on_epoch: OnEpoch | None = None,
) -> Solution:
    """Full-batch gradient descent with a constant learning rate: `w -= learning_rate * gradient F(w)`.

    Parameters
    ----------
    learning_rate : float
    objective, start, tol, max_iter, validation, on_epoch
        As in `lbfgs`.

    Returns
    -------
    Solution
        `loss_curve` has the objective before each iteration's step.
    """
    recorder = Recorder(objective, max_iter, validation, on_epoch)
    solution = recorder.solution
    x = objective.to_vector(start)
    at: Evaluation | None = None
    try:
        at = objective(x)
        while math.isfinite(at.value):
            if at.steepness <= tol:
                solution.converged = True
                solution.message = f"no component of the gradient is larger than tol={tol:g}"
                break
            if solution.n_iter == max_iter:
                solution.message = "max_iter was reached"
                break
            step = x - learning_rate * at.gradient
            solution.loss_curve_by_output.append(at.values)
            recorder.iteration(at.value, step, learning_rate, at.values)
            x = step
            at = objective(x)
    except KeyboardInterrupt:
        solution.interrupted = True
        solution.message = "interrupted by user"
    if at is None:
        return recorder.finish_at_start(x)
    return recorder.finish(x, at.value, at.steepness)
