"""The CUDA kernels against the oracle, in the simulator: no GPU is needed. Races and addresses: test_gpu_modes.py."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cusim import compiler_missing, device
from kernel_budget import assert_within_budget
from kernel_cases import IN_PLACE, VALUES, make_case, n_variants
from kernel_sizes import UGLY_MATRICES, sizes

from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT, JOBS
from fastmnist.kernels.gpu import (
    FILES,
    JOB_LAUNCHERS,
    JOBS_NOT_ON_GPU,
    LAUNCHERS,
    NOT_ON_GPU,
    Array,
    Facts,
    Launch,
    channels,
    convolution,
    launches,
    matmul,
    source,
    tiles,
)
from fastmnist.kernels.gpu.source import kernels

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)

TESTS = Path(__file__).parent
call, call_reversed = device.call, partial(device.call, reverse=True)


def test_every_op_of_the_contract_is_on_the_gpu_or_says_why_not():
    assert set(LAUNCHERS) | set(NOT_ON_GPU) == set(CONTRACT), "see launch.py, NOT_ON_GPU"
    assert not set(LAUNCHERS) & set(NOT_ON_GPU)
    assert sorted((*JOB_LAUNCHERS, *JOBS_NOT_ON_GPU)) == sorted(JOBS)


@pytest.mark.parametrize("op", LAUNCHERS)
def test_kernel_at_ugly_sizes(op):
    for k, dims in enumerate(sizes(op)):
        for variant in range(n_variants(op)):
            run = call_reversed if k % 3 == 1 else call
            assert_within_budget(run, op, dims, strided=bool(k % 2), variant=variant)


@pytest.mark.parametrize("values", [v for v in VALUES if v != "normal"])
@pytest.mark.parametrize("op", LAUNCHERS)
def test_kernel_on_unusual_values(op, values):
    for k, dims in enumerate(list(sizes(op))[::-3]):
        assert_within_budget(call, op, dims, values=values, strided=bool(k % 2), variant=k % n_variants(op))


@pytest.mark.parametrize("op", [op for op in IN_PLACE if op in LAUNCHERS])
def test_kernel_in_place(op):
    for rows, columns in UGLY_MATRICES[::2]:
        dims = dict(zip(CONTRACT[op].dims, (rows, columns), strict=True))
        assert_within_budget(call, op, dims, in_place=True, strided=columns % 2 == 0)


# --- products: every tile, every layout, every epilogue -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", matmul.TILES, ids=lambda tile: tile.name)
@pytest.mark.parametrize("op", ["linear", "linear_dx", "linear_dw", "linear_dw_add"])
def test_product_with_every_tile(tile, op, monkeypatch):
    monkeypatch.setattr(matmul, "choose_tile", lambda *_: tile)
    rows, columns = tile.rows, tile.columns
    for b, i, o in ((rows, 33, columns), (rows + 1, 8, columns + 4), (rows - 1, 130, 3), (5, columns + 1, 70)):
        run = call_reversed if b == rows else call
        assert_within_budget(run, op, {"B": b, "I": i, "O": o}, strided=b == 5)


@pytest.mark.parametrize("tile", matmul.TILES, ids=lambda tile: tile.name)
@pytest.mark.parametrize("layout", ["nn", "nt", "tn"])
def test_epilogue_of_a_product(tile, layout):
    rng = np.random.default_rng(0)
    m, n, k = tile.rows + 3, tile.columns + 5, 2 * 64 + 9
    a, b, c, kept = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n), (m, n), (m, n)))
    bias = rng.standard_normal(n).astype(np.float32)
    expected = np.where(kept > 0, np.maximum(a.astype(float) @ b + c + bias, 0), 0)
    stored = [np.ascontiguousarray(x) for x in (a.T if layout == "tn" else a, b.T if layout == "nt" else b)]
    arrays = [device.array(x) for x in (c, *stored)]
    extras = {"bias": device.array(bias), "kept": device.array(kept)}
    (launch,) = matmul.product(device.FACTS, layout, *arrays, k, flags=matmul.ADD | matmul.RELU, tile=tile, **extras)
    device.run(launch)
    np.testing.assert_allclose(c, expected, atol=1e-4)
    assert (c == 0).any() and (c > 0).any()


def test_tiles_are_chosen_by_the_number_of_blocks():
    assert [tile.name for tile in matmul.TILES] == ["large", "medium", "small"]
    h200 = Facts(multiprocessors=132)
    chosen = {
        shape: matmul.choose_tile(h200, *shape).name for shape in ((4096, 4096), (1024, 784), (32, 128), (784, 128))
    }
    assert chosen == {(4096, 4096): "large", (1024, 784): "medium", (32, 128): "small", (784, 128): "small"}


def test_bits_of_a_product_do_not_depend_on_the_order_of_blocks():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((40, 784)).astype(np.float32), rng.standard_normal((784, 130)).astype(np.float32)
    forward, backward = np.empty((40, 130), np.float32), np.empty((40, 130), np.float32)
    call("linear", forward, x, w, np.zeros(130, np.float32))
    call_reversed("linear", backward, x, w, np.zeros(130, np.float32))
    assert forward.tobytes() == backward.tobytes()


# --- convolutions: every tile; sums in shares ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "tile"),
    [
        *((op, tile) for op in ("conv2d", "conv2d_dx") for tile in convolution.IMAGE_TILES),
        *(("conv2d_dw_add", tile) for tile in convolution.FILTER_TILES),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_convolution_with_every_tile(op, tile, monkeypatch):
    monkeypatch.setattr(convolution, "choose_tile", lambda *_: tile)
    for k, dims in enumerate(list(sizes(op))[2::2]):
        assert_within_budget(call_reversed if k % 2 else call, op, dims, strided=bool(k % 3))
        assert_within_budget(call, op, dims, values="special")


@pytest.mark.parametrize("op", ["conv2d", "conv2d_relu", "conv2d_dx"])
def test_images_with_more_rows_than_a_grid(op, monkeypatch):
    """A batch of thousands of images takes several launches: the same bits."""
    two_images = list(sizes(op))[5]  # each has more pixels than a block of any tile has rows, or nearly
    case = make_case(op, two_images, np.random.default_rng(0), strided=True)
    operands, result = [device.array(a) for a in case.arrays.values()], case.arrays[case.out_names[0]]
    results = []
    for most in (convolution.MOST_BLOCKS, 1):
        monkeypatch.setattr(convolution, "MOST_BLOCKS", most)
        made = launches(op, device.FACTS, operands, list(case.params.values()))
        result[...] = np.nan
        for launch in made:
            device.run(launch)
        results.append((len(made), result.copy()))
    (one, whole), (several, parts) = results
    assert one == 1 < several and np.isfinite(whole).all()
    assert whole.tobytes() == parts.tobytes()


def test_a_grid_that_no_gpu_has_is_refused():
    with pytest.raises(OverflowError, match=r"k: a grid of \(1, 65536\) blocks; a GPU has at most 65535 along y and z"):
        Launch("k", (1, 65536), (256,), ())
    assert Launch("k", (65536, 65535, 65535), (256,), ()).grid[0] == 65536


def test_infinite_filters_send_nothing_where_they_do_not_reach():
    """The corner of an image is reached by one weight alone: an infinite other one must not make it 0 times infinity."""
    wt = np.ones((1, 9), np.float32)
    wt[0, 8] = np.inf
    dx, dy = np.empty((1, 16), np.float32), np.ones((1, 4), np.float32)
    geometry = {"height": 4, "width": 4, "channels": 1, "kernel_height": 3, "kernel_width": 3, "stride": 1}
    call("conv2d_dx", dx, dy, wt, **geometry)
    assert np.isinf(dx.reshape(4, 4)[2:, 2:]).all()
    np.testing.assert_array_equal(dx.reshape(4, 4)[:2], [[1, 2, 2, 1], [2, 4, 4, 2]])


def test_tiles_of_convolutions_waste_few_columns():
    h200 = Facts(multiprocessors=132)
    shapes = (32 * 576, 6), (32 * 576, 64), (32 * 144, 16), (64, 120), (25, 6)
    chosen = [convolution.choose_tile(h200, *shape).name for shape in shapes]
    assert chosen == ["tall", "medium", "small", "small", "small"]


SUMMED = (
    "linear",
    "linear_relu",
    "linear_dx_add",
    "linear_dx_add_relu",
    "linear_dw_add",
    "linear_db_add",
    "conv2d_dw",
    "conv2d_dw_add",
    "conv2d_db",
)
SUMMED_BY_CHANNEL = ("batch_moments", "batch_norm_sums")


@pytest.mark.parametrize("op", [*SUMMED, *SUMMED_BY_CHANNEL])
def test_sums_in_shares(op, monkeypatch):
    """Sums that a real device would cut only where they are long."""
    monkeypatch.setattr(tiles, "LEAST_SHARE", 8)
    monkeypatch.setattr(tiles, "SHARE_STEP", 64)
    monkeypatch.setattr(channels, "LEAST_SHARE", 2)
    facts = Facts(multiprocessors=1000, scratch=device.FACTS.scratch)
    cut = []

    def run(op, *arrays, **params):
        planned = launches(op, facts, [device.array(a) for a in arrays], list(params.values()))
        cut.append(len(planned) == 2)
        for launch in planned:
            device.run(launch, reverse=len(cut) % 2 == 0)

    for k, dims in enumerate(list(sizes(op))[2::3]):
        assert_within_budget(run, op, dims, strided=bool(k % 2))
    if op in ("conv2d_dw", "conv2d_dw_add"):
        large = {"B": 3, "X": 11 * 10 * 2, "Y": 9 * 8 * 5, "K": 18, "O": 5}
        large |= {"height": 11, "width": 10, "channels": 2, "kernel_height": 3, "kernel_width": 3, "stride": 1}
    else:
        large = {"B": 140, "I": 140, "O": 70} | ({"Y": 9 * 70} if "Y" in CONTRACT[op].dims else {})
        large = {name: size for name, size in large.items() if name in CONTRACT[op].dims}
    assert_within_budget(run, op, large)
    assert cut[-1]


def test_sums_are_cut_only_where_it_pays():
    facts = Facts(132, Array(0, (1 << 22,), 1, "float32"))
    assert tiles.cut(facts, 8, 784, 32 * 128) == (1, 784)
    assert tiles.cut(facts, 200, 60_000, 7840) == (1, 60_000)
    assert tiles.cut(facts, 1, 32 * 576, 25 * 6) == (36, 512)
    assert tiles.cut(Facts(132), 1, 32 * 576, 25 * 6) == (1, 32 * 576)
    n, share = tiles.cut(facts, 1, 10**6, 1 << 20)  # no room for more
    assert n == 4 and (n - 1) * share < 10**6 <= n * share


# --- single points ----------------------------------------------------------------------------------------------------------------------


def test_dropout_at_the_threshold():
    """`word < rate 2^32` for a threshold that is no integer: rounding it down would keep what must be dropped."""
    x, key, cursor = np.ones((1, 4), np.float32), np.array([1, 2], np.uint32), np.zeros(2, np.int64)
    word = sorted(reference.philox4x32(np.zeros(4, np.uint32), key))[1]  # two of four words are <= it
    for rate, n_dropped in (((word - 0.5) / 2**32, 1), (word / 2**32, 1), ((word + 0.5) / 2**32, 2)):
        y, mask = np.empty((1, 4), np.float32), np.empty((1, 4), np.float32)
        call("dropout", y, mask, x, key, cursor, rate=rate, layer=0, row_offset=0, column_offset=0)
        assert (mask == 0).sum() == n_dropped


@pytest.mark.parametrize("n_classes", [2, 10, 17, 70])
def test_argmax_takes_the_first_of_equals(n_classes):
    labels = np.arange(n_classes, dtype=np.int32)
    z = np.full((n_classes, n_classes), 2.5, np.float32)  # row r: classes r, r + 1, ... are equal, those before smaller
    z[np.tril_indices(n_classes, -1)] = -1
    weight, scale, order, cursor = np.ones(n_classes, "f"), np.ones(1, "f"), np.arange(n_classes), np.zeros(2, int)
    for op, params in (("softmax_cross_entropy", {"label_smoothing": 0.0}), ("binary_cross_entropy", {})):
        dz, losses, hits = np.empty_like(z), np.empty(n_classes, "f"), np.zeros(n_classes, np.uint8)
        call(op, dz, losses, hits, z, labels, weight, order, scale, cursor, **params)
        assert hits.all(), op


def test_a_launch_that_counts_beyond_32_bits_is_refused():
    big = Array(0, (1 << 20, 1 << 13), 1 << 13, "float32")
    with pytest.raises(OverflowError, match=r"2\^31 - 1. Use smaller blocks"):
        launches("relu", device.FACTS, [big, big], [])


# --- the sources ------------------------------------------------------------------------------------------------------------------------


def test_every_kernel_is_launched_by_some_op_and_takes_what_it_is_given():
    """Types are checked by the simulator at each launch above; here: none is forgotten, none unused."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (TESTS.parent / "kernels" / "gpu").glob("*.py"))
    named = [re.sub(r"\{[^}]*\}", r"\\w+", name) for name in re.findall(r'"(\w[^" ]*_kernel)"', sources)]
    for file in FILES:
        for kernel in kernels(file):
            of_an_op = kernel.removesuffix("_kernel").removesuffix("_backward") in LAUNCHERS  # named by it
            assert of_an_op or any(re.fullmatch(name, kernel) for name in named), (
                f"{file}.cu: nothing launches {kernel}"
            )


def test_sources_include_nothing():
    for file in FILES:
        assert "#include" not in source(file), "headers cost seconds of compiling, and CuPy's cache does not see them"
