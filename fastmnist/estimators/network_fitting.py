"""How networks are fitted: the user's entrances, the mini-batch and the L-BFGS run, and what continues from fit to fit.

`MLPClassifier` and `CNNClassifier` add their layers to it.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call

from fastmnist.backends import PRECISIONS
from fastmnist.backends.rows import Matrix, StoredRows
from fastmnist.backends.warping import LARGEST_WINDOW, AugmentedExecutor
from fastmnist.estimators.network_classifier import NetworkClassifier
from fastmnist.network.augmentation import FOR_DIGITS, Augment
from fastmnist.network.initializers import initial_parameters
from fastmnist.network.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from fastmnist.network.optimizers import SGD, Adam, AdamW, Optimizer
from fastmnist.network.schedules import Schedule, parse
from fastmnist.network.shapes import Shape
from fastmnist.network.spec import Spec
from fastmnist.threads import one_blas_thread
from fastmnist.training.trainer import Plan, Progress, train
from fastmnist.training.validation import Validation
from fastmnist.warning import warn_user

if TYPE_CHECKING:
    from fastmnist.backends.base import BoundExecutor, Executor

STOCHASTIC_SOLVERS = ("adam", "adamw", "sgd")
# NumPy augments an image of 784 values in 50 to 100 us, in which it does so many operations of a product for each of them.
NUMPY_AUGMENT_FLOPS = 2000


@dataclass(frozen=True)
class _Data:
    """Training data, encoded: X as it was bound, the classes' indices and labels, the user's weights and all weights."""

    X: np.ndarray | StoredRows
    indices: np.ndarray
    labels: np.ndarray
    sample_weight: np.ndarray | None
    weights: np.ndarray | None
    pixel_scale: float


def _augmented_executor(backend: str) -> type[AugmentedExecutor]:
    if backend != "cupy":
        return AugmentedExecutor
    from fastmnist.backends.gpu_warping import DeviceAugmentedExecutor

    return DeviceAugmentedExecutor


def _has_partial_fit(estimator: NetworkFitting) -> bool:
    if estimator.solver not in STOCHASTIC_SOLVERS:
        raise AttributeError(
            f"partial_fit is only available for the stochastic solvers {STOCHASTIC_SOLVERS}; solver={estimator.solver!r} is not one."
        )
    return True


class NetworkFitting(NetworkClassifier):
    """A network that is fitted as scikit-learn's `MLPClassifier`: with the parameters named here, and the layers of a subclass' `_spec`."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **NetworkClassifier._parameter_constraints,
        "solver": [StrOptions({*STOCHASTIC_SOLVERS, "lbfgs"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "schedule": [None, str, Schedule],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "ema_decay": [Interval(Real, 0, 1, closed="left")],
        "record_steps": ["boolean"],
        "precision": [StrOptions(set(PRECISIONS))],
        "augment": [Augment, "boolean"],
        "image_shape": ["array-like", None],
    }

    solver: str
    alpha: float
    learning_rate: str
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: int | np.random.RandomState | None
    tol: float
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    schedule: str | Schedule | None
    weight_decay: float
    label_smoothing: float | str
    ema_decay: float
    record_steps: bool
    precision: str
    augment: Augment | bool
    image_shape: Shape | None

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "coefs_")

    # --- the user's entrances ---------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Numbers; uint8 pixels are scaled as `pixel_scale` says.
        y : array-like of shape (n_samples,)
            Class labels of any type.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights >= 0; None: all 1. Samples of weight 0 are left out.
        validation_data : tuple (X, y), default=None
            Held-out data, evaluated after each epoch for `history_`. With `early_stopping` they take the place of the split.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Data or parameters break a rule; the message names it.
        fastmnist.BackendUnavailable
            The backend that was asked for cannot run here.
        """
        with self._fitting():
            return self._fit(X, y, sample_weight, validation_data, incremental=False)

    @available_if(_has_partial_fit)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch over the given data, and continue where the last call stopped.

        The optimizer's moments live in the process: after unpickling they start at zero.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), default=None
        classes : array-like of shape (n_classes,), default=None
            All classes of all calls; needed in the first one.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As in `fit`; or `early_stopping` is on, which makes no sense here.
        """
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True; use fit, or early_stopping=False.")
        with self._fitting():
            if classes is not None and not hasattr(self, "classes_"):
                self._set_classes(np.unique(classes))
            _check_partial_fit_first_call(self, classes)
            return self._fit(X, y, sample_weight, None, incremental=True)

    # --- the network ------------------------------------------------------------------------------------------------------------

    # Name of the parameter that says which layers there are.
    _layers_parameter: ClassVar[str]

    def _optimizer(self) -> Optimizer:
        if self.solver == "sgd":
            return SGD(self.momentum, bool(self.nesterovs_momentum), self.weight_decay)
        adam = AdamW if self.solver == "adamw" else Adam
        return adam(self.beta_1, self.beta_2, self.epsilon, self.weight_decay)

    def _loss(self) -> Loss:
        return BinaryCrossEntropy() if self._n_outputs == 1 else SoftmaxCrossEntropy(self._smoothing())

    def _smoothing(self) -> float:
        """`label_smoothing` as a number."""
        return float(self.label_smoothing)

    def _learning_rate_schedule(self, *, incremental: bool) -> Schedule | None:
        """`schedule` as a Schedule; `incremental` in `partial_fit`, which knows no end."""
        return None if self.schedule is None else parse(self.schedule)

    def _fitted_arrays(self) -> list[np.ndarray]:
        return [*self.coefs_, *self.intercepts_]

    def _parameters(self) -> list[np.ndarray]:
        return [p for layer in zip(self.coefs_, self.intercepts_, strict=True) for p in layer]

    def _store_parameters(self, parameters: list[np.ndarray]) -> None:
        """Make them public attributes, from which `_parameters` makes them again."""
        self.coefs_, self.intercepts_ = parameters[::2], parameters[1::2]

    # --- fitting ----------------------------------------------------------------------------------------------------------------

    def _fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        validation_data: tuple[ArrayLike, ArrayLike] | None,
        *,
        incremental: bool,
    ) -> Self:
        start = time.perf_counter()
        self._check_combinations()
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y, sample_weight = self._validate_training_data(X, y, sample_weight, reset=first_pass)
        indices = self._encode(y, learn=first_pass and not incremental)
        weights = self._weights(indices, sample_weight)
        rng = check_random_state(self.random_state)
        spec = self._spec()
        if first_pass:
            executor = self._first_executor(spec, X, epochs=1 if incremental else self.max_iter)
            compiled_before = 0.0
            scale = self._set_pixel_scale(X)
            initial = initial_parameters(spec, rng, executor.dtype)
        else:
            executor = self._next_executor(spec)
            compiled_before = executor.compile_seconds
            scale = self._pixel_scale_for(X)
            initial = self._parameters()
        labels, max_memory = self._labels(indices), self._memory_limit()
        validation = self._validation(validation_data, executor.dtype, max_memory)
        bound, rows = self._bind(executor, X, labels, weights, scale, max_memory)
        data = _Data(rows, indices, labels, sample_weight, weights, scale)
        if self.solver == "lbfgs":
            parameters, diverged = self._fit_lbfgs(bound, initial, data, validation)
        else:
            progress = Progress() if first_pass else self._last_progress()
            continued = incremental and not first_pass
            parameters, diverged = self._fit_stochastic(
                bound, initial, data, validation, rng, progress, incremental=incremental, continued=continued
            )
        try:
            self._require_finite(
                parameters, diverged, f"; or learning_rate_init={self.learning_rate_init:g} is too large"
            )
        except ValueError:
            executor.reset_optimizer()  # its moments are no finite numbers either, and partial_fit would go on with them
            raise
        parameters = [np.ascontiguousarray(p, executor.dtype) for p in parameters]
        self._store_parameters(parameters)
        self.n_layers_ = len(self.coefs_) + 1
        self.n_outputs_ = self._n_outputs
        self.out_activation_ = "logistic" if self.n_outputs_ == 1 else "softmax"
        self._release_data(executor, data.X, data.labels)
        self.compile_seconds_ = executor.compile_seconds - compiled_before
        self.fit_seconds_ = time.perf_counter() - start - self.compile_seconds_
        return self

    def _fit_stochastic(
        self,
        executor: BoundExecutor,
        initial: list[np.ndarray],
        data: _Data,
        validation: Validation | None,
        rng: np.random.RandomState,
        progress: Progress,
        *,
        incremental: bool,
        continued: bool,
    ) -> tuple[list[np.ndarray], bool]:
        """Mini-batches; returns the parameters to keep and whether the loss blew up."""
        rows = np.arange(len(data.X)) if data.weights is None else np.flatnonzero(data.weights)
        if self.early_stopping and validation is None:
            rows, validation = self._hold_out(rows, data, rng)
        plan = self._plan(len(rows), incremental=incremental)
        if isinstance(executor, AugmentedExecutor):
            executor.begin(self._augmentation_seed(rng), len(progress.loss_curve))
        executor.set_parameters(progress.parameters_behind(initial) if continued else initial)
        if continued:
            progress.epochs = 0
        else:
            executor.reset_optimizer()
            progress.begin_fit(plan)
        progress.begin_average(plan, continued=continued)
        train(
            executor,
            rows,
            plan,
            progress,
            rng,
            n_epochs=1 if incremental else self.max_iter,
            sample_weight=data.weights,
            validation=validation,
            on_epoch=self._listen,
            say=self._say,
        )
        self._publish(progress, warn=not incremental)
        if self.early_stopping and progress.best_parameters is not None:
            return progress.best_parameters, progress.diverged
        last = executor.get_parameters()
        if progress.average is None or progress.average.parameters is None:
            return last, progress.diverged
        progress.last_parameters = last
        return [p.copy() for p in progress.average.parameters], progress.diverged

    def _check_combinations(self) -> None:
        """Refuse parameters that contradict each other.

        Raises
        ------
        ValueError
            Names both parameters and what to change.
        """
        if self.solver == "lbfgs":
            needs: dict[str, Any] = {"dropout": 0.0, "weight_decay": 0.0, "schedule": None, "ema_decay": 0.0}
            needs |= {"augment": False, "precision": "float32"}
            for name, off in needs.items():
                value = getattr(self, name, off)
                if np.any(value) if name == "dropout" else value not in (off, "auto"):
                    raise ValueError(
                        f"{name} needs mini-batches: solver must be one of {STOCHASTIC_SOLVERS}; got solver='lbfgs' with "
                        f"{name}={value!r}. Leave {name} at {off!r}, or change the solver."
                    )

    # --- augmentation -----------------------------------------------------------------------------------------------------------

    def _training_image_shape(self) -> Shape:
        """What a row of X is: (height, width, channels)."""
        raise NotImplementedError

    def _numpy_flops_per_sample(self, spec: Spec) -> float:
        return NUMPY_AUGMENT_FLOPS * spec.n_features if self.augment else 0.0

    def _augmentation(self) -> Augment:
        return FOR_DIGITS if isinstance(self.augment, (bool, np.bool_)) else self.augment

    def _augmented_bytes(self, nbytes: int) -> int:
        if not self.augment:
            return 0
        from fastmnist.kernels.gpu.warping import SCRATCH_BYTES

        return min(nbytes, LARGEST_WINDOW) + (SCRATCH_BYTES if self._augmentation().elastic_alpha else 0)

    def _augmentation_seed(self, rng: np.random.RandomState) -> int:
        """The same for every fit and `partial_fit` with the same int: an image depends on it, its row and the number of the epoch."""
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(rng.randint(2**31))

    def _bind(
        self,
        executor: Executor,
        X: Matrix,
        labels: np.ndarray,
        weights: np.ndarray | None,
        scale: float,
        max_memory: int,
        full_batch: bool = False,
    ) -> tuple[BoundExecutor, np.ndarray | StoredRows]:
        if not self.augment:
            return super()._bind(executor, X, labels, weights, scale, max_memory, full_batch)
        data, taken = self._executor_input(executor, X, max_memory)
        augmented = _augmented_executor(executor.backend)(
            executor,
            data,
            labels,
            None if weights is None else weights.astype(np.float32),
            pixel_scale=scale,
            max_memory=max_memory - taken,
            augment=self._augmentation(),
            image_shape=self._training_image_shape(),
        )
        self.backend_reason_ = f"{self.backend_reason_} {augmented.reason}"
        return augmented, data

    def _encode(self, y: np.ndarray, *, learn: bool) -> np.ndarray:
        """Indices of the labels in `classes_`, which are learned, or have to be known."""
        if learn:
            indices = self._learn_classes(y)
        else:
            indices = self._class_indices(y)
            if self.warm_start and len(np.unique(indices)) != len(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously got "
                    f"{self.classes_}, `y` has {np.unique(y)}. Use warm_start=False, or partial_fit."
                )
        if self._n_outputs == 1 and self._smoothing() > 0:
            raise ValueError(
                f"label_smoothing needs more than two classes; got label_smoothing={self.label_smoothing!r} and two. Set it to 0."
            )
        return indices

    def _first_executor(self, spec: Spec, X: Matrix, epochs: int) -> Executor:
        """For a model that starts anew: the backend is chosen."""
        n_samples = X.shape[0]
        if self.solver == "lbfgs":
            steps = self.max_iter
        else:
            batch_size = min(self._auto_batch_size if self.batch_size == "auto" else int(self.batch_size), n_samples)
            steps = epochs * math.ceil(n_samples / batch_size)
        return self._open_executor(spec, X, epochs=epochs, steps=steps)

    def _next_executor(self, spec: Spec) -> Executor:
        """For a model that goes on: the executor with the optimizer's moments, unless the parameters of this estimator were changed."""
        shapes = tuple(p.shape for p in self._parameters())
        if spec.parameter_shapes != shapes:
            raise ValueError(
                f"The fitted layers have the shapes {shapes[::2]}, {self._layers_parameter}={getattr(self, self._layers_parameter)!r} asks for "
                f"{spec.parameter_shapes[::2]}. To change them use warm_start=False, or a new estimator."
            )
        if getattr(self, "_executor", None) is not None and self._executor.spec != spec:
            del self._executor
        executor = self._current_executor()
        self.backend_ = executor.backend
        return executor

    def _plan(self, n_samples: int, *, incremental: bool) -> Plan:
        return Plan(
            max_epochs=self.max_iter,
            batch_size=self._effective_batch_size(n_samples),
            learning_rate=self.learning_rate_init,
            schedule=self._learning_rate_schedule(incremental=incremental),
            rule=self.learning_rate if self.solver == "sgd" else "constant",
            power_t=self.power_t,
            shuffle=bool(self.shuffle),
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            early_stopping=bool(self.early_stopping),
            l2=self.alpha,
            record_steps=bool(self.record_steps),
            ema_decay=self.ema_decay,
        )

    def _hold_out(self, rows: np.ndarray, data: _Data, rng: np.random.RandomState) -> tuple[np.ndarray, Validation]:
        """Rows to train on, and the others: drawn as in scikit-learn (stratified with two classes only)."""
        from sklearn.model_selection import train_test_split

        rows, held_out = train_test_split(
            rows,
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=data.indices[rows] if self._n_outputs == 1 else None,
        )
        if len(held_out) < 2:
            raise ValueError(
                f"The validation set is too small: {len(held_out)} of {len(rows) + len(held_out)} samples. Increase "
                f"'validation_fraction' ({self.validation_fraction}) or the size of your dataset."
            )
        weight = None if data.sample_weight is None else data.sample_weight[held_out]
        return rows, Validation(data.X[held_out], data.labels[held_out], weight, data.pixel_scale)

    def _last_progress(self) -> Progress:
        """Where the last fit stopped; of a model that was loaded from a file, what its public attributes tell."""
        if hasattr(self, "_progress"):
            return self._progress
        progress = Progress(
            samples_seen=self.t_, loss_curve=list(self.loss_curve_), learning_rate=self.learning_rate_init
        )
        progress.best_loss = math.inf if self.best_loss_ is None else self.best_loss_
        if self.validation_scores_ is not None:
            progress.validation_scores = list(self.validation_scores_)
            progress.best_score = max(self.validation_scores_, default=-math.inf)
        progress.history = {key: list(values) for key, values in self.history_.items()}
        return progress

    def _publish(self, progress: Progress, *, warn: bool) -> None:
        """From the trainer's progress to scikit-learn's attributes."""
        stopping = self.early_stopping
        self._progress = progress
        self.n_iter_ = progress.epochs
        self.t_ = progress.samples_seen
        self.loss_ = progress.loss
        self.loss_curve_ = progress.loss_curve
        self.best_loss_ = None if stopping else progress.best_loss
        self.validation_scores_ = progress.validation_scores if stopping else None
        self.best_validation_score_ = progress.best_score if stopping else None
        self.history_ = progress.history
        if self.record_steps:
            self.step_losses_ = np.concatenate([np.empty(0), *progress.step_losses])
        self._set_interrupted(progress.interrupted)
        # A schedule is made for max_iter epochs: to use them all is no failure.
        unfinished = not (progress.converged or progress.interrupted or progress.diverged)
        if warn and unfinished and self._learning_rate_schedule(incremental=False) is None:
            warn_user(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
            )

    def _fit_lbfgs(
        self, executor: BoundExecutor, initial: list[np.ndarray], data: _Data, validation: Validation | None
    ) -> tuple[list[np.ndarray], bool]:
        """L-BFGS; returns the parameters to keep and whether the loss blew up."""
        from fastmnist.training.device_search import lbfgs_on_device, searches_on_device
        from fastmnist.training.full_batch import Objective, lbfgs

        total = len(data.X) if data.weights is None else float(data.weights.sum())
        with one_blas_thread() if executor.backend != "numpy" else nullcontext():
            solution = (lbfgs_on_device if searches_on_device(executor) else lbfgs)(
                Objective(executor, self.alpha / total),
                initial,
                tol=self.tol,
                max_iter=self.max_iter,
                options={"maxfun": self.max_fun},
                validation=validation,
                on_epoch=self._listen,
            )
        self.n_iter_ = solution.n_iter
        self.t_ = 0
        self.loss_ = solution.loss
        self.loss_curve_ = solution.loss_curve
        self.history_ = solution.history
        self.best_loss_ = self.validation_scores_ = self.best_validation_score_ = None
        self._set_interrupted(solution.interrupted)
        diverged = not (solution.interrupted or math.isfinite(solution.loss))
        if not (solution.converged or solution.interrupted or diverged):
            warn_user(
                f"lbfgs failed to converge after {solution.n_iter} iteration(s): {solution.message}. Increase max_iter "
                f"({self.max_iter}) or max_fun ({self.max_fun}), or scale the data (sklearn.preprocessing.StandardScaler).",
                ConvergenceWarning,
            )
        return solution.parameters, diverged
