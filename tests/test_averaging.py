"""The exponential moving average of the parameters: its formula, the same in every executor, and what estimators do with it."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fastmnist import CNNClassifier, MLPClassifier, load_model
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.network.initializers import initial_parameters
from fastmnist.network.layers import BatchNorm, Conv2D, Dense, Flatten
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec
from fastmnist.training.averaging import STEPS_BETWEEN, ParameterAverage

MLP = Spec(64, (Dense(12, "relu"), Dense(10)), optimizer=Adam())
# Without a bias: in front of a BatchNorm its gradient is 0 but for rounding, which Adam makes steps of.
LAYERS = (Conv2D(4, 3, use_bias=False), BatchNorm(), Flatten(), Dense(10))
CNN = Spec(64, LAYERS, optimizer=Adam(), image_shape=(8, 8, 1))


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X * 15).astype(np.uint8), y


def weighted_mean(snapshots: list[np.ndarray], ages: list[int], lengths: list[int], decay: float) -> np.ndarray:
    """The sum that the docstring states, over all steps: `lengths[i]` steps stand at a snapshot, the last of them `ages[i]` steps old."""
    weights = [sum(decay ** (age + k) for k in range(length)) for age, length in zip(ages, lengths, strict=True)]
    return np.average(np.stack(snapshots).astype(np.float64), axis=0, weights=weights)


def test_formula():
    rng = np.random.default_rng(0)
    snapshots, lengths = [rng.normal(size=(3, 2)) for _ in range(4)], [16, 16, 5, 1]
    average = ParameterAverage(0.9)
    for i, (p, steps) in enumerate(zip(snapshots, lengths, strict=True)):
        average.add([p], steps)
        ages = [sum(lengths[j + 1 : i + 1]) for j in range(i + 1)]
        expected = weighted_mean(snapshots[: i + 1], ages, lengths[: i + 1], 0.9)
        np.testing.assert_allclose(average.parameters[0], expected, rtol=1e-12)


def train(executor, digits, average, n=300, batch_size=8):
    X, y = digits
    executor.bind(X, y.astype(np.int32), pixel_scale=1 / 255)
    executor.set_parameters(initial_parameters(executor.spec, np.random.RandomState(0), executor.dtype))
    order = np.random.RandomState(1).permutation(len(X))[:n]
    run = executor.run_epoch if average is None else lambda *a, **k: average.run_epoch(executor, *a, **k)
    return run(order, np.full(-(-n // batch_size), 0.01), batch_size, seed=0)


@pytest.mark.parametrize("spec", [MLP, CNN], ids=["mlp", "cnn with BatchNorm"])
@pytest.mark.parametrize("make", [CpuExecutor, ReferenceExecutor])
@pytest.mark.parametrize("n", [300, 256, 260, 261])
def test_training_in_parts_is_training_in_one(spec, make, n, digits):
    """Bit by bit; 260 and 261 samples end in a short batch that joins the part before it, or a part of its own."""
    whole, parts = make(spec, n_threads=2), make(spec, n_threads=2)
    average = ParameterAverage(0.9)
    expected, epoch = train(whole, digits, None, n), train(parts, digits, average, n)
    assert epoch.steps == expected.steps == -(-n // 8)
    assert not epoch.interrupted
    np.testing.assert_array_equal(epoch.losses, expected.losses)
    np.testing.assert_array_equal(epoch.hits, expected.hits)
    for one, other in zip(parts.get_parameters(), whole.get_parameters(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("spec", [MLP, CNN], ids=["mlp", "cnn with BatchNorm"])
def test_average_of_a_run_against_the_oracle_step_by_step(spec, digits):
    """Every parameter, running statistics among them: the snapshots of a float64 run, one step at a time, and the compiled average."""
    average = ParameterAverage(0.9)
    train(CpuExecutor(spec, n_threads=2), digits, average, 40 * 8)
    oracle, (X, y) = ReferenceExecutor(spec, dtype=np.float64), digits
    oracle.bind(X, y.astype(np.int32), pixel_scale=1 / 255)
    oracle.set_parameters(initial_parameters(spec, np.random.RandomState(0), np.dtype(np.float32)))
    order, snapshots = np.random.RandomState(1).permutation(len(X))[: 40 * 8], []
    for step in range(40):
        oracle.run_epoch(order[step * 8 : step * 8 + 8], np.array([0.01]), 8)
        if step + 1 in (STEPS_BETWEEN, 2 * STEPS_BETWEEN, 40):
            snapshots.append(oracle.get_parameters())
    for i, mean in enumerate(average.parameters):
        expected = weighted_mean([p[i] for p in snapshots], [24, 8, 0], [16, 16, 8], 0.9)
        np.testing.assert_allclose(mean, expected, rtol=2e-4, atol=2e-5)
    assert np.abs(average.parameters[-2] - snapshots[-1][-2]).max() > 1e-3  # the average is not the end


def test_rows_read_in_windows(digits):
    """Parts within each window; the average is that of the same rows in memory."""
    X, y = digits
    common = {"batch_size": 8, "max_iter": 1, "shuffle": False, "random_state": 0, "tol": 0, "learning_rate_init": 0.02}
    X = X.astype(np.float64)  # its copy as float32 is larger than max_memory
    expected = MLPClassifier(12, **common, backend="numba", ema_decay=0.9).fit(X, y).coefs_[1]
    clf = MLPClassifier(12, **common, backend="numba", ema_decay=0.9, max_memory=200_000).fit(X, y)
    assert "rows at a time are in memory" in clf.backend_reason_
    last = MLPClassifier(12, **common, backend="numba", max_memory=200_000).fit(X, y).coefs_[1]
    # A window ends a part early, so the snapshots are others.
    assert 0 < np.abs(clf.coefs_[1] - expected).max() < np.abs(last - expected).max() / 2


class TestEstimators:
    @pytest.mark.parametrize("backend", ["numba", "numpy"])
    def test_the_average_is_validated_kept_and_saved(self, digits, backend, tmp_path):
        X, y = digits
        common = {"batch_size": 10, "max_iter": 2, "tol": 0, "random_state": 0, "backend": backend}
        common |= {"layers": (Conv2D(4, 3, activation="relu"), BatchNorm(), Flatten())}
        held_out = X[300:600], y[300:600]
        plain = CNNClassifier(**common).fit(X[:300], y[:300], validation_data=held_out)
        clf = CNNClassifier(**common, ema_decay=0.95).fit(X[:300], y[:300], validation_data=held_out)
        assert clf.loss_curve_ == pytest.approx(plain.loss_curve_)  # the training itself is the same
        assert not np.allclose(clf.coefs_[0], plain.coefs_[0], atol=1e-3)
        assert clf.history_["val_accuracy"][-1] == clf.score(*held_out)
        clf.save(tmp_path / "m.safetensors")
        assert load_model(tmp_path / "m.safetensors").ema_decay == 0.95
        np.testing.assert_array_equal(load_model(tmp_path / "m.safetensors").predict_proba(X), clf.predict_proba(X))

    def test_early_stopping_keeps_the_best_average(self, digits):
        X, y = digits
        clf = MLPClassifier(16, max_iter=8, ema_decay=0.9, early_stopping=True, random_state=0, batch_size=16)
        clf.fit(X[:400], y[:400], validation_data=(X[400:600], y[400:600]))
        assert clf.score(X[400:600], y[400:600]) == clf.best_validation_score_

    def test_partial_fit_goes_on_behind_the_average(self, digits):
        X, y = digits
        common = {"hidden_layer_sizes": 12, "batch_size": 10, "shuffle": False, "random_state": 0, "tol": 0}
        whole = MLPClassifier(**common, ema_decay=0.97, max_iter=3).fit(X[:300], y[:300])
        parts = MLPClassifier(**common, ema_decay=0.97)
        for _ in range(3):
            parts.partial_fit(X[:300], y[:300], classes=np.unique(y))
        np.testing.assert_array_equal(parts.coefs_[0], whole.coefs_[0])
        kept = parts.coefs_[0].copy()
        again = pickle.loads(pickle.dumps(parts)).partial_fit(X[:300], y[:300])
        np.testing.assert_array_equal(parts.coefs_[0], kept)
        assert not np.array_equal(again.coefs_[0], kept)
        # Weights that someone has changed are gone on from as they are.
        parts.coefs_[0][...] = 0
        parts.intercepts_[0][...] = -1
        assert parts.partial_fit(X[:300], y[:300]).loss_ > whole.loss_

    def test_lbfgs_has_nothing_to_average(self, digits):
        with pytest.raises(ValueError, match=r"ema_decay needs mini-batches: solver must be .* ema_decay=0\.9"):
            MLPClassifier(solver="lbfgs", ema_decay=0.9).fit(*digits)
