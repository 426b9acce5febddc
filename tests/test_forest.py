"""RandomForestClassifier: as good as scikit-learn's, the same on any backend and number of threads, and what it refuses."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier as ScikitForest
from sklearn.model_selection import train_test_split

import fastmnist
from fastmnist import BackendUnavailable, RandomForestClassifier, load_mnist, load_model
from fastmnist.backends.trees import Forest
from fastmnist.estimators.serialization import ModelFileError, save_model
from fastmnist.training.binning import code_numbers

FITTED_ARRAYS = ("tree_nodes_", "tree_thresholds_", "tree_roots_", "tree_distributions_", "feature_importances_")


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X.astype(np.uint8), y


def assert_same_forest(one, other):
    for name in FITTED_ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def assert_same_mean(ours, theirs):
    """Equal within two standard errors of the difference plus 0.2 points."""
    error = np.sqrt(np.var(ours, ddof=1) / len(ours) + np.var(theirs, ddof=1) / len(theirs))
    assert abs(np.mean(ours) - np.mean(theirs)) <= 0.002 + 2 * error, (ours, theirs)


# --- as good as scikit-learn's --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_digits, load_breast_cancer, load_iris])
@pytest.mark.parametrize(
    "rules", [{}, {"max_depth": 4}, {"min_samples_leaf": 5, "max_features": 0.5, "class_weight": "balanced"}]
)
def test_accuracy_is_scikit_learn_s(load, rules):
    """Of ten seeds, on half of the data."""
    X, y = load(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=0, stratify=y)

    def accuracies(cls, **more):
        return [cls(50, random_state=s, **rules, **more).fit(X_train, y_train).score(X_test, y_test) for s in range(10)]

    assert_same_mean(accuracies(RandomForestClassifier, backend="numba"), accuracies(ScikitForest))


def test_trees_have_the_size_of_scikit_learn_s(digits):
    X, y = digits
    ours = RandomForestClassifier(100, random_state=0).fit(X, y)
    theirs = ScikitForest(100, random_state=0).fit(X, y)
    nodes = np.mean([tree.tree_.node_count // 2 for tree in theirs.estimators_])
    assert len(ours.tree_nodes_) / 100 == pytest.approx(nodes, rel=0.03)
    depths = np.mean([tree.get_depth() for tree in theirs.estimators_])
    assert ours.tree_depths_.mean() == pytest.approx(depths, rel=0.05)
    assert np.abs(ours.feature_importances_ - theirs.feature_importances_).max() < 0.01
    assert ours.feature_importances_.sum() == pytest.approx(1)


def test_one_tree_of_all_features_is_scikit_learn_s(digits):
    """Nothing is random in it but the order among equal cuts; where no two cuts are equal the trees are the same."""
    rng = np.random.default_rng(0)
    X = rng.permuted(np.tile(np.arange(200, dtype=np.uint8), (5, 1)), axis=1).T.copy()
    y = (X[:, 0] > 90) + (X[:, 3] > 120) + 0
    rules = {"max_features": None, "bootstrap": False, "max_depth": 2}
    ours = RandomForestClassifier(1, random_state=0, pixel_scale=1, **rules).fit(X, y)
    theirs = ScikitForest(1, random_state=0, **rules).fit(X, y)
    tree = theirs.estimators_[0].tree_
    inner = tree.children_left >= 0
    assert ours.tree_nodes_[:, 0].tolist() == tree.feature[inner].tolist()
    np.testing.assert_allclose(ours.tree_thresholds_, tree.threshold[inner], atol=0.51)
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    np.testing.assert_allclose(ours.feature_importances_, theirs.feature_importances_)


def test_mnist_part():
    X, y = load_mnist("train", return_X_y=True)
    X_test, y_test = load_mnist("test", return_X_y=True)
    ours = RandomForestClassifier(30, random_state=0).fit(X[:4000], y[:4000]).score(X_test[:2000], y_test[:2000])
    theirs = ScikitForest(30, random_state=0).fit(X[:4000], y[:4000]).score(X_test[:2000], y_test[:2000])
    assert abs(ours - theirs) < 0.012  # the standard deviation of each is 0.003


# --- the same everywhere --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["uint8", "float64"])
def test_numpy_grows_the_same_trees(digits, data):
    X, y = digits[0][:300], digits[1][:300]
    if data == "float64":
        X = X * np.random.default_rng(0).random(X.shape)  # hundreds of values a feature
    weight = np.random.default_rng(1).random(300)
    parameters = {"n_estimators": 5, "random_state": 3, "class_weight": "balanced", "oob_score": True, "max_depth": 6}
    compiled = RandomForestClassifier(backend="numba", **parameters).fit(X, y, weight)
    plain = RandomForestClassifier(backend="numpy", **parameters).fit(X, y, weight)
    assert_same_forest(compiled, plain)
    assert len(compiled.tree_distributions_) > 10
    assert compiled.oob_score_ == plain.oob_score_
    np.testing.assert_array_equal(compiled.predict_proba(X), plain.predict_proba(X))


def test_bits_do_not_depend_on_threads(digits):
    X, y = digits
    one, three = (RandomForestClassifier(20, random_state=0, n_jobs=n).fit(X, y) for n in (1, 3))
    assert_same_forest(one, three)
    np.testing.assert_array_equal(one.predict_proba(X), three.predict_proba(X))


def test_a_row_gets_the_same_answer_alone_and_among_others(digits):
    X, y = digits
    model = RandomForestClassifier(20, random_state=0, max_depth=5).fit(X[:500], y[:500])
    together = model.predict_proba(X)
    np.testing.assert_array_equal(np.concatenate([model.predict_proba(X[i : i + 1]) for i in range(40)]), together[:40])
    np.testing.assert_array_equal(model.predict_proba(np.asfortranarray(X)), together)


def test_a_larger_forest_begins_with_the_smaller_one(digits):
    X, y = digits
    small, large = (RandomForestClassifier(n, random_state=0).fit(X, y) for n in (3, 7))
    np.testing.assert_array_equal(large.tree_nodes_[: len(small.tree_nodes_)], small.tree_nodes_)
    np.testing.assert_array_equal(large.tree_roots_[:3], small.tree_roots_)
    assert not np.array_equal(RandomForestClassifier(3, random_state=1).fit(X, y).tree_nodes_, small.tree_nodes_)


def test_pixels_and_scaled_pixels_mean_the_same():
    X, y = load_mnist("test", return_X_y=True)
    model = RandomForestClassifier(10, random_state=0).fit(X[:2000], y[:2000])
    np.testing.assert_array_equal(model.predict_proba(X), model.predict_proba(X / 255))
    np.testing.assert_array_equal(model.predict_proba(X), model.predict_proba((X / np.float32(255)).astype(np.float32)))
    with pytest.warns(UserWarning, match="fitted on uint8 pixels"):
        model.predict(X.astype(float))
    unscaled = RandomForestClassifier(10, random_state=0, pixel_scale=1).fit(X[:2000], y[:2000])
    np.testing.assert_array_equal(unscaled.predict_proba(X), model.predict_proba(X))


def test_floats_with_few_values_are_split_like_pixels():
    X, y = load_mnist("test", return_X_y=True)
    pixels = RandomForestClassifier(10, random_state=0, pixel_scale=1).fit(X[:1000], y[:1000])
    floats = RandomForestClassifier(10, random_state=0).fit(X[:1000] * 1.0, y[:1000])
    np.testing.assert_array_equal(pixels.tree_nodes_, floats.tree_nodes_)
    np.testing.assert_array_equal(pixels.predict(X), floats.predict(X * 1.0))


def test_saved_pickled_and_cloned(digits, tmp_path):
    X, y = digits
    model = RandomForestClassifier(10, random_state=0, max_depth=4, oob_score=True).fit(
        X, np.char.add("digit ", y.astype(str))
    )
    save_model(model, tmp_path / "forest.safetensors")
    for other in (load_model(tmp_path / "forest.safetensors"), pickle.loads(pickle.dumps(model))):
        assert_same_forest(model, other)
        np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
        assert other.predict(X[:1])[0].startswith("digit ")
        assert other.oob_score_ == model.oob_score_
    assert clone(model).get_params() == model.get_params()


def test_a_damaged_file_is_refused(digits, tmp_path):
    X, y = digits
    for damage in ("child", "backwards", "feature", "root", "dtype", "missing"):
        model = RandomForestClassifier(3, random_state=0).fit(X, y)
        nodes = model.tree_nodes_.copy()
        if damage == "child":
            nodes[0, 1] = len(nodes)
        elif damage == "backwards":
            nodes[5, 1] = 5
        elif damage == "feature":
            nodes[0, 0] = X.shape[1]
        elif damage == "root":
            model.tree_roots_ = model.tree_roots_ - 10**6
        elif damage == "dtype":
            nodes = nodes.astype(np.int64)
        if damage == "missing":
            del model.tree_nodes_
        else:
            model.tree_nodes_ = nodes
        save_model(model, tmp_path / "damaged.safetensors")
        with pytest.raises(ModelFileError, match="damaged"):
            load_model(tmp_path / "damaged.safetensors")
        if damage not in ("missing",):
            with pytest.raises(ValueError, match="of a forest"):
                model.predict(X)


# --- edges ----------------------------------------------------------------------------------------------------------------------------


def test_one_class():
    model = RandomForestClassifier(5).fit(np.arange(12, dtype=np.uint8).reshape(4, 3), ["only"] * 4)
    assert model.predict([[1, 2, 3]]).tolist() == ["only"]
    assert model.predict_proba([[1, 2, 3]]).tolist() == [[1.0]]
    assert model.feature_importances_.tolist() == [0, 0, 0]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_one_row_and_constant_features(backend):
    model = RandomForestClassifier(5, backend=backend).fit(np.zeros((1, 3), np.uint8), [4])
    assert model.predict(np.ones((2, 3), np.uint8)).tolist() == [4, 4]
    model = RandomForestClassifier(100, backend=backend, bootstrap=False).fit(np.full((4, 3), 7.5), [0, 1, 1, 1])
    np.testing.assert_allclose(model.predict_proba([[7.5, 7.5, 7.5]]), [[0.25, 0.75]])
    assert model.tree_depths_.max() == 0


def test_a_stump(digits):
    X, y = digits
    model = RandomForestClassifier(9, max_depth=1, random_state=0).fit(X, y)
    assert len(model.tree_nodes_) == 9
    assert model.tree_depths_.tolist() == [1] * 9
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)


@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_as_many_classes_as_rows():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (1500, 10)).astype(np.uint8)
    model = RandomForestClassifier(3, bootstrap=False, random_state=0, backend="numba").fit(X, np.arange(1500))
    assert (model.predict(X) == np.arange(1500)).all()


def test_rows_of_weight_0_are_as_if_they_were_not_there(digits):
    X, y = digits
    weight = np.where(np.arange(len(y)) % 3, 1.0, 0.0)
    weighted = RandomForestClassifier(5, random_state=0).fit(X, y, weight)
    without = RandomForestClassifier(5, random_state=0).fit(X[weight > 0], y[weight > 0])
    assert_same_forest(weighted, without)
    with pytest.raises(ValueError, match="at least one non-zero"):
        RandomForestClassifier(5).fit(X, y, np.zeros(len(y)))


def test_integer_weights_are_repeated_rows(digits):
    """In trees on all rows with all features, where nothing is drawn."""
    X, y = digits[0][:400], digits[1][:400]
    repeat = np.random.default_rng(0).integers(1, 4, 400)
    rules = {"bootstrap": False, "max_features": None, "max_depth": 5, "random_state": 0}
    weighted = RandomForestClassifier(1, **rules).fit(X, y, repeat)
    repeated = RandomForestClassifier(1, **rules).fit(np.repeat(X, repeat, axis=0), np.repeat(y, repeat))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X))


def test_balanced_weights_help_the_rare_class():
    rng = np.random.default_rng(0)
    y = (rng.random(4000) < 0.03).astype(int)
    X = rng.normal(size=(4000, 6)) + y[:, None] * 0.8
    found = [
        RandomForestClassifier(40, max_depth=4, class_weight=w, random_state=0).fit(X, y).predict(X)[y == 1].mean()
        for w in (None, "balanced")
    ]
    assert found[1] > found[0] + 0.3


def test_more_values_than_bins_fall_into_bins_of_equal_size():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(10_000, 2)).astype(np.float32)
    X[:4000, 1] = 0.5  # nearly half of the rows have one value
    coding = code_numbers(X, n_threads=2)
    counts = np.bincount(coding.codes[:, 0], minlength=256)
    assert counts.min() >= 39
    assert counts.max() <= 41
    for feature in range(2):
        codes = coding.codes[:, feature].astype(int)
        assert (coding.smallest[codes, feature] <= X[:, feature]).all()
        assert (X[:, feature] <= coding.largest[codes, feature]).all()
        low = np.arange(codes.max())
        thresholds = coding.thresholds(np.full(len(low), feature), low, low + 1)
        assert (coding.largest[low, feature] <= thresholds).all()
        assert (thresholds < coding.smallest[low + 1, feature]).all()


def test_neighbouring_floats_are_told_apart():
    low = np.float32(1)
    X = np.array([[low], [np.nextafter(low, np.float32(2))]], np.float32)
    model = RandomForestClassifier(5, bootstrap=False).fit(X, [0, 1])
    assert model.predict(X).tolist() == [0, 1]


def test_out_of_bag(digits):
    X, y = digits
    forests = [RandomForestClassifier(60, oob_score=True, random_state=s).fit(X, y) for s in range(5)]
    theirs = [ScikitForest(60, oob_score=True, random_state=s).fit(X, y).oob_score_ for s in range(5)]
    assert_same_mean([model.oob_score_ for model in forests], theirs)
    model = forests[0]
    assert (model.oob_decision_function_.argmax(axis=1) == y).mean() == model.oob_score_
    assert model.oob_score_ < model.score(X, y) == 1.0
    few = RandomForestClassifier(2, oob_score=True, random_state=0).fit(X, y)
    assert np.isnan(few.oob_decision_function_).any()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"criterion": "entropy"}, r"'criterion' parameter .* must be a str among \{'gini'\}"),
        ({"n_estimators": 0}, "'n_estimators' parameter"),
        ({"n_jobs": 0}, "'n_jobs' parameter"),
        ({"class_weight": "balanced_subsample"}, "'class_weight' parameter"),
        ({"oob_score": True, "bootstrap": False}, "only available with bootstrap=True"),
        ({"max_samples": 0.5, "bootstrap": False}, "bootstrap=False"),
        ({"max_samples": 10**6}, "max_samples` must be <="),
        ({"backend": "tpu"}, "backend must be one of"),
    ],
)
def test_what_is_refused(digits, parameters, message):
    with pytest.raises(ValueError, match=message):
        RandomForestClassifier(**parameters).fit(*digits)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([[np.nan], [1.0]], "NaN"),
        ([[np.inf], [1.0]], "infinity"),
        ([[1e39], [1.0]], "too large for dtype"),
        (np.zeros((0, 1)), "0 sample"),
        (np.zeros((2, 0)), "0 feature"),
        (np.array([["2020-01-01"]] * 2, "M8[D]"), "must be numbers"),
    ],
)
def test_data_that_are_refused_leave_the_model_of_before(X, message):
    model = RandomForestClassifier(3, random_state=0).fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(ValueError, match=message):
        model.fit(X, [0, 1])
    assert model.predict([[0.0], [1.0]]).tolist() == [0, 1] or len(model.tree_roots_) == 3


def test_cupy_says_why_not(digits):
    with pytest.raises(BackendUnavailable, match=r"grown and asked on the CPU.*Use backend='numba'"):
        RandomForestClassifier(backend="cupy").fit(*digits)


def test_progress_is_told(digits, capsys):
    seen = []
    RandomForestClassifier(4, n_jobs=2, verbose=1).set_on_epoch(seen.append).fit(*digits)
    assert sorted(record.epoch for record in seen) == [1, 2, 3, 4]
    assert {record.n_epochs for record in seen} == {4}
    assert capsys.readouterr().out.count("tree ") == 4


@pytest.fixture
def ctrl_c():
    """Python's own handling of SIGINT, whoever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_answered_at_once_and_leaves_the_model_of_before(digits, ctrl_c):
    X, y = digits
    model = RandomForestClassifier(2, random_state=0, backend="numba").fit(X, y)
    before = {name: value for name, value in vars(model).items() if name.endswith("_")}
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200_000, 50)).astype(np.uint8)  # minutes of work in each tree
    labels = rng.integers(0, 10, 200_000)
    model.set_params(max_features=None, n_estimators=4)
    sent = []

    def interrupt():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)  # to the process: the main thread must wake up

    timer = threading.Timer(1.5, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit(noise, labels)
    waited = time.perf_counter() - sent[0]
    assert waited < 5  # a feature's share of a node is some ms; the bound allows for a busy machine
    assert {name: value for name, value in vars(model).items() if name.endswith("_")}.keys() == before.keys()
    assert_same_forest(model, RandomForestClassifier(2, random_state=0, backend="numba").fit(X, y))


def test_a_killed_fit_leaves_the_saved_model(digits, tmp_path):
    X, y = digits
    path = tmp_path / "forest.safetensors"
    RandomForestClassifier(2, random_state=0).fit(X, y).save(path)
    saved = path.read_bytes()
    code = (
        "import numpy as np; from fastmnist import RandomForestClassifier; rng = np.random.default_rng(0);"
        "X = rng.integers(0, 256, (100_000, 50)).astype(np.uint8); print('ready', flush=True);"
        f"RandomForestClassifier(50, max_features=None).fit(X, rng.integers(0, 10, 100_000)).save({str(path)!r})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(fastmnist.__file__).parents[1]
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        process.kill()
    assert path.read_bytes() == saved
    assert [file.name for file in tmp_path.iterdir()] == ["forest.safetensors"]


def test_sound_forests_pass():
    tables = (np.zeros((0, 3), np.int32), np.zeros(0, np.float32), np.array([-1], np.int32), np.zeros((0, 2)))
    Forest(*tables).require_sound(n_features=1, n_classes=2)
    with pytest.raises(ValueError, match="not there"):
        Forest(*tables[:2], np.zeros(0, np.int32), tables[3]).require_sound(n_features=1, n_classes=2)
