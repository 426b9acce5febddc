"""Image layers: what their descriptions refuse, the shapes they make, and training on every executor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.network.architectures import ARCHITECTURES
from fastmnist.network.initializers import initial_parameters
from fastmnist.network.layers import (
    Activation,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    MaxPool2D,
    describe,
)
from fastmnist.network.optimizers import SGD, Adam
from fastmnist.network.shapes import conv_padding
from fastmnist.network.spec import Spec

CLASSES = 5


def _spec(layers, image_shape=(12, 10, 3), **changes):
    n = int(np.prod(image_shape))
    return Spec(n, (*layers, Dense(CLASSES)), **{"optimizer": Adam(), "image_shape": image_shape, **changes})


# --- descriptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv2D(0), "Conv2D: filters must be an integer >= 1; got 0"),
        (lambda: Conv2D(3, 0), r"Conv2D: kernel must be an integer >= 1, or a pair \(height, width\) of them; got 0"),
        (lambda: Conv2D(3, (3, 2.5)), r"Conv2D: kernel must be .*; got \(3, 2.5\)"),
        (lambda: Conv2D(3, stride=0), "Conv2D: stride must be an integer >= 1; got 0"),
        (lambda: Conv2D(3, padding="full"), "Conv2D: padding must be 'valid', 'same' or an integer >= 0; got 'full'"),
        (lambda: Conv2D(3, padding=-1), "Conv2D: padding must be .*; got -1"),
        (lambda: Conv2D(3, padding=True), "Conv2D: padding must be .*; got True"),
        (lambda: Conv2D(3, activation="rely"), "Conv2D: activation must be one of .*; got 'rely'"),
        (lambda: Conv2D(3, use_bias=1), "Conv2D: use_bias must be True or False; got 1"),
        (lambda: MaxPool2D(17), "MaxPool2D: size must be at most 256 pixels; got 17"),
        (lambda: AvgPool2D((2, 3)), "AvgPool2D: stride must be given where size is no square; got None"),
        (lambda: MaxPool2D(2, 0), "MaxPool2D: stride must be an integer >= 1 or None; got 0"),
        (lambda: BatchNorm(1.0), r"BatchNorm: momentum must be in \[0, 1\); got 1.0"),
        (lambda: BatchNorm(epsilon=0), "BatchNorm: epsilon must be a finite number > 0; got 0"),
        (lambda: _spec([Flatten()], (4, 4)), r"Spec: image_shape must be \(height, width, channels\).*got \(4, 4\)"),
        (
            lambda: Spec(9, (Flatten(), Dense(2)), image_shape=(2, 2, 2)),
            r"image_shape must be that of 9 values .*got \(2, 2, 2\)",
        ),
        (
            lambda: _spec([Conv2D(4, 5), MaxPool2D(), Conv2D(8, 5)]),
            r"layer 3, Conv2D\(8, 5x5\), gets the shape \(4, 3, 4\) from input -> Conv2D\(4, 5x5\) -> MaxPool2D\(2x2\), but its kernel of 5 x 5 is "
            "larger than the image of 4 x 3",
        ),
        (lambda: _spec([Conv2D(4), Dense(3)]), r"layer 2, Dense.* \(10, 8, 4\) .*put a Flatten\(\) or GlobalAvgPool2D"),
        (lambda: _spec([]), r"layer 1, Dense\(5, identity\), gets the shape \(12, 10, 3\) from input, .*put a Flatten"),
        (
            lambda: _spec([Flatten(), MaxPool2D()]),
            r"layer 2, MaxPool2D.* \(360,\) .*takes images \(height, width, chan",
        ),
        (
            lambda: Spec(9, (Conv2D(2), Dense(2))),
            r"layer 1, Conv2D.* \(9,\) from input, but .*give a Spec its image_shape",
        ),
    ],
)
def test_errors_teach(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_shapes_parameters_and_costs_of_lenet():
    spec = Spec(784, (*ARCHITECTURES["lenet5"], Dense(10)), image_shape=(28, 28, 1))
    images = (28, 28, 1), (28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16)
    assert spec.shapes == (*images, (400,), (120,), (84,), (10,))
    assert spec.parameter_shapes[:5] == ((25, 6), (6,), (150, 16), (16,), (400, 120))
    dense = 400 * 120 + 120 * 84 + 84 * 10
    assert spec.flops_per_sample == 4 * 784 * 25 * 6 + 6 * 100 * 150 * 16 + 6 * dense
    assert spec.weight_indices == (0, 2, 4, 6, 8)


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        (Conv2D(32), "Conv2D(32, 3x3)"),
        (Conv2D(6, (5, 4), 2, 1, "relu"), "Conv2D(6, 5x4, stride 2, padding 1, relu)"),
        (MaxPool2D(), "MaxPool2D(2x2)"),
        (AvgPool2D(3, 1), "AvgPool2D(3x3, stride 1)"),
        (BatchNorm(), "BatchNorm()"),
    ],
)
def test_describe(layer, line):
    assert describe(layer) == line


@pytest.mark.parametrize("size", [5, 6, 7, 28])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_makes_one_window_for_each_stride(size, kernel, stride):
    layer = Conv2D(1, kernel, stride, "same")
    top, bottom, _, _ = conv_padding(layer, (size, size, 1))
    assert bottom - top in (0, 1)
    assert (size + top + bottom - kernel) // stride + 1 == -(-size // stride)


# --- training ---------------------------------------------------------------------------------------------------------

N = 53

CASES = {
    "lenet": _spec(
        (
            Conv2D(6, 5, padding="same", activation="relu"),
            MaxPool2D(),
            Conv2D(16, 3, activation="relu"),
            MaxPool2D(),
            Flatten(),
            Dense(20, "relu"),
        ),
        (14, 14, 1),
    ),
    "colours, strides, activations": _spec(
        (
            Conv2D(9, 3, stride=2, padding=1, activation="tanh"),
            AvgPool2D(2),
            Dropout(0.3),
            Conv2D(33, (2, 1), activation="gelu"),
            Conv2D(20, 1, activation="relu"),
            GlobalAvgPool2D(),
        )
    ),
    "overlapping windows, L2, momentum": _spec(
        (Conv2D(17, 3, activation="leaky_relu", use_bias=False), MaxPool2D(3, 2), Activation("sigmoid"), Flatten()),
        optimizer=SGD(0.9),
        l2=0.1,
    ),
    "convolution after convolution": _spec(
        (Conv2D(8, 3, activation="relu"), Conv2D(40, 3, activation="relu"), MaxPool2D(), Flatten(), Dense(30, "elu")),
        optimizer=SGD(),
    ),
    "batch normalisation": _spec(
        (
            Conv2D(9, 3, padding="same", use_bias=False),
            BatchNorm(),
            Activation("relu"),
            MaxPool2D(),
            Conv2D(18, 3),
            BatchNorm(0.5),
            Conv2D(20, 1, activation="relu"),
            BatchNorm(),
            GlobalAvgPool2D(),
        ),
        optimizer=SGD(),
    ),
    "normalised pixels, nothing else": _spec((BatchNorm(), Flatten())),
    "pixels only": _spec((Flatten(), Dense(7, "relu"))),
    "pooled pixels": _spec((MaxPool2D(), AvgPool2D(2), Flatten())),
}


def _train(executor, batch=20, epochs=2):
    spec = executor.spec
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (N, spec.n_features)).astype(np.uint8)
    y, weight = rng.integers(0, CLASSES, N).astype(np.int32), rng.random(N).astype(np.float32)
    executor.bind(X, y, weight, pixel_scale=1 / 255)
    initial = initial_parameters(spec, np.random.RandomState(1), np.float64)
    executor.set_parameters(initial)
    losses = []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(N)
        losses.append(executor.run_epoch(order, np.full(-(-N // batch), 0.01), batch, seed=epoch).losses)
    return executor.get_parameters(), np.concatenate(losses), X, initial


@pytest.mark.parametrize("name", CASES)
def test_training_follows_the_float64_oracle(name):
    expected, losses, _, initial = _train(ReferenceExecutor(CASES[name], dtype=np.float64))
    got, ours, _, _ = _train(CpuExecutor(CASES[name], n_threads=2))
    np.testing.assert_allclose(ours, losses, rtol=2e-3, atol=2e-5)
    for a, b, start in zip(got, expected, initial, strict=True):
        # Six steps of float32 against float64, grown by the learning itself; Adam divides small gradients by themselves.
        assert not (np.abs(a - b).max() > 1e-3 * max(1, np.abs(b).max()))
        assert a.size < 40 or not np.array_equal(a, start.astype(np.float32))


@pytest.mark.parametrize("name", CASES)
def test_same_bits_on_any_number_of_threads(name):
    first, losses, _, _ = _train(CpuExecutor(CASES[name], n_threads=1))
    for n_threads in (2, 3, 11):
        again, others, _, _ = _train(CpuExecutor(CASES[name], n_threads=n_threads))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True)), n_threads
        assert losses.tobytes() == others.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_full_batch_gradient(name):
    spec = CASES[name]
    oracle, ours = ReferenceExecutor(spec, dtype=np.float64), CpuExecutor(spec, n_threads=2)
    parameters, _, X, _ = _train(oracle)
    _train(ours)
    rows = np.resize(X, (1000, spec.n_features))
    expected = oracle.outputs(parameters, rows, pixel_scale=1 / 255)
    np.testing.assert_allclose(ours.outputs(parameters, rows, pixel_scale=1 / 255), expected, atol=2e-6)
    if any(isinstance(layer, BatchNorm) for layer in spec.layers):
        for executor in (oracle, ours):
            with pytest.raises(ValueError, match="BatchNorm has no gradient of blocks of rows"):
                executor.loss_and_gradient(parameters)
        return
    (loss, gradient), (our_loss, our_gradient) = (e.loss_and_gradient(parameters) for e in (oracle, ours))
    assert our_loss == pytest.approx(loss, rel=1e-5)
    for a, b in zip(our_gradient, gradient, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1, np.abs(b).max()))


def test_batch_norm_predicts_with_its_running_statistics():
    spec = _spec((BatchNorm(0.0), Flatten()), (1, 1, 3), optimizer=SGD())
    executor = ReferenceExecutor(spec, dtype=np.float64)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3)) * [1, 2, 3] + [4, 5, 6]
    executor.bind(X, rng.integers(0, CLASSES, 40).astype(np.int32))
    executor.set_parameters(initial_parameters(spec, rng, np.float64))
    executor.run_epoch(np.arange(40), np.zeros(1), 40)
    parameters = executor.get_parameters()
    np.testing.assert_allclose(parameters[2], X.mean(axis=0))
    np.testing.assert_allclose(parameters[3], X.var(axis=0, ddof=1))
    standard = (X - parameters[2]) / np.sqrt(parameters[3] + 1e-5)
    z = standard @ parameters[4] + parameters[5]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(executor.outputs(parameters, X), p)


# --- against PyTorch ----------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_LAYERS = {
    "lenet": (
        (8, 8, 1),
        (
            Conv2D(3, 3, padding=1, activation="relu"),
            MaxPool2D(),
            Conv2D(4, (2, 3), stride=1),
            Activation("tanh"),
            Flatten(),
            Dense(6, "relu"),
        ),
    ),
    "normed": (
        (7, 6, 2),
        (
            Conv2D(5, 3, stride=2, padding=2),
            BatchNorm(),
            Activation("gelu"),
            AvgPool2D(2, 1),
            Conv2D(3, 1),
            BatchNorm(0.8, 0.001),
            Activation("relu"),
            MaxPool2D(2, 1),
            GlobalAvgPool2D(),
        ),
    ),
}


@pytest.mark.parametrize("name", GOLDEN_LAYERS)
@pytest.mark.parametrize("make", [ReferenceExecutor, CpuExecutor])
def test_training_steps_equal_torch_s(name, make):
    """Four steps of SGD with momentum from the same parameters; `bench/peers/golden_cnn.py` made the file, with its versions inside."""
    golden = np.load(GOLDEN / "torch_cnn.npz")
    shape, layers = GOLDEN_LAYERS[name]
    n_parameters = sum(key.startswith(f"{name}_before_") for key in golden)
    optimizer = SGD(0.9, weight_decay=0.01)
    spec = Spec(int(np.prod(shape)), (*layers, Dense(3)), optimizer=optimizer, image_shape=shape)
    executor = make(spec, n_threads=2)
    executor.bind(golden[f"{name}_X"], golden[f"{name}_y"])
    executor.set_parameters([golden[f"{name}_before_{i}"] for i in range(n_parameters)])
    epoch = executor.run_epoch(np.arange(20), np.full(4, 0.05), 5)
    np.testing.assert_allclose(epoch.losses, golden[f"{name}_losses"], rtol=1e-4, atol=1e-5)
    parameters = executor.get_parameters()
    for i, parameter in enumerate(parameters):
        np.testing.assert_allclose(parameter, golden[f"{name}_after_{i}"], rtol=1e-3, atol=2e-5, err_msg=str(i))
    outputs = executor.outputs(parameters, golden[f"{name}_X"])
    np.testing.assert_allclose(outputs, golden[f"{name}_outputs"], atol=1e-4)
