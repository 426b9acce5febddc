"""The numba executor against the oracle: same program, same data, same results."""

import threading

import numpy as np
import pytest
from executor_cases import CASES, CLASSES, FEATURES, N, _data, _parameters, _spec, _train

from fastmnist.backends.binding import epoch_inputs
from fastmnist.backends.blocks import SORTED_ROWS, BlockRows, bitmap_of, layouts, pack
from fastmnist.backends.compressed import choose_format, compress
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.crossovers import Crossover
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.kernels.cpu.isa import MACHINE
from fastmnist.kernels.cpu.tile import STRIP
from fastmnist.network.layers import Dense
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec

# Adam divides a gradient by its own size: one that is nothing but rounding makes a whole step, in either direction. Not so beside this epsilon.
BLUNT_ADAM = Adam(weight_decay=1e-3, epsilon=1e-3)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["sparse uint8", "dense uint8", "sparse float", "dense float"])
def test_training_follows_the_float64_oracle(name, kind):
    spec = CASES[name]
    oracle = ReferenceExecutor(spec, dtype=np.float64)
    expected, epochs = _train(oracle, spec, kind, weighted=True)
    got, ours = _train(CpuExecutor(spec, n_threads=2), spec, kind, weighted=True)
    for theirs, mine in zip(epochs, ours, strict=True):
        np.testing.assert_allclose(mine.losses, theirs.losses, rtol=2e-3, atol=2e-5)
        assert (mine.hits != theirs.hits).mean() <= 0.02  # a tie may fall the other way
        assert mine.steps == theirs.steps == -(-N // 32)
    for a, b in zip(got, expected, strict=True):
        # 21 steps of float32 against float64: rounding errors of 1e-7 a step, grown by the learning itself.
        assert not (np.abs(a - b).max() > 3e-4 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("name", CASES)
def test_same_bits_on_any_number_of_threads(name):
    spec = CASES[name]
    first, first_epochs = _train(CpuExecutor(spec, n_threads=1), spec)
    for n_threads in (2, 3, 7):
        again, epochs = _train(CpuExecutor(spec, n_threads=n_threads), spec)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True)), n_threads
        assert all(a.losses.tobytes() == b.losses.tobytes() for a, b in zip(first_epochs, epochs, strict=True))


def _skipping_and_dense(monkeypatch, spec, kind):
    skipping = _train(CpuExecutor(spec, n_threads=2), spec, kind, weighted=True)
    monkeypatch.setattr("fastmnist.backends.compressed.share_to_compress", lambda **_: Crossover(-1.0, "set here"))
    return skipping, _train(CpuExecutor(spec, n_threads=2), spec, kind, weighted=True)


@pytest.mark.parametrize("kind", ["sparse uint8", "sparse float"])
@pytest.mark.parametrize("changes", [{}, {"optimizer": Adam(weight_decay=1e-3)}, {"loss": BinaryCrossEntropy()}])
def test_skipped_zeros_leave_the_bits_in_whole_strips(monkeypatch, changes, kind):
    spec = _spec(layers=(Dense(2 * STRIP, "relu"), Dense(33, "relu"), Dense(CLASSES)), **changes)
    (skipping, skipping_epochs), (dense, dense_epochs) = _skipping_and_dense(monkeypatch, spec, kind)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(skipping, dense, strict=True))
    assert all(a.losses.tobytes() == b.losses.tobytes() for a, b in zip(skipping_epochs, dense_epochs, strict=True))


@pytest.mark.parametrize("kind", ["sparse uint8", "sparse float"])
@pytest.mark.parametrize("name", ["sgd", "adam, coupled decay", "one-vs-rest", "one layer"])
def test_skipped_zeros_leave_the_bits_of_narrow_layers(monkeypatch, name, kind):
    (skipping, _), (dense, _) = _skipping_and_dense(monkeypatch, CASES[name], kind)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(skipping, dense, strict=True))


@pytest.mark.parametrize("batch", [1, 7, 32, N, 1000])
def test_any_batch_size(batch):
    spec = _spec(layers=(Dense(30, "relu"), Dense(CLASSES)))
    expected, _ = _train(ReferenceExecutor(spec, dtype=np.float64), spec, batch=batch, epochs=1)
    got, epochs = _train(CpuExecutor(spec, n_threads=2), spec, batch=batch, epochs=1)
    assert len(epochs[0].losses) == N
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_batch_size_may_change_and_the_optimizer_goes_on():
    spec = _spec(optimizer=BLUNT_ADAM)
    results = []
    for executor in (ReferenceExecutor(spec, dtype=np.float64), CpuExecutor(spec, n_threads=2)):
        _train(executor, spec, batch=32, epochs=1)
        executor.run_epoch(np.arange(N), np.full(-(-N // 50), 0.02), 50)
        executor.reset_optimizer()
        executor.run_epoch(np.arange(40), np.full(2, 0.02), 20)
        results.append(executor.get_parameters())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("kind", ["sparse uint8", "dense float"])
@pytest.mark.parametrize("name", ["sgd", "one-vs-rest", "one layer", "activations", "dropout"])
def test_full_batch_gradient_and_outputs(name, kind):
    spec = CASES[name]
    X, y, weight = _data(kind)
    scale = 1 / 255 if X.dtype == np.uint8 else 1.0
    parameters = _parameters(spec)
    oracle, ours = ReferenceExecutor(spec, dtype=np.float64), CpuExecutor(spec, n_threads=2)
    for executor in (oracle, ours):
        executor.bind(X, y, weight, pixel_scale=scale)
    loss, gradient = oracle.loss_and_gradient(parameters)
    our_loss, our_gradient = ours.loss_and_gradient(parameters)
    assert our_loss == pytest.approx(loss, rel=1e-6)
    for a, b in zip(our_gradient, gradient, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    np.testing.assert_allclose(
        ours.outputs(parameters, X, pixel_scale=scale), oracle.outputs(parameters, X, pixel_scale=scale), atol=2e-6
    )
    assert ours.outputs(parameters, X[:0], pixel_scale=scale).shape == (0, CLASSES)


def test_full_batch_gradient_is_the_same_on_any_number_of_threads():
    spec = _spec()
    rng = np.random.default_rng(0)
    X, y = (
        (rng.random((3000, FEATURES)) * (rng.random((3000, FEATURES)) < 0.2)).astype(np.float32),
        rng.integers(0, 5, 3000),
    )
    bits = set()
    for n_threads in (1, 2, 3):
        executor = CpuExecutor(spec, n_threads=n_threads)
        executor.bind(X, y)
        loss, gradient = executor.loss_and_gradient(_parameters(spec))
        bits.add((loss, b"".join(g.tobytes() for g in gradient)))
    assert len(bits) == 1


def test_two_trainings_at_once():
    spec = _spec()
    expected, _ = _train(CpuExecutor(spec, n_threads=2), spec)
    results = {}

    def train(i):
        results[i] = _train(CpuExecutor(spec, n_threads=2), spec)[0]

    threads = [threading.Thread(target=train, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got in results.values():
        assert all(a.tobytes() == b.tobytes() for a, b in zip(got, expected, strict=True))


def test_denormal_moments_leave_the_callers_floating_point_mode_alone():
    spec = _spec(optimizer=Adam())
    _train(CpuExecutor(spec, n_threads=1), spec, epochs=1)
    tiny = np.float32(1e-40)
    assert tiny * np.float32(1) != 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_compressed_rows_hold_exactly_the_nonzeros(dtype):
    rng = np.random.default_rng(0)
    X = (rng.integers(0, 256, (5000, 33)) * (rng.random((5000, 33)) < 0.1)).astype(dtype)
    X[7] = 0
    rows = compress(X)
    back = np.zeros_like(X)
    for i in range(len(X)):
        lo, hi = rows.indptr[i : i + 2]
        back[i, rows.columns[lo:hi]] = rows.values[lo:hi]
    np.testing.assert_array_equal(back, X)
    assert rows.values.all()


def test_format_is_chosen_by_density_and_says_why():
    spec = _spec()
    X, _, _ = _data("sparse uint8")
    for kind, full_batch in (("sparse float", False), ("sparse uint8", True)):
        data, rows = choose_format(_data(kind)[0], 1 / 255, spec, full_batch=full_batch)
        assert data.compressed and rows is not None and "skips" in data.reason
    data, rows = choose_format(X, 1 / 255, spec)
    assert (data.skipping, data.compressed) == (MACHINE.packs_lanes, not MACHINE.packs_lanes)
    assert (rows is None) == data.skipping and "skips" in data.reason
    data, rows = choose_format(_data("dense uint8")[0], 1 / 255, spec)
    assert not data.compressed and rows is None and "above the limit" in data.reason
    data, _ = choose_format(X, 1 / 255, CASES["input dropout"])
    assert not data.compressed and "not Dense" in data.reason


def _images(dtype, n_features=64):
    """Rows most of whose blocks are 0."""
    rng = np.random.default_rng(4)
    occupied = np.repeat(rng.random((N, -(-n_features // 16))) < 0.4, 16, axis=1)[:, :n_features]
    X = (rng.integers(0, 256, (N, n_features)) * occupied).astype(dtype)
    return X, rng.integers(0, CLASSES, N).astype(np.int32), rng.random(N).astype(np.float32)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("n_features", [64, 75])
@pytest.mark.parametrize(
    ("loss", "n_outputs"),
    [(SoftmaxCrossEntropy(), CLASSES), (BinaryCrossEntropy(), CLASSES), (BinaryCrossEntropy(), 1)],
    ids=["softmax", "one-vs-rest", "one output"],
)
def test_gradients_on_rows_in_blocks_follow_the_float64_oracle(loss, n_outputs, n_features, dtype):
    spec = Spec(n_features, (Dense(n_outputs),), loss)
    X, y, weight = _images(dtype, n_features)
    y = np.minimum(y, max(n_outputs, 2) - 1)
    assert choose_format(X, 1.0, spec, full_batch=True)[0].blocked
    oracle = ReferenceExecutor(spec, dtype=np.float64)
    oracle.bind(X, y, weight, pixel_scale=0.01)
    losses, gradient = oracle.losses_and_gradient(_parameters(spec))
    bits = set()
    for n_threads in (1, 2, 3):
        executor = CpuExecutor(spec, n_threads=n_threads)
        executor.bind(X, y, weight, pixel_scale=0.01, full_batch=True)
        ours, our_gradient = executor.losses_and_gradient(_parameters(spec))
        np.testing.assert_allclose(ours, losses, rtol=1e-6)
        for mine, theirs in zip(our_gradient, gradient, strict=True):
            assert mine.shape == theirs.shape
            np.testing.assert_allclose(mine, theirs, atol=2e-6 * np.abs(theirs).max())
        bits.add(b"".join(part.tobytes() for part in (ours, *our_gradient)))
    assert len(bits) == 1


def test_blocks_are_chosen_for_gradients_of_few_outputs_and_epochs_still_run():
    X, y, _ = _images("uint8")
    one_layer = Spec(64, (Dense(CLASSES),))
    data, rows = choose_format(X, 1.0, one_layer, full_batch=True)
    assert data.blocked and not data.dense and isinstance(rows, BlockRows) and "blocks" in data.reason
    for spec, memory, full_batch in (
        (one_layer, None, False),
        (one_layer, 100, True),
        (Spec(64, (Dense(50),)), None, True),
        (Spec(64, (Dense(50), Dense(CLASSES))), None, True),
    ):
        assert not choose_format(X, 1.0, spec, full_batch=full_batch, max_memory=memory)[0].blocked
    lonely = np.zeros((50, 160), np.uint8)
    lonely[:, ::16] = 1  # one value of each block: compressed rows are faster
    assert choose_format(lonely, 1.0, Spec(160, (Dense(10),)), full_batch=True)[0].compressed
    executor, same = CpuExecutor(one_layer, n_threads=2), CpuExecutor(one_layer, n_threads=2)
    for each, full_batch in ((executor, True), (same, False)):
        each.bind(X, y, full_batch=full_batch)
        each.losses_and_gradient(_parameters(one_layer))
        each.set_parameters(_parameters(one_layer))
        each.run_epoch(np.arange(N), np.full(-(-N // 32), 1e-6), 32)
    for a, b in zip(executor.get_parameters(), same.get_parameters(), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("n_features", [1, 16, 49, 64, 784, 1030])
def test_rows_in_blocks_hold_the_nonzeros(n_features):
    rng = np.random.default_rng(0)
    X = (rng.random((50, n_features)) * (rng.random((50, n_features)) < 0.1)).astype(np.float32)
    weights = rng.random((n_features, 3))
    for features in layouts(n_features):
        assert sorted(features[features >= 0]) == list(range(n_features))
        rows = pack(X, features)
        np.testing.assert_array_equal(rows.from_blocks(rows.to_blocks(weights), weights.shape), weights)
        assert len(rows) == 50 and np.count_nonzero(rows.values) == np.count_nonzero(X)
    assert len(layouts(n_features)) == (2 if n_features in (16, 64, 784) else 1)


def test_rows_in_blocks_stand_by_their_number_of_blocks_and_are_those_of_x():
    rng = np.random.default_rng(0)
    X = rng.integers(1, 256, (5000, 48)).astype(np.uint8) * np.repeat(rng.random((5000, 3)) < 0.5, 16, axis=1)
    rows = pack(X, layouts(48)[0], n_threads=2)
    assert sorted(rows.rows) == list(range(5000))
    counts = np.diff(rows.indptr)
    for first in range(0, 5000, SORTED_ROWS):
        here = slice(first, first + SORTED_ROWS)
        assert set(rows.rows[here]) == set(range(*here.indices(5000)))
        assert (np.diff(counts[here]) >= 0).all()
    np.testing.assert_array_equal(rows.values, X[rows.rows][X[rows.rows] != 0])
    np.testing.assert_array_equal(rows.bitmap, bitmap_of(X[rows.rows], rows.features))
    assert pack(X[:0], layouts(48)[0]).rows.shape == (0,)


def test_epoch_inputs_give_adams_bias_correction_and_both_l2():
    spec = _spec(optimizer=Adam(weight_decay=0.5), l2=3.0)
    weight = np.array([1, 2, 3, 0, 0], np.float32)
    inputs = epoch_inputs(spec, np.arange(5), np.array([0.1, 0.1, 0.2]), 2, weight, 7, np.dtype("float64"), 2**33 + 5)
    t = np.array([8, 9, 10])
    expected = np.array([0.1, 0.1, 0.2]) * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    np.testing.assert_allclose(inputs["hyper_weights"][:, 0], expected)
    np.testing.assert_allclose(inputs["scale"], [1 / 3, 1 / 3, 0], rtol=1e-6)  # the last batch weighs nothing
    np.testing.assert_allclose(inputs["hyper_weights"][:, 2], [0.5 + 1, 0.5 + 1, 0.5])
    np.testing.assert_allclose(inputs["hyper_biases"][:, 2], 0.5)
    assert inputs["key"].tolist() == [5, 2]
    with pytest.raises(ValueError, match="one value a step"):
        epoch_inputs(spec, np.arange(5), np.array([0.1]), 2, weight, 0, np.dtype("float64"), 0)
