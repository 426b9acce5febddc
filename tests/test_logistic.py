"""Both logistic models: equality with scikit-learn's run to convergence, their solvers, and what the parameters mean."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from scipy.special import expit, log_softmax
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from fastmnist.datasets import load_mnist
from fastmnist.estimators import LogisticRegression, OneVsRestLogisticRegression

BACKENDS = ["numpy", "numba"]
CONVERGED = {"tol": 1e-8, "max_iter": 10_000}
LOADERS = {"iris": load_iris, "breast_cancer": load_breast_cancer, "digits": load_digits}
CASES = [
    *((name, backend) for name in ("iris", "breast_cancer") for backend in BACKENDS),
    ("digits", "numba"),
    pytest.param("digits", "numpy", marks=pytest.mark.long),
]


def standardised(name):
    X, y = LOADERS[name](return_X_y=True)
    return StandardScaler().fit_transform(X), y


def multinomial_objective(X, y, coef, intercept, C=1.0, weight=None):
    """scikit-learn's objective, divided by C: written down again in float64, independent of both libraries."""
    logits = X @ coef.T.astype(np.float64) + intercept
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    losses = -log_softmax(logits, axis=1)[np.arange(len(y)), y]
    return np.sum(losses if weight is None else weight * losses) + (coef.astype(np.float64) ** 2).sum() / (2 * C)


def one_vs_rest_objective(X, y, coef, intercept, C=1.0):
    logits = X @ coef.T.astype(np.float64) + intercept
    targets = (y[:, None] == np.arange(len(coef))) if len(coef) > 1 else y[:, None]
    return (np.logaddexp(0, logits) - targets * logits).sum() + (coef.astype(np.float64) ** 2).sum() / (2 * C)


def ours(cls, backend, X, y, sample_weight=None, **parameters):
    """Run to convergence, which float32 kernels too must reach without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        return cls(backend=backend, **{**CONVERGED, **parameters}).fit(X, y, sample_weight)


@cache
def sklearn_multinomial(name):
    return SklearnLogisticRegression(**CONVERGED).fit(*standardised(name))


@cache
def sklearn_one_vs_rest(name):
    return OneVsRestClassifier(SklearnLogisticRegression(**CONVERGED)).fit(*standardised(name))


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_multinomial_equals_sklearn(name, backend):
    X, y = standardised(name)
    theirs, model = sklearn_multinomial(name), ours(LogisticRegression, backend, X, y)
    expected = multinomial_objective(X, y, theirs.coef_, theirs.intercept_)
    assert multinomial_objective(X, y, model.coef_, model.intercept_) == pytest.approx(expected, rel=1e-5)
    assert model.coef_.shape == theirs.coef_.shape
    assert model.intercept_.shape == theirs.intercept_.shape
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=1e-3)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=2e-3)
    np.testing.assert_allclose(model.decision_function(X), theirs.decision_function(X), atol=2e-2)
    assert np.mean(model.predict(X) == theirs.predict(X)) >= 0.999


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_one_vs_rest_equals_sklearn(name, backend):
    X, y = standardised(name)
    theirs, model = sklearn_one_vs_rest(name), ours(OneVsRestLogisticRegression, backend, X, y)
    coef = np.vstack([binary.coef_ for binary in theirs.estimators_])
    intercept = np.hstack([binary.intercept_ for binary in theirs.estimators_])
    expected = one_vs_rest_objective(X, y, coef, intercept)
    assert one_vs_rest_objective(X, y, model.coef_, model.intercept_) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(model.coef_, coef, atol=1e-3)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=2e-3)
    assert np.mean(model.predict(X) == theirs.predict(X)) >= 0.999


def check_against_sklearn(cls, X, y):
    scaled = X / 255
    if cls is LogisticRegression:
        theirs, objective = SklearnLogisticRegression(**CONVERGED).fit(scaled, y), multinomial_objective
    else:
        theirs, objective = (
            OneVsRestClassifier(SklearnLogisticRegression(**CONVERGED)).fit(scaled, y),
            one_vs_rest_objective,
        )
    parts = getattr(theirs, "estimators_", [theirs])
    coef, intercept = np.vstack([p.coef_ for p in parts]), np.hstack([p.intercept_ for p in parts])
    model = ours(cls, "numba", X, y)
    expected = objective(scaled, y, coef, intercept)
    assert objective(scaled, y, model.coef_, model.intercept_) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(scaled), atol=2e-3)
    assert np.mean(model.predict(X) == theirs.predict(scaled)) >= 0.999


@pytest.mark.parametrize("cls", [LogisticRegression, OneVsRestLogisticRegression])
def test_equals_sklearn_on_small_mnist(cls):
    X, y = load_mnist("train", return_X_y=True)
    every_third_pixel = np.ascontiguousarray(X[:400].reshape(-1, 28, 28)[:, ::3, ::3].reshape(400, -1))
    check_against_sklearn(cls, every_third_pixel, y[:400])


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cls", [LogisticRegression, OneVsRestLogisticRegression])
def test_equals_sklearn_on_10_000_rows_of_mnist(cls):
    X, y = load_mnist("train", return_X_y=True)
    check_against_sklearn(cls, X[:10_000], y[:10_000])


@pytest.mark.parametrize("cls", [LogisticRegression, OneVsRestLogisticRegression])
def test_minimum_on_mnist_is_certified(cls):
    """Nobody else's optimizer is needed to judge a minimum.

    The objective is strongly convex in the coefficients with modulus 1 / C, so it is above its minimum by at most
    C / 2 * (squared norm of its gradient); the gradient is taken here, in float64. (The intercepts' part of the gradient is
    smaller still, and is simply bounded.)
    """
    X, y = load_mnist("train", return_X_y=True)
    X, y = X[:2000], y[:2000]
    model = ours(cls, "numba", X, y)
    scaled, coef = X / 255, model.coef_.astype(np.float64)
    logits = scaled @ coef.T + model.intercept_
    if cls is LogisticRegression:
        probabilities, objective = np.exp(log_softmax(logits, axis=1)), multinomial_objective
    else:
        probabilities, objective = expit(logits), one_vs_rest_objective
    residual = probabilities - np.eye(10)[y]
    gradient = residual.T @ scaled + coef
    assert (gradient**2).sum() / 2 < 1e-5 * objective(scaled, y, coef, model.intercept_)
    assert np.abs(residual.sum(axis=0)).max() < 1e-4 * len(y)


@pytest.fixture(scope="module")
def overlapping():
    """Classes that cannot be separated, so that the unregularised solution exists."""
    X, y = make_classification(400, 6, n_informative=4, n_classes=3, class_sep=0.7, flip_y=0.1, random_state=0)
    return StandardScaler().fit_transform(X), y


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "parameters",
    [
        {"C": np.inf},
        {"C": 0.01},
        {"fit_intercept": False},
        {"class_weight": "balanced"},
        {"class_weight": {0: 3.0, 2: 0.5}},
    ],
    ids=str,
)
def test_parameters_mean_what_they_mean_in_sklearn(parameters, backend, overlapping):
    X, y = overlapping
    keep = (y != 2) | (np.arange(len(y)) % 3 == 0)  # a third of one class
    X, y = X[keep], y[keep]
    theirs = SklearnLogisticRegression(**CONVERGED, **parameters).fit(X, y)
    model = ours(LogisticRegression, backend, X, y, **parameters)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=1e-3)
    np.testing.assert_allclose(model.intercept_, theirs.intercept_, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sample_weight_equals_sklearn(backend, overlapping):
    X, y = overlapping
    weight = np.random.default_rng(0).uniform(0, 3, len(y)).round(1)
    theirs = SklearnLogisticRegression(**CONVERGED).fit(X, y, weight)
    model = ours(LogisticRegression, backend, X, y, weight)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=1e-3)


def test_warm_start_continues():
    X, y = standardised("digits")
    model = LogisticRegression(warm_start=True, **CONVERGED).fit(X, y)
    first = int(model.n_iter_[0])
    assert model.fit(X, y).n_iter_[0] < first / 10
    model.set_params(solver="gd", max_iter=0, tol=0)
    before = model.coef_.copy()
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model.fit(X, y)
    np.testing.assert_array_equal(model.coef_, before)
    with pytest.raises(ValueError, match=r"warm_start=True needs data of the same shape.*\(10, 64\).*\(10, 63\)"):
        model.fit(X[:, 1:], y)


# --- the other solvers --------------------------------------------------------------------------------------------------------


def test_gradient_descent_by_hand():
    X = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    y = np.array([0, 1, 2])
    with pytest.warns(ConvergenceWarning, match="gd failed to converge after 1 iteration"):
        model = LogisticRegression(solver="gd", max_iter=1, learning_rate_init=0.3, tol=0).fit(X, y)
    # From zero the probabilities are 1/3 each, and the gradient is X^T (p - t) / n; the L2 term is flat there.
    gradient = (np.full((3, 3), 1 / 3) - np.eye(3)).T @ X / 3
    np.testing.assert_allclose(model.coef_, -0.3 * gradient, atol=1e-7)
    np.testing.assert_allclose(model.intercept_, 0, atol=1e-7)
    assert model.loss_curve_ == [pytest.approx(np.log(3), rel=1e-6)]
    assert model.n_iter_ == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_descent_reaches_the_minimum(backend, overlapping):
    X, y = overlapping
    exact = ours(LogisticRegression, backend, X, y)
    model = ours(LogisticRegression, backend, X, y, solver="gd", tol=1e-6, learning_rate_init=0.5)
    np.testing.assert_allclose(model.coef_, exact.coef_, atol=1e-3)
    assert all(np.diff(model.loss_curve_) < 1e-7)  # losses are recorded in float32
    assert model.loss_curve_[0] == pytest.approx(np.log(3), rel=1e-6)


@pytest.mark.parametrize("cls", [LogisticRegression, OneVsRestLogisticRegression])
@pytest.mark.parametrize("backend", BACKENDS)
def test_mini_batches_come_close_to_the_minimum(cls, backend):
    X, y = standardised("iris")
    model = cls(solver="sgd", backend=backend, batch_size=32, max_iter=500, tol=1e-5, random_state=0).fit(X, y)
    exact = ours(cls, backend, X, y)
    assert model.loss_curve_[-1] < 1.05 * exact.loss_curve_[-1]
    assert abs(model.score(X, y) - exact.score(X, y)) < 0.03
    assert len(model.loss_curve_) == model.n_iter_[0] == len(model.history_["accuracy"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_mini_batches_by_hand(backend):
    X, y = standardised("iris")
    model = LogisticRegression(solver="sgd", batch_size=150, max_iter=1, C=0.1, learning_rate_init=0.2, backend=backend)
    with pytest.warns(ConvergenceWarning, match="max_iter was reached"):
        model.fit(X, y)
    gradient = (np.full((150, 3), 1 / 3) - np.eye(3)[y]).T @ X / 150
    np.testing.assert_allclose(model.coef_, -0.2 * gradient, atol=1e-6)
    # The second step starts from there: now the L2 term 1 / (C n) counts.
    model.set_params(warm_start=True)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    W, b = -0.2 * gradient, np.zeros(3)
    p = np.exp(log_softmax(X @ W.T + b, axis=1))
    gradient = (p - np.eye(3)[y]).T @ X / 150 + W / (0.1 * 150)
    np.testing.assert_allclose(model.coef_, W - 0.2 * gradient, atol=1e-6)


@pytest.mark.parametrize("solver", ["lbfgs", "gd", "sgd"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_intercept(solver, backend):
    X, y = standardised("iris")
    model = LogisticRegression(solver=solver, fit_intercept=False, tol=2e-2, max_iter=300, backend=backend).fit(X, y)
    assert not model.intercept_.any()
    assert model.coef_.any()


def test_diverging_says_why():
    X, y = LOADERS["breast_cancer"](return_X_y=True)
    with pytest.raises(ValueError, match=r"non-finite.*StandardScaler.*learning_rate_init=1e\+200 is too large"):
        LogisticRegression(solver="gd", learning_rate_init=1e200, max_iter=50).fit(X, y)


def test_too_few_iterations_warn():
    X, y = standardised("digits")
    with pytest.warns(ConvergenceWarning, match=r"lbfgs failed to converge after 3 iteration.*Increase max_iter \(3\)"):
        LogisticRegression(max_iter=3).fit(X, y)


def test_float32_noise_does_not_hide_real_failure():
    X, y = LOADERS["breast_cancer"](return_X_y=True)  # not scaled: 1e-3 beside 1e3
    with pytest.warns(ConvergenceWarning):
        LogisticRegression(max_iter=20, tol=1e-8, backend="numba").fit(X, y)


# --- probabilities ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", [LogisticRegression, OneVsRestLogisticRegression])
def test_binary_has_one_logit_of_the_second_class(cls, backend):
    X, y = standardised("breast_cancer")
    labels = np.array(["malignant", "benign"])[y]
    model = cls(backend=backend).fit(X, labels)
    assert list(model.classes_) == ["benign", "malignant"]
    logits = model.decision_function(X)
    assert logits.shape == (len(X),)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], expit(logits), atol=1e-6)
    np.testing.assert_array_equal(model.predict(X), model.classes_[(logits > 0).astype(int)])
    assert model.score(X, labels) > 0.98


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_vs_rest_probabilities_where_all_sigmoids_vanish(backend):
    X, y = standardised("iris")
    model = OneVsRestLogisticRegression(backend=backend).fit(X, y)
    model.coef_ = np.zeros_like(model.coef_)
    model.intercept_ = np.array([-3000, -3000 + np.log(3), -4000], model.intercept_.dtype)
    np.testing.assert_allclose(model.predict_proba(X[:2]), [[0.25, 0.75, 0]] * 2, atol=1e-3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"l1_ratio": 0.5}, r"L2 penalty only: l1_ratio must be 0; got 0\.5"),
        ({"dual": True}, r"dual must be False; got True"),
        ({"intercept_scaling": 2.0}, r"intercept_scaling must be 1; got 2\.0"),
        ({"solver": "saga"}, r"'solver' parameter of LogisticRegression must be a str among .*'lbfgs'.*Got 'saga'"),
        ({"C": 0}, r"'C' parameter .* in the range \(0\.0, inf\]\. Got 0"),
        ({"C": -1.0}, r"'C' parameter .*Got -1\.0"),
        ({"learning_rate_init": 0}, r"'learning_rate_init' parameter .*Got 0"),
    ],
    ids=str,
)
def test_unsupported_values(parameters, message):
    X, y = standardised("iris")
    with pytest.raises(ValueError, match=message):
        LogisticRegression(**parameters).fit(X, y)


@pytest.mark.parametrize("cls", [LogisticRegression, OneVsRestLogisticRegression])
@pytest.mark.parametrize("solver", ["lbfgs", "gd", "sgd"])
def test_history_has_validation(cls, solver):
    X, y = standardised("iris")
    model = cls(solver=solver, max_iter=7, tol=0).set_on_epoch((records := []).append)
    with pytest.warns(ConvergenceWarning):
        model.fit(X[::2], y[::2], validation_data=(X[1::2], y[1::2]))
    history = model.history_
    assert {len(values) for values in history.values()} == {7} == {len(model.loss_curve_)}
    assert history["loss"] == model.loss_curve_ == [r.loss for r in records]
    assert history["val_accuracy"][-1] == pytest.approx(model.score(X[1::2], y[1::2]))
    assert [r.epoch for r in records] == list(range(1, 8))
    assert (history["learning_rate"][0] is None) == (solver == "lbfgs")
