"""Initial parameters: random weights whose scale keeps signals and gradients of every layer alike."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator, RandomState
from numpy.typing import DTypeLike

from fastmnist.network.layers import Activation, BatchNorm, Conv2D, Dense
from fastmnist.network.spec import Spec


def initial_parameters(spec: Spec, rng: Generator | RandomState, dtype: DTypeLike) -> list[np.ndarray]:
    """Draw the parameters of a network, as each Dense's `kernel_initializer` says.

    - glorot_uniform: uniform within +- sqrt(6 / (inputs + units)) (Glorot & Bengio 2010, equation 16), biases within
      the same bound; with sigmoid 2 stands for 6. Both as in scikit-learn.
    - glorot_uniform_zero_bias: within +- sqrt(6 / (inputs + units)) whatever the activation, biases 0: as in Keras.
    - torch_uniform: weights and biases within +- sqrt(1 / inputs): what torch's layers start from.
    - he_uniform, he_normal: uniform within +- sqrt(6 / inputs), and normal with standard deviation sqrt(2 / inputs)
      (He et al. 2015, equation 10); biases 0.
    - zeros: all 0.

    A convolution's inputs are kernel height * kernel width * channels, its units kernel height * kernel width * filters. A `BatchNorm` starts
    as (1, 0, 0, 1): nothing is scaled or moved, and mean and variance are those of normal numbers.

    Drawn in float64, weights before biases, layer by layer: from the same `RandomState` these are the initial weights
    of scikit-learn's `MLPClassifier`. A bias that is not used is 0 and is not drawn.

    Parameters
    ----------
    spec : Spec
    rng : Generator or RandomState
        Advanced by the draws.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    list of ndarray
        `[W0, b0, W1, b1, ...]`, of the shapes `spec.parameter_shapes`.
    """
    parameters: list[np.ndarray] = []
    activations = iter(_activations(spec))
    for layer, before in zip(spec.layers, spec.shapes, strict=False):
        if isinstance(layer, Dense):
            parameters += _draw(layer, before[0], layer.units, (before[0], layer.units), next(activations), rng)
        elif isinstance(layer, Conv2D):
            window = math.prod(layer.window)
            inputs, units = window * before[2], window * layer.filters
            parameters += _draw(layer, inputs, units, (inputs, layer.filters), next(activations), rng)
        elif isinstance(layer, BatchNorm):
            parameters += [fill(before[2]) for fill in (np.ones, np.zeros, np.zeros, np.ones)]
    return [parameter.astype(dtype) for parameter in parameters]


def _draw(
    layer: Dense | Conv2D,
    inputs: int,
    units: int,
    shape: tuple[int, int],
    activation: str,
    rng: Generator | RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of that shape and a bias; `inputs` and `units` are what one output reads, and how many outputs read one input."""
    bias = np.zeros(shape[1])
    if layer.kernel_initializer == "glorot_uniform":
        bound = np.sqrt((2.0 if activation == "sigmoid" else 6.0) / (inputs + units))
        weights = rng.uniform(-bound, bound, shape)
        if layer.use_bias:
            bias = rng.uniform(-bound, bound, shape[1])
    elif layer.kernel_initializer == "glorot_uniform_zero_bias":
        bound = np.sqrt(6.0 / (inputs + units))
        weights = rng.uniform(-bound, bound, shape)
    elif layer.kernel_initializer == "torch_uniform":
        bound = np.sqrt(1.0 / inputs)
        weights = rng.uniform(-bound, bound, shape)
        if layer.use_bias:
            bias = rng.uniform(-bound, bound, shape[1])
    elif layer.kernel_initializer == "he_uniform":
        bound = np.sqrt(6.0 / inputs)
        weights = rng.uniform(-bound, bound, shape)
    elif layer.kernel_initializer == "he_normal":
        weights = rng.normal(0.0, np.sqrt(2.0 / inputs), shape)
    else:
        weights = np.zeros(shape)
    return weights, bias


def _activations(spec: Spec) -> list[str]:
    """The activation that each Dense or Conv2D feeds: its own, or that of the Activation layer that follows, past layers without one.

    One that feeds none, as the output layer, takes that of the one before it: scikit-learn has one for the whole
    network.
    """
    found: list[str] = []
    for layer in spec.layers:
        if isinstance(layer, (Dense, Conv2D)):
            before = found[-1] if found else "identity"
            found.append(before if layer.activation == "identity" else layer.activation)
            feeds_directly = layer.activation == "identity"
        elif isinstance(layer, Activation):
            if found and feeds_directly:
                found[-1] = layer.name
            feeds_directly = False
    return found
