"""Exponential moving average of the parameters in the course of training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fastmnist.backends.base import BoundExecutor, Epoch
from fastmnist.backends.windows import WindowedExecutor

# Steps between two additions to the average. It is made on the host, of what every executor can hand out; so often it costs little beside
# the steps, and an average that looks back over 100 steps (decay 0.99) still has several terms.
STEPS_BETWEEN = 16


@dataclass
class ParameterAverage:
    """Average of the parameters of all steps so far, each step back counting `decay` times as much as the one after it.

    `sum_i decay^(n-i) p_i / sum_i decay^(n-i)` (Polyak & Juditsky 1992; exponential, and divided by the sum of weights so that the initial
    parameters do not count, as in Kingma & Ba 2015, section 7.2). Where parameters are added every k steps, those of a step stand for the
    k - 1 before it. The running statistics of a `BatchNorm` are averaged like the parameters, as torch's `AveragedModel(use_buffers=True)`
    does.

    Attributes
    ----------
    decay : float
        Of one step, in (0, 1).
    parameters : list of ndarray or None
        The average, in the dtype of the parameters; None before the first step.
    """

    decay: float
    parameters: list[np.ndarray] | None = None
    _weight: float = field(default=0.0, repr=False)  # sum of the weights, times 1 - decay

    def add(self, parameters: list[np.ndarray], steps: int) -> None:
        """Add the parameters that so many steps have led to; they are not changed."""
        kept = self.decay**steps
        self._weight = self._weight * kept + (1 - kept)
        if self.parameters is None:
            self.parameters = [p.copy() for p in parameters]
            return
        share = (1 - kept) / self._weight
        for mean, new in zip(self.parameters, parameters, strict=True):
            mean += share * (new - mean)

    def run_epoch(
        self, executor: BoundExecutor, order: np.ndarray, learning_rates: np.ndarray, batch_size: int, *, seed: int
    ) -> Epoch:
        """`BoundExecutor.run_epoch`, some steps at a time, after which the parameters are added to the average."""
        if isinstance(executor, WindowedExecutor):
            return executor.run_epoch(order, learning_rates, batch_size, seed=seed, run=self.run_epoch)
        starts = list(range(0, len(learning_rates), STEPS_BETWEEN))
        if len(starts) > 1 and len(learning_rates) - starts[-1] == 1:
            starts.pop()  # a last step alone may be one of fewer rows, for which executors would prepare anew
        parts: list[Epoch] = []
        for first, end in zip(starts, [*starts[1:], len(learning_rates)], strict=True):
            rows, steps = slice(first * batch_size, end * batch_size), slice(first, end)
            part = executor.run_epoch(order[rows], learning_rates[steps], batch_size, seed=seed + first)
            parts.append(part)
            if part.steps:
                self.add(executor.get_parameters(), part.steps)
            if part.interrupted:
                break
        return Epoch.joined(parts)
