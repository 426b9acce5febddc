"""The sources' software at the recipes of `fastmnist reproduce`: seconds of a fit, an epoch or an iteration, into `fastmnist/recipes/peer_times.csv`.

Run it in the environment that `make peers` makes, on a machine that does nothing else: `.venv-peers/bin/python bench/peers/sources.py [--rounds N]
[RECIPE ...]`. Only added to, a line a sample; of the newest day the median counts. A round times all recipes once, so that a bad minute
spoils no more than one sample of each. These are the sources' own ways of working: scikit-learn's and Keras' defaults, torch eager, plain NumPy;
loading, imports and the first, untimed pass are not timed. fastmnist's times in the same table come from `fastmnist reproduce`.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from compare import machine  # noqa: E402
from runner import as_float, initial_parameters  # noqa: E402

from fastmnist.recipes.peer_times import COLUMNS, RECORDS  # noqa: E402
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


def one_vs_all() -> tuple:
    """A digit after the other, as the source: ten products each way an iteration."""
    X, y, _, _ = parts("56,000 / 14,000, another for each seed")
    steps = 5

    def descend() -> None:
        for digit in range(10):
            t, w, b = (y == digit).astype(np.float32), np.zeros(784, np.float32), np.float32(0)
            for _ in range(steps):
                error = 1 / (1 + np.exp(-(X @ w + b))) - t
                w, b = w - np.float32(1) * (X.T @ error) / np.float32(len(X)), b - error.mean()

    descend()
    return f"NumPy {np.__version__}", "iteration", timed(descend) / steps, None, "all ten digits, float32"


def scratch_relu() -> tuple:
    """Plain NumPy, as the source: products, ReLU, softmax, SGD."""
    X, y, _, _ = parts("50,000 / 10,000 / 10,000")
    values = initial_parameters(SIZES, 0)
    w, b = values[::2], values[1::2]

    def epoch(rows: np.ndarray) -> None:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            hs = [X[batch]]
            for i in range(len(w) - 1):
                hs.append(np.maximum(hs[-1] @ w[i] + b[i], 0))
            z = hs[-1] @ w[-1] + b[-1]
            d = np.exp(z - z.max(axis=1, keepdims=True))
            d /= d.sum(axis=1, keepdims=True)
            d[np.arange(len(batch)), y[batch]] -= 1
            d /= len(batch)
            for i in reversed(range(len(w))):
                dw, db, before = hs[i].T @ d, d.sum(axis=0), d @ w[i].T
                d = before * (hs[i] > 0)
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


# (recipe, system): how it is timed.
JOBS: dict[tuple[str, str], Callable[[], tuple]] = {
    ("sklearn-softmax", ""): sklearn_softmax,
    ("keras-mlp", ""): keras_mlp,
    ("ova-logistic", ""): one_vs_all,
    ("scratch-mlp-relu", ""): scratch_relu,
    ("pytorch-mlp-adam", "softmax twice, as the source"): lambda: _torch(True, 0.0),
    ("pytorch-mlp-l2", "1e-3, softmax twice, as the source"): lambda: _torch(True, 1e-3),
    ("random-forest", ""): random_forest,
    ("fcnn", ""): fcnn,
    ("cnn", ""): cnn,
    ("cnn-simple", ""): cnn_simple,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Time the recipes and append to the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted({recipe for recipe, _ in JOBS})
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"default: all of {', '.join(known)}")
    parser.add_argument("--rounds", type=int, default=3, help="samples of each")
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args(argv)
    unknown = sorted(set(options.recipes) - set(known))
    if unknown or options.rounds < 1:
        parser.error(
            f"no recipe {unknown[0]!r}: one of {', '.join(known)}" if unknown else "--rounds must be at least 1"
        )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    chosen = [item for item in JOBS.items() if not options.recipes or item[0][0] in options.recipes]
    for (recipe, system), job in chosen * options.rounds:
        software, unit, seconds, accuracy, settings = job()
        score = "" if accuracy is None else f"{accuracy:.4f}"
        values = (today, recipe, system, software, unit, f"{seconds:.4f}", score, settings, machine())
        with options.records.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(values)
        print(dict(zip(COLUMNS, values, strict=True)), flush=True)


if __name__ == "__main__":
    main()
