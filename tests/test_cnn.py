"""`CNNClassifier`: images in every form, its parameters, saving, scikit-learn's surface, the command line."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score

from fastmnist import (
    Activation,
    BatchNorm,
    CNNClassifier,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    MaxPool2D,
    load_model,
)
from fastmnist.cli import main
from fastmnist.evaluation.explanation import explain
from fastmnist.network.architectures import ARCHITECTURES, RECIPES
from fastmnist.network.schedules import OneCycle

LAYERS = (Conv2D(8, 3, activation="relu"), MaxPool2D(), Flatten(), Dense(16, "relu"))
NORMED = (Conv2D(8, 3, use_bias=False), BatchNorm(), Activation("relu"), Dropout(0.1), GlobalAvgPool2D())

PLAIN = {"layers": LAYERS, "max_iter": 8, "random_state": 0, "n_threads": 2, "backend": "numba", "batch_size": 64}
PLAIN |= {"learning_rate_init": 0.001, "beta_2": 0.999, "schedule": None, "label_smoothing": 0.0}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X * 15).astype(np.uint8), y  # 8 x 8 pixels


def _fitted(X, y, **parameters):
    return CNNClassifier(**(PLAIN | parameters)).fit(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
class TestFits:
    def test_weights_that_are_changed_or_exchanged_are_predicted_with(self, digits):
        X, y = digits
        clf = _fitted(X[:300], y[:300], max_iter=1)
        image = X[:1]
        before = clf.predict_proba(image)
        clf.coefs_[0][...] *= 2
        doubled = clf.predict_proba(image)
        assert not np.allclose(doubled, before)
        clf.coefs_[0] = np.asfortranarray(clf.coefs_[0] / 2)  # rows that are copies
        np.testing.assert_array_equal(clf.predict_proba(image), before)
        clf.coefs_[0][...] *= 2
        np.testing.assert_array_equal(clf.predict_proba(image), doubled)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(image), doubled)
        clf.set_params(layers=(*LAYERS, Dense(4)))
        with pytest.raises(ValueError, match="was fitted with 3 layers"):
            clf.predict(image)

    def test_learns_digits(self, digits):
        X, y = digits
        clf = _fitted(X[:1300], y[:1300], max_iter=20, learning_rate_init=0.01)
        assert clf.score(X[1300:], y[1300:]) > 0.88  # as an MLP; the last digits are by other writers
        assert clf.loss_curve_[-1] < 0.2 < clf.loss_curve_[0]
        assert [w.shape for w in clf.coefs_] == [(3, 3, 1, 8), (72, 16), (16, 10)]
        assert [b.shape for b in clf.intercepts_] == [(8,), (16,), (10,)]
        assert (clf.image_shape_, clf.n_features_in_, clf.n_outputs_) == ((8, 8, 1), 64, 10)

    @pytest.mark.parametrize("layers", [LAYERS, NORMED], ids=["plain", "normed"])
    def test_backends_agree(self, digits, layers):
        X, y = digits
        ours = _fitted(X[:300], y[:300], layers=layers, max_iter=3)
        theirs = _fitted(X[:300], y[:300], layers=layers, max_iter=3, backend="numpy")
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=2e-3)
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-3)

    def test_images_and_rows_are_the_same(self, digits):
        X, y = digits
        flat = _fitted(X[:200], y[:200], max_iter=2)
        for images in (X.reshape(-1, 8, 8), X.reshape(-1, 8, 8, 1)):
            clf = _fitted(images[:200], y[:200], max_iter=2)
            np.testing.assert_array_equal(clf.predict_proba(images), flat.predict_proba(X))
            np.testing.assert_array_equal(clf.predict_proba(X), flat.predict_proba(images))

    def test_colours_and_validation_data(self, digits):
        X, y = digits
        images = np.stack([X.reshape(-1, 8, 8)] * 3, axis=-1)
        clf = CNNClassifier(LAYERS, max_iter=2, random_state=0, backend="numba", early_stopping=True)
        clf.fit(images[:200], y[:200], validation_data=(images[200:300], y[200:300]))
        assert clf.image_shape_ == (8, 8, 3)
        assert clf.coefs_[0].shape == (3, 3, 3, 8)
        assert len(clf.validation_scores_) == 2
        assert clf.score(images[200:300], y[200:300]) == clf.best_validation_score_

    def test_flat_colours_need_their_shape(self, digits):
        X, y = digits
        flat = np.repeat(X, 3, axis=1)
        clf = _fitted(flat[:100], y[:100], image_shape=(8, 8, 3), max_iter=1)
        assert clf.image_shape_ == (8, 8, 3)
        assert _fitted(X[:100, :48], y[:100], image_shape=(6, 8), max_iter=1).image_shape_ == (6, 8, 1)
        assert _fitted(X[:100, :48], y[:100], layers=(Flatten(),), max_iter=1).image_shape_ == (1, 48, 1)

    @pytest.mark.parametrize("layers", [LAYERS, NORMED], ids=["plain", "normed"])
    def test_saved_and_pickled(self, digits, layers, tmp_path):
        X, y = digits
        clf = _fitted(X[:200], y[:200], layers=layers, max_iter=2)
        clf.save(tmp_path / "cnn.safetensors")
        expected = clf.predict_proba(X)
        for other in (load_model(tmp_path / "cnn.safetensors"), pickle.loads(pickle.dumps(clf))):
            assert other.layers == layers
            np.testing.assert_array_equal(other.predict_proba(X), expected)

    @pytest.mark.parametrize("layers", [LAYERS, NORMED], ids=["plain", "normed"])
    def test_partial_fit_goes_on(self, digits, layers):
        X, y = digits
        whole = _fitted(X[:200], y[:200], layers=layers, max_iter=3, shuffle=False)
        parts = CNNClassifier(**(PLAIN | {"layers": layers, "shuffle": False}))
        if layers is NORMED:  # dropout draws a new seed with each call
            parts.set_params(layers=tuple(one for one in layers if not isinstance(one, Dropout)))
            whole = _fitted(X[:200], y[:200], layers=parts.layers, max_iter=3, shuffle=False)
        for _ in range(3):
            parts.partial_fit(X[:200], y[:200], classes=np.unique(y))
        np.testing.assert_array_equal(parts.predict_proba(X), whole.predict_proba(X))

    def test_two_classes_lbfgs_and_smoothing(self, digits):
        X, y = digits
        clf = _fitted(X[:200], y[:200] > 4, solver="lbfgs", max_iter=30)
        assert clf.out_activation_ == "logistic"
        assert clf.score(X[:200], y[:200] > 4) > 0.95
        smooth = _fitted(X[:200], y[:200], label_smoothing=0.2, max_iter=2)
        assert smooth.loss_ != _fitted(X[:200], y[:200], max_iter=2).loss_

    def test_works_with_scikit_learn_s_tools(self, digits):
        X, y = digits
        estimator = CNNClassifier(**(PLAIN | {"max_iter": 15, "learning_rate_init": 0.01}))
        assert clone(estimator).get_params() == estimator.get_params()
        assert cross_val_score(estimator, X[:400].reshape(-1, 8, 8), y[:400], cv=2).mean() > 0.7


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layers": "lenet"}, r"The 'layers' parameter of CNNClassifier must be a str among .*'lenet5'"),
        ({"layers": (Conv2D(3), "relu")}, r"layers must be the name .* got 'relu' among them"),
        ({"layers": (Conv2D(3),)}, r"layer 2, Dense\(10, identity\), gets the shape \(6, 6, 3\)"),
        ({"image_shape": (4, 4)}, r"image_shape must be .*; got \(4, 4\), and X has 64 features"),
        ({"image_shape": (8, 8, 1, 1)}, r"image_shape must be integers .*; got \(8, 8, 1, 1\)"),
        ({"image_shape": (64,)}, r"image_shape must be integers .*; got \(64,\)"),
        ({"image_shape": (None, 8)}, r"image_shape must be integers .*; got \(None, 8\)"),
        ({"image_shape": (8.0, 8.0)}, r"image_shape must be integers .*; got \(8.0, 8.0\)"),
        ({"layers": NORMED, "solver": "lbfgs"}, "BatchNorm needs mini-batches: solver must be"),
    ],
)
def test_errors_teach(digits, parameters, message):
    X, y = digits
    with pytest.raises(ValueError, match=message):
        _fitted(X[:50], y[:50], **parameters)


def test_images_of_another_shape_are_refused(digits):
    X, y = digits
    with pytest.raises(ValueError, match=r"image_shape must be .* images of the shape \(8, 8, 1\)"):
        _fitted(X[:50].reshape(-1, 8, 8), y[:50], image_shape=(4, 16))
    clf = _fitted(X[:50], y[:50], max_iter=1, layers=(Flatten(),))
    with pytest.raises(ValueError, match=r"shape \(4, 16, 1\), but CNNClassifier was fitted on .* \(8, 8, 1\)"):
        clf.predict(X.reshape(-1, 4, 16))
    with pytest.raises(ValueError, match="X has 63 features, but CNNClassifier is expecting 64"):
        clf.predict(X[:, 1:])


def test_torch_s_layout_is_refused(digits):
    """(n, 1, 28, 28) would be images of 1 x 28 pixels with 28 channels."""
    X, y = digits
    channels_first = X[:60].reshape(-1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"looks like \(n, channels, height, width\).*pass np.moveaxis\(X, 1, -1\)"):
        _fitted(channels_first, y[:60], layers=(Flatten(),))
    clf = _fitted(np.moveaxis(channels_first, 1, -1), y[:60], layers=(Flatten(),), max_iter=1)
    with pytest.raises(ValueError, match=r"fitted on .* \(8, 8, 1\).*Channels come last: pass np.moveaxis"):
        clf.predict(channels_first)
    meant = _fitted(channels_first, y[:60], layers=(Flatten(),), max_iter=1, image_shape=(1, 8, 8))
    assert meant.image_shape_ == (1, 8, 8)


def test_defaults_are_a_recipe(digits):
    """One cycle and smoothed labels where they mean something; "auto" changes nothing else."""
    X, y = digits
    common = {"layers": LAYERS, "random_state": 0, "max_iter": 2, "backend": "numba"}
    auto = CNNClassifier(**common).fit(X[:300], y[:300])
    said = CNNClassifier(**common, schedule=OneCycle(), label_smoothing=0.1).fit(X[:300], y[:300])
    np.testing.assert_array_equal(auto.coefs_[0], said.coefs_[0])
    assert auto.history_["learning_rate"][0] == pytest.approx(0.005 / 25)
    one = CNNClassifier(**common).fit(X[:300], y[:300] > 4)  # two classes have no smoothing
    other = CNNClassifier(**common, label_smoothing=0.0).fit(X[:300], y[:300] > 4)
    np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])
    parts = CNNClassifier(**common).partial_fit(X[:300], y[:300], classes=np.unique(y))
    assert parts.history_["learning_rate"] == [0.005]
    assert CNNClassifier(**common, solver="lbfgs").fit(X[:300], y[:300]).n_iter_ == 2


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_schedule_and_smoothing_by_the_formulas(digits, backend):
    """Learning rates of torch's OneCycleLR, and the loss of the first batch: -sum over classes of ((1 - s) onehot + s / 10) log p."""
    X, y = digits
    clf = CNNClassifier(
        (Flatten(),),
        batch_size=100,
        max_iter=2,
        label_smoothing=0.2,
        random_state=0,
        backend=backend,
        shuffle=False,
        record_steps=True,
    )
    clf.fit(X[:300], y[:300])
    steps = OneCycle().learning_rates(0.005, 0, 6, 6, 3)
    assert clf.history_["learning_rate"] == pytest.approx([steps[0], steps[3]])
    start = CNNClassifier(
        (Flatten(),),
        batch_size=100,
        max_iter=1,
        learning_rate_init=1e-30,
        random_state=0,
        backend=backend,
        shuffle=False,
    )
    log_p = np.log(start.fit(X[:300], y[:300]).predict_proba(X[:100]).astype(np.float64))
    targets = 0.8 * np.eye(10)[y[:100]] + 0.02
    assert clf.step_losses_[0] == pytest.approx(-(targets * log_p).sum(axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    "layers",
    [LAYERS[:-1], (*LAYERS, Dense(10)), (BatchNorm(), *LAYERS)],
    ids=["fewer", "more", "another BatchNorm"],
)
def test_layers_changed_after_fit_are_refused(digits, layers):
    X, y = digits
    clf = _fitted(X[:50], y[:50], max_iter=1, warm_start=True)
    expected = clf.predict_proba(X[:5])
    clf.set_params(layers=layers)
    for use in (lambda: clf.predict(X), lambda: clf.fit(X[:50], y[:50])):
        with pytest.raises(ValueError, match=r"fitted with 3 layers .* Set layers back with set_params"):
            use()
    np.testing.assert_array_equal(clf.set_params(layers=LAYERS).predict_proba(X[:5]), expected)


def test_fewer_layers_whose_shapes_fit_by_chance_are_refused(digits):
    X, y = digits
    clf = _fitted(X[:50], y[:50], layers=(Flatten(), Dense(10)), max_iter=1)
    clf.set_params(layers=(Flatten(),))
    with pytest.raises(ValueError, match="now asks for 1 and 0"):
        clf.predict(X)


def test_a_shape_of_numpy_s_integers_is_saved(digits, tmp_path):
    X, y = digits
    clf = _fitted(X[:50, :48], y[:50], image_shape=np.array([6, 8]), max_iter=1)
    assert [type(size) for size in clf.image_shape_] == [int, int, int]
    clf.save(tmp_path / "cnn.safetensors")
    assert load_model(tmp_path / "cnn.safetensors").image_shape_ == (6, 8, 1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_fit_mnist_s_images(name):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (30, 28, 28)).astype(np.uint8), np.arange(30) % 10
    told = explain(CNNClassifier(name, backend="numba", max_iter=1), X, y)
    assert told.network[0] == "Input -> 28 x 28 x 1"
    assert told.network[-3].endswith("-> 10")
    assert any(line.startswith("image layers: ") for line in told.program)
    assert len(told.program) < 400  # chunks of images are folded


def test_command_line(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", X=rng.integers(0, 256, (80, 784)).astype(np.uint8), y=np.arange(80) % 4)
    arguments = [
        "--data",
        str(tmp_path / "data.npz"),
        "--layers",
        "lenet5",
        "--epochs",
        "1",
        "--batch-size",
        "32",
        "--backend",
        "numba",
    ]
    result = CliRunner().invoke(main, ["train", "cnn", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == "cnn"
    assert "batch_size=32, layers='lenet5', max_iter=1" in json.loads(result.stdout)["description"]
    told = [
        json.loads(CliRunner().invoke(main, ["explain", "cnn", *arguments[:2], *more, "--json"]).stdout)["model"]
        for more in ([], ["--layers", "accurate"], ["--layers", "accurate", "--epochs", "3"], ["--solver", "lbfgs"])
    ]
    epochs = f"max_iter={RECIPES['accurate']['max_iter']}"
    assert [epochs in text for text in told] == [False, True, False, False]
    assert ["augment=Augment(" in text for text in told] == [False, True, True, False]
    assert told[0] == "CNNClassifier(random_state=0)"
    refused = CliRunner().invoke(main, ["train", "mlp", *arguments])
    assert refused.exit_code == 2
    assert "--layers is for cnn" in refused.output
