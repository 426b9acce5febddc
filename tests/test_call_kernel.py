"""`call_kernel`: every op by name, its checks, and `warmup`."""

import contextlib
import re

import numpy as np
import pytest
from kernel_cases import make_case
from kernel_sizes import is_image_op, sizes

from fastmnist import BackendUnavailable, call_kernel, kernel_call, warmup
from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT, JOBS

DIMS = {"B": 5, "I": 9, "O": 7, "C": 4, "R": 6, "Q": 8, "K": 3}

X = np.arange(6, dtype=np.float32).reshape(2, 3)
W = np.ones((3, 4), np.float32)
B = np.zeros(4, np.float32)
CURSOR = np.zeros(2, np.int64)


def case_arguments(name, variant=0):
    """Inputs and keywords of a random call, and the oracle's outputs."""
    op = CONTRACT[name]
    of_images = is_image_op(name) or {"Y", "V"} & set(op.dims)
    dims = list(sizes(name))[3] if of_images else {d: DIMS[d] for d in op.dims if d in DIMS}
    case = make_case(name, dims, np.random.default_rng(0), variant=variant)
    ins = [np.ascontiguousarray(case.arrays[o.name]) for o in op.ins]
    inferable = {d for o in op.ins for d in o.shape if not d.isdecimal()}
    keywords = {
        o.name: case.arrays[o.name].copy()
        for o in op.outs
        if o.name in op.updates or not inferable.issuperset(d for d in o.shape if not d.isdecimal())
    }
    expected = [case.arrays[o.name].copy() for o in op.outs]
    for array, operand in zip(expected, op.outs, strict=True):
        if operand.name not in keywords:
            array[...] = 0
    getattr(reference, name)(*expected, *ins, *(case.params[p] for p in op.params))
    return ins, {**keywords, **case.params}, expected


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", CONTRACT)
def test_every_op_can_be_called(name, backend):
    ins, keywords, expected = case_arguments(name)
    before = {key: np.copy(value) for key, value in keywords.items()}
    results = call_kernel(name, *ins, backend=backend, **keywords)
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(expected)
    for result, array in zip(results, expected, strict=True):
        assert (result.shape, result.dtype) == (array.shape, array.dtype)
        if name not in (
            "sparse_quads",
            "skipping_quads",
        ):  # leave what lies behind its counts unspecified; the kernels' tests look at it closely
            np.testing.assert_allclose(result, array, rtol=1e-4, atol=1e-5)
    for key, value in keywords.items():
        np.testing.assert_array_equal(value, before[key], err_msg=f"{key} was written to")


def test_outputs_are_allocated():
    np.testing.assert_array_equal(call_kernel("linear_relu", X, W, B), [[3, 3, 3, 3], [12, 12, 12, 12]])
    assert call_kernel("linear_relu", X, W, B).flags.c_contiguous


def test_the_oracle_computes_in_float64():
    y = call_kernel("linear", X.astype(float), W.astype(float), B.astype(float), backend="numpy")
    assert y.dtype == np.float64


def test_inputs_need_not_be_contiguous():
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(
        call_kernel("linear_dx", wide[:, ::2], np.eye(3, dtype=np.float32)), np.ascontiguousarray(wide[:, ::2])
    )


def refused(error, message, name, *inputs, **keywords):
    with pytest.raises(error, match=message):
        call_kernel(name, *inputs, **keywords)


def test_unknown_names():
    refused(ValueError, r"Unknown op 'matmul'; known: adam, add, .*`fastmnist kernels` explains", "matmul", X)
    refused(ValueError, "linear has no keyword 'alpha'; parameters: none; outputs: y", "linear", X, W, B, alpha=1)
    refused(
        ValueError, "backend must be one of 'numpy', 'numba', 'cupy'; got 'auto'", "linear", X, W, B, backend="auto"
    )


def test_an_unavailable_backend(monkeypatch):
    monkeypatch.setenv("FASTMNIST_LIBCUDA", "/nowhere/libcuda.so")
    refused(
        BackendUnavailable,
        "backend 'cupy': GPU: the NVIDIA driver library",
        "linear",
        X,
        W,
        B,
        backend="cupy",
    )


def test_wrong_operands():
    refused(TypeError, re.escape("linear takes 3 inputs (x[B,I], w[I,O], b[O]); got 2"), "linear", X, W)
    refused(ValueError, r"linear: w must have shape \(I, O\) with I = 3; got \(2, 4\)", "linear", X, W[:2], B)
    refused(ValueError, r"linear: b must have shape \(O\); got \(\)", "linear", X, W, np.float32(0))
    refused(TypeError, "linear: x must have dtype float32; got float64", "linear", X.astype(float), W, B)
    refused(
        TypeError, "x must have dtype float32 or float64; got int64", "linear", X.astype(int), W, B, backend="numpy"
    )


def test_missing_keywords():
    x = np.ones((2, 3), np.uint8)
    order = np.arange(2)
    refused(ValueError, r"gather_rows needs the parameters scale; missing: scale", "gather_rows", x, order, CURSOR)
    message = r"the size B of output x does not follow from the inputs; pass an array x=... of shape \(B, I\)"
    refused(ValueError, message, "gather_rows", x, order, CURSOR, scale=1)
    refused(ValueError, r"add updates total: give the old content by keyword; missing: total", "add", X)
    for value in ("1", np.nan, [1.0]):
        refused(
            ValueError, "parameter scale must be a finite number", "gather_rows", x, order, CURSOR, scale=value, x=X
        )


def test_an_output_given_fixes_the_size():
    source = np.arange(12, dtype=np.uint8).reshape(4, 3)
    x = call_kernel("gather_rows", source, np.array([3, 0, 1]), CURSOR, scale=0.5, x=np.empty((2, 3), np.float32))
    np.testing.assert_array_equal(x, source[[3, 0]] * np.float32(0.5))


@pytest.mark.parametrize(
    ("name", "operand", "value", "message"),
    [
        ("softmax_cross_entropy", "labels", 4, r"labels must be >= 0 and < 4; got 4 to 4"),
        ("softmax_cross_entropy", "labels", -1, "labels must be >= 0"),
        ("softmax_cross_entropy", "order", 10_000, "order must be >= 0 and <"),
        ("softmax_cross_entropy", "cursor", [10_000, 0], r"cursor\[0\] must be >= 0"),
        ("softmax_cross_entropy", "cursor", [0, 10_000], r"cursor\[1\] must be >= 0"),
        ("softmax_cross_entropy", "cursor", [-1, 0], r"cursor\[0\] must be >= 0"),
        ("binary_cross_entropy", "labels", 4, "labels must be >= 0 and < 4"),
        ("gather_rows", "order", -1, "order must be >= 0"),
        ("scatter_rows", "cursor", [10_000, 0], r"cursor\[0\]"),
        ("adam", "cursor", [0, 99], r"cursor\[1\] must be >= 0"),
        ("sparse_linear", "indptr", -1, "indptr must be >= 0"),
        ("sparse_linear", "indptr", 10_000, "indptr must be >= 0"),
        ("sparse_linear", "columns", 9, "columns must be >= 0 and < 9; got 9 to 9"),
        ("sparse_quads", "columns", 0, "columns must ascend within each row"),
        ("quad_linear_dw", "counts", 6, "counts must be >= 0 and < 6"),
        ("quad_linear_dw", "counts", -1, "counts must be >= 0"),
    ],
)
def test_indices_that_point_outside_are_refused(name, operand, value, message):
    ins, keywords, _ = case_arguments(name)
    ins = {o.name: array for o, array in zip(CONTRACT[name].ins, ins, strict=True)}
    ins[operand] = ins[operand].copy()
    ins[operand][...] = value
    refused(ValueError, message, name, *ins.values(), **keywords)


def test_a_falling_indptr_is_refused():
    ins, keywords, _ = case_arguments("sparse_linear")
    refused(
        ValueError,
        "indptr must have at least one value and never fall",
        "sparse_linear",
        ins[0][::-1],
        *ins[1:],
        **keywords,
    )


def test_rows_are_compressed_only_into_room_that_fits():
    source = np.array([[0, 3, 0], [1.5, 0, 2]], np.float32)
    room = {"columns": np.zeros(3, np.uint16), "values": np.zeros(3, np.float32)}
    columns, values = call_kernel("compress_rows", source, np.array([0, 1, 3]), **room)
    assert columns.tolist() == [1, 0, 2]
    assert values.tolist() == [3, 1.5, 2]
    for indptr in ([0, 0, 3], [0, 3], [0, 2, 3]):
        refused(ValueError, "indptr must leave room for each row", "compress_rows", source, np.array(indptr), **room)
    room["values"] = np.zeros(3, np.uint8)
    refused(ValueError, "whole numbers from 0 to 255", "compress_rows", source, np.array([0, 1, 3]), **room)


def test_rows_are_packed_only_into_room_that_fits():
    source, features = np.arange(32, dtype=np.uint8).reshape(2, 16), np.arange(16, dtype=np.int32)
    bitmap = np.ones((2, 1), np.int64)
    packed = call_kernel("pack_blocks", source, features, bitmap, np.array([16, 0]), values=np.zeros(32, np.uint8))
    np.testing.assert_array_equal(packed, [*source[1], *source[0]])
    for start, message in ((17, "values must have room for all blocks of each row"), (-1, "starts must be >= 0")):
        starts = np.array([0, start])
        refused(ValueError, message, "pack_blocks", source, features, bitmap, starts, values=np.zeros(32, np.uint8))


def test_rows_of_features_are_checked_where_they_count():
    ins, keywords, _ = case_arguments("quad_linear_dw")
    counts, rows, entries, dy = ins
    rows = np.full_like(rows, 99)
    refused(
        ValueError,
        "rows must be >= 0 and < 5; got 99 to 99",
        "quad_linear_dw",
        np.ones_like(counts),
        rows,
        entries,
        dy,
        **keywords,
    )
    call_kernel("quad_linear_dw", np.zeros_like(counts), rows, entries, dy, **keywords)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("conv2d", {"height": 7}, "conv2d: [XY] must be .* for .*'height': 7.0.*; got"),
        ("conv2d", {"stride": 0}, "conv2d: stride must be an integer >= 1; got 0"),
        ("conv2d", {"width": 2.5}, "conv2d: width must be an integer >= 1; got 2.5"),
        ("conv2d_dx", {"kernel_height": 99}, "the window must fit into the image of 6 x 6; got 99 x 3"),
        ("conv2d_dw", {"kernel_width": 2}, "conv2d_dw: [YK] must be"),
        ("max_pool", {"pool_height": 1}, "max_pool: Y must be"),
        ("conv2d_pooled_dx", {"pool_width": 99}, "the pooling window must fit into the 34 x 4 pixels that"),
        ("conv2d_winograd", {"height": 99}, "conv2d_winograd: [XY] must be"),
        ("conv2d_winograd", {"channels": 129}, "conv2d_winograd: channels must be at most 128; got 129. Call conv2d"),
        ("conv2d_pooled_dwt", {"pool_height": 1}, "conv2d_pooled_dwt: .* must be"),
        ("pad", {"top": -1}, "pad: top must be an integer >= 0; got -1"),
        ("crop", {"left": 9}, "crop: Y must be"),
        ("batch_norm", {"n": 0}, "batch_norm: n must be > 0; got 0"),
    ],
)
def test_images_of_contradictory_sizes_are_refused(name, changes, message):
    ins, keywords, _ = case_arguments(name)
    refused(ValueError, message, name, *ins, **keywords | changes)


def test_choices_outside_of_the_pooling_window_are_refused():
    ins, keywords, _ = case_arguments("conv2d_pooled_dwt")
    ins[2].flat[0] = 4
    refused(
        ValueError, "argmax must be in 0 .. 3 for windows of 2 x 2 pixels; got 4", "conv2d_pooled_dwt", *ins, **keywords
    )


def test_pixels_of_broken_channels_are_refused():
    refused(
        ValueError,
        "Y = pixels . O must be a multiple of O = 3; got 4",
        "conv2d_db",
        np.ones((2, 4), np.float32),
        db=np.ones(3, np.float32),
    )


@pytest.mark.parametrize(("name", "parameter"), [("dropout", "rate"), ("softmax_cross_entropy", "label_smoothing")])
def test_fractions_are_checked(name, parameter):
    ins, keywords, _ = case_arguments(name)
    refused(ValueError, rf"{parameter} must be in \[0, 1\); got 1", name, *ins, **{**keywords, parameter: 1.0})


def test_warmup_compiles_everything_once(monkeypatch):
    # A stand-in for the compiler: compiling all for real takes half a minute, and the other tests compile every op.
    from fastmnist.kernels import cpu

    asked, announced = [], []
    monkeypatch.setattr(cpu, "on_compile", [announced.append])

    def compile_one(name, dtypes):
        asked.append((name, dtypes))
        for listener in cpu.on_compile:
            listener(name)

    monkeypatch.setattr(cpu, "entry", compile_one)
    monkeypatch.setattr(cpu, "helped", lambda missing: contextlib.nullcontext(lambda kernel: None))
    monkeypatch.setattr(cpu, "_addresses", {})
    monkeypatch.setattr(cpu, "is_kept", lambda kernel: kernel[0] != "relu")
    seen = []
    done = warmup(lambda name, number, total: seen.append((name, number, total)))
    assert {name for name, _ in asked} == {*CONTRACT, *JOBS, *cpu.WALKERS, *cpu.CREW}
    assert len(asked) == len(set(asked)) == done.n_kernels
    assert ("gather_rows", ("float32", "uint8", "int64", "int64")) in asked
    assert ("gather_rows", ("float32", "float32", "int64", "int64")) in asked
    assert [number for _, number, _ in seen] == list(range(1, done.n_kernels + 1))
    assert {total for *_, total in seen} == {done.n_kernels}
    assert done.n_compiled == 1
    assert not announced
    assert len(cpu.on_compile) == 1


def test_warmup_needs_compiled_code(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "numba", None)
    with pytest.raises(BackendUnavailable, match="Numba is not installed"):
        kernel_call.warmup()
