"""scikit-learn's own checks of a well-behaved estimator."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmnist.estimators import (
    CNNClassifier,
    LogisticRegression,
    MLPClassifier,
    OneVsRestLogisticRegression,
    RandomForestClassifier,
)
from fastmnist.network.layers import Conv2D, Flatten

FLOAT32 = (
    "compares probabilities of float64 data to 1e-7; the compiled kernels compute in float32, which rounds at 6e-8"
)
BOOTSTRAP = "a row of weight 2 is drawn as one row, two equal rows one by one; scikit-learn's forest fails it too"


def expected_failures(estimator: object) -> dict[str, str]:
    if isinstance(estimator, RandomForestClassifier):
        return {f"check_sample_weight_equivalence_on_{kind}_data": BOOTSTRAP for kind in ("dense", "sparse")}
    if estimator.backend == "numba":
        return {f"check_sample_weight_equivalence_on_{kind}_data": FLOAT32 for kind in ("dense", "sparse")}
    return {}


# 100 epochs, as in scikit-learn's tests of its own MLPClassifier.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [
        LogisticRegression(),
        OneVsRestLogisticRegression(),
        MLPClassifier(max_iter=100),
        LogisticRegression(backend="numba"),
        OneVsRestLogisticRegression(backend="numba"),
        MLPClassifier(max_iter=100, backend="numba"),
        CNNClassifier((Conv2D(16, 1, activation="relu"), Flatten()), max_iter=100),
        CNNClassifier((Conv2D(16, 1, activation="relu"), Flatten()), max_iter=100, backend="numba"),
        RandomForestClassifier(5),
        RandomForestClassifier(5, backend="numba"),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_check(estimator, check):
    check(estimator)
