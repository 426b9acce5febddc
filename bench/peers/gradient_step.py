"""Job: one-vs-rest logistic regression on MNIST's 60,000 images by full-batch gradient descent from zero weights, without a penalty.

Timed: `seconds`, the marginal step, (k + 1 steps - 1 step) / k: all logits, sigmoids, the gradient of the ten classes, the update. The peers'
float32 images and one-hot labels are prepared outside of the clock; ours is the difference of two whole fits, which cancels the preparation
and one evaluation. fastmnist's step computes the loss as well.

Compared: the float64 objective, which is the mean over the images of the ten classes' summed cross-entropies, after k + 1 steps, and the test
accuracy.
Warm-up: some steps.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
from objectives import one_vs_rest
from runner import Runner, as_float, blas_threads, mnist, xla_threads


class _Descent(Runner):
    """`descend(steps)` returns seconds, weights (784, 10) and biases (10,)."""

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        self.rate, self.steps, self.chosen = parameters["learning_rate"], parameters["steps"], settings
        self.X, self.y, self.X_test, self.y_test = mnist()
        self.version = self.load()
        self.descend(3)

    def load(self) -> str:
        """Import the library and prepare the data; returns the version."""
        raise NotImplementedError

    def descend(self, steps: int) -> tuple[float, np.ndarray, np.ndarray]:
        """That many steps from zero."""
        raise NotImplementedError

    def sample(self, seed: int) -> dict[str, Any]:
        """The difference of a long and a short descent."""
        once = self.descend(1)[0]
        seconds, weights, biases = self.descend(self.steps + 1)
        logits = as_float(self.X_test) @ weights + biases
        return {
            "seconds": (seconds - once) / self.steps,
            "loss": one_vs_rest(weights, biases, self.X, self.y),
            "accuracy": float((logits.argmax(1) == self.y_test).mean()),
        }

    def trial(self) -> float:
        """Ten steps."""
        return min(self.descend(10)[0] for _ in range(2))


class FastMNIST(_Descent):
    """This library's `OneVsRestLogisticRegression(solver="gd")` on the uint8 images."""

    def load(self) -> str:
        """Its version."""
        import fastmnist

        return f"fastmnist {fastmnist.__version__}"

    def descend(self, steps: int) -> tuple[float, np.ndarray, np.ndarray]:
        """A whole fit."""
        from fastmnist import OneVsRestLogisticRegression

        model = OneVsRestLogisticRegression(
            C=np.inf, solver="gd", learning_rate_init=self.rate, max_iter=steps, tol=0.0, backend="numba"
        )
        start = time.perf_counter()
        model.fit(self.X, self.y)
        return time.perf_counter() - start, model.coef_.T, model.intercept_


class NumPy(_Descent):
    """NumPy with its BLAS on one or two threads, images as rows or as columns, every array allocated once."""

    CHOICES: ClassVar = {"threads": [1, 2], "images": ["rows", "columns"]}
    environment = staticmethod(blas_threads)

    def load(self) -> str:
        """Arrays, and the version."""
        X = as_float(self.X)
        Y = np.eye(10, dtype=np.float32)[self.y]
        self.columns = self.chosen["images"] == "columns"
        self.data, self.targets = (np.ascontiguousarray(X.T), np.ascontiguousarray(Y.T)) if self.columns else (X, Y)
        return f"NumPy {np.__version__}"

    def descend(self, steps: int) -> tuple[float, np.ndarray, np.ndarray]:
        """A loop."""
        X, Y, n = self.data, self.targets, np.float32(self.rate / len(self.X))
        if self.columns:
            W, b, D = np.zeros((10, 784), np.float32), np.zeros((10, 1), np.float32), np.empty_like(Y)
        else:
            W, b, D = np.zeros((784, 10), np.float32), np.zeros((1, 10), np.float32), np.empty_like(Y)
        start = time.perf_counter()
        for _ in range(steps):
            np.matmul(W, X, out=D) if self.columns else np.matmul(X, W, out=D)
            D += b
            np.negative(D, out=D)
            np.exp(D, out=D)
            D += 1
            np.reciprocal(D, out=D)
            D -= Y
            W -= n * (D @ X.T if self.columns else X.T @ D)
            b -= n * D.sum(axis=int(self.columns), keepdims=True)
        seconds = time.perf_counter() - start
        return seconds, W.T if self.columns else W, b.ravel()


class Torch(_Descent):
    """PyTorch eager without autograd, on one or two threads, images as rows or as columns, in place."""

    CHOICES: ClassVar = {"threads": [1, 2], "images": ["rows", "columns"]}
    environment = staticmethod(blas_threads)

    def load(self) -> str:
        """Tensors, and the version."""
        import torch

        torch.set_num_threads(self.chosen["threads"])
        self.torch = torch
        self.columns = self.chosen["images"] == "columns"
        X = torch.from_numpy(as_float(self.X))
        Y = torch.eye(10)[torch.from_numpy(self.y)]
        self.data, self.targets = (X.T.contiguous(), Y.T.contiguous()) if self.columns else (X, Y)
        self.step = self.make_step()
        return f"torch {torch.__version__}"

    def make_step(self) -> Any:
        """One step in place on W and b."""
        torch, n = self.torch, self.rate / len(self.X)
        if self.columns:

            def step(X: Any, Y: Any, W: Any, b: Any) -> None:
                D = torch.addmm(b, W, X).sigmoid_().sub_(Y)
                W.addmm_(D, X.T, alpha=-n)
                b.sub_(D.sum(1, keepdim=True), alpha=n)
        else:

            def step(X: Any, Y: Any, W: Any, b: Any) -> None:
                D = torch.addmm(b, X, W).sigmoid_().sub_(Y)
                W.addmm_(X.T, D, alpha=-n)
                b.sub_(D.sum(0, keepdim=True), alpha=n)

        return step

    def descend(self, steps: int) -> tuple[float, np.ndarray, np.ndarray]:
        """A loop."""
        shape = (10, 784) if self.columns else (784, 10)
        W, b = self.torch.zeros(shape), self.torch.zeros((10, 1) if self.columns else (1, 10))
        with self.torch.no_grad():
            start = time.perf_counter()
            for _ in range(steps):
                self.step(self.data, self.targets, W, b)
            seconds = time.perf_counter() - start
        return seconds, W.numpy().T if self.columns else W.numpy(), b.numpy().ravel()


class TorchCompile(Torch):
    """The same step through `torch.compile`; images as columns, which is twice as fast."""

    CHOICES: ClassVar = {"threads": [1, 2], "images": ["columns"]}

    def make_step(self) -> Any:
        """Compiled when first called."""
        return self.torch.compile(super().make_step(), dynamic=False)


class JAX(_Descent):
    """JAX: all steps in one jitted `fori_loop`, one thread or all."""

    CHOICES: ClassVar = {"threads": [1, 2]}
    environment = staticmethod(xla_threads)

    def load(self) -> str:
        """Arrays, and the version."""
        import jax

        jnp, n = jax.numpy, self.rate / len(self.X)
        self.jnp = jnp
        self.data = jnp.asarray(as_float(self.X)), jnp.eye(10, dtype=np.float32)[self.y]

        @jax.jit
        def loop(X: Any, Y: Any, steps: Any) -> Any:
            def step(_: Any, state: Any) -> Any:
                W, b = state
                D = jax.nn.sigmoid(X @ W + b) - Y
                return W - n * (X.T @ D), b - n * D.sum(0)

            return jax.lax.fori_loop(0, steps, step, (jnp.zeros((784, 10)), jnp.zeros(10)))

        self.loop = loop
        return f"jax {jax.__version__}"

    def descend(self, steps: int) -> tuple[float, np.ndarray, np.ndarray]:
        """One call."""
        start = time.perf_counter()
        W, b = self.loop(*self.data, steps)
        W.block_until_ready()
        return time.perf_counter() - start, np.asarray(W), np.asarray(b)
