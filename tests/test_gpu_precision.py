"""Products on tensor cores, in TF32 and bf16: the kernels in the simulator, training, and the parameter `precision`. No GPU is needed."""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings

import numpy as np
import pytest
from cusim import compiler_missing, device, fake_cupy
from cusim.device import SimulatedDevice
from cusim.simulator import Module
from executor_cases import CASES, _data, _parameters, _spec, _train
from kernel_budget import run_reference
from kernel_cases import make_case, n_variants
from kernel_sizes import sizes
from sklearn.base import clone
from test_image_layers import CASES as IMAGE_CASES
from test_image_layers import _train as _train_images

from fastmnist import CNNClassifier, MLPClassifier, load_model
from fastmnist.backends import PRECISIONS, BackendUnavailable, gpu, gpu_probe
from fastmnist.backends.gpu import CupyExecutor
from fastmnist.kernels.gpu import FILES, Facts, convolution, launches, matmul, source, tiles
from fastmnist.kernels.gpu.source import LEAST_COMPUTE_CAPABILITY
from fastmnist.network.layers import Conv2D, Dense, Flatten
from fastmnist.network.optimizers import SGD

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)

REDUCED = ("tf32", "bf16")
BITS = {"tf32": 10, "bf16": 7}  # behind the leading one
TILES = [tile for precision in REDUCED for tile in tiles.in_precision(matmul.TILES, precision)]


def precision_of(tile):
    return tile.name.partition("_")[2]


def rounded(x, precision):
    """To the nearest number of the format: ties away from zero in TF32 (PTX's cvt.rna), to even in bf16 (cvt.rn)."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    scaled = np.ldexp(mantissa, BITS[precision] + 1)
    whole = np.rint(scaled) if precision == "bf16" else np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)
    return np.ldexp(whole, exponent - BITS[precision] - 1)


def multiply(tile, layout, a, b, c, *, facts=device.FACTS, reverse=False, **extras):
    """c = a b by one tile, a and b stored as the layout has it."""
    stored = [np.ascontiguousarray(x) for x in (a.T if layout == "tn" else a, b.T if layout == "nt" else b)]
    extras = {name: device.array(x) if isinstance(x, np.ndarray) else x for name, x in extras.items()}
    operands = [device.array(x) for x in (c, *stored)]
    for launch in matmul.product(facts, layout, *operands, a.shape[1], tile=tile, **extras):
        assert tile.name in launch.kernel or launch.kernel == "add_shares_kernel"
        device.run(launch, reverse=reverse)
    return c


# --- the tile ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: tile.name)
@pytest.mark.parametrize("layout", ["nn", "nt", "tn"])
def test_products_of_small_integers_are_exact(tile, layout):
    """Such factors need no rounding, so nothing excuses a wrong bit: every element has its own pair of row and column."""
    rng = np.random.default_rng(0)
    for m, n, k in ((tile.rows, tile.columns, 64), (tile.rows + 3, tile.columns + 5, 137), (1, 3, 1), (17, 9, 33)):
        a, b = rng.integers(-100, 100, (m, k)).astype("f"), rng.integers(-100, 100, (k, n)).astype("f")
        c = multiply(tile, layout, a, b, np.full((m, n), np.nan, "f"), reverse=k % 2 == 0)
        np.testing.assert_array_equal(c, a @ b)


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("layout", ["nn", "tn"])
def test_factors_are_rounded_to_nearest(precision, layout):
    tile = tiles.in_precision(matmul.TILES, precision)[-1]
    rng = np.random.default_rng(0)
    half = 2.0 ** -(BITS[precision] + 1)  # of the last bit: ties, and their neighbours
    special = np.array([1 + half, 1 + 3 * half, -1 - half, 1 + half * 1.01, 1 + half * 0.99, 3e38, 1e-30, 0], "f")
    x = np.concatenate([special, rng.standard_normal(56).astype("f")]).reshape(8, 8)
    c = multiply(tile, layout, x, np.eye(8, dtype="f"), np.empty((8, 8), "f"))
    np.testing.assert_array_equal(c, rounded(x, precision).astype("f"))
    assert (c != x).mean() > 0.8
    c = multiply(tile, layout, np.eye(8, dtype="f"), x, np.empty((8, 8), "f"))
    np.testing.assert_array_equal(c, rounded(x, precision).astype("f"))


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: tile.name)
def test_epilogue(tile):
    rng = np.random.default_rng(1)
    m, n, k = tile.rows + 3, tile.columns + 5, 2 * 64 + 9
    a, b, c, kept = (rng.integers(-9, 9, shape).astype("f") for shape in ((m, k), (k, n), (m, n), (m, n)))
    bias = rng.integers(-9, 9, n).astype("f")
    expected = np.where(kept > 0, np.maximum(a @ b + c + bias, 0), 0)
    layout = ("nn", "nt", "tn")[TILES.index(tile) % 3]
    multiply(tile, layout, a, b, c, bias=bias, kept=kept, flags=matmul.ADD | matmul.RELU)
    np.testing.assert_array_equal(c, expected)
    assert (c == 0).any() and (c > 0).any()


def test_infinity_and_nan_pass_through():
    for tile in TILES:
        a, b = np.ones((3, 8), "f"), np.ones((8, 3), "f")
        a[0, 0], a[1, 1] = np.inf, np.nan
        c = multiply(tile, "nn", a, b, np.zeros((3, 3), "f"))
        assert np.isposinf(c[0]).all() and np.isnan(c[1]).all() and (c[2] == 8).all()


# What the tests above must find: for each bug the line and what stands there instead.
BUGS = {
    "rows of a swapped with words": ("{upper.x, lower.x, upper.y, lower.y}", "{upper.x, upper.y, lower.x, lower.y}"),
    "a word of b read twice": ("factors[j][0] = pair.x;", "factors[j][0] = pair.y;"),
    "halves of c swapped": ("const bool odd = t % 2;", "const bool odd = group % 2;"),
    "not rounded": ("return cusim_tf32(x);", "return __float_as_uint(x);"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_kernel_is_found(bug):
    right, wrong = BUGS[bug]
    text = source("tensor_matmul")
    kernels = text.index('extern "C"')
    (kernel,) = re.findall(r'extern "C"[^}]*gemm_nn_small_tf32_kernel[^}]*}\n', text)
    text = text[:kernels] + kernel + "#endif\n"
    assert text.count(right) == 1
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((16, 64)).astype("f"), rng.standard_normal((64, 32)).astype("f"), np.zeros((16, 32), "f")  # fmt: skip
    tile = tiles.SHAPES["small_tf32"]
    (launch,) = matmul.product(device.FACTS, "nn", *map(device.array, (c, a, b)), 64, tile=tile)
    Module(text.replace(right, wrong)).launch(
        launch.kernel, launch.grid, launch.block, launch.arguments, shared=launch.shared
    )
    exact = rounded(a, "tf32") @ rounded(b, "tf32")
    assert not (np.abs(c - exact).max() <= 1e-3)
    np.testing.assert_allclose(multiply(tile, "nn", a, b, c), exact, atol=2e-5)


# --- ops, against float64 -----------------------------------------------------------------------------------------------------------------

PRODUCTS = ("linear", "linear_relu", "linear_dx", "linear_dx_add", "linear_dx_relu", "linear_dw", "linear_dw_add")
CONVOLUTIONS = ("conv2d", "conv2d_relu", "conv2d_dx", "conv2d_dw", "conv2d_dw_add")


def _run(op, case, facts, reverse=False):
    operands = [device.array(x) for x in case.arrays.values()]
    planned = launches(op, facts, operands, list(case.params.values()))
    for launch in planned:
        device.run(launch, reverse=reverse)
    return planned


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("op", PRODUCTS + CONVOLUTIONS)
def test_error_of_an_op_is_within_the_stated_budget(op, precision):
    """2^-BITS of the sum of the terms' magnitudes: two factors, each off by half a last bit; and float32's own rounding."""
    facts = dataclasses.replace(device.FACTS, precision=precision)
    unit, worst = 2.0 ** -BITS[precision], 0.0
    for k, dims in enumerate(list(sizes(op))[:: 3 if op in CONVOLUTIONS else 2]):
        rng = np.random.default_rng(k)
        case = make_case(op, dims, rng, strided=bool(k % 2), variant=k % n_variants(op))
        exact = run_reference(case, np.float64)
        for array in (before := {name: array.copy() for name, array in case.arrays.items()}).values():
            np.abs(array, out=array)
        sums = run_reference(dataclasses.replace(case, arrays=before), np.float64)
        planned = _run(op, case, facts, reverse=k % 3 == 1)
        assert all(precision in launch.kernel for launch in planned if launch.kernel != "add_shares_kernel")
        for name in case.out_names:
            error = np.abs(case.arrays[name] - exact[name])
            budget = 1.01 * unit * sums[name] + 1e-6 * np.maximum(sums[name], 1)
            assert not (error > budget).any(), (dims, error.max())
            worst = max(worst, float((error / (unit * sums[name] + 1e-30)).max(initial=0)))
    assert worst > 0.01, "nothing was rounded"


def test_sums_in_shares_are_those_of_one():
    """Integers: every order of adding them gives the same."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-5, 5, (20, 4096)).astype("f"), rng.integers(-5, 5, (4096, 30)).astype("f")
    facts = Facts(multiprocessors=1000, scratch=device.FACTS.scratch)
    for precision in REDUCED:
        tile = tiles.in_precision(matmul.TILES, precision)[-1]
        c = multiply(tile, "nn", a, b, np.empty((20, 30), "f"), facts=facts)
        np.testing.assert_array_equal(c, a @ b)


def test_tiles_are_chosen_by_precision():
    for precision in REDUCED:
        h200 = Facts(132, precision=precision)
        names = [matmul.choose_tile(h200, *shape).name for shape in ((4096, 4096), (1024, 784), (32, 128))]
        assert names == [f"{size}_{precision}" for size in ("large", "medium", "small")]
        names = [convolution.choose_tile(h200, *shape).name for shape in ((32 * 576, 64), (64, 120))]
        assert names == [f"{size}_{precision}" for size in ("medium", "small")]
    assert set(PRECISIONS) == set(tiles.PRECISIONS)


# --- training -----------------------------------------------------------------------------------------------------------------------------

# After 6 to 21 steps: how far parameters may be from float32's, relative to the way they came (root of the summed squares), and the mean
# loss. Adam divides by the gradient's size, so a gradient of almost 0 that rounding turns moves its weight as far as any other.
TRAINING_BUDGET = {"tf32": (0.1, 2e-3), "bf16": (0.25, 2e-2)}


def assert_agree(got, expected, start, losses, expected_losses, precision):
    of_way, of_losses = TRAINING_BUDGET[precision]
    np.testing.assert_allclose(losses, expected_losses, rtol=of_losses)
    error, way = (
        np.sqrt(sum(np.square(a - b, dtype=float).sum() for a, b in zip(got, other, strict=True)))
        for other in (expected, start)
    )
    assert error <= of_way * way
    assert error > 0, "it ran in float32"


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("name", ["momentum", "adamw, smoothing"])
def test_training_agrees_with_float32(name, precision):
    spec = CASES[name]
    runs = [CupyExecutor(spec, device=SimulatedDevice(), precision=p) for p in ("float32", precision, precision)]
    (expected, theirs), (got, ours), (again, _) = (_train(run, spec) for run in runs)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(got, again, strict=True)), "the same seed, other bits"
    losses, expected_losses = ([epoch.losses.mean() for epoch in epochs] for epochs in (ours, theirs))
    assert_agree(got, expected, _parameters(spec), losses, expected_losses, precision)


@pytest.mark.parametrize("precision", [pytest.param("tf32", marks=pytest.mark.long), "bf16"])
def test_training_of_images_agrees_with_float32(precision):
    spec = IMAGE_CASES["lenet"]
    runs = [CupyExecutor(spec, device=SimulatedDevice(), precision=p) for p in ("float32", precision)]
    (expected, theirs, _, start), (got, ours, _, _) = map(_train_images, runs)
    assert_agree(got, expected, start, np.mean(ours), np.mean(theirs), precision)


def test_parameters_stay_float32():
    """Steps far below bf16's last bit: parameters that were kept in it would not move."""
    spec = _spec(optimizer=SGD(), layers=(Dense(16, "relu"), Dense(5)))
    run = CupyExecutor(spec, device=SimulatedDevice(), precision="bf16")
    start = [p.astype(np.float32) for p in _parameters(spec)]
    X, y, _ = _data("dense float")
    run.bind(X, y)
    run.set_parameters(start)
    run.run_epoch(np.arange(len(X)), np.full(-(-len(X) // 50), 1e-5), 50)
    moved, weights = np.abs(run.get_parameters()[2] - start[2]), np.abs(start[2])
    assert (moved > 0).mean() > 0.5
    assert np.median(moved / weights) < 2.0**-10


# --- the parameter ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def offer(monkeypatch):
    """A function that offers a simulated GPU of a compute capability."""

    def with_compute_capability(*capability):
        monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())
        status = gpu_probe.GpuStatus("ok", True, "", "", "Fake GPU", capability, 1 << 30, (13, 0), 1, "cupy-cuda13x 14")
        monkeypatch.setattr(gpu_probe, "probe", lambda: status)
        gpu.open_device.cache_clear()
        return status

    yield with_compute_capability
    gpu.open_device.cache_clear()


def _mlp(**parameters):
    defaults = {"hidden_layer_sizes": (20,), "max_iter": 3, "batch_size": 50, "random_state": 0, "precision": "bf16"}
    return MLPClassifier(**(defaults | parameters))


def _images():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (150, 36)).astype(np.uint8)
    return X, X[:, :3].argmax(axis=1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("backend", ["auto", pytest.param("cupy", marks=pytest.mark.long)])
def test_estimators_train_save_and_load(offer, backend, tmp_path):
    offer(9, 0)
    X, y = _images()
    model = _mlp(backend=backend).fit(X, y)
    assert model.backend_ == "cupy" and clone(model).get_params()["precision"] == "bf16"
    if backend == "auto":
        assert model.backend_reason_ == "asked for by precision='bf16', which needs a GPU."
    assert model.coefs_[0].dtype == np.float32
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.precision == "bf16"
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    single = _mlp(backend="cupy", precision="float32").fit(X, y)
    difference = np.abs(model.predict_proba(X) - single.predict_proba(X)).max()
    assert 0 < difference < 0.02
    reduced = model.predict_proba(X)
    assert (reduced != model.set_params(precision="float32").predict_proba(X)).any()  # a new executor
    assert (model.set_params(precision="bf16").predict_proba(X) == reduced).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_loaded_model_predicts_without_a_gpu(offer, tmp_path, monkeypatch):
    offer(9, 0)
    X, y = _images()
    model = CNNClassifier((Conv2D(4, 3, activation="relu"), Flatten()), max_iter=1, random_state=0, precision="tf32")
    model.fit(X, y).save(tmp_path / "m.safetensors")
    expected = model.predict_proba(X)
    missing = gpu_probe.GpuStatus("no-driver", False, "there is none.", "Install it.")
    monkeypatch.setattr(gpu_probe, "probe", lambda: missing)
    np.testing.assert_allclose(load_model(tmp_path / "m.safetensors").predict_proba(X), expected, atol=2e-3)


def test_what_cannot_run_in_a_precision_says_so(offer):
    X, y = _images()
    for backend in ("numba", "numpy"):
        with pytest.raises(
            BackendUnavailable, match=rf"{backend}.*precision='bf16' .*tensor cores.*Use precision='float32'"
        ) as error:
            _mlp(backend=backend).fit(X, y)
        assert error.value.code == "precision"
    old = offer(7, 5)
    assert old.precisions == ("float32",) and "precisions float32." in old.summary
    for backend in ("auto", "cupy"):
        with pytest.raises(BackendUnavailable, match=r"compute capability 8\.0 .*Fake GPU, compute capability 7\.5"):
            _mlp(backend=backend).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert _mlp(backend="cupy", precision="float32").fit(X, y).backend_ == "cupy"
    with pytest.raises(ValueError, match=r"precision.*'float16'"):
        _mlp(precision="float16").fit(X, y)
    with pytest.raises(ValueError, match=r"precision needs mini-batches.*Leave precision at 'float32'"):
        _mlp(solver="lbfgs").fit(X, y)


def test_auto_without_a_gpu_says_what_is_missing(monkeypatch):
    missing = gpu_probe.GpuStatus("no-driver", False, "there is none.", "Install it.")
    monkeypatch.setattr(gpu_probe, "probe", lambda: missing)
    with pytest.raises(
        BackendUnavailable, match=r"there is none\. It was asked for by precision='tf32', which needs a GPU"
    ):
        _mlp(precision="tf32").fit(*_images())


def test_older_devices_get_no_such_kernel():
    assert set(LEAST_COMPUTE_CAPABILITY.values()) == {gpu_probe.TENSOR_COMPUTE_CAPABILITY}
    assert {file for file in FILES if file.startswith("tensor_")} == set(LEAST_COMPUTE_CAPABILITY)
    for file in LEAST_COMPUTE_CAPABILITY:
        assert source(file).startswith("#if defined(__CUSIM__) || __CUDA_ARCH__ >= 800\n")
