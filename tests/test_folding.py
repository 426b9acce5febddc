"""Batch normalisation folded into convolutions: which ones, and that the network predicts the same."""

import numpy as np
import pytest

from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.network.folding import FoldedNetwork
from fastmnist.network.initializers import initial_parameters
from fastmnist.network.layers import (
    Activation,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    MaxPool2D,
)
from fastmnist.network.spec import Spec

CONV = Conv2D(5, 3, use_bias=False)
NETWORKS = {
    "relu": (CONV, BatchNorm(), Activation("relu"), MaxPool2D(), Flatten(), Dense(3)),
    "twice, with a bias": (
        Conv2D(5, 3, padding="same"),
        BatchNorm(),
        Activation("tanh"),
        Dropout(0.5),
        Conv2D(6, 2, stride=2),
        BatchNorm(epsilon=0.1),
        Flatten(),
        Dense(4, "relu"),
        Dense(3),
    ),
    "not behind an activation": (Conv2D(5, 3, activation="relu"), BatchNorm(), CONV, BatchNorm(), Flatten(), Dense(3)),
    "not behind a pooling": (CONV, MaxPool2D(), BatchNorm(), Activation("relu"), Flatten(), Dense(3)),
    "nothing": (BatchNorm(), CONV, AvgPool2D(), Flatten(), Dense(3)),
}


def spec_of(name: str) -> Spec:
    return Spec(81, NETWORKS[name], image_shape=(9, 9, 1))


def trained_parameters(spec: Spec, dtype: type = np.float32) -> list[np.ndarray]:
    """Parameters and running statistics as training leaves them: nothing is 0 or 1, some gammas are negative, variances positive."""
    rng = np.random.RandomState(0)
    parameters = [p + 0.1 * rng.randn(*p.shape) for p in initial_parameters(spec, rng, np.dtype(np.float64))]
    i = 0
    for layer in spec.layers:
        if isinstance(layer, (Conv2D, Dense)):
            i += 2
        elif isinstance(layer, BatchNorm):
            parameters[i] *= rng.choice([-1.0, 1.0], parameters[i].shape)
            parameters[i + 3] = rng.uniform(0.2, 3.0, parameters[i + 3].shape)
            i += 4
    return [p.astype(dtype) for p in parameters]


def images(n: int) -> np.ndarray:
    return np.random.RandomState(1).rand(n, 81).astype(np.float32)


def test_which_are_folded():
    kept = {name: [type(layer).__name__ for layer in FoldedNetwork(spec_of(name)).spec.layers] for name in NETWORKS}
    assert kept["relu"] == ["Conv2D", "MaxPool2D", "Flatten", "Dense"]
    assert kept["twice, with a bias"] == ["Conv2D", "Dropout", "Conv2D", "Flatten", "Dense", "Dense"]
    assert kept["not behind an activation"] == ["Conv2D", "BatchNorm", "Conv2D", "Flatten", "Dense"]
    for name in ("not behind a pooling", "nothing"):
        spec = spec_of(name)
        assert FoldedNetwork(spec).spec is spec
        parameters = trained_parameters(spec)
        assert FoldedNetwork(spec).parameters(parameters) is parameters


def test_the_activation_is_the_convolution_s_own():
    layers = FoldedNetwork(spec_of("twice, with a bias")).spec.layers
    assert layers[0] == Conv2D(5, 3, padding="same", activation="tanh")
    assert layers[2] == Conv2D(6, 2, stride=2, activation="identity")
    assert FoldedNetwork(spec_of("relu")).spec.layers[0] == Conv2D(5, 3, activation="relu", use_bias=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_in_float64(name):
    """Both networks in the oracle, in float64, where rounding is 1e-16."""
    spec = spec_of(name)
    parameters, folded = trained_parameters(spec, np.float64), FoldedNetwork(spec)
    expected = ReferenceExecutor(spec, dtype=np.float64).outputs(parameters, images(20).astype(np.float64))
    theirs = ReferenceExecutor(folded.spec, dtype=np.float64)
    ours = theirs.outputs(folded.parameters(parameters), images(20).astype(np.float64))
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["relu", "twice, with a bias", "not behind an activation"])
@pytest.mark.parametrize("rows", [1, 130])
def test_compiled_prediction_is_the_oracle_s(name, rows):
    spec = spec_of(name)
    parameters = trained_parameters(spec)
    expected = ReferenceExecutor(spec, dtype=np.float64).outputs(parameters, images(rows))
    executor = CpuExecutor(spec, n_threads=2)
    np.testing.assert_allclose(executor.outputs(parameters, images(rows)), expected, rtol=2e-5, atol=2e-6)
    # Folded anew at every call: parameters may be changed where they lie.
    parameters[0] *= 1.5
    assert np.abs(executor.outputs(parameters, images(rows)) - expected).max() > 1e-3
