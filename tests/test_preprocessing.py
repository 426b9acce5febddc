"""Transformers of images, and predictions averaged over shifted ones."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmnist import (
    Augment,
    AugmentTransformer,
    CNNClassifier,
    Conv2D,
    Deskew,
    Flatten,
    LogisticRegression,
    load_mnist,
)
from fastmnist.estimators.inputs import shifted_images


@parametrize_with_checks([Deskew(), AugmentTransformer(random_state=0)])
def test_scikit_learn_check(estimator, check):
    check(estimator)


# --- Deskew -------------------------------------------------------------------------------------------------------------------------------


def stroke(shape, slope, where=(0.0, 0.0), sigma=2.0):
    """A soft stroke through the middle moved by `where` (down, across), `slope` columns further to the right each line further down."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - (height - 1) / 2 - where[0], x - (width - 1) / 2 - where[1]
    return 200 * np.exp(-((x - slope * y) ** 2) / (2 * sigma**2) - y**2 / (2 * (height / 7) ** 2))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("shape", [(28, 28), (28, 40)])
def test_a_slanted_stroke_is_set_upright_in_the_middle(shape, backend):
    upright = stroke(shape, 0)
    slanted = np.stack([stroke(shape, slope, where) for slope, where in ((0.5, (0, 0)), (-0.7, (2, -3)), (0, (1, 4)))])
    result = Deskew(backend=backend).fit(slanted).transform(slanted)
    assert result.shape == slanted.shape
    assert result.dtype == np.float64
    # Bilinear interpolation flattens the crest by up to 1 / (8 sigma^2).
    assert np.abs(result - upright).max() < 0.05 * upright.max()
    assert np.abs(slanted - upright).max() > 0.5 * upright.max()


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (1, 1, 1), (3, 50, 1), (17, 16, 3), (33, 5, 2)], ids=str)
def test_compiled_images_are_the_oracle_s(shape, dtype):
    rng = np.random.default_rng(0)
    X = (rng.integers(0, 256, (30, *shape)) * (rng.random((30, *shape)) < 0.3)).astype(dtype)
    X[0] = 0
    if dtype != "uint8":
        X -= 20  # paper below 0, which is no ink
        X[1] = -1
    compiled, oracle = (Deskew(backend=backend).fit(X).transform(X) for backend in ("numba", "numpy"))
    assert compiled.dtype == oracle.dtype == X.dtype
    difference = np.abs(compiled.astype(np.float64) - oracle)
    assert difference.max() <= (1 if dtype == "uint8" else 4e-3)
    assert (difference > 0.5).mean() < 1e-3
    np.testing.assert_array_equal(compiled[0], X[0])
    if dtype != "uint8":
        np.testing.assert_array_equal(compiled[1], X[1])


def test_threads_and_neighbours_change_no_bit():
    X = load_mnist("test", return_X_y=True)[0][:3000]
    once = Deskew(n_threads=1).fit_transform(X)
    for n_threads in (2, 3, 7):
        np.testing.assert_array_equal(Deskew(n_threads=n_threads).fit_transform(X), once)
    np.testing.assert_array_equal(Deskew().fit(X).transform(X[70:80]), once[70:80])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_deskewing_lifts_the_linear_model():
    X, y = (part[:6000] for part in load_mnist("train", return_X_y=True))
    X_test, y_test = load_mnist("test", return_X_y=True)
    linear = LogisticRegression(max_iter=25, backend="numba")
    plain = clone(linear).fit(X, y).score(X_test, y_test)
    deskewed = make_pipeline(Deskew(), linear).fit(X, y).score(X_test, y_test)
    assert deskewed >= plain + 0.02


def test_images_of_another_shape_and_unfitted_transformers_are_refused():
    images = np.zeros((3, 4, 6), np.uint8)
    with pytest.raises(NotFittedError):
        Deskew().transform(images)
    fitted = Deskew().fit(images)
    with pytest.raises(
        ValueError, match=r"X has images of the shape \(6, 4, 1\), but Deskew was fitted on .* \(4, 6, 1\)"
    ):
        fitted.transform(images.transpose(0, 2, 1))
    with pytest.raises(ValueError, match=r"image_shape must be .* got \(5, 5\), and X has 24 features"):
        Deskew(image_shape=(5, 5)).fit(images.reshape(3, 24))
    with pytest.raises(ValueError, match=r"'backend' parameter of Deskew must be"):
        Deskew(backend="cupy").fit(images)


# --- AugmentTransformer -------------------------------------------------------------------------------------------------------------------


def test_copies_are_appended_and_reproducible():
    X, y = (part[:50] for part in load_mnist("test", return_X_y=True))
    more = AugmentTransformer(Augment(translate=2, rotate=15), n_copies=3, random_state=4)
    images, labels = more.fit_resample(X, y)
    assert images.shape == (200, 784)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[:50], X)
    np.testing.assert_array_equal(labels, np.tile(y, 4))
    copies = images.reshape(4, 50, 784)
    for i in range(4):
        for j in range(i):
            assert (copies[i] != copies[j]).any(axis=1).all()
    np.testing.assert_array_equal(more.fit_resample(X, y)[0], images)
    np.testing.assert_array_equal(more.transform(X), copies[1])
    np.testing.assert_array_equal(more.transform(X.reshape(50, 28, 28)).reshape(50, 784), copies[1])
    other = clone(more).set_params(random_state=None).fit(X)
    assert (other.transform(X) != other.transform(X)).any()
    with pytest.raises(ValueError, match=r"y must have one label for each of the 50 images of X; got shape \(49,\)"):
        more.fit_resample(X, y[1:])
    with pytest.raises(ValueError, match=r"'augment' parameter of AugmentTransformer must be"):
        AugmentTransformer(False).fit(X)


# --- predictions averaged over shifted images ---------------------------------------------------------------------------------------------


def moved(images, down, across):
    """By zeros from behind."""
    result = np.zeros_like(images)
    h, w = images.shape[1:3]
    for y in range(h):
        for x in range(w):
            if 0 <= y - down < h and 0 <= x - across < w:
                result[:, y, x] = images[:, y - down, x - across]
    return result


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("shape", [(5, 7, 2), (1, 6, 1), (6, 1, 1), (1, 1, 3)], ids=str)
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_probabilities_are_means_over_the_shifted_images(shape, backend):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (40, *shape)).astype(np.uint8), np.arange(40) % 3
    model = CNNClassifier(
        [Conv2D(4, 1, activation="relu"), Flatten()],
        max_iter=2,
        random_state=0,
        backend=backend,
        learning_rate_init=0.05,
    )
    model.fit(X, y)
    plain = model.predict_proba(X)
    ways = [(0, 0), *((0, s) for s in (-1, 1) if shape[1] > 1), *((s, 0) for s in (-1, 1) if shape[0] > 1)]
    versions = [moved(X, down, across) for down, across in ways]
    for version, ours in zip(versions, shifted_images(X.reshape(40, -1), shape), strict=True):
        np.testing.assert_array_equal(version.reshape(40, -1), ours)
    expected = np.mean([model.predict_proba(version) for version in versions], axis=0)
    model.set_params(test_time_augmentation=True)
    for images in (X, X.reshape(40, -1), X / 255.0, scipy.sparse.csr_array(X.reshape(40, -1))):
        np.testing.assert_allclose(model.predict_proba(images), expected, atol=1e-6)
    np.testing.assert_array_equal(model.predict(X), expected.argmax(axis=1))
    np.testing.assert_allclose(model.predict_proba(X[:1]), expected[:1], atol=1e-6)
    if len(ways) > 1:
        assert np.abs(expected - plain).max() > 1e-3
    model._tta_block_bytes = 1000  # block by block
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-6)
