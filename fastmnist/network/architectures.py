"""Convolutional networks by name: the layers before the output layer, and how each is trained well on MNIST."""

from __future__ import annotations

from typing import Any

from fastmnist.network.augmentation import Augment
from fastmnist.network.layers import (
    Activation,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool2D,
)


def _stage(filters: int, kernel: int) -> tuple[Layer, ...]:
    """Pooled before it is normalised: a quarter of the values is left to do."""
    return Conv2D(filters, kernel, padding="same", use_bias=False), MaxPool2D(), BatchNorm(), Activation("relu")


# lenet5: after LeCun et al. 1998, as it is written today: every map reads all maps before it, rectified, largest values pooled.
# simple: Chollet's "Simple MNIST convnet" of Keras' examples, without its dropout: changed images do more.
# fast: Tuomas Oikarinen's train_mnist_fast: 24 filters of 5 x 5, 32 of 3 x 3, 256 units.
# accurate: three stages of a normalised convolution and pooling.
ARCHITECTURES: dict[str, tuple[Layer, ...]] = {
    "lenet5": (
        Conv2D(6, 5, padding="same", activation="relu"),
        MaxPool2D(),
        Conv2D(16, 5, activation="relu"),
        MaxPool2D(),
        Flatten(),
        Dense(120, "relu"),
        Dense(84, "relu"),
    ),
    "simple": (
        Conv2D(32, 3, activation="relu"),
        MaxPool2D(),
        Conv2D(64, 3, activation="relu"),
        MaxPool2D(),
        Flatten(),
    ),
    "fast": (
        Conv2D(24, 5, activation="relu"),
        MaxPool2D(),
        Conv2D(32, 3, activation="relu"),
        MaxPool2D(),
        Flatten(),
        Dense(256, "relu"),
    ),
    "accurate": (
        *_stage(32, 5),
        *_stage(64, 3),
        *_stage(128, 3),
        Flatten(),
        Dropout(0.3),
        Dense(128, "relu"),
    ),
}

_AUGMENT = Augment(translate=1, rotate=8, scale=0.08, shear=4)
# What `CNNClassifier` should be given for each; where nothing is said its defaults, which are for "fast", do. Chosen on the last 10,000 training
# images: bench/time_to_accuracy.md.
RECIPES: dict[str, dict[str, Any]] = {
    "lenet5": {"layers": "lenet5", "max_iter": 10},
    "simple": {"layers": "simple", "learning_rate_init": 0.004, "max_iter": 20, "augment": _AUGMENT},
    "fast": {"layers": "fast"},
    "accurate": {
        "layers": "accurate",
        "batch_size": 128,
        "learning_rate_init": 0.01,
        "max_iter": 20,
        "augment": _AUGMENT,
        "test_time_augmentation": True,
    },
}
