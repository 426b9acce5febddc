"""The Spec: everything that decides what a training step computes, frozen and hashable, without arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fastmnist.network.layers import Conv2D, Dense, Layer
from fastmnist.network.losses import Loss, SoftmaxCrossEntropy
from fastmnist.network.optimizers import SGD, Optimizer
from fastmnist.network.rules import is_count, is_number, require
from fastmnist.network.shapes import Shape, infer_shapes, parameter_shapes


@dataclass(frozen=True)
class Spec:
    """A network, its loss and its optimizer.

    Parameters
    ----------
    n_features : int
        Width of a row of X.
    layers : tuple of Layer
        The last one is a `Dense` without activation: its units are the logits.
    loss : Loss
    optimizer : Optimizer
    l2 : float, default=0.0
        scikit-learn's `alpha`: adds `l2 * W / sum(sample_weight of the batch)` to the gradient of weights (biases are free).
    image_shape : tuple (height, width, channels), default=None
        What a row of X is when the first layer takes images: pixel by pixel, the channels of a pixel side by side.

    Raises
    ------
    ValueError
        The layers do not end in a plain Dense, a layer does not fit the one before it, or a number is outside its range.
    """

    n_features: int
    layers: tuple[Layer, ...]
    loss: Loss = field(default_factory=SoftmaxCrossEntropy)
    optimizer: Optimizer = field(default_factory=SGD)
    l2: float = 0.0
    image_shape: Shape | None = None

    def __post_init__(self) -> None:
        require(is_count(self.n_features), "Spec", "n_features", "an integer >= 1", self.n_features)
        object.__setattr__(self, "n_features", int(self.n_features))  # NumPy's integers do not go into JSON
        require(is_number(self.l2) and self.l2 >= 0, "Spec", "l2", "a finite number >= 0", self.l2)
        require(isinstance(self.layers, (tuple, list)), "Spec", "layers", "a tuple of layers", self.layers)
        object.__setattr__(self, "layers", tuple(self.layers))  # a list cannot be hashed
        for layer in self.layers:
            require(isinstance(layer, Layer), "Spec", "each of layers", "a layer of fastmnist.network.layers", layer)
        require(
            isinstance(self.loss, Loss),
            "Spec",
            "loss",
            "a SoftmaxCrossEntropy or another of fastmnist.network.losses",
            self.loss,
        )
        require(isinstance(self.optimizer, Optimizer), "Spec", "optimizer", "an SGD, Adam or AdamW", self.optimizer)
        last = self.layers[-1] if self.layers else None
        if not isinstance(last, Dense) or last.activation != "identity":
            raise ValueError(
                "Spec: the last layer must be a Dense with activation='identity' (the loss applies softmax or sigmoid); "
                f"got {last!r}."
            )
        if self.image_shape is not None:
            shape = self.image_shape
            ok = isinstance(shape, (tuple, list)) and len(shape) == 3 and all(is_count(size) for size in shape)
            require(ok, "Spec", "image_shape", "(height, width, channels), integers >= 1", shape)
            object.__setattr__(self, "image_shape", tuple(int(size) for size in shape))
            fits = int(np.prod(self.image_shape)) == self.n_features
            require(fits, "Spec", "image_shape", f"that of {self.n_features} values (n_features)", shape)
        _ = self.shapes  # a layer that does not fit is an error of the description

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of the input and of each layer's output."""
        return infer_shapes(self.layers, self.image_shape or (self.n_features,))

    @property
    def n_outputs(self) -> int:
        """Number of logits."""
        last = self.layers[-1]
        assert isinstance(last, Dense)
        return last.units

    @property
    def dense_layers(self) -> tuple[Dense, ...]:
        """The fully connected layers, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Dense))

    @cached_property
    def parameter_shapes(self) -> tuple[Shape, ...]:
        """Shapes of `[W0, b0, W1, b1, ...]`; a `BatchNorm` has four vectors: gamma, beta, running mean, running variance."""
        pairs = zip(self.layers, self.shapes, strict=False)
        return tuple(shape for layer, before in pairs for shape in parameter_shapes(layer, before))

    @cached_property
    def weight_indices(self) -> tuple[int, ...]:
        """Which of the parameters are weights of Dense and Conv2D: those that `l2` pulls to 0."""
        return tuple(i for i, shape in enumerate(self.parameter_shapes) if len(shape) == 2)

    @property
    def flops_per_sample(self) -> int:
        """Floating-point operations of one training step for one sample, dense: 2 forward, 2 for dW, 2 for dX (not for the first layer)."""
        products = []
        for layer, before, after in zip(self.layers, self.shapes, self.shapes[1:], strict=False):
            if isinstance(layer, (Dense, Conv2D)):
                pixels = after[0] * after[1] if isinstance(layer, Conv2D) else 1
                inputs, units = parameter_shapes(layer, before)[0]
                products.append(pixels * inputs * units)
        return 6 * sum(products) - 2 * products[0]
