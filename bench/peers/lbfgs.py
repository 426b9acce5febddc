"""Job: logistic regression on MNIST's 60,000 images by L-BFGS, to the objective that the peer reaches in `max_iter=100`.

Timed: `seconds`, the whole `fit`. The peer's: 100 iterations, or fewer if it converges, on float32 pixels that are ready. Ours: from uint8
images, with the smallest `max_iter` after which our float64 training objective is at most the peer's times 1 + 1e-4. That number of iterations
is found before the rounds, outside of the clock; the path of iterations does not depend on `max_iter`, and the objective of every timed fit is
evaluated again, in float64 and outside of the clock.

Compared: that objective (one-vs-rest: the sum over the classes), and the test accuracy. Warm-up: fits of two iterations, which also start
joblib's processes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import objectives
from runner import Runner, as_float, blas_threads, combinations, mnist

SLACK = 1e-4
MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class Fit:
    """Outcome of a fit: weights (784, 10) and biases (10,) for pixels in [0, 1]; iterations of the slowest class."""

    seconds: float
    weights: np.ndarray
    biases: np.ndarray
    iterations: int


class _Logistic(Runner):
    """A logistic regression with C = 1, the default."""

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        self.one_vs_rest = parameters["model"] == "one-vs-rest"
        self.max_iter, self.chosen = parameters["max_iter"], settings
        self.X, self.y, self.X_test, self.y_test = mnist()
        self.version = self.load()
        self.fit(2)

    def load(self) -> str:
        """Import the library and prepare the data; returns the version."""
        raise NotImplementedError

    def fit(self, max_iter: int) -> Fit:
        """A whole fit."""
        raise NotImplementedError

    def objective(self, fit: Fit) -> float:
        """Of what a fit reached, in float64."""
        function = objectives.one_vs_rest if self.one_vs_rest else objectives.multinomial
        return function(fit.weights, fit.biases, self.X, self.y, C=1.0)

    def sample(self, seed: int) -> dict[str, Any]:
        """A fit; L-BFGS from zero does not depend on the seed."""
        fit = self.fit(self.max_iter)
        logits = as_float(self.X_test) @ fit.weights + fit.biases
        return {
            "seconds": fit.seconds,
            "loss": self.objective(fit),
            "accuracy": float((logits.argmax(1) == self.y_test).mean()),
            "note": f"{fit.iterations} iterations",
        }

    def trial(self) -> float:
        """Some iterations."""
        return self.fit(10).seconds


class FastMNIST(_Logistic):
    """This library's estimators on uint8 images."""

    def load(self) -> str:
        """Its version."""
        import fastmnist

        return f"fastmnist {fastmnist.__version__}"

    def fit(self, max_iter: int) -> Fit:
        """The whole fit; its recorded objective is kept for `prepare`."""
        from fastmnist import LogisticRegression, OneVsRestLogisticRegression

        kind = OneVsRestLogisticRegression if self.one_vs_rest else LogisticRegression
        model = kind(max_iter=max_iter, tol=0.0, backend="numba")  # tol=0: the objective says when to stop
        start = time.perf_counter()
        model.fit(self.X, self.y)
        seconds = time.perf_counter() - start
        self.recorded = np.array(model.loss_curve_)
        return Fit(seconds, model.coef_.T, model.intercept_, int(np.max(model.n_iter_)))

    def reached(self, max_iter: int, target: float) -> bool:
        """Whether that many iterations are enough."""
        return self.objective(self.fit(max_iter)) <= target

    def prepare(self, theirs: dict[str, Any]) -> None:
        """Find the smallest `max_iter` that reaches the peer's objective."""
        target = theirs["loss"] * (1 + SLACK)
        limit = self.max_iter
        while not self.reached(limit, target):
            if limit >= MOST_ITERATIONS:
                raise RuntimeError(f"the peer's objective {theirs['loss']:.6f} is not reached in {limit} iterations")
            limit *= 2
        # The recorded objective is rounded to float32: it says where to look.
        self.fit(limit)
        below = np.flatnonzero(self.recorded <= target)
        self.max_iter = min(int(below[0]) + 1, limit) if len(below) else limit
        while not self.reached(self.max_iter, target):
            self.max_iter += 1
        while self.max_iter > 1 and self.reached(self.max_iter - 1, target):
            self.max_iter -= 1


class ScikitLearn(_Logistic):
    """scikit-learn's LogisticRegression.

    One-vs-rest: in `OneVsRestClassifier(n_jobs=2)`, in processes or threads. Multinomial: with BLAS on one or two threads.
    """

    environment = staticmethod(blas_threads)

    @classmethod
    def settings(cls, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """How joblib works in parallel, or how BLAS does."""
        if parameters["model"] == "one-vs-rest":
            return combinations({"n_jobs": [2], "workers": ["processes", "threads"]})
        return combinations({"threads": [1, 2]})

    def load(self) -> str:
        """float32 pixels, and the version."""
        import sklearn

        self.pixels = as_float(self.X)
        return f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}"

    def estimator(self, max_iter: int) -> Any:
        """The model of one problem."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=max_iter)

    def fit(self, max_iter: int) -> Fit:
        """The whole fit."""
        import joblib
        from sklearn.multiclass import OneVsRestClassifier

        model, backend = self.estimator(max_iter), "threading"
        if self.one_vs_rest:
            model = OneVsRestClassifier(model, n_jobs=self.chosen["n_jobs"])
            backend = "loky" if self.chosen["workers"] == "processes" else "threading"
        start = time.perf_counter()
        with joblib.parallel_config(backend):
            model.fit(self.pixels, self.y)
        seconds = time.perf_counter() - start
        models = model.estimators_ if self.one_vs_rest else [model]
        weights = np.concatenate([m.coef_ for m in models]).T
        biases = np.concatenate([m.intercept_ for m in models])
        return Fit(seconds, weights, biases, max(int(np.max(m.n_iter_)) for m in models))


class Intelex(ScikitLearn):
    """scikit-learn-intelex's LogisticRegression, which uses all cores by itself; one-vs-rest one class after the other, or two at a time."""

    @classmethod
    def settings(cls, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """Classes at a time."""
        return (
            combinations({"n_jobs": [1, 2], "workers": ["threads"]}) if parameters["model"] == "one-vs-rest" else [{}]
        )

    def load(self) -> str:
        """float32 pixels, and the version."""
        from importlib.metadata import version

        import sklearnex  # noqa: F401

        super().load()
        return f"scikit-learn-intelex {version('scikit-learn-intelex')}"

    def estimator(self, max_iter: int) -> Any:
        """The model of one problem."""
        from sklearnex.linear_model import LogisticRegression

        return LogisticRegression(max_iter=max_iter)
