"""The oracle's layers, dense and of compressed rows: gradients by central differences, worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from central_differences import assert_gradient, unwritten

from fastmnist.kernels import reference as op

pytestmark = pytest.mark.filterwarnings("error")

START = np.zeros(2, np.int64)


@pytest.fixture
def layer():
    rng = np.random.default_rng(0)
    sizes = {"x": (5, 4), "w": (4, 3), "b": (3,), "dy": (5, 3)}
    return {name: rng.standard_normal(size) for name, size in sizes.items()}


def test_linear_gradients(layer):
    x, w, b, dy = layer.values()
    y = unwritten(dy)

    def loss():
        op.linear(y, x, w, b)
        return float((y * dy).sum())

    dx, dw, db = unwritten(x), unwritten(w), unwritten(b)
    op.linear_dx(dx, dy, w)
    op.linear_dw(dw, x, dy)
    op.linear_db(db, dy)
    assert_gradient(dx, loss, x)
    assert_gradient(dw, loss, w)
    assert_gradient(db, loss, b)


def test_linear_relu_gradient(layer):
    x, w, b, dy = layer.values()
    y = unwritten(dy)

    def loss():
        op.linear_relu(y, x, w, b)
        return float((y * dy).sum())

    loss()
    assert 0 < (y == 0).sum() < y.size
    dz, dw = unwritten(dy), unwritten(w)
    op.relu_backward(dz, dy, y)
    op.linear_dw(dw, x, dz)
    assert_gradient(dw, loss, w)


@pytest.mark.parametrize("panels", [1, 2])
def test_gradient_of_a_relu_below_a_layer(layer, panels):
    x, w, b, dy = layer.values()
    hidden, y = unwritten(x), unwritten(dy)

    def loss():
        op.relu(hidden, x)
        op.linear(y, hidden, w, b)
        return float((y * dy).sum())

    loss()
    assert 0 < (hidden == 0).sum() < hidden.size
    dx = unwritten(x)
    if panels == 1:
        op.linear_dx_relu(dx, dy, w, hidden)
    else:
        op.linear_dx(dx, dy[:, :1], w[:, :1])
        op.linear_dx_add_relu(dx, dy[:, 1:], w[:, 1:], hidden)
    assert_gradient(dx, loss, x)


def test_accumulating_ops_sum_over_halves(layer):
    x, w, _, dy = layer.values()
    whole = unwritten(w), unwritten(layer["b"]), unwritten(x)
    op.linear_dw(whole[0], x, dy)
    op.linear_db(whole[1], dy)
    op.linear_dx(whole[2], dy, w)
    halves = unwritten(w), unwritten(layer["b"]), unwritten(x)
    op.linear_dw(halves[0], x[:2], dy[:2])
    op.linear_dw_add(halves[0], x[2:], dy[2:])
    op.linear_db(halves[1], dy[:2])
    op.linear_db_add(halves[1], dy[2:])
    op.linear_dx(halves[2], dy[:, :1], w[:, :1])
    op.linear_dx_add(halves[2], dy[:, 1:], w[:, 1:])
    for a, b in zip(whole, halves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


# --- compressed rows --------------------------------------------------------------------------------------------------


@pytest.fixture
def pixels():
    """A data set twice, dense and compressed, and a batch of it."""
    rng = np.random.default_rng(2)
    dense = rng.integers(1, 256, (7, 6)) * (rng.random((7, 6)) < 0.4)
    dense[3], dense[5] = 0, 255  # an empty and a full row
    indptr = np.concatenate([[0], np.cumsum((dense > 0).sum(axis=1))])
    compressed = indptr, np.nonzero(dense)[1].astype(np.uint16), dense[dense > 0].astype(np.uint8)
    order, cursor = np.array([6, 3, 5, 0, 1, 3]), np.array([1, 0])
    return dense.astype(np.uint8), compressed, order, cursor, 1 / 255


def test_compressed_rows_give_what_dense_rows_give(pixels):
    dense, compressed, order, cursor, scale = pixels
    rng = np.random.default_rng(3)
    w, b, dy, old = (rng.standard_normal(shape) for shape in ((6, 4), (4,), (4, 4), (6, 4)))
    x = np.full((4, 6), np.nan)
    op.gather_rows(x, dense, order, cursor, scale)
    np.testing.assert_array_equal(x, dense[[3, 5, 0, 1]] * scale)

    for sparse, plain in ((op.sparse_linear, op.linear), (op.sparse_linear_relu, op.linear_relu)):
        y, expected = unwritten(dy), unwritten(dy)
        sparse(y, *compressed, w, b, order, cursor, scale)
        plain(expected, x, w, b)
        np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-15)

    quads = counts, rows, entries = np.full(2, -1, np.int32), np.full((2, 4), -1, np.int32), np.full((2, 16), np.nan)
    op.sparse_quads(*quads, *compressed, order, cursor, scale)
    for g, features in enumerate((slice(0, 4), slice(4, 6))):
        listed, n = np.flatnonzero(x[:, features].any(axis=1)), features.stop - features.start
        np.testing.assert_array_equal(rows[g, : counts[g]], listed)
        values = entries[g, : 4 * counts[g]].reshape(-1, 4)
        np.testing.assert_array_equal(values, np.pad(x[listed, features], ((0, 0), (0, 4 - n))))
    for of_quads, plain in ((op.quad_linear, op.linear), (op.quad_linear_relu, op.linear_relu)):
        y, expected = unwritten(dy), unwritten(dy)
        of_quads(y, *quads, w, b)
        plain(expected, x, w, b)
        np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-15)

    dw, added = unwritten(w), old.copy()
    op.quad_linear_dw(dw, *quads, dy)
    op.sparse_linear_dw_add(added, *compressed, dy, order, cursor, scale)
    np.testing.assert_allclose(dw, x.T @ dy, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(added, old + x.T @ dy, rtol=1e-13, atol=1e-15)


def test_what_is_not_stored_is_not_multiplied():
    w = np.array([[1.0], [np.inf]])
    y = np.empty((1, 1))
    stored = np.array([0, 1]), np.array([0], np.uint16), np.array([3], np.uint8)
    op.sparse_linear(y, *stored, w, np.zeros(1), np.zeros(1, np.int64), START, 1.0)
    assert y[0, 0] == 3


def test_batches_move_through_the_order():
    source, order = np.arange(10, dtype=np.uint8).reshape(5, 2), np.array([4, 0, 2, 1, 3])
    target, cursor = np.zeros((5, 2)), START.copy()
    for rows in (2, 2, 1):
        x = np.full((rows, 2), np.nan)
        op.gather_rows(x, source, order, cursor, 0.5)
        op.scatter_rows(target, x, cursor)
        op.advance(cursor, rows)
    np.testing.assert_array_equal(target, source[order] / 2)
    assert cursor.tolist() == [5, 3]
