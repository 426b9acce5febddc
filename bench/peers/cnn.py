"""Job: train a convolutional network on MNIST images, each epoch a pass over the first `rows` training images in a new random order.

Timed, from uint8 images and labels in memory to the trained model:

`fit_seconds`
    The whole fit: conversion to float32 where the library wants it, initial weights, shuffling, training, and each epoch's mean training loss.
    Not timed: imports, compiling, the first calls.
`seconds`
    The marginal epoch of `rows` images, (fit of k epochs - fit of one) / (k - 1). PyTorch's loop is watched: both are read off one fit.

Both have the same network, initial weights, Adam with step size 0.001, batch size, number of updates, and float32. Compared: the training
loss, mean over the epochs and the seeds, and the test accuracy after them, mean over the seeds.

The note of each record says how many GFLOP/s a core that is, counted as if every product were computed: forward, filter gradients, input gradients.

Warm-up: a fit of one epoch on 2,000 images, so that everything has been compiled for both shapes of batch.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any, ClassVar

import numpy as np
from runner import EagerStep, Runner, blas_threads, mnist

LEARNING_RATE, WARM_UP_ROWS, TEST_BATCH = 1e-3, 2000, 1000
IMAGE = (28, 28, 1)


def layers_of(network: list[list[Any]]) -> list[Any]:
    """The layers before the output layer, as fastmnist has them, from ["conv", filters, kernel, padding], ["pool"], ["flatten"], ["dense", units]."""
    from fastmnist.network.layers import Conv2D, Dense, Flatten, MaxPool2D

    make = {
        "conv": lambda filters, kernel, padding: Conv2D(filters, kernel, padding=padding, activation="relu"),
        "pool": MaxPool2D,
        "flatten": Flatten,
        "dense": lambda units: Dense(units, "relu"),
    }
    return [make[kind](*arguments) for kind, *arguments in network]


def spec_of(network: list[list[Any]]) -> Any:
    """The network with its output layer."""
    from fastmnist.network.layers import Dense
    from fastmnist.network.spec import Spec

    return Spec(math.prod(IMAGE), (*layers_of(network), Dense(10)), image_shape=IMAGE)


class _Training(Runner):
    """`fit(X, y, epochs, seed)` returns seconds and losses of a fit; the rest is here."""

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        self.job, self.chosen = parameters, settings
        self.spec = spec_of(parameters["network"])
        X, y, self.X_test, self.y_test = mnist()
        self.X, self.y = X[: parameters["rows"]], y[: parameters["rows"]]
        self.version = self.load()
        self.fit(self.X[:WARM_UP_ROWS], self.y[:WARM_UP_ROWS], 1, seed=0)

    def load(self) -> str:
        """Import the library; returns its version."""
        raise NotImplementedError

    def fit(self, X: np.ndarray, y: np.ndarray, epochs: int, seed: int) -> tuple[float, float, list[float]]:
        """Seconds of a fit, seconds of its part up to the end of the first epoch, and the training loss of each epoch."""
        raise NotImplementedError

    def accuracy(self) -> float:
        """Of the last fit, on the test images."""
        raise NotImplementedError

    def sample(self, seed: int) -> dict[str, Any]:
        """A fit from another seed."""
        epochs, rows = self.job["epochs"], len(self.X)
        seconds, first, losses = self.fit(self.X, self.y, epochs, seed)
        marginal = (seconds - first) / (epochs - 1)
        rate = self.spec.flops_per_sample * rows / marginal / len(os.sched_getaffinity(0)) / 1e9
        return {
            "seconds": marginal,
            "fit_seconds": seconds,
            "loss": float(np.mean(losses)),
            "accuracy": float(self.accuracy()),
            "note": f"{epochs} epochs of {rows} images, {rate:.1f} GFLOP/s a core",
        }

    def trial(self) -> float:
        """An epoch on some images, after the warm-up."""
        seconds, first, _ = self.fit(self.X[: 2 * WARM_UP_ROWS], self.y[: 2 * WARM_UP_ROWS], 2, seed=0)
        return seconds - first


class FastMNIST(_Training):
    """This library through its public estimator, on the uint8 images, with its default number of threads."""

    def load(self) -> str:
        """Its version."""
        import fastmnist

        return f"fastmnist {fastmnist.__version__}"

    def fit(self, X: np.ndarray, y: np.ndarray, epochs: int, seed: int) -> tuple[float, float, list[float]]:
        """Two fits if there is more than one epoch."""
        from fastmnist import CNNClassifier

        first = self.fit(X, y, 1, seed)[0] if epochs > 1 else 0.0
        model = CNNClassifier(
            layers_of(self.job["network"]),
            learning_rate_init=LEARNING_RATE,
            batch_size=self.job["batch_size"],
            max_iter=epochs,
            n_iter_no_change=epochs + 1,
            tol=0.0,
            beta_2=0.999,  # as in PyTorch, and below: no schedule, no smoothing
            schedule=None,
            label_smoothing=0.0,
            backend="numba",
            random_state=seed,
        )
        start = time.perf_counter()
        self.model = model.fit(X, y)
        return time.perf_counter() - start, first, model.loss_curve_

    def accuracy(self) -> float:
        """Through `score`."""
        return self.model.score(self.X_test, self.y_test)


class Torch(EagerStep, _Training):
    """PyTorch eager: tensors in memory and no DataLoader, fused Adam; images channels first or channels last, one or two threads."""

    CHOICES: ClassVar = {"threads": [1, 2], "layout": ["nchw", "channels_last"]}
    environment = staticmethod(blas_threads)

    def load(self) -> str:
        """Its version."""
        import torch

        torch.set_num_threads(self.chosen["threads"])
        self.torch = torch
        channels_last = self.chosen["layout"] == "channels_last"
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        return f"torch {torch.__version__}"

    def fit(self, X: np.ndarray, y: np.ndarray, epochs: int, seed: int) -> tuple[float, float, list[float]]:
        """A plain training loop; losses are read once an epoch."""
        torch = self.torch
        torch.manual_seed(seed)
        start = time.perf_counter()
        images = self.images(X)
        labels = torch.from_numpy(y)
        self.begin(seed)
        ends, losses = [], []
        for _ in range(epochs):
            batches = self.order(len(X)).split(self.job["batch_size"])
            each = [self.step(self.pixels(images[rows]), labels[rows]) * len(rows) for rows in batches]
            losses.append(float(torch.stack(each).sum() / len(X)))
            ends.append(time.perf_counter() - start)
        return ends[-1], ends[0], losses

    def images(self, X: np.ndarray) -> Any:
        """All images as the batches are taken from them."""
        return self.torch.from_numpy(X).float().mul_(1 / 255).reshape(-1, 1, 28, 28)

    def order(self, n: int) -> Any:
        """A new random order of n rows."""
        return self.torch.randperm(n)

    def pixels(self, batch: Any) -> Any:
        """A batch as the network takes it."""
        return batch.contiguous(memory_format=self.layout)

    def begin(self, seed: int) -> None:
        """A new model and its optimizer."""
        from fastmnist.network.initializers import initial_parameters

        self.rng = np.random.RandomState(seed)
        parameters = initial_parameters(self.spec, self.rng, np.float32)  # as CNNClassifier
        self.model = torch_model(self.torch, self.spec, parameters).to(memory_format=self.layout)
        self.optimizer = self.torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE, fused=True)
        self.criterion = self.torch.nn.CrossEntropyLoss()

    def accuracy(self) -> float:
        """In blocks of a thousand images."""
        torch = self.torch
        with torch.inference_mode():
            parts = self.images(self.X_test).split(TEST_BATCH)
            labels = torch.cat([self.model(self.pixels(part)).argmax(1) for part in parts])
        return float((labels.numpy() == self.y_test).mean())


def torch_model(torch: Any, spec: Any, parameters: list[np.ndarray]) -> Any:
    """The network in PyTorch with these parameters, which are in fastmnist's order."""
    layers: list[Any] = []
    values = iter(parameters)
    for layer, before in zip(spec.layers, spec.shapes, strict=False):
        kind = type(layer).__name__
        if kind == "MaxPool2D":
            layers.append(torch.nn.MaxPool2d(layer.window, layer.stride or layer.window))
        elif kind == "Flatten":
            layers.append(torch.nn.Flatten())
            image = before
        else:
            weight, bias = next(values), next(values)
            if kind == "Conv2D":
                made = torch.nn.Conv2d(before[2], layer.filters, layer.window, padding=layer.padding)
                weight = weight.reshape(*layer.window, before[2], layer.filters).transpose(3, 2, 0, 1)
            else:
                made = torch.nn.Linear(*weight.shape)
                if isinstance(layers[-1], torch.nn.Flatten):  # fastmnist flattens height, width, channels
                    weight = weight.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
                weight = weight.T
            with torch.no_grad():
                made.weight.copy_(torch.from_numpy(weight.copy()))
                made.bias.copy_(torch.from_numpy(bias))
            layers.append(made)
            if layer.activation == "relu":
                layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers)
