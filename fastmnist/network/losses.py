"""Loss descriptions. All take logits; the link (softmax or sigmoid) belongs to the loss."""

from __future__ import annotations

from dataclasses import dataclass

from fastmnist.network.rules import is_number, require


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
        smoothing = self.label_smoothing
        ok = is_number(smoothing) and 0 <= smoothing < 1
        require(ok, "SoftmaxCrossEntropy", "label_smoothing", "in [0, 1)", smoothing)


@dataclass(frozen=True)
class SoftmaxTwiceCrossEntropy:
    """Multinomial cross-entropy of softmax(softmax(logits)): a frequent mistake, offered so that its work can be reproduced.

    It is made where a network that ends in a softmax is trained with a loss that applies softmax itself, as torch's `CrossEntropyLoss`. The
    loss of C classes then never falls below `log(e + C - 1) - 1` (1.46 of ten), and the gradient of a sample that is wrong with confidence
    vanishes. What is predicted is softmax(logits).
    """


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """One-vs-rest: a sigmoid and a binary cross-entropy for each output, summed over the outputs."""


Loss = SoftmaxCrossEntropy | SoftmaxTwiceCrossEntropy | BinaryCrossEntropy
