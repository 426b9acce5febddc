"""Loss and accuracy on data that are not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from fastmnist.backends.base import BoundExecutor, Parameters
from fastmnist.backends.device_rows import DeviceLabels, DeviceRows
from fastmnist.backends.rows import StoredRows
from fastmnist.backends.windows import outputs_of
from fastmnist.network.losses import SoftmaxCrossEntropy, SoftmaxTwiceCrossEntropy


@dataclass(frozen=True)
class Validation:
    """Held-out data.

    Attributes
    ----------
    X : ndarray of shape (n, n_features), uint8 or the executor's dtype, StoredRows or DeviceRows
    labels : ndarray of shape (n,), int32
        See DESIGN.md, Vocabulary.
    sample_weight : ndarray of shape (n,) or None
        Weights of loss and accuracy.
    pixel_scale : float
        Every value of X is multiplied by it.
    """

    X: np.ndarray | StoredRows | DeviceRows
    labels: np.ndarray | DeviceLabels
    sample_weight: np.ndarray | None = None
    pixel_scale: float = 1.0

    def evaluate(self, executor: BoundExecutor, parameters: Parameters) -> tuple[float, float]:
        """Weighted mean cross-entropy (without L2, without label smoothing) and weighted accuracy; on a GPU summed there."""
        if hasattr(executor, "judge") and not isinstance(self.X, StoredRows):
            sums = executor.judge(parameters, self.X, self.labels, self.sample_weight, pixel_scale=self.pixel_scale)
            return sums.loss / sums.weight, sums.hits / sums.weight
        assert not isinstance(self.X, DeviceRows)  # their executor judges
        outputs = outputs_of(executor, parameters, self.X, pixel_scale=self.pixel_scale)
        rows, loss, labels = np.arange(len(outputs)), executor.spec.loss, np.asarray(self.labels)
        if isinstance(loss, SoftmaxCrossEntropy):
            losses = -_log(outputs[rows, labels])
        elif isinstance(loss, SoftmaxTwiceCrossEntropy):
            losses = -log_softmax(outputs.astype(np.float64), axis=1)[rows, labels]
        else:
            is_target = labels[:, None] == np.arange(outputs.shape[1])
            losses = -np.where(is_target, _log(outputs), _log(1 - outputs)).sum(axis=1)
        hits = _predicted(outputs) == labels
        return float(np.average(losses, weights=self.sample_weight)), float(
            np.average(hits, weights=self.sample_weight)
        )


def _predicted(outputs: np.ndarray) -> np.ndarray:
    """Predicted labels; with one output, label 0 is the positive class."""
    return np.where(outputs[:, 0] > 0.5, 0, 1) if outputs.shape[1] == 1 else outputs.argmax(axis=1)


def _log(probabilities: np.ndarray) -> np.ndarray:
    """Logarithm, bounded as in scikit-learn: a probability that was rounded to 0 costs -log(eps), not infinity."""
    return np.log(np.maximum(probabilities, np.finfo(probabilities.dtype).eps), dtype=np.float64)
