"""L-BFGS in variables of its own: the same problem, the same minimum, fewer iterations."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_digits, load_iris, load_wine
from threadpoolctl import threadpool_info

from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.estimators import LogisticRegression, OneVsRestLogisticRegression
from fastmnist.network.layers import Dense
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from fastmnist.network.spec import Spec
from fastmnist.threads import one_blas_thread
from fastmnist.training import preconditioner
from fastmnist.training.full_batch import Objective
from fastmnist.training.preconditioner import Preconditioner, make_preconditioner

ROOMY = 1 << 40
MODELS = [LogisticRegression, OneVsRestLogisticRegression]


def make(X, **changes):
    settings = {"scale": 1.0, "sample_weight": None, "n_outputs": 3, "l2": 0.1, "fit_intercept": True}
    settings |= {"dtype": np.dtype(np.float64), "max_memory": ROOMY, **changes}
    return make_preconditioner(X, **settings)


def matrix(p, size):
    return p.to_parameters(np.eye(size))


@pytest.mark.parametrize("intercept", [True, False])
def test_the_full_one_is_the_inverse_root_of_the_bound(intercept):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 4)) * [1, 10, 100, 1e-3]
    weight = rng.random(40)
    p = make(X, sample_weight=weight, fit_intercept=intercept, l2=0.3, scale=0.5)
    rows = np.linspace(0, 39, preconditioner.ROWS_PER_FEATURE * 4).astype(int)
    A, shares = np.c_[X[rows] * 0.5, np.ones(len(rows))][:, : 4 + intercept], weight[rows] / weight[rows].sum()
    c, penalty = 2 / 9, np.array([0.3] * 4 + [0.0])[: 4 + intercept]
    G_damped = (A * shares[:, None]).T @ A + np.diag(preconditioner.SHRINKAGE * np.abs(A).max(axis=0) ** 2)
    T = matrix(p, 4 + intercept)
    np.testing.assert_allclose(T.T @ (c * G_damped + np.diag(penalty)) @ T, np.eye(4 + intercept), atol=1e-9)


@pytest.mark.parametrize("full", [True, False])
def test_variables_and_parameters_and_gradients(full, monkeypatch):
    rng = np.random.default_rng(1)
    if not full:
        monkeypatch.setattr(preconditioner, "WORTH_EVALUATIONS", 0)
    p = make(rng.normal(size=(50, 6)))
    assert (matrix(p, 7) != np.diag(np.diag(matrix(p, 7)))).any() == full
    w, g = rng.normal(size=(2, 7, 3))
    u = p.to_variables(w)
    np.testing.assert_allclose(p.to_parameters(u), w, atol=1e-12)
    du = rng.normal(size=(7, 3))
    assert np.vdot(p.to_gradient(g), du) == pytest.approx(np.vdot(g, p.to_parameters(du)))  # the chain rule


@pytest.mark.parametrize("full", [True, False])
def test_sparse_rows_give_what_dense_ones_give(full, monkeypatch):
    rng = np.random.default_rng(2)
    if not full:
        monkeypatch.setattr(preconditioner, "WORTH_EVALUATIONS", 0)
    X = rng.integers(-3, 4, (60, 5)).astype(np.float64) * (rng.random((60, 5)) < 0.4)
    X[:, 3] = 0  # a feature that no row has
    dense, sparse = (matrix(make(x), 6) for x in (X, scipy.sparse.csr_array(X)))
    np.testing.assert_allclose(sparse, dense, rtol=1e-12)
    assert np.isfinite(dense).all()


def test_float32_products_are_near_float64_ones():
    X = load_digits().data
    exact, compiled = (matrix(make(X, dtype=np.dtype(t), l2=1e-3), 65) for t in (np.float64, np.float32))
    np.testing.assert_allclose(compiled, exact, atol=1e-4 * np.abs(exact).max())


def test_many_features_or_little_memory_leave_the_diagonal():
    X = np.random.default_rng(3).normal(size=(300, 20))
    wide = scipy.sparse.random_array((50, 10_000), density=0.01, rng=0).tocsr()
    assert [make(X).transform.ndim, make(X, max_memory=1000).transform.ndim, make(wide).transform.ndim] == [2, 1, 1]


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), SoftmaxCrossEntropy()], ids=lambda loss: type(loss).__name__)
def test_gradient_with_respect_to_the_variables(loss):
    X, y = load_iris(return_X_y=True)
    executor = ReferenceExecutor(Spec(4, (Dense(3),), loss), dtype=np.float64)
    executor.bind(X, y.astype(np.int32), None)
    objective = Objective(executor, 0.1, preconditioner=make(X))
    u = np.random.default_rng(4).normal(size=15)
    at = objective(u)
    step = 1e-2  # losses are float32
    numeric = [(objective(u + step * e).value - objective(u - step * e).value) / (2 * step) for e in np.eye(15)]
    np.testing.assert_allclose(at.gradient, numeric, atol=1e-3 * np.abs(at.gradient).max())
    plain = Objective(executor, 0.1)
    assert at.steepness == pytest.approx(plain(plain.to_vector(objective.to_parameters(u))).steepness)
    np.testing.assert_allclose(objective.to_vector(objective.to_parameters(u)), u, atol=1e-10)
    if isinstance(loss, BinaryCrossEntropy):
        parts = objective.by_output(u)
        assert sum(part.value for part in parts) == pytest.approx(objective(u).value)
        assert max(part.steepness for part in parts) == pytest.approx(at.steepness)
        np.testing.assert_allclose(np.stack([part.gradient for part in parts], axis=1).ravel(), at.gradient)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("load", [load_digits, load_wine])
def test_same_minimum_in_fewer_iterations(load, backend, cls):
    X, y = load(return_X_y=True)
    X = X / X.max(axis=0).clip(1)
    settings = {"tol": 1e-5, "max_iter": 3000, "backend": backend}
    plain, model = (cls(precondition=flag, **settings).fit(X, y) for flag in (False, True))
    assert model.loss_curve_[-1] == pytest.approx(plain.loss_curve_[-1], rel=1e-4)
    np.testing.assert_allclose(model.coef_, plain.coef_, atol=1e-2 * np.abs(plain.coef_).max())
    assert 2 * model.n_iter_.max() < plain.n_iter_.max()


@pytest.mark.parametrize("cls", MODELS)
def test_start_that_is_the_minimum_takes_no_iteration(cls):
    X, y = load_iris(return_X_y=True)
    model = cls(tol=1e-4, max_iter=500, warm_start=True, backend="numpy").fit(X, y)
    before = model.coef_.copy()
    model.set_params(tol=1e-3).fit(X, y)
    assert model.n_iter_.max() == 0
    np.testing.assert_allclose(model.coef_, before, rtol=1e-9)


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_blas_threads_come_back_after_overlapping_fits():
    before = blas_threads()
    first_is_in, second_is_in, first_left = threading.Event(), threading.Event(), threading.Event()

    def first():
        with one_blas_thread():
            first_is_in.set()
            second_is_in.wait(10)
        first_left.set()

    thread = threading.Thread(target=first)
    thread.start()
    first_is_in.wait(10)
    with one_blas_thread():
        second_is_in.set()
        first_left.wait(10)
        assert set(blas_threads()) == {1}
    thread.join()
    assert blas_threads() == before


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_blas_has_one_thread_while_a_search_evaluates(monkeypatch, backend):
    before, seen = blas_threads(), set()
    evaluate = Objective.__call__

    def watched(self, vector):
        seen.update(blas_threads())
        return evaluate(self, vector)

    monkeypatch.setattr(Objective, "__call__", watched)
    LogisticRegression(backend=backend, max_iter=2, tol=1.0).fit(*load_iris(return_X_y=True))
    assert seen == {1}
    assert blas_threads() == before


def test_identity_for_data_without_a_value():
    p = make(np.zeros((5, 2)))
    assert isinstance(p, Preconditioner)
    assert np.isfinite(matrix(p, 3)).all()
