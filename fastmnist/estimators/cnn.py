"""Convolutional networks. How they are fitted is in `network_fitting.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import StrOptions

from fastmnist.backends.device_rows import DeviceRows
from fastmnist.backends.rows import Matrix
from fastmnist.estimators.inputs import as_rows, learn_image_shape, shifted_images
from fastmnist.estimators.network_fitting import NetworkFitting
from fastmnist.network.architectures import ARCHITECTURES
from fastmnist.network.augmentation import Augment
from fastmnist.network.layers import BatchNorm, Conv2D, Dense, Layer
from fastmnist.network.schedules import OneCycle, Schedule
from fastmnist.network.shapes import Shape
from fastmnist.network.spec import Spec
from fastmnist.training.validation import Validation

AUTO_LABEL_SMOOTHING = 0.1
# Images that are given as (n, channels, height, width) by mistake: so many channels have pictures.
CHANNELS_OF_PICTURES = (1, 3, 4)


class CNNClassifier(NetworkFitting):
    """Convolutional network with compiled training.

    Minimises the cross-entropy of softmax outputs (of two classes: of one sigmoid output). The output layer, a Dense with a unit for each
    class, is added to `layers`.

    X are images (n, height, width), (n, height, width, channels), or rows of numbers (n, height * width * channels): pixel by pixel from the
    top left, the channels of a pixel side by side.

    Parameters
    ----------
    layers : str or sequence of layers, default="fast"
        "lenet5", "simple", "fast" or "accurate" (`fastmnist.network.architectures`), or the layers before the output layer, of
        `fastmnist.network.layers`: `Conv2D`, `MaxPool2D`, `AvgPool2D`, `BatchNorm`, `Activation`, `Dropout`, then `Flatten` or
        `GlobalAvgPool2D`, then `Dense`.
    image_shape : tuple (height, width) or (height, width, channels), default=None
        What a row of a flat X is. None: a grey square if the number of features is a square number, else a line of pixels.
    test_time_augmentation : bool, default=False
        Whether predictions are means over five probabilities: those of the image, and of it moved by one pixel left, right, up and down (as in
        Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU"; digits are not mirrored). They take five times as long. May be changed after
        `fit`; `history_` and `early_stopping` judge without it.
    solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, \
nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun, class_weight, schedule, weight_decay, \
label_smoothing, ema_decay, record_steps, augment, backend, precision, n_threads, pixel_scale, max_memory
        As of `MLPClassifier`; gamma and beta of a `BatchNorm` are free of `alpha`, and solver "lbfgs" takes networks without Dropout and
        BatchNorm. Other defaults, which train MNIST well in four epochs: `alpha=0`, `learning_rate_init=0.005`, `beta_2=0.99`, `max_iter=4`;
        batch_size "auto" is `min(64, n_samples)`; schedule "auto" is "one_cycle" in `fit` with mini-batches and `learning_rate="constant"`,
        else None (`partial_fit` knows no end); label_smoothing "auto" is 0.1, with two classes 0. Small data sets want a larger `max_iter`.
        `fastmnist.network.architectures.RECIPES` has arguments for each named architecture.

    Attributes
    ----------
    coefs_ : list of ndarray
        Weights of each Conv2D (kernel height, kernel width, channels, filters) and Dense (inputs, units).
    intercepts_ : list of ndarray
        Their biases.
    batch_norms_ : list of ndarray of shape (4, channels)
        gamma, beta, running mean and running variance of each BatchNorm.
    image_shape_ : tuple (height, width, channels)
    n_features_in_ : int
        height * width * channels.
    classes_, loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, n_iter_, t_, n_layers_, n_outputs_, out_activation_, \
feature_names_in_, history_, step_losses_, backend_, backend_reason_, pixel_scale_, input_max_, interrupted_, compile_seconds_, fit_seconds_
        As of `MLPClassifier`.

    Examples
    --------
    >>> from fastmnist import CNNClassifier, load_mnist
    >>> X, y = load_mnist("train", return_X_y=True)
    >>> clf = CNNClassifier("lenet5", max_iter=5, random_state=0).fit(X.reshape(-1, 28, 28), y)  # doctest: +SKIP
    >>> clf.score(*load_mnist("test", return_X_y=True))  # doctest: +SKIP
    0.989
    """

    _layers_parameter = "layers"
    _tta_block_bytes = 32 << 20  # of shifted images that are predicted at a time
    _auto_batch_size = 64
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **NetworkFitting._parameter_constraints,
        "test_time_augmentation": ["boolean"],
        "layers": [StrOptions(set(ARCHITECTURES)), "array-like"],
        "label_smoothing": [StrOptions({"auto"}), *NetworkFitting._parameter_constraints["label_smoothing"]],
    }

    def __init__(
        self,
        layers: str | Iterable[Layer] = "fast",
        *,
        image_shape: Shape | None = None,
        solver: str = "adam",
        alpha: float = 0.0,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.005,
        power_t: float = 0.5,
        max_iter: int = 4,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: dict | str | None = None,
        schedule: str | Schedule | None = "auto",
        weight_decay: float = 0.0,
        label_smoothing: float | str = "auto",
        ema_decay: float = 0.0,
        record_steps: bool = False,
        augment: Augment | bool = False,
        test_time_augmentation: bool = False,
        backend: str = "auto",
        precision: str = "float32",
        n_threads: int | None = None,
        pixel_scale: float | str = "auto",
        max_memory: int | None = None,
    ) -> None:
        self.layers = layers
        self.image_shape = image_shape
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.class_weight = class_weight
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.ema_decay = ema_decay
        self.record_steps = record_steps
        self.augment = augment
        self.test_time_augmentation = test_time_augmentation
        self.backend = backend
        self.precision = precision
        self.n_threads = n_threads
        self.pixel_scale = pixel_scale
        self.max_memory = max_memory

    # --- the network ------------------------------------------------------------------------------------------------------------

    def _hidden_layers(self) -> tuple[Layer, ...]:
        if isinstance(self.layers, str):
            return ARCHITECTURES[self.layers]
        layers = tuple(self.layers)
        for layer in layers:
            if not isinstance(layer, Layer):
                raise ValueError(
                    "layers must be the name of an architecture or layers of fastmnist.network.layers, as Conv2D(32, 3, "
                    f"activation='relu'); got {layer!r} among them."
                )
        return layers

    def _spec(self) -> Spec:
        layers = (*self._hidden_layers(), Dense(self._n_outputs))
        return Spec(self.n_features_in_, layers, self._loss(), self._optimizer(), self.alpha, self.image_shape_)

    def _check_combinations(self) -> None:
        super()._check_combinations()
        if self.solver == "lbfgs":
            for layer in self._hidden_layers():
                if type(layer).__name__ in ("BatchNorm", "Dropout"):
                    raise ValueError(
                        f"{type(layer).__name__} needs mini-batches: solver must be 'adam', 'adamw' or 'sgd'; got solver='lbfgs' with {layer}. "
                        "Leave the layer out, or change the solver."
                    )

    def _smoothing(self) -> float:
        if self.label_smoothing == "auto":
            return AUTO_LABEL_SMOOTHING if self._n_outputs > 1 else 0.0
        return super()._smoothing()

    def _learning_rate_schedule(self, *, incremental: bool) -> Schedule | None:
        if self.schedule == "auto":
            constant = self.solver != "sgd" or self.learning_rate == "constant"
            return OneCycle() if constant and self.solver != "lbfgs" and not incremental else None
        return super()._learning_rate_schedule(incremental=incremental)

    def _fitted_arrays(self) -> list[np.ndarray]:
        return [*self.coefs_, *self.intercepts_, *self.batch_norms_]

    def _row_shapes(self) -> set[tuple[int, ...]]:
        height, width, channels = self.image_shape_
        images = {(1, height, width, channels)} | ({(1, height, width)} if channels == 1 else set())
        return super()._row_shapes() | images

    def _parameters(self) -> list[np.ndarray]:
        """The fitted arrays as the layers have their parameters: weights as matrices."""
        layers = self._spec().layers
        asked = [sum(isinstance(layer, kind) for layer in layers) for kind in ((Conv2D, Dense), BatchNorm)]
        if asked != [len(self.coefs_), len(self.batch_norms_)]:
            raise ValueError(
                f"{type(self).__name__} was fitted with {len(self.coefs_)} layers that have weights and {len(self.batch_norms_)} BatchNorm, "
                f"the output layer included; layers={self.layers!r} now asks for {asked[0]} and {asked[1]}. Set layers back with set_params, "
                "or fit anew with warm_start=False."
            )
        coefs, intercepts, norms = iter(self.coefs_), iter(self.intercepts_), iter(self.batch_norms_)
        parameters: list[np.ndarray] = []
        for layer in layers:
            if isinstance(layer, (Conv2D, Dense)):
                w = next(coefs)
                parameters += [w.reshape(-1, w.shape[-1]), next(intercepts)]
            elif isinstance(layer, BatchNorm):
                parameters += list(next(norms))
        return parameters

    def _store_parameters(self, parameters: list[np.ndarray]) -> None:
        self.coefs_, self.intercepts_, self.batch_norms_ = [], [], []
        rest = iter(parameters)
        spec = self._spec()
        for layer, before in zip(spec.layers, spec.shapes, strict=False):
            if isinstance(layer, Conv2D):
                self.coefs_.append(next(rest).reshape(*layer.window, before[2], layer.filters))
                self.intercepts_.append(next(rest))
            elif isinstance(layer, Dense):
                self.coefs_.append(next(rest))
                self.intercepts_.append(next(rest))
            elif isinstance(layer, BatchNorm):
                self.batch_norms_.append(np.stack([next(rest) for _ in range(4)]))

    # --- images -----------------------------------------------------------------------------------------------------------------

    def _validate_training_data(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, *, reset: bool
    ) -> tuple[Matrix, np.ndarray, np.ndarray | None]:
        X, shape = as_rows(X)
        if reset:
            result = super()._validate_training_data(X, y, sample_weight, reset=True)
            if self.image_shape is None:
                _refuse_channels_first(shape)
            self.image_shape_ = learn_image_shape(self.image_shape, self.n_features_in_, shape)
            return result
        self._require_image_shape(shape)
        return super()._validate_training_data(X, y, sample_weight, reset=False)

    def _validate_new_data(self, X: ArrayLike) -> tuple[Matrix, float]:
        X, shape = as_rows(X)
        result = super()._validate_new_data(X)
        self._require_image_shape(shape)
        return result

    def _judges_on_device(self) -> bool:
        return not self.test_time_augmentation and super()._judges_on_device()

    def _predicted_labels(self, X: Matrix, scale: float) -> np.ndarray | None:
        return None if self.test_time_augmentation else super()._predicted_labels(X, scale)

    def _outputs(self, X: Matrix, scale: float, *, link: bool = True) -> np.ndarray:
        if not self.test_time_augmentation:
            return super()._outputs(X, scale, link=link)
        if isinstance(X, DeviceRows):
            raise ValueError(
                "test_time_augmentation needs X in the host's memory, where images are shifted; got X on the GPU. Pass X.get() (CuPy) or X.cpu() "
                "(PyTorch), or set test_time_augmentation=False."
            )
        n = X.shape[0]
        block = max(1, self._tta_block_bytes // (5 * X.shape[1] * X.dtype.itemsize))
        means = []
        for start in range(0, n, block):
            part = X[start : start + block]
            versions = shifted_images(part if isinstance(part, np.ndarray) else part.toarray(), self.image_shape_)
            outputs = super()._outputs(np.concatenate(versions), scale, link=link)
            means.append(outputs.reshape(len(versions), part.shape[0], -1).mean(axis=0))
        return np.concatenate(means)

    def _validation(
        self, validation_data: tuple[ArrayLike, ArrayLike] | None, dtype: np.dtype, max_memory: int
    ) -> Validation | None:
        if isinstance(validation_data, (tuple, list)) and len(validation_data) == 2:
            X, shape = as_rows(validation_data[0])
            self._require_image_shape(shape)
            validation_data = X, validation_data[1]
        return super()._validation(validation_data, dtype, max_memory)

    def _training_image_shape(self) -> Shape:
        return self.image_shape_

    def _require_image_shape(self, shape: Shape | None) -> None:
        if shape not in (None, self.image_shape_):
            assert shape is not None
            channels_first = (*shape[1:], shape[0]) == self.image_shape_
            raise ValueError(
                f"X has images of the shape {shape}, but {type(self).__name__} was fitted on images of the shape {self.image_shape_} "
                f"(height, width, channels). {'Channels come last: pass np.moveaxis(X, 1, -1).' if channels_first else 'Resize them first.'}"
            )


def _refuse_channels_first(shape: Shape | None) -> None:
    """Images in torch's layout would be trained on as very low ones with many channels, and nobody would notice."""
    if shape is not None and shape[0] in CHANNELS_OF_PICTURES and shape[1] == shape[2] > max(CHANNELS_OF_PICTURES):
        raise ValueError(
            f"X of shape (n, {shape[0]}, {shape[1]}, {shape[2]}) looks like (n, channels, height, width), but channels come last: pass "
            f"np.moveaxis(X, 1, -1). If the images do have {shape[0]} x {shape[1]} pixels and {shape[2]} channels, say image_shape={shape}."
        )
