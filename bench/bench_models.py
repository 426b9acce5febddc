"""Whole jobs on MNIST: fit and predict of every model. `pytest bench/bench_models.py --benchmark-only`; against peers: `bench/peers/compare.py`."""

from __future__ import annotations

import warnings

import pytest

from fastmnist import LogisticRegression, MLPClassifier, OneVsRestLogisticRegression, load_mnist

MODELS = {
    "mlp-128-64-adam-32, 1 epoch": lambda: MLPClassifier((128, 64), batch_size=32, max_iter=1, random_state=0),
    "mlp-128-64-adam-256, 1 epoch": lambda: MLPClassifier((128, 64), batch_size=256, max_iter=1, random_state=0),
    "mlp-500-250-100-sgd-64, 1 epoch": lambda: MLPClassifier(
        (500, 250, 100), solver="sgd", momentum=0.0, learning_rate_init=0.01, batch_size=64, max_iter=1, random_state=0
    ),
    "softmax, 10 iterations": lambda: LogisticRegression(max_iter=10),
    "one-vs-rest, 10 iterations": lambda: OneVsRestLogisticRegression(max_iter=10),
}


@pytest.fixture(scope="module")
def mnist():
    return *load_mnist("train", return_X_y=True), *load_mnist("test", return_X_y=True)


@pytest.mark.parametrize("name", MODELS)
def bench_fit(benchmark, mnist, name: str) -> None:
    """The whole `fit` on 60,000 images, compile cache warm."""
    X, y, X_test, y_test = mnist
    warnings.simplefilter("ignore")
    model = benchmark.pedantic(lambda: MODELS[name]().fit(X, y), rounds=5, warmup_rounds=1)
    benchmark.extra_info["test accuracy"] = model.score(X_test, y_test)


@pytest.mark.parametrize("rows", [1, 100, 10_000])
def bench_predict(benchmark, mnist, rows: int) -> None:
    """Class labels of that many images, validation included."""
    X, y, X_test, _ = mnist
    warnings.simplefilter("ignore")
    model = MLPClassifier((128, 64), batch_size=32, max_iter=1, random_state=0).fit(X, y)
    benchmark(model.predict, X_test[:rows])
    benchmark.extra_info["images/s"] = rows / benchmark.stats.stats.median
