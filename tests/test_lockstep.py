"""One-vs-rest by L-BFGS: each class goes its own way, as if it were alone, although all share the passes over the data."""

from __future__ import annotations

import re
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import scipy.optimize
from interrupts import fit_and_interrupt
from scipy.special import expit, log_softmax, softmax
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.estimators import LogisticRegression, OneVsRestLogisticRegression
from fastmnist.network.layers import Dense
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from fastmnist.network.spec import Spec
from fastmnist.training import lockstep
from fastmnist.training.full_batch import Objective
from fastmnist.training.lockstep import lbfgs_by_output

BACKENDS = ["numpy", "numba"]


@pytest.fixture(scope="module")
def digits():
    # A power of two: then 1 / n is exact in float32, in which executors keep it, and runs in float64 can be followed digit by digit.
    X, y = load_digits(return_X_y=True)
    return X[:1024] / 16, y[:1024]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    end = time.monotonic() + 5  # one that was interrupted while it was started is not waited for
    while any(re.match("fastmnist-(?!worker|helper)", thread.name) for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


def fit(X, y, *, sample_weight=None, on_epoch=None, precondition=False, **parameters):
    """Unless told otherwise in the coefficients themselves, where iterations can be compared with scikit-learn's."""
    parameters["precondition"] = precondition
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return OneVsRestLogisticRegression(**parameters).set_on_epoch(on_epoch).fit(X, y, sample_weight)


def each_class_alone(X, y, *, sample_weight=None, **parameters):
    """scikit-learn's binary models, one after the other: coefficients, intercepts, iterations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [SklearnLogisticRegression(**parameters).fit(X, y == k, sample_weight) for k in np.unique(y)]
    return (np.hstack([getattr(m, name).T for m in models]).T for name in ("coef_", "intercept_", "n_iter_"))


# --- one pass over the data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), SoftmaxCrossEntropy()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("executor_class", [ReferenceExecutor, CpuExecutor])
def test_executors_give_the_loss_of_each_output(executor_class, loss, digits):
    X, y = digits[0].astype(np.float32), digits[1].astype(np.int32)
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(64, 10)).astype(np.float32), rng.normal(size=10).astype(np.float32)
    weight = rng.random(len(X)).astype(np.float32)
    executor = executor_class(Spec(64, (Dense(10),), loss), n_threads=2)
    executor.bind(X, y, weight)
    losses, gradient = executor.losses_and_gradient([W, b])
    logits = X.astype(np.float64) @ W + b
    onehot = y[:, None] == np.arange(10)
    if isinstance(loss, BinaryCrossEntropy):
        expected, residual = np.logaddexp(0, logits) - onehot * logits, expit(logits) - onehot
    else:
        expected = -log_softmax(logits, axis=1)[onehot][:, None]
        residual = softmax(logits, axis=1) - onehot
    assert losses.dtype == np.float64
    np.testing.assert_allclose(losses, np.average(expected, axis=0, weights=weight), rtol=1e-6)
    np.testing.assert_allclose(gradient[0], (X.T * weight) @ residual / weight.sum(), atol=1e-6)
    total, same = executor.loss_and_gradient([W, b])
    assert total == losses.sum()
    assert all(g.tobytes() == s.tobytes() for g, s in zip(gradient, same, strict=True))


# --- the same iterates as each class alone ------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_iter", [1, 5, 20, 30])
def test_every_iterate_is_that_of_scikit_learn(max_iter, digits):
    coef, intercept, n_iter = each_class_alone(*digits, max_iter=max_iter)
    model = fit(*digits, max_iter=max_iter, backend="numpy")
    assert model.coef_.dtype == np.float64
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.intercept_, intercept, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(model.n_iter_, n_iter)
    if max_iter == 30:  # some classes have ended, others have not
        assert model.n_iter_.min() < 30 == model.n_iter_.max()


@pytest.mark.parametrize("parameters", [{"fit_intercept": False}, {"C": 0.01}, {"C": np.inf}, {"tol": 1e-2}], ids=str)
def test_parameters_reach_every_class(parameters, digits):
    weight = np.random.default_rng(0).integers(0, 8, len(digits[0])) / 4.0
    weight[0] += 4096 / 4 - weight.sum()  # their sum, too, is a power of two
    coef, intercept, n_iter = each_class_alone(*digits, sample_weight=weight, max_iter=10, **parameters)
    model = fit(*digits, sample_weight=weight, max_iter=10, backend="numpy", **parameters)
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.intercept_, intercept, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(model.n_iter_, n_iter)


def test_compiled_kernels_go_the_same_way(digits):
    exact, model = (fit(*digits, max_iter=20, backend=backend) for backend in BACKENDS)
    np.testing.assert_allclose(model.coef_, exact.coef_, atol=1e-3 * np.abs(exact.coef_).max())
    np.testing.assert_allclose(model.loss_curve_, exact.loss_curve_, rtol=1e-5)
    np.testing.assert_array_equal(model.n_iter_, exact.n_iter_)


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_bits_twice_and_on_any_number_of_threads(backend, digits):
    X, y = np.tile(digits[0], (3, 1)), np.tile(digits[1], 3)
    bits = {
        model.coef_.tobytes() + model.intercept_.tobytes() + np.array(model.loss_curve_).tobytes()
        for model in (fit(X, y, max_iter=25, backend=backend, n_threads=n) for n in (1, 2, 2, 3))
    }
    assert len(bits) == 1


def test_two_classes_are_one_problem(digits):
    X, y = digits[0], digits[1] == 3
    model = fit(X, y, max_iter=8, backend="numpy")
    multinomial = LogisticRegression(max_iter=8, precondition=False, backend="numpy")
    with pytest.warns(ConvergenceWarning):
        multinomial.fit(X, y)
    np.testing.assert_array_equal(model.coef_, multinomial.coef_)
    assert model.n_iter_.tolist() == [8]


# --- what is recorded ---------------------------------------------------------------------------------------------------------


def test_loss_curve_is_the_sum_after_each_iteration_of_all(digits):
    X, y = digits
    records = []
    model = fit(X, y, max_iter=40, backend="numpy", on_epoch=records.append)
    assert len(set(model.n_iter_.tolist())) > 1
    assert len(model.loss_curve_) == model.n_iter_.max() == len(records) == len(model.history_["seconds"])
    assert [(r.epoch, r.n_epochs) for r in records] == [(i + 1, 40) for i in range(len(records))]
    for n in (1, 7, 26):  # a shorter run ends each class after as many iterations
        assert fit(X, y, max_iter=n, backend="numpy").loss_curve_ == model.loss_curve_[:n]
    logits = X @ model.coef_.T + model.intercept_
    losses = np.logaddexp(0, logits) - (y[:, None] == np.arange(10)) * logits
    expected = (losses.sum() + (model.coef_**2).sum() / 2) / len(y)
    assert model.loss_curve_[-1] == pytest.approx(expected, rel=1e-12)


def test_warning_says_how_many_classes_have_not_converged(digits):
    model = OneVsRestLogisticRegression(max_iter=30, precondition=False, backend="numpy")
    with pytest.warns(
        ConvergenceWarning, match=r"failed to converge after 30 iteration\(s\): 3 of 10 classes: STOP.*\(30\)"
    ):
        model.fit(*digits)


# --- the driver, on objectives that are known -----------------------------------------------------------------------------------


class Valleys:
    """Three outputs, each with one weight and a bias: a bowl, Rosenbrock's curved valley, and a slope that flattens out."""

    backend, n_threads, compile_seconds, dtype = "valleys", 1, 0.0, np.dtype(np.float64)
    spec = Spec(1, (Dense(3),), BinaryCrossEntropy())
    functions = (
        lambda w, b: ((w - 1) ** 2 + b**2, 2 * (w - 1), 2 * b),
        lambda w, b: (
            (1 - w) ** 2 + 100 * (b - w * w) ** 2,
            -2 * (1 - w) - 400 * w * (b - w * w),
            200 * (b - w * w),
        ),
        lambda w, b: (2.0 - expit(w), -expit(w) * (1 - expit(w)), 0.0),
    )

    def __init__(self, fail_at=None, error=None):
        self.passes, self.fail_at, self.error = 0, fail_at, error

    def losses_and_gradient(self, parameters):
        self.passes += 1
        if self.passes == self.fail_at:
            raise self.error
        parts = [f(w, b) for f, w, b in zip(self.functions, *np.vstack(parameters).tolist(), strict=True)]
        losses, dw, db = np.array(parts).T
        return losses, [dw[None], db]


START = [np.zeros((1, 3)), np.array([3.0, 0.0, 0.0])]
SETTINGS = {"tol": 1e-6, "max_iter": 100, "options": {"maxls": 50}}


def alone(k):
    def function(vector):
        value, dw, db = Valleys.functions[k](*vector.tolist())
        return value, np.array([dw, db])

    start = np.array([START[0][0, k], START[1][k]])
    options = {"gtol": 1e-6, "maxiter": 100, "maxls": 50}
    return scipy.optimize.minimize(function, start, jac=True, method="L-BFGS-B", options=options)


def test_a_pass_serves_all_and_ends_with_the_slowest():
    valleys = Valleys()
    solution = lbfgs_by_output(Objective(valleys, 0.0), START, **SETTINGS)
    theirs = [alone(k) for k in range(3)]
    evaluations = [result.nfev for result in theirs]
    assert valleys.passes == max(evaluations)
    assert len(set(evaluations)) == 3
    assert evaluations[1] > theirs[1].nit + 2  # line searches of more than one trial: it falls behind the others
    assert solution.n_iter_by_output == [result.nit for result in theirs]
    assert solution.n_iter == max(solution.n_iter_by_output) == len(solution.loss_curve)
    np.testing.assert_allclose(np.vstack(solution.parameters).T, [result.x for result in theirs], rtol=1e-6, atol=1e-8)
    assert solution.loss == pytest.approx(sum(result.fun for result in theirs)) == solution.loss_curve[-1]
    assert solution.converged


def test_l2_belongs_to_the_weights_of_each_output():
    l2 = 0.5
    solution = lbfgs_by_output(Objective(Valleys(), l2), START, **SETTINGS)
    (w, *_), b = solution.parameters[0][0], solution.parameters[1]
    assert w == pytest.approx(2 / (2 + l2), rel=1e-6)  # of (w - 1)^2 + l2 w^2 / 2
    assert b[0] == pytest.approx(0, abs=1e-6)
    solution = lbfgs_by_output(Objective(Valleys(), l2, fit_intercept=False), START, **SETTINGS)
    assert solution.parameters[1].tolist() == [0, 0, 0]
    assert solution.parameters[0][0, 0] == pytest.approx(2 / (2 + l2), rel=1e-6)


# --- what goes wrong ----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(30)
@pytest.mark.parametrize("fail_at", [1, 2, 7])
def test_a_failing_evaluation_ends_all_searches(fail_at):
    valleys = Valleys(fail_at, ArithmeticError("planted"))
    with pytest.raises(ArithmeticError, match="planted"):
        lbfgs_by_output(Objective(valleys, 0.0), START, **SETTINGS)
    assert valleys.passes == fail_at


@pytest.mark.timeout(30)
@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_failing_search_ends_the_others(after, monkeypatch):
    started = []
    original = lockstep.scipy_lbfgs

    def fails(smooth, *args, **kwargs):
        started.append(smooth)
        if len(started) != 2:
            return original(smooth, *args, **kwargs)
        for _ in range(after):
            smooth(np.zeros(2))
        raise ArithmeticError("planted")

    monkeypatch.setattr(lockstep, "scipy_lbfgs", fails)
    with pytest.raises(ArithmeticError, match="planted"):
        lbfgs_by_output(Objective(Valleys(), 0.0), START, **SETTINGS)


def fail_at_third_start(monkeypatch, error):
    start = threading.Thread.start

    def no_more(thread):
        if sum(t.name == "fastmnist-lbfgs" for t in threading.enumerate()) == 2:
            raise error
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_more)


@pytest.mark.timeout(30)
def test_a_thread_that_cannot_be_started(monkeypatch):
    fail_at_third_start(monkeypatch, RuntimeError("can't start new thread"))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        lbfgs_by_output(Objective(Valleys(), 0.0), START, **SETTINGS)


def assert_at_start(solution):
    assert solution.interrupted
    assert solution.n_iter_by_output == [0, 0, 0]
    assert solution.loss_curve == []
    for parameter, start in zip(solution.parameters, START, strict=True):
        np.testing.assert_array_equal(parameter, start)


@pytest.mark.timeout(30)
def test_ctrl_c_while_threads_are_started_leaves_the_start(monkeypatch):
    fail_at_third_start(monkeypatch, KeyboardInterrupt())
    assert_at_start(lbfgs_by_output(Objective(Valleys(), 0.0), START, **SETTINGS))


@pytest.mark.timeout(30)
def test_ctrl_c_in_the_first_evaluation_leaves_the_start():
    assert_at_start(lbfgs_by_output(Objective(Valleys(1, KeyboardInterrupt()), 0.0), START, **SETTINGS))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("fail_at", [2, 5, 12])
def test_ctrl_c_keeps_the_last_iteration_that_all_have_completed(fail_at):
    solution = lbfgs_by_output(Objective(Valleys(fail_at, KeyboardInterrupt()), 0.0), START, **SETTINGS)
    assert solution.interrupted and not solution.converged
    n = solution.n_iter
    assert n == len(solution.loss_curve) < fail_at
    value = Valleys().losses_and_gradient(solution.parameters)[0].sum()
    assert solution.loss == pytest.approx(value, rel=1e-12)
    if n:
        shorter = lbfgs_by_output(Objective(Valleys(), 0.0), START, **{**SETTINGS, "max_iter": n})
        assert solution.n_iter_by_output == shorter.n_iter_by_output
        assert solution.loss_curve == shorter.loss_curve
        np.testing.assert_array_equal(np.vstack(solution.parameters), np.vstack(shorter.parameters))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_between_iterations(backend, digits):
    def on_epoch(record):
        if record.epoch == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model = fit(*digits, backend=backend, on_epoch=on_epoch)
    assert model.interrupted_
    assert model.n_iter_.tolist() == [3] * 10
    np.testing.assert_array_equal(model.coef_, fit(*digits, backend=backend, max_iter=3).coef_)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seconds", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_at_any_moment(backend, seconds, digits):
    """Without it the fit would run for hours."""
    y = np.random.default_rng(0).integers(0, 50, len(digits[0]))  # fifty classes, and nothing to learn
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model = fit_and_interrupt(
            lambda: fit(digits[0], y, backend=backend, max_iter=10**6, tol=1e-300, C=1e12), seconds
        )
    assert model.interrupted_
    assert model.n_iter_.max() == len(model.loss_curve_)
    assert np.isfinite(model.coef_).all()
    assert model.predict_proba(digits[0][:5]).shape == (5, len(model.classes_))


@pytest.mark.timeout(30)
def test_a_failing_listener_ends_all_searches(digits):
    def on_epoch(record):
        raise ArithmeticError(f"planted in iteration {record.epoch}")

    with pytest.raises(ArithmeticError, match="planted in iteration 1"):
        fit(*digits, on_epoch=on_epoch, backend="numpy")
