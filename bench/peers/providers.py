"""One class a provider. `epochs(k)` trains k epochs from scratch and returns what is compared; imports are inside, each runs in its own process."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jobs import MLPJob


@dataclass
class Result:
    """Outcome of a training.

    Attributes
    ----------
    epoch_seconds : float
        Marginal time of an epoch.
    fit_seconds : float
        The whole training from host arrays, preparation included, compilation and first calls excluded.
    loss : float
        Mean training loss of the last epoch.
    accuracy : float
        On the 10,000 test images.
    """

    epoch_seconds: float
    fit_seconds: float
    loss: float
    accuracy: float


def data() -> tuple[np.ndarray, ...]:
    """MNIST as every provider gets it: uint8 (n, 784) and int64 labels."""
    from fastmnist.datasets import load_mnist

    return *load_mnist("train", return_X_y=True), *load_mnist("test", return_X_y=True)


class FastMNIST:
    """This library, through its public estimator."""

    def __init__(self, job: MLPJob, threads: int) -> None:
        import fastmnist
        from fastmnist import MLPClassifier

        self.version = fastmnist.__version__
        self.data = data()
        self.make = lambda epochs, seed: MLPClassifier(
            job.hidden,
            solver=job.solver,
            batch_size=job.batch_size,
            learning_rate_init=job.learning_rate,
            alpha=0.0,
            momentum=0.0,
            max_iter=epochs,
            n_iter_no_change=epochs + 1,
            backend="numba",
            n_threads=threads,
            random_state=seed,
        )
        self.run(1)  # fill the compile cache

    def run(self, epochs: int, seed: int = 0) -> Result:
        """Fit of `epochs` and of twice as many; the difference is the marginal epoch, preparation cancels out."""
        X, y, X_test, y_test = self.data
        start = time.perf_counter()
        model = self.make(epochs, seed).fit(X, y)
        middle = time.perf_counter()
        self.make(2 * epochs, seed).fit(X, y)
        seconds = middle - start
        marginal = (time.perf_counter() - middle - seconds) / epochs
        return Result(marginal, seconds, model.history_["loss"][-1], model.score(X_test, y_test))


class ScikitLearn:
    """scikit-learn's MLPClassifier on float32 pixels."""

    def __init__(self, job: MLPJob, threads: int) -> None:
        import sklearn
        from sklearn.neural_network import MLPClassifier

        self.version = sklearn.__version__
        X, y, X_test, y_test = data()
        self.data = (X / 255).astype(np.float32), y, (X_test / 255).astype(np.float32), y_test
        self.make = lambda seed: MLPClassifier(
            job.hidden,
            solver=job.solver,
            batch_size=job.batch_size,
            learning_rate_init=job.learning_rate,
            alpha=0.0,
            momentum=0.0,
            random_state=np.random.RandomState(seed),  # an int would give every `partial_fit` the same order of samples
        )

    def run(self, epochs: int, seed: int = 0) -> Result:
        """`partial_fit` is one epoch; its validation of X is some hundredths of a second of it."""
        X, y, X_test, y_test = self.data
        model = self.make(seed)
        start = time.perf_counter()
        times = []
        for _ in range(epochs):
            before = time.perf_counter()
            model.partial_fit(X, y, classes=np.arange(10))
            times.append(time.perf_counter() - before)
        seconds = time.perf_counter() - start
        return Result(float(np.median(times)), seconds, model.loss_curve_[-1], model.score(X_test, y_test))


class Torch:
    """PyTorch eager, data resident as tensors, batches by slicing a permutation (no DataLoader: that is slower)."""

    def __init__(self, job: MLPJob, threads: int) -> None:
        import torch

        self.torch, self.job, self.version = torch, job, torch.__version__
        torch.set_num_threads(threads)
        X, y, X_test, y_test = data()
        self.arrays = X, y
        self.test = torch.from_numpy((X_test / 255).astype(np.float32)), torch.from_numpy(y_test)
        self.run(1)

    def run(self, epochs: int, seed: int = 0) -> Result:
        """A plain training loop; the last epoch's loss is read once, at its end."""
        torch, job = self.torch, self.job
        torch.manual_seed(seed)
        start = time.perf_counter()
        X = torch.from_numpy((self.arrays[0] / 255).astype(np.float32))
        y = torch.from_numpy(self.arrays[1])
        layers, inputs = [], 784
        for units in job.hidden:
            layers += [torch.nn.Linear(inputs, units), torch.nn.ReLU()]
            inputs = units
        model = torch.nn.Sequential(*layers, torch.nn.Linear(inputs, 10))
        for layer in model[::2]:  # the others' initial weights: the losses are compared
            torch.nn.init.xavier_uniform_(layer.weight)
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
            torch.nn.init.uniform_(layer.bias, -bound, bound)
        kind = torch.optim.Adam if job.solver == "adam" else torch.optim.SGD
        optimizer = kind(model.parameters(), lr=job.learning_rate)
        criterion = torch.nn.CrossEntropyLoss()
        times = []
        for _ in range(epochs):
            before, total = time.perf_counter(), 0.0
            order = torch.randperm(len(X))
            losses = []
            for i in range(0, len(X), job.batch_size):
                rows = order[i : i + job.batch_size]
                optimizer.zero_grad(set_to_none=True)
                loss = criterion(model(X[rows]), y[rows])
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            total = float(torch.stack(losses).mean())
            times.append(time.perf_counter() - before)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            accuracy = float((model(self.test[0]).argmax(1) == self.test[1]).float().mean())
        return Result(float(np.median(times)), seconds, total, accuracy)


class JAX:
    """JAX: one jitted `lax.scan` an epoch, the fastest form on a CPU."""

    def __init__(self, job: MLPJob, threads: int) -> None:
        import jax

        self.jax, self.job, self.version = jax, job, jax.__version__
        self.arrays = data()
        self.step_epoch = self._compile()
        self.run(1)

    def _compile(self) -> Any:
        jax, job = self.jax, self.job
        jnp, tree_map = jax.numpy, jax.tree_util.tree_map

        def loss_of(parameters: Any, x: Any, t: Any) -> Any:
            h = x
            for w, b in parameters[:-1]:
                h = jax.nn.relu(h @ w + b)
            z = h @ parameters[-1][0] + parameters[-1][1]
            return (jax.nn.logsumexp(z, 1) - jnp.take_along_axis(z, t[:, None], 1)[:, 0]).mean()

        def step(carry: Any, rows: Any) -> Any:
            parameters, m, v, t, X, y = carry
            loss, gradient = jax.value_and_grad(loss_of)(parameters, X[rows], y[rows])
            if job.solver == "adam":
                t = t + 1
                m = tree_map(lambda a, g: 0.9 * a + 0.1 * g, m, gradient)
                v = tree_map(lambda a, g: 0.999 * a + 0.001 * g * g, v, gradient)
                size = job.learning_rate * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
                parameters = tree_map(lambda p, a, b: p - size * a / (jnp.sqrt(b) + 1e-8), parameters, m, v)
            else:
                parameters = tree_map(lambda p, g: p - job.learning_rate * g, parameters, gradient)
            return (parameters, m, v, t, X, y), loss

        @jax.jit
        def epoch(parameters: Any, m: Any, v: Any, t: Any, X: Any, y: Any, order: Any) -> Any:
            (parameters, m, v, t, _, _), losses = jax.lax.scan(step, (parameters, m, v, t, X, y), order)
            return parameters, m, v, t, losses.mean()

        return epoch

    def run(self, epochs: int, seed: int = 0) -> Result:
        """One compiled call an epoch."""
        jnp, job = self.jax.numpy, self.job
        X, y, X_test, y_test = self.arrays
        rng = np.random.default_rng(seed)
        start = time.perf_counter()
        X, y = jnp.array((X / 255).astype(np.float32)), jnp.array(y.astype(np.int32))
        sizes = (784, *job.hidden, 10)
        parameters = []
        for a, b in pairwise(sizes):
            bound = np.sqrt(6 / (a + b))
            # scikit-learn's initial values, biases too: the losses of the first epochs depend on them.
            shapes = ((a, b), (b,))
            parameters.append(tuple(jnp.array(rng.uniform(-bound, bound, s).astype(np.float32)) for s in shapes))
        zeros = self.jax.tree_util.tree_map(jnp.zeros_like, parameters)
        m, v, t, steps, times = zeros, zeros, jnp.float32(0), len(X) // job.batch_size, []
        for _ in range(epochs):
            before = time.perf_counter()
            order = jnp.array(rng.permutation(len(X))[: steps * job.batch_size].reshape(steps, -1))
            parameters, m, v, t, loss = self.step_epoch(parameters, m, v, t, X, y, order)
            loss.block_until_ready()
            times.append(time.perf_counter() - before)
        seconds = time.perf_counter() - start
        h = (X_test / 255).astype(np.float32)
        for w, b in parameters[:-1]:
            h = np.maximum(h @ np.asarray(w) + np.asarray(b), 0)
        z = h @ np.asarray(parameters[-1][0]) + np.asarray(parameters[-1][1])
        return Result(float(np.median(times)), seconds, float(loss), float((z.argmax(1) == y_test).mean()))


PROVIDERS = {"fastmnist": FastMNIST, "scikit-learn": ScikitLearn, "torch": Torch, "jax": JAX}


def as_record(result: Result) -> dict[str, float]:
    """Plain numbers for a line of JSON."""
    return asdict(result)
