"""From the user's X to what executors read: dtypes, and the rule for pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike

from fastmnist.backends.device_rows import DeviceRows
from fastmnist.backends.rows import Matrix, StoredRows, convert, is_mapped
from fastmnist.estimators.device_input import on_device, on_host, take_rows
from fastmnist.network.rules import is_count
from fastmnist.network.shapes import Shape
from fastmnist.warning import warn_user

PIXEL_SCALE = 1 / 255
LARGEST_SCALED_VALUE = 16  # no sensible scaling of pixels exceeds it; a float X that does was probably not scaled


# Copies up to this size are made at once to predict; larger ones block by block.
PREDICT_COPY_BYTES = 8 << 20


def checked_numbers(X: Matrix) -> Matrix:
    """What `validate_data` returned, fit for compiled code: numbers, and sparse X as `canonical_rows`.

    Raises
    ------
    ValueError
        Dates and durations: what is a number in them is up to the user. Or a sparse matrix whose indices point outside of it.
    """
    if X.dtype.kind not in "buif":
        raise ValueError(
            f"Input X must be numbers; got dtype {X.dtype}. Convert it first, as with X.astype('float64')."
        )
    return canonical_rows(X) if scipy.sparse.issparse(X) else X


def canonical_rows(X: scipy.sparse.csr_array | scipy.sparse.csr_matrix) -> scipy.sparse.csr_array:
    """X with ascending columns in each row, none of them twice, and no stored zeros; X itself is left as it is.

    Flags in which SciPy remembers the form of X are not believed: they are wrong after its arrays were changed by hand.

    Raises
    ------
    ValueError
        Indices point outside of X, or row pointers fall.
    """
    try:
        rows = scipy.sparse.csr_array((X.data, X.indices, X.indptr), shape=X.shape)
        rows.check_format(full_check=True)
    except ValueError as problem:
        raise ValueError(
            f"Input X is a damaged sparse matrix: {problem}. Make it anew with scipy.sparse.csr_array(X.tocoo())."
        ) from problem
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    if np.count_nonzero(rows.data) < rows.nnz:
        rows = rows.copy()
        rows.eliminate_zeros()
    return rows


def arithmetic_dtype(backend: str, X: Matrix) -> np.dtype:
    """Of parameters and arithmetic: float64 where X has it and the backend can, else float32."""
    return np.dtype(np.float64 if backend == "numpy" and X.dtype in (np.float64, np.longdouble) else np.float32)


def as_executor_input(X: Matrix | DeviceRows, dtype: np.dtype, max_memory: int) -> Any:
    """X as an executor takes it: uint8 as it is, everything else as `dtype`, C-contiguous.

    Sparse X, X of which a copy would be needed that takes more than `max_memory` bytes, and X in a file that is larger than that come back
    as `StoredRows`, which are converted where they are read; X on a GPU as it is.

    Raises
    ------
    ValueError
        A value is too large for float32. (Of stored rows: when they are read.)
    """
    if isinstance(X, DeviceRows):
        return X
    target = np.dtype(np.uint8) if X.dtype == np.uint8 else np.dtype(dtype)
    if scipy.sparse.issparse(X):
        return StoredRows(X, target)
    needs_copy = X.dtype != target or not X.flags.c_contiguous
    if math.prod(X.shape) * target.itemsize > max_memory and (needs_copy or is_mapped(X)):
        return StoredRows(X, target)
    return convert(X, target)


def fit_pixel_scale(pixel_scale: str | float, X: Matrix) -> float:
    """What the training data are multiplied by."""
    if X.dtype != np.uint8:
        return 1.0
    return PIXEL_SCALE if pixel_scale == "auto" else float(pixel_scale)


def predict_pixel_scale(pixel_scale: str | float, fitted_scale: float, fitted_max: float, X: Matrix) -> float:
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
    X : ndarray or csr_array
    """
    if X.dtype != np.uint8:
        if fitted_scale != 1 and X.max() > LARGEST_SCALED_VALUE:
            warn_user(
                f"X has values up to {float(X.max()):g} and dtype {X.dtype}, but this model was fitted on uint8 pixels multiplied by "
                f"{fitted_scale:.6g}. Pass the pixels as uint8, or multiply X by {fitted_scale:.6g}.",
                UserWarning,
            )
        return 1.0
    if pixel_scale != "auto":
        return float(pixel_scale)
    if fitted_scale != 1:
        return fitted_scale
    return PIXEL_SCALE if fitted_max <= 1 and X.max() > 1 else 1.0


def scale_follows_from_values(
    pixel_scale: str | float, fitted_scale: float, fitted_max: float, dtype: np.dtype
) -> bool:
    """Whether `predict_pixel_scale` depends on more of X than its dtype."""
    return dtype == np.uint8 and pixel_scale == "auto" and fitted_scale == 1 and fitted_max <= 1


def as_rows(X: ArrayLike) -> tuple[Any, tuple[int, int, int] | None]:
    """Images (n, height, width) or (n, height, width, channels) as rows of numbers, and their shape; None for what are rows already."""
    X = on_host(X)
    if on_device(X):
        return take_rows(X)
    array = X if isinstance(X, np.ndarray) else np.asarray(X) if isinstance(X, (list, tuple)) else None
    if array is None or array.ndim not in (3, 4):
        return X, None
    height, width, channels = (*array.shape[1:], 1)[:3]
    return array.reshape(len(array), height * width * channels), (height, width, channels)


def learn_image_shape(image_shape: Sequence[int] | None, n_features: int, shape: Shape | None) -> Shape:
    """What a row is: (height, width, channels).

    Parameters
    ----------
    image_shape : sequence of int or None
        What the user says; None: as `shape` says, else a grey square if `n_features` is a square number, else a line of pixels.
    n_features : int
    shape : tuple or None
        Of the images in X; None: X has flat rows.

    Raises
    ------
    ValueError
        They contradict each other.
    """
    asked, valid = None, True
    if image_shape is not None:
        valid = len(image_shape) in (2, 3) and all(is_count(size) for size in image_shape)
        asked = (*map(int, image_shape), 1)[:3] if valid else None
    if shape is None:
        side = math.isqrt(n_features)
        shape = asked or ((side, side, 1) if side * side == n_features else (1, n_features, 1))
    if not valid or asked not in (None, shape) or math.prod(shape) != n_features:
        raise ValueError(
            f"image_shape must be integers (height, width) or (height, width, channels) of the images in X; got {image_shape!r}, and X "
            f"has {n_features} features{'' if shape == asked else f', images of the shape {shape}'}. Leave it at None, or correct it."
        )
    return shape


def shifted_images(X: np.ndarray, image_shape: Shape) -> list[np.ndarray]:
    """X (n, features), and X with every image moved by one pixel left, right, up and down; what comes in is 0.

    Ways that an image of one column or line cannot go are left out.
    """
    images = X.reshape(-1, *image_shape)
    result = [X]
    for axis in (2, 1):
        if images.shape[axis] == 1:
            continue
        for first, last in ((0, 1), (1, 0)):
            n = images.shape[axis] - 1
            moved = np.zeros_like(images)
            to, kept = [slice(None)] * 4, [slice(None)] * 4
            to[axis], kept[axis] = slice(first, first + n), slice(last, last + n)
            moved[tuple(to)] = images[tuple(kept)]
            result.append(moved.reshape(X.shape))
    return result
