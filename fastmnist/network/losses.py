"""Loss descriptions. Both take logits; the link (softmax or sigmoid) belongs to the loss."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """Multinomial cross-entropy of softmax(logits), with label smoothing (Szegedy et al. 2016).

    The target is `(1 - label_smoothing) * onehot + label_smoothing / n_outputs`.

    Parameters
    ----------
    label_smoothing : float, default=0.0
        0 <= label_smoothing < 1.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.label_smoothing < 1):
            raise ValueError(f"SoftmaxCrossEntropy: label_smoothing must be in [0, 1); got {self.label_smoothing!r}.")


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """One-vs-rest: a sigmoid and a binary cross-entropy for each output, summed over the outputs."""


Loss = SoftmaxCrossEntropy | BinaryCrossEntropy
