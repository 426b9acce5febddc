"""Initial parameters: scikit-learn's own for Glorot, and the right scale for the others."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from fastmnist.network.initializers import initial_parameters
from fastmnist.network.layers import INITIALIZERS, Activation, Dense, Dropout
from fastmnist.network.losses import BinaryCrossEntropy
from fastmnist.network.spec import Spec


def _one_layer(initializer: str, inputs: int = 300, units: int = 200, **options) -> Spec:
    return Spec(inputs, (Dense(units, kernel_initializer=initializer, **options),))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("theirs", "ours"), [("relu", "relu"), ("logistic", "sigmoid"), ("tanh", "tanh")])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_glorot_gives_scikit_learn_s_own_weights(theirs, ours, n_classes, dtype):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 7)).astype(dtype), np.arange(40) % n_classes
    # A step of 1e-300 leaves every weight as it was drawn.
    reference = MLPClassifier(
        (5, 3), activation=theirs, solver="sgd", learning_rate_init=1e-300, max_iter=1, momentum=0.0, random_state=3
    ).fit(X, y)
    n_outputs = 1 if n_classes == 2 else n_classes
    spec = Spec(7, (Dense(5, ours), Dense(3, ours), Dense(n_outputs)), loss=BinaryCrossEntropy())
    parameters = initial_parameters(spec, np.random.RandomState(3), dtype)
    assert len(parameters) == 6
    for got, want in zip(parameters[0::2], reference.coefs_, strict=True):
        np.testing.assert_array_equal(got, want, strict=True)
    for got, want in zip(parameters[1::2], reference.intercepts_, strict=True):
        np.testing.assert_array_equal(got, want, strict=True)


def test_activation_of_its_own_counts_like_the_dense_layer_s():
    together = Spec(7, (Dense(5, "sigmoid"), Dense(3)))
    apart = Spec(7, (Dense(5), Dropout(0.5), Activation("sigmoid"), Dense(3)))
    for a, b in zip(
        *(initial_parameters(s, np.random.RandomState(0), np.float64) for s in (together, apart)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_sigmoid_counts_for_the_layer_that_feeds_it_and_the_output():
    spec = Spec(100, (Dense(100, "relu"), Dense(100, "sigmoid"), Dense(100)))
    first, second, third = (
        np.abs(w).max() for w in initial_parameters(spec, np.random.default_rng(0), np.float64)[::2]
    )
    wide, narrow = np.sqrt(6 / 200), np.sqrt(2 / 200)
    assert narrow < first <= wide
    assert 0.99 * narrow < second <= narrow
    assert 0.99 * narrow < third <= narrow


@pytest.mark.parametrize(
    ("initializer", "deviation", "bound"),
    [
        # A uniform distribution within +-a has standard deviation a / sqrt 3.
        ("glorot_uniform", np.sqrt(6 / 500) / np.sqrt(3), np.sqrt(6 / 500)),
        ("glorot_uniform_zero_bias", np.sqrt(6 / 500) / np.sqrt(3), np.sqrt(6 / 500)),
        ("torch_uniform", np.sqrt(1 / 300) / np.sqrt(3), np.sqrt(1 / 300)),
        ("he_uniform", np.sqrt(6 / 300) / np.sqrt(3), np.sqrt(6 / 300)),
        ("he_normal", np.sqrt(2 / 300), np.inf),
    ],
)
def test_scale(initializer, deviation, bound):
    weights, bias = initial_parameters(_one_layer(initializer), np.random.default_rng(0), np.float64)
    n = weights.size
    assert abs(weights.mean()) < 5 * deviation / np.sqrt(n)
    assert abs(weights.std() / deviation - 1) < 5 / np.sqrt(2 * n)
    assert np.abs(weights).max() <= bound
    if initializer in ("glorot_uniform", "torch_uniform"):
        assert 0.9 * bound < np.abs(bias).max() <= bound
    else:
        assert not bias.any()
        assert np.abs(weights).max() > 1.7 * deviation  # and not all alike


def test_plain_glorot_does_not_look_at_the_activation():
    spec = Spec(
        300, (Dense(200, "sigmoid", "glorot_uniform_zero_bias"), Dense(10, "identity", "glorot_uniform_zero_bias"))
    )
    first, _, last, _ = initial_parameters(spec, np.random.default_rng(0), np.float64)
    assert 0.99 * np.sqrt(6 / 500) < np.abs(first).max() <= np.sqrt(6 / 500)
    assert 0.99 * np.sqrt(6 / 210) < np.abs(last).max() <= np.sqrt(6 / 210)


def test_zeros():
    for array in initial_parameters(_one_layer("zeros"), np.random.default_rng(0), np.float32):
        assert not array.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_shapes_and_dtype(initializer, dtype):
    spec = Spec(6, (Dense(5, "relu", initializer), Dropout(0.1), Dense(3, kernel_initializer=initializer)))
    parameters = initial_parameters(spec, np.random.default_rng(0), dtype)
    assert tuple(p.shape for p in parameters) == spec.parameter_shapes == ((6, 5), (5,), (5, 3), (3,))
    assert all(p.dtype == dtype and p.flags.c_contiguous for p in parameters)


def test_bias_that_is_not_used_is_zero():
    _, bias = initial_parameters(_one_layer("glorot_uniform", use_bias=False), np.random.default_rng(0), np.float64)
    assert bias.shape == (200,)
    assert not bias.any()


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_same_seed_same_weights(make):
    first, again, other = (initial_parameters(_one_layer("he_normal"), make(seed), np.float32)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
