"""Images changed at random: the compiled job against the oracle, what is drawn, and training on it."""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone

from fastmnist import Augment, CNNClassifier, Conv2D, GlobalAvgPool2D, MLPClassifier, load_mnist, load_model
from fastmnist.backends.warping import ImageJobs, key_of
from fastmnist.evaluation.explanation import explain
from fastmnist.kernels import cpu
from fastmnist.kernels.contract import check
from fastmnist.kernels.cpu.layout import warp_scratch
from fastmnist.network.augmentation import FOR_DIGITS

SHAPES = [(28, 28, 1), (1, 1, 1), (3, 50, 1), (17, 16, 3), (33, 5, 2)]
EVERYTHING = Augment(
    translate=2, rotate=20, scale=0.2, shear=10, flip=0.5, elastic_alpha=20, elastic_sigma=2, erase=0.5
)
KEY = key_of(7)


def some_images(shape, n=12, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, int(np.prod(shape)))).astype(dtype)


def augmented(source, shape, augment, *, rows=None, numbers=None, epoch=0, backend="numba", n_threads=1, key=KEY):
    rows = np.arange(len(source)) if rows is None else rows
    images = np.full((len(rows), source.shape[1]), 77, source.dtype)
    numbers = rows if numbers is None else numbers
    ImageJobs(backend, n_threads, shape).augment(images, source, rows, numbers, augment, key, epoch)
    return images


def assert_same_images(compiled, oracle):
    """Places are computed in float32: 1e-5 of a pixel, whose neighbours differ by 255 at most. Bytes may be rounded to the other side."""
    difference = np.abs(compiled.astype(np.float64) - oracle)
    if compiled.dtype == np.uint8:
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3
    else:
        assert difference.max() < 4e-3


# --- the job ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_images_are_the_oracle_s(shape, dtype):
    source = some_images(shape, dtype=dtype)
    rng = np.random.default_rng(1)
    rows, numbers = rng.integers(0, len(source), 30), rng.integers(0, 2**40, 30)
    for augment in (FOR_DIGITS, EVERYTHING, Augment(elastic_alpha=34)):
        settings = {"rows": rows, "numbers": numbers, "epoch": 3}
        compiled = augmented(source, shape, augment, **settings)
        oracle = augmented(source, shape, augment, backend="numpy", **settings)
        assert_same_images(compiled, oracle)
        if dtype == "float32":
            exact = augmented(source.astype(np.float64), shape, augment, backend="numpy", **settings)
            assert_same_images(compiled, exact)
        assert not np.array_equal(compiled, source[rows]) or shape == (1, 1, 1)


def test_the_job_writes_its_images_and_its_scratch_and_nothing_else():
    shape, guard = (7, 9, 2), 64
    source, taps = some_images(shape), EVERYTHING.taps(7, 9).astype(np.float32)
    need = warp_scratch(*shape, len(taps))
    scratch, images = np.full(need + guard, np.nan, np.float32), np.full((12, 126 + guard), 77, np.uint8)
    arrays = images[:, :126], scratch[:need], source, np.arange(12), np.arange(12), KEY, taps
    assert check("augment_images", *arrays)
    size = dict(zip(("height", "width", "channels"), shape, strict=True))
    cpu.call("augment_images", *arrays, **size, epoch=0, **EVERYTHING.params)
    assert np.isnan(scratch[need:]).all()
    assert (images[:, 126:] == 77).all()
    np.testing.assert_array_equal(images[:, :126], augmented(source, shape, EVERYTHING))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ranges_of_zero_change_nothing(shape, backend):
    for dtype in ("uint8", "float32"):
        source = some_images(shape, dtype=dtype)
        np.testing.assert_array_equal(augmented(source, shape, Augment(), backend=backend), source)


def test_an_image_depends_on_key_epoch_and_number_alone():
    shape = (28, 28, 1)
    source = some_images(shape, 3000)
    once = augmented(source, shape, EVERYTHING)
    for n_threads in (2, 3, 7):
        np.testing.assert_array_equal(augmented(source, shape, EVERYTHING, n_threads=n_threads), once)
    order = np.random.default_rng(0).permutation(3000)[:50]
    np.testing.assert_array_equal(augmented(source, shape, EVERYTHING, rows=order), once[order])
    for change in ({"epoch": 1}, {"key": key_of(8)}, {"key": key_of(7 + 2**32)}, {"numbers": np.arange(3000) + 1}):
        other = augmented(source, shape, EVERYTHING, **change)
        assert (other != once).any(axis=1).all(), change


def test_channels_are_bent_alike():
    grey = some_images((17, 16, 1))
    colour = np.repeat(grey, 3, axis=1)
    expected = np.repeat(augmented(grey, (17, 16, 1), EVERYTHING), 3, axis=1)
    np.testing.assert_array_equal(augmented(colour, (17, 16, 3), EVERYTHING), expected)


# --- what is drawn ------------------------------------------------------------------------------------------------------------------------
# Two images whose values are the column and the line of each pixel show where a pixel comes from.

SIDE, N = 41, 2000


def places(augment):
    """Columns and lines (N, SIDE, SIDE) that the pixels of N images are taken from, from -1/2 to 1/2 across; NaN near the border."""
    line, column = np.mgrid[:SIDE, :SIDE].astype(np.float32) - SIDE // 2
    source = np.stack([column.ravel(), line.ravel()]) + 100
    shape, rows = (SIDE, SIDE, 1), np.repeat([0, 1], N)
    images = augmented(source, shape, augment, rows=rows, numbers=np.tile(np.arange(N), 2))
    images = images.reshape(2, N, SIDE, SIDE) - 100
    return images[0], images[1]


def slopes(v):
    """Of the middle of each image along x and y."""
    m = SIDE // 2
    return v[:, m, m + 1] - v[:, m, m], v[:, m + 1, m] - v[:, m, m]


def assert_uniform(values, largest, tolerance=1e-3):
    """From -largest to largest, each part as often as it should be."""
    assert np.abs(values).max() <= largest * (1 + tolerance)
    counts = np.histogram(values, 10, (-largest * (1 + tolerance), largest * (1 + tolerance)))[0]
    assert np.abs(counts - N / 10).max() < 4.5 * np.sqrt(N / 10)  # 4.5 sigma: once in 15,000 runs of other numbers


def test_shifts_are_uniform_and_each_way_its_own():
    x, y = places(Augment(translate=3))
    dx, dy = x[:, SIDE // 2, SIDE // 2], y[:, SIDE // 2, SIDE // 2]
    assert_uniform(dx, 3)
    assert_uniform(dy, 3)
    assert abs(np.corrcoef(dx, dy)[0, 1]) < 0.1


def test_angles_are_uniform():
    a, b = slopes(places(Augment(rotate=30))[0])
    assert_uniform(np.degrees(np.arctan2(b, a)), 30)
    np.testing.assert_allclose(a**2 + b**2, 1, atol=1e-3)


def test_sizes_are_uniform():
    a, b = slopes(places(Augment(scale=0.3))[0])
    assert_uniform(1 / a - 1, 0.3)
    np.testing.assert_allclose(b, 0, atol=1e-3)


def test_slants_are_uniform():
    a, b = slopes(places(Augment(shear=40))[0])
    assert_uniform(np.degrees(np.arctan(b)), 40)
    np.testing.assert_allclose(a, 1, atol=1e-3)


def test_flips_have_their_probability():
    a, _ = slopes(places(Augment(flip=0.25))[0])
    np.testing.assert_allclose(np.abs(a), 1, atol=1e-3)
    assert abs((a < 0).mean() - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / N)


def test_displacements_have_the_spread_of_smoothed_noise():
    """White noise of variance 1/3 after a Gaussian: 1 / (4 pi sigma^2) of it (Simard's 34 and 4: 1.4 pixels)."""
    line, column = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    x, y = places(Augment(elastic_alpha=34, elastic_sigma=4))
    inner = slice(14, -14)  # where neither the border of the image nor that of the noise is near
    for displacement in (x - column, y - line):
        values = displacement[:, inner, inner]
        assert abs(values.std() / (34 / np.sqrt(3 * 4 * np.pi * 16)) - 1) < 0.05
        assert abs(values.mean()) < 0.05
        # Neighbours move together: correlation exp(-d^2 / (4 sigma^2)) at the distance d.
        assert abs(np.corrcoef(values[:, :, 4:].ravel(), values[:, :, :-4].ravel())[0, 1] - np.exp(-0.25)) < 0.05


def test_erased_rectangles():
    shape = (20, 30, 3)
    white = np.full((N, 1800), 255, np.uint8)
    images = augmented(white, shape, Augment(erase=0.4, erase_area=(0.05, 0.2))).reshape(-1, *shape)
    assert (images == images[..., :1]).all()
    black = images[..., 0] == 0
    some = black.any(axis=(1, 2))
    assert abs(some.mean() - 0.4) < 4.5 * np.sqrt(0.24 / N)
    heights, widths = black.any(axis=2).sum(axis=1)[some], black.any(axis=1).sum(axis=1)[some]
    np.testing.assert_array_equal(black.sum(axis=(1, 2))[some], heights * widths)
    share = heights * widths / 600
    assert 0.03 < share.min() < 0.06
    assert 0.17 < share.max() < 0.24
    assert (heights / widths).min() > 0.2
    assert black[:, 0].any() and black[:, -1].any() and black[:, :, 0].any() and black[:, :, -1].any()


# --- the description ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("translate", -1),
        ("translate", np.inf),
        ("rotate", 181),
        ("scale", 1),
        ("shear", 90),
        ("flip", 1.5),
        ("elastic_alpha", "34"),
        ("elastic_sigma", 0),
        ("erase", True),
        ("erase_area", 0.2),
        ("erase_area", (0.3, 0.2)),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"Augment: {name} must be .*; got "):
        Augment(**{name: value})


def test_a_description_is_a_value():
    one = Augment(translate=2, erase_area=[0.1, 0.2])
    assert one == Augment(translate=2.0, erase_area=(0.1, 0.2))
    assert hash(one) == hash(pickle.loads(pickle.dumps(one)))
    assert repr(one) == "Augment(translate=2.0, erase_area=(0.1, 0.2))"
    assert eval(repr(one)) == one


# --- training -----------------------------------------------------------------------------------------------------------------------------


def digits(n=300, side=8):
    """Bright spots whose place is their class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    X = rng.integers(0, 40, (n, side, side))
    X[np.arange(n), 1 + 2 * y, rng.integers(1, side - 1, n)] = 255
    return X.reshape(n, -1).astype(np.uint8), y


X, Y = digits()
GENTLE = Augment(translate=0.8, rotate=5, elastic_alpha=4, elastic_sigma=2)


def mlp(**parameters):
    settings = {"batch_size": 50, "max_iter": 3, "random_state": 0, "backend": "numba", "augment": GENTLE}
    return MLPClassifier((16,), **(settings | parameters))


def cnn(**parameters):
    layers = [Conv2D(4, 3, activation="relu"), GlobalAvgPool2D()]
    settings = {"batch_size": 50, "max_iter": 2, "random_state": 0, "backend": "numba", "augment": GENTLE}
    return CNNClassifier(layers, **(settings | parameters))


def fitted(model, *arguments, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(*arguments, **keywords)


def assert_same_model(one, other):
    for a, b in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_is_that_on_the_augmented_images():
    """Epoch by epoch, by hand: what the job makes of the rows, shuffled and trained on as it is."""
    model = fitted(mlp(max_iter=1), X, Y)
    by_hand = fitted(mlp(max_iter=1, augment=False), augmented(X, (8, 8, 1), GENTLE, key=key_of(0)), Y)
    assert_same_model(model, by_hand)
    assert np.abs(model.coefs_[0] - fitted(mlp(max_iter=1, augment=False), X, Y).coefs_[0]).max() > 1e-3


def test_bits_do_not_depend_on_threads_windows_or_how_rows_are_stored(tmp_path):
    one = fitted(mlp(n_threads=1), X, Y)
    for n_threads in (2, 3, 7):
        assert_same_model(fitted(mlp(n_threads=n_threads), X, Y), one)
    assert_same_model(fitted(mlp(max_memory=4 * 64 * 120), X, Y), one)  # two batches are in memory
    assert_same_model(fitted(mlp(), scipy.sparse.csr_array(X), Y), one)
    np.save(tmp_path / "X.npy", X)
    assert_same_model(fitted(mlp(), np.load(tmp_path / "X.npy", mmap_mode="r"), Y), one)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_numpy_trains_on_the_same_images(make):
    compiled = fitted(make(), X[:150], Y[:150])
    plain = fitted(make(backend="numpy"), X[:150], Y[:150])
    np.testing.assert_allclose(compiled.loss_curve_, plain.loss_curve_, rtol=1e-4)


def test_epochs_differ_and_go_on_where_the_last_fit_stopped():
    # A rate of 0 keeps the weights: losses differ by the images alone.
    still = {"learning_rate_init": 1e-30, "solver": "sgd", "n_iter_no_change": np.inf, "shuffle": False}
    losses = fitted(mlp(max_iter=4, **still), X, Y).loss_curve_
    assert len(set(losses)) == 4
    halves = mlp(max_iter=2, warm_start=True, **still)
    fitted(fitted(halves, X, Y), X, Y)
    assert halves.loss_curve_ == losses
    step_by_step = mlp(**still)
    for _ in range(4):
        step_by_step.partial_fit(X, Y, classes=[0, 1, 2])
    assert step_by_step.loss_curve_ == losses
    unaugmented = fitted(mlp(max_iter=2, augment=Augment(), **still), X, Y).loss_curve_
    assert unaugmented[0] == unaugmented[1]


def test_a_random_state_that_is_no_int_draws_other_images_each_time():
    rng = np.random.RandomState(0)
    still = {"learning_rate_init": 1e-30, "solver": "sgd", "max_iter": 1, "random_state": rng, "warm_start": True}
    model = mlp(**still)
    fitted(fitted(model, X, Y), X, Y)
    assert model.loss_curve_[0] != model.loss_curve_[1]


def test_validation_data_are_never_augmented():
    wild = Augment(translate=8, rotate=180, erase=1, erase_area=(0.9, 1))
    model = mlp(augment=wild, early_stopping=True, validation_fraction=0.3, learning_rate_init=1e-30, max_iter=2)
    fitted(model, X, Y)
    plain = fitted(clone(model).set_params(augment=False), X, Y)
    np.testing.assert_allclose(model.validation_scores_, plain.validation_scores_)
    given = fitted(mlp(augment=wild, learning_rate_init=1e-30, max_iter=1), X, Y, validation_data=(X, Y))
    assert given.history_["val_accuracy"][0] == given.score(X, Y)


def test_weights_of_samples_go_with_their_images():
    weight = np.where(np.arange(300) < 150, 1.0, 0.0)
    weighted = fitted(mlp(shuffle=False), X, Y, sample_weight=weight)
    assert_same_model(weighted, fitted(mlp(shuffle=False), X[:150], Y[:150]))


def test_images_of_colour_and_of_any_shape():
    rng = np.random.default_rng(0)
    images, y = rng.integers(0, 256, (60, 12, 9, 3)).astype(np.uint8), rng.integers(0, 2, 60)
    model = fitted(cnn(augment=EVERYTHING), images, y)
    assert np.isfinite(model.loss_curve_).all()
    flat = fitted(mlp(image_shape=(12, 9, 3), augment=EVERYTHING, max_iter=1), images.reshape(60, -1), y)
    bent = augmented(images.reshape(60, -1), (12, 9, 3), EVERYTHING, key=key_of(0))
    assert_same_model(flat, fitted(mlp(augment=False, max_iter=1), bent, y))


def test_few_digits_go_further():
    (X_train, y_train), (X_test, y_test) = (load_mnist(part, return_X_y=True) for part in ("train", "test"))
    settings = {"max_iter": 40, "n_iter_no_change": np.inf, "learning_rate_init": 0.003}
    plain, bent = (
        fitted(mlp(augment=augment, **settings).set_params(hidden_layer_sizes=(64,)), X_train[:1000], y_train[:1000])
        for augment in (False, True)
    )
    assert bent.score(X_test, y_test) > plain.score(X_test, y_test) + 0.02


def test_what_a_fit_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"augment needs mini-batches: .*solver='lbfgs'"):
        mlp(solver="lbfgs").fit(X, Y)
    with pytest.raises(ValueError, match=r"63 features are no square. Set image_shape="):
        mlp().fit(X[:, :63], Y)
    with pytest.raises(ValueError, match=r"image_shape must be .* got \(4, 4\), and X has 64 features"):
        mlp(image_shape=(4, 4)).fit(X, Y)
    with pytest.raises(ValueError, match=r"'augment' parameter of MLPClassifier must be"):
        mlp(augment=2).fit(X, Y)


def test_save_load_clone_and_continue(tmp_path):
    model = fitted(mlp(augment=EVERYTHING), X, Y)
    assert clone(model).augment == EVERYTHING
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.augment == EVERYTHING
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    once_more = pickle.loads(pickle.dumps(model))
    for other in (loaded, once_more):
        other.partial_fit(X, Y)
    assert_same_model(loaded, once_more)
    assert fitted(mlp(augment=True), X, Y).get_params()["augment"] is True


def test_a_fit_that_is_small_but_for_its_images_is_compiled():
    assert explain(mlp(backend="auto", augment=False, max_iter=300, batch_size=300), X, Y).backend == "numpy"
    assert explain(mlp(backend="auto", max_iter=300, batch_size=300), X, Y).backend == "numba"


def test_explain_says_so():
    said = explain(mlp(), X, Y)
    assert "Every epoch trains on other images" in said.reason
    assert "Augment(translate=0.8" in said.reason
    assert "other images" not in explain(mlp(augment=False), X, Y).reason


WITHOUT_A_COMPILER = """
import numpy as np
from fastmnist.kernels import reference
from fastmnist.kernels.contract import JOBS
from fastmnist.kernels.cpu import simd, warping
from fastmnist.kernels.cpu.layout import warp_scratch
from fastmnist.network.augmentation import Augment

assert not simd.JIT
shape = (5, 18, 2)
augment = Augment(translate=2, rotate=20, scale=0.2, shear=10, flip=0.5, elastic_alpha=20, elastic_sigma=1, erase=1)
taps = augment.taps(5, 18).astype(np.float32)
source = np.random.default_rng(0).integers(0, 256, (3, 180)).astype(np.uint8)
rows, key = np.arange(3), np.array([7, 0], np.uint32)
params = {"height": 5, "width": 18, "channels": 2, "epoch": 0} | augment.params
for job, inputs in (("augment_images", (source, rows, rows, key, taps)), ("deskew_images", (source,))):
    arrays = (np.zeros_like(source), np.zeros(warp_scratch(*shape, len(taps)) + 64, np.float32), *inputs)
    dims = JOBS[job].bind_dims([a.shape for a in arrays])
    values = [params[name] for name in JOBS[job].params]
    with np.errstate(over="ignore"):
        getattr(warping, job)(*(a.reshape(-1) for a in arrays), *values, *dims.values(), 180, 180)
    oracle = np.zeros_like(source)
    getattr(reference, job)(oracle, *arrays[1:], *values)
    difference = np.abs(arrays[0].astype(int) - oracle)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01, job
    assert oracle.any()
    print(job)
"""


def test_the_kernels_without_a_compiler():
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", WITHOUT_A_COMPILER]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["augment_images", "deskew_images"]
