"""What is found out on the device instead of downloading all of it: labels, hits and losses, ranges, classes. In the simulator."""

from __future__ import annotations

import numpy as np
import pytest
from cusim import compiler_missing, device

from fastmnist.kernels.gpu import judging
from fastmnist.network.layers import Dense
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from fastmnist.network.spec import Spec
from fastmnist.training.validation import Validation

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)

SHAPES = ((1, 1), (7, 1), (5, 2), (300, 10), (33, 67))


def run(launches, mode="plain", reverse=False):
    for launch in launches:
        device.run(launch, mode=mode, reverse=reverse)


def probabilities(rows, columns, seed=0):
    """Some are exactly 0, 1 or equal to their neighbour; the matrix is a part of a wider one."""
    rng = np.random.default_rng(seed)
    p = rng.random((rows, columns + 3), np.float32)[:, :columns]
    p[rng.random(p.shape) < 0.1] = 0
    p[rng.random(p.shape) < 0.1] = 1
    p[: rows // 3, :] = 0.5
    return p


class Given:
    """An executor whose outputs are known: what the host makes of them is the oracle."""

    def __init__(self, p, loss):
        self.spec, self._p = Spec(3, (Dense(p.shape[1]),), loss), p

    def outputs(self, parameters, X, *, pixel_scale=1.0, link=True):
        return self._p


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_of_probabilities(shape, mode="plain", reverse=True):
    p, labels = probabilities(*shape), np.full(shape[0], 99, np.int32)
    run(judging.predict_labels(device.FACTS, device.array(labels), device.array(p), 0.5), mode, reverse)
    expected = np.where(p[:, 0] > 0.5, 0, 1) if shape[1] == 1 else p.argmax(axis=1)
    np.testing.assert_array_equal(labels, expected)
    p[-1, -1] = np.nan
    p[0, 0] = np.inf
    run(judging.predict_labels(device.FACTS, device.array(labels), device.array(p), 0.5), mode)
    assert labels[-1] == labels[0] == -1 and (labels[1:-1] == expected[1:-1]).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_judgement(shape, weighted, mode="plain", reverse=True):
    rng, p = np.random.default_rng(1), probabilities(*shape)
    n_classes = max(shape[1], 2)
    labels = rng.integers(0, n_classes, shape[0]).astype(np.int32)
    weight = (rng.random(shape[0], np.float32) + np.float32(0.1)) if weighted else None
    for loss in (SoftmaxCrossEntropy(), BinaryCrossEntropy()):
        if shape[1] == 1 and isinstance(loss, SoftmaxCrossEntropy):
            continue  # one output has a sigmoid
        totals = np.zeros(judging.TOTALS)
        for rows in (slice(0, 2), slice(2, None)):  # sums go on
            operands = [device.array(a) for a in (totals, p[rows], labels[rows])]
            weights = None if weight is None else device.array(weight[rows])
            one_vs_rest = isinstance(loss, BinaryCrossEntropy)
            run(judging.judge(*operands, weights, 0.5, one_vs_rest=one_vs_rest), mode, reverse)
        host = Validation(np.empty((shape[0], 3)), labels, weight).evaluate(Given(p, loss), [])
        assert totals[0] == pytest.approx(shape[0] if weight is None else weight.sum(dtype=float), rel=1e-6)
        np.testing.assert_allclose(totals[1:3] / totals[0], host, rtol=1e-6)
        assert totals[3] == 0


def test_judgement_of_unknown_labels_and_of_what_is_no_number():
    p, totals = probabilities(6, 4), np.zeros(judging.TOTALS)
    labels = p.argmax(axis=1).astype(np.int32)
    labels[:2] = -1, 9  # classes that the model does not know
    p[3] = np.nan
    run(judging.judge(*map(device.array, (totals, p, labels)), None, 0.5, one_vs_rest=False))
    assert totals[3] == 1 and totals[0] == 6
    assert totals[2] in (3, 4)  # of rows 2, 4 and 5; a row of NaN has no meaning


@pytest.mark.parametrize("size", [1, 255, 5000])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_range_of_rows(size, dtype, mode="plain", reverse=True):
    rng = np.random.default_rng(size)
    x = rng.integers(3, 200, size).astype(dtype)
    if dtype == np.float32:
        x -= 100
    parts = np.empty((judging.SURVEYORS, judging.FACTS))
    run(judging.survey(device.array(parts), device.array(x)), mode, reverse)
    assert (-parts[:, 0].max(), parts[:, 1].max(), parts[:, 2].sum()) == (x.min(), x.max(), 0)
    if dtype == np.float32:
        x[::7] = np.nan
        x[size // 2] = -np.inf
        run(judging.survey(device.array(parts), device.array(x)), mode)
        assert parts[:, 2].sum() == (~np.isfinite(x)).sum()


@pytest.mark.parametrize("dtype", judging.LABEL_DTYPES)
def test_classes_and_their_outputs(dtype, mode="plain", reverse=True):
    rng = np.random.default_rng(0)
    classes = np.array([0, 3, 77, 255] if dtype == "uint8" else [0, 3, 77, judging.MOST_CLASSES - 1])
    y = rng.choice(classes, 700).astype(dtype)
    present = np.zeros(judging.MOST_CLASSES + 1, np.int32)
    run(judging.find_classes(device.FACTS, device.array(present), device.array(y)), mode, reverse)
    np.testing.assert_array_equal(np.flatnonzero(present), classes)
    output_of = np.full(judging.MOST_CLASSES, -1, np.int32)
    output_of[classes] = range(4)
    labels = np.full(700, 99, np.int32)
    run(judging.encode_labels(device.FACTS, *map(device.array, (labels, y, output_of))), mode, reverse)
    np.testing.assert_array_equal(labels, np.searchsorted(classes, y))
    if dtype == "uint8":
        return
    y[5], y[6] = -1, judging.MOST_CLASSES
    run(judging.find_classes(device.FACTS, device.array(present), device.array(y)), mode)
    assert present[judging.MOST_CLASSES] == 1
    run(judging.encode_labels(device.FACTS, *map(device.array, (labels, y, output_of))), mode)
    assert labels[5] == labels[6] == -2 and (labels[7:] >= 0).all()
