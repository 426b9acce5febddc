"""X and y that lie on the GPU are read there: CuPy's arrays, DLPack tensors and others, over a strict fake of CuPy; no GPU is needed."""

import warnings
from functools import partial

import numpy as np
import pytest
from cusim import compiler_missing, fake_cupy

import fastmnist
from fastmnist import backends
from fastmnist.backends import gpu

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)

ROWS, FEATURES = 300, 36


class Tensor:
    """A tensor of a library that speaks DLPack, such as PyTorch: nothing else of it is known."""

    def __init__(self, array, kind=2, index=0):
        self._array, self._place = array, (kind, index)

    def __dlpack_device__(self):
        return self._place

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)


class Interface:
    """An array of a library that has `__cuda_array_interface__` only, such as Numba."""

    def __init__(self, array):
        self.owner = array

    @property
    def __cuda_array_interface__(self):
        return self.owner.__cuda_array_interface__


WAYS = {"cupy": lambda a: a, "dlpack": Tensor, "interface": Interface}


@pytest.fixture
def device(monkeypatch):
    fake_cupy.install(monkeypatch)
    gpu.open_device.cache_clear()
    yield gpu.open_device()
    gpu.open_device.cache_clear()


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (ROWS, FEATURES)).astype(np.uint8)
    return X, X[:, :3].argmax(axis=1).astype(np.int64) * 7


@pytest.fixture
def traffic(device, monkeypatch):
    """The bytes of each copy between host and device, each way."""
    sizes = {"up": [0], "down": [0]}
    for name, way, at in (("upload", "up", 1), ("download", "down", 0)):
        plain = getattr(device, name)

        def counted(*arguments, plain=plain, way=way, at=at):
            sizes[way].append(arguments[at].nbytes)
            return plain(*arguments)

        monkeypatch.setattr(device, name, counted)
    return sizes


def fitted(make, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged: so few iterations
        return make().fit(*arguments, **options)


MODELS = {
    "mlp": partial(fastmnist.MLPClassifier, (9,), max_iter=3, batch_size=50, random_state=0),
    "early stopping": partial(
        fastmnist.MLPClassifier,
        (9,),
        max_iter=3,
        batch_size=50,
        early_stopping=True,
        class_weight="balanced",
        random_state=0,
    ),
    "softmax": partial(fastmnist.LogisticRegression, max_iter=8),
    "one-vs-rest": partial(fastmnist.OneVsRestLogisticRegression, max_iter=8),
    "sgd": partial(fastmnist.LogisticRegression, solver="sgd", max_iter=2, random_state=0),
}


@pytest.mark.parametrize("model", MODELS)
def test_what_lies_on_the_device_gives_the_bits_of_what_is_uploaded(device, data, model):
    X, y = data
    make = MODELS[model]
    theirs = fitted(partial(make, backend="cupy"), X, y)
    X_, y_ = fake_cupy.ndarray(X), fake_cupy.ndarray(y)
    ours = fitted(partial(make, backend="auto"), X_, y_)
    assert ours.backend_ == "cupy" and "X lies on the GPU" in ours.backend_reason_
    assert ours.classes_.tolist() == [0, 7, 14] and ours.classes_.dtype == y.dtype
    for a, b in zip(ours._parameters(), theirs._parameters(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(ours.predict_proba(X_), theirs.predict_proba(X))
    np.testing.assert_array_equal(ours.predict(X_), theirs.predict(X))
    assert ours.score(X_, y_) == ours.score(X, y) == pytest.approx(np.mean(theirs.predict(X) == y))
    weight = np.arange(ROWS) + 1.0
    expected = np.average(theirs.predict(X) == y, weights=weight)
    assert ours.score(X_, y_, fake_cupy.ndarray(weight)) == pytest.approx(expected, rel=1e-6)
    if model in ("softmax", "one-vs-rest"):
        np.testing.assert_allclose(ours.decision_function(X_), theirs.decision_function(X), atol=2e-5)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_waits_for_the_writer_and_moves_no_rows(device, data, traffic, way):
    X, y = data
    before = fake_cupy._STREAM.waited
    X_, y_ = (WAYS[way](fake_cupy.ndarray(a)) for a in (X, y.astype(np.int32)))
    model = fitted(MODELS["mlp"], X_, y_, validation_data=(X_, y_))
    assert fake_cupy._STREAM.waited >= before + 2
    # Nothing as large as X, or as large as y in 64 bits, but the order of an epoch and the table of classes.
    assert X.nbytes not in traffic["up"] + traffic["down"] and max(traffic["up"] + traffic["down"]) <= 16_400
    traffic.update(up=[], down=[])
    predicted = model.predict(X_)
    assert max(set(traffic["down"]) - {6144}) == 4 * ROWS  # labels, no probabilities; 6 KB are the range of X
    traffic["down"] = []
    accuracy = model.score(X_, y_)
    assert (
        set(traffic["down"]) == {6144, 16_388, 32}
        and accuracy == np.mean(predicted == y) == model.history_["val_accuracy"][-1]
    )


def test_two_classes_and_float_rows(device, data):
    X, y = data
    X, y = (X / 255).astype(np.float32), (y > 0).astype(np.uint8)
    theirs, ours = (
        fitted(MODELS["mlp"], a, b) if a is not X else fitted(partial(MODELS["mlp"], backend="cupy"), a, b)
        for a, b in ((X, y), (fake_cupy.ndarray(X), fake_cupy.ndarray(y)))
    )
    np.testing.assert_array_equal(ours.coefs_[0], theirs.coefs_[0])
    assert ours.score(fake_cupy.ndarray(X), fake_cupy.ndarray(y)) == theirs.score(X, y)
    continued = ours.partial_fit(fake_cupy.ndarray(X), fake_cupy.ndarray(y)).partial_fit(X, y)
    assert continued.n_iter_ == 1


def test_labels_that_the_device_cannot_tell_apart_are_downloaded(device, data):
    X, y = data
    for labels in (y * 1000 - 5, y.astype(np.float32), y.astype(np.int16)):
        model = fitted(MODELS["sgd"], fake_cupy.ndarray(X), fake_cupy.ndarray(labels))
        np.testing.assert_array_equal(model.classes_, np.unique(labels))
        accuracy = np.mean(model.predict(X) == labels)
        assert model.score(fake_cupy.ndarray(X), fake_cupy.ndarray(labels)) == pytest.approx(accuracy)
    unknown = np.where(np.arange(ROWS) % 2, labels, 99).astype(np.int16)
    assert model.score(X, unknown) == pytest.approx(np.mean(model.predict(X) == unknown))


def test_images_on_the_device(device, data):
    X, y = data
    make = partial(fastmnist.CNNClassifier, [fastmnist.Conv2D(2, 3), fastmnist.Flatten()], max_iter=1, random_state=0)
    images = X.reshape(ROWS, 6, 6)[:60]
    theirs = fitted(partial(make, backend="cupy", batch_size=20), images, y[:60])
    ours = fitted(partial(make, batch_size=20), fake_cupy.ndarray(images), fake_cupy.ndarray(y[:60]))
    np.testing.assert_array_equal(ours.predict_proba(fake_cupy.ndarray(images)), theirs.predict_proba(images))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 3)), r"must be uint8 or float32; got float64. Convert it there"),
        (np.asfortranarray(np.zeros((4, 3), np.float32)), r"must be C-contiguous.*cupy.ascontiguousarray\(X\)"),
        (np.full((4, 3), np.nan, np.float32), r"contains NaN or infinity: 12 values"),
        (np.zeros(4, np.float32), r"Expected 2D array.*got shape \(4,\)"),
        (np.zeros((0, 3), np.float32), r"Found array with 0 sample"),
        (np.zeros((4, 3, 3), np.float32), r"Found array with dim 3.*use CNNClassifier"),
        (np.zeros((5, 3), np.float32), r"inconsistent numbers of samples: \[5, 4\]"),
    ],
)
def test_what_kernels_cannot_read_is_refused(device, array, message):
    with pytest.raises(ValueError, match=message):
        fastmnist.MLPClassifier((3,)).fit(fake_cupy.ndarray(array), fake_cupy.ndarray(np.array([0, 1, 0, 1])))


def test_other_devices_are_refused(device, data):
    X, y = data
    with pytest.raises(
        ValueError, match=r"lies on CUDA device 1; this process computes on device 0.*CUDA_VISIBLE_DEVICES=1"
    ):
        fastmnist.MLPClassifier((3,)).fit(fake_cupy.ndarray(X, device=1), y)
    with pytest.raises(ValueError, match=r"host's memory or on a CUDA device.*DLPack's type 10"):
        fastmnist.MLPClassifier((3,)).fit(Tensor(X, kind=10), y)
    with pytest.raises(ValueError, match="cannot be shared with CuPy"):
        fastmnist.MLPClassifier((3,)).fit(Tensor(X), y)  # says that it is on the device, and is not


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_backend_of_the_cpu_says_what_to_do(device, data, backend, monkeypatch):
    X, y = data
    message = rf"lies on the GPU, and backend='{backend}' computes on the CPU: .*X.get\(\).*or set backend='cupy'"
    model = fastmnist.MLPClassifier((3,), max_iter=1, backend=backend)
    for rows, labels in ((fake_cupy.ndarray(X), y), (X, fake_cupy.ndarray(y))):
        with pytest.raises(ValueError, match=message):
            model.fit(rows, labels)
    with pytest.raises(ValueError, match=message):
        fitted(partial(fastmnist.MLPClassifier, (3,), max_iter=1, backend=backend), X, y).predict(fake_cupy.ndarray(X))
    monkeypatch.setenv(backends.DEFAULT_VARIABLE, backend)
    with pytest.raises(ValueError, match=message):
        fastmnist.LogisticRegression().fit(fake_cupy.ndarray(X), y)
    with pytest.raises(ValueError, match="RandomForestClassifier runs on the CPU only"):
        fastmnist.RandomForestClassifier().fit(fake_cupy.ndarray(X), y)


def test_tensors_of_the_host_are_read_where_they_lie(data):
    X, y = data
    make = partial(MODELS["mlp"], backend="numpy")
    theirs, ours = fitted(make, X, y), fitted(make, Tensor(X, kind=1), Tensor(y, kind=1))
    np.testing.assert_array_equal(ours.predict_proba(Tensor(X, kind=1)), theirs.predict_proba(X))
    assert ours.score(Tensor(X, kind=1), Tensor(y, kind=1)) == theirs.score(X, y)

    class Refusing(Tensor):
        def __dlpack__(self, **options):
            raise BufferError("it needs a gradient.")

    with pytest.raises(ValueError, match=r"cannot be read through DLPack: it needs a gradient. Pass a NumPy array"):
        make().fit(Refusing(X, kind=1), y)


def test_a_model_does_not_keep_its_input_alive(device, data):
    import gc
    import weakref

    X_, y_ = map(fake_cupy.ndarray, data)
    model = fitted(MODELS["mlp"], X_, y_)
    model.predict(X_)
    alive = weakref.ref(X_), weakref.ref(y_)
    del X_, y_
    gc.collect()
    assert alive[0]() is None and alive[1]() is None and hasattr(model, "coefs_")
