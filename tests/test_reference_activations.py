"""The oracle's activations and dropout: gradients by central differences, values, published vectors of random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from central_differences import assert_gradient, unwritten
from scipy import special

from fastmnist.kernels import reference as op
from fastmnist.kernels.contract import CONTRACT

pytestmark = pytest.mark.filterwarnings("error")

START = np.zeros(2, np.int64)


ACTIVATIONS = tuple(
    name.removesuffix("_backward") for name in CONTRACT if name.endswith("_backward") and name != "dropout_backward"
)


def _kept(name, x, y):
    """What the backward op of an activation reads beside dy: its input or its output."""
    return {"x": x, "y": y}[CONTRACT[f"{name}_backward"].ins[1].name]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_gradient(name):
    rng = np.random.default_rng(1)
    x, dy = 2 * rng.standard_normal((4, 9)), rng.standard_normal((4, 9))
    y, dx = unwritten(x), unwritten(x)

    def loss():
        getattr(op, name)(y, x)
        return float((y * dy).sum())

    loss()
    getattr(op, f"{name}_backward")(dx, dy, _kept(name, x, y))
    assert_gradient(dx, loss, x)


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
    y = unwritten(x)
    getattr(op, name)(y, x)
    np.testing.assert_allclose(y, [values], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_at_the_ends_of_the_range(name, dtype):
    largest = np.finfo(dtype).max
    x = np.array([[-largest, largest, np.nan]], dtype)
    y, dx = unwritten(x), unwritten(x)
    getattr(op, name)(y, x)
    low = {"leaky_relu": 0.01 * -largest, "elu": -1, "tanh": -1}.get(name, 0)
    high = {"sigmoid": 1, "tanh": 1}.get(name, largest)
    np.testing.assert_allclose(y, np.array([[low, high, np.nan]], dtype), rtol=1e-6)
    getattr(op, f"{name}_backward")(dx, np.ones_like(x), _kept(name, x, y))
    slope = {"leaky_relu": (0.01, 1), "sigmoid": (0, 0), "tanh": (0, 0)}.get(name, (0, 1))
    np.testing.assert_allclose(dx[:, :2], [slope], rtol=1e-6)


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
    y, mask, dx = unwritten(x), unwritten(x), unwritten(x)
    key = np.array([1, 2], np.uint32)

    def loss():
        op.dropout(y, mask, x, key, START, 0.5, 0, 0, 0)
        return float((y * dy).sum())

    loss()
    assert 0 < (mask == 0).sum() < mask.size
    op.dropout_backward(dx, dy, mask)
    assert_gradient(dx, loss, x)


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
