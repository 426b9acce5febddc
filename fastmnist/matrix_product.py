"""Matrix products of our own kernels, for NumPy arrays, on any number of threads: `gemm` once, `MatrixProduct` many times over."""

from __future__ import annotations

import ctypes
import numbers
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np

from fastmnist import backends
from fastmnist.kernels.cpu.layout import ROW_WORDS
from fastmnist.threads import default_threads

# Multiply-adds for each thread, at least: handing a share over costs a microsecond or two, in which a core does some hundred thousand.
LEAST_SHARE = 500_000
# A share is whole tiles of every machine's kernels (kernels/cpu/tile.py): smaller ones would run at a fraction of the speed.
SHARE_ROWS, SHARE_COLUMNS = 4, 64
FLOAT = np.dtype(np.float32)
_entry_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def gemm(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    n_threads: int | None = None,
) -> np.ndarray:
    """`out = alpha a b + beta out` in float32 (level 3 BLAS' `sgemm`, Dongarra et al. 1990).

    Parameters
    ----------
    a : ndarray of float32, shape (m, k)
    b : ndarray of float32, shape (k, n)
        Row-major or column-major, with any leading dimension: blocks and transposes (`w.T`) of larger arrays are taken as they are.
    out : ndarray of float32, shape (m, n), optional
        Row-major, with any leading dimension. Allocated if not given. Where `beta` is 0 its old content is not read: NaN there does not spread.
    alpha, beta : float, default=1, 0
        With `alpha` 0, a and b are not read.
    n_threads : int, optional
        At most so many; fewer where the product is small. The default is what the affinity mask, the control groups, `FASTMNIST_NUM_THREADS`
        and joblib allow. The bits of the result do not depend on it.

    Returns
    -------
    ndarray
        `out`.

    Raises
    ------
    TypeError
        An operand is no NumPy array of float32.
    ValueError
        Shapes do not fit, memory is not laid out by rows or columns, `out` shares memory with `a` or `b` or is read-only, `beta` is not 0
        without `out`.
    fastmnist.BackendUnavailable
        Compiled code cannot run here.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmnist import gemm
    >>> x, w = np.ones((2, 3), np.float32), np.full((4, 3), 2, np.float32)
    >>> gemm(x, w.T)
    array([[6., 6., 6., 6.],
           [6., 6., 6., 6.]], dtype=float32)
    """
    product = MatrixProduct(a, b, out, alpha=alpha, beta=beta, n_threads=n_threads)
    product()
    return product.out


class MatrixProduct:
    """`gemm` prepared once: calling it computes from what its arrays hold then, without checks.

    Parameters, errors and numbers are those of `gemm`.

    Attributes
    ----------
    out : ndarray
    n_threads : int
        Threads that compute.
    """

    def __init__(
        self,
        a: np.ndarray,
        b: np.ndarray,
        out: np.ndarray | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        n_threads: int | None = None,
    ) -> None:
        encode, self._run_at_once = _compiled()
        a_transposed, b_transposed = _layout("a", a), _layout("b", b)
        if a.shape[1] != b.shape[0]:
            raise ValueError(
                f"a must have as many columns as b has rows; got shapes {a.shape} and {b.shape}. Transpose one?"
            )
        scalars = [_scalar("alpha", alpha), _scalar("beta", beta)]
        shape = (a.shape[0], b.shape[1])
        if out is None:
            if scalars[1] != 0:
                raise ValueError(f"beta = {scalars[1]:g} needs the old content of out; pass out, or leave beta at 0.")
            out = np.empty(shape, FLOAT)
        _check_out(out, shape, a, b)
        self.out = out
        self._inputs = a, b  # kept alive: compiled code has their addresses
        shares = _shares(*shape, a.shape[1], _threads(n_threads))
        op = f"gemm_{'t' if a_transposed else 'n'}{'t' if b_transposed else 'n'}"
        self._rows = np.zeros((len(shares), ROW_WORDS), np.int64)
        for row, (above, below, left, right) in zip(self._rows, shares, strict=True):
            ours, theirs = a[above:below], b[:, left:right]
            operands = [
                out[above:below, left:right],
                ours.T if a_transposed else ours,
                theirs.T if b_transposed else theirs,
            ]
            encode(
                row, op, [(x.ctypes.data, x.shape, x.strides[0] // x.itemsize, "float32") for x in operands], scalars
            )
        self.n_threads = len(shares)
        self._address = self._rows.ctypes.data
        self._entry = _entry_type(int(self._rows[0, 0]))

    def __call__(self) -> None:
        """Compute `out`."""
        if self.n_threads == 1:
            self._entry(self._address)
        else:
            self._run_at_once(self._rows, self.n_threads)


@cache
def _compiled() -> tuple[Callable, Callable]:
    """What runs compiled code; asked for once, since the answer takes longer than a small product."""
    backends.require("numba")
    from fastmnist.backends.crew import run_at_once
    from fastmnist.kernels import cpu

    return cpu.encode, run_at_once


def _layout(name: str, x: np.ndarray) -> bool:
    """Whether a matrix is stored by columns; refuses what is no float32 matrix stored by rows or columns."""
    if not isinstance(x, np.ndarray) or isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be a NumPy array of float32; got {type(x).__name__}. Convert it: np.asarray({name}, np.float32)."
        )
    if x.dtype != FLOAT:
        raise TypeError(f"{name} must have dtype float32; got {x.dtype}. Convert it: {name}.astype(np.float32).")
    if x.ndim != 2:
        raise ValueError(
            f"{name} must be a matrix; got shape {x.shape}. A vector is one row or one column: reshape it."
        )
    if x.flags.aligned:
        if x.size == 0 or x.shape[1] == 1 or x.strides[1] == x.itemsize:
            return False
        if x.shape[0] == 1 or x.strides[0] == x.itemsize:
            return True
    raise ValueError(
        f"{name} must be stored by rows or by columns, elements side by side; got strides {x.strides} (bytes). "
        f"Copy it: np.ascontiguousarray({name})."
    )


def _check_out(out: np.ndarray, shape: tuple[int, int], a: np.ndarray, b: np.ndarray) -> None:
    by_columns = _layout("out", out)
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape} for a of {a.shape} and b of {b.shape}; got {out.shape}.")
    if by_columns:
        raise ValueError(
            f"out must be stored by rows; got strides {out.strides} (bytes). For out.T compute gemm(b.T, a.T, out.T)."
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only; pass an array that may be written to.")
    if out.shape[0] > 1 and abs(out.strides[0]) < out.shape[1] * out.itemsize:
        raise ValueError(
            f"out's rows overlap in memory (strides {out.strides}); pass an array of its own: np.empty({shape})."
        )
    for name, x in (("a", a), ("b", b)):
        if np.may_share_memory(out, x) and _share(out, x):
            raise ValueError(f"out must not share memory with {name}, which is read while out is written. Copy {name}.")


def _share(x: np.ndarray, y: np.ndarray) -> bool:
    try:
        return np.shares_memory(x, y, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True  # not proven to lie apart


def _scalar(name: str, value: float) -> float:
    if not isinstance(value, numbers.Real) or not abs(float(value)) <= float(np.finfo(FLOAT).max):
        raise ValueError(f"{name} must be a finite number within float32's range; got {value!r}.")
    return float(value)


def _threads(n_threads: int | None) -> int:
    if n_threads is None:
        return default_threads()
    if not isinstance(n_threads, numbers.Integral) or n_threads < 1:
        raise ValueError(f"n_threads must be an integer >= 1, or None; got {n_threads!r}.")
    return int(n_threads)


def _shares(m: int, n: int, k: int, n_threads: int) -> list[tuple[int, int, int, int]]:
    """Cut an m x n result into one share a thread: (first row, end, first column, end), whole tiles where it can be.

    Threads own rows or columns, whichever divides more evenly. If both do, the longer side is cut: what all threads then read is the smaller operand.
    """
    n_threads = max(1, min(n_threads, m * n * k // LEAST_SHARE))
    tiles_down, tiles_across = -(-m // SHARE_ROWS), -(-n // SHARE_COLUMNS)
    by_rows = -(-tiles_down // n_threads) * tiles_across
    by_columns = tiles_down * -(-tiles_across // n_threads)
    if by_rows < by_columns or (by_rows == by_columns and m > n):
        return [(lo, hi, 0, n) for lo, hi in _cut(m, SHARE_ROWS, n_threads)]
    return [(0, m, lo, hi) for lo, hi in _cut(n, SHARE_COLUMNS, n_threads)]


def _cut(size: int, unit: int, parts: int) -> list[tuple[int, int]]:
    """At most `parts` ranges of whole units, the last one ragged; at least one."""
    units = -(-size // unit)
    bounds = [min(size, units * part // parts * unit) for part in range(parts + 1)]
    return [(lo, hi) for lo, hi in pairwise(bounds) if lo < hi] or [(0, size)]
