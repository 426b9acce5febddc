"""How logistic regressions are fitted: full-batch searches and mini-batches, and what `LogisticRegression` and
`OneVsRestLogisticRegression` share besides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions

from fastmnist.backends.device_rows import DeviceRows
from fastmnist.backends.rows import Matrix, convert
from fastmnist.estimators.network_classifier import NetworkClassifier
from fastmnist.network.layers import Dense
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from fastmnist.network.optimizers import SGD
from fastmnist.network.spec import Spec
from fastmnist.threads import one_blas_thread
from fastmnist.training.device_search import lbfgs_on_device, searches_on_device
from fastmnist.training.full_batch import Objective, Solution, gradient_descent, lbfgs
from fastmnist.training.history import OnEpoch
from fastmnist.training.lockstep import lbfgs_by_output
from fastmnist.training.preconditioner import make_preconditioner
from fastmnist.training.trainer import Plan, Progress, train
from fastmnist.training.validation import Validation
from fastmnist.warning import warn_user

if TYPE_CHECKING:
    from fastmnist.backends.base import BoundExecutor

SGD_N_ITER_NO_CHANGE = 5  # scikit-learn's SGDClassifier
# scikit-learn's settings of L-BFGS: more trials in a line search, and stop at rounding level only.
LBFGS_OPTIONS = {"maxls": 50, "ftol": 64 * np.finfo(np.float64).eps}
ROUNDING_UNITS = 64  # a float32 gradient is accurate to some tens of units of rounding, times the size of the features
DEVICE_SAMPLE_ROWS = 4096  # of X on a GPU, whose features' size is judged by them
CHUNK_ROWS = 1024  # converted at a time in decision_function


class LogisticFitting(NetworkClassifier):
    """Everything but the loss and its link."""

    _judges_probabilities = False
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **NetworkClassifier._parameter_constraints,
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "dual": ["boolean"],
        "fit_intercept": ["boolean"],
        "intercept_scaling": [Interval(Real, 0, None, closed="neither")],
        "solver": [StrOptions({"lbfgs", "gd", "sgd"})],
        "precondition": ["boolean"],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        dual: bool = False,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        intercept_scaling: float = 1,
        class_weight: dict | str | None = None,
        random_state: int | np.random.RandomState | None = None,
        solver: str = "lbfgs",
        max_iter: int = 100,
        verbose: int = 0,
        warm_start: bool = False,
        learning_rate_init: float = 0.1,
        batch_size: int | str = "auto",
        backend: str = "auto",
        n_threads: int | None = None,
        pixel_scale: float | str = "auto",
        max_memory: int | None = None,
        precondition: bool = True,
    ) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.backend = backend
        self.n_threads = n_threads
        self.pixel_scale = pixel_scale
        self.max_memory = max_memory
        self.precondition = precondition

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "coef_")

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
            Weights >= 0; None: all 1.
        validation_data : tuple (X, y), default=None
            Held-out data, evaluated after each iteration for `history_`; they do not influence the fit.

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
            return self._fit(X, y, sample_weight, validation_data)

    def _fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        validation_data: tuple[ArrayLike, ArrayLike] | None,
    ) -> Self:
        self._check_supported()
        start = time.perf_counter()
        X, y, sample_weight = self._validate_training_data(X, y, sample_weight, reset=True)
        indices = self._learn_classes(y)
        weights = self._weights(indices, sample_weight)
        scale = self._set_pixel_scale(X)
        labels = self._labels(indices)
        n_samples = X.shape[0]
        total = float(n_samples) if weights is None else float(weights.sum())

        batch_size = self._effective_batch_size(n_samples) if self.solver == "sgd" else n_samples
        # A step of mini-batches adds l2 / (its weights) * W to the gradient; on average that is W / (C total).
        spec = self._spec(l2=batch_size / (self.C * n_samples) if self.solver == "sgd" else 0.0)
        steps = self.max_iter * math.ceil(n_samples / batch_size)
        executor = self._open_executor(spec, X, epochs=self.max_iter, steps=steps)
        max_memory = self._memory_limit()
        full_batch = self.solver != "sgd"
        bound, data = self._bind(executor, X, labels, weights, scale, max_memory, full_batch)
        validation = self._validation(validation_data, executor.dtype, max_memory)

        initial = self._initial_parameters(spec)
        if self.solver == "sgd":
            parameters, diverged = self._fit_sgd(bound, initial, n_samples, weights, batch_size, validation)
        else:
            # NumPy's products gain less by BLAS's threads than they lose to those of SciPy's BLAS, which spin between them.
            free = executor.backend == "numpy" and self.solver == "gd"
            with nullcontext() if free else one_blas_thread():
                objective = self._objective(bound, 1 / (self.C * total), X, weights, max_memory)
                parameters, diverged = self._fit_full_batch(objective, initial, validation, X)
        advice = "" if self.solver == "lbfgs" else f"; or learning_rate_init={self.learning_rate_init:g} is too large"
        self._require_finite(parameters, diverged, advice)
        # Kernels read coef_.T, feature by feature, in place.
        self.coef_ = np.array(parameters[0], executor.dtype, order="C").T
        self.intercept_ = np.ascontiguousarray(parameters[1], executor.dtype)
        self._release_data(executor, data, labels)
        self.compile_seconds_ = executor.compile_seconds
        self.fit_seconds_ = time.perf_counter() - start - self.compile_seconds_
        return self

    def _check_supported(self) -> None:
        """Values that scikit-learn has and this class has not.

        Raises
        ------
        ValueError
            Names the parameter and what is supported.
        """
        name = type(self).__name__
        if self.l1_ratio != 0:
            raise ValueError(
                f"{name} supports the L2 penalty only: l1_ratio must be 0; got {self.l1_ratio!r}. (C=np.inf switches it off.)"
            )
        if self.dual:
            raise ValueError(f"{name} solves the primal problem only: dual must be False; got {self.dual!r}.")
        if self.intercept_scaling != 1:
            raise ValueError(
                f"{name} does not penalise the intercept: intercept_scaling must be 1; got {self.intercept_scaling!r}."
            )

    def _loss(self) -> SoftmaxCrossEntropy | BinaryCrossEntropy:
        raise NotImplementedError

    def _spec(self, l2: float = 0.0) -> Spec:
        layer = Dense(self._n_outputs, kernel_initializer="zeros", use_bias=bool(self.fit_intercept))
        return Spec(self.n_features_in_, (layer,), self._loss(), SGD(), l2)

    def _fitted_arrays(self) -> list[np.ndarray]:
        return [self.coef_, self.intercept_]

    def _parameters(self) -> list[np.ndarray]:
        return [np.ascontiguousarray(self.coef_.T), self.intercept_]

    def _initial_parameters(self, spec: Spec) -> list[np.ndarray]:
        """Zeros, or with warm_start the last solution."""
        if self.warm_start and hasattr(self, "coef_"):
            parameters = self._parameters()
            if tuple(p.shape for p in parameters) != spec.parameter_shapes:
                raise ValueError(
                    f"warm_start=True needs data of the same shape as before: coef_ has shape {self.coef_.shape}, the data now ask for "
                    f"{spec.parameter_shapes[0][::-1]}. Use warm_start=False, or a new estimator."
                )
            return parameters
        return [np.zeros(shape) for shape in spec.parameter_shapes]

    def _objective(
        self, executor: BoundExecutor, l2: float, X: Matrix, weights: np.ndarray | None, max_memory: int
    ) -> Objective:
        preconditioner = None
        # Without a penalty there may be many minima: from 0 in the parameters themselves it is the one of least norm that is reached.
        if self.solver == "lbfgs" and self.precondition and l2 > 0:
            preconditioner = make_preconditioner(
                X,
                scale=self.pixel_scale_,
                sample_weight=weights,
                n_outputs=self._n_outputs,
                l2=l2,
                fit_intercept=self.fit_intercept,
                dtype=executor.dtype,
                max_memory=max_memory,
            )
        return Objective(executor, l2, fit_intercept=self.fit_intercept, preconditioner=preconditioner)

    def _fit_full_batch(
        self, objective: Objective, initial: list[np.ndarray], validation: Validation | None, X: Matrix
    ) -> tuple[list[np.ndarray], bool]:
        on_epoch: OnEpoch = self._listen
        solution: Solution
        if self.solver == "lbfgs":
            # One-vs-rest: the classes' problems share nothing but the data.
            separate = self._n_outputs > 1 and isinstance(self._loss(), BinaryCrossEntropy)
            if searches_on_device(objective.executor):
                minimise: Callable[..., Solution] = partial(lbfgs_on_device, by_output=separate)
            else:
                minimise = lbfgs_by_output if separate else lbfgs
            solution = minimise(
                objective,
                initial,
                tol=self.tol,
                max_iter=self.max_iter,
                options=LBFGS_OPTIONS,
                validation=validation,
                on_epoch=on_epoch,
            )
        else:
            solution = gradient_descent(
                objective,
                initial,
                learning_rate=self.learning_rate_init,
                tol=self.tol,
                max_iter=self.max_iter,
                validation=validation,
                on_epoch=on_epoch,
            )
        self.n_iter_ = np.array(solution.n_iter_by_output or [solution.n_iter], np.int32)
        self.loss_curve_ = solution.loss_curve
        self._publish_losses_by_class(solution)
        self.history_ = solution.history
        self._set_interrupted(solution.interrupted)
        diverged = not (solution.interrupted or math.isfinite(solution.loss))
        if not (solution.converged or solution.interrupted or diverged or self._is_at_rounding(objective, solution, X)):
            self._warn_not_converged(solution.n_iter, solution.message)
        return solution.parameters, diverged

    def _is_at_rounding(self, objective: Objective, solution: Solution, X: Matrix) -> bool:
        """Whether what is left of the gradient may be its rounding errors."""
        if objective.executor.dtype != np.float32:
            return False
        unit = ROUNDING_UNITS * float(np.finfo(np.float32).eps)
        return solution.gradient_max <= unit * self._feature_size(X)

    def _publish_losses_by_class(self, solution: Solution) -> None:
        """Nothing here: a multinomial loss does not fall into classes."""

    def _feature_size(self, X: Matrix) -> float:
        """Largest mean absolute value of a feature (at least 1: the intercept's): what rounding errors of gradients scale with."""
        if isinstance(X, DeviceRows):  # of as many rows as tell
            X = X[:DEVICE_SAMPLE_ROWS].dense()
        total = sum(abs(X[rows]).sum(axis=0, dtype=np.float64) for rows in gen_batches(X.shape[0], CHUNK_ROWS))
        return max(1.0, float(np.max(total)) / X.shape[0] * self.pixel_scale_)

    def _warn_not_converged(self, n_iter: int, message: str) -> None:
        advice = f" Increase max_iter ({self.max_iter})" if n_iter >= self.max_iter else " Increase tol"
        if self.solver != "lbfgs":
            advice += ", change learning_rate_init,"
        warn_user(
            f"{self.solver} failed to converge after {n_iter} iteration(s): {message}.{advice} "
            "or scale the data (sklearn.preprocessing.StandardScaler).",
            ConvergenceWarning,
        )

    def _fit_sgd(
        self,
        executor: BoundExecutor,
        initial: list[np.ndarray],
        n_samples: int,
        weights: np.ndarray | None,
        batch_size: int,
        validation: Validation | None,
    ) -> tuple[list[np.ndarray], bool]:
        executor.set_parameters(initial)
        executor.reset_optimizer()
        rows = np.arange(n_samples) if weights is None else np.flatnonzero(weights)
        plan = Plan(
            max_epochs=self.max_iter,
            batch_size=batch_size,
            learning_rate=self.learning_rate_init,
            tol=self.tol,
            n_iter_no_change=SGD_N_ITER_NO_CHANGE,
            l2=executor.spec.l2,
        )
        progress = Progress()
        progress.begin_fit(plan)
        rng = check_random_state(self.random_state)
        train(
            executor,
            rows,
            plan,
            progress,
            rng,
            sample_weight=weights,
            validation=validation,
            on_epoch=self._listen,
            say=self._say,
        )
        self.n_iter_ = np.array([progress.epochs], np.int32)
        self.loss_curve_ = progress.loss_curve
        self.history_ = progress.history
        self._set_interrupted(progress.interrupted)
        if not (progress.converged or progress.interrupted or progress.diverged):
            self._warn_not_converged(progress.epochs, "max_iter was reached")
        return executor.get_parameters(), progress.diverged

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Logits.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            `scale * X @ coef_.T + intercept_`; of two classes only the logit of `classes_[1]`.
        """
        logits = self._outputs_of_row(X, link=False)
        if logits is None:
            logits = self._scores(*self._validate_new_data(X))
        return logits.ravel() if logits.shape[1] == 1 else logits

    def _scores(self, X: Matrix | DeviceRows, scale: float) -> np.ndarray:
        """Logits (n, n_outputs) for validated X."""
        if self._current_executor().backend != "numpy":
            return self._outputs(X, scale, link=False)
        dtype = self.coef_.dtype
        weights = np.ascontiguousarray(self.coef_.T) * dtype.type(scale)
        logits = np.empty((X.shape[0], len(self.intercept_)), dtype)
        for rows in gen_batches(X.shape[0], CHUNK_ROWS):
            np.matmul(convert(X[rows], dtype), weights, out=logits[rows])
        logits += self.intercept_
        return logits
