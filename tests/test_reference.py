"""The oracle itself: gradients by central differences, worked examples, published vectors, others' optimizers."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from fastmnist.kernels import reference as op
from fastmnist.kernels.contract import CONTRACT

START = np.zeros(2, np.int64)
ACTIVATIONS = tuple(
    name.removesuffix("_backward") for name in CONTRACT if name.endswith("_backward") and name != "dropout_backward"
)


def _kept(name, x, y):
    """What the backward op of an activation reads beside dy: its input or its output."""
    return {"x": x, "y": y}[CONTRACT[f"{name}_backward"].ins[1].name]


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _like(a: np.ndarray) -> np.ndarray:
    """Somewhere to write a result: NaN wherever it is not written."""
    return np.full_like(a, np.nan)


def _numeric_gradient(f: Callable[[], float], x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """Central differences of `f()` in every element of `x`, which f reads."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + h
        above = f()
        x[index] = kept - h
        below = f()
        x[index] = kept
        gradient[index] = (above - below) / (2 * h)
    return gradient


def _assert_gradient(got: np.ndarray, f: Callable[[], float], x: np.ndarray) -> None:
    np.testing.assert_allclose(got, _numeric_gradient(f, x), rtol=1e-6, atol=1e-8)


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def layer():
    rng = np.random.default_rng(0)
    sizes = {"x": (5, 4), "w": (4, 3), "b": (3,), "dy": (5, 3)}
    return {name: rng.standard_normal(size) for name, size in sizes.items()}


def test_linear_gradients(layer):
    x, w, b, dy = layer.values()
    y = _like(dy)

    def loss():
        op.linear(y, x, w, b)
        return float((y * dy).sum())

    dx, dw, db = _like(x), _like(w), _like(b)
    op.linear_dx(dx, dy, w)
    op.linear_dw(dw, x, dy)
    op.linear_db(db, dy)
    _assert_gradient(dx, loss, x)
    _assert_gradient(dw, loss, w)
    _assert_gradient(db, loss, b)


def test_linear_relu_gradient(layer):
    x, w, b, dy = layer.values()
    y = _like(dy)

    def loss():
        op.linear_relu(y, x, w, b)
        return float((y * dy).sum())

    loss()
    assert 0 < (y == 0).sum() < y.size
    dz, dw = _like(dy), _like(w)
    op.relu_backward(dz, dy, y)
    op.linear_dw(dw, x, dz)
    _assert_gradient(dw, loss, w)


@pytest.mark.parametrize("panels", [1, 2])
def test_gradient_of_a_relu_below_a_layer(layer, panels):
    x, w, b, dy = layer.values()
    hidden, y = _like(x), _like(dy)

    def loss():
        op.relu(hidden, x)
        op.linear(y, hidden, w, b)
        return float((y * dy).sum())

    loss()
    assert 0 < (hidden == 0).sum() < hidden.size
    dx = _like(x)
    if panels == 1:
        op.linear_dx_relu(dx, dy, w, hidden)
    else:
        op.linear_dx(dx, dy[:, :1], w[:, :1])
        op.linear_dx_add_relu(dx, dy[:, 1:], w[:, 1:], hidden)
    _assert_gradient(dx, loss, x)


def test_accumulating_ops_sum_over_halves(layer):
    x, w, _, dy = layer.values()
    whole = _like(w), _like(layer["b"]), _like(x)
    op.linear_dw(whole[0], x, dy)
    op.linear_db(whole[1], dy)
    op.linear_dx(whole[2], dy, w)
    halves = _like(w), _like(layer["b"]), _like(x)
    op.linear_dw(halves[0], x[:2], dy[:2])
    op.linear_dw_add(halves[0], x[2:], dy[2:])
    op.linear_db(halves[1], dy[:2])
    op.linear_db_add(halves[1], dy[2:])
    op.linear_dx(halves[2], dy[:, :1], w[:, :1])
    op.linear_dx_add(halves[2], dy[:, 1:], w[:, 1:])
    for a, b in zip(whole, halves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


# --- images -----------------------------------------------------------------------------------------------------------

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
    y = _like(dy)

    def loss():
        op.conv2d(y, x, w, b, *geometry)
        return float((y * dy).sum())

    wt, dx, dw, db = np.empty((filters, len(w))), _like(x), _like(w), _like(b)
    op.transpose(wt, w)
    op.conv2d_dx(dx, dy, wt, *geometry)
    op.conv2d_dw(dw, x, dy, *geometry)
    op.conv2d_db(db, dy)
    for got, argument in ((dx, x), (dw, w), (db, b)):
        _assert_gradient(got, loss, argument)
    op.conv2d_dw_add(dw, x, dy, *geometry)
    op.conv2d_db_add(db, dy)
    _assert_gradient(dw / 2, loss, w)
    _assert_gradient(db / 2, loss, b)
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
    dy, dx, dw, dx_pooled, dwt = _like(y), _like(x), _like(w), _like(x), _like(wt)
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
    y, dx, argmax = _like(dy), _like(x), np.zeros(dy.shape, np.uint8)

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
    _assert_gradient(dx, loss, x)


def test_max_pool_takes_the_first_of_equals():
    x = np.array([[1.0, 3.0, 3.0, 2.0]])
    y, argmax = np.empty((1, 1)), np.zeros((1, 1), np.uint8)
    op.max_pool(y, argmax, x, 2, 2, 1, 2, 2, 2)
    assert (y[0, 0], argmax[0, 0]) == (3.0, 1)


def test_crop_is_the_adjoint_of_pad():
    rng = np.random.default_rng(5)
    x, dy = rng.standard_normal((2, 24)), rng.standard_normal((2, 6 * 8 * 2))
    y, dx = _like(dy), _like(x)
    op.pad(y, x, 3, 4, 2, 1, 2, 3, 1)
    op.crop(dx, dy, 3, 4, 2, 1, 2, 3, 1)
    np.testing.assert_allclose((y * dy).sum(), (x * dx).sum())
    assert (y != 0).sum() == x.size


def test_batch_norm_gradients():
    rng = np.random.default_rng(6)
    x, dy = rng.standard_normal((3, 4 * 2)), rng.standard_normal((3, 4 * 2))
    gamma, beta, moments = rng.standard_normal(2), rng.standard_normal(2), np.empty((2, 2))
    y, n, epsilon = _like(x), 12, 1e-3

    def loss():
        op.batch_moments(moments, x)
        op.batch_norm(y, x, moments, gamma, beta, n, epsilon)
        return float((y * dy).sum())

    loss()
    np.testing.assert_allclose(moments[1] / n, x.reshape(-1, 2).var(axis=0))
    sums, dx = np.empty((2, 2)), _like(x)
    op.batch_norm_sums(sums, dy, x, moments, n, epsilon)
    op.batch_norm_dx(dx, dy, x, moments, gamma, sums, n, epsilon)
    for got, argument in ((dx, x), (sums[1], gamma), (sums[0], beta)):
        _assert_gradient(got, loss, argument)


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


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_gradient(name):
    rng = np.random.default_rng(1)
    x, dy = 2 * rng.standard_normal((4, 9)), rng.standard_normal((4, 9))
    y, dx = _like(x), _like(x)

    def loss():
        getattr(op, name)(y, x)
        return float((y * dy).sum())

    loss()
    getattr(op, f"{name}_backward")(dx, dy, _kept(name, x, y))
    _assert_gradient(dx, loss, x)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("relu", [0.0, 0.0, 2.0]),
        ("leaky_relu", [-0.02, 0.0, 2.0]),
        ("elu", [np.exp(-2) - 1, 0.0, 2.0]),
        ("sigmoid", [1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-2))]),
        ("tanh", [-np.tanh(2), 0.0, np.tanh(2)]),
        ("gelu", [-2 * special.ndtr(-2), 0.0, 2 * special.ndtr(2)]),
    ],
)
def test_activation_values(name, values):
    x = np.array([[-2.0, 0.0, 2.0]])
    y = _like(x)
    getattr(op, name)(y, x)
    np.testing.assert_allclose(y, [values], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_at_the_ends_of_the_range(name, dtype):
    largest = np.finfo(dtype).max
    x = np.array([[-largest, largest, np.nan]], dtype)
    y, dx = _like(x), _like(x)
    getattr(op, name)(y, x)
    low = {"leaky_relu": 0.01 * -largest, "elu": -1, "tanh": -1}.get(name, 0)
    high = {"sigmoid": 1, "tanh": 1}.get(name, largest)
    np.testing.assert_allclose(y, np.array([[low, high, np.nan]], dtype), rtol=1e-6)
    getattr(op, f"{name}_backward")(dx, np.ones_like(x), _kept(name, x, y))
    slope = {"leaky_relu": (0.01, 1), "sigmoid": (0, 0), "tanh": (0, 0)}.get(name, (0, 1))
    np.testing.assert_allclose(dx[:, :2], [slope], rtol=1e-6)


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
        y, expected = _like(dy), _like(dy)
        sparse(y, *compressed, w, b, order, cursor, scale)
        plain(expected, x, w, b)
        np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-15)

    counts, rows, entries = np.full(6, -1, np.int32), np.full((6, 4), -1, np.int32), np.full((6, 4), np.nan)
    op.sparse_transpose(counts, rows, entries, *compressed, order, cursor, scale)
    for i in range(6):
        np.testing.assert_array_equal(rows[i, : counts[i]], np.flatnonzero(x[:, i]))
        np.testing.assert_array_equal(entries[i, : counts[i]], x[x[:, i] > 0, i])

    dw, added = _like(w), old.copy()
    op.sparse_linear_dw(dw, counts, rows, entries, dy)
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


# --- dropout ----------------------------------------------------------------------------------------------------------


# philox4x32 10 in Random123's kat_vectors (https://github.com/DEShawResearch/random123, tests/kat_vectors).
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter, key, expected):
    words = [np.array([int(word, 16) for word in text.split()], np.uint32) for text in (counter, key, expected)]
    got = op.philox4x32(words[0], words[1])
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, words[2])
    # Many counters at once give the same as one by one.
    many = op.philox4x32(np.stack([words[0], words[0] ^ 1, words[0]]), words[1])
    np.testing.assert_array_equal(many[[0, 2]], [words[2], words[2]])
    assert (many[1] != words[2]).all()


def _mask(shape, *, key=(7, 11), position=0, rate=0.4, layer=0, row_offset=0, column_offset=0):
    y, mask, x = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, 2.0)
    key, cursor = np.array(key, np.uint32), np.array([position, 5])
    op.dropout(y, mask, x, key, cursor, rate, layer, row_offset, column_offset)
    np.testing.assert_array_equal(y, x * mask)
    return mask


def test_dropout_element_by_element():
    """The contract's rule, one element at a time: word c mod 4 of counter (c div 4, position + r, layer, 0)."""
    rate, layer, position = 0.3, 3, 100
    mask = _mask((5, 11), position=position, rate=rate, layer=layer)
    for r, c in np.ndindex(mask.shape):
        words = op.philox4x32(np.array([c // 4, position + r, layer, 0], np.uint32), np.array([7, 11], np.uint32))
        dropped = int(words[c % 4]) < rate * 2**32
        assert mask[r, c] == (0 if dropped else pytest.approx(1 / 0.7))


def test_dropout_gradient():
    rng = np.random.default_rng(4)
    x, dy = rng.standard_normal((3, 6)), rng.standard_normal((3, 6))
    y, mask, dx = _like(x), _like(x), _like(x)
    key = np.array([1, 2], np.uint32)

    def loss():
        op.dropout(y, mask, x, key, START, 0.5, 0, 0, 0)
        return float((y * dy).sum())

    loss()
    assert 0 < (mask == 0).sum() < mask.size
    op.dropout_backward(dx, dy, mask)
    _assert_gradient(dx, loss, x)


def test_dropout_mask_does_not_depend_on_how_the_batch_is_cut():
    whole = _mask((40, 30))
    in_batches = np.concatenate([_mask((8, 30), position=p) for p in range(0, 40, 8)])
    np.testing.assert_array_equal(in_batches, whole)
    np.testing.assert_array_equal(_mask((3, 30), position=10, row_offset=7), whole[17:20])
    for first, last in ((0, 30), (1, 6), (3, 4), (13, 30), (16, 24)):
        np.testing.assert_array_equal(_mask((40, last - first), column_offset=first), whole[:, first:last])


def test_dropout_masks_differ_by_key_layer_and_position():
    masks = [_mask((16, 16)), _mask((16, 16), layer=1), _mask((16, 16), position=16)]
    masks += [_mask((16, 16), key=key) for key in ((8, 11), (7, 12))]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert 0.3 < (a == b).mean() < 0.8  # 0.4^2 + 0.6^2 = 0.52 of independent masks agree


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_rate(rate):
    mask = _mask((500, 400), rate=rate)
    deviation = np.sqrt(rate * (1 - rate) / mask.size)
    assert abs((mask == 0).mean() - rate) <= 5 * deviation
    np.testing.assert_allclose(mask[mask != 0], 1 / (1 - rate))
    # Neither rows nor columns nor a word of the four are special.
    for share in ((mask == 0).mean(axis=0), (mask == 0).mean(axis=1)):
        assert np.abs(share - rate).max() <= 6 * deviation * np.sqrt(500)
    for word in range(4):
        assert abs((mask[:, word::4] == 0).mean() - rate) <= 5 * 2 * deviation


# --- losses -----------------------------------------------------------------------------------------------------------


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
    dz, losses, hits = _like(z), np.full((len(order), *by_class), -1.0), np.full(len(order), 9, np.uint8)
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
    _assert_gradient(dz, objective, z)
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
    p = _like(z)
    op.softmax(p, z)
    np.testing.assert_array_equal(p, [[1, 0, 0], [1, 0, 0]])
    op.softmax(p, np.array([[np.finfo(dtype).max, np.finfo(dtype).min, 0]] * 2, dtype))
    np.testing.assert_array_equal(p, [[1, 0, 0], [1, 0, 0]])


def test_softmax_of_infinite_logits_is_nan():
    z = np.array([[np.inf, 0.0], [np.nan, 0.0], [-np.inf, 0.0]])
    p = _like(z)
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


# --- optimizers -------------------------------------------------------------------------------------------------------


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
