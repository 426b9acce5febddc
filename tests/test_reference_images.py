"""The oracle's ops on images: gradients by central differences, worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from central_differences import assert_gradient, unwritten

from fastmnist.kernels import reference as op

pytestmark = pytest.mark.filterwarnings("error")


# height, width, channels, rows and columns of the window, stride, filters
WINDOWS = [(5, 4, 2, 3, 2, 1, 3), (6, 7, 1, 2, 3, 2, 2), (4, 4, 3, 4, 4, 1, 2)]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_convolution_gradients(window):
    *geometry, filters = window
    height, width, channels, rows, columns, stride = geometry
    rng = np.random.default_rng(3)
    places = ((height - rows) // stride + 1) * ((width - columns) // stride + 1)
    x, w = (
        rng.standard_normal((2, height * width * channels)),
        rng.standard_normal((rows * columns * channels, filters)),
    )
    b, dy = rng.standard_normal(filters), rng.standard_normal((2, places * filters))
    y = unwritten(dy)

    def loss():
        op.conv2d(y, x, w, b, *geometry)
        return float((y * dy).sum())

    wt, dx, dw, db = np.empty((filters, len(w))), unwritten(x), unwritten(w), unwritten(b)
    op.transpose(wt, w)
    op.conv2d_dx(dx, dy, wt, *geometry)
    op.conv2d_dw(dw, x, dy, *geometry)
    op.conv2d_db(db, dy)
    for got, argument in ((dx, x), (dw, w), (db, b)):
        assert_gradient(got, loss, argument)
    op.conv2d_dw_add(dw, x, dy, *geometry)
    op.conv2d_db_add(db, dy)
    assert_gradient(dw / 2, loss, w)
    assert_gradient(db / 2, loss, b)
    op.conv2d_relu(y, x, w, b, *geometry)
    rectified = y.copy()
    loss()
    np.testing.assert_array_equal(rectified, np.maximum(y, 0))


@pytest.mark.parametrize("pool", [(2, 2, 2), (1, 2, 1), (3, 2, 1)], ids=str)
@pytest.mark.parametrize("window", WINDOWS[:2], ids=str)
def test_gradients_of_a_pooled_convolution_are_those_through_the_pooling(window, pool):
    *geometry, filters = window
    height, width, channels, rows, columns, stride = geometry
    made = (height - rows) // stride + 1, (width - columns) // stride + 1
    if pool[0] > made[0] or pool[1] > made[1]:
        pool = (1, 1, 1)
    places = ((made[0] - pool[0]) // pool[2] + 1) * ((made[1] - pool[1]) // pool[2] + 1)
    rng = np.random.default_rng(5)
    x, w = (
        rng.standard_normal((2, height * width * channels)),
        rng.standard_normal((rows * columns * channels, filters)),
    )
    y, wt = np.empty((2, made[0] * made[1] * filters)), w.T.copy()
    pooled, argmax = np.empty((2, places * filters)), np.empty((2, places * filters), np.uint8)
    op.conv2d(y, x, w, np.zeros(filters), *geometry)
    op.max_pool(pooled, argmax, y, *made, filters, *pool)
    sent = rng.standard_normal(pooled.shape) * (pooled > 0)
    dy, dx, dw, dx_pooled, dwt = unwritten(y), unwritten(x), unwritten(w), unwritten(x), unwritten(wt)
    op.max_pool_dx(dy, sent, argmax, *made, filters, *pool)
    op.conv2d_dx(dx, dy, wt, *geometry)
    op.conv2d_dw(dw, x, dy, *geometry)
    op.conv2d_pooled_dx(dx_pooled, sent, argmax, wt, *geometry, *pool)
    op.conv2d_pooled_dwt(dwt, x, sent, argmax, *geometry, *pool)
    np.testing.assert_allclose(dx_pooled, dx, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dwt.T, dw, rtol=1e-12, atol=1e-12)
    op.conv2d_pooled_dwt_add(dwt, x, sent, argmax, *geometry, *pool)
    np.testing.assert_allclose(dwt.T, 2 * dw, rtol=1e-12, atol=1e-12)


def test_convolution_by_hand():
    """One window at (1, 0) of an image of two channels, written out."""
    x, w, b = np.arange(24.0).reshape(1, 24), np.arange(8.0).reshape(8, 1), np.array([0.5])
    y = np.empty((1, 6))
    op.conv2d(y, x, w, b, 3, 4, 2, 2, 2, 1)
    pixels = x.reshape(3, 4, 2)
    by_hand = 0.5 + sum(
        pixels[1 + i, j, c] * w[(i * 2 + j) * 2 + c, 0] for i in range(2) for j in range(2) for c in range(2)
    )
    assert y.reshape(2, 3)[1, 0] == by_hand


@pytest.mark.parametrize("window", [(4, 6, 3, 2, 2, 2), (5, 5, 2, 3, 3, 1), (7, 5, 1, 2, 3, 3)], ids=str)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_gradients(kind, window):
    height, width, channels, rows, columns, stride = window
    rng = np.random.default_rng(4)
    places = ((height - rows) // stride + 1) * ((width - columns) // stride + 1)
    x, dy = rng.standard_normal((2, height * width * channels)), rng.standard_normal((2, places * channels))
    y, dx, argmax = unwritten(dy), unwritten(x), np.zeros(dy.shape, np.uint8)

    def loss():
        if kind == "max":
            op.max_pool(y, argmax, x, *window)
        else:
            op.avg_pool(y, x, *window)
        return float((y * dy).sum())

    loss()
    if kind == "max":
        op.max_pool_dx(dx, dy, argmax, *window)
    else:
        op.avg_pool_dx(dx, dy, *window)
    assert_gradient(dx, loss, x)


def test_max_pool_takes_the_first_of_equals():
    x = np.array([[1.0, 3.0, 3.0, 2.0]])
    y, argmax = np.empty((1, 1)), np.zeros((1, 1), np.uint8)
    op.max_pool(y, argmax, x, 2, 2, 1, 2, 2, 2)
    assert (y[0, 0], argmax[0, 0]) == (3.0, 1)


def test_crop_is_the_adjoint_of_pad():
    rng = np.random.default_rng(5)
    x, dy = rng.standard_normal((2, 24)), rng.standard_normal((2, 6 * 8 * 2))
    y, dx = unwritten(dy), unwritten(x)
    op.pad(y, x, 3, 4, 2, 1, 2, 3, 1)
    op.crop(dx, dy, 3, 4, 2, 1, 2, 3, 1)
    np.testing.assert_allclose((y * dy).sum(), (x * dx).sum())
    assert (y != 0).sum() == x.size


def test_batch_norm_gradients():
    rng = np.random.default_rng(6)
    x, dy = rng.standard_normal((3, 4 * 2)), rng.standard_normal((3, 4 * 2))
    gamma, beta, moments = rng.standard_normal(2), rng.standard_normal(2), np.empty((2, 2))
    y, n, epsilon = unwritten(x), 12, 1e-3

    def loss():
        op.batch_moments(moments, x)
        op.batch_norm(y, x, moments, gamma, beta, n, epsilon)
        return float((y * dy).sum())

    loss()
    np.testing.assert_allclose(moments[1] / n, x.reshape(-1, 2).var(axis=0))
    sums, dx = np.empty((2, 2)), unwritten(x)
    op.batch_norm_sums(sums, dy, x, moments, n, epsilon)
    op.batch_norm_dx(dx, dy, x, moments, gamma, sums, n, epsilon)
    for got, argument in ((dx, x), (sums[1], gamma), (sums[0], beta)):
        assert_gradient(got, loss, argument)


def test_moments_of_parts_are_those_of_the_whole():
    x = np.random.default_rng(7).standard_normal((7, 3 * 4)) + 5
    whole, total, part = np.empty((2, 4)), np.empty((2, 4)), np.empty((2, 4))
    op.batch_moments(whole, x)
    op.batch_moments(total, x[:2])
    op.batch_moments(part, x[2:])
    op.merge_moments(total, part, 6, 15)
    np.testing.assert_allclose(total, whole, rtol=1e-13)
    mean, variance = np.zeros(4), np.ones(4)
    op.moving_moments(mean, variance, whole, 21, 0.9)
    pixels = x.reshape(-1, 4)
    np.testing.assert_allclose(mean, 0.1 * pixels.mean(axis=0))
    np.testing.assert_allclose(variance, 0.9 + 0.1 * pixels.var(axis=0, ddof=1))
