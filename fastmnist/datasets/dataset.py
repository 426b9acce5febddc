"""What the loaders return, and the one error they raise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class DatasetError(ValueError):
    """A file or an argument from which no data set can be made."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their labels.

    Attributes
    ----------
    data : ndarray of shape (n, n_features), uint8
    target : ndarray of shape (n,), int64
    name : str
    description : str
        What it is, who made it, under which licence.
    """

    data: np.ndarray
    target: np.ndarray
    name: str
    description: str


@dataclass(frozen=True, eq=False)
class Splits:
    """A table, in a part to train on and a part to test on.

    Attributes
    ----------
    X_train, X_test : ndarray of shape (n, n_features)
    y_train, y_test : ndarray of shape (n,)
        int64, or strings.
    source : str
        One line for people: where it came from and how it was split.
    """

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    source: str
