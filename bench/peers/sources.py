"""The sources' software and fastmnist at the recipes of `fastmnist reproduce`, taking turns: into `fastmnist/recipes/peer_times.csv`.

Run it in the environment that `make peers` makes, on a machine that does nothing else: `.venv-peers/bin/python bench/peers/sources.py [--rounds N]
[RECIPE ...]`. Two processes a recipe, one for each side; whoever is not being sampled is stopped. Only added to, a line a round; of a recipe's newest
run the medians count, and the median of the rounds' ratios.

The sources' own ways of working: scikit-learn's and Keras' defaults, torch eager, plain NumPy; loading, imports and the first, untimed pass are not
timed. fastmnist: the recipe's estimator on uint8 images, without validation, in the same unit: a whole fit, or the marginal epoch or iteration,
(fit of k + 1 - fit of one) / k.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from compare import Worker, WorkerError, commit, machine  # noqa: E402
from jobs import OURS, Job  # noqa: E402
from runner import Runner, as_float, initial_parameters  # noqa: E402

from fastmnist.recipes.peer_times import RECORDS  # noqa: E402
from fastmnist.recipes.splits import split_for  # noqa: E402

SIZES = (784, 500, 250, 100, 10)
BATCH = 64


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parts(split: str) -> tuple[np.ndarray, ...]:
    chosen = split_for(split, 0)
    return as_float(chosen.train[0]), chosen.train[1], as_float(chosen.test[0]), chosen.test[1]


def sklearn_softmax() -> tuple:
    import sklearn
    from sklearn.linear_model import LogisticRegression

    X, y, X_test, y_test = parts("56,000 / 14,000")
    model = LogisticRegression(max_iter=100)
    seconds = timed(lambda: model.fit(X, y))
    return f"scikit-learn {sklearn.__version__}", "fit", seconds, model.score(X_test, y_test), "max_iter=100"


def random_forest() -> tuple:
    import sklearn
    from sklearn.ensemble import RandomForestClassifier

    X, y, X_test, y_test = parts("60,000 / 10,000")
    model = RandomForestClassifier(random_state=0, n_jobs=2)
    seconds = timed(lambda: model.fit(X, y))
    return f"scikit-learn {sklearn.__version__}", "fit", seconds, model.score(X_test, y_test), "n_jobs=2"


def _keras(layers: list, batch: int, split: str, shape: tuple[int, ...]) -> tuple:
    import keras

    X, y, _, _ = parts(split)
    model = keras.Sequential([keras.layers.Input(shape), *layers, keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    X = X.reshape(-1, *shape)
    model.fit(X[:batch], y[:batch], batch_size=batch, verbose=0)
    seconds = timed(lambda: model.fit(X, y, batch_size=batch, verbose=0))
    return f"Keras {keras.__version__}", "epoch", seconds, None, f"batch {batch}, defaults of fit"


def keras_mlp() -> tuple:
    import keras

    hidden = [keras.layers.Dense(units, activation="relu") for units in (128, 64)]
    return _keras(hidden, 32, "56,000 / 14,000, the last 10 % to validate", (784,))


def fcnn() -> tuple:
    import keras

    return _keras(
        [keras.layers.Dense(units, activation="relu") for units in (128, 64)], BATCH, "60,000 / 10,000", (784,)
    )


def cnn() -> tuple:
    import keras

    k = keras.layers
    layers = [k.Conv2D(32, 3, activation="relu"), k.MaxPool2D(), k.Flatten(), k.Dense(128, activation="relu")]
    return _keras(layers, BATCH, "60,000 / 10,000", (28, 28, 1))


def cnn_simple() -> tuple:
    import keras

    k = keras.layers
    conv = [layer for filters in (32, 64) for layer in (k.Conv2D(filters, 3, activation="relu"), k.MaxPool2D())]
    return _keras([*conv, k.Flatten(), k.Dropout(0.5)], BATCH, "60,000 / 10,000", (28, 28, 1))


def one_vs_all(digits: Sequence[int]) -> tuple:
    """A digit after the other, as the source: for each a product each way an iteration."""
    X, y, _, _ = parts("56,000 / 14,000, another for each seed")
    steps = 5

    def descend() -> None:
        for digit in digits:
            t, w, b = (y == digit).astype(np.float32), np.zeros(784, np.float32), np.float32(0)
            for _ in range(steps):
                error = 1 / (1 + np.exp(-(X @ w + b))) - t
                w, b = w - np.float32(1) * (X.T @ error) / np.float32(len(X)), b - error.mean()

    descend()
    return f"NumPy {np.__version__}", "iteration", timed(descend) / steps, None, f"{len(digits)} of the digits, float32"


# Name: the function, and its derivative by the function's value.
ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda h: h * (1 - h)),
    "tanh": (np.tanh, lambda h: 1 - h * h),
    "relu": (lambda z: np.maximum(z, 0), lambda h: h > 0),
}


def scratch(name: str) -> tuple:
    """Plain NumPy, as the source: products, activations, softmax, SGD."""
    activate, derivative = ACTIVATIONS[name]
    X, y, _, _ = parts("50,000 / 10,000 / 10,000")
    values = initial_parameters(SIZES, 0)
    w, b = values[::2], values[1::2]

    def epoch(rows: np.ndarray) -> None:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            hs = [X[batch]]
            for i in range(len(w) - 1):
                hs.append(activate(hs[-1] @ w[i] + b[i]))
            z = hs[-1] @ w[-1] + b[-1]
            d = np.exp(z - z.max(axis=1, keepdims=True))
            d /= d.sum(axis=1, keepdims=True)
            d[np.arange(len(batch)), y[batch]] -= 1
            d /= len(batch)
            for i in reversed(range(len(w))):
                dw, db, before = hs[i].T @ d, d.sum(axis=0), d @ w[i].T
                d = before * derivative(hs[i])
                w[i] -= np.float32(0.01) * dw
                b[i] -= np.float32(0.01) * db

    order = np.random.default_rng(0).permutation(len(X))
    epoch(order[: 20 * BATCH])
    return f"NumPy {np.__version__}", "epoch", timed(lambda: epoch(order)), None, "float32"


def _torch(twice: bool, weight_decay: float) -> tuple:
    import torch

    images, digits, _, _ = parts("48,000 / 12,000 / 10,000")
    X, y = torch.from_numpy(images), torch.from_numpy(digits)
    layers: list = []
    for inputs, units in itertools.pairwise(SIZES):
        layers += [torch.nn.Linear(inputs, units), torch.nn.Sigmoid()]
    model = torch.nn.Sequential(*layers[:-1], *([torch.nn.Softmax(dim=1)] if twice else []))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=weight_decay)
    criterion = torch.nn.CrossEntropyLoss()

    def epoch(order: torch.Tensor) -> None:
        for rows in order.split(BATCH):
            optimizer.zero_grad()
            criterion(model(X[rows]), y[rows]).backward()
            optimizer.step()

    order = torch.randperm(len(X))
    epoch(order[: 20 * BATCH])
    settings = f"{torch.get_num_threads()} threads, eager, tensors in memory"
    return f"torch {torch.__version__}", "epoch", timed(lambda: epoch(order)), None, settings


# (recipe, system): software, unit, seconds, accuracy if it is known, settings.
JOBS: dict[tuple[str, str], Callable[[], tuple]] = {
    ("sklearn-softmax", ""): sklearn_softmax,
    ("keras-mlp", ""): keras_mlp,
    ("ova-logistic", ""): lambda: one_vs_all(range(10)),
    ("ova-logistic", "digit 0 alone"): lambda: one_vs_all([0]),
    ("scratch-mlp-sigmoid", ""): lambda: scratch("sigmoid"),
    ("scratch-mlp-tanh", ""): lambda: scratch("tanh"),
    ("scratch-mlp-relu", ""): lambda: scratch("relu"),
    ("pytorch-mlp-adam", "softmax twice, as the source"): lambda: _torch(True, 0.0),
    ("pytorch-mlp-l2", "1e-3, softmax twice, as the source"): lambda: _torch(True, 1e-3),
    ("random-forest", ""): random_forest,
    ("fcnn", ""): fcnn,
    ("cnn", ""): cnn,
    ("cnn-simple", ""): cnn_simple,
}


# --- the two sides, each in a process of its own ----------------------------------------------------------------------


class Source(Runner):
    """The source's software; `parameters` name the recipe and the system."""

    version = ""  # every sample says it

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        self.job = JOBS[parameters["recipe"], parameters["system"]]

    def sample(self, seed: int) -> dict[str, Any]:
        """Once."""
        return dict(zip(("software", "unit", "seconds", "accuracy", "settings"), self.job(), strict=True))


class Ours(Runner):
    """The recipe's estimator, as `fastmnist reproduce` fits it but for the validation part; compiled, as `auto` has long fits."""

    MORE = {"epoch": 3, "iteration": 200}  # noqa: RUF012
    MORE_OF_CNN = 1

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        import fastmnist
        from fastmnist.recipes import RECIPES

        recipe = RECIPES[parameters["recipe"]]
        self.system = next(system for system in recipe.systems if system.name == parameters["system"])
        # What the validation part chooses changes no time; any value will do.
        self.chosen = {name: values[-1] for name, values in recipe.choose.items()}
        self.X, y = split_for(recipe.split, 0).train
        self.y = self.system.labels(y)
        self.version = f"{fastmnist.__version__} {commit()}"
        self.estimator = getattr(fastmnist, self.system.model)
        self.fit(0, **({} if "n_estimators" in self.system.parameters else {"max_iter": 1}))  # compiled, or loaded

    def fit(self, seed: int, **changes: Any) -> float:
        """Seconds of a fit."""
        model = self.estimator(
            **{**self.system.parameters, **self.chosen, "random_state": seed, "backend": "numba", **changes}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that might go on
            return timed(lambda: model.fit(self.X, self.y))

    def sample(self, seed: int, unit: str) -> dict[str, Any]:
        """A fit, or the difference of two."""
        if unit == "fit":
            return {"seconds": self.fit(seed)}
        more = self.MORE_OF_CNN if self.system.model == "CNNClassifier" else self.MORE[unit]
        once = self.fit(seed, max_iter=1)
        return {"seconds": (self.fit(seed, max_iter=more + 1) - once) / more}


SIDES = Job("sources", "the sources and fastmnist", {"source": "sources:Source", OURS: "sources:Ours"})


def rounds_of(recipe: str, system: str, rounds: int, records: Path) -> None:
    """Alternate, and append a line a round."""
    run = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    parameters = {"recipe": recipe, "system": system}
    with contextlib.ExitStack() as stack:
        workers = {}
        for side in SIDES.runners:
            workers[side] = Worker(sys.executable, SIDES, side, parameters, {})
            stack.callback(workers[side].close)
        theirs, ours = workers["source"], workers[OURS]
        for seed in range(rounds):
            found = theirs.ask("sample", seed=seed)
            our_seconds = ours.ask("sample", seed=seed, unit=found["unit"])["seconds"]
            score = "" if found["accuracy"] is None else f"{found['accuracy']:.4f}"
            values = (run, recipe, system, found["software"], found["unit"], f"{found['seconds']:.6g}", score)
            values += (found["settings"], machine(), f"{our_seconds:.6g}", ours.version)
            with records.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerow(values)
            print(
                f"{recipe} {system}: {found['software']} {found['seconds']:.4g} s, fastmnist {our_seconds:.4g} s, ",
                end="",
            )
            print(f"{found['seconds'] / our_seconds:.2f} x an {found['unit']}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Time the recipes and append to the records; 1 if a side failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted({recipe for recipe, _ in JOBS})
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"default: all of {', '.join(known)}")
    parser.add_argument("--rounds", type=int, default=7, help="samples of each side")
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args(argv)
    unknown = sorted(set(options.recipes) - set(known))
    if unknown or options.rounds < 1:
        parser.error(
            f"no recipe {unknown[0]!r}: one of {', '.join(known)}" if unknown else "--rounds must be at least 1"
        )
    failed = False
    for recipe, system in JOBS:
        if not options.recipes or recipe in options.recipes:
            try:
                rounds_of(recipe, system, options.rounds, options.records)
            except WorkerError as error:
                failed = True
                print(f"{recipe} {system}: {error}", file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
