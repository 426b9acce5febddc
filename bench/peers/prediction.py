"""Job: class labels of MNIST's test images by the trained network 784-128-64-10, one image a call, or all 10,000.

Timed: `seconds`, one call, the median of as many as fit into a fifth of a second: from a NumPy array in memory to a NumPy array of labels.
Ours is the public `predict` on uint8 images, validation and scaling included. The peers' arrays are float32, already scaled, and nothing is
checked but what the library checks by itself.

All have the same weights (trained by fastmnist for three epochs). Compared, before anything is timed: the labels of the 10,000 images (one by
one: of the first 1,000) with those of a float64 forward pass in NumPy; if more than one in a thousand differ, the process ends.

Warm-up: twenty calls.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from runner import Runner, as_float, blas_threads, forward, mnist, xla_threads

SAMPLE_SECONDS = 0.2
WARM_UP_CALLS = 20
EPOCHS = 3


class Prediction(Runner):
    """`train` returns the labels to expect, `load` returns the version and sets `call`: rows of images to labels."""

    call: Callable[[np.ndarray], np.ndarray]

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        self.chosen, self.rows = settings, parameters["rows"]
        self.expected = self.train(parameters)
        self.images = self.prepare_images(self.X_test)
        self.version = self.load()
        self.accuracy = self.verify()
        self.batch = np.ascontiguousarray(self.images[: self.rows])
        for _ in range(WARM_UP_CALLS):
            self.call(self.batch)

    def train(self, parameters: dict[str, Any]) -> np.ndarray:
        """Make `trained`, its `weights`, `X_test` and `y_test`; returns the labels to expect."""
        raise NotImplementedError

    def prepare_images(self, X: np.ndarray) -> np.ndarray:
        """What the library takes."""
        return as_float(X)

    def load(self) -> str:
        """Import the library and give it the weights."""
        raise NotImplementedError

    def verify(self) -> float:
        """Accuracy on the test images, if the labels are right."""
        n = len(self.images) if self.rows > 1 else 1000
        calls = range(0, n, self.rows)
        labels = np.concatenate([np.asarray(self.call(self.images[i : i + self.rows])).ravel() for i in calls])
        wrong = int((labels != self.expected[:n]).sum())
        if wrong > n // 1000:
            raise RuntimeError(f"{wrong} of {n} labels differ from the float64 forward pass")
        return float((labels == self.y_test[:n]).mean())

    def sample(self, seed: int) -> dict[str, Any]:
        """The median of many calls; weights and images do not depend on the seed."""
        times: list[float] = []
        while sum(times) < SAMPLE_SECONDS:
            start = time.perf_counter()
            self.call(self.batch)
            times.append(time.perf_counter() - start)
        return {"seconds": statistics.median(times), "accuracy": self.accuracy, "note": f"{len(times)} calls"}


class PublicPredict(Prediction):
    """This library's `predict` on uint8 images."""

    def prepare_images(self, X: np.ndarray) -> np.ndarray:
        """uint8."""
        return X

    def load(self) -> str:
        """Its version."""
        import fastmnist

        self.call = self.trained.predict
        return f"fastmnist {fastmnist.__version__}"


class _Mlp(Prediction):
    def train(self, parameters: dict[str, Any]) -> np.ndarray:
        """784-128-64-10, whose labels NumPy computes."""
        from fastmnist import MLPClassifier

        X, y, self.X_test, self.y_test = mnist()
        self.trained = MLPClassifier(parameters["hidden"], batch_size=32, max_iter=EPOCHS, random_state=0).fit(X, y)
        self.weights = [a for pair in zip(self.trained.coefs_, self.trained.intercepts_, strict=True) for a in pair]
        return forward(self.weights, self.X_test.astype(np.float64) / 255, np.float64).argmax(1)


class FastMNIST(PublicPredict, _Mlp):
    """This library's `predict` on uint8 images."""


class ScikitLearn(_Mlp):
    """scikit-learn's `predict` on float32 images; BLAS on one or two threads."""

    CHOICES: ClassVar = {"threads": [1, 2]}
    environment = staticmethod(blas_threads)

    def load(self) -> str:
        """A fit of one epoch on some images, then the weights."""
        import sklearn
        from sklearn.neural_network import MLPClassifier

        hidden = [b.shape[0] for b in self.weights[1:-2:2]]
        model = MLPClassifier(hidden, max_iter=1, random_state=0).fit(self.images[:1000], self.y_test[:1000])
        model.coefs_, model.intercepts_ = self.weights[::2], self.weights[1::2]
        self.call = model.predict
        return f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}"


class Torch(_Mlp):
    """PyTorch in `inference_mode`, eager or traced and frozen, one or two threads."""

    CHOICES: ClassVar = {"threads": [1, 2], "form": ["eager", "frozen"]}
    environment = staticmethod(blas_threads)

    def load(self) -> str:
        """The model, and the version."""
        import torch

        torch.set_num_threads(self.chosen["threads"])
        layers: list[Any] = []
        for weight, bias in zip(self.weights[::2], self.weights[1::2], strict=True):
            layer = torch.nn.Linear(*weight.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weight.T.copy()))
                layer.bias.copy_(torch.from_numpy(bias))
            layers += [layer, torch.nn.ReLU()]
        model = self.optimise(torch, torch.nn.Sequential(*layers[:-1]).eval())

        @torch.inference_mode()
        def call(x: np.ndarray) -> np.ndarray:
            return model(torch.from_numpy(x)).argmax(1).numpy()

        self.call = call
        return f"torch {torch.__version__}"

    def optimise(self, torch: Any, model: Any) -> Any:
        """The form that is called."""
        if self.chosen["form"] == "eager":
            return model
        example = torch.from_numpy(self.images[: self.rows])
        return torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, example)))


class TorchCompile(Torch):
    """PyTorch through `torch.compile` with frozen weights, in `inference_mode`."""

    CHOICES: ClassVar = {"threads": [1, 2]}

    def optimise(self, torch: Any, model: Any) -> Any:
        """Compiled when first called."""
        import torch._inductor.config

        torch._inductor.config.freezing = True
        return torch.compile(model, dynamic=False)


class JAX(_Mlp):
    """JAX, jitted, labels and all; one thread or all."""

    CHOICES: ClassVar = {"threads": [1, 2]}
    environment = staticmethod(xla_threads)

    def load(self) -> str:
        """The function, and the version."""
        import jax

        jnp = jax.numpy
        weights = [jnp.asarray(w) for w in self.weights]

        @jax.jit
        def labels(weights: Any, x: Any) -> Any:
            for i in range(0, len(weights) - 2, 2):
                x = jax.nn.relu(x @ weights[i] + weights[i + 1])
            return (x @ weights[-2] + weights[-1]).argmax(1)

        self.call = lambda x: np.asarray(labels(weights, x))
        return f"jax {jax.__version__}"


class Keras(_Mlp):
    """Keras 3 on TensorFlow: `predict_on_batch`, or the model and its argmax in a `tf.function` (without or with XLA); one or two threads."""

    CHOICES: ClassVar = {"threads": [1, 2], "form": ["predict_on_batch", "function", "xla"]}

    @staticmethod
    def environment(settings: dict[str, Any]) -> dict[str, str]:
        """Backend and no log."""
        return {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", **blas_threads(settings)}

    def load(self) -> str:
        """The model, and the version."""
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(self.chosen["threads"])
        tf.config.threading.set_inter_op_parallelism_threads(self.chosen["threads"])
        import keras

        units = [b.shape[0] for b in self.weights[1::2]]
        hidden = [keras.layers.Dense(n, activation="relu") for n in units[:-1]]
        model = keras.Sequential([keras.layers.Input((784,)), *hidden, keras.layers.Dense(units[-1])])
        model.set_weights(self.weights)
        if self.chosen["form"] == "predict_on_batch":
            model.compile()
            self.call = lambda x: model.predict_on_batch(x).argmax(1)
        else:
            labels = tf.function(
                lambda x: tf.argmax(model(x, training=False), 1),
                input_signature=[tf.TensorSpec((self.rows, 784), tf.float32)],
                jit_compile=self.chosen["form"] == "xla",
            )
            self.call = lambda x: labels(tf.constant(x)).numpy()
        return f"keras {keras.__version__}, tensorflow {tf.__version__}"
