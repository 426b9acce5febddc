"""Whole jobs on MNIST: an epoch, a fit and predictions. `pytest bench/bench_models.py --benchmark-only`; against peers: `bench/peers/compare.py`.

A model that has not learned gets no number.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from fastmnist import (
    CNNClassifier,
    LogisticRegression,
    MLPClassifier,
    OneVsRestLogisticRegression,
    RandomForestClassifier,
    load_mnist,
)

MODELS = {
    "mlp-128-64-adam-32, 1 epoch": lambda: MLPClassifier((128, 64), batch_size=32, max_iter=1, random_state=0),
    "mlp-128-64-adam-256, 1 epoch": lambda: MLPClassifier((128, 64), batch_size=256, max_iter=1, random_state=0),
    "mlp-500-250-100-sgd-64, 1 epoch": lambda: MLPClassifier(
        (500, 250, 100), solver="sgd", momentum=0.0, learning_rate_init=0.01, batch_size=64, max_iter=1, random_state=0
    ),
    "softmax, 10 iterations": lambda: LogisticRegression(max_iter=10),
    "one-vs-rest, 10 iterations": lambda: OneVsRestLogisticRegression(max_iter=10),
    "lenet5, 1 epoch": lambda: CNNClassifier("lenet5", max_iter=1, random_state=0),
    "forest, 10 trees": lambda: RandomForestClassifier(10, random_state=0),
}
EPOCHS = [name for name in MODELS if name.endswith("1 epoch")]
LEARNED = 0.85  # accuracy on the test images, after one epoch


@pytest.fixture(scope="module")
def mnist():
    return *load_mnist("train", return_X_y=True), *load_mnist("test", return_X_y=True)


@pytest.mark.parametrize("name", MODELS)
def bench_fit(benchmark, mnist, name: str) -> None:
    """The whole `fit` on 60,000 images, compile cache warm."""
    X, y, X_test, y_test = mnist
    warnings.simplefilter("ignore")
    benchmark.group = "fit"
    model = benchmark.pedantic(lambda: MODELS[name]().fit(X, y), rounds=5, warmup_rounds=1)
    _judge(benchmark, model, X_test, y_test)


@pytest.mark.parametrize("name", EPOCHS)
def bench_epoch(benchmark, mnist, name: str) -> None:
    """One more epoch of 60,000 images: `partial_fit`, its preparation of X included."""
    X, y, X_test, y_test = mnist
    warnings.simplefilter("ignore")
    model = MODELS[name]().fit(X, y)
    benchmark.group = "epoch"
    benchmark.pedantic(lambda: model.partial_fit(X, y), rounds=5, warmup_rounds=1)
    _judge(benchmark, model, X_test, y_test)
    flops = model._executor.spec.flops_per_sample * len(X)
    benchmark.extra_info["FLOPs"] = flops
    if benchmark.stats is not None:
        benchmark.extra_info["GFLOP/s"] = flops / benchmark.stats.stats.median / 1e9


def _judge(benchmark: Any, model: Any, X: Any, y: Any) -> None:
    accuracy = benchmark.extra_info["test accuracy"] = model.score(X, y)
    assert accuracy > LEARNED, f"test accuracy {accuracy:.2%}"


@pytest.mark.parametrize("rows", [1, 100, 10_000])
def bench_predict(benchmark, mnist, rows: int) -> None:
    """Class labels of that many images, validation included."""
    X, y, X_test, y_test = mnist
    warnings.simplefilter("ignore")
    model = MLPClassifier((128, 64), batch_size=32, max_iter=1, random_state=0).fit(X, y)
    _judge(benchmark, model, X_test, y_test)
    benchmark.group = "predict"
    benchmark(model.predict, X_test[:rows])
    if benchmark.stats is not None:
        benchmark.extra_info["images/s"] = rows / benchmark.stats.stats.median
