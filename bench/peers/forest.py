"""Job: a random forest of 100 trees on MNIST's 60,000 training images, and its labels of the 10,000 test images.

Timed: `seconds`, a `fit`; `fit_seconds`, a `predict` of all test images, the median of five. Both begin with uint8 arrays in memory, validation
included. The seed is the round's number. Compared: test accuracies, as means over the rounds.

Warm-up: a forest of two trees on some images.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, ClassVar

import numpy as np
from runner import Runner, mnist

PREDICTIONS = 5


class Forest(Runner):
    """`load` returns the version and sets `make`: seed and number of trees to an estimator."""

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        self.trees, self.chosen = parameters["trees"], settings
        self.X, self.y, self.X_test, self.y_test = mnist()
        self.X, self.y = self.X[: parameters["rows"]], self.y[: parameters["rows"]]
        self.version = self.load()
        self.make(0, 2).fit(self.X[:1000], self.y[:1000]).predict(self.X_test[:1000])

    def load(self) -> str:
        """Import the library."""
        raise NotImplementedError

    def make(self, seed: int, trees: int) -> Any:
        """An estimator."""
        raise NotImplementedError

    def sample(self, seed: int) -> dict[str, Any]:
        """A fit and some predictions."""
        model = self.make(seed, self.trees)
        start = time.perf_counter()
        model.fit(self.X, self.y)
        seconds, times = time.perf_counter() - start, []
        for _ in range(PREDICTIONS):
            start = time.perf_counter()
            labels = model.predict(self.X_test)
            times.append(time.perf_counter() - start)
        accuracy = float((np.asarray(labels).ravel() == self.y_test).mean())
        return {"seconds": seconds, "fit_seconds": statistics.median(times), "accuracy": accuracy}

    def trial(self) -> float:
        """One fit: it takes long enough to choose by."""
        return self.sample(0)["seconds"]


class FastMNIST(Forest):
    """This library, as it is."""

    def load(self) -> str:
        """Its version."""
        import fastmnist

        self.library = fastmnist
        return f"fastmnist {fastmnist.__version__}"

    def make(self, seed: int, trees: int) -> Any:
        """All threads, which is the default."""
        return self.library.RandomForestClassifier(trees, random_state=seed)


class ScikitLearn(Forest):
    """scikit-learn with one job or two."""

    CHOICES: ClassVar = {"n_jobs": [1, 2]}

    def load(self) -> str:
        """Its version."""
        import sklearn
        from sklearn.ensemble import RandomForestClassifier

        self.kind = RandomForestClassifier
        return f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}"

    def make(self, seed: int, trees: int) -> Any:
        """With the chosen number of jobs."""
        return self.kind(trees, random_state=seed, n_jobs=self.chosen["n_jobs"])


class Intelex(ScikitLearn):
    """Intel's extension, which bins features."""

    def load(self) -> str:
        """Its version."""
        from importlib.metadata import version

        from sklearnex.ensemble import RandomForestClassifier

        self.kind = RandomForestClassifier
        return f"scikit-learn-intelex {version('scikit-learn-intelex')}"
