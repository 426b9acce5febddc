"""What all classifiers share, forests among them: validation, labels and weights, listeners, saving."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_consistent_length, column_or_1d, compute_class_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_n_features, _check_sample_weight, check_is_fitted, validate_data

from fastmnist.backends.device_rows import DeviceClasses, DeviceIndices, DeviceRows
from fastmnist.backends.rows import Matrix
from fastmnist.estimators.device_input import on_device, on_host, require_gpu, take_labels, take_rows, to_host
from fastmnist.estimators.inputs import checked_numbers, fit_pixel_scale, predict_pixel_scale

if TYPE_CHECKING:
    from fastmnist.training.history import OnEpoch

# What lives only as long as the process: compiled state, locks, listeners. Not copied, pickled or saved.
_TRANSIENT = (
    "_executor",
    "_executor_checked",
    "_lock",
    "_fit_lock",
    "_on_epoch",
    "_asked",
    "_prepared_rows",
)
MAX_THREADS = 1024  # more would spend their time waiting for each other
# Mean weights beyond these leave float32 when a batch's weights are summed, or 1 is divided by the sum.
LEAST_MEAN_WEIGHT, LARGEST_MEAN_WEIGHT = 1e-30, 1e30


class DivergedError(ValueError):
    """The loss overflowed, or became no number: there is no model."""


class Classifier(ClassifierMixin, BaseEstimator):
    """Validation, labels, weights, listeners and saving.

    Subclasses have the parameters `backend`, `pixel_scale`, `class_weight` and `verbose`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "backend": [str],
        "pixel_scale": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
    }

    backend: str
    _runs_on_cpu: ClassVar[str] = ""  # the name of an estimator that has no GPU code
    pixel_scale: str | float
    class_weight: dict | str | None
    verbose: int
    classes_: np.ndarray
    n_features_in_: int

    def _require_sound(self) -> None:
        """Refuse fitted arrays that compiled code, which does not look, could not follow: a file may hold anything.

        Raises
        ------
        ValueError
            The message says what is wrong.
        """
        raise NotImplementedError

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # --- listeners, saving, copying ---------------------------------------------------------------------------------------------

    def set_on_epoch(self, on_epoch: OnEpoch | None) -> Self:
        """Have a function called after each epoch, or each iteration of a full-batch solver.

        Parameters
        ----------
        on_epoch : callable or None
            Takes a `fastmnist.training.history.EpochRecord`. Neither copied by `clone` nor pickled.

        Returns
        -------
        self
        """
        self._on_epoch = on_epoch
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Save the fitted model: safetensors with JSON metadata; `fastmnist.load_model` reads it.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        """
        from fastmnist.estimators.serialization import save_model

        check_is_fitted(self)
        save_model(self, path)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what lives only as long as the process."""
        state = dict(super().__getstate__())
        for name in _TRANSIENT:
            state.pop(name, None)
        return state

    # --- training data ----------------------------------------------------------------------------------------------------------

    def _validate_training_data(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, *, reset: bool
    ) -> tuple[Matrix, np.ndarray, np.ndarray | None]:
        """X (numbers of any dtype, dense or sparse rows), y (one label a row) and float64 weights or None; what is on the GPU as `DeviceRows`
        and `DeviceClasses`.
        """
        _refuse_images(X)
        X, y, sample_weight = on_host(X), on_host(y), None if sample_weight is None else on_host(sample_weight)
        for given in (X, y, sample_weight):
            if on_device(given):
                require_gpu(self.backend, given, model=self._runs_on_cpu)
        sample_weight = to_host(sample_weight, "sample_weight")
        if on_device(X):
            return self._take_training_data(X, y, sample_weight, reset=reset)
        y = to_host(y)
        numbers, labels = validate_data(self, X, y, accept_sparse="csr", dtype="numeric", reset=reset)
        check_classification_targets(labels)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, numbers, dtype=np.float64, ensure_non_negative=True)
        return checked_numbers(numbers), labels, weights

    def _take_training_data(self, X: Any, y: Any, sample_weight: ArrayLike | None, *, reset: bool) -> Any:
        """The same of X on the GPU, which stays there; so does y where it is there."""
        rows = X if isinstance(X, DeviceRows) else take_rows(X)[0]
        _check_n_features(self, rows, reset=reset)
        labels = take_labels(y) if on_device(y) else column_or_1d(y, warn=True)
        check_consistent_length(rows, labels)
        if not isinstance(labels, DeviceClasses):
            check_classification_targets(labels)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        return rows, labels, weights

    def _learn_classes(self, y: np.ndarray | DeviceClasses) -> Any:
        """Set `classes_`; returns the index of each label in it."""
        if isinstance(y, DeviceClasses):
            self._set_classes(y.classes)
            return DeviceIndices(y, self.classes_)
        classes, indices = np.unique(y, return_inverse=True)
        self._set_classes(classes)
        return indices

    def _set_classes(self, classes: np.ndarray) -> None:
        if len(classes) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes in y, but the data contains only one class: "
                f"{classes.tolist()[0]!r}. Pass data of the other classes too."
            )
        self.classes_ = classes

    def _class_indices(self, y: Any, name: str = "y") -> Any:
        """Index of each label in `classes_`.

        Raises
        ------
        ValueError
            A label is unknown.
        """
        known_there = isinstance(y, DeviceClasses)
        unknown = np.setdiff1d(y.classes if known_there else y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"`{name}` has classes not in `self.classes_`: {unknown}. `self.classes_` has {self.classes_}; refit to add classes."
            )
        return DeviceIndices(y, self.classes_) if known_there else np.searchsorted(self.classes_, y)

    def _weights(self, indices: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray | None:
        """Product of sample weights and class weights, float64; None for ones.

        Raises
        ------
        ValueError
            A class weight is negative, or all weights are 0, or they are too large or too small for float32.
        """
        if self.class_weight is None and sample_weight is None:
            return None
        indices = np.asarray(indices)
        weights = np.ones(len(indices)) if sample_weight is None else sample_weight
        if self.class_weight is not None:
            of_class = self._weights_of_classes(indices, weights)
            if not (of_class >= 0).all():
                raise ValueError(f"class_weight must be >= 0 for every class; got {self.class_weight!r}.")
            weights = weights * of_class[indices]
        with np.errstate(over="ignore", under="ignore"):
            mean = weights.astype(np.float32).mean(dtype=np.float64)
        if not (LEAST_MEAN_WEIGHT <= mean <= LARGEST_MEAN_WEIGHT):
            raise ValueError(
                "The weights of the samples (sample_weight times class_weight) must have a positive sum and fit into float32, their mean "
                f"within {LEAST_MEAN_WEIGHT:g} and {LARGEST_MEAN_WEIGHT:g}; their sum is {weights.sum():g}. "
                "Divide sample_weight by its mean."
            )
        return np.where(weights < np.finfo(np.float32).tiny, 0.0, weights)  # compiled code takes denormals for 0

    def _weights_of_classes(self, indices: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
        """`class_weight` as a number for each class."""
        if isinstance(self.class_weight, dict):  # of all classes, of which a part that `partial_fit` gets may lack some
            return compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)
        of_class = np.ones(len(self.classes_))
        counted = sample_weight > 0  # a class without any weight has no share that could be balanced
        present, y = np.unique(indices[counted], return_inverse=True)
        of_class[present] = compute_class_weight(
            self.class_weight, classes=np.arange(len(present)), y=y, sample_weight=sample_weight[counted]
        )
        return of_class

    def _set_pixel_scale(self, X: Matrix) -> float:
        """Set `pixel_scale_` and `input_max_` from the training data."""
        self.pixel_scale_ = fit_pixel_scale(self.pixel_scale, X)
        self.input_max_ = float(X.max()) * self.pixel_scale_
        return self.pixel_scale_

    def _pixel_scale_for(self, X: Matrix) -> float:
        return predict_pixel_scale(self.pixel_scale, self.pixel_scale_, self.input_max_, X)

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Fits of one estimator take turns; one that fails leaves the model of the fit before it, not a mixture of both."""
        with self.__dict__.setdefault("_fit_lock", threading.RLock()):  # setdefault: all threads get the same lock
            before = dict(self.__dict__)
            try:
                yield
            except BaseException:
                self.__dict__.update(before)
                for name in self.__dict__.keys() - before.keys():
                    delattr(self, name)
                raise

    def _validate_new_data(self, X: ArrayLike) -> tuple[Matrix, float]:
        """X for a fitted model, and what to multiply it by."""
        if not hasattr(self, "classes_"):  # asking scikit-learn takes as long as predicting one row
            check_is_fitted(self)
        if not (isinstance(X, np.ndarray) and self._is_plain(X)):
            X = on_host(X)
            if isinstance(X, DeviceRows) or on_device(X):
                return self._take_new_data(X)
            _refuse_images(X)
            X = checked_numbers(validate_data(self, X, accept_sparse="csr", dtype="numeric", reset=False))
        return X, self._pixel_scale_for(X)

    def _take_new_data(self, X: Any) -> tuple[DeviceRows, float]:
        """The same of X on the GPU, which stays there."""
        backend = getattr(self, "backend_", "cupy") if self.backend == "auto" else self.backend
        require_gpu(backend, X, model=self._runs_on_cpu)
        if not isinstance(X, DeviceRows):
            _refuse_images(X)
            X, _ = take_rows(X)
        _check_n_features(self, X, reset=False)
        return X, self._pixel_scale_for(X)

    def _is_plain(self, X: np.ndarray) -> bool:
        """Whether X is what `validate_data` would return as it is; asking costs a tenth of it."""
        if (
            type(X) is not np.ndarray
            or X.ndim != 2
            or X.shape[0] == 0
            or X.shape[1] != self.n_features_in_
            or hasattr(self, "feature_names_in_")
        ):
            return False
        if X.dtype == np.uint8:
            return True
        with np.errstate(over="ignore", invalid="ignore"):  # a sum that overflows only takes the long way
            return X.dtype in (np.float32, np.float64) and bool(np.isfinite(X.sum()))


def _refuse_images(X: ArrayLike) -> None:
    """The most frequent first mistake deserves better than the message that it would get."""
    shape = getattr(X, "shape", ())
    if len(shape) in (3, 4):
        raise ValueError(
            f"Found array with dim {len(shape)}: X must have one row a sample, (n_samples, n_features); got shape {tuple(shape)}. "
            "Flatten images with X.reshape(len(X), -1), or use CNNClassifier, which takes them as they are."
        )
