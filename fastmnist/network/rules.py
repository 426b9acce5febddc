"""What descriptions demand of their parameters, and the one form of the error when they do not get it."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard


def require(condition: bool, owner: str, parameter: str, rule: str, got: object) -> None:
    """Raise ValueError "owner: parameter must be rule; got ..." unless the condition holds."""
    if not condition:
        raise ValueError(f"{owner}: {parameter} must be {rule}; got {got!r}.")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite real number (True and False are none)."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> TypeGuard[int]:
    """Whether it is an integer of Python's or NumPy's, >= 1."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
