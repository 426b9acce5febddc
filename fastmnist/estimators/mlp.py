"""Multi-layer perceptron: what users see of it. How it is fitted is in `mlp_fitting.py`."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call

from fastmnist.estimators.base import NetworkClassifier
from fastmnist.estimators.mlp_fitting import STOCHASTIC_SOLVERS, MLPFitting
from fastmnist.network.layers import ACTIVATIONS
from fastmnist.network.schedules import Schedule


def _has_partial_fit(estimator: MLPClassifier) -> bool:
    if estimator.solver not in STOCHASTIC_SOLVERS:
        raise AttributeError(
            f"partial_fit is only available for the stochastic solvers {STOCHASTIC_SOLVERS}; solver={estimator.solver!r} is not one."
        )
    return True


class MLPClassifier(MLPFitting):
    """Multi-layer perceptron with compiled training.

    Minimises the cross-entropy of softmax outputs (of two classes: of one sigmoid output) plus scikit-learn's L2 term
    `alpha / 2 * sum(W ** 2) / sum_i w_i` over a batch. From the same `random_state` the initial weights, the order of the samples and
    hence, up to rounding, the whole run are scikit-learn's.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units of each hidden layer.
    activation : str, default="relu"
        "identity", "logistic" (or "sigmoid"), "tanh", "relu", "leaky_relu" (slope 0.01), "elu", "gelu" (exact).
    solver : {"adam", "adamw", "sgd", "lbfgs"}, default="adam"
        "adamw" is Adam with decoupled `weight_decay`.
    alpha : float, default=0.0001
        Strength of the L2 term above, weights only.
    batch_size : int or "auto", default="auto"
        "auto" is `min(200, n_samples)`.
    learning_rate : {"constant", "invscaling", "adaptive"}, default="constant"
        As in scikit-learn, with solver "sgd" only. `schedule` takes precedence.
    learning_rate_init : float, default=0.001
    power_t : float, default=0.5
        Exponent of "invscaling".
    max_iter : int, default=200
        Epochs at most; iterations with "lbfgs".
    shuffle : bool, default=True
        Visit the samples in a new order each epoch.
    random_state : int, RandomState or None, default=None
        Initial weights, validation split, order, dropout. The same int gives the same bits, on any number of threads.
    tol : float, default=1e-4
        Stop when loss (with `early_stopping` validation accuracy) was not better by `tol` for more than `n_iter_no_change` epochs.
    verbose : bool, default=False
        Print each epoch's loss.
    warm_start : bool, default=False
        Start from the last solution; as in scikit-learn the optimizer starts anew (`partial_fit` continues it).
    momentum : float, default=0.9
        In [0, 1), with "sgd".
    nesterovs_momentum : bool, default=True
    early_stopping : bool, default=False
        Hold out `validation_fraction` of the training data (or use `validation_data`) and keep the weights of its best accuracy.
    validation_fraction : float, default=0.1
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        Of "adam" and "adamw".
    n_iter_no_change : int, default=10
    max_fun : int, default=15000
        Evaluations of the loss at most, with "lbfgs".
    class_weight : dict or "balanced", default=None
        Weights of the classes, multiplied with `sample_weight`.
    dropout : float or array-like of float, default=0.0
        Probability of dropping a unit of each hidden layer; one number for all, or one for each.
    schedule : str or Schedule, default=None
        "constant", "step", "cosine", "one_cycle", "invscaling" or an object of `fastmnist.network.schedules`: the learning rate of each
        step, over the `max_iter` epochs. Takes precedence over `learning_rate`.
    weight_decay : float, default=0.0
        torch's: added to the gradient of weights and biases ("sgd", "adam"), or decoupled ("adamw").
    label_smoothing : float, default=0.0
        In [0, 1); more than two classes only.
    record_steps : bool, default=False
        Keep the loss of every step in `step_losses_`.
    backend : {"auto", "numpy", "numba", "cupy"}, default="auto"
        What computes; "auto" takes NumPy for small work.
    n_threads : int, default=None
        Threads of compiled code; None: as many as this process may use.
    pixel_scale : "auto" or float, default="auto"
        What uint8 X is multiplied by in `fit` and `predict`; "auto" is 1/255. Other dtypes are taken as they are. 1 switches it off.
    max_memory : int, default=None
        Bytes that `fit` may take for copies of X: compressed rows, another dtype, rows of a file. What would not fit is read and converted
        in windows, rows in a file (`np.memmap`) being shuffled window by window. None: half of the memory that is available.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coefs_, intercepts_ : list of ndarray
        Weights (inputs, units) and biases (units,) of each layer; float64 where NumPy computed in it, else float32.
    loss_ : float
        Of the last epoch.
    best_loss_ : float or None
        Smallest loss; None with early stopping, and with "lbfgs".
    loss_curve_ : list of float
        Loss of each epoch: the mean of what each sample cost when it was visited, plus the L2 term. scikit-learn takes the weights before
        each step for that term; here they are those at the end of the epoch. With "lbfgs" the loss after each iteration.
    validation_scores_ : list of float or None
        Validation accuracy of each epoch with early stopping.
    best_validation_score_ : float or None
    n_iter_ : int
        Epochs, or iterations, of the last fit.
    t_ : int
        Training samples seen.
    n_layers_, n_outputs_ : int
    out_activation_ : {"softmax", "logistic"}
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had names.
    history_ : dict of lists
        `loss, val_loss, accuracy, val_accuracy, learning_rate, seconds` of each epoch; None where there is no value. `accuracy` is the
        share of samples that were classified correctly when visited; `val_loss` is without L2 and label smoothing.
    step_losses_ : ndarray of shape (n_steps,)
        Mean loss of each batch, without L2; with `record_steps=True`.
    backend_, backend_reason_ : str
        What computed, and why.
    pixel_scale_ : float
        What the training data were multiplied by.
    input_max_ : float
        Largest value of the scaled training data.
    interrupted_ : bool
        Whether Ctrl-C ended the fit.
    compile_seconds_, fit_seconds_ : float
        Wall time of compiling, and of the rest of `fit`.

    Examples
    --------
    >>> from fastmnist import MLPClassifier, load_mnist
    >>> X, y = load_mnist("train", return_X_y=True)
    >>> clf = MLPClassifier((128, 64), batch_size=32, max_iter=10, random_state=0).fit(X, y)  # doctest: +SKIP
    >>> clf.score(*load_mnist("test", return_X_y=True))  # doctest: +SKIP
    0.979
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **NetworkClassifier._parameter_constraints,
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({*ACTIVATIONS, "logistic"})],
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
        "dropout": ["array-like", Interval(Real, 0, 1, closed="left")],
        "schedule": [None, str, Schedule],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "record_steps": ["boolean"],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Iterable[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
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
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: dict | str | None = None,
        dropout: float | Iterable[float] = 0.0,
        schedule: str | Schedule | None = None,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
        record_steps: bool = False,
        backend: str = "auto",
        n_threads: int | None = None,
        pixel_scale: float | str = "auto",
        max_memory: int | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
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
        self.dropout = dropout
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.record_steps = record_steps
        self.backend = backend
        self.n_threads = n_threads
        self.pixel_scale = pixel_scale
        self.max_memory = max_memory

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

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predicted class labels.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            Of the type of `classes_`.
        """
        outputs = self._outputs(*self._validate_new_data(X))
        indices = (outputs[:, 0] > 0.5).astype(int) if self.n_outputs_ == 1 else outputs.argmax(axis=1)
        return self.classes_[indices]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probability estimates.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns as in `classes_`.
        """
        outputs = self._outputs(*self._validate_new_data(X))
        return np.hstack([1 - outputs, outputs]) if self.n_outputs_ == 1 else outputs
