"""Transformers of images, for scikit-learn's pipelines: what it lacks for handwriting."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils import Tags, check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from fastmnist import backends
from fastmnist.backends.rows import convert
from fastmnist.backends.warping import ImageJobs, key_of
from fastmnist.estimators.base import MAX_THREADS
from fastmnist.estimators.inputs import as_rows, checked_numbers, learn_image_shape
from fastmnist.network.augmentation import FOR_DIGITS, Augment
from fastmnist.network.shapes import Shape
from fastmnist.threads import default_threads


class ImageTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """From X to rows that compiled code reads, and back to X's shape and type.

    Subclasses have the parameters `image_shape`, `backend` and `n_threads`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "image_shape": ["array-like", None],
        "backend": [StrOptions({"numba", "numpy"})],
        "n_threads": [None, Interval(Integral, 1, MAX_THREADS, closed="both")],
    }

    image_shape: Shape | None
    backend: str
    n_threads: int | None
    n_features_in_: int

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn what a row of X is; nothing else.

        Parameters
        ----------
        X : array-like of shape (n, features), (n, height, width) or (n, height, width, channels)
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            X is no table of numbers, or not of images of `image_shape`.
        fastmnist.BackendUnavailable
            The backend cannot run here.
        """
        backends.require(self.backend)
        rows, shape = as_rows(X)
        checked_numbers(validate_data(self, rows, dtype="numeric"))
        self.image_shape_ = learn_image_shape(self.image_shape, self.n_features_in_, shape)
        return self

    def _rows(self, X: ArrayLike) -> tuple[np.ndarray, tuple[int, ...], np.dtype]:
        """X as rows to compute with; its shape, and the type of the result."""
        check_is_fitted(self)
        rows, shape = as_rows(X)
        if shape not in (None, self.image_shape_):
            raise ValueError(
                f"X has images of the shape {shape}, but {type(self).__name__} was fitted on images of the shape {self.image_shape_} "
                "(height, width, channels). Resize them first."
            )
        checked = checked_numbers(validate_data(self, rows, dtype="numeric", reset=False))
        kept = checked.dtype if checked.dtype in (np.uint8, np.float32, np.float64) else np.dtype(np.float64)
        inside = kept if kept == np.uint8 or self.backend == "numpy" else np.dtype(np.float32)
        outer = checked.shape if shape is None else np.shape(X)
        return convert(checked, inside), outer, kept

    def _jobs(self) -> ImageJobs:
        n_threads = default_threads() if self.n_threads is None else int(self.n_threads)
        return ImageJobs(self.backend, n_threads, self.image_shape_)


class Deskew(ImageTransformer):
    """Handwriting set upright and moved to the middle of its image, by moments.

    The centre of mass goes to the centre of the image, and the image is sheared until the places of its ink are uncorrelated across and down: two
    people's slants of the same digit become one. For linear models on MNIST some three points of accuracy.

    Parameters
    ----------
    image_shape : tuple (height, width) or (height, width, channels), default=None
        What a row of a flat X is. None: a grey square if the number of features is a square number, else a line of pixels.
    backend : {"numba", "numpy"}, default="numba"
        Compiled code, or NumPy.
    n_threads : int, default=None
        Threads of compiled code; None: as many as this process may use.

    Attributes
    ----------
    image_shape_ : tuple (height, width, channels)
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had names.

    Notes
    -----
    Ink is what is larger than 0, summed over channels; images without any stay as they are. Pixel (y, x) is taken from
    `(y - cy + my, x - cx + mx + (y - cy) mu_xy / mu_yy)`, (cy, cx) being the centre, (my, mx) the mean and mu the covariance of places, by bilinear
    interpolation, 0 outside (LeCun et al. 1998, "Gradient-based learning applied to document recognition").

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from fastmnist import Deskew, LogisticRegression, load_mnist
    >>> X, y = load_mnist("train", return_X_y=True)
    >>> model = make_pipeline(Deskew(), LogisticRegression()).fit(X, y)  # doctest: +SKIP
    >>> model.score(*load_mnist("test", return_X_y=True))  # doctest: +SKIP
    0.956
    """

    def __init__(
        self, *, image_shape: Shape | None = None, backend: str = "numba", n_threads: int | None = None
    ) -> None:
        self.image_shape = image_shape
        self.backend = backend
        self.n_threads = n_threads

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Upright images.

        Parameters
        ----------
        X : array-like of shape (n, features), (n, height, width) or (n, height, width, channels)

        Returns
        -------
        ndarray of the shape of X
            uint8 and floats keep their type, other numbers become float64. Compiled code computes in float32.

        Raises
        ------
        ValueError
            X is no table of numbers, or not of images of the shape that was fitted.
        """
        rows, shape, dtype = self._rows(X)
        images = np.empty_like(rows)
        self._jobs().deskew(images, rows)
        return images.reshape(shape).astype(dtype, copy=False)


class AugmentTransformer(ImageTransformer):
    """Images changed at random: other ones at each call with `random_state=None`, the same ones with an int.

    `transform` changes every image once; `fit_resample`, the method of imbalanced-learn's pipelines, appends copies to the training data. Networks
    have better: their `augment=` makes new images every epoch.

    Parameters
    ----------
    augment : Augment or True, default=True
        The ranges. True: for digits, as of `CNNClassifier`.
    n_copies : int, default=1
        Changed copies of each image that `fit_resample` appends.
    random_state : int, RandomState or None, default=None
        An image depends on the int, its row and the number of its copy alone.
    image_shape, backend, n_threads
        As of `Deskew`.

    Attributes
    ----------
    image_shape_, n_features_in_, feature_names_in_
        As of `Deskew`.

    Examples
    --------
    >>> from fastmnist import Augment, AugmentTransformer, load_mnist
    >>> X, y = load_mnist("train", return_X_y=True)
    >>> more = AugmentTransformer(Augment(translate=1), n_copies=4, random_state=0)
    >>> X_more, y_more = more.fit_resample(X[:100], y[:100])  # doctest: +SKIP
    >>> X_more.shape  # doctest: +SKIP
    (500, 784)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ImageTransformer._parameter_constraints,
        "augment": [Augment, Options(bool, {True})],
        "n_copies": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        augment: Augment | bool = True,
        *,
        n_copies: int = 1,
        random_state: int | np.random.RandomState | None = None,
        image_shape: Shape | None = None,
        backend: str = "numba",
        n_threads: int | None = None,
    ) -> None:
        self.augment = augment
        self.n_copies = n_copies
        self.random_state = random_state
        self.image_shape = image_shape
        self.backend = backend
        self.n_threads = n_threads

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True  # what becomes of an image depends on its row
        return tags

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Every image changed once: copy 0.

        Parameters
        ----------
        X : array-like of shape (n, features), (n, height, width) or (n, height, width, channels)

        Returns
        -------
        ndarray of the shape of X
            uint8 and floats keep their type, other numbers become float64. Compiled code computes in float32.

        Raises
        ------
        ValueError
            X is no table of numbers, or not of images of the shape that was fitted.
        """
        rows, shape, dtype = self._rows(X)
        return self._copies(rows, 1)[0].reshape(shape).astype(dtype, copy=False)

    def fit_resample(self, X: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """The training data, and after them `n_copies` changed copies of them.

        Parameters
        ----------
        X : array-like of shape (n, features), (n, height, width) or (n, height, width, channels)
        y : array-like of shape (n,)

        Returns
        -------
        X : ndarray of shape ((1 + n_copies) n, ...)
        y : ndarray of shape ((1 + n_copies) n,)

        Raises
        ------
        ValueError
            As in `fit`; or X and y have different lengths.
        """
        self.fit(X)
        rows, shape, dtype = self._rows(X)
        labels = np.asarray(y)
        if labels.shape[:1] != (len(rows),):
            raise ValueError(
                f"y must have one label for each of the {len(rows)} images of X; got shape {labels.shape}."
            )
        images = np.concatenate([rows, *self._copies(rows, self.n_copies)])
        return images.reshape(-1, *shape[1:]).astype(dtype, copy=False), np.concatenate([labels] * (1 + self.n_copies))

    def _copies(self, rows: np.ndarray, n_copies: int) -> np.ndarray:
        """Changed copies of all rows, (n_copies, n, features)."""
        state = self.random_state
        seed = int(state) if isinstance(state, Integral) else int(check_random_state(state).randint(2**31))
        augment = self.augment if isinstance(self.augment, Augment) else FOR_DIGITS
        copies = np.empty((n_copies, *rows.shape), rows.dtype)
        numbers, jobs = np.arange(len(rows)), self._jobs()
        for copy, images in enumerate(copies):
            jobs.augment(images, rows, numbers, numbers, augment, key_of(seed), copy)
        return copies
