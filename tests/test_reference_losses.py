"""The oracle's losses: gradients by central differences, values; and a training step worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from central_differences import assert_gradient, unwritten
from scipy import special

from fastmnist.kernels import reference as op

pytestmark = pytest.mark.filterwarnings("error")

START = np.zeros(2, np.int64)


def _loss_operands(n_outputs, n_batch=5, position=2, seed=5):
    """Logits, labels, weights, a shuffled order and a cursor that does not start at 0."""
    rng = np.random.default_rng(seed)
    n = 9
    z = 3 * rng.standard_normal((n_batch, n_outputs))
    labels = rng.integers(0, max(n_outputs, 2), n).astype(np.int32)
    weight, scale = rng.random(n).astype(np.float32), np.array([9.0, 0.25, 7.0], np.float32)
    order, cursor = rng.permutation(n), np.array([position, 1])
    return z, labels, weight, order, scale, cursor


def _run_loss(name, z, labels, weight, order, scale, cursor, **params):
    by_class = z.shape[1:] if name.endswith("by_class") else ()
    dz, losses, hits = unwritten(z), np.full((len(order), *by_class), -1.0), np.full(len(order), 9, np.uint8)
    getattr(op, name)(dz, losses, hits, z, labels, weight, order, scale, cursor, **params)
    return dz, losses, hits


@pytest.mark.parametrize(
    ("name", "n_outputs", "params"),
    [
        ("softmax_cross_entropy", 4, {"label_smoothing": 0.0}),
        ("softmax_cross_entropy", 4, {"label_smoothing": 0.2}),
        ("softmax_cross_entropy", 2, {"label_smoothing": 0.0}),
        ("softmax_twice_cross_entropy", 4, {}),
        ("binary_cross_entropy", 4, {}),
        ("binary_cross_entropy", 1, {}),
        ("binary_cross_entropy_by_class", 4, {}),
        ("binary_cross_entropy_by_class", 1, {}),
    ],
)
def test_loss_gradient(name, n_outputs, params):
    operands = _loss_operands(n_outputs)
    z, _, weight, order, scale, cursor = operands
    batch = slice(cursor[0], cursor[0] + len(z))

    def objective():
        losses = _run_loss(name, *operands, **params)[1]
        return float((weight[order[batch]].astype(float) * scale[1] @ losses[batch]).sum())

    dz, losses, hits = _run_loss(name, *operands, **params)
    assert_gradient(dz, objective, z)
    outside = np.r_[0 : batch.start, batch.stop : len(order)]
    assert (losses[outside] == -1).all()
    assert (hits[outside] == 9).all()


def test_softmax_cross_entropy_values():
    operands = _loss_operands(4)
    z, labels, _, order, _, cursor = operands
    here = labels[order[cursor[0] : cursor[0] + 5]]
    log_p = special.log_softmax(z, axis=1)
    _, losses, hits = _run_loss("softmax_cross_entropy", *operands, label_smoothing=0.0)
    np.testing.assert_allclose(losses[2:7], -log_p[np.arange(5), here], rtol=1e-13)
    np.testing.assert_array_equal(hits[2:7], z.argmax(axis=1) == here)
    smooth = _run_loss("softmax_cross_entropy", *operands, label_smoothing=0.2)[1]
    np.testing.assert_allclose(smooth[2:7], -0.8 * log_p[np.arange(5), here] - 0.05 * log_p.sum(axis=1), rtol=1e-13)


def test_softmax_twice_cross_entropy_values():
    operands = _loss_operands(4)
    z, labels, _, order, _, cursor = operands
    here = labels[order[cursor[0] : cursor[0] + 5]]
    log_q = special.log_softmax(special.softmax(z, axis=1), axis=1)
    _, losses, hits = _run_loss("softmax_twice_cross_entropy", *operands)
    np.testing.assert_allclose(losses[2:7], -log_q[np.arange(5), here], rtol=1e-13)
    np.testing.assert_array_equal(hits[2:7], z.argmax(axis=1) == here)
    # The best that it can be: a probability of 1 for the right one of four classes.
    certain, ones = np.array([[40.0, 0, 0, 0]]), np.ones(1, np.float32)
    best = _run_loss("softmax_twice_cross_entropy", certain, np.zeros(1, np.int32), ones, np.arange(1), ones, START)[1]
    np.testing.assert_allclose(best, np.log(np.e + 3) - 1, rtol=1e-13)


def test_binary_cross_entropy_values():
    operands = _loss_operands(4)
    z, labels, _, order, _, cursor = operands
    right = np.where(labels[order[cursor[0] : cursor[0] + 5]][:, np.newaxis] == np.arange(4), z, -z)
    dz, losses, hits = _run_loss("binary_cross_entropy", *operands)
    np.testing.assert_allclose(losses[2:7], -special.log_expit(right).sum(axis=1), rtol=1e-13)
    dz_by_class, by_class, hits_by_class = _run_loss("binary_cross_entropy_by_class", *operands)
    np.testing.assert_allclose(by_class[2:7], -special.log_expit(right), rtol=1e-13)
    np.testing.assert_array_equal(dz_by_class, dz)
    np.testing.assert_array_equal(hits_by_class, hits)


@pytest.mark.parametrize("n_outputs", [1, 4])
def test_binary_cross_entropy_sums_are_those_of_the_weighted_rows(n_outputs):
    operands = _loss_operands(n_outputs)
    z, _, weight, order, scale, cursor = operands
    batch = slice(cursor[0], cursor[0] + len(z))
    dz_by_class, by_class, _ = _run_loss("binary_cross_entropy_by_class", *operands)
    dz, losses = unwritten(z), np.full((len(scale), n_outputs), -1.0)
    op.binary_cross_entropy_sums(dz, losses, *operands)
    np.testing.assert_array_equal(dz, dz_by_class)
    np.testing.assert_allclose(losses[cursor[1]], weight[order[batch]].astype(float) @ by_class[batch], rtol=1e-13)
    assert (np.delete(losses, cursor[1], axis=0) == -1).all()


def test_one_output_means_label_0_is_positive():
    z, labels = np.array([[2.0], [2.0], [-2.0], [-2.0]]), np.array([0, 1, 0, 1], np.int32)
    ones = np.ones(4, np.float32)
    dz, losses, hits = _run_loss("binary_cross_entropy", z, labels, ones, np.arange(4), ones, START)
    assert hits.tolist() == [1, 0, 0, 1]
    near, far = np.log1p(np.exp(-2)), np.log1p(np.exp(2))
    np.testing.assert_allclose(losses, [near, far, far, near], rtol=1e-14)
    assert np.sign(dz[:, 0]).tolist() == [-1, 1, -1, 1]


def test_hit_goes_to_the_first_of_equal_logits():
    z, ones = np.zeros((3, 3)), np.ones(3, np.float32)
    operands = z, np.array([0, 1, 2], np.int32), ones, np.arange(3), ones, START
    assert _run_loss("softmax_cross_entropy", *operands, label_smoothing=0.0)[2].tolist() == [1, 0, 0]
    assert _run_loss("binary_cross_entropy", *operands)[2].tolist() == [1, 0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_of_huge_logits(dtype):
    huge = dtype(1e38)
    z = np.array([[huge, -huge, 0], [huge, -huge, 0]], dtype)
    labels, ones = np.array([0, 1], np.int32), np.ones(2, np.float32)
    dz, losses, hits = _run_loss(
        "softmax_cross_entropy", z, labels, ones, np.arange(2), ones, START, label_smoothing=0.0
    )
    np.testing.assert_allclose(losses, [0, 2e38], rtol=1e-6)
    np.testing.assert_array_equal(dz, [[0, 0, 0], [1, -1, 0]])
    assert hits.tolist() == [1, 0]
    dz, losses, _ = _run_loss("binary_cross_entropy", z, labels, ones, np.arange(2), ones, START)
    np.testing.assert_allclose(losses, [np.log(2), 2e38], rtol=1e-6)
    np.testing.assert_array_equal(dz, [[0, 0, 0.5], [1, -1, 0.5]])
    p = unwritten(z)
    op.softmax(p, z)
    np.testing.assert_array_equal(p, [[1, 0, 0], [1, 0, 0]])
    op.softmax(p, np.array([[np.finfo(dtype).max, np.finfo(dtype).min, 0]] * 2, dtype))
    np.testing.assert_array_equal(p, [[1, 0, 0], [1, 0, 0]])


def test_softmax_of_infinite_logits_is_nan():
    z = np.array([[np.inf, 0.0], [np.nan, 0.0], [-np.inf, 0.0]])
    p = unwritten(z)
    op.softmax(p, z)
    assert np.isnan(p[:2]).all()
    assert p[2].tolist() == [0, 1]


# --- a step worked by hand --------------------------------------------------------------------------------------------


def test_a_training_step_worked_by_hand():
    ln3 = np.log(3)
    x = np.array([[1.0, 2.0]])
    w1, b1 = np.array([[3.0, 1.0], [-1.0, -1.0]]), np.zeros(2)
    w2, b2 = np.array([[0.0, ln3], [5.0, 7.0]]), np.zeros(2)

    # x w1 = (1*3 + 2*-1, 1*1 + 2*-1) = (1, -1); relu: (1, 0).
    h = np.empty((1, 2))
    op.linear_relu(h, x, w1, b1)
    assert h.tolist() == [[1, 0]]

    # z = h w2 = (0, ln 3); exp: 1 and 3, so p = (1/4, 3/4). Label 0: loss = -ln 1/4 = ln 4, dz = (1/4 - 1, 3/4).
    z = np.empty((1, 2))
    op.linear(z, h, w2, b2)
    ones = np.ones(1, np.float32)
    dz, losses, hits = _run_loss(
        "softmax_cross_entropy", z, np.zeros(1, np.int32), ones, np.zeros(1, np.int64), ones, START, label_smoothing=0.0
    )
    np.testing.assert_allclose(losses, [np.log(4)])
    np.testing.assert_allclose(dz, [[-0.75, 0.75]])
    assert hits.tolist() == [0]

    # dw2 = h^T dz = ((-3/4, 3/4), (0, 0)).
    dw2 = np.empty((2, 2))
    op.linear_dw(dw2, h, dz)
    np.testing.assert_allclose(dw2, [[-0.75, 0.75], [0, 0]])

    # dh = dz w2^T = (3/4 ln 3, -3/4*5 + 3/4*7 = 3/2); where h = 0 relu lets nothing through: (3/4 ln 3, 0).
    dh = np.empty((1, 2))
    op.linear_dx(dh, dz, w2)
    np.testing.assert_allclose(dh, [[0.75 * ln3, 1.5]])
    op.relu_backward(dh, dh, h)
    np.testing.assert_allclose(dh, [[0.75 * ln3, 0]])

    # dw1 = x^T dh = ((3/4 ln 3, 0), (3/2 ln 3, 0)); a step of 0.2 leaves w1 - 0.2 dw1.
    dw1 = np.empty((2, 2))
    op.linear_dw(dw1, x, dh)
    np.testing.assert_allclose(dw1, [[0.75 * ln3, 0], [1.5 * ln3, 0]])
    op.sgd(w1, dw1, np.array([[0.2, 0, 0]]), START)
    np.testing.assert_allclose(w1, [[3 - 0.15 * ln3, 1], [-1 - 0.3 * ln3, -1]])
