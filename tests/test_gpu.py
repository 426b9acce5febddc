"""The GPU backend on a real GPU: `pytest -m gpu`, part of bench/gpu_suite.sh. The same tests run, smaller, on a fake CuPy: they can't rot unseen."""

from functools import partial

import numpy as np
import pytest
from cusim import compiler_missing, fake_cupy
from executor_cases import CASES, _train
from kernel_budget import assert_within_budget
from kernel_cases import n_variants
from kernel_sizes import sizes
from test_augmentation import EVERYTHING, assert_same_images, augmented, some_images
from test_image_layers import CASES as IMAGE_CASES
from test_image_layers import _train as _train_images

import fastmnist
from fastmnist.backends import PRECISIONS, gpu, gpu_probe
from fastmnist.backends.gpu import CupyExecutor
from fastmnist.backends.gpu_memory import Bound
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.kernels import reference
from fastmnist.kernels.gpu import LAUNCHERS, Array, launches, matmul, tiles, warping
from fastmnist.network.initializers import initial_parameters
from fastmnist.network.layers import Dense
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    gpu.open_device.cache_clear()
    if request.param == "fake":
        if compiler_missing():
            pytest.skip(compiler_missing())
        fake_cupy.install(monkeypatch)
    else:
        status = gpu_probe.probe()
        assert status.usable, f"{status.reason} {status.remedy}"  # asked for by -m gpu: a GPU that is not there fails
    opened = gpu.open_device()
    opened.is_real = request.param == "real"
    yield opened
    gpu.open_device.cache_clear()


def caller(device):
    """A kernel as `assert_within_budget` calls it: whole buffers go up and come back, so that a write beside an operand is seen."""

    def call(op, *arrays, **params):
        owners, held, operands = {}, [], []
        for array in arrays:
            owner = array
            while owner.base is not None:
                owner = owner.base
            if id(owner) not in owners:
                buffer = device.allocate(owner.nbytes)
                device.upload(buffer.address, owner)
                owners[id(owner)] = (owner, buffer)
                held.append(buffer)
            owner, buffer = owners[id(owner)]
            offset = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
            ld = array.strides[0] // array.itemsize if array.ndim == 2 else 1
            operands.append(Array(buffer.address + offset, array.shape, ld, array.dtype.name))
        device.run(launches(op, device.facts, operands, list(params.values())))
        for owner, buffer in owners.values():
            device.download(owner, buffer.address)

    return call


def test_an_array_may_be_changed_after_its_upload(device):
    array = np.arange(1 << 20 if device.is_real else 9)
    expected, got, buffer = array.copy(), np.empty_like(array), device.allocate(array.nbytes)
    device.upload(buffer.address, array)
    array[:] = -1
    device.download(got, buffer.address)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("op", LAUNCHERS)
def test_kernel_against_the_oracle(device, op):
    chosen = list(sizes(op)) if device.is_real else list(sizes(op))[4:5]
    for k, dims in enumerate(chosen):
        for variant in range(n_variants(op)):
            assert_within_budget(caller(device), op, dims, strided=bool(k % 2), variant=variant)


@pytest.mark.parametrize("values", ["huge", "one_huge", "special"])
@pytest.mark.parametrize("op", [op for op in LAUNCHERS if op not in ("advance", "add")])
def test_kernel_on_unusual_values(device, op, values):
    chosen = list(sizes(op))[::-2] if device.is_real else list(sizes(op))[3:4]
    for k, dims in enumerate(chosen):
        assert_within_budget(caller(device), op, dims, values=values, strided=bool(k % 2))


ALL_TILES = [tile for precision in PRECISIONS for tile in tiles.in_precision(matmul.TILES, precision)]


@pytest.mark.parametrize("tile", ALL_TILES, ids=lambda tile: tile.name)
def test_large_products(device, tile, monkeypatch):
    monkeypatch.setattr(matmul, "choose_tile", lambda *_: tile)
    rng = np.random.default_rng(0)
    b, i, o = (1000, 784, 513) if device.is_real else (33, 40, 35)
    x, w, dy = (rng.standard_normal(shape).astype(np.float32) for shape in ((b, i), (i, o), (b, o)))
    y, dx, dw = np.empty((b, o), np.float32), np.empty((b, i), np.float32), np.empty((i, o), np.float32)
    gpu.call("linear", [y, x, w, np.zeros(o, np.float32)], device=device)
    gpu.call("linear_dx", [dx, dy, w], device=device)
    gpu.call("linear_dw", [dw, x, dy], device=device)
    for got, left, right in ((y, x, w), (dx, dy, w.T), (dw, x.T, dy)):
        exact = left.astype(np.float64) @ right
        error, numpys = np.abs(got - exact), np.abs(left @ right - exact).max()
        if tile in matmul.TILES:
            assert error.max() <= 8 * numpys + 1e-6
        else:  # half a last bit of each factor: as the docstring of `precision` has it
            unit = 2.0**-10 if "tf32" in tile.name else 2.0**-7
            assert 1e-3 * unit < (error / (np.abs(left) @ np.abs(right))).max() <= 1.01 * unit


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_reduced_precision_trains_alike(device, precision):
    """As test_gpu_precision.py has it in the simulator; twice the same bits."""
    spec = CASES["momentum"]
    single, first, second = (_train(CupyExecutor(spec, precision=p), spec) for p in ("float32", precision, precision))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first[0], second[0], strict=True))
    for a, b in zip(first[1], single[1], strict=True):
        np.testing.assert_allclose(a.losses.mean(), b.losses.mean(), rtol=2e-2)
        assert a.losses.tobytes() != b.losses.tobytes()


@pytest.mark.parametrize("name", [name for name in CASES if name != "softmax twice"])  # refused: NOT_ON_GPU
def test_training_follows_the_float64_oracle(device, name):
    spec = CASES[name]
    epochs = 3 if device.is_real else 1
    expected, theirs = _train(ReferenceExecutor(spec, dtype=np.float64), spec, weighted=True, epochs=epochs)
    for persistent in (
        (None, False) if device.is_real else (False,)
    ):  # one launch an epoch: below, and test_gpu_persistent.py
        got, ours = _train(CupyExecutor(spec, persistent=persistent), spec, weighted=True, epochs=epochs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.losses, b.losses, rtol=2e-3, atol=2e-5)
        for a, b in zip(got, expected, strict=True):
            assert not (np.abs(a - b).max() > 3e-4 * max(1, np.abs(b).max()))


def test_one_launch_an_epoch_gives_the_numbers_of_single_launches(device):
    X, y = fastmnist.load_mnist("train", return_X_y=True)
    n, units = (20_000, 128) if device.is_real else (70, 12)
    spec = Spec(784, (Dense(units, "relu"), Dense(units // 2, "relu"), Dense(10)), optimizer=Adam())
    start = initial_parameters(spec, np.random.default_rng(0), np.float32)
    results = []
    for persistent in (None, None, False):
        run = CupyExecutor(spec, persistent=persistent)
        run.bind(X[:n], y[:n].astype(np.int32), pixel_scale=1 / 255)
        run.set_parameters(start)
        epoch = run.run_epoch(np.random.default_rng(0).permutation(n), np.full(-(-n // 32), 1e-3), 32)
        assert run.one_launch_an_epoch == (persistent is None)
        results.append((epoch.losses, run.get_parameters()))
    (losses, parameters), (again, others), (single_losses, _) = results
    assert losses.tobytes() == again.tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(parameters, others, strict=True))
    np.testing.assert_allclose(losses[:64], single_losses[:64], rtol=1e-4)  # before rounding has grown by learning
    assert losses.mean() == pytest.approx(single_losses.mean(), rel=1e-2)


def test_image_layers_follow_the_float64_oracle(device):
    for name in IMAGE_CASES if device.is_real else ["batch normalisation"]:  # the others: test_gpu_executor.py
        spec = IMAGE_CASES[name]
        expected, theirs, _, _ = _train_images(ReferenceExecutor(spec, dtype=np.float64))
        got, ours, _, _ = _train_images(CupyExecutor(spec))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5, err_msg=name)
        for a, b in zip(got, expected, strict=True):
            assert not (np.abs(a - b).max() > 3e-4 * max(1, np.abs(b).max())), name


def test_long_sums_of_convolutions(device):
    """Sums that a device cuts into shares: LeNet's first layer, whose filters see every pixel of the batch."""
    images, side, filters = (256, 28, 6) if device.is_real else (5, 28, 6)
    rng, out = np.random.default_rng(0), side - 4
    x = rng.standard_normal((images, side * side)).astype(np.float32)
    dy = rng.standard_normal((images, out * out * filters)).astype(np.float32)
    results = []
    for run in (partial(gpu.call, device=device), None):
        dw, db, moments = (np.zeros(shape, np.float32) for shape in ((25, filters), filters, (2, filters)))
        window = [side, side, 1, 5, 5, 1]
        if run is None:
            dw, db, moments = (a.astype(np.float64) for a in (dw, db, moments))
            reference.conv2d_dw(dw, x.astype(np.float64), dy.astype(np.float64), *window)
            reference.conv2d_db(db, dy.astype(np.float64))
            reference.batch_moments(moments, dy.astype(np.float64))
        else:
            run("conv2d_dw", [dw, x, dy], window)
            run("conv2d_db", [db, dy])
            run("batch_moments", [moments, dy])
        results.append((dw, db, moments))
    for ours, exact in zip(*results, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=2e-5, atol=2e-6 * images * out * out)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_images_changed_at_random_are_the_cpu_s(device, dtype):
    """Nothing of the oracle's: sines of float64 may differ in their last place, which moves a pixel's place by a rounding of float32 at most."""
    n, shape = (20_000, (28, 28, 1)) if device.is_real else (5, (9, 8, 2))
    source, rows = some_images(shape, n, dtype), np.arange(n)
    taps = EVERYTHING.taps(*shape[:2]).astype(np.float32)
    scratch = np.zeros(warping.scratch_size(device.facts, n, *shape[:2], len(taps)), np.float32)
    images, key = np.zeros_like(source), np.array([7, 0], np.uint32)
    own = Bound(device)
    own.put(images=images, scratch=scratch, source=source, rows=rows, numbers=rows, key=key, taps=taps)
    params = dict(zip(("height", "width", "channels"), map(float, shape), strict=True)) | EVERYTHING.params
    device.run(warping.augment_images(device.facts, *own.arrays.values(), epoch=3, **params))
    own.get("images", images)
    assert_same_images(images, augmented(source, shape, EVERYTHING, epoch=3, key=key))


def test_lbfgs_on_the_device_reaches_the_host_s_minimum(device):
    X, y = fastmnist.load_mnist("train", return_X_y=True)
    n = 10_000 if device.is_real else 100
    X = X if device.is_real else X[:, 300:500:10]
    make = dict(max_iter=500, tol=1e-4, C=0.01, random_state=0)
    for model in (fastmnist.LogisticRegression, fastmnist.OneVsRestLogisticRegression):
        theirs, ours = (model(**make, backend=backend).fit(X[:n], y[:n]) for backend in ("numpy", "cupy"))
        assert ours.loss_curve_[-1] == pytest.approx(theirs.loss_curve_[-1], rel=1e-4)
        assert (ours.predict(X[:n]) == theirs.predict(X[:n])).mean() >= 0.99
        assert ours.n_iter_.max() <= 1.3 * theirs.n_iter_.max() + 3


def test_same_seed_same_bits(device):
    spec = CASES["dropout"]
    first, second = (_train(CupyExecutor(spec), spec, epochs=2)[0] for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def test_graphs_give_the_bits_of_plain_launches(device, monkeypatch):
    spec = CASES["nesterov, l2"]
    replayed, _ = _train(CupyExecutor(spec, persistent=False), spec, batch=10, epochs=2)

    class Plain:
        def __init__(self, launches):
            self.launches = launches

        def replay(self):
            device.run(self.launches)

    monkeypatch.setattr(type(device), "record", lambda self, launches: Plain(launches))
    plain, _ = _train(CupyExecutor(spec, persistent=False), spec, batch=10, epochs=2)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(replayed, plain, strict=True))


def test_estimators_agree_with_the_cpu(device):
    X, y = fastmnist.load_mnist("train", return_X_y=True)
    n = 20_000 if device.is_real else 300
    X, y, X_test, y_test = X[:n], y[:n], X[-n // 4 :], y[-n // 4 :]
    make = dict(hidden_layer_sizes=(64,), batch_size=50, max_iter=3 if device.is_real else 1, random_state=0)
    for augment in (False, True):
        theirs = fastmnist.MLPClassifier(**make, augment=augment, backend="numpy").fit(X, y)
        ours = fastmnist.MLPClassifier(**make, augment=augment, backend="cupy").fit(X, y)
        assert_agree(ours, theirs, X_test, y_test)


def assert_agree(ours, theirs, X_test, y_test):
    assert abs(ours.score(X_test, y_test) - theirs.score(X_test, y_test)) <= 0.01
    assert (ours.predict(X_test) == theirs.predict(X_test)).mean() >= 0.97
