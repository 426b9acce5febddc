"""Matrix products: every layout, scalar and size against float64, the same bits on any number of threads, errors that teach."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmnist import MatrixProduct, gemm
from fastmnist.kernels.cpu import caches
from fastmnist.matrix_product import LEAST_SHARE, _shares

TRANSPOSES = ("nn", "nt", "tn", "tt")
# One less and one more than vectors, tiles and strips; more than a block of the sum, of the rows; a distance of rows that shares cache sets.
UGLY = [
    (1, 1, 1),
    (3, 5, 7),
    (4, 129, 64),
    (17, 31, 65),
    (5, 300, 63),
    (33, 64, 128),
    (67, 257, 130),
    (530, 33, 70),
    (64, 40, 1024),
]


def _matrix(rng, rows, columns, stored_by_columns=False, padding=0):
    """A random matrix, as a view of a larger array when `padding` is not 0; NaN stands around it."""
    if stored_by_columns:
        return _matrix(rng, columns, rows, padding=padding).T
    buffer = np.full((rows, columns + padding), np.nan, np.float32)
    view = buffer[:, :columns]
    view[...] = rng.standard_normal((rows, columns))
    return view


def _operands(m, k, n, transposes="nn", padding=0, seed=0):
    rng = np.random.default_rng([seed, m, k, n])
    a = _matrix(rng, m, k, transposes[0] == "t", padding)
    b = _matrix(rng, k, n, transposes[1] == "t", padding)
    return a, b, _matrix(rng, m, n, padding=padding)


def _assert_close(got, a, b, old, alpha, beta):
    """Within 8 x the error of NumPy's own float32 product, and 2 ulp of the largest value."""
    exact = alpha * (a.astype(np.float64) @ b.astype(np.float64)) + beta * old.astype(np.float64)
    single = np.float32(alpha) * (a @ b) + np.float32(beta) * old
    if exact.size:
        budget = 8 * np.abs(single - exact).max() + 2 * np.spacing(np.float32(np.abs(exact).max()))
        # Where NumPy happens to be exact: what rounding each of k additions once may cost.
        budget = max(budget, 2e-7 * np.sqrt(a.shape[1] + 1) * np.abs(exact).max())
        assert not (np.abs(got - exact).max() > budget)
    assert got.shape == exact.shape


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize(("m", "k", "n"), UGLY)
def test_ugly_sizes_strides_and_scalars(m, k, n, transposes):
    for padding in (0, 5):
        for alpha in (1, 0, -2.5):
            for beta in (0, 1, -2.5):
                a, b, out = _operands(m, k, n, transposes, padding)
                old = out.copy()
                around = out.base.copy() if padding else None
                assert gemm(a, b, out, alpha=alpha, beta=beta, n_threads=1) is out
                _assert_close(out, a, b, old, alpha, beta)
                if padding:
                    around[:, :n] = out
                    assert np.array_equal(around, out.base, equal_nan=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    m=st.integers(0, 140),
    k=st.integers(0, 300),
    n=st.integers(0, 140),
    transposes=st.sampled_from(TRANSPOSES),
    padding=st.sampled_from([0, 3]),
    alpha=st.sampled_from([0.0, 1.0, -2.5]),
    beta=st.sampled_from([0.0, 1.0, -2.5]),
    n_threads=st.sampled_from([1, 2, 3]),
)
def test_random_sizes(m, k, n, transposes, padding, alpha, beta, n_threads):
    a, b, out = _operands(m, k, n, transposes, padding)
    old = out.copy()
    gemm(a, b, out, alpha=alpha, beta=beta, n_threads=n_threads)
    _assert_close(out, a, b, old, alpha, beta)


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize(("m", "k", "n"), [(32, 784, 128), (301, 500, 330), (70, 300, 1024), (1100, 260, 130)])
def test_the_bits_do_not_depend_on_threads(m, k, n, transposes):
    a, b, old = _operands(m, k, n, transposes)
    results = []
    for n_threads in (1, 2, 3, 7):
        for _ in range(3):
            out = old.copy()
            gemm(a, b, out, alpha=-2.5, beta=1, n_threads=n_threads)
            results.append(out.tobytes())
    assert len(set(results)) == 1
    assert MatrixProduct(a, b, n_threads=2).n_threads == 2


def test_the_bits_of_an_element_do_not_depend_on_what_is_computed_beside_it():
    a, b, _ = _operands(200, 784, 512)
    whole = gemm(a, b)
    for rows, columns in [
        (slice(8, 12), slice(0, 512)),
        (slice(3, 40), slice(64, 65)),
        (slice(0, 200), slice(100, 117)),
    ]:
        assert gemm(a[rows], b[:, columns]).tobytes() == whole[rows, columns].tobytes()


@pytest.mark.parametrize("transposes", TRANSPOSES)
def test_what_is_multiplied_by_zero_is_not_read(transposes):
    for m, k, n in UGLY:
        a, b, out = _operands(m, k, n, transposes)
        out[:] = np.nan
        gemm(a, b, out)
        assert np.isfinite(out).all()
        a[:] = np.nan
        gemm(a, b, out, alpha=0, beta=2)
        assert np.isfinite(out).all()


def test_nothing_to_sum():
    a, b, out = _operands(5, 0, 70)
    old = out.copy()
    assert np.array_equal(gemm(a, b, out, beta=-2.5), np.float32(-2.5) * old)
    out[:] = np.nan
    assert not gemm(a, b, out).any()
    assert gemm(*_operands(0, 4, 3)[:2]).shape == (0, 3)
    assert gemm(*_operands(3, 4, 0)[:2]).shape == (3, 0)


@pytest.mark.parametrize("transposes", TRANSPOSES)
def test_special_values_spread_as_they_must(transposes):
    a, b, _ = _operands(40, 150, 90, transposes)
    a[3, 7], a[8, 140], b[20, 66] = np.nan, np.inf, -np.inf
    with np.errstate(all="ignore"):
        exact = a.astype(np.float64) @ b.astype(np.float64)
    got = gemm(a, b)
    assert np.array_equal(np.isnan(got), np.isnan(exact))
    assert np.array_equal(np.isinf(got) * np.sign(got), np.isinf(exact) * np.sign(exact), equal_nan=True)


def test_denormals_count_on_every_thread():
    """A product that is denormal itself: helpers compute in the caller's floating-point mode."""
    k, n = 32, 4096
    a, b = np.full((16, k), 1e-20, np.float32), np.full((k, n), 1e-20, np.float32)
    for n_threads in (1, 2):
        assert np.allclose(gemm(a, b, n_threads=n_threads), k * 1e-40, rtol=1e-3, atol=0)


def test_a_product_follows_its_arrays():
    a, b, out = _operands(37, 300, 65)
    product = MatrixProduct(a, b, out, n_threads=2)
    product()
    first = out.copy()
    a *= 2
    product()
    assert np.array_equal(out, 2 * first)
    assert product.out is out


def test_many_callers_at_once():
    a, b, _ = _operands(256, 400, 256)
    expected = gemm(a, b, n_threads=1).tobytes()
    results = []

    def call():
        results.extend(gemm(a, b, n_threads=1 + i % 3).tobytes() == expected for i in range(60))

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 300


AT_EXIT = """
import os, sys, threading
import numpy as np
from fastmnist import gemm
a = np.ones((512, 512), np.float32)
gemm(a, a, n_threads=3)
child = os.fork() if sys.argv[1] == "fork" else 0
if child:
    assert os.waitpid(child, 0)[1] == 0
if sys.argv[1] == "busy":
    threading.Thread(target=lambda: [gemm(a, a, n_threads=2) for _ in range(10**6)], daemon=True).start()
assert (gemm(a, a, n_threads=3) == 512).all()
print("fine", flush=True)
"""


@pytest.mark.parametrize(
    "how", ["plain", "busy", pytest.param("fork", marks=pytest.mark.skipif(sys.platform == "win32", reason="no fork"))]
)
def test_helpers_let_the_interpreter_go(how):
    run = subprocess.run([sys.executable, "-c", AT_EXIT, how], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) == {"fine"}


def test_shares_cover_the_result_once():
    for m, n in [(1, 1), (0, 5), (5, 0), (32, 128), (33, 500), (1000, 10), (7, 4096), (130, 130)]:
        for n_threads in (1, 2, 3, 7, 40):
            covered = np.zeros((m, n), int)
            shares = _shares(m, n, 10 * LEAST_SHARE, n_threads)
            for above, below, left, right in shares:
                covered[above:below, left:right] += 1
            assert (covered == 1).all()
            assert 1 <= len(shares) <= n_threads
    assert len(_shares(64, 64, 4, 8)) == 1  # too small to be worth a hand-over


EVERY_SECOND = np.ones((3, 10), np.float32)[:, ::2]


def _good():
    return np.ones((4, 3), np.float32), np.ones((3, 5), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, r"a must have dtype float32; got float64.*astype", lambda a, b: gemm(a.astype(float), b)),
        (TypeError, r"b must be a NumPy array of float32; got list", lambda a, b: gemm(a, b.tolist())),
        (TypeError, "a must be a NumPy array of float32; got MaskedArray", lambda a, b: gemm(np.ma.array(a), b)),
        (TypeError, "dtype float32; got >f4", lambda a, b: gemm(a.astype(">f4"), b)),
        (ValueError, r"b must be a matrix; got shape \(3,\)", lambda a, b: gemm(a, b[:, 0])),
        (ValueError, r"as many columns as b has rows; got shapes \(4, 3\) and \(5, 3\)", lambda a, b: gemm(a, b.T)),
        (
            ValueError,
            r"b must be stored by rows or by columns.*ascontiguousarray\(b\)",
            lambda a, b: gemm(a, np.ones((3, 9, 2), np.float32)[:, :5, 0]),
        ),
        (
            ValueError,
            r"out must have shape \(4, 5\).*got \(5, 4\)",
            lambda a, b: gemm(a, b, np.empty((5, 4), np.float32)),
        ),
        (
            ValueError,
            r"out must be stored by rows.*gemm\(b.T, a.T, out.T\)",
            lambda a, b: gemm(a, b, np.empty((5, 4), np.float32).T),
        ),
        (
            ValueError,
            "out's rows overlap",
            lambda a, b: gemm(a, b, np.lib.stride_tricks.as_strided(np.zeros(99, np.float32), (4, 5), (8, 4))),
        ),
        (ValueError, r"beta = 2 needs the old content of out", lambda a, b: gemm(a, b, beta=2)),
        (ValueError, r"alpha must be a finite number.*got nan", lambda a, b: gemm(a, b, alpha=np.nan)),
        (ValueError, r"beta must be a finite number.*got 1e\+39", lambda a, b: gemm(a, b, beta=1e39)),
        (ValueError, r"n_threads must be an integer >= 1, or None; got 0", lambda a, b: gemm(a, b, n_threads=0)),
        (ValueError, r"out must not share memory with a", lambda a, b: gemm(a, b[:, :3], a)),
    ],
)
def test_errors_teach(error, message, change):
    with pytest.raises(error, match=message):
        change(*_good())


def test_read_only_results_are_refused():
    a, b = _good()
    out = np.empty((4, 5), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        gemm(a, b, out)


def test_columns_of_one_array_may_be_operands_and_result():
    whole = np.ones((64, 100), np.float32)
    gemm(whole[:, :30], np.ones((30, 40), np.float32), whole[:, 50:90])
    assert (whole[:, 50:90] == 30).all()
    assert (whole[:, :50] == 1).all()


def test_views_of_any_direction():
    a, b, _ = _operands(20, 30, 40)
    exact = a.astype(np.float64) @ b
    assert np.allclose(gemm(a[::-1], b), exact[::-1], atol=1e-5)
    assert np.allclose(gemm(a[::2], b), exact[::2], atol=1e-5)
    assert np.allclose(gemm(np.broadcast_to(a[:1], (6, 30)), b), np.repeat(exact[:1], 6, axis=0), atol=1e-5)


def test_caches_are_read_and_assumed(tmp_path):
    told = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"), ("3", "Unified", "what")]
    for index, (level, kind, size) in enumerate(told):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    assert caches.detect(tmp_path) == {1: 48 << 10, 2: 2 << 20}
    assert caches.detect(tmp_path / "none") == caches.FALLBACK
    (tmp_path / "index0" / "size").write_text("0K\n")
    assert caches.detect(tmp_path)[1] == caches.FALLBACK[1]
