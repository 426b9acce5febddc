"""Accuracy on the real data set, with the settings that `fastmnist train` uses."""

import numpy as np
import pytest

from fastmnist import LogisticRegression, MLPClassifier, OneVsRestLogisticRegression, load_mnist

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def mnist():
    return *load_mnist("train", return_X_y=True), *load_mnist("test", return_X_y=True)


def _default_mlp(seed):
    return MLPClassifier((128, 64), batch_size=32, max_iter=10, random_state=seed)


def test_the_default_network_on_one_seed(mnist):
    X, y, X_test, y_test = mnist
    model = _default_mlp(0).fit(X, y)
    assert model.backend_ == "numba"
    assert model.score(X_test, y_test) >= 0.97
    assert model.loss_curve_[-1] < model.loss_curve_[0] / 5


@pytest.mark.long
def test_the_default_network_reaches_97_5_percent(mnist):
    X, y, X_test, y_test = mnist
    scores = [_default_mlp(seed).fit(X, y).score(X_test, y_test) for seed in range(5)]
    print("test accuracy of 5 seeds:", scores, "mean", np.mean(scores))
    assert np.mean(scores) >= 0.975


def test_same_bits_on_real_data_with_one_and_two_threads(mnist):
    X, y, X_test, _ = mnist
    models = [
        MLPClassifier((128, 64), batch_size=32, max_iter=1, random_state=3, n_threads=n).fit(X, y) for n in (1, 2, 2)
    ]
    for other in models[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(models[0].coefs_, other.coefs_, strict=True))
        assert models[0].predict_proba(X_test).tobytes() == other.predict_proba(X_test).tobytes()


def test_compressed_and_dense_rows_train_alike(mnist, monkeypatch):
    """Zero pixels are skipped exactly: only the order of the sums differs."""
    from fastmnist.backends.crossovers import Crossover

    X, y, X_test, y_test = mnist
    sparse = MLPClassifier((128, 64), batch_size=32, max_iter=1, random_state=3, backend="numba").fit(X, y)
    monkeypatch.setattr("fastmnist.backends.compressed.share_to_compress", lambda **_: Crossover(-1.0, "set here"))
    dense = MLPClassifier((128, 64), batch_size=32, max_iter=1, random_state=3, backend="numba").fit(X, y)
    assert dense.loss_curve_[0] == pytest.approx(sparse.loss_curve_[0], rel=2e-3)
    assert dense.score(X_test, y_test) == pytest.approx(sparse.score(X_test, y_test), abs=0.005)


@pytest.mark.long
def test_multinomial_regression_scores_as_scikit_learns(mnist):
    from sklearn.linear_model import LogisticRegression as Peer

    X, y, X_test, y_test = mnist
    ours = LogisticRegression(max_iter=100).fit(X, y).score(X_test, y_test)
    theirs = Peer(max_iter=100).fit(X / np.float32(255), y).score(X_test / np.float32(255), y_test)
    assert abs(ours - theirs) <= 0.001


@pytest.mark.long
def test_one_vs_rest_scores_as_scikit_learns(mnist):
    from sklearn.linear_model import LogisticRegression as Peer
    from sklearn.multiclass import OneVsRestClassifier

    X, y, X_test, y_test = mnist
    ours = OneVsRestLogisticRegression(max_iter=100).fit(X, y).score(X_test, y_test)
    peer = OneVsRestClassifier(Peer(max_iter=100), n_jobs=2).fit(X / np.float32(255), y)
    assert abs(ours - peer.score(X_test / np.float32(255), y_test)) <= 0.001
