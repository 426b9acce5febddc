"""The oracle's optimizers beside those of others."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from fastmnist.kernels import reference as op

pytestmark = pytest.mark.filterwarnings("error")

START = np.zeros(2, np.int64)


def _gradients(n_steps=4, shape=(3, 2)):
    rng = np.random.default_rng(6)
    return rng.standard_normal(shape), [rng.standard_normal(shape) for _ in range(n_steps)]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_family_is_scikit_learn_s(momentum, nesterov):
    w, gradients = _gradients()
    theirs, velocity = w.copy(), np.zeros_like(w)
    optimizer = SGDOptimizer([theirs], 0.1, momentum=momentum, nesterov=nesterov)
    hyper, cursor = np.tile([0.1, 0.0, 0.0], (len(gradients), 1)), START.copy()
    for g in gradients:
        optimizer.update_params([theirs], [g])
        if momentum == 0:
            op.sgd(w, g, hyper, cursor)
        elif nesterov:
            op.nesterov(w, velocity, g, hyper, cursor, momentum)
        else:
            op.momentum(w, velocity, g, hyper, cursor, momentum)
        op.advance(cursor, 1)
        np.testing.assert_allclose(w, theirs, rtol=1e-13)


def _adam_step_size(t, rate, beta_1=0.9, beta_2=0.999):
    return rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)


def test_adam_is_scikit_learn_s():
    w, gradients = _gradients()
    theirs, m, v = w.copy(), np.zeros_like(w), np.zeros_like(w)
    optimizer = AdamOptimizer([theirs], 0.01)
    steps = np.arange(1, len(gradients) + 1)
    hyper = np.stack([_adam_step_size(steps, 0.01), 0 * steps, 0 * steps], axis=1)
    cursor = START.copy()
    for g in gradients:
        optimizer.update_params([theirs], [g])
        op.adam(w, m, v, g, hyper, cursor, 0.9, 0.999, 1e-8)
        op.advance(cursor, 1)
        np.testing.assert_allclose(w, theirs, rtol=1e-13)


def test_adamw_is_torch_s():
    """torch.optim.AdamW, as its documentation writes it; epsilon 0, for the two put it in different places."""
    w, gradients = _gradients()
    theirs, m1, v1 = w.copy(), np.zeros_like(w), np.zeros_like(w)
    m, v, rate, decay = np.zeros_like(w), np.zeros_like(w), 0.01, 0.1
    steps = np.arange(1, len(gradients) + 1)
    hyper = np.stack([_adam_step_size(steps, rate), np.full(len(steps), rate * decay), 0 * steps], axis=1)
    cursor = START.copy()
    for t, g in enumerate(gradients, start=1):
        theirs -= rate * decay * theirs
        m1 = 0.9 * m1 + 0.1 * g
        v1 = 0.999 * v1 + 0.001 * g**2
        theirs -= rate * (m1 / (1 - 0.9**t)) / np.sqrt(v1 / (1 - 0.999**t))
        op.adam(w, m, v, g, hyper, cursor, 0.9, 0.999, 0.0)
        op.advance(cursor, 1)
        np.testing.assert_allclose(w, theirs, rtol=1e-12)


def test_first_step_of_adam_is_the_learning_rate():
    # m / sqrt(v) = 0.1 g / sqrt(0.001 g^2), times sqrt(0.001) / 0.1: the sign of g.
    w = np.zeros((1, 2))
    hyper = np.array([[_adam_step_size(1, 0.01), 0, 0]])
    op.adam(w, np.zeros((1, 2)), np.zeros((1, 2)), np.array([[5.0, -0.3]]), hyper, START, 0.9, 0.999, 1e-12)
    np.testing.assert_allclose(w, [[-0.01, 0.01]], rtol=1e-8)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam"])
def test_l2_is_added_to_the_gradient(name):
    """torch's coupled weight decay: a step with g and l2 is a step with g + l2 w and none."""
    w, (g, *_) = _gradients(1)
    rng = np.random.default_rng(7)
    n_states = {"sgd": 0, "adam": 2}.get(name, 1)
    state = [rng.random(w.shape) for _ in range(n_states)]
    params = {"sgd": (), "adam": (0.9, 0.999, 1e-8)}.get(name, (0.9,))
    results = []
    for gradient, l2 in ((g, 0.3), (g + 0.3 * w, 0.0)):
        operands = [w.copy(), *(s.copy() for s in state)]
        getattr(op, name)(*operands, gradient, np.array([[0.1, 0.0, l2]]), START, *params)
        results.append(operands)
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    assert not np.allclose(results[0][0], w)


def test_hyper_parameters_come_from_the_cursor_s_step():
    w, hyper = np.ones((1, 1)), np.array([[1.0, 0, 0], [0.25, 0, 0], [5.0, 0, 0]])
    op.sgd(w, np.ones((1, 1)), hyper, np.array([999, 1]))
    assert w[0, 0] == 0.75


def test_add():
    total = np.ones((2, 2))
    op.add(total, np.arange(4.0).reshape(2, 2))
    assert total.tolist() == [[1, 2], [3, 4]]


def test_float32_stays_float32():
    """No hidden float64: in float32 a weight of 1 does not notice a step of 2^-26."""
    w = np.ones((1, 1), np.float32)
    hyper = np.array([[1, 0, 0]], np.float32)
    for _ in range(100):
        op.sgd(w, np.full((1, 1), 2.0**-26, np.float32), hyper, START)
    assert w[0, 0] == 1
    y = np.empty((1, 1), np.float32)
    op.linear(y, np.array([[2.0**24, 1.0]], np.float32), np.ones((2, 1), np.float32), np.float32([-(2.0**24)]))
    assert y[0, 0] == 0
