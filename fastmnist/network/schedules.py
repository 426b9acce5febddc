"""Learning-rate schedules: how the learning rate changes in the course of a run. Frozen values, without state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastmnist.network.rules import is_count, is_number, require


@dataclass(frozen=True)
class Schedule(ABC):
    """What all schedules have in common; use one of its subclasses.

    A schedule is a function of the number of the step, so the host computes an epoch at a time, and a resumed run goes
    on where it stopped.
    """

    def learning_rates(
        self, initial: float, first_step: int, n_steps: int, total_steps: int, steps_per_epoch: int
    ) -> NDArray[np.float64]:
        """Learning rates of consecutive steps.

        Parameters
        ----------
        initial : float
            The estimator's `learning_rate_init`, > 0.
        first_step : int
            Steps taken before, >= 0.
        n_steps : int
            Steps wanted, >= 0.
        total_steps : int
            Steps of the whole run, >= 1. Schedules that end with the run keep their last value beyond it.
        steps_per_epoch : int
            >= 1.

        Returns
        -------
        ndarray of shape (n_steps,), float64
        """
        steps = first_step + np.arange(n_steps, dtype=np.float64)
        return initial * self._factors(steps, total_steps, steps_per_epoch)

    @abstractmethod
    def _factors(self, steps: NDArray[np.float64], total_steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
        """What the initial learning rate is multiplied by at each of the steps (counted from 0)."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The initial learning rate throughout."""

    def _factors(self, steps: NDArray[np.float64], total_steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
        return np.ones_like(steps)


@dataclass(frozen=True)
class Step(Schedule):
    """Multiplied by gamma every few epochs: `initial * gamma ** (epoch // step_size_epochs)`, as torch's StepLR.

    Parameters
    ----------
    step_size_epochs : int, default=5
        Epochs between two changes, >= 1.
    gamma : float, default=0.1
        0 < gamma <= 1.

    Raises
    ------
    ValueError
        A parameter is outside its range.
    """

    step_size_epochs: int = 5
    gamma: float = 0.1

    def __post_init__(self) -> None:
        size = self.step_size_epochs
        require(is_count(size), "Step", "step_size_epochs", "an integer >= 1", size)
        require(is_number(self.gamma) and 0 < self.gamma <= 1, "Step", "gamma", "in (0, 1]", self.gamma)

    def _factors(self, steps: NDArray[np.float64], total_steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
        epochs = steps // steps_per_epoch
        return self.gamma ** (epochs // self.step_size_epochs)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Down along half a cosine, step by step, over the whole run (Loshchilov & Hutter 2017, equation 5, no restarts).

    `initial * (final + (1 - final) (1 + cos(pi t / T)) / 2)` at step t of T: torch's CosineAnnealingLR(T_max=T) with
    eta_min = `final * initial`. With a warm-up of W steps, the learning rate first rises in equal steps,
    `initial (t + 1) / W` (Goyal et al. 2017, section 2.2), and the cosine spans the other T - W.

    Parameters
    ----------
    final : float, default=0.0
        What is left at the end, as a fraction of the initial learning rate, in [0, 1].
    warmup_epochs : float, default=0
        Length of the warm-up, >= 0; need not be whole.

    Raises
    ------
    ValueError
        A parameter is outside its range.
    """

    final: float = 0.0
    warmup_epochs: float = 0

    def __post_init__(self) -> None:
        require(is_number(self.final) and 0 <= self.final <= 1, "Cosine", "final", "in [0, 1]", self.final)
        warmup_ok = is_number(self.warmup_epochs) and self.warmup_epochs >= 0
        require(warmup_ok, "Cosine", "warmup_epochs", "a finite number >= 0", self.warmup_epochs)

    def _factors(self, steps: NDArray[np.float64], total_steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
        warmup = min(round(self.warmup_epochs * steps_per_epoch), total_steps)
        rising = (steps + 1) / max(warmup, 1)
        progress = np.clip((steps - warmup) / max(total_steps - warmup, 1), 0, 1)
        falling = self.final + (1 - self.final) * (1 + np.cos(np.pi * progress)) / 2
        return np.where(steps < warmup, rising, falling)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to a peak and down to almost nothing along half cosines (Smith & Topin 2018), as torch's two-phase OneCycleLR.

    With peak = `initial * max_factor` (torch's max_lr): starts at `peak / div_factor`, reaches the peak at step
    `pct_start * total_steps - 1`, and ends at `peak / (div_factor * final_div_factor)`. Momentum is not cycled.

    Parameters
    ----------
    max_factor : float, default=1.0
        > 0.
    pct_start : float, default=0.3
        Share of the run spent rising, in [0, 1].
    div_factor, final_div_factor : float, default=25.0, 1e4
        >= 1.

    Raises
    ------
    ValueError
        A parameter is outside its range.
    """

    max_factor: float = 1.0
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        factor_ok = is_number(self.max_factor) and self.max_factor > 0
        require(factor_ok, "OneCycle", "max_factor", "a finite number > 0", self.max_factor)
        share_ok = is_number(self.pct_start) and 0 <= self.pct_start <= 1
        require(share_ok, "OneCycle", "pct_start", "in [0, 1]", self.pct_start)
        for name in ("div_factor", "final_div_factor"):
            value = getattr(self, name)
            require(is_number(value) and value >= 1, "OneCycle", name, "a finite number >= 1", value)

    def _factors(self, steps: NDArray[np.float64], total_steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
        start = self.max_factor / self.div_factor
        end = start / self.final_div_factor
        last = total_steps - 1.0
        peak_at = self.pct_start * total_steps - 1
        # A phase without length (peak_at = 0 or peak_at = last) would divide by 0; the other phase stands for it.
        rising = np.clip(steps / (peak_at or 1.0), 0, 1)
        falling = np.clip((steps - peak_at) / ((last - peak_at) or 1.0), 0, 1)
        up = _along_cosine(start, self.max_factor, rising)
        down = _along_cosine(self.max_factor, end, falling)
        return np.where((steps <= peak_at) & (peak_at > 0), up, down)


def _along_cosine(start: float, end: float, progress: NDArray[np.float64]) -> NDArray[np.float64]:
    """From `start` at progress 0 to `end` at progress 1 along half a cosine."""
    return end + (start - end) * (1 + np.cos(np.pi * progress)) / 2


@dataclass(frozen=True)
class InvScaling(Schedule):
    """Down as a power of time: `initial / t ** power_t`.

    Parameters
    ----------
    power_t : float, default=0.5
        >= 0.
    n_samples : int, optional
        Samples of an epoch. With it the schedule is scikit-learn's "invscaling": t - 1 is the number of samples seen in
        the epochs before, so the learning rate changes from epoch to epoch. Without it t is the step's number, from 1.

    Raises
    ------
    ValueError
        A parameter is outside its range.
    """

    power_t: float = 0.5
    n_samples: int | None = None

    def __post_init__(self) -> None:
        power_ok = is_number(self.power_t) and self.power_t >= 0
        require(power_ok, "InvScaling", "power_t", "a finite number >= 0", self.power_t)
        n = self.n_samples
        require(n is None or is_count(n), "InvScaling", "n_samples", "an integer >= 1 or None", n)

    def _factors(self, steps: NDArray[np.float64], total_steps: int, steps_per_epoch: int) -> NDArray[np.float64]:
        t = steps + 1 if self.n_samples is None else (steps // steps_per_epoch) * self.n_samples + 1
        return t**-self.power_t


_BY_NAME: dict[str, Callable[[], Schedule]] = {
    "constant": Constant,
    "step": Step,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "invscaling": InvScaling,
}


def parse(value: object) -> Schedule:
    """Turn what a user may write for `schedule` into a Schedule.

    Parameters
    ----------
    value : str or Schedule
        "constant", "step", "cosine", "one_cycle" or "invscaling" for one with its default parameters, or a Schedule.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        Neither; the message lists the names.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, str) and value in _BY_NAME:
        return _BY_NAME[value]()
    names = ", ".join(repr(name) for name in _BY_NAME)
    raise ValueError(
        f"schedule must be one of {names}, or an object of fastmnist.network.schedules, such as Cosine(final=0.01); "
        f"got {value!r}. ('adaptive' depends on the loss: choose it by learning_rate='adaptive'.)"
    )
