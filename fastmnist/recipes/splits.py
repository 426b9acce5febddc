"""How the sources divided MNIST. "last" always means last in file order; validation parts are for curves and choices alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from sklearn.model_selection import train_test_split

from fastmnist.datasets import Dataset, load_mnist

Part = tuple[np.ndarray, np.ndarray]
RANDOM_STATE = 42  # of the sources that name one


@dataclass(frozen=True, eq=False)
class Split:
    """Images (n, 784), uint8, and labels (n,), int64: to train on, to watch (or None), and to test on."""

    train: Part
    validation: Part | None
    test: Part

    def first(self, n_train: int, n_other: int) -> Split:
        """The first rows of each part."""
        cut = replace(self, train=_rows(self.train, 0, n_train), test=_rows(self.test, 0, n_other))
        return cut if self.validation is None else replace(cut, validation=_rows(self.validation, 0, n_other))

    def holding_out(self, fraction: float) -> Split:
        """The last rows of the training part become the validation part."""
        at = len(self.train[1]) - round(fraction * len(self.train[1]))
        return replace(self, train=_rows(self.train, 0, at), validation=_rows(self.train, at, None))


def _rows(part: Part, start: int, stop: int | None) -> Part:
    return part[0][start:stop], part[1][start:stop]


def _mnist(split: str) -> Part:
    data = load_mnist(split)
    assert isinstance(data, Dataset)
    return data.data, data.target


def _all_of_it(random_state: int) -> Split:
    X, y = _mnist("all")
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=random_state)
    return Split((X_train, y_train), None, (X_test, y_test))


def _official(n_validation: int) -> Split:
    split = Split(_mnist("train"), None, _mnist("test"))
    return split.holding_out(n_validation / len(split.train[1])) if n_validation else split


# Name -> the split for a seed; most sources have one split for all seeds.
SPLITS: dict[str, Callable[[int], Split]] = {
    "56,000 / 14,000": lambda seed: _all_of_it(RANDOM_STATE),
    "56,000 / 14,000, the last 10 % to validate": lambda seed: _all_of_it(RANDOM_STATE).holding_out(0.1),
    "56,000 / 14,000, another for each seed": lambda seed: _all_of_it(RANDOM_STATE + seed),
    "50,000 / 10,000 / 10,000": lambda seed: _official(10_000),
    "48,000 / 12,000 / 10,000": lambda seed: _official(12_000),
    "60,000 / 10,000": lambda seed: _official(0),
}


@lru_cache(maxsize=1)
def split_for(name: str, seed: int) -> Split:
    """`SPLITS[name](seed)`, kept until another one is asked for."""
    return SPLITS[name](seed)
