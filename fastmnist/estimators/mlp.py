"""Multi-layer perceptron. How it is fitted is in `network_fitting.py`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from fastmnist.estimators.inputs import learn_image_shape
from fastmnist.estimators.network_fitting import NetworkFitting
from fastmnist.network.augmentation import Augment
from fastmnist.network.layers import ACTIVATIONS, INITIALIZERS, Dense, Dropout, Layer
from fastmnist.network.losses import Loss, SoftmaxTwiceCrossEntropy
from fastmnist.network.schedules import Schedule
from fastmnist.network.shapes import Shape
from fastmnist.network.spec import Spec

MAX_UNITS = 2**24  # of a hidden layer: no array of weights of more could be allocated


class MLPClassifier(NetworkFitting):
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
    ema_decay : float, default=0.0
        0 < ema_decay < 1: what is validated, kept and predicted with is an exponential moving average of the parameters, in which each step back
        counts that much less; 0: the last ones. Added to every 16 steps, not bent towards the initial parameters. `partial_fit` goes on from
        the parameters behind the average, except after loading from a file.
    kernel_initializer : str, default="glorot_uniform"
        Of all layers: one of `fastmnist.network.layers.INITIALIZERS`; the default draws scikit-learn's weights.
    loss : {"log_loss", "softmax_twice"}, default="log_loss"
        "softmax_twice" is a mistake that published work made, offered to reproduce it: the cross-entropy of softmax(softmax(logits)), see
        `fastmnist.network.losses.SoftmaxTwiceCrossEntropy`. More than two classes, no label smoothing.
    record_steps : bool, default=False
        Keep the loss of every step in `step_losses_`.
    augment : Augment or bool, default=False
        Rows of X are images, and each epoch trains on other ones: every image is shifted, turned, bent ... at random, as a `fastmnist.Augment` says.
        True: by up to 2 pixels, 10 degrees, 10 % in size and 5 degrees of slant, for digits. What an image becomes depends on `random_state` (an
        int), its row and the number of the epoch alone. Validation data stay as they are.
    image_shape : tuple (height, width) or (height, width, channels), default=None
        What a row of X is, for `augment`. None: a grey square.
    backend : {"auto", "numpy", "numba", "cupy"}, default="auto"
        What computes; "auto" takes NumPy for small work.
    precision : {"float32", "tf32", "bf16"}, default="float32"
        What the factors of products are rounded to, in training and prediction: TF32 (10 bits behind the leading one) and bf16 (7) run on tensor
        cores and need backend "cupy" ("auto" takes it) and a GPU of compute capability 8.0. Parameters, moments, activations and sums stay
        float32. A product of K terms errs by at most 2^-10 (bf16: 2^-7) of the sum of its terms' magnitudes, in practice by that over
        sqrt(K). Not with "lbfgs", whose line search needs exact gradients.
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

    _layers_parameter = "hidden_layer_sizes"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **NetworkFitting._parameter_constraints,
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({*ACTIVATIONS, "logistic"})],
        "dropout": ["array-like", Interval(Real, 0, 1, closed="left")],
        "kernel_initializer": [StrOptions(set(INITIALIZERS))],
        "loss": [StrOptions({"log_loss", "softmax_twice"})],
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
        ema_decay: float = 0.0,
        kernel_initializer: str = "glorot_uniform",
        loss: str = "log_loss",
        record_steps: bool = False,
        augment: Augment | bool = False,
        image_shape: Shape | None = None,
        backend: str = "auto",
        precision: str = "float32",
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
        self.ema_decay = ema_decay
        self.kernel_initializer = kernel_initializer
        self.loss = loss
        self.record_steps = record_steps
        self.augment = augment
        self.image_shape = image_shape
        self.backend = backend
        self.precision = precision
        self.n_threads = n_threads
        self.pixel_scale = pixel_scale
        self.max_memory = max_memory

    # --- the network ------------------------------------------------------------------------------------------------------------

    def _hidden_layers(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if isinstance(sizes, Iterable) else [sizes]
        for size in sizes:
            if not isinstance(size, Integral) or isinstance(size, bool) or not 1 <= size <= MAX_UNITS:
                raise ValueError(
                    f"hidden_layer_sizes must be > 0: integers up to {MAX_UNITS:,}, one for each hidden layer; "
                    f"got {self.hidden_layer_sizes!r}."
                )
        return [int(size) for size in sizes]

    def _dropout_rates(self, n_hidden: int) -> list[float]:
        rates = list(self.dropout) if isinstance(self.dropout, Iterable) else [self.dropout] * n_hidden
        if len(rates) != n_hidden or not all(isinstance(rate, Real) and 0 <= rate < 1 for rate in rates):
            raise ValueError(
                f"dropout must be in [0, 1): one number, or one for each of the {n_hidden} hidden layers; got {self.dropout!r}."
            )
        return [float(rate) for rate in rates]

    def _training_image_shape(self) -> Shape:
        n = self.n_features_in_
        if self.image_shape is None and math.isqrt(n) ** 2 != n:
            raise ValueError(
                f"augment needs to know what the images in X are: {n} features are no square. Set image_shape=(height, width), or "
                "(height, width, channels)."
            )
        return learn_image_shape(self.image_shape, n, None)

    def _loss(self) -> Loss:
        return SoftmaxTwiceCrossEntropy() if self.loss == "softmax_twice" else super()._loss()

    def _encode(self, y: np.ndarray, *, learn: bool) -> np.ndarray:
        indices = super()._encode(y, learn=learn)
        if self.loss == "softmax_twice" and (self._n_outputs == 1 or self._smoothing() > 0):
            raise ValueError(
                "loss='softmax_twice' needs more than two classes and no label smoothing; got "
                f"{len(self.classes_)} classes and label_smoothing={self.label_smoothing!r}. Use loss='log_loss'."
            )
        return indices

    def _spec(self) -> Spec:
        activation = "sigmoid" if self.activation == "logistic" else self.activation
        layers: list[Layer] = []
        sizes = self._hidden_layers()
        for units, rate in zip(sizes, self._dropout_rates(len(sizes)), strict=True):
            layers.append(Dense(units, activation, self.kernel_initializer))
            if rate > 0:
                layers.append(Dropout(rate))
        layers.append(Dense(self._n_outputs, kernel_initializer=self.kernel_initializer))
        return Spec(self.n_features_in_, tuple(layers), self._loss(), self._optimizer(), self.alpha)
