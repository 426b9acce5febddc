"""Predicting row after row: the short way gives what the long way gives, follows every change, and refuses what is refused."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError

from fastmnist import CNNClassifier, LogisticRegression, MLPClassifier, OneVsRestLogisticRegression, load_model
from fastmnist.network.layers import Conv2D, Flatten, MaxPool2D

ESTIMATORS = {
    "mlp": MLPClassifier((16,), max_iter=2, random_state=0, backend="numba"),
    "cnn": CNNClassifier([Conv2D(4, 3), MaxPool2D(2), Flatten()], max_iter=1, random_state=0, backend="numba"),
    "multinomial": LogisticRegression(max_iter=5, backend="numba"),
    "one-vs-rest": OneVsRestLogisticRegression(max_iter=5, backend="numba"),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*onverge", "ignore:Stochastic")


@pytest.fixture(scope="module")
def digits():
    images, y = load_digits(return_X_y=True)
    return images.astype(np.uint8), y


@pytest.fixture(scope="module")
def all_fitted(digits):
    X, y = digits
    return {name: clone(estimator).fit(X[:300], y[:300]) for name, estimator in ESTIMATORS.items()}


@pytest.fixture(params=ESTIMATORS)
def fitted(request, all_fitted):
    """An estimator of one's own."""
    return copy.deepcopy(all_fitted[request.param])


def _link(estimator):
    """What `predict` asks for: probabilities, or logits."""
    return not hasattr(estimator, "coef_")


def _prime(estimator, row):
    """Predict a row; the next one like it goes the short way."""
    estimator.predict(row), estimator.predict_proba(row)
    assert estimator._outputs_of_row(row, link=_link(estimator)) is not None


def _the_long_way(estimator, row):
    """What an estimator that never predicted answers."""
    return pickle.loads(pickle.dumps(estimator)).predict_proba(row)


def _arrays(estimator):
    return [estimator.coef_, estimator.intercept_] if hasattr(estimator, "coef_") else estimator._fitted_arrays()


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_same_bits_as_the_long_way(fitted, digits, dtype):
    X = digits[0][300:330] if dtype == "uint8" else (digits[0][300:330] / 255).astype(dtype)
    _prime(fitted, X[:1])
    batch, classes = fitted.predict_proba(X), fitted.predict(X)
    for i in range(len(X)):
        row = X[i : i + 1]
        assert fitted._outputs_of_row(row, link=_link(fitted)) is not None
        probabilities = fitted.predict_proba(row)
        assert probabilities.tobytes() == _the_long_way(fitted, row).tobytes()
        np.testing.assert_allclose(probabilities, batch[i : i + 1], rtol=1e-5, atol=1e-6)
        assert fitted.predict(row) == classes[i]


def test_rows_that_lie_otherwise(fitted, digits):
    X = (digits[0][300:310] / 255).astype(np.float32)
    _prime(fitted, X[:1])
    expected = fitted.predict_proba(X[:1])
    for row in (np.asfortranarray(X)[:1], np.repeat(X, 2, axis=1)[:1, ::2], X[:1].astype(">f4"), X[:1].tolist()):
        np.testing.assert_array_equal(fitted.predict_proba(row), expected)
    if isinstance(fitted, CNNClassifier):
        for shape in ((1, 8, 8), (1, 8, 8, 1)):
            np.testing.assert_array_equal(fitted.predict_proba(X[0].reshape(shape)), expected)
        with pytest.raises(ValueError, match="images of the shape"):
            fitted.predict(X[0].reshape(1, 4, 16))


def test_answers_are_the_callers(fitted, digits):
    X = digits[0][300:302]
    _prime(fitted, X[:1])
    first = fitted.predict_proba(X[:1])
    kept = first.copy()
    fitted.predict_proba(X[1:])
    np.testing.assert_array_equal(first, kept)


def _assign(estimator):
    if hasattr(estimator, "coef_"):
        estimator.coef_ = -2 * estimator.coef_
    else:
        estimator.coefs_ = [-2 * w for w in estimator.coefs_]


def _replace_one(estimator):
    if hasattr(estimator, "coef_"):
        estimator.intercept_ = estimator.intercept_ + np.arange(10, dtype=np.float32)
    else:
        estimator.intercepts_[-1] = estimator.intercepts_[-1] + np.arange(10, dtype=np.float32)


def _write(estimator):
    _arrays(estimator)[0][...] *= -2


CHANGES = {
    "written into": _write,
    "assigned": _assign,
    "one assigned": _replace_one,
    "another scale": lambda estimator: estimator.set_params(pixel_scale=0.05),
    "another backend": lambda estimator: estimator.set_params(backend="numpy"),
    "without __setattr__": lambda estimator: vars(estimator).update(pixel_scale_=0.5),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("loaded", [False, True])
def test_changes_are_followed(fitted, digits, change, loaded):
    row = digits[0][300:301]
    if loaded:
        fitted = pickle.loads(pickle.dumps(fitted))
    _prime(fitted, row)
    before = fitted.predict_proba(row)
    CHANGES[change](fitted)
    after = fitted.predict_proba(row)
    np.testing.assert_array_equal(after, _the_long_way(fitted, row))
    assert change == "another backend" or np.abs(after - before).max() > 1e-4
    np.testing.assert_array_equal(fitted.predict(row), fitted.classes_[after.argmax(axis=1)])


def test_every_fit_is_followed(fitted, digits):
    X, y = digits
    row = X[300:301]
    _prime(fitted, row)
    for fit, rows in ((fitted.fit, slice(700, 900)), (getattr(fitted, "partial_fit", fitted.fit), slice(900, 1100))):
        before = fitted.predict_proba(row)
        fit(X[rows], y[rows])
        after = fitted.predict_proba(row)
        np.testing.assert_array_equal(after, _the_long_way(fitted, row))
        assert np.abs(after - before).max() > 0
        _prime(fitted, row)
    fitted.fit(X[700:900, :49], y[700:900])
    with pytest.raises(ValueError, match="features"):
        fitted.predict(row)
    assert fitted.predict(row[:, :49]) in fitted.classes_


def test_a_fit_that_fails_leaves_the_model(fitted, digits):
    row = digits[0][300:301]
    _prime(fitted, row)
    expected = fitted.predict_proba(row)
    with pytest.raises(ValueError):
        fitted.fit(digits[0][:20, :10], np.zeros(20))
    np.testing.assert_array_equal(fitted.predict_proba(row), expected)


def test_copies_are_models_of_their_own(fitted, digits, tmp_path):
    row = digits[0][300:301]
    _prime(fitted, row)
    expected = fitted.predict_proba(row)
    fitted.save(tmp_path / "model")
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted)), load_model(tmp_path / "model")):
        assert "_prepared_rows" not in vars(other)
        _prime(other, row)
        _write(other)
        assert np.abs(other.predict_proba(row) - expected).max() > 1e-4
        np.testing.assert_array_equal(fitted.predict_proba(row), expected)
    with pytest.raises(NotFittedError):
        clone(fitted).predict(row)


def test_arrays_of_another_shape_are_refused(fitted, digits):
    row = digits[0][300:301]
    _prime(fitted, row)
    array = _arrays(fitted)[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy is about to forbid it
        array.shape = (1, array.size)
    with pytest.raises(ValueError, match="shape"):
        fitted.predict(row)


def test_rows_are_validated(fitted, digits):
    X = (digits[0][300:301] / 255).astype(np.float32)
    for dtype in ("float32", "float64"):
        row = X.astype(dtype)
        _prime(fitted, row)
        for bad, message in (
            (row[:, :-1], "features"),
            (np.repeat(row, 2, axis=1), "features"),
            (row[0], "1D array|Expected 2D"),
            (row[:0], "0 sample"),
        ):
            with pytest.raises(ValueError, match=message):
                fitted.predict(bad)
        for value, message in ((np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")):
            bad = row.copy()
            bad[0, 5] = value
            for method in (fitted.predict, fitted.predict_proba):
                with pytest.raises(ValueError, match=message):
                    method(bad)
    too_large = X.astype(np.float64)
    too_large[0, 5] = 1e200
    with pytest.raises(ValueError, match="too large"), pytest.warns(UserWarning, match="fitted on uint8 pixels"):
        fitted.predict(too_large)
    with pytest.warns(UserWarning, match="fitted on uint8 pixels"):
        fitted.predict(digits[0][300:301].astype(np.float32) * 20)


def test_names_are_asked_for(fitted, digits):
    row = digits[0][300:301]
    _prime(fitted, row)
    fitted.feature_names_in_ = np.array([f"pixel{i}" for i in range(64)], object)
    with pytest.warns(UserWarning, match="feature names"):
        fitted.predict(row)


def test_a_broken_model_says_so(fitted, digits):
    row = digits[0][300:301]
    _prime(fitted, row)
    _arrays(fitted)[-1][3] = np.nan
    with pytest.raises(ValueError, match="no finite numbers"):
        fitted.predict(row)


def test_threads_at_once(fitted, digits):
    rows = [digits[0][i : i + 1] for i in range(300, 304)]
    expected = [fitted.predict_proba(row) for row in rows]
    wrong: list[int] = []
    ready = threading.Barrier(len(rows))

    def ask(i):
        ready.wait()
        wrong.extend(i for _ in range(300) if fitted.predict_proba(rows[i]).tobytes() != expected[i].tobytes())

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    np.testing.assert_array_equal(fitted.predict_proba(rows[0]), expected[0])
