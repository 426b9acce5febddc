"""Job: class labels of MNIST's test images by a trained convolutional network, one image a call, or a thousand.

Timed: `seconds`, one call, the median of as many as fit into a fifth of a second: from a NumPy array in memory to a NumPy array of labels.
Ours is the public `predict` on uint8 images, validation and scaling included. The peer's arrays are float32, already scaled, and nothing is
checked but what the library checks by itself.

Both have the same weights (trained by fastmnist for an epoch on 6,000 images). Compared, before anything is timed: the labels of the first 1,000
test images with those of a float64 forward pass of the oracle in NumPy; if more than one in a thousand differ, the process ends.

Warm-up: twenty calls.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from cnn import layers_of, spec_of, torch_model
from prediction import Prediction, PublicPredict
from runner import as_float, blas_threads, mnist

TRAINED_ON, TESTED = 6000, 1000


class _Prediction(Prediction):
    def train(self, parameters: dict[str, Any]) -> np.ndarray:
        """The model, its weights, and the labels it should give."""
        from fastmnist import CNNClassifier
        from fastmnist.backends.reference import ReferenceExecutor

        X, y, X_test, y_test = mnist()
        self.X_test, self.y_test = X_test[:TESTED], y_test[:TESTED]
        self.spec = spec_of(parameters["network"])
        self.trained = CNNClassifier(layers_of(parameters["network"]), max_iter=1, random_state=0)
        self.trained.fit(X[:TRAINED_ON], y[:TRAINED_ON])
        pairs = zip(self.trained.coefs_, self.trained.intercepts_, strict=True)
        self.weights = [a for w, b in pairs for a in (w.reshape(-1, w.shape[-1]), b)]
        oracle = ReferenceExecutor(self.spec, dtype=np.float64)
        blocks = [
            oracle.outputs(self.weights, self.X_test[i : i + 50], pixel_scale=1 / 255) for i in range(0, TESTED, 50)
        ]
        return np.concatenate(blocks).argmax(1)


class FastMNIST(PublicPredict, _Prediction):
    """This library's `predict` on uint8 images."""


class Torch(_Prediction):
    """PyTorch in `inference_mode`, eager or traced and frozen, channels first or last, one or two threads."""

    CHOICES: ClassVar = {"threads": [1, 2], "form": ["eager", "frozen"], "layout": ["nchw", "channels_last"]}
    environment = staticmethod(blas_threads)

    def prepare_images(self, X: np.ndarray) -> np.ndarray:
        """Scaled images; with one channel both layouts are the same bytes."""
        return as_float(X).reshape(-1, 1, 28, 28)

    def load(self) -> str:
        """The model, and the version."""
        import torch

        torch.set_num_threads(self.chosen["threads"])
        channels_last = self.chosen["layout"] == "channels_last"
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model = torch_model(torch, self.spec, self.weights).to(memory_format=layout).eval()
        if self.chosen["form"] == "frozen":
            example = torch.from_numpy(self.images[: self.rows]).contiguous(memory_format=layout)
            model = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, example)))

        @torch.inference_mode()
        def call(x: np.ndarray) -> np.ndarray:
            return model(torch.from_numpy(x).contiguous(memory_format=layout)).argmax(1).numpy()

        self.call = call
        return f"torch {torch.__version__}"
