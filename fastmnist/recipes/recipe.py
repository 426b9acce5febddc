"""What a recipe consists of: frozen descriptions, no data and no fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Line:
    """A number that was published, or that is worth comparing.

    Attributes
    ----------
    metric : str
        See `running.measure`: "accuracy", "train_accuracy", "binary_mean", "binary_3", ...
    published : float or None
        In per cent.
    label : str
        What the table calls it, if it is not the accuracy on the test part.
    """

    metric: str = "accuracy"
    published: float | None = None
    label: str = ""


@dataclass(frozen=True)
class System:
    """A model with its hyper-parameters.

    Attributes
    ----------
    name : str
        Within its recipe; empty for the only one, or the source's own.
    model : str
        A public class of fastmnist.
    parameters : dict
        Of the class. Those that are not named are its defaults.
    lines : tuple of Line
        What is compared.
    digit : int or None
        The problem "this digit or not" instead of ten classes.
    """

    name: str
    model: str
    parameters: Mapping[str, Any]
    lines: tuple[Line, ...] = (Line(),)
    digit: int | None = None

    def labels(self, y: np.ndarray) -> np.ndarray:
        """What the model is to tell from images of the digits `y` (n,): `y`, or "another" and "digit 0" (last, so the positive class)."""
        return y if self.digit is None else np.where(y == self.digit, f"digit {self.digit}", "another")


@dataclass(frozen=True)
class Recipe:
    """A published piece of work.

    Attributes
    ----------
    name, title : str
        As on the command line; one line for people.
    source : str
        What it was, and with which software.
    split : str
        One of `splits.SPLITS`.
    systems : tuple of System
    published_time : str
        As it was published; empty if it was not.
    goal : float or None
        How many times as fast as the source's software the first system should be; None: no goal was set for it.
    convex : bool
        One solution whatever the seed: the published number is met within 0.1 points.
    random : bool
        False where seeds change nothing, neither the fit nor the split: one fit says all.
    excepted : str
        Why nobody would want to meet the published number; empty for all others.
    choose : dict
        Parameters that were not published, with the values among which the validation part decides. The iterations, if they
        count (`max_iter` is then the most), are decided likewise.
    train_report : bool
        A report on the training part as well.
    pictures : tuple of str
        Of the first seed of each system; see `pictures.MODEL_PICTURES` and `RESULT_PICTURES`.
    notes : tuple of str
        How it differs from the source, and where the source is wrong.
    """

    name: str
    title: str
    source: str
    split: str
    systems: tuple[System, ...]
    published_time: str = ""
    goal: float | None = None
    convex: bool = False
    random: bool = True
    excepted: str = ""
    choose: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    train_report: bool = False
    pictures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def published(self) -> bool:
        """Whether a number of it was published."""
        return any(line.published is not None for system in self.systems for line in system.lines)
