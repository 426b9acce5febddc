"""Job: train a multilayer perceptron on MNIST's 60,000 images, each epoch a pass in a new random order.

Ten epochs, four against the slower peers.

Timed, from uint8 images and labels in memory to the trained model:

`fit_seconds`
    The whole fit: conversion to float32 (or compression), initial weights, shuffling, training, and each epoch's mean training
    loss, which every provider is asked for. Not timed: imports, compiling, tracing, the first calls.
`seconds`
    The marginal epoch, (fit of k epochs - fit of one) / (k - 1). Where the loop can be watched (torch, JAX, Keras) both are read off one fit.

All have the same network, initial distribution, optimizer, batch size (the last batch of an epoch is shorter), number of updates, and
float32. Compared: the training loss, mean over the epochs and the seeds, and the test accuracy after them, mean over the seeds.

Warm-up of every runner: fits of one epoch, so that everything has been compiled for both shapes of batch.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
from runner import EagerStep, Runner, as_float, blas_threads, forward, initial_parameters, mnist, xla_threads

N_CLASSES, N_FEATURES = 10, 784


class _Training(Runner):
    """`fit(epochs, seed)` returns seconds and losses of a fit; the rest is here."""

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        self.job, self.chosen = parameters, settings
        self.sizes = (N_FEATURES, *parameters["hidden"], N_CLASSES)
        self.X, self.y, self.X_test, self.y_test = mnist()
        start = time.perf_counter()
        self.version = self.load()
        self.fit(1, seed=0)
        self.first_seconds = time.perf_counter() - start  # import, compile, fit: job "first-fit"

    def load(self) -> str:
        """Import the library, build what is compiled once; returns its version."""
        raise NotImplementedError

    def fit(self, epochs: int, seed: int) -> tuple[float, float, list[float]]:
        """Seconds of a fit, seconds of its part up to the end of the first epoch, and the training loss of each epoch."""
        raise NotImplementedError

    def accuracy(self) -> float:
        """Of the last fit, on the test images."""
        raise NotImplementedError

    def sample(self, seed: int) -> dict[str, Any]:
        """A fit from another seed."""
        epochs = self.job["epochs"]
        seconds, first, losses = self.fit(epochs, seed)
        marginal = (seconds - first) / (epochs - 1)
        return {
            "seconds": marginal,
            "fit_seconds": seconds,
            "loss": float(np.mean(losses)),
            "accuracy": float(self.accuracy()),
            "note": f"{epochs} epochs",
        }

    def trial(self) -> float:
        """An epoch after the warm-up."""
        seconds, first, _ = self.fit(2, seed=0)
        return seconds - first


class _Estimator(_Training):
    """With scikit-learn's API: a fit of one epoch and a fit of ten."""

    def make(self, epochs: int, seed: int) -> Any:
        """The estimator."""
        raise NotImplementedError

    def data(self) -> np.ndarray:
        """What it is fitted on, made within the clock."""
        raise NotImplementedError

    def fit(self, epochs: int, seed: int) -> tuple[float, float, list[float]]:
        """Two fits if there is more than one epoch."""
        first = self.fit(1, seed)[0] if epochs > 1 else 0.0
        start = time.perf_counter()
        self.model = self.make(epochs, seed).fit(self.data(), self.y)
        return time.perf_counter() - start, first, self.model.loss_curve_

    def common(self) -> dict[str, Any]:
        """Parameters that both libraries call the same."""
        job = self.job
        return {
            "hidden_layer_sizes": job["hidden"],
            "solver": job["solver"],
            "batch_size": job["batch_size"],
            "learning_rate_init": job["learning_rate"],
            "alpha": 0.0,
            "momentum": 0.0,
            "nesterovs_momentum": False,
            "tol": 0.0,
        }


class FastMNIST(_Estimator):
    """This library through its public estimator, on the uint8 images, with its default number of threads."""

    def load(self) -> str:
        """Its version."""
        import fastmnist

        return f"fastmnist {fastmnist.__version__}"

    def make(self, epochs: int, seed: int) -> Any:
        """The estimator on compiled kernels."""
        from fastmnist import MLPClassifier

        return MLPClassifier(
            **self.common(), max_iter=epochs, n_iter_no_change=epochs + 1, backend="numba", random_state=seed
        )

    def data(self) -> np.ndarray:
        """uint8."""
        return self.X

    def accuracy(self) -> float:
        """Through `score`."""
        return self.model.score(self.X_test, self.y_test)


class ScikitLearn(_Estimator):
    """scikit-learn's MLPClassifier on float32 pixels; BLAS on one or two threads."""

    CHOICES: ClassVar = {"threads": [1, 2]}
    environment = staticmethod(blas_threads)

    def load(self) -> str:
        """Its version and NumPy's, whose BLAS it uses."""
        import sklearn

        return f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}"

    def make(self, epochs: int, seed: int) -> Any:
        """The estimator."""
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier(**self.common(), max_iter=epochs, n_iter_no_change=epochs + 1, random_state=seed)

    def data(self) -> np.ndarray:
        """float32 pixels."""
        return as_float(self.X)

    def accuracy(self) -> float:
        """Through `score`."""
        return self.model.score(as_float(self.X_test), self.y_test)

    def trial(self) -> float:
        """An epoch with what is around it: enough to choose a number of threads."""
        return self.fit(1, seed=0)[0]


class Torch(EagerStep, _Training):
    """PyTorch eager: tensors in memory and no DataLoader, fused optimizers (0.65 s instead of 0.92 s an epoch); one or two threads.

    One gather of the whole epoch instead of one a batch was tried and was slower on two threads.
    """

    CHOICES: ClassVar = {"threads": [1, 2]}
    environment = staticmethod(blas_threads)

    def load(self) -> str:
        """Its version."""
        import torch

        torch.set_num_threads(self.chosen["threads"])
        self.torch = torch
        return f"torch {torch.__version__}"

    def begin(self, seed: int) -> None:
        """A new model and its optimizer."""
        torch, job = self.torch, self.job
        layers: list[Any] = []
        values = iter(initial_parameters(self.sizes, seed))
        for inputs, units in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            layer = torch.nn.Linear(inputs, units)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(next(values).T))
                layer.bias.copy_(torch.from_numpy(next(values)))
            layers += [layer, torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*layers[:-1])
        kind = torch.optim.Adam if job["solver"] == "adam" else torch.optim.SGD
        self.optimizer = kind(self.model.parameters(), lr=job["learning_rate"], fused=True)
        self.criterion = torch.nn.CrossEntropyLoss()

    def batches(self, X: Any, y: Any) -> Any:
        """The epoch's batches."""
        return ((X[rows], y[rows]) for rows in self.torch.randperm(len(X)).split(self.job["batch_size"]))

    def fit(self, epochs: int, seed: int) -> tuple[float, float, list[float]]:
        """A plain training loop; losses are read once an epoch."""
        torch = self.torch
        torch.manual_seed(seed)
        start = time.perf_counter()
        X = torch.from_numpy(self.X).float().mul_(1 / 255)
        y = torch.from_numpy(self.y)
        n = len(X)
        sizes = torch.full((-(-n // self.job["batch_size"]),), float(self.job["batch_size"]))
        sizes[-1] = n - sizes[:-1].sum()
        self.begin(seed)
        ends, losses = [], []
        for _ in range(epochs):
            each = [self.step(x, t) for x, t in self.batches(X, y)]
            losses.append(float((torch.stack(each) * sizes).sum() / n))
            ends.append(time.perf_counter() - start)
        return ends[-1], ends[0], losses

    def weights(self) -> list[np.ndarray]:
        """`[W0, b0, ...]` as the other libraries have them."""
        return [p.detach().numpy().T for p in self.model.parameters()]

    def accuracy(self) -> float:
        """In NumPy."""
        return (forward(self.weights(), as_float(self.X_test)).argmax(1) == self.y_test).mean()


class TorchCompile(Torch):
    """`torch.compile` of the whole step as one graph: forward, `torch.func.grad_and_value`, update in place.

    A compiled forward and backward pass with a fused optimizer was tried and was slower.
    """

    def load(self) -> str:
        """Compile the step; a C++ compiler is needed."""
        version = super().load()
        torch, job = self.torch, self.job
        rate, linear = job["learning_rate"], torch.nn.functional.linear

        def loss_of(parameters: list[Any], x: Any, t: Any) -> Any:
            h = x
            for i in range(0, len(parameters) - 2, 2):
                h = torch.relu(linear(h, parameters[i], parameters[i + 1]))
            return torch.nn.functional.cross_entropy(linear(h, parameters[-2], parameters[-1]), t)

        differentiate = torch.func.grad_and_value(loss_of)

        def step(parameters: list[Any], m: list[Any], v: list[Any], count: Any, x: Any, t: Any) -> Any:
            gradient, loss = differentiate(parameters, x, t)
            if job["solver"] == "adam":
                count += 1
                size = rate * torch.sqrt(1 - 0.999**count) / (1 - 0.9**count)
                for p, a, b, g in zip(parameters, m, v, gradient, strict=True):
                    a.mul_(0.9).add_(g, alpha=0.1)
                    b.mul_(0.999).addcmul_(g, g, value=0.001)
                    p.sub_(size * a / (b.sqrt() + 1e-8))
            else:
                for p, g in zip(parameters, gradient, strict=True):
                    p.sub_(g, alpha=rate)
            return loss

        self.compiled = torch.compile(step, dynamic=False)
        return version

    def begin(self, seed: int) -> None:
        """New parameters and their state."""
        torch = self.torch
        self.parameters = [torch.from_numpy(p.T.copy()) for p in initial_parameters(self.sizes, seed)]
        zeros = [[torch.zeros_like(p) for p in self.parameters] for _ in range(2)]
        self.state = (self.parameters, *zeros, torch.zeros(()))

    def step(self, x: Any, t: Any) -> Any:
        """One call of compiled code."""
        with self.torch.no_grad():
            return self.compiled(*self.state, x, t)

    def weights(self) -> list[np.ndarray]:
        """`[W0, b0, ...]`."""
        return [p.numpy().T for p in self.parameters]


class JAX(_Training):
    """JAX: one jitted `lax.scan` an epoch, the fastest form on a CPU; one thread or all.

    One gather of the whole epoch instead of one a batch was tried and was slower.
    """

    CHOICES: ClassVar = {"threads": [1, 2]}
    environment = staticmethod(xla_threads)

    def load(self) -> str:
        """Write the epoch as one function."""
        import jax

        self.jax = jax
        self.epoch = self._compile()
        return f"jax {jax.__version__}"

    def _compile(self) -> Any:
        jax, job = self.jax, self.job
        jnp, tree_map, size = jax.numpy, jax.tree_util.tree_map, job["batch_size"]

        def loss_of(parameters: Any, x: Any, t: Any) -> Any:
            h = x
            for w, b in parameters[:-1]:
                h = jax.nn.relu(h @ w + b)
            z = h @ parameters[-1][0] + parameters[-1][1]
            return (jax.nn.logsumexp(z, 1) - jnp.take_along_axis(z, t[:, None], 1)[:, 0]).mean()

        def update(state: Any, x: Any, t: Any) -> Any:
            parameters, m, v, count = state
            loss, gradient = jax.value_and_grad(loss_of)(parameters, x, t)
            if job["solver"] == "adam":
                count = count + 1
                m = tree_map(lambda a, g: 0.9 * a + 0.1 * g, m, gradient)
                v = tree_map(lambda a, g: 0.999 * a + 0.001 * g * g, v, gradient)
                rate = job["learning_rate"] * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
                parameters = tree_map(lambda p, a, b: p - rate * a / (jnp.sqrt(b) + 1e-8), parameters, m, v)
            else:
                parameters = tree_map(lambda p, g: p - job["learning_rate"] * g, parameters, gradient)
            return (parameters, m, v, count), loss

        @jax.jit
        def epoch(state: Any, X: Any, y: Any, order: Any) -> Any:
            n, full = len(order), len(order) // size * size
            batches, rest = order[:full].reshape(-1, size), order[full:]
            state, losses = jax.lax.scan(lambda s, rows: update(s, X[rows], y[rows]), state, batches)
            total = losses.sum() * size
            if full < n:
                state, loss = update(state, X[rest], y[rest])
                total += loss * (n - full)
            return state, total / n

        return epoch

    def fit(self, epochs: int, seed: int) -> tuple[float, float, list[float]]:
        """One compiled call an epoch."""
        jnp = self.jax.numpy
        rng = np.random.default_rng(seed)
        start = time.perf_counter()
        X, y = jnp.asarray(as_float(self.X)), jnp.asarray(self.y.astype(np.int32))
        arrays = [jnp.asarray(p) for p in initial_parameters(self.sizes, seed)]
        self.parameters = list(zip(arrays[::2], arrays[1::2], strict=True))
        zeros = self.jax.tree_util.tree_map(jnp.zeros_like, self.parameters)
        state = (self.parameters, zeros, zeros, jnp.float32(0))
        ends, losses = [], []
        for _ in range(epochs):
            state, loss = self.epoch(state, X, y, jnp.asarray(rng.permutation(len(X)).astype(np.int32)))
            losses.append(float(loss))
            ends.append(time.perf_counter() - start)
        self.parameters = state[0]
        return ends[-1], ends[0], losses

    def accuracy(self) -> float:
        """In NumPy."""
        weights = [np.asarray(p) for pair in self.parameters for p in pair]
        return (forward(weights, as_float(self.X_test)).argmax(1) == self.y_test).mean()


class Keras(_Training):
    """Keras 3 on TensorFlow: `fit` on NumPy arrays, all steps of an epoch in one execution; with XLA or without, one or two threads.

    `steps_per_execution=1`, the default, was tried and was slower. One model is kept, so that nothing is traced within the clock; its weights
    and its optimizer's state are reset before each fit, outside of the clock.
    """

    CHOICES: ClassVar = {"threads": [1, 2], "jit_compile": [False, True]}

    @staticmethod
    def environment(settings: dict[str, Any]) -> dict[str, str]:
        """Backend and no log."""
        return {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", **blas_threads(settings)}

    def load(self) -> str:
        """Build and compile the model."""
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(self.chosen["threads"])
        tf.config.threading.set_inter_op_parallelism_threads(self.chosen["threads"])
        import keras

        job = self.job
        layers = [keras.layers.Dense(units, activation="relu") for units in job["hidden"]]
        self.model = keras.Sequential(
            [keras.layers.Input((N_FEATURES,)), *layers, keras.layers.Dense(N_CLASSES, activation=None)]
        )
        if job["solver"] == "adam":
            optimizer = keras.optimizers.Adam(job["learning_rate"], epsilon=1e-8)
        else:
            optimizer = keras.optimizers.SGD(job["learning_rate"])
        self.model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=self.chosen["jit_compile"],
            steps_per_execution=-(-len(self.X) // job["batch_size"]),
        )
        self.keras = keras
        return f"keras {keras.__version__}, tensorflow {tf.__version__}"

    def fit(self, epochs: int, seed: int) -> tuple[float, float, list[float]]:
        """Keras's own loop, asked for the time at the end of each epoch."""
        keras = self.keras
        keras.utils.set_random_seed(seed)
        self.model.set_weights(initial_parameters(self.sizes, seed))
        rate = self.job["learning_rate"]
        for variable in self.model.optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        self.model.optimizer.learning_rate = rate
        ends: list[float] = []
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
        start = time.perf_counter()
        history = self.model.fit(
            as_float(self.X),
            self.y,
            batch_size=self.job["batch_size"],
            epochs=epochs,
            shuffle=True,
            verbose=0,
            callbacks=[callback],
        )
        return time.perf_counter() - start, ends[0] - start, history.history["loss"]

    def accuracy(self) -> float:
        """In NumPy."""
        return (forward(self.model.get_weights(), as_float(self.X_test)).argmax(1) == self.y_test).mean()
