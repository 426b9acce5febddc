"""From the user's X to what executors read: dtypes, and the rule for pixels."""

from __future__ import annotations

import warnings

import numpy as np

PIXEL_SCALE = 1 / 255
LARGEST_SCALED_VALUE = 16  # no sensible scaling of pixels exceeds it; a float X that does was probably not scaled


def arithmetic_dtype(backend: str, X: np.ndarray) -> np.dtype:
    """Of parameters and arithmetic: float64 where X has it and the backend can, else float32."""
    return np.dtype(np.float64 if backend == "numpy" and X.dtype == np.float64 else np.float32)


def as_executor_input(X: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """X as an executor takes it: C-contiguous; uint8 as it is, everything else as `dtype`.

    Raises
    ------
    ValueError
        A value is too large for float32.
    """
    if X.dtype == np.uint8:
        return np.ascontiguousarray(X)
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(X, dtype)
    if converted.dtype.itemsize < X.dtype.itemsize and not np.isfinite(converted).all():
        largest = float(np.abs(X).max())
        raise ValueError(
            f"Input X contains a value too large for dtype('float32'), in which this model computes: {largest:g}. "
            "Scale X (sklearn.preprocessing.StandardScaler), or fit float64 data with backend='numpy'."
        )
    return converted


def fit_pixel_scale(pixel_scale: str | float, X: np.ndarray) -> float:
    """What the training data are multiplied by."""
    if X.dtype != np.uint8:
        return 1.0
    return PIXEL_SCALE if pixel_scale == "auto" else float(pixel_scale)


def predict_pixel_scale(pixel_scale: str | float, fitted_scale: float, fitted_max: float, X: np.ndarray) -> float:
    """What new data are multiplied by, so that they mean what the training data meant.

    uint8 is multiplied as in `fit`. A model that was fitted on other numbers under "auto" takes uint8 for pixels when it knew
    values up to 1 only, and for the same kind of numbers otherwise (as in a table of counts); X is never larger than 1 in a table of
    zeros and ones, which is left alone.

    Parameters
    ----------
    pixel_scale : "auto" or float
        The estimator's parameter.
    fitted_scale, fitted_max : float
        `pixel_scale_` and `input_max_`.
    X : ndarray
    """
    if X.dtype != np.uint8:
        if fitted_scale != 1 and X.max() > LARGEST_SCALED_VALUE:
            warnings.warn(
                f"X has values up to {float(X.max()):g} and dtype {X.dtype}, but this model was fitted on uint8 pixels multiplied by "
                f"{fitted_scale:.6g}. Pass the pixels as uint8, or multiply X by {fitted_scale:.6g}.",
                UserWarning,
                stacklevel=4,
            )
        return 1.0
    if pixel_scale != "auto":
        return float(pixel_scale)
    if fitted_scale != 1:
        return fitted_scale
    return PIXEL_SCALE if fitted_max <= 1 and X.max() > 1 else 1.0
