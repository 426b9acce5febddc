"""A few steps of every kind of layer, loss, optimizer and precision on the GPU: what compute-sanitizer watches."""

from __future__ import annotations

import itertools

import numpy as np

from fastmnist import LogisticRegression, OneVsRestLogisticRegression
from fastmnist.backends.gpu import CupyExecutor
from fastmnist.backends.gpu_probe import probe
from fastmnist.network.layers import Activation, AvgPool2D, BatchNorm, Conv2D, Dense, Dropout, Flatten, MaxPool2D
from fastmnist.network.losses import BinaryCrossEntropy
from fastmnist.network.optimizers import SGD, Adam
from fastmnist.network.spec import Spec

SPECS = (
    Spec(50, (Dense(70, "relu"), Dropout(0.3), Dense(33, "gelu"), Dense(5)), optimizer=Adam()),
    Spec(
        50, (Dense(17, "tanh"), Dense(9, "elu"), Dense(5)), loss=BinaryCrossEntropy(), optimizer=SGD(0.9, nesterov=True)
    ),
    Spec(
        50,
        (
            Conv2D(7, 2, padding="same", activation="relu"),
            MaxPool2D(2, 1),
            BatchNorm(),
            Activation("relu"),
            Conv2D(8, (2, 1)),
            AvgPool2D(2),
            Flatten(),
            Dense(5),
        ),
        optimizer=Adam(),
        image_shape=(10, 5, 1),
    ),
)


def train(executor: CupyExecutor, X: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
    """Two epochs, then the full-batch gradient and a prediction."""
    spec = executor.spec
    executor.bind(X, y, pixel_scale=1 / 255)
    parameters = [rng.normal(size=shape).astype(np.float32) * 0.2 for shape in spec.parameter_shapes]
    executor.set_parameters(parameters)
    for seed in range(2):
        epoch = executor.run_epoch(rng.permutation(203), np.full(7, 0.01), 32, seed=seed)
        assert np.isfinite(epoch.losses).all()
    if not any(isinstance(layer, BatchNorm) for layer in spec.layers):
        executor.loss_and_gradient(parameters)
    executor.outputs(parameters, X, pixel_scale=1 / 255)


def main() -> None:
    """Train each in every precision, small dense networks both ways; and the logistic models by L-BFGS."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (203, 50)).astype(np.uint8), rng.integers(0, 5, 203).astype(np.int32)
    for spec, precision in itertools.product(SPECS, probe().precisions):
        executor = CupyExecutor(spec, precision=precision)
        train(executor, X, y, rng)
        if executor.one_launch_an_epoch:
            train(CupyExecutor(spec, persistent=False), X, y, rng)
    for model in (LogisticRegression, OneVsRestLogisticRegression):
        model(max_iter=3, backend="cupy").fit(X, y)
    print("trained")


if __name__ == "__main__":
    main()
