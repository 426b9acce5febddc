"""One row at a time: what the first prediction settles is kept, and the next one costs little more than its arithmetic.

Everything that an answer follows from is settled when a row is predicted the long way: validation, backend, network, scale, addresses. It is
then kept as a `PreparedRow`, which answers for rows of the same type and shape as long as the estimator is the same, attribute by attribute and
array by array. Everything else takes the long way again, which raises, warns and prepares anew.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

import numpy as np

from fastmnist.estimators.inputs import LARGEST_SCALED_VALUE, scale_follows_from_values

if TYPE_CHECKING:
    from fastmnist.backends.cpu import SmallPrediction
    from fastmnist.estimators.network_classifier import NetworkClassifier

# Rows with a larger sum of squares take the long way: float32, in which a network computes, may be too small for one of the values.
MOST_ENERGY = 1e36

_shape = operator.attrgetter("shape")


class PreparedRow:
    """Outputs of one row of a certain dtype, with or without the loss's link.

    Parameters
    ----------
    estimator : NetworkClassifier
        Fitted; its network, arrays and all other attributes are remembered as they are now.
    """

    def __init__(self, estimator: NetworkClassifier) -> None:
        self._attributes = list(vars(estimator).values())
        self._arrays = estimator._fitted_arrays()
        self._array_shapes = list(map(_shape, self._arrays))
        self._row_shapes = estimator._row_shapes()

    def prepare(self, estimator: NetworkClassifier, X: np.ndarray, *, link: bool) -> bool:
        """Settle how rows like X, (1, n_features) and validated, are predicted; returns whether that is possible.

        What it reads of the estimator must be read after it was remembered: another thread may be changing it.
        """
        executor, parameters, data = estimator._inference_operands(X)
        if X.dtype not in (np.uint8, np.float32, np.float64) or not hasattr(executor, "small_prediction"):
            return False
        if scale_follows_from_values(estimator.pixel_scale, estimator.pixel_scale_, estimator.input_max_, X.dtype):
            return False
        if not all(any(np.may_share_memory(p, array) for array in self._arrays) for p in parameters):
            return False  # copies would not follow what is written into the fitted arrays
        self._parameters = tuple(parameters)
        self._most_energy = math.inf
        scale = 1.0
        if X.dtype == np.uint8:
            scale = estimator._pixel_scale_for(X)
        else:  # larger values of pixels call for a warning
            self._most_energy = MOST_ENERGY if estimator.pixel_scale_ == 1 else float(LARGEST_SCALED_VALUE) ** 2
        self._predict: SmallPrediction = executor.small_prediction(1, data.dtype, pixel_scale=scale, link=link)
        return True

    def speaks_for(self, estimator: NetworkClassifier) -> bool:
        """Whether no attribute is another object than it was, no list has another array, and no array another shape."""
        attributes = vars(estimator)
        if len(attributes) != len(self._attributes) or not all(
            map(operator.is_, attributes.values(), self._attributes)
        ):
            return False
        arrays = estimator._fitted_arrays()
        return (
            len(arrays) == len(self._arrays)
            and all(map(operator.is_, arrays, self._arrays))
            and list(map(_shape, arrays)) == self._array_shapes
        )

    def outputs(self, estimator: NetworkClassifier, X: np.ndarray) -> np.ndarray | None:
        """(1, n_outputs), a fresh array; None where the long way has to be taken."""
        if X.shape not in self._row_shapes or not self.speaks_for(estimator):
            return None
        # One number tells whether all are finite, and none of them is large.
        if self._most_energy != math.inf and not np.vdot(X, X) <= self._most_energy:
            return None
        outputs = self._predict(self._parameters, X if X.ndim == 2 else X.reshape(1, -1))
        return outputs if math.isfinite(np.vdot(outputs, outputs)) else None
