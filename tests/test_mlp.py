"""The multi-layer perceptron: equality with scikit-learn's from the same weights and over whole runs, and what is our own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier as SklearnMLP

from fastmnist import backends
from fastmnist.estimators import MLPClassifier
from fastmnist.network.schedules import Cosine, OneCycle

BACKENDS = ["numpy", "numba"]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:600] / 16, y[:600]


@pytest.fixture(scope="module")
def binary():
    X, y = load_breast_cancer(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0), y


def sklearn_backprop(model, X, y, sample_weight):
    """scikit-learn's own loss and gradient at its current weights."""
    activations = [X] + [None] * (model.n_layers_ - 1)
    empty = [None] * (model.n_layers_ - 1)
    one_hot = model._label_binarizer.transform(y).astype(bool)
    return model._backprop(X, one_hot, sample_weight, activations, empty.copy(), empty.copy(), empty.copy())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("data", ["digits", "binary"])
@pytest.mark.parametrize("weighted", [False, True])
def test_forward_and_gradients_equal_sklearn(backend, activation, data, weighted, request):
    X, y = request.getfixturevalue(data)
    weight = np.random.default_rng(0).uniform(0.1, 2, len(y)).astype(np.float32).astype(float) if weighted else None
    theirs = SklearnMLP((13, 7), activation, alpha=0.0, max_iter=2, random_state=1).fit(X, y)
    model = MLPClassifier((13, 7), activation, max_iter=1, backend=backend).fit(X, y)
    model.coefs_ = [w.astype(model.coefs_[0].dtype) for w in theirs.coefs_]
    model.intercepts_ = [b.astype(model.coefs_[0].dtype) for b in theirs.intercepts_]
    tolerance = 1e-9 if backend == "numpy" else 1e-5
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=tolerance)

    loss, coef_gradients, intercept_gradients = sklearn_backprop(theirs, X, y, weight)
    executor = backends.build(backend, model._spec(), dtype=model.coefs_[0].dtype)
    labels = 1 - y if data == "binary" else y
    executor.bind(
        X.astype(executor.dtype), labels.astype(np.int32), None if weight is None else weight.astype(np.float32)
    )
    our_loss, gradient = executor.loss_and_gradient(model._parameters())
    assert our_loss == pytest.approx(loss, rel=1e-6)
    tolerance = 1e-7 if backend == "numpy" else 1e-5
    for ours, expected in zip(gradient[::2], coef_gradients, strict=True):
        np.testing.assert_allclose(ours, expected, atol=tolerance)
    for ours, expected in zip(gradient[1::2], intercept_gradients, strict=True):
        np.testing.assert_allclose(ours, expected, atol=tolerance)


RUNS = {
    "adam": {},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "plain sgd": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.05},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.05},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "power_t": 0.1},
    "adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 0.05,
        "tol": 0.2,
        "n_iter_no_change": 2,
    },
    "logistic": {"activation": "logistic", "learning_rate_init": 0.01},
    "tanh": {"activation": "tanh"},
    "no shuffling": {"shuffle": False},
    "stops by tol": {"learning_rate_init": 0.01, "tol": 0.05, "n_iter_no_change": 2},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 3, "learning_rate_init": 0.01},
    "no hidden layer": {"hidden_layer_sizes": ()},
    "strong L2": {"alpha": 5.0},
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("data", ["digits", "binary"])
def test_whole_run_equals_sklearn(name, data, request):
    """Same random_state: the same initial weights, batches, updates and end."""
    X, y = request.getfixturevalue(data)
    parameters = {"hidden_layer_sizes": (16, 8), "batch_size": 50, "max_iter": 12, "random_state": 5, **RUNS[name]}
    theirs = SklearnMLP(**parameters).fit(X, y)
    model = MLPClassifier(**parameters, backend="numpy").fit(X, y)
    assert model.n_iter_ == theirs.n_iter_
    assert model.t_ == theirs.t_
    # The L2 term is taken once an epoch here and at each step there; it moves by a little within the epoch.
    rtol = 0.05 if name == "strong L2" else 1e-3
    np.testing.assert_allclose(model.loss_curve_, theirs.loss_curve_, rtol=rtol)
    for ours, expected in zip(model._parameters()[::2], theirs.coefs_, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    if model.early_stopping:
        np.testing.assert_allclose(model.validation_scores_, theirs.validation_scores_)
        assert model.best_validation_score_ == theirs.best_validation_score_
        assert model.best_loss_ is None
    else:
        assert model.validation_scores_ is None
        assert model.best_loss_ == pytest.approx(theirs.best_loss_, rel=rtol)
    np.testing.assert_array_equal(model.predict(X), theirs.predict(X))


def test_loss_curve_equals_sklearn_without_l2(digits):
    parameters = {"hidden_layer_sizes": (16,), "alpha": 0.0, "batch_size": 64, "max_iter": 10, "random_state": 2}
    theirs = SklearnMLP(**parameters).fit(*digits)
    for backend, tolerance in (("numpy", 1e-7), ("numba", 1e-5)):
        model = MLPClassifier(**parameters, backend=backend).fit(*digits)
        np.testing.assert_allclose(model.loss_curve_, theirs.loss_curve_, rtol=tolerance)


def test_weighted_run_equals_sklearn(digits):
    X, y = digits
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y)).astype(np.float32).astype(float)
    parameters = {"hidden_layer_sizes": (16,), "batch_size": 64, "max_iter": 5, "random_state": 2}
    theirs = SklearnMLP(**parameters).fit(X, y, weight)
    model = MLPClassifier(**parameters, backend="numpy").fit(X, y, weight)
    np.testing.assert_allclose(model.coefs_[0], theirs.coefs_[0], atol=1e-6)
    np.testing.assert_allclose(model.loss_curve_, theirs.loss_curve_, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_lbfgs_equals_sklearn(backend, binary):
    X, y = binary
    parameters = {"hidden_layer_sizes": (5,), "solver": "lbfgs", "alpha": 1.0, "max_iter": 500, "random_state": 0}
    parameters |= {"activation": "tanh", "tol": 1e-5}
    theirs = SklearnMLP(**parameters).fit(X, y)
    model = MLPClassifier(**parameters, backend=backend).fit(X, y)
    assert model.loss_ == pytest.approx(theirs.loss_, rel=1e-3)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=0.02)
    assert len(model.loss_curve_) == model.n_iter_
    assert model.best_loss_ is None


def test_lbfgs_says_when_it_did_not_converge(binary):
    with pytest.warns(ConvergenceWarning, match=r"lbfgs failed to converge after 2 iteration.*Increase max_iter \(2\)"):
        MLPClassifier((5,), solver="lbfgs", max_iter=2).fit(*binary)


def test_golden_loss_curve(digits):
    """Recorded from a float64 run of the numpy backend, whose arithmetic is tested against scikit-learn's above."""
    parameters = {"batch_size": 64, "max_iter": 5, "alpha": 1e-3, "random_state": 0}
    golden = [2.374419888768479, 2.2950976522576854, 2.2313509228135087, 2.166576134477794, 2.0982170622246996]
    model = MLPClassifier((32, 16), **parameters, backend="numpy").fit(*digits)
    np.testing.assert_allclose(model.loss_curve_, golden, rtol=1e-7)
    model = MLPClassifier((32, 16), **parameters, backend="numba").fit(*digits)
    np.testing.assert_allclose(model.loss_curve_, golden, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_random_state_same_bits(backend, digits):
    X, y = digits
    parameters = {"hidden_layer_sizes": (20, 12), "dropout": 0.2, "batch_size": 48, "max_iter": 4, "random_state": 7}
    runs = [MLPClassifier(**parameters, backend=backend, n_threads=n).fit(X, y) for n in (1, 1, 2)]
    for other in runs[1:]:
        assert other.loss_curve_ == runs[0].loss_curve_
        for p, q in zip(runs[0]._parameters(), other._parameters(), strict=True):
            np.testing.assert_array_equal(p, q)
    different = MLPClassifier(**{**parameters, "random_state": 8}, backend=backend).fit(X, y)
    assert different.loss_curve_ != runs[0].loss_curve_


# --- continuing ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_partial_fit_continues_as_sklearn(backend, solver, digits):
    X, y = digits
    parameters = {"hidden_layer_sizes": (16,), "solver": solver, "batch_size": 32, "random_state": 3, "alpha": 1e-2}
    theirs, model = SklearnMLP(**parameters), MLPClassifier(**parameters, backend=backend)
    for part in (slice(0, 150), slice(150, 350), slice(350, 360), slice(360, 600)):
        theirs.partial_fit(X[part], y[part], classes=np.arange(10))
        model.partial_fit(X[part], y[part], classes=np.arange(10))
        assert model.n_iter_ == theirs.n_iter_ == 1
        assert model.t_ == theirs.t_
        tolerance = 1e-7 if backend == "numpy" else 1e-4
        np.testing.assert_allclose(model.coefs_[0], theirs.coefs_[0], atol=tolerance)
    assert len(model.loss_curve_) == len(model.history_["loss"]) == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_partial_fit_after_fit_keeps_the_optimizer(backend, digits):
    parameters = {"hidden_layer_sizes": (16,), "batch_size": 32, "random_state": 3, "shuffle": False, "tol": 0.0}
    whole = MLPClassifier(**parameters, max_iter=3, backend=backend).fit(*digits)
    pieces = MLPClassifier(**parameters, max_iter=2, backend=backend).fit(*digits).partial_fit(*digits)
    for p, q in zip(whole._parameters(), pieces._parameters(), strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("backend", BACKENDS)
def test_warm_start_as_sklearn(backend, digits):
    X, y = digits
    parameters = {"hidden_layer_sizes": (16,), "batch_size": 32, "random_state": 3, "max_iter": 2, "warm_start": True}
    theirs, model = SklearnMLP(**parameters), MLPClassifier(**parameters, backend=backend)
    for _ in range(2):
        theirs.fit(X, y)
        model.fit(X, y)
    np.testing.assert_allclose(model.coefs_[0], theirs.coefs_[0], atol=1e-7 if backend == "numpy" else 1e-4)
    assert len(model.loss_curve_) == len(theirs.loss_curve_) == 4
    assert (model.n_iter_, model.t_) == (theirs.n_iter_, theirs.t_)
    with pytest.raises(ValueError, match=r"same classes as in the previous call.*Use warm_start=False"):
        model.fit(X[y < 5], y[y < 5])
    with pytest.raises(ValueError, match=r"classes not in `self.classes_`: \[10\]"):
        model.fit(X, np.where(y == 9, 10, y))
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(17,\) asks for.*warm_start=False"):
        model.set_params(hidden_layer_sizes=(17,)).fit(X, y)


def test_partial_fit_refuses(digits):
    X, y = digits
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        MLPClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match="only one class"):
        MLPClassifier().partial_fit(X, y, classes=[1])
    with pytest.raises(ValueError, match=r"classes not in `self.classes_`: \[9\].*refit"):
        MLPClassifier().partial_fit(X, y, classes=np.arange(9))
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        MLPClassifier(early_stopping=True).partial_fit(X, y, classes=np.arange(10))
    with pytest.raises(AttributeError, match="partial_fit"):
        MLPClassifier(solver="lbfgs").partial_fit(X, y, classes=np.arange(10))


# --- what scikit-learn does not have ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ["leaky_relu", "elu", "gelu", "sigmoid"])
def test_more_activations_learn(backend, activation, digits):
    model = MLPClassifier((32,), activation, learning_rate_init=0.01, max_iter=30, random_state=0, backend=backend)
    assert model.fit(*digits).score(*digits) > 0.95


def test_sigmoid_is_logistic(digits):
    runs = [MLPClassifier((9,), name, max_iter=3, random_state=0).fit(*digits) for name in ("sigmoid", "logistic")]
    assert runs[0].loss_curve_ == runs[1].loss_curve_


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_is_for_training_only(backend, digits):
    X, y = digits
    model = MLPClassifier(
        (32, 16), dropout=(0.5, 0.2), max_iter=20, learning_rate_init=0.01, random_state=0, backend=backend
    )
    model.fit(X, y)
    plain = MLPClassifier((32, 16), max_iter=20, learning_rate_init=0.01, random_state=0, backend=backend).fit(X, y)
    assert model.loss_curve_[-1] > 1.5 * plain.loss_curve_[-1]
    np.testing.assert_array_equal(model.predict_proba(X), model.predict_proba(X))
    hidden = X
    for W, b in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        hidden = np.maximum(hidden @ W + b, 0)
    logits = hidden @ model.coefs_[-1] + model.intercepts_[-1]
    np.testing.assert_array_equal(model.predict(X), logits.argmax(axis=1))


def test_class_weight_is_sample_weight(digits):
    X, y = digits
    parameters = {"hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0}
    model = MLPClassifier(**parameters, class_weight={3: 4.0, 5: 0.0}).fit(X, y)
    same = MLPClassifier(**parameters).fit(X, y, np.select([y == 3, y == 5], [4.0, 0.0], 1.0))
    np.testing.assert_array_equal(model.coefs_[0], same.coefs_[0])
    assert model.t_ == 4 * np.sum(y != 5)  # samples of weight 0 are left out


@pytest.mark.parametrize("backend", BACKENDS)
def test_schedule_takes_precedence(backend, digits):
    X, y = digits
    model = MLPClassifier((16,), solver="sgd", learning_rate="invscaling", learning_rate_init=0.1, backend=backend)
    model.set_params(schedule="cosine", max_iter=4, batch_size=100, random_state=0).fit(X, y)
    expected = Cosine().learning_rates(0.1, 0, 24, 24, 6)[::6]
    np.testing.assert_allclose(model.history_["learning_rate"], expected)
    model.set_params(schedule=OneCycle(max_factor=10)).fit(X, y)
    np.testing.assert_allclose(model.history_["learning_rate"][0], 0.1 * 10 / 25)
    with pytest.raises(ValueError, match=r"schedule must be one of 'constant', 'step'.*got 'exponential'"):
        model.set_params(schedule="exponential").fit(X, y)


def test_schedule_uses_all_epochs_without_a_warning(digits, recwarn):
    MLPClassifier((16,), schedule="cosine", max_iter=2).fit(*digits)
    assert not [w for w in recwarn if issubclass(w.category, ConvergenceWarning)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_weight_decay_two_ways(backend, digits):
    X, y = digits
    start = MLPClassifier((8,), max_iter=1, learning_rate_init=1e-12, random_state=0, backend=backend).fit(X, y)
    parameters = {"hidden_layer_sizes": (8,), "max_iter": 1, "batch_size": 600, "random_state": 0, "backend": backend}
    rate, decay = 0.01, 0.5
    plain = MLPClassifier(**parameters, solver="adam", alpha=0, learning_rate_init=rate).fit(X, y)
    decoupled = MLPClassifier(**parameters, solver="adamw", alpha=0, learning_rate_init=rate, weight_decay=decay).fit(
        X, y
    )
    np.testing.assert_allclose(decoupled.coefs_[0] - plain.coefs_[0], -rate * decay * start.coefs_[0], atol=1e-6)
    np.testing.assert_allclose(
        decoupled.intercepts_[0] - plain.intercepts_[0], -rate * decay * start.intercepts_[0], atol=1e-6
    )
    sgd = {"solver": "sgd", "momentum": 0.0, "alpha": 0, "learning_rate_init": rate}
    coupled = MLPClassifier(**parameters, **sgd, weight_decay=decay).fit(X, y)
    plain = MLPClassifier(**parameters, **sgd).fit(X, y)
    np.testing.assert_allclose(coupled.coefs_[0] - plain.coefs_[0], -rate * decay * start.coefs_[0], atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_label_smoothing(backend, digits):
    X, y = digits
    model = MLPClassifier(
        (32,), label_smoothing=0.2, max_iter=60, learning_rate_init=0.01, random_state=0, backend=backend
    )
    model.fit(X, y)
    assert model.score(X, y) > 0.98
    # The best possible probability of the right class is 0.8 + 0.2 / 10.
    assert 0.7 < model.predict_proba(X).max(axis=1).mean() < 0.86


@pytest.mark.parametrize("backend", BACKENDS)
def test_record_steps(backend, digits):
    X, y = digits
    model = MLPClassifier((16,), alpha=0, batch_size=64, max_iter=3, record_steps=True, random_state=0, backend=backend)
    model.fit(X, y)
    steps = model.step_losses_.reshape(3, 10)
    counts = [64] * 9 + [24]
    np.testing.assert_allclose(np.average(steps, axis=1, weights=counts), model.loss_curve_, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_history_and_validation_data(backend, digits):
    X, y = digits
    model = MLPClassifier((16,), max_iter=5, random_state=0, backend=backend)
    model.fit(X[:400], y[:400], validation_data=(X[400:], y[400:]))
    history = model.history_
    assert set(history) == {"loss", "val_loss", "accuracy", "val_accuracy", "learning_rate", "seconds"}
    assert {len(values) for values in history.values()} == {5}
    assert history["loss"] == model.loss_curve_
    assert history["val_accuracy"][-1] == model.score(X[400:], y[400:])
    p = model.predict_proba(X[400:])[np.arange(200), y[400:]]
    assert history["val_loss"][-1] == pytest.approx(-np.log(p).mean(), rel=1e-5)
    assert model.fit_seconds_ > 0
    assert model.compile_seconds_ >= 0
    model.fit(X, y)
    assert history is not model.history_
    assert model.history_["val_loss"] == [None] * 5


def test_early_stopping_on_validation_data(digits):
    X, y = digits
    model = MLPClassifier(
        (16,), early_stopping=True, n_iter_no_change=2, tol=0.01, random_state=0, learning_rate_init=0.02
    )
    model.fit(X[:400], y[:400], validation_data=(X[400:], y[400:]))
    assert model.t_ == 400 * model.n_iter_  # nothing was held out
    assert model.score(X[400:], y[400:]) == model.best_validation_score_ == max(model.validation_scores_)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_layer_sizes": (10, 0)}, r"hidden_layer_sizes must be > 0.*got \(10, 0\)"),
        ({"hidden_layer_sizes": (10**30,)}, r"hidden_layer_sizes must be > 0: integers up to 16,777,216"),
        ({"hidden_layer_sizes": (10, 2.5)}, r"hidden_layer_sizes must be > 0: integers"),
        ({"hidden_layer_sizes": -1}, "'hidden_layer_sizes' parameter.*Got -1"),
        ({"activation": "swish"}, "'activation' parameter .*'leaky_relu'.*Got 'swish'"),
        ({"solver": "rmsprop"}, "'solver' parameter .*'adamw'.*Got 'rmsprop'"),
        ({"alpha": -1}, "'alpha' parameter.*Got -1"),
        ({"momentum": 1.0}, r"'momentum' parameter.*\[0\.0, 1\.0\)\. Got 1\.0"),
        ({"batch_size": 0}, "'batch_size' parameter.*Got 0"),
        ({"max_iter": 0}, "'max_iter' parameter.*Got 0"),
        ({"dropout": 1.0}, r"'dropout' parameter.*Got 1\.0"),
        ({"dropout": (0.1, 0.1)}, r"dropout must be in \[0, 1\): one number, or one for each of the 1 hidden layers"),
        ({"dropout": (1.5,)}, r"dropout must be in \[0, 1\).*got \(1\.5,\)"),
        ({"label_smoothing": 1.0}, r"'label_smoothing' parameter.*Got 1\.0"),
        ({"weight_decay": -0.1}, "'weight_decay' parameter.*Got -0.1"),
        ({"solver": "lbfgs", "dropout": 0.1}, r"dropout needs mini-batches.*got solver='lbfgs' with dropout=0\.1"),
        ({"solver": "lbfgs", "weight_decay": 0.1}, "weight_decay needs mini-batches"),
        ({"solver": "lbfgs", "schedule": "cosine"}, "schedule needs mini-batches.*Leave schedule at None"),
        ({"early_stopping": True, "validation_fraction": 0.001}, "validation set is too small: 1 of 600.*Increase"),
    ],
    ids=str,
)
def test_bad_parameters(parameters, message, digits):
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**parameters).fit(*digits)


def test_label_smoothing_needs_more_than_two_classes(binary):
    with pytest.raises(ValueError, match=r"label_smoothing needs more than two classes; got label_smoothing=0\.1"):
        MLPClassifier(label_smoothing=0.1).fit(*binary)


def test_batch_size_is_clipped(digits):
    with pytest.warns(
        UserWarning, match="batch_size=1000 is larger than the number of training samples, 600; it is clipped"
    ):
        model = MLPClassifier((4,), batch_size=1000, max_iter=1).fit(*digits)
    assert model.n_iter_ == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_diverging_says_why(backend, digits):
    model = MLPClassifier((16,), "identity", solver="sgd", learning_rate_init=1e6, max_iter=50, backend=backend)
    with pytest.raises(ValueError, match=r"non-finite.*learning_rate_init=1e\+06 is too large"):
        model.fit(*digits)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_softmax_twice_is_another_loss_with_the_same_prediction(backend, digits):
    X, y = digits
    clf = MLPClassifier(
        (32,), loss="softmax_twice", max_iter=60, learning_rate_init=0.01, random_state=0, backend=backend
    )
    clf.fit(X, y, validation_data=(X, y))
    p = clf.predict_proba(X)
    twice = special.log_softmax(p.astype(float), axis=1)[np.arange(len(y)), np.searchsorted(clf.classes_, y)]
    assert clf.history_["val_loss"][-1] == pytest.approx(-twice.mean(), rel=1e-5)
    assert np.log(np.e + 9) - 1 < clf.loss_curve_[-1] < np.log(10)  # its floor, and where it starts
    assert clf.score(X, y) > 0.9


def test_softmax_twice_needs_more_than_two_classes(binary):
    with pytest.raises(ValueError, match="needs more than two classes and no label smoothing; got 2 classes"):
        MLPClassifier(loss="softmax_twice").fit(*binary)


def test_softmax_twice_takes_no_label_smoothing(digits):
    with pytest.raises(ValueError, match=r"no label smoothing; got 10 classes and label_smoothing=0\.1"):
        MLPClassifier(loss="softmax_twice", label_smoothing=0.1).fit(*digits)
