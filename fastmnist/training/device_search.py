"""L-BFGS whose vectors stay on the device: SciPy's lives on the host, and every evaluation would carry parameters and gradient over the bus.

The host keeps the line search, which needs three numbers a trial, and the rules by which SciPy's stops. Problems that share nothing (the
classes of one-vs-rest) are searched side by side, with one pass over the data for a trial of each; one whose line search has ended waits for
the others' before all take their next iteration.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastmnist.backends.base import BoundExecutor, Parameters
from fastmnist.training.full_batch import Objective, Recorder, SmoothObjective, Solution
from fastmnist.training.history import OnEpoch
from fastmnist.training.validation import Validation

# SciPy's defaults, where `options` has none.
DEFAULTS = {"maxls": 20, "ftol": 2.220446049250313e-09, "maxfun": 15_000}
DECREASE, CURVATURE = 1e-3, 0.9  # of the strong Wolfe conditions, as in L-BFGS-B
GROWTH = 4.0  # of a step that went down all the way
NEAREST = 0.1  # an interpolated step keeps this share of the interval from both its ends


class Search(Protocol):
    """What an executor with vectors of its own offers: see `gpu_search.DeviceSearch`."""

    def evaluate(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, slopes, and largest components of the gradients, at a step of each problem."""

    def direct(self, accept: np.ndarray, forget: np.ndarray) -> np.ndarray:
        """Let some problems accept what was evaluated last, others forget their past; slopes of the new directions."""

    def point(self) -> np.ndarray:
        """The accepted vector."""


def searches_on_device(executor: BoundExecutor) -> bool:
    """Whether `lbfgs_on_device` can use an executor: its data lie on the device as a whole."""
    return hasattr(executor, "begin_search")


@dataclass
class _Point:
    step: float
    value: float
    slope: float


def line_search(value: float, slope: float, step: float, trials: int) -> Generator[float, tuple[float, float], bool]:
    """A step that satisfies the strong Wolfe conditions (Nocedal & Wright 2006, algorithms 3.5 and 3.6).

    Yields the steps to try, and is sent value and slope there; returns whether the last one is accepted.
    """
    low, high = _Point(0.0, value, slope), None
    for _ in range(trials):
        new = _Point(step, *(yield step))
        if not new.value <= value + DECREASE * step * slope or (low.step > 0 and new.value >= low.value):
            high = new
        elif abs(new.slope) <= -CURVATURE * slope:
            return True
        else:
            if new.slope * ((math.inf if high is None else high.step) - low.step) >= 0:
                high = low
            low = new
        step = low.step * GROWTH if high is None else _between(low, high)
    return False


def _between(a: _Point, b: _Point) -> float:
    """The minimum of the cubic through values and slopes at both points, kept away from them; else the middle."""
    middle = 0.5 * (a.step + b.step)
    if not (math.isfinite(b.value) and math.isfinite(b.slope)):
        return a.step + NEAREST * (b.step - a.step)
    first = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
    square = first * first - a.slope * b.slope
    if square < 0:
        return middle
    second = math.copysign(math.sqrt(square), b.step - a.step)
    divisor = b.slope - a.slope + 2 * second
    if divisor == 0:
        return middle
    step = b.step - (b.step - a.step) * (b.slope + second - first) / divisor
    ends = sorted((a.step + NEAREST * (b.step - a.step), b.step - NEAREST * (b.step - a.step)))
    return min(max(step, ends[0]), ends[1])


class _Problem:
    """What the host knows of one problem."""

    def __init__(self, value: float, slope: float, largest: float) -> None:
        self.value = self.smooth = value
        self.slope, self.largest = slope, largest
        self.step = 0.0
        self.n_iter = 0
        self.result: tuple[bool, str] | None = None  # converged, and why it ended
        self.forgot = True  # the direction is that of the gradient alone
        self._trial = (value, value, slope, largest)
        self._line: Generator[float, tuple[float, float], bool] | None = None

    def begin(self, trials: int) -> None:
        """Begin a line search; the first step of all, or after forgetting, is of length 1 at most."""
        first = min(1.0, 1 / math.sqrt(-self.slope)) if self.forgot else 1.0
        self._line = line_search(self.smooth, self.slope, first, trials)
        self.step = next(self._line)

    def answer(self, value: float, slope: float, largest: float) -> bool | None:
        """Go on with the line search: None while it lasts, then whether it has found a step."""
        assert self._line is not None
        difference = value - self.value
        # As in `SmoothObjective`: near the minimum values differ by their rounding only.
        if abs(difference) < SmoothObjective.ROUNDING * abs(self.value):
            difference = 0.5 * self.step * (self.slope + slope)
        self._trial = (value, self.smooth + difference, slope, largest)
        try:
            self.step = self._line.send((self.smooth + difference, slope))
        except StopIteration as end:
            self._line = None
            return bool(end.value)
        return None

    def accept(self, tol: float, ftol: float) -> None:
        """Take the step; ends where SciPy's would."""
        before = self.smooth
        self.value, self.smooth, _, self.largest = self._trial
        self.n_iter, self.forgot = self.n_iter + 1, False
        if self.largest <= tol:
            self.result = True, "no component of the gradient is larger than tol"
        elif before - self.smooth <= ftol * max(abs(before), abs(self.smooth), 1):
            self.result = True, "the relative reduction of the loss is at rounding level"


def lbfgs_on_device(
    objective: Objective,
    start: Parameters,
    *,
    tol: float,
    max_iter: int,
    options: dict[str, float],
    validation: Validation | None = None,
    on_epoch: OnEpoch | None = None,
    by_output: bool = False,
) -> Solution:
    """Minimise as `full_batch.lbfgs` does, or with `by_output` as `lockstep.lbfgs_by_output`, with the vectors on the device.

    Parameters
    ----------
    objective : Objective
        Its executor is one of which `searches_on_device` is true. Its preconditioner is applied on the device.
    start, tol, max_iter, options, validation, on_epoch
        As there.
    by_output : bool, default=False
        Each output is a problem of its own.
    """
    recorder = Recorder(objective, max_iter, validation, on_epoch)
    solution = recorder.solution
    settings: dict[str, Any] = DEFAULTS | options
    problems: list[_Problem] = []
    search: Search | None = None
    try:
        change = objective.preconditioner
        search = objective.executor.begin_search(  # type: ignore[attr-defined]
            start,
            objective.l2,
            fit_intercept=objective.fit_intercept,
            by_output=by_output,
            transform=None if change is None else change.transform,
            variables=None if change is None else objective.to_vector(start),
        )
        assert search is not None
        problems = _first_points(search, objective.executor.spec.n_outputs if by_output else 1, tol)
        evaluations = 1
        while active := [p for p in problems if p.result is None]:
            if max(p.n_iter for p in active) >= max_iter or evaluations >= settings["maxfun"]:
                break
            evaluations += _iterate(search, problems, tol, settings)
            vector = search.point() if validation is not None else np.empty(0)
            if any(p.n_iter > solution.n_iter for p in problems):
                recorder.iteration(sum(p.value for p in problems), vector)
        solution.converged = all(p.result is not None and p.result[0] for p in problems)
        solution.message = _message(problems, max_iter)
    except KeyboardInterrupt:
        solution.interrupted = True
        solution.message = "interrupted by user"
    if by_output:
        solution.n_iter_by_output = [p.n_iter for p in problems]
    if search is None or not problems:
        return recorder.finish_at_start(objective.to_vector(start))
    return recorder.finish(search.point(), sum(p.value for p in problems), max(p.largest for p in problems))


def _first_points(search: Search, n: int, tol: float) -> list[_Problem]:
    values, _, largest = search.evaluate(np.zeros(n))
    slopes = search.direct(np.ones(n, bool), np.zeros(n, bool))
    problems = [_Problem(*map(float, facts)) for facts in zip(values, slopes, largest, strict=True)]
    for problem in problems:
        if problem.largest <= tol:
            problem.result = True, "no component of the gradient is larger than tol"
        elif not math.isfinite(problem.value + problem.slope):
            problem.result = False, "the loss is not finite"
    return problems


def _iterate(search: Search, problems: list[_Problem], tol: float, settings: dict[str, Any]) -> int:
    """An iteration of every problem that has not ended; returns the number of evaluations."""
    accept, forget = np.zeros((2, len(problems)), bool)
    running = [k for k, problem in enumerate(problems) if problem.result is None]
    for problem in problems:
        problem.step = 0.0
    for k in running:
        problems[k].begin(int(settings["maxls"]))
    evaluations = 0
    while running:
        facts = search.evaluate(np.array([problem.step for problem in problems]))
        evaluations += 1
        for k in list(running):
            found = problems[k].answer(*(float(fact[k]) for fact in facts))
            if found is not None:
                running.remove(k)
                accept[k], forget[k] = found, not found
    for k in np.flatnonzero(accept).tolist():
        problems[k].accept(tol, settings["ftol"])
    for k in np.flatnonzero(forget).tolist():
        if problems[k].forgot:  # not even along the gradient
            problems[k].result = False, "the line search found no lower point"
    slopes = search.direct(accept, forget)
    uphill = (accept | forget) & ~(slopes < 0)
    if uphill.any():  # rounding errors have spoilt the pairs
        slopes = search.direct(np.zeros_like(accept), uphill)
        forget |= uphill
    for k in np.flatnonzero(accept | forget).tolist():
        problems[k].slope, problems[k].forgot = float(slopes[k]), bool(forget[k])
    return evaluations


def _message(problems: list[_Problem], max_iter: int) -> str:
    endings = [p.result or (False, f"max_iter={max_iter} or the limit of evaluations was reached") for p in problems]
    failed = [message for converged, message in endings if not converged]
    if not failed:
        return endings[0][1]
    return failed[0] if len(problems) == 1 else f"{len(failed)} of {len(problems)} classes: {failed[0]}"
