"""The Spec: everything that decides what a training step computes, frozen and hashable, without arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastmnist.network.layers import Activation, Dense, Dropout, Layer
from fastmnist.network.losses import Loss, SoftmaxCrossEntropy
from fastmnist.network.optimizers import SGD, Optimizer


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
        if not (isinstance(self.n_features, int) and self.n_features >= 1):
            raise ValueError(f"Spec: n_features must be an integer >= 1; got {self.n_features!r}.")
        if not (self.l2 >= 0):
            raise ValueError(f"Spec: l2 must be >= 0; got {self.l2!r}.")
        for layer in self.layers:
            if not isinstance(layer, (Dense, Activation, Dropout)):
                raise ValueError(f"Spec: layers must be Dense, Activation or Dropout; got {layer!r}.")
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
