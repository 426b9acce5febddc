"""Logistic regression: multinomial, and one-vs-rest with all classes fitted at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from fastmnist.estimators.logistic_fitting import LogisticFitting
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from fastmnist.training.full_batch import Solution


class LogisticRegression(LogisticFitting):
    """Multinomial logistic regression (softmax regression), with compiled loss and gradient.

    Minimises scikit-learn's objective `C * sum_i w_i loss_i + ||coef_||^2 / 2` (the intercept is not penalised), loss_i being the
    cross-entropy of the softmax of the logits; of two classes, the binary one of a single logit.

    Parameters
    ----------
    C : float, default=1.0
        Inverse of the regularisation strength, > 0; `np.inf` switches it off.
    l1_ratio : float, default=0.0
        As in scikit-learn; only 0 (the L2 penalty) is supported.
    dual : bool, default=False
        As in scikit-learn; only False is supported.
    tol : float, default=1e-4
        "lbfgs" and "gd" stop when no component of the gradient of the mean loss is larger; "sgd" when an epoch's loss was not
        better by `tol` for more than 5 epochs.
    fit_intercept : bool, default=True
    intercept_scaling : float, default=1
        As in scikit-learn; only 1 is supported.
    class_weight : dict or "balanced", default=None
        Weights of the classes, multiplied with `sample_weight`. "balanced": `n_samples / (n_classes * np.bincount(y))`.
    random_state : int, RandomState or None, default=None
        Order of the samples with "sgd".
    solver : {"lbfgs", "gd", "sgd"}, default="lbfgs"
        "lbfgs": SciPy's L-BFGS-B, preconditioned; on a GPU our own by its rules.
        "gd": full-batch gradient descent from zero. "sgd": mini-batches, from zero.
    max_iter : int, default=100
        Iterations; with "sgd" epochs.
    verbose : int, default=0
        Print each iteration's loss.
    warm_start : bool, default=False
        Start from the last solution.
    learning_rate_init : float, default=0.1
        Learning rate of "gd" and "sgd".
    batch_size : int or "auto", default="auto"
        With "sgd"; "auto" is `min(200, n_samples)`.
    backend : {"auto", "numpy", "numba", "cupy"}, default="auto"
        What computes; "auto" takes NumPy for small work.
    n_threads : int, default=None
        Threads of compiled code; None: as many as this process may use.
    pixel_scale : "auto" or float, default="auto"
        What uint8 X is multiplied by in `fit` and `predict`; "auto" is 1/255. Other dtypes are taken as they are. 1 switches it off.
    max_memory : int, default=None
        Bytes that `fit` may take for copies of X: compressed rows, another dtype, rows of a file. What would not fit is read and converted
        in windows, rows in a file (`np.memmap`) being shuffled window by window. None: half of the memory that is available.
    precondition : bool, default=True
        "lbfgs" searches in variables in which the features are nearly uncorrelated: the same minimum and the same `tol`, in a fraction of the
        iterations. False, or with `C=np.inf`, and always on a GPU: in the coefficients themselves, iteration by iteration as scikit-learn.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        For the scaled values of X. float64 where NumPy computed in it, else float32.
    intercept_ : ndarray of shape (1,) or (n_classes,)
    n_iter_ : ndarray of shape (1,), int32
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had names.
    loss_curve_ : list of float
        Objective divided by `C * sum_i w_i`: after each iteration ("lbfgs"), before each ("gd"), over each epoch ("sgd").
    history_ : dict of lists
        `loss, val_loss, accuracy, val_accuracy, learning_rate, seconds` of each iteration; None where there is no value.
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

    See Also
    --------
    OneVsRestLogisticRegression : One binary problem for each class.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastmnist import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LogisticRegression(max_iter=1000).fit(X, y)
    >>> round(clf.score(X, y), 2)
    0.97
    """

    def _loss(self) -> SoftmaxCrossEntropy | BinaryCrossEntropy:
        return BinaryCrossEntropy() if self._n_outputs == 1 else SoftmaxCrossEntropy()


class OneVsRestLogisticRegression(LogisticFitting):
    """One-vs-rest logistic regression: a binary problem for each class, all fitted at once.

    Minimises, for each class k, scikit-learn's objective `C * sum_i w_i loss_i + ||coef_[k]||^2 / 2` of the binary problem "k or not":
    the same models as `OneVsRestClassifier(LogisticRegression())`. With "lbfgs" every class has a search of its own, with its own line
    search and its own end; they run in lock-step, so that one pass over the data serves all the classes. "gd" and "sgd" descend the
    sum of the objectives. `class_weight` weighs a sample by its own class in all the problems.

    Parameters and attributes are those of `LogisticRegression`, but for these.

    Attributes
    ----------
    n_iter_ : ndarray of shape (n_classes,) or (1,), int32
        With "lbfgs" and more than two classes, the iterations of each class.
    loss_curve_ : list of float
        The sum over the classes; with "lbfgs" for as many iterations as the slowest class takes, the others staying where they ended.
    loss_curve_by_class_ : ndarray of shape (n_iterations, n_classes)
        With "gd" alone: `loss_curve_` of each class (of two classes: one column).

    See Also
    --------
    LogisticRegression : One multinomial problem.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastmnist import OneVsRestLogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = OneVsRestLogisticRegression(max_iter=1000).fit(X, y)
    >>> clf.coef_.shape
    (3, 4)
    """

    def _publish_losses_by_class(self, solution: Solution) -> None:
        if self.solver == "gd":
            self.loss_curve_by_class_ = np.array(solution.loss_curve_by_output).reshape(-1, self._n_outputs)

    def _loss(self) -> SoftmaxCrossEntropy | BinaryCrossEntropy:
        return BinaryCrossEntropy()

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probability estimates: each class's sigmoid, divided by their sum as in scikit-learn's `OneVsRestClassifier`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns as in `classes_`. Where all sigmoids are too small to be represented, their ratio is that of the
            exponentials of the logits.
        """
        outputs = super().predict_proba(X)
        if self._n_outputs == 1:
            return outputs
        total = outputs.sum(axis=1, keepdims=True)
        vanished = total[:, 0] < np.finfo(outputs.dtype).tiny
        if not vanished.any():
            return outputs / total
        probabilities = np.divide(outputs, total, where=~vanished[:, None], out=np.zeros_like(outputs))
        probabilities[vanished] = softmax(self.decision_function(X)[vanished], axis=1)
        return probabilities
