"""Dense networks, their data and a short training, for the tests of every executor. Imports no compiler: a machine with a GPU may have none."""

from __future__ import annotations

import numpy as np

from fastmnist.network.layers import Dense, Dropout
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy, SoftmaxTwiceCrossEntropy
from fastmnist.network.optimizers import SGD, Adam, AdamW
from fastmnist.network.spec import Spec

N, FEATURES, CLASSES = 203, 50, 5


def _data(kind="sparse uint8"):
    rng = np.random.default_rng(0)
    nonzero = rng.random((N, FEATURES)) < (0.2 if "sparse" in kind else 0.9)
    if "uint8" in kind:
        X = rng.integers(1, 256, (N, FEATURES)).astype(np.uint8) * nonzero.astype(np.uint8)
    else:
        X = (rng.normal(size=(N, FEATURES)) * nonzero).astype(np.float32)
    return X, rng.integers(0, CLASSES, N).astype(np.int32), rng.random(N).astype(np.float32)


def _spec(**changes):
    layers = changes.pop("layers", (Dense(140, "relu"), Dense(33, "relu"), Dense(CLASSES)))
    return Spec(FEATURES, layers, **{"optimizer": SGD(), **changes})


def _parameters(spec):
    rng = np.random.default_rng(2)
    return [rng.normal(size=shape) * 0.2 for shape in spec.parameter_shapes]


def _train(executor, spec, kind="sparse uint8", batch=32, epochs=3, weighted=False, rate=0.02):
    X, y, weight = _data(kind)
    scale = 1 / 255 if X.dtype == np.uint8 else 1.0
    executor.bind(X, y, weight if weighted else None, pixel_scale=scale)
    executor.set_parameters(_parameters(spec))
    result = []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(N)
        result.append(executor.run_epoch(order, np.full(-(-N // batch), rate), batch, seed=epoch))
    return executor.get_parameters(), result


CASES = {
    "sgd": _spec(),
    "momentum": _spec(optimizer=SGD(0.9)),
    "nesterov, l2": _spec(optimizer=SGD(0.9, nesterov=True), l2=0.01),
    "adam, coupled decay": _spec(optimizer=Adam(weight_decay=1e-3)),
    "adamw, smoothing": _spec(optimizer=AdamW(), loss=SoftmaxCrossEntropy(0.1)),
    "softmax twice": _spec(loss=SoftmaxTwiceCrossEntropy(), optimizer=Adam()),
    "one-vs-rest": _spec(loss=BinaryCrossEntropy(), optimizer=Adam()),
    "one layer": _spec(layers=(Dense(CLASSES),)),
    "no bias": _spec(layers=(Dense(CLASSES, use_bias=False),)),
    "activations": _spec(
        layers=(Dense(17, "tanh"), Dense(65, "elu"), Dense(9, "sigmoid"), Dense(40, "gelu"), Dense(CLASSES))
    ),
    "dropout": _spec(layers=(Dense(70, "leaky_relu"), Dropout(0.4), Dense(CLASSES))),
    "input dropout": _spec(layers=(Dropout(0.2), Dense(70, "tanh"), Dense(CLASSES))),
}
