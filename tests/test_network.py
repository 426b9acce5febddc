"""Descriptions of networks: what they refuse, and that they are values."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from fastmnist.network.layers import ACTIVATIONS, Activation, Dense, Dropout, describe
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from fastmnist.network.optimizers import SGD, Adam, AdamW
from fastmnist.network.spec import Spec

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(0), "Dense: units must be an integer >= 1; got 0"),
        (lambda: Dense(2.0), "Dense: units must be an integer >= 1; got 2.0"),
        (lambda: Dense(True), "Dense: units must be an integer >= 1; got True"),
        (lambda: Dense("3"), "Dense: units must be an integer >= 1; got '3'"),
        (lambda: Dense(3, "rely"), "Dense: activation must be one of .*'leaky_relu'.*; got 'rely'"),
        (lambda: Dense(3, ["relu"]), r"Dense: activation must be one of .*; got \['relu'\]"),
        (
            lambda: Dense(3, kernel_initializer="xavier"),
            "kernel_initializer must be one of .*'he_normal'.*; got 'xavier'",
        ),
        (lambda: Dense(3, use_bias="no"), "Dense: use_bias must be True or False; got 'no'"),
        (lambda: Activation("swish"), "Activation: name must be one of .*'gelu'.*; got 'swish'"),
        (lambda: Dropout(1), r"Dropout: rate must be in \[0, 1\); got 1"),
        (lambda: Dropout(-0.1), r"Dropout: rate must be in \[0, 1\); got -0.1"),
        (lambda: Dropout(NAN), r"Dropout: rate must be in \[0, 1\); got nan"),
        (lambda: Dropout("a"), r"Dropout: rate must be in \[0, 1\); got 'a'"),
        (lambda: SoftmaxCrossEntropy(1.0), r"SoftmaxCrossEntropy: label_smoothing must be in \[0, 1\); got 1.0"),
        (lambda: SoftmaxCrossEntropy(NAN), r"label_smoothing must be in \[0, 1\); got nan"),
        (lambda: SoftmaxCrossEntropy("0"), r"label_smoothing must be in \[0, 1\); got '0'"),
        (lambda: SGD(momentum=1), r"SGD: momentum must be in \[0, 1\); got 1"),
        (lambda: SGD(momentum="x"), r"SGD: momentum must be in \[0, 1\); got 'x'"),
        (lambda: SGD(nesterov=None), "SGD: nesterov must be True or False; got None"),
        (lambda: SGD(weight_decay=-1e-9), "SGD: weight_decay must be a finite number >= 0; got -1e-09"),
        (lambda: SGD(weight_decay=INF), "SGD: weight_decay must be a finite number >= 0; got inf"),
        (lambda: Adam(beta_1=1.0), r"Adam: beta_1 must be in \[0, 1\); got 1.0"),
        (lambda: Adam(beta_2=-0.5), r"Adam: beta_2 must be in \[0, 1\); got -0.5"),
        (lambda: Adam(epsilon=0), "Adam: epsilon must be a finite number > 0; got 0"),
        (lambda: Adam(epsilon=None), "Adam: epsilon must be a finite number > 0; got None"),
        (lambda: AdamW(beta_1=NAN), r"AdamW: beta_1 must be in \[0, 1\); got nan"),
        (lambda: AdamW(weight_decay=NAN), "AdamW: weight_decay must be a finite number >= 0; got nan"),
        (lambda: Spec(0, (Dense(2),)), "Spec: n_features must be an integer >= 1; got 0"),
        (lambda: Spec(True, (Dense(2),)), "Spec: n_features must be an integer >= 1; got True"),
        (lambda: Spec(3, (Dense(2),), l2=-1.0), "Spec: l2 must be a finite number >= 0; got -1.0"),
        (lambda: Spec(3, (Dense(2),), l2=None), "Spec: l2 must be a finite number >= 0; got None"),
        (lambda: Spec(3, Dense(2)), r"Spec: layers must be a tuple of layers; got Dense\("),
        (
            lambda: Spec(3, ("relu", Dense(2))),
            "Spec: each of layers must be a layer of fastmnist.network.layers; got 'relu'",
        ),
        (lambda: Spec(3, (Dense(2),), loss="softmax"), "Spec: loss must be a SoftmaxCrossEntropy or .*; got 'softmax'"),
        (lambda: Spec(3, (Dense(2),), optimizer="adam"), "Spec: optimizer must be an SGD, Adam or AdamW; got 'adam'"),
        (lambda: Spec(3, ()), "last layer must be a Dense with activation='identity'.*got None"),
        (lambda: Spec(3, (Dense(2, "relu"),)), r"last layer must be a Dense .*got Dense\(units=2, activation='relu'"),
        (lambda: Spec(3, (Dense(2), Dropout(0.5))), r"last layer must be a Dense .*got Dropout\(rate=0.5\)"),
        (lambda: Spec(3, (Dense(2), Activation("tanh"))), "last layer must be a Dense .*got Activation"),
    ],
)
def test_errors_teach(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _spec(**changes) -> Spec:
    layers = (Dense(128, "relu"), Dropout(0.2), Dense(64), Activation("gelu"), Dense(10))
    return Spec(**{"n_features": 784, "layers": layers, "optimizer": Adam(), "l2": 1e-4, **changes})


def test_equal_descriptions_are_one_key():
    assert _spec() == _spec()
    assert hash(_spec()) == hash(_spec())
    assert {_spec(): 1}[_spec()] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"n_features": 783},
        {"layers": (Dense(10),)},
        {"layers": (Dense(128, "relu"), Dropout(0.3), Dense(64), Activation("gelu"), Dense(10))},
        {"layers": (Dense(128, "relu"), Dropout(0.2), Dense(64, use_bias=False), Activation("gelu"), Dense(10))},
        {"loss": SoftmaxCrossEntropy(0.1)},
        {"loss": BinaryCrossEntropy()},
        {"optimizer": AdamW()},
        {"optimizer": Adam(beta_2=0.99)},
        {"optimizer": SGD()},
        {"l2": 0.0},
    ],
)
def test_different_descriptions_differ(changes):
    assert _spec(**changes) != _spec()


def test_frozen():
    for description in (_spec(), Dense(3), Dropout(0.1), SoftmaxCrossEntropy(), SGD(), Adam()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(description, dataclasses.fields(description)[0].name, 1)


def test_a_list_of_layers_becomes_a_tuple():
    spec = Spec(3, [Dense(4, "relu"), Dense(2)])
    assert spec == Spec(3, (Dense(4, "relu"), Dense(2)))
    hash(spec)


def test_numpy_s_numbers_become_plain_ones():
    spec = Spec(np.int64(3), (Dense(np.int32(4)), Dropout(np.float64(0.5)), Dense(2)))
    assert json.loads(json.dumps(dataclasses.asdict(spec)))["layers"][0]["units"] == 4
    assert spec == Spec(3, (Dense(4), Dropout(0.5), Dense(2)))


def test_shapes_and_costs():
    spec = _spec()
    assert spec.n_outputs == 10
    assert spec.dense_layers == (Dense(128, "relu"), Dense(64), Dense(10))
    assert spec.parameter_shapes == ((784, 128), (128,), (128, 64), (64,), (64, 10), (10,))
    # Per weight 2 forward, 2 for its gradient, 2 for the input's; the first layer's input needs none.
    assert spec.flops_per_sample == 4 * 784 * 128 + 6 * 128 * 64 + 6 * 64 * 10


def test_defaults():
    spec = Spec(4, (Dense(3),))
    assert spec.loss == SoftmaxCrossEntropy(0.0)
    assert spec.optimizer == SGD(momentum=0.0, nesterov=False, weight_decay=0.0)
    assert spec.l2 == 0
    assert Dense(3).activation == "identity"
    assert AdamW().weight_decay == 0.01


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_accepted_both_ways(name):
    assert Dense(3, name).activation == Activation(name).name == name


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        (Dense(128, "relu"), "Dense(128, relu)"),
        (Activation("gelu"), "Activation(gelu)"),
        (Dropout(0.2), "Dropout(0.2)"),
    ],
)
def test_describe(layer, line):
    assert describe(layer) == line
