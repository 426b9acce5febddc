"""What the classifiers share: inputs of all kinds, the rule for pixels, errors that teach, copies, backends."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmnist.backends import BackendUnavailable
from fastmnist.datasets import load_mnist
from fastmnist.estimators import LogisticRegression, MLPClassifier, OneVsRestLogisticRegression

BACKENDS = ["numpy", "numba"]
MODELS = {
    "softmax": LogisticRegression(max_iter=30, tol=1e-2),
    "ovr": OneVsRestLogisticRegression(max_iter=30, tol=1e-2),
    "mlp": MLPClassifier((16,), max_iter=30, learning_rate_init=0.02, random_state=0),
}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def mnist():
    X, y = load_mnist("train", return_X_y=True)
    return X[:200], y[:200]


@pytest.fixture(params=MODELS)
def model(request):
    return clone(MODELS[request.param])


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


# --- pixels -------------------------------------------------------------------------------------------------------------------


def test_uint8_is_scaled_in_fit_and_predict(model, backend, mnist):
    X, y = mnist
    model.set_params(backend=backend).fit(X, y)
    assert model.pixel_scale_ == 1 / 255
    assert model.input_max_ == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="X has values")
        labels = model.predict(X)
        np.testing.assert_array_equal(labels, model.predict(X / 255))
        np.testing.assert_array_equal(labels, model.predict((X / 255).astype(np.float32)))
        np.testing.assert_array_equal(labels, clone(model).fit((X / 255).astype(np.float32), y).predict(X))
    np.testing.assert_allclose(model.predict_proba(X), model.predict_proba(X / 255), atol=1e-5)
    assert np.mean(labels == y) > 0.9


def test_unscaled_floats_warn(model, mnist):
    X, y = mnist
    model.fit(X, y)
    for unscaled in (X.astype(float), X.astype(np.int64)):
        with pytest.warns(UserWarning, match=r"values up to 255 and dtype .*multiply X by 0\.00392157"):
            model.predict(unscaled)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_warnings_name_the_line_of_the_user(solver, mnist):
    X, y = mnist[0][:50], mnist[1][:50]
    network = MLPClassifier((4,), solver=solver, max_iter=2, backend="numpy", random_state=0)
    linear = LogisticRegression(solver="gd", max_iter=2, backend="numpy")
    with pytest.warns(UserWarning) as seen:
        network.fit(X, y)
        network.set_params(batch_size=64).fit(X, y)
        linear.fit(X, y)
        linear.predict(X.astype(float))
    assert {Path(warning.filename).name for warning in seen} == {"test_estimators.py"}
    assert {type(warning.message).__name__ for warning in seen} == {"ConvergenceWarning", "UserWarning"}
    assert len({warning.lineno for warning in seen}) == 4


def test_pixel_scale_can_be_switched_off_or_set(model, mnist):
    X, y = mnist
    X = X // 64  # a table of small numbers
    off = clone(model).set_params(pixel_scale=1).fit(X, y)
    plain = clone(model).fit(X.astype(np.float32), y)
    assert off.pixel_scale_ == plain.pixel_scale_ == 1
    np.testing.assert_array_equal(off.predict_proba(X), plain.predict_proba(X.astype(np.float32)))
    # A model fitted on other numbers than pixels takes uint8 for the same numbers.
    np.testing.assert_array_equal(plain.predict(X), plain.predict(X.astype(np.float32)))
    half = clone(model).set_params(pixel_scale=0.5).fit(X, y)
    assert half.pixel_scale_ == 0.5
    np.testing.assert_array_equal(half.predict(X), half.predict((X / 2).astype(np.float32)))


def test_zeros_and_ones_are_no_pixels(model):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (200, 10)).astype(np.uint8)
    y = X[:, 0] ^ (rng.random(200) < 0.05)
    model.fit(X.astype(float), y)
    np.testing.assert_array_equal(model.predict(X), model.predict(X.astype(float)))


# --- inputs -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.int64, np.uint16, bool, object])
def test_dtypes_of_X(model, backend, dtype):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (200, 5)).astype(dtype)
    y = X[:, 0].astype(int)
    model.set_params(backend=backend).fit(X, y)
    assert model.score(X, y) == 1
    float64 = backend == "numpy" and dtype in (np.float64, object)
    parameters = model.coefs_[0] if hasattr(model, "coefs_") else model.coef_
    assert parameters.dtype == (np.float64 if float64 else np.float32)


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog", "ox"],
        [-1, 7, 300],
        [0.0, 1.0, 2.0],
        [np.int8(1), np.int8(2), np.int8(3)],
        [False, True],
        np.array(["x", "y"], object),
    ],
    ids=str,
)
def test_labels_of_any_type(model, labels):
    rng = np.random.default_rng(0)
    index = np.arange(90) % len(labels)
    y = np.array(labels)[index]
    X = np.eye(len(labels))[index] + rng.normal(0, 0.1, (90, len(labels)))
    model.fit(X, y)
    assert model.predict(X).dtype == model.classes_.dtype == y.dtype
    assert model.score(X, y) > 0.95
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (90, len(labels))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(model.classes_[probabilities.argmax(axis=1)], model.predict(X))
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(probabilities))


def test_pandas(model):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(50, 3)), columns=["a", "b", "c"])
    y = pd.Series(np.where(frame["a"] > 0, "up", "down"))
    model.fit(frame, y)
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    assert model.score(frame, y) > 0.9
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(frame.to_numpy())
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["b", "a", "c"]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_plain_arrays_take_the_short_way_to_the_same_result(model, dtype, mnist):
    X, y = mnist
    model.fit(X, y)
    X = X if dtype == np.uint8 else (X / 255).astype(dtype)
    assert model._is_plain(X)
    slow = pd.DataFrame(X)
    np.testing.assert_array_equal(model.predict_proba(X), model.predict_proba(slow))
    not_contiguous = np.asfortranarray(X)[::2]
    np.testing.assert_array_equal(model.predict(not_contiguous), model.predict(X)[::2])


# --- errors -------------------------------------------------------------------------------------------------------------------

GOOD_X = np.arange(40, dtype=np.float64).reshape(20, 2)
GOOD_Y = np.arange(20) % 2


def with_value(value):
    X = GOOD_X.copy()
    X[3, 1] = value
    return X


@pytest.mark.parametrize(
    ("X", "y", "sample_weight", "message"),
    [
        (with_value(np.nan), GOOD_Y, None, "Input X contains NaN"),
        (with_value(np.inf), GOOD_Y, None, "Input X contains infinity"),
        (np.empty((0, 2)), np.empty(0), None, r"Found array with 0 sample\(s\)"),
        (np.empty((20, 0)), GOOD_Y, None, r"0 feature\(s\)"),
        (GOOD_X, np.zeros(20), None, r"only one class: .*0\.0.*Pass data of the other classes"),
        (GOOD_X, GOOD_Y[:-1], None, "inconsistent numbers of samples"),
        (GOOD_X[:, 0], GOOD_Y, None, "Expected 2D array, got 1D array"),
        (GOOD_X.reshape(5, 2, 4), GOOD_Y[:5], None, "dim 3"),
        (GOOD_X, np.linspace(0, 1, 20), None, "Unknown label type: continuous"),
        (GOOD_X, np.eye(20)[:, :3], None, "y should be a 1d array"),
        (GOOD_X, None, None, "requires y to be passed"),
        (np.full((20, 2), "a"), GOOD_Y, None, "not compatible with arrays of bytes/strings"),
        (GOOD_X + 1j, GOOD_Y, None, "Complex data not supported"),
        (GOOD_X, GOOD_Y, np.ones(19), r"sample_weight.shape == \(19,\)|inconsistent"),
        (GOOD_X, GOOD_Y, -np.ones(20), "Negative values"),
        (GOOD_X, GOOD_Y, np.full(20, np.nan), "NaN"),
        (GOOD_X.astype("M8[s]"), GOOD_Y, None, r"Input X must be numbers; got dtype datetime64\[s\]"),
        (GOOD_X, np.full(20, "x"), None, "only one class: 'x'"),
        (GOOD_X, GOOD_Y, np.full(20, 1e38), "mean within 1e-30 and 1e\\+30.*Divide sample_weight by its mean"),
        (GOOD_X, GOOD_Y, np.full(20, 1e-44), "mean within 1e-30 and 1e\\+30.*Divide sample_weight by its mean"),
        (GOOD_X, GOOD_Y, np.full(20, 1e300), "fit into float32.*Divide sample_weight by its mean"),
    ],
)
def test_bad_data(model, X, y, sample_weight, message):
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, sample_weight)


def test_all_weights_zero(model):
    with pytest.raises(ValueError, match="must contain at least one non-zero number"):
        model.fit(GOOD_X, GOOD_Y, np.zeros(20))
    with pytest.raises(ValueError, match=r"must have a positive sum.*0"):
        model.set_params(class_weight={0: 0.0, 1: 0.0}).fit(GOOD_X, GOOD_Y)


def test_negative_class_weight(model):
    with pytest.raises(ValueError, match=r"class_weight must be >= 0 for every class; got \{0: -1\.0\}"):
        model.set_params(class_weight={0: -1.0}).fit(GOOD_X, GOOD_Y)


def test_balancing_leaves_out_a_class_without_weight(model):
    X, y = np.vstack([GOOD_X, GOOD_X[:5] + 1]), np.repeat([0, 1, 2], [12, 8, 5])
    balanced = clone(model).set_params(class_weight="balanced").fit(X, y, sample_weight=(y != 2).astype(float))
    by_hand = model.fit(X, y, sample_weight=np.choose(y, [20 / (2 * 12), 20 / (2 * 8), 0]))
    np.testing.assert_array_equal(balanced.predict_proba(X), by_hand.predict_proba(X))


def test_class_weights_of_classes_that_a_part_of_the_data_lacks():
    y = np.arange(20) % 2 * 2
    parameters = {"max_iter": 1, "random_state": 0}
    model = MLPClassifier((4,), class_weight={1: 3.0}, **parameters).partial_fit(GOOD_X, y, classes=[0, 1, 2])
    plain = MLPClassifier((4,), **parameters).partial_fit(GOOD_X, y, classes=[0, 1, 2])
    np.testing.assert_array_equal(model.predict_proba(GOOD_X), plain.predict_proba(GOOD_X))


def test_too_large_for_float32(model):
    X = with_value(1e39)
    message = "too large for dtype\\('float32'\\).*1e\\+39.*StandardScaler.*backend='numpy'"
    with pytest.raises(ValueError, match=message):
        model.set_params(backend="numba").fit(X, GOOD_Y)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
def test_predict_errors(model, method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(model, method)(GOOD_X)
    model.fit(GOOD_X, GOOD_Y)
    with pytest.raises(ValueError, match=r"X has 3 features, but .* is expecting 2 features"):
        getattr(model, method)(np.ones((4, 3)))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        getattr(model, method)(with_value(np.nan))
    with pytest.raises(ValueError, match="Input X contains infinity"):
        getattr(model, method)(with_value(-np.inf))
    with pytest.raises(ValueError, match="0 sample"):
        getattr(model, method)(GOOD_X[:0])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backend": "tensorflow"}, "backend must be one of 'auto', 'numpy', 'numba', 'cupy'; got 'tensorflow'"),
        ({"backend": 3}, "'backend' parameter.*Got 3"),
        ({"n_threads": 0}, "'n_threads' parameter.*Got 0"),
        ({"n_threads": 1025}, "'n_threads' parameter.*1024.*Got 1025"),
        ({"n_threads": 1.5}, r"'n_threads' parameter.*Got 1\.5"),
        ({"pixel_scale": 0}, "'pixel_scale' parameter.*Got 0"),
        ({"pixel_scale": "yes"}, "'pixel_scale' parameter.*'auto'.*Got 'yes'"),
        ({"class_weight": "even"}, "'class_weight' parameter.*'balanced'.*Got 'even'"),
        ({"tol": -1e-3}, "'tol' parameter.*Got -0.001"),
        ({"random_state": "zero"}, "'random_state' parameter.*Got 'zero'"),
        ({"max_iter": -5}, "'max_iter' parameter.*Got -5"),
        ({"batch_size": "large"}, "'batch_size' parameter.*'auto'.*Got 'large'"),
    ],
    ids=str,
)
def test_bad_shared_parameters(model, parameters, message):
    with pytest.raises(ValueError, match=message):
        model.set_params(**parameters).fit(GOOD_X, GOOD_Y)


def test_backend_that_cannot_run(model, monkeypatch):
    monkeypatch.setenv("FASTMNIST_LIBCUDA", "/nowhere/libcuda.so")
    with pytest.raises(BackendUnavailable, match=r"cupy.*backend='numba'"):
        model.set_params(backend="cupy").fit(GOOD_X, GOOD_Y)


@pytest.mark.parametrize(
    ("validation_data", "message"),
    [
        (GOOD_X, r"validation_data must be a pair \(X, y\); got ndarray"),
        ((GOOD_X, GOOD_Y, GOOD_Y), "must be a pair"),
        ((GOOD_X[:, :1], GOOD_Y), "X has 1 features"),
        ((GOOD_X, GOOD_Y + 1), r"`validation_data\[1\]` has classes not in `self.classes_`: \[2\]"),
        ((with_value(np.nan), GOOD_Y), "NaN"),
    ],
)
def test_bad_validation_data(model, validation_data, message):
    with pytest.raises(ValueError, match=message):
        model.fit(GOOD_X, GOOD_Y, validation_data=validation_data)


# --- objects ------------------------------------------------------------------------------------------------------------------


def through_joblib(model, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    return joblib.load(tmp_path / "model.joblib")


@pytest.mark.parametrize(
    "duplicate",
    [
        lambda model, path: pickle.loads(pickle.dumps(model)),
        lambda model, path: copy.deepcopy(model),
        lambda model, path: copy.copy(model),
        through_joblib,
    ],
    ids=["pickle", "deepcopy", "copy", "joblib"],
)
def test_copies_predict_the_same(model, backend, duplicate, mnist, tmp_path):
    X, y = mnist
    model.set_params(backend=backend).set_on_epoch(lambda record: None).fit(X, y)
    expected = model.predict_proba(X)
    other = duplicate(model, tmp_path)
    np.testing.assert_array_equal(other.predict_proba(X), expected)
    assert other.get_params() == model.get_params()
    assert other.history_ == model.history_
    other.fit(X, y)  # on its own
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_partial_fit_after_pickling_goes_on(mnist):
    X, y = mnist
    model = clone(MODELS["mlp"]).fit(X, y)
    other = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
    assert len(other.loss_curve_) == len(model.loss_curve_) + 1
    assert other.t_ == model.t_ + len(X)


def test_model_without_private_state_goes_on(mnist):
    """What a model is that was loaded from a file: parameters and public attributes."""
    X, y = mnist
    model = clone(MODELS["mlp"]).fit(X, y)
    other = clone(model)
    for name, value in vars(model).items():
        if name.endswith("_") and not name.startswith("_"):
            setattr(other, name, copy.deepcopy(value))
    np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
    other.partial_fit(X, y)
    assert len(other.loss_curve_) == len(model.loss_curve_) + 1
    assert other.best_loss_ <= model.best_loss_


def test_clone_is_unfitted(model):
    model.fit(GOOD_X, GOOD_Y)
    with pytest.raises(NotFittedError):
        clone(model).predict(GOOD_X)


def test_save_needs_a_fitted_model(model, tmp_path):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.save(tmp_path / "model.safetensors")


def test_training_data_are_released(model, backend):
    X = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    model.set_params(backend=backend).fit(X, X[:, 0] > 0)
    alive = weakref.ref(X)
    del X
    gc.collect()
    assert alive() is None
    assert model.predict(np.ones((1, 4))).shape == (1,)


def test_predict_from_several_threads(model, backend, mnist):
    X, y = mnist
    model.set_params(backend=backend).fit(X, y)
    expected = model.predict_proba(X)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: model.predict_proba(X), range(12)):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("warm_start", [False, True])
def test_fits_of_one_model_from_several_threads_take_turns(warm_start, backend, mnist):
    X, y = mnist
    model = MLPClassifier((16,), max_iter=2, batch_size=16, warm_start=warm_start, backend=backend, n_threads=2)

    def train(n_rows):
        model.fit(X[:n_rows].copy(), y[:n_rows]).predict(X)
        if not warm_start:
            model.partial_fit(X[:n_rows].copy(), y[:n_rows])

    model.fit(X, y)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(train, [200, 90, 150, 101] * 5))) == 20
    assert np.isfinite(model.predict_proba(X)).all()


def test_outputs_that_overflow_are_no_prediction(backend):
    model = MLPClassifier((16,), activation="identity", max_iter=2, backend=backend, random_state=0)
    model.fit(GOOD_X.astype(np.float32), np.arange(20) % 3)
    model.coefs_[0] *= 100
    X = np.full((1, 2), 3e38, np.float32)
    for method in ("predict", "predict_proba"):
        with pytest.raises(ValueError, match=r"outputs .* no finite numbers: input X has values up to 3e\+38.*Scale X"):
            getattr(model, method)(X)


def test_a_failed_fit_leaves_the_model_as_it_was(backend, mnist):
    X, y = mnist
    model = MLPClassifier((16,), max_iter=2, backend=backend, random_state=0).fit(X, y)
    expected = model.predict_proba(X)
    other_labels = np.array(["cat", "dog", "owl"])[y % 3]
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        model.set_params(learning_rate_init=1e38).fit(X[:, :300], other_labels)
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    assert model.classes_.tolist() == list(range(10))
    unfitted = clone(model)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        unfitted.fit(X, y)
    with pytest.raises(NotFittedError):
        unfitted.predict(X)


def test_partial_fit_goes_on_after_one_that_overflowed(backend, mnist):
    X, y = mnist
    model = MLPClassifier((16,), batch_size=20, backend=backend, random_state=0).partial_fit(X, y, classes=range(10))
    expected = model.predict_proba(X)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        model.partial_fit(np.where(X > 127, np.float32(3e38), np.float32(-3e38)), y)
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    assert np.isfinite(model.partial_fit(X, y).predict_proba(X)).all()


def test_change_of_the_network_after_fit(backend, mnist):
    X, y = mnist
    model = MLPClassifier((16,), max_iter=2, backend=backend, random_state=0).fit(X, y)
    model.set_params(hidden_layer_sizes=(9000,))
    for same in (model, pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match=r"\(784, 16\).*now ask for.*\(784, 9000\).*Call fit again"):
            same.predict(X)
    model.set_params(hidden_layer_sizes=(16,), activation="tanh")
    np.testing.assert_array_equal(model.predict_proba(X), pickle.loads(pickle.dumps(model)).predict_proba(X))


def test_in_pipeline_and_grid_search(model):
    rng = np.random.default_rng(0)
    X = rng.normal(100, 20, (90, 3))
    y = np.digitize(X[:, 0], [90, 110])
    search = GridSearchCV(
        make_pipeline(StandardScaler(), model), {f"{type(model).__name__.lower()}__max_iter": [1, 60]}
    )
    assert search.fit(X, y).best_score_ > 0.75
    assert next(iter(search.best_params_.values())) == 60


def test_change_of_backend_after_fit(model, mnist):
    X, y = mnist
    model.set_params(backend="numba").fit(X, y)
    expected = model.predict_proba(X)
    np.testing.assert_allclose(model.set_params(backend="numpy").predict_proba(X), expected, atol=1e-5)
    float64 = clone(model).fit(X / 255.0, y)  # fitted in float64 by NumPy
    np.testing.assert_allclose(
        float64.predict_proba(X / 255), float64.set_params(backend="numba").predict_proba(X / 255), atol=1e-5
    )


def test_model_of_a_missing_backend_predicts_elsewhere(model, mnist):
    X, y = mnist
    expected = model.set_params(backend="numba").fit(X, y).predict_proba(X)
    other = pickle.loads(pickle.dumps(model))
    other.backend_ = "cupy"
    other.set_params(backend="auto")
    np.testing.assert_allclose(other.predict_proba(X), expected, atol=1e-5)
    other.set_params(backend="cupy")  # as when it was fitted with backend="cupy"
    np.testing.assert_allclose(other.predict_proba(X), expected, atol=1e-5)


def test_verbose_prints_each_epoch(model, capsys):
    model.set_params(verbose=1, max_iter=3).fit(GOOD_X / 40, GOOD_Y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Iteration 1, loss = 0.")
    assert len([line for line in lines if line.startswith("Iteration")]) == len(model.loss_curve_)


def test_backend_and_times_are_told(model, backend):
    model.set_params(backend=backend).fit(GOOD_X, GOOD_Y)
    assert model.backend_ == backend
    assert model.backend_reason_
    assert model.fit_seconds_ > 0
    assert model.compile_seconds_ >= 0
    assert not model.interrupted_
    assert model.set_params(backend="auto").fit(GOOD_X, GOOD_Y).backend_ == "numpy"  # tiny work


@pytest.mark.parametrize("shape", [(6, 4, 4), (6, 4, 4, 1)])
def test_images_are_told_to_be_flattened(shape):
    X, y = np.zeros(shape), np.arange(6) % 2
    with pytest.raises(ValueError, match=r"reshape\(len\(X\), -1\), or use CNNClassifier"):
        MLPClassifier().fit(X, y)
    model = MLPClassifier(max_iter=1).fit(X.reshape(6, -1), y)
    with pytest.raises(ValueError, match=r"Found array with dim [34].*reshape"):
        model.predict(X)
