"""Optimizer descriptions. The learning rate is no part of them: it changes from step to step and comes from the schedule."""

from __future__ import annotations

from dataclasses import dataclass

from fastmnist.network.rules import is_number, require


def _in_unit_interval(owner: str, name: str, value: float) -> None:
    require(is_number(value) and 0 <= value < 1, owner, name, "in [0, 1)", value)


def _not_negative(owner: str, name: str, value: float) -> None:
    require(is_number(value) and value >= 0, owner, name, "a finite number >= 0", value)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent: plain, with momentum, or Nesterov's (Sutskever et al. 2013), in scikit-learn's form.

    `v = momentum * v - lr * g; w += v`, and with `nesterov` `w += momentum * v - lr * g` after the update of v.

    Parameters
    ----------
    momentum : float, default=0.0
    nesterov : bool, default=False
        Ignored without momentum.
    weight_decay : float, default=0.0
        Coupled, as in torch: `g += weight_decay * w`, weights and biases alike.
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _in_unit_interval("SGD", "momentum", self.momentum)
        _not_negative("SGD", "weight_decay", self.weight_decay)
        require(isinstance(self.nesterov, bool), "SGD", "nesterov", "True or False", self.nesterov)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015), in scikit-learn's form: `w -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon)`.

    Parameters
    ----------
    beta_1, beta_2 : float, default=0.9, 0.999
    epsilon : float, default=1e-8
    weight_decay : float, default=0.0
        Coupled, as in torch's Adam: `g += weight_decay * w`, weights and biases alike.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_adam(self)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): first `w -= lr * weight_decay * w`, then Adam's step."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _check_adam(self)


def _check_adam(optimizer: Adam | AdamW) -> None:
    owner = type(optimizer).__name__
    _in_unit_interval(owner, "beta_1", optimizer.beta_1)
    _in_unit_interval(owner, "beta_2", optimizer.beta_2)
    _not_negative(owner, "weight_decay", optimizer.weight_decay)
    epsilon_ok = is_number(optimizer.epsilon) and optimizer.epsilon > 0
    require(epsilon_ok, owner, "epsilon", "a finite number > 0", optimizer.epsilon)


Optimizer = SGD | Adam | AdamW
