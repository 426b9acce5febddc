"""The compiled CPU kernels against the oracle; and the judge itself against kernels that are wrong on purpose."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_budget import assert_within_budget, run_reference
from kernel_cases import IN_PLACE, VALUES, make_case, n_variants
from kernel_sizes import UGLY_MATRICES, sizes

from fastmnist.backends.blocks import layouts, n_occupied
from fastmnist.kernels import cpu, reference
from fastmnist.kernels.contract import CONTRACT
from fastmnist.kernels.cpu import grey_gradient
from fastmnist.kernels.cpu.isa import LANES
from fastmnist.network import image_choices

# --- compiled kernels -------------------------------------------------------------------------------------------------


def test_every_op_has_a_compiled_kernel():
    assert set(cpu.available()) == set(CONTRACT)


@pytest.mark.parametrize("op", CONTRACT)
def test_compiled_kernel_at_ugly_sizes(op):
    for k, dims in enumerate(sizes(op)):
        for variant in range(n_variants(op)):
            assert_within_budget(cpu.call, op, dims, strided=bool(k % 2), variant=variant)


@pytest.mark.parametrize("values", [v for v in VALUES if v != "normal"])
@pytest.mark.parametrize("op", CONTRACT)
def test_compiled_kernel_on_unusual_values(op, values):
    for k, dims in enumerate(list(sizes(op))[::-2]):
        assert_within_budget(cpu.call, op, dims, values=values, strided=bool(k % 2), variant=k % n_variants(op))


@pytest.mark.parametrize("op", IN_PLACE)
def test_compiled_kernel_in_place(op):
    for rows, columns in UGLY_MATRICES:
        dims = dict(zip(CONTRACT[op].dims, (rows, columns), strict=True))
        assert_within_budget(cpu.call, op, dims, in_place=True, strided=columns % 2 == 0)


@pytest.mark.parametrize("form", ["dense", "skipping", "compressed"])
def test_small_products_are_lost_in_a_large_bias_by_its_ulp_alone(form):
    """Products are added to the bias one by one, in every form of a first layer, and each addition rounds by up to half an ulp of the sum so far:
    by 0.29 ulp in the mean square. The oracle adds the bias last and is nearer than that."""
    rng, n = np.random.default_rng(0), 257
    x = (rng.standard_normal((40, n)) / 255).astype(np.float32)
    w, b = rng.standard_normal((n, 130)).astype(np.float32), rng.uniform(1, 1.5, 130).astype(np.float32)
    y, order, cursor = np.empty((40, 130), np.float32), np.arange(40), np.zeros(2, np.int64)
    if form == "dense":
        cpu.call("linear", y, x, w, b)
    elif form == "skipping":
        cpu.call("skipping_linear", y, x, w, b, order, cursor, scale=1.0)
    else:
        indptr, columns = np.arange(0, x.size + 1, n), np.tile(np.arange(n, dtype=np.uint16), 40)
        cpu.call("sparse_linear", y, indptr, columns, x.ravel(), w, b, order, cursor, scale=1.0)
    ulps = np.abs(y - (x.astype(np.float64) @ w + b)) / np.spacing(np.float32(1))
    assert 0 < ulps.max() <= 5 * 0.29 * np.sqrt(n)


def test_the_lowering_counts_with_the_windows_that_the_grey_gradient_takes():
    taken = grey_gradient.TAPS, grey_gradient.FEW_TAPS  # none where there are few registers
    assert taken in ((image_choices.GREY_TAPS, image_choices.FEW_GREY_TAPS), (0, 0))
    assert taken[0] or LANES < image_choices.GREY_LANES


@pytest.mark.parametrize(("filters", "width"), [(1, 8), (6, 32), (7, 41)])
def test_a_grey_convolution_pooled_at_once_has_the_bits_of_both_ops(filters, width):
    rng, rows, columns, images = np.random.default_rng(0), 5, 3, 3
    made = 12 - rows + 1, width - columns + 1
    x = rng.standard_normal((images, 12 * width)).astype(np.float32)
    w, b = rng.standard_normal((15, filters)).astype(np.float32), rng.standard_normal(filters).astype(np.float32)
    y = np.empty((images, made[0] * made[1] * filters), np.float32)
    shape = images, made[0] // 2 * (made[1] // 2) * filters
    apart, at_once = ((np.empty(shape, np.float32), np.empty(shape, np.uint8)) for _ in range(2))
    kernel = {"height": 12, "width": width, "kernel_height": rows, "kernel_width": columns}
    cpu.call("conv2d_relu", y, x, w, b, **kernel, channels=1, stride=1)
    image = {"height": made[0], "width": made[1], "channels": filters}
    cpu.call("max_pool", *apart, y, **image, pool_height=2, pool_width=2, stride=2)
    cpu.call("conv2d_grey_pooled", *at_once, x, w, b, **kernel)
    for one, other in zip(apart, at_once, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("values", ["normal", "special"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 784, 128), (131, 784, 70), (40, 1100, 10), (2, 1024, 1)])
def test_zeros_are_skipped_in_slabs_of_features_and_groups_of_rows(rows, inputs, outputs, values):
    """More rows than a group has, more features than a slab, and more than are taken out of a row at a time."""
    for variant in range(2):
        dims = {"B": rows, "I": inputs, "O": outputs}
        assert_within_budget(cpu.call, "skipping_linear_relu", dims, variant=variant, values=values)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rows_of_any_length_are_compressed_whole(dtype):
    rng = np.random.default_rng(0)
    for inputs in (63, 64, 65, 127, 130, 1024, 1025, 2100):
        source = (
            rng.integers(1, 256, (9, inputs)) * (rng.random((9, inputs)) < np.array([[0.2]] * 8 + [[1.0]]))
        ).astype(dtype)
        counts = np.empty(9, np.int64)
        cpu.call("count_nonzeros", counts, source)
        np.testing.assert_array_equal(counts, (source != 0).sum(axis=1))
        columns, values = np.full(counts.sum() + 64, 7, np.uint16), np.full(counts.sum() + 64, 7, dtype)
        indptr = np.r_[0, np.cumsum(counts)]
        cpu.call("compress_rows", columns[:-64], values[:-64], source, indptr)
        np.testing.assert_array_equal(columns[:-64], np.nonzero(source)[1])
        np.testing.assert_array_equal(values[:-64], source[source != 0])
        assert (columns[-64:] == 7).all() and (values[-64:] == 7).all(), inputs


CROSS_ENTROPIES = {
    "softmax_cross_entropy": {"label_smoothing": 0.0},
    "softmax_twice_cross_entropy": {},
    "binary_cross_entropy": {},
    "binary_cross_entropy_by_class": {},
}


def _bits(a):
    return a.view(np.uint32)


@pytest.mark.parametrize("add", ["", "_add"])
@pytest.mark.parametrize(("rows", "inputs", "units"), [(1, 1, 1), (5, 17, 3), (16, 128, 64), (23, 70, 700), (3, 65, 0)])
def test_a_gate_in_the_product_has_the_bits_of_a_pass_of_its_own(rows, inputs, units, add):
    """Also where the sum is cut into blocks, where there is none, and where the gate holds no number."""
    rng = np.random.default_rng(0)
    dy, w, y, old = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((rows, units), (inputs, units), (rows, inputs), (rows, inputs))
    )
    y = np.where(rng.random(y.shape) < 0.2, rng.choice([np.nan, np.inf, -np.inf, 0, -0.0, 1e-45], y.shape), y)
    apart, together, y = old.copy(), old.copy(), y.astype(np.float32)
    cpu.call(f"linear_dx{add}", apart, dy, w)
    cpu.call("relu_backward", apart, apart, y)
    cpu.call(f"linear_dx{add}_relu", together, dy, w, y)
    np.testing.assert_array_equal(_bits(apart), _bits(together))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("units", [3, 10, 70, 128])
def test_products_and_gradients_of_compressed_rows_have_the_bits_of_dense_ones(dtype, units):
    """Both sum over ascending features, or rows, with one accumulator an element, and adding 0 to it changes nothing."""
    rng, rows, inputs, scale = np.random.default_rng(0), 37, 101, np.float32(1 / 255)
    source = (rng.integers(1, 256, (50, inputs)) * (rng.random((50, inputs)) < 0.2)).astype(dtype)
    order, cursor = rng.permutation(50), np.zeros(2, np.int64)
    x = np.empty((rows, inputs), np.float32)
    cpu.call("gather_rows", x, source, order, cursor, scale=scale)
    at = np.nonzero(source)
    indptr = np.concatenate([[0], np.cumsum((source != 0).sum(axis=1))])
    compressed = (indptr, at[1].astype(np.uint16), source[at])
    dy, old = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, units), (inputs, units)))
    dense, sparse = np.empty((2, inputs, units), np.float32)
    quads = np.empty(26, np.int32), np.empty((26, rows), np.int32), np.empty((26, 4 * rows), np.float32)
    cpu.call("linear_dw", dense, x, dy)
    cpu.call("sparse_quads", *quads, *compressed, order, cursor, scale=scale)
    cpu.call("quad_linear_dw", sparse, *quads, dy)
    of_dense_rows = tuple(np.empty_like(a) for a in quads)
    cpu.call("skipping_quads", *of_dense_rows, source, order, cursor, scale=scale)
    np.testing.assert_array_equal(quads[0], of_dense_rows[0])
    for width, one, other in zip((1, 4), quads[1:], of_dense_rows[1:], strict=True):
        listed = np.arange(one.shape[1]) < width * quads[0][:, np.newaxis]
        np.testing.assert_array_equal(one[listed], other[listed])
    np.testing.assert_array_equal(_bits(dense), _bits(sparse))
    dense, sparse = np.empty((2, rows, units), np.float32)
    cpu.call("linear_relu", dense, x, old, dy[0])
    cpu.call("quad_linear_relu", sparse, *quads, old, dy[0])
    np.testing.assert_array_equal(dense, sparse)
    dense, sparse = old.copy(), old.copy()
    cpu.call("linear_dw_add", dense, x, dy)
    cpu.call("sparse_linear_dw_add", sparse, *compressed, dy, order, cursor, scale=scale)
    np.testing.assert_array_equal(_bits(dense), _bits(sparse))


@pytest.mark.parametrize("units", [3, 40, 130])
@pytest.mark.parametrize("l2", [0, 1e-3])
def test_steps_taken_with_the_gradient_have_the_bits_of_two_ops(units, l2):
    rng, rows, inputs = np.random.default_rng(1), 37, 101
    x = (rng.standard_normal((rows, inputs)) * (rng.random((rows, inputs)) < 0.3)).astype(np.float32)
    dy, old = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, units), (inputs, units)))
    hyper, cursor = np.array([[1, 0, 1], [0.01, 0, l2]], np.float32), np.array([0, 1])
    quads = np.empty(26, np.int32), np.empty((26, rows), np.int32), np.empty((26, 4 * rows), np.float32)
    indptr, columns = np.r_[0, np.cumsum((x != 0).sum(axis=1))], np.nonzero(x)[1].astype(np.uint16)
    reference.sparse_quads(*quads, indptr, columns, x[x != 0], np.arange(rows), np.zeros(2, int), 1.0)
    two, dense, sparse, gradient = old.copy(), old.copy(), old.copy(), np.empty_like(old)
    cpu.call("linear_dw", gradient, x, dy)
    cpu.call("sgd", two, gradient, hyper, cursor)
    cpu.call("linear_dw_sgd", dense, x, dy, hyper, cursor)
    cpu.call("quad_linear_dw_sgd", sparse, *quads, dy, hyper, cursor)
    assert not np.array_equal(two, old)
    np.testing.assert_array_equal(_bits(two), _bits(dense))
    np.testing.assert_array_equal(_bits(two), _bits(sparse))


def test_compiled_dropout_at_the_threshold():
    """`word < rate 2^32` for a threshold that is no integer: rounding it down would keep what must be dropped."""
    x, key, cursor = np.ones((1, 4), np.float32), np.array([1, 2], np.uint32), np.zeros(2, np.int64)
    word = sorted(reference.philox4x32(np.zeros(4, np.uint32), key))[1]  # two of four words are <= it
    for rate, n_dropped in (((word - 0.5) / 2**32, 1), (word / 2**32, 1), ((word + 0.5) / 2**32, 2)):
        y, mask = np.empty((1, 4), np.float32), np.empty((1, 4), np.float32)
        cpu.call("dropout", y, mask, x, key, cursor, rate=rate, layer=0, row_offset=0, column_offset=0)
        assert (mask == 0).sum() == n_dropped


def test_compiled_argmax_takes_the_first_of_equals():
    for n_classes in (2, 10, 17, 70):
        labels = np.arange(n_classes, dtype=np.int32)
        z = np.full(
            (n_classes, n_classes), 2.5, np.float32
        )  # row r: classes r, r + 1, ... are equal, those before smaller
        z[np.tril_indices(n_classes, -1)] = -1
        dz, hits = np.empty_like(z), np.zeros(n_classes, np.uint8)
        weight, scale = np.ones(n_classes, np.float32), np.ones(1, np.float32)
        order, cursor = np.arange(n_classes), np.zeros(2, np.int64)
        for op, params in CROSS_ENTROPIES.items():
            hits[:] = 0
            losses = np.empty_like(z) if op.endswith("by_class") else np.empty(n_classes, np.float32)
            cpu.call(op, dz, losses, hits, z, labels, weight, order, scale, cursor, **params)
            assert hits.all(), op


@pytest.mark.parametrize("label", [-(2**31), -1, 10, 16, 2**31 - 1])
@pytest.mark.parametrize("op", CROSS_ENTROPIES)
def test_a_label_that_names_no_output_is_never_hit_and_reads_nothing_outside_of_its_row(op, label):
    for seed in range(4):  # with label smoothing and without
        case = make_case(op, {"B": 9, "C": 10}, np.random.default_rng(seed), strided=True)
        case.arrays["labels"][::2] = label
        exact = run_reference(case, np.float64)
        cpu.call(op, *case.arrays.values(), **case.params)
        for name in case.out_names:
            np.testing.assert_allclose(case.arrays[name], exact[name], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("values", ["uint8", "float32"])
@pytest.mark.parametrize("source", ["uint8", "float32"])
def test_blocks_of_fours_and_of_any_features_are_those_of_the_oracle(source, values):
    rng = np.random.default_rng(0)
    for n_features in (784, 100, 30):  # patches and runs of fours; the last block not full
        for features in layouts(n_features):
            x = (rng.integers(0, 256, (23, n_features)) * (rng.random((23, n_features)) < 0.03)).astype(source)
            if source == values == "float32":
                x[3], x[4, 5], x[5, 7] = -0.0, np.nan, 1e-40
            bitmap, expected = np.empty((2, len(x), -(-len(features) // 1024)), np.int64)
            cpu.call("occupied_blocks", bitmap, x, features)
            reference.occupied_blocks(expected, x, features)
            np.testing.assert_array_equal(bitmap, expected)
            indptr = np.r_[0, np.cumsum(n_occupied(bitmap) * 16)]
            packed, wanted = np.full((2, indptr[-1]), 7, values)
            cpu.call("pack_blocks", packed, x, features, bitmap, indptr[:-1])
            reference.pack_blocks(wanted, x, features, bitmap, indptr[:-1])
            np.testing.assert_array_equal(packed, wanted)


def test_weighted_sums():
    rng = np.random.default_rng(0)
    losses, weights, sums = rng.random((500, 12), np.float32)[:, 1:], rng.random(500, np.float32), np.full(11, np.nan)
    cpu.call("weighted_sums", sums, losses, weights)
    exact = np.empty(11)
    reference.weighted_sums(exact, losses, weights)
    np.testing.assert_allclose(sums, exact, rtol=1e-14)
    np.testing.assert_allclose(sums, weights.astype(np.float64) @ losses.astype(np.float64), rtol=1e-13)


# --- the judge --------------------------------------------------------------------------------------------------------


def _oracle(op: str, *arrays: np.ndarray, **params: float) -> None:
    getattr(reference, op)(*arrays, **params)


@pytest.mark.parametrize("op", CONTRACT)
def test_judge_accepts_the_oracle_itself(op):
    for values in VALUES:
        for k, dims in enumerate(list(sizes(op))[::3]):
            assert_within_budget(_oracle, op, dims, values=values, strided=bool(k % 2), variant=k % n_variants(op))
    if op in IN_PLACE:
        assert_within_budget(_oracle, op, dims, in_place=True)


def test_judge_accepts_another_order_of_summation():
    def shuffled(op, y, x, w, b):
        order = np.random.default_rng(0).permutation(x.shape[1])
        y[...] = x[:, order] @ w[order] + b

    for dims in sizes("linear"):
        assert_within_budget(shuffled, "linear", dims)


def _linear_without_last_column(op, y, x, w, b):
    y[...] = 0
    y[:, :-1] = (x @ w + b)[:, :-1]


def _linear_without_last_input(op, y, x, w, b):
    y[...] = x[:, :-1] @ w[:-1] + b


def _linear_off_by_one_column(op, y, x, w, b):
    y[...] = np.roll(x @ w + b, 1, axis=1)


def _linear_with_wrong_sign(op, y, x, w, b):
    y[...] = x @ w - b


def _linear_leaves_tail_untouched(op, y, x, w, b):
    y[:, :-1] = (x @ w + b)[:, :-1]


def _linear_in_half_precision(op, y, x, w, b):
    y[...] = x.astype(np.float16) @ w.astype(np.float16) + b


def _linear_with_sloppy_bias(op, y, x, w, b):
    y[...] = x @ w + b * np.float32(1 + 1e-5)


def _linear_writes_into_padding(op, y, x, w, b):
    y[...] = x @ w + b
    np.lib.stride_tricks.as_strided(y, (y.shape[0], y.shape[1] + 1), y.strides)[-1, -1] = 0


def _linear_writes_before_start(op, y, x, w, b):
    y[...] = x @ w + b
    step = y.strides[-1]
    np.lib.stride_tricks.as_strided(y, (1, 2), (step, -step))[0, 1] = 0


def _linear_reads_padding(op, y, x, w, b):
    wide = np.lib.stride_tricks.as_strided(x, (x.shape[0], x.shape[1] + 1), x.strides)
    y[...] = wide[:, :-1] @ w + b + 0 * wide[:, -1:]


def _linear_writes_into_input(op, y, x, w, b):
    y[...] = x @ w + b
    x[0, 0] += 1


def _linear_turns_numbers_into_inf(op, y, x, w, b):
    y[...] = x @ w + b
    y[-1, -1] = np.inf


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (_linear_without_last_column, r"linear: y is off by .*B=15, O=17, I=16.* 15 of 255 elements, at \(0, 16\)"),
        (_linear_without_last_input, "linear: y is off by"),
        (_linear_off_by_one_column, "linear: y is off by"),
        (_linear_with_wrong_sign, "linear: y is off by"),
        (_linear_leaves_tail_untouched, "NaN where there is none"),
        (_linear_in_half_precision, "linear: y is off by"),
        (_linear_with_sloppy_bias, "linear: y is off by"),
        (_linear_writes_into_padding, "1 elements written outside of y"),
        (_linear_writes_before_start, r"1 elements written outside of y .*at \[-1\] from its start"),
        (_linear_reads_padding, "NaN where there is none"),
        (_linear_writes_into_input, "1 elements written into the input x"),
        (_linear_turns_numbers_into_inf, r"\+inf where there is none: 1 of"),
    ],
)
def test_judge_finds_wrong_linear(kernel, message):
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        assert_within_budget(kernel, "linear", {"B": 15, "I": 16, "O": 17}, strided=True)


def _wrong_relu_hides_nan(op, y, x):
    y[...] = np.where(x > 0, x, 0)


def _wrong_argmax(op, dz, losses, hits, z, labels, sample_weight, order, scale, cursor, label_smoothing):
    reference.softmax_cross_entropy(
        dz, losses, hits, z, labels, sample_weight, order, scale, cursor, label_smoothing=label_smoothing
    )
    hits[cursor[0]] ^= 1


def _wrong_position(op, dz, losses, hits, z, labels, sample_weight, order, scale, cursor, label_smoothing):
    reference.softmax_cross_entropy(
        dz, losses, hits, z, labels, sample_weight, order, scale, cursor, label_smoothing=label_smoothing
    )
    losses[:] = np.roll(losses, 1)


def _wrong_class(op, dz, losses, hits, z, labels, sample_weight, order, scale, cursor):
    reference.binary_cross_entropy_by_class(dz, losses, hits, z, labels, sample_weight, order, scale, cursor)
    losses[:] = np.roll(losses, 1, axis=1)


def _wrong_softmax_without_shift(op, p, z):
    with np.errstate(all="ignore"):
        e = np.exp(z)
        p[...] = e / e.sum(axis=1, keepdims=True)


def _wrong_adam_without_decay(op, w, m, v, dw, hyper, cursor, beta_1, beta_2, epsilon):
    reference.adam(w, m, v, dw, hyper * np.float32([1, 0, 1]), cursor, beta_1, beta_2, epsilon)


def _wrong_adam_first_step(op, w, m, v, dw, hyper, cursor, beta_1, beta_2, epsilon):
    reference.adam(w, m, v, dw, hyper, np.zeros(2, np.int64), beta_1, beta_2, epsilon)


def _wrong_dropout_layer(op, y, mask, x, key, cursor, rate, layer, row_offset, column_offset):
    reference.dropout(y, mask, x, key, cursor, rate, layer + 1, row_offset, column_offset)


def _wrong_dropout_column(op, y, mask, x, key, cursor, rate, layer, row_offset, column_offset):
    reference.dropout(y, mask, x, key, cursor, rate, layer, row_offset, 0)


def _wrong_order_of_a_list(op, counts, rows, entries, *inputs, **params):
    reference.sparse_quads(counts, rows, entries, *inputs, **params)
    for i, n in enumerate(counts):
        rows[i, :n] = rows[i, :n][::-1]


@pytest.mark.parametrize(
    ("op", "kernel", "values", "message"),
    [
        ("relu", _wrong_relu_hides_nan, "special", "NaN missing"),
        ("softmax_cross_entropy", _wrong_argmax, "normal", "hits: 1 of"),
        ("softmax_cross_entropy", _wrong_position, "normal", "losses is off by"),
        ("binary_cross_entropy_by_class", _wrong_class, "normal", "losses is off by"),
        ("softmax", _wrong_softmax_without_shift, "huge", "NaN where there is none"),
        ("adam", _wrong_adam_without_decay, "normal", "w is off by"),
        ("adam", _wrong_adam_first_step, "normal", "w is off by"),
        ("dropout", _wrong_dropout_layer, "normal", "y is off by"),
        ("dropout", _wrong_dropout_column, "normal", "y is off by"),
        ("sparse_quads", _wrong_order_of_a_list, "normal", "rows: "),
    ],
)
def test_judge_finds_wrong_ops(op, kernel, values, message):
    main = [name for name in "BROCIQ" if name in CONTRACT[op].dims or (op == "sparse_quads" and name == "I")]
    dims = dict(zip(main, (31, 33), strict=True))
    with pytest.raises(AssertionError, match=message):
        for seed in range(3):  # a drawn rate or offset of 0 may hide a mistake once
            assert_within_budget(kernel, op, dims, values=values, seed=seed)
