"""The epoch loop and the full-batch solvers: order, learning rates, when they stop, and Ctrl-C."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from interrupts import fit_and_interrupt
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import shuffle

from fastmnist.backends.base import Epoch
from fastmnist.estimators import LogisticRegression, MLPClassifier
from fastmnist.network.layers import Dense, Dropout
from fastmnist.network.schedules import Step
from fastmnist.network.spec import Spec
from fastmnist.training.full_batch import Objective, gradient_descent, lbfgs
from fastmnist.training.history import KEYS
from fastmnist.training.trainer import Plan, Progress, train
from fastmnist.training.validation import Validation

BACKENDS = ["numpy", "numba"]


LINEAR = (Dense(2),)


class ScriptedExecutor:
    """Trains nothing: its losses are given, and it writes down what it was asked for."""

    backend, n_threads, compile_seconds, dtype = "scripted", 1, 0.0, np.dtype(np.float64)
    reading_order = None

    def __init__(self, losses, layers=LINEAR, interrupt_at=None):
        self.spec = Spec(3, layers)
        self.script = iter(losses)
        self.interrupt_at = interrupt_at
        self.orders, self.rates, self.seeds, self.batch_sizes = [], [], [], []

    def run_epoch(self, order, learning_rates, batch_size, *, seed=0):
        self.orders.append(order.copy())
        self.rates.append(learning_rates)
        self.seeds.append(seed)
        self.batch_sizes.append(batch_size)
        steps = len(learning_rates)
        interrupted = len(self.orders) == self.interrupt_at
        if interrupted:
            steps -= 1
        n = min(steps * batch_size, len(order))
        losses = np.full(n, next(self.script), np.float32)
        return Epoch(losses, losses < 1, steps, interrupted, 0.1)

    def get_parameters(self):
        return [np.full((3, 2), float(len(self.orders))), np.zeros(2)]

    def outputs(self, parameters, X, *, pixel_scale=1.0, link=True):
        """Right for as many rows as `parameters` says."""
        right = np.arange(len(X)) < parameters[0][0, 0]
        return np.where(right[:, None], [[0.9, 0.1]], [[0.1, 0.9]])


def run(losses, n=10, validation=None, n_epochs=None, sample_weight=None, layers=LINEAR, interrupt_at=None, **plan):
    executor = ScriptedExecutor(losses, layers, interrupt_at)
    plan = Plan(**{"max_epochs": len(losses), "batch_size": 4, "learning_rate": 0.5, **plan})
    progress, said = Progress(), []
    progress.begin_fit(plan)
    rng = np.random.RandomState(0)
    rows = np.arange(100, 100 + n)
    weight = None if sample_weight is None else np.concatenate([np.full(100, np.nan), sample_weight])
    train(
        executor,
        rows,
        plan,
        progress,
        rng,
        n_epochs=n_epochs,
        sample_weight=weight,
        validation=validation,
        say=said.append,
    )
    return executor, progress, said


def test_order_is_sklearns_shuffle():
    executor, _, _ = run([1.0] * 3)
    rng, expected = np.random.RandomState(0), np.arange(100, 110)
    for order in executor.orders:
        expected = shuffle(expected, random_state=rng)
        np.testing.assert_array_equal(order, expected)
        assert order.dtype == np.int64
    executor, _, _ = run([1.0] * 2, shuffle=False)
    np.testing.assert_array_equal(executor.orders, [np.arange(100, 110)] * 2)


def test_batches_are_never_larger_than_the_data():
    executor, _, _ = run([1.0], batch_size=50)
    assert executor.batch_sizes == [10]
    assert [len(r) for r in executor.rates] == [1]


def test_seeds_differ_and_are_drawn_for_dropout_only():
    executor, _, _ = run([1.0] * 3, layers=(Dense(4), Dropout(0.5), Dense(2)))
    assert len(set(executor.seeds)) == 3
    executor, _, _ = run([1.0] * 3)
    assert executor.seeds == [0, 3, 6]  # the steps before; used by nobody


def test_stops_after_epochs_without_improvement():
    losses = [1.0, 0.5, 0.49, 0.48, 0.47, 0.1]
    _, progress, said = run(losses, tol=0.1, n_iter_no_change=2)
    assert progress.epochs == 5  # the third epoch in a row that was not better than 0.5 by 0.1
    assert progress.converged
    assert progress.best_loss == pytest.approx(0.47)
    assert said == ["Training loss did not improve more than tol=0.100000 for 2 consecutive epochs. Stopping."]
    _, progress, _ = run(losses, tol=0.1, n_iter_no_change=np.inf)
    assert not progress.converged
    assert progress.epochs == 6


def test_adaptive_divides_by_five_until_it_is_tiny():
    executor, progress, said = run([1.0] * 100, rule="adaptive", learning_rate=1e-4, n_iter_no_change=1)
    rates = [r[0] for r in executor.rates]
    np.testing.assert_allclose(sorted(set(rates), reverse=True), [1e-4, 2e-5, 4e-6, 8e-7])
    assert progress.converged
    assert "Setting learning rate to 0.000020" in said[0]
    assert said[-1].endswith("Learning rate too small. Stopping.")


def test_invscaling_counts_samples():
    executor, _, _ = run([1.0, 0.9, 0.8], rule="invscaling", power_t=0.5)
    np.testing.assert_allclose([r[0] for r in executor.rates], [0.5, 0.5 / 11**0.5, 0.5 / 21**0.5])


def test_schedule_replaces_the_rule_and_goes_on():
    executor, progress, _ = run([1.0] * 4, schedule=Step(2, 0.1), rule="adaptive", n_iter_no_change=1, tol=0.1)
    np.testing.assert_allclose([r[0] for r in executor.rates], [0.5, 0.5, 0.05])
    assert progress.converged


def test_early_stopping_keeps_the_best_parameters():
    validation = Validation(np.zeros((4, 3)), np.zeros(4, np.int32))
    _, progress, _ = run([1.0] * 20, validation=validation, early_stopping=True, n_iter_no_change=3)
    assert progress.validation_scores == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert progress.best_score == 1
    assert progress.best_parameters[0][0, 0] == 4  # of the fourth epoch
    assert progress.history["val_loss"][:2] == [
        pytest.approx(-(np.log(0.9) + 3 * np.log(0.1)) / 4),
        pytest.approx(-(np.log(0.9) + np.log(0.1)) / 2),
    ]


def test_weighted_loss_is_the_mean_of_the_batches():
    weight = np.arange(1.0, 11)
    _, progress, _ = run([2.0], sample_weight=weight, l2=0.5, shuffle=False, record_steps=True)
    # Three batches of 4, 4 and 2: each counts by its size, its L2 term is divided by its weights; W is 3 x 2 ones.
    penalty = 0.5 * 0.5 * 6 * (4 / 10 + 4 / 26 + 2 / 19) / 10
    assert progress.loss == pytest.approx(2 + penalty)
    np.testing.assert_allclose(np.concatenate(progress.step_losses), [2, 2, 2])


def test_history():
    _, progress, _ = run([1.5, 0.5])
    assert tuple(progress.history) == KEYS
    assert progress.history["loss"] == [1.5, 0.5] == progress.loss_curve
    assert progress.history["accuracy"] == [0, 1]
    assert progress.history["val_loss"] == [None, None]
    assert progress.samples_seen == 20


def test_diverging_stops():
    _, progress, _ = run([1.0, np.nan, 1.0])
    assert progress.diverged
    assert progress.epochs == 2


def test_interrupted_epoch_is_not_counted():
    executor, progress, _ = run([1.0, 0.7, 0.5], interrupt_at=2)
    assert progress.interrupted
    assert (progress.epochs, progress.loss_curve, progress.loss) == (1, [1.0], 1.0)
    assert progress.steps == 3 + 2
    assert len(executor.orders) == 2
    _, progress, _ = run([0.7], interrupt_at=1)
    assert (progress.epochs, progress.loss_curve) == (0, [])
    assert progress.loss == pytest.approx(0.7)  # of the steps that were completed


# --- full-batch solvers -------------------------------------------------------------------------------------------------------


class Quadratic:
    """Loss (a - W)^2 diag(curvature) / 2 with a bias that nothing depends on, with as many exact digits as asked for."""

    backend, n_threads, compile_seconds, dtype = "quadratic", 1, 0.0, np.dtype(np.float64)
    spec = Spec(3, (Dense(1),))
    target, curvature = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [10.0], [100.0]])

    def __init__(self, loss_dtype=np.float64):
        self.loss_dtype = loss_dtype

    def losses_and_gradient(self, parameters):
        error = parameters[0] - self.target
        # The constant makes the rounding of the value large beside the last gains.
        value = float(self.loss_dtype(7.0 + 0.5 * np.sum(self.curvature * error**2)))
        return np.array([value]), [self.curvature * error, np.zeros(1)]


START = [np.zeros((3, 1)), np.zeros(1)]


@pytest.mark.parametrize("loss_dtype", [np.float64, np.float32, np.float16])
def test_lbfgs_converges_although_the_values_are_rounded(loss_dtype):
    solution = lbfgs(Objective(Quadratic(loss_dtype), 0.0), START, tol=1e-10, max_iter=100, options={"ftol": 0})
    if loss_dtype != np.float16:  # rounding far above what the compiled kernels have
        assert solution.converged
        assert solution.gradient_max <= 1e-10
        np.testing.assert_allclose(solution.parameters[0], Quadratic.target, atol=1e-10)
    assert np.isfinite(solution.loss)
    assert len(solution.loss_curve) == solution.n_iter == len(solution.history["loss"])


def test_l2_is_added_to_weights_only():
    objective = Objective(Quadratic(), 0.5)
    at = objective(np.array([1.0, 2.0, 3.0, 5.0]))
    assert at.value == pytest.approx(7 + 0.25 * 14)
    np.testing.assert_allclose(at.gradient, [0.5, 1.0, 1.5, 0])
    solution = lbfgs(objective, START, tol=1e-10, max_iter=100, options={"ftol": 0})
    c = Quadratic.curvature
    np.testing.assert_allclose(solution.parameters[0], c * Quadratic.target / (c + 0.5), atol=1e-8)


def test_without_intercept_the_bias_is_no_variable():
    objective = Objective(Quadratic(), 0.0, fit_intercept=False)
    assert objective.to_vector(START).shape == (3,)
    assert [p.shape for p in objective.to_parameters(np.arange(3.0))] == [(3, 1), (1,)]


def test_gradient_descent_is_the_formula():
    solution = gradient_descent(Objective(Quadratic(), 0.0), START, learning_rate=0.01, tol=0.0, max_iter=5)
    remaining = (1 - 0.01 * Quadratic.curvature) ** 5
    np.testing.assert_allclose(solution.parameters[0], Quadratic.target * (1 - remaining), rtol=1e-12)
    assert not solution.converged
    assert solution.n_iter == 5
    solution = gradient_descent(Objective(Quadratic(), 0.0), START, learning_rate=0.015, tol=1e-6, max_iter=10_000)
    assert solution.converged
    assert solution.gradient_max <= 1e-6


# --- Ctrl-C -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def interrupt_after(n_epochs):
    def on_epoch(record):
        if record.epoch == n_epochs:
            signal.raise_signal(signal.SIGINT)

    return on_epoch


FOREVER = {
    "mlp": MLPClassifier((64, 32), max_iter=10**6, tol=0, n_iter_no_change=np.inf, random_state=0),
    "mlp early stopping": MLPClassifier(
        (64, 32), max_iter=10**6, early_stopping=True, n_iter_no_change=np.inf, random_state=0
    ),
    "mlp lbfgs": MLPClassifier((64,), solver="lbfgs", max_iter=10**6, max_fun=10**7, tol=1e-300, alpha=1.0),
    "lbfgs": LogisticRegression(max_iter=10**6, tol=1e-300, C=1e12),
    "gd": LogisticRegression(solver="gd", max_iter=10**7, tol=0),
    "sgd": LogisticRegression(solver="sgd", max_iter=10**6, tol=0, learning_rate_init=1.0, C=np.inf),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FOREVER)
def test_ctrl_c_between_epochs(name, backend, digits):
    X, y = digits
    model = clone(FOREVER[name]).set_params(backend=backend).set_on_epoch(interrupt_after(3))
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        assert model.fit(X, y) is model
    assert model.interrupted_
    assert model.n_iter_ == 3 == len(model.loss_curve_)
    assert model.predict(X).shape == y.shape
    with pytest.warns(ConvergenceWarning):
        assert not model.set_params(max_iter=3).set_on_epoch(None).fit(X, y).interrupted_


@pytest.mark.parametrize("backend", BACKENDS)
def test_interrupted_weights_are_those_of_the_completed_epochs(backend, digits):
    X, y = digits
    parameters = {"hidden_layer_sizes": (16,), "tol": 0, "random_state": 0, "backend": backend}
    interrupted = MLPClassifier(max_iter=50, **parameters).set_on_epoch(interrupt_after(3))
    with pytest.warns(UserWarning, match="interrupted by user"):
        interrupted.fit(X, y)
    with pytest.warns(ConvergenceWarning):
        short = MLPClassifier(max_iter=3, **parameters).fit(X, y)
    np.testing.assert_array_equal(interrupted.coefs_[0], short.coefs_[0])
    assert interrupted.loss_curve_ == short.loss_curve_


@pytest.mark.timeout(60)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FOREVER)
def test_ctrl_c_at_any_moment(name, backend, digits):
    """Without it these fits would run for hours."""
    X, y = np.tile(digits[0], (3, 1)), np.tile(digits[1], 3)
    model = clone(FOREVER[name]).set_params(backend=backend).set_on_epoch(None)
    if name in ("lbfgs", "mlp lbfgs"):
        y = np.random.default_rng(0).permutation(y)  # nothing to learn: it takes long
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        fit_and_interrupt(lambda: model.fit(X, y), 0.25)
    assert model.interrupted_
    parameters = model.coefs_ if name.startswith("mlp") else [model.coef_]
    assert all(np.isfinite(w).all() for w in parameters)
    assert model.predict_proba(X[:5]).shape == (5, 10)
