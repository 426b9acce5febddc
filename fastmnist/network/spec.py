"""The Spec: everything that decides what a training step computes, frozen and hashable, without arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastmnist.network.layers import Dense, Layer
from fastmnist.network.losses import Loss, SoftmaxCrossEntropy
from fastmnist.network.optimizers import SGD, Optimizer
from fastmnist.network.rules import is_count, is_number, require


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

    Raises
    ------
    ValueError
        The layers do not end in a plain Dense, or a number is outside its range.
    """

    n_features: int
    layers: tuple[Layer, ...]
    loss: Loss = field(default_factory=SoftmaxCrossEntropy)
    optimizer: Optimizer = field(default_factory=SGD)
    l2: float = 0.0

    def __post_init__(self) -> None:
        require(is_count(self.n_features), "Spec", "n_features", "an integer >= 1", self.n_features)
        object.__setattr__(self, "n_features", int(self.n_features))  # NumPy's integers do not go into JSON
        require(is_number(self.l2) and self.l2 >= 0, "Spec", "l2", "a finite number >= 0", self.l2)
        require(isinstance(self.layers, (tuple, list)), "Spec", "layers", "a tuple of layers", self.layers)
        object.__setattr__(self, "layers", tuple(self.layers))  # a list cannot be hashed
        for layer in self.layers:
            require(isinstance(layer, Layer), "Spec", "each of layers", "a Dense, Activation or Dropout", layer)
        require(isinstance(self.loss, Loss), "Spec", "loss", "a SoftmaxCrossEntropy or BinaryCrossEntropy", self.loss)
        require(isinstance(self.optimizer, Optimizer), "Spec", "optimizer", "an SGD, Adam or AdamW", self.optimizer)
        last = self.layers[-1] if self.layers else None
        if not isinstance(last, Dense) or last.activation != "identity":
            raise ValueError(
                "Spec: the last layer must be a Dense with activation='identity' (the loss applies softmax or sigmoid); "
                f"got {last!r}."
            )

    @property
    def n_outputs(self) -> int:
        """Number of logits."""
        last = self.layers[-1]
        assert isinstance(last, Dense)
        return last.units

    @property
    def dense_layers(self) -> tuple[Dense, ...]:
        """The layers that have parameters, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Dense))

    @property
    def parameter_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of `[W0, b0, W1, b1, ...]`."""
        shapes: list[tuple[int, ...]] = []
        inputs = self.n_features
        for layer in self.dense_layers:
            shapes += [(inputs, layer.units), (layer.units,)]
            inputs = layer.units
        return tuple(shapes)

    @property
    def flops_per_sample(self) -> int:
        """Floating-point operations of one training step for one sample, dense: 2 forward, 2 for dW, 2 for dX (not for the first layer)."""
        weights = [shape[0] * shape[1] for shape in self.parameter_shapes if len(shape) == 2]
        return 6 * sum(weights) - 2 * weights[0]
