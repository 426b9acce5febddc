"""Images that the GPU changes at random: those of the CPU. In the simulator, and on the fake of CuPy; on a GPU: test_gpu.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from cusim import compiler_missing, device, fake_cupy
from test_augmentation import (
    EVERYTHING,
    GENTLE,
    KEY,
    SHAPES,
    X,
    Y,
    assert_same_images,
    assert_same_model,
    augmented,
    cnn,
    fitted,
    mlp,
    some_images,
)

from fastmnist import Augment
from fastmnist.backends import BackendUnavailable, gpu
from fastmnist.kernels.gpu import warping
from fastmnist.network.augmentation import FOR_DIGITS

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)


def on_gpu(source, shape, augment, *, rows, numbers, epoch=0, key=KEY, at_once=None, mode="plain", reverse=False):
    """As `augmented`, by the CUDA kernel; `at_once` images at most."""
    wide, taps = (
        np.full((len(rows), source.shape[1] + 3), 77, source.dtype),
        augment.taps(*shape[:2]).astype(np.float32),
    )
    images = wide[:, : source.shape[1]]
    size = warping.scratch_size(device.FACTS, at_once or len(rows), *shape[:2], len(taps))
    arrays = images, np.full(size, np.nan, np.float32), source, rows, numbers, key, taps
    params = dict(zip(("height", "width", "channels"), map(float, shape), strict=True)) | augment.params
    for launch in warping.augment_images(device.FACTS, *map(device.array, arrays), epoch=epoch, **params):
        device.run(launch, mode=mode, reverse=reverse)
    assert (wide[:, source.shape[1] :] == 77).all()
    return images


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_are_the_cpu_s_to_the_bit(shape, dtype, mode="plain", reverse=True):
    """A GPU's sines may differ in their last bit, the simulator's are the CPU's. More images than blocks: some make two."""
    source, rng = some_images(shape, dtype=dtype), np.random.default_rng(1)
    rows, numbers = rng.integers(0, len(source), 40), rng.integers(0, 2**40, 40)
    for augment in (FOR_DIGITS, EVERYTHING):
        settings = {"rows": rows, "numbers": numbers, "epoch": 3}
        ours = on_gpu(source, shape, augment, **settings, mode=mode, reverse=reverse)
        assert ours.tobytes() == augmented(source, shape, augment, **settings).tobytes()
        assert_same_images(ours, augmented(source, shape, augment, **settings, backend="numpy"))
        assert not np.array_equal(ours, source[rows])


def test_noise_of_few_images_at_a_time():
    shape, rows = (9, 7, 1), np.arange(12)
    source, elastic = some_images(shape), Augment(elastic_alpha=34)
    settings = {"rows": rows, "numbers": rows}
    expected = augmented(source, shape, elastic)
    for at_once in (1, 5, 12):
        np.testing.assert_array_equal(on_gpu(source, shape, elastic, **settings, at_once=at_once), expected)
    one = warping.scratch_size(device.FACTS, 1, *shape[:2], 3)
    assert warping.scratch_size(device.FACTS, 12, *shape[:2], 3) == 12 * one
    assert warping.scratch_size(device.FACTS, 10**6, *shape[:2], 3) == 8 * device.FACTS.multiprocessors * one
    assert warping.scratch_size(device.FACTS, 10**6, *shape[:2], 0) == 0
    most = warping.scratch_size(replace(device.FACTS, multiprocessors=132), 10**6, 224, 224, 3)
    assert 0.9 * warping.SCRATCH_BYTES < 4 * most <= warping.SCRATCH_BYTES
    assert on_gpu(source, shape, elastic, rows=rows[:0], numbers=rows[:0]).shape == (0, 63)


def test_images_that_the_kernel_cannot_count_are_refused():
    huge = replace(device.array(np.empty((1, 1), np.uint8)), shape=(1, 1 << 30))
    others = [device.array(np.zeros(0, np.float32)) for _ in range(6)]
    sizes = {"height": 1 << 15, "width": 1 << 15, "channels": 1, "epoch": 0}
    with pytest.raises(OverflowError, match="32768 x 32768 x 1; the kernel counts in 32 bits"):
        warping.augment_images(device.FACTS, huge, *others, **sizes, **FOR_DIGITS.params)


# --- training ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch):
    gpu.open_device.cache_clear()
    fake_cupy.install(monkeypatch)
    yield
    gpu.open_device.cache_clear()


def assert_trained_alike(ours, theirs):
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-5)
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("make", [mlp, cnn])
@pytest.mark.parametrize(
    "settings",
    [{}, {"augment": EVERYTHING, "ema_decay": 0.9}, {"max_memory": 4 * 64 * 60, "early_stopping": True}],
    ids=["gentle", "everything, averaged", "windows, early stopping"],
)
def test_training_is_the_cpu_s(fake, make, settings):
    theirs, ours = (fitted(make(backend=backend, **settings), X[:150], Y[:150]) for backend in ("numba", "cupy"))
    assert_trained_alike(ours, theirs)
    assert (ours.predict(X) == theirs.predict(X)).mean() > 0.98
    assert "of the GPU's memory: Augment(" in ours.backend_reason_
    plain = fitted(make(backend="cupy", **settings | {"augment": False}), X[:150], Y[:150])
    assert plain.loss_curve_ != ours.loss_curve_


def test_originals_may_lie_on_the_gpu_or_come_in_windows(fake):
    images, labels = X[:150], Y[:150]
    ours = fitted(mlp(backend="cupy"), images, labels)
    assert_same_model(fitted(mlp(backend="cupy"), fake_cupy.ndarray(images), labels), ours)
    assert_same_model(fitted(mlp(backend="cupy"), scipy.sparse.csr_array(images), labels), ours)
    held = {"early_stopping": True, "validation_fraction": 0.3}
    resident = fitted(mlp(backend="cupy", **held), fake_cupy.ndarray(images), fake_cupy.ndarray(labels))
    assert_same_model(resident, fitted(mlp(backend="cupy", **held), images, labels))


def test_what_does_not_change_is_uploaded_once(fake, monkeypatch):
    bound, bind = [], gpu.CupyExecutor.bind

    def watched(self, X, *others, **settings):
        bound.append(len(X))
        bind(self, X, *others, **settings)

    monkeypatch.setattr(gpu.CupyExecutor, "bind", watched)
    fitted(mlp(backend="cupy", max_iter=4), X[:150], Y[:150])
    assert bound == [150, 1]  # a fitted model lets go of its data
    bound.clear()
    fitted(mlp(backend="cupy", max_iter=4, max_memory=4 * 64 * 60), X[:150], Y[:150])
    assert len(bound) > 2 * 4 and max(bound) < 150, bound  # windows of every epoch


def test_epochs_go_on_where_the_last_fit_stopped(fake):
    still = {"learning_rate_init": 1e-30, "solver": "sgd", "n_iter_no_change": np.inf, "shuffle": False}
    losses = fitted(mlp(backend="cupy", max_iter=3, **still), X, Y).loss_curve_
    assert len(set(losses)) == 3
    step_by_step = mlp(backend="cupy", **still)
    for _ in range(3):
        step_by_step.partial_fit(X, Y, classes=[0, 1, 2])
    assert step_by_step.loss_curve_ == losses


def test_memory_of_the_images_is_planned(fake):
    model = mlp(augment=False)
    parts = {}
    for augment in (False, GENTLE, Augment(translate=1)):
        model.set_params(augment=augment)
        model._set_classes(np.arange(3))
        model.n_features_in_ = 64
        parts[augment] = model._memory_plan(model._spec(), X).parts["augmented images"]
    assert parts == {False: 0, Augment(translate=1): X.nbytes, GENTLE: X.nbytes + warping.SCRATCH_BYTES}


def test_a_fit_whose_images_have_no_room_is_refused(fake, monkeypatch):
    # The data set alone would fit.
    monkeypatch.setattr(type(gpu.open_device()), "free_memory", lambda self: (64 << 20) + 3 * X.nbytes + 300_000)
    fitted(mlp(backend="cupy", augment=False), X, Y)
    with pytest.raises(BackendUnavailable, match=r"augmented images 64.0 MiB"):
        mlp(backend="cupy").fit(X, Y)
