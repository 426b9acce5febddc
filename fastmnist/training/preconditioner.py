"""Variables in which L-BFGS needs few iterations: those in which the features are nearly uncorrelated.

The Hessian of a logistic loss is at most a constant times the features' second moments `G = mean_i(x_i x_i')` (Böhning 1992, "Multinomial logistic
regression algorithm", Ann. Inst. Stat. Math. 44; with his bound as the metric of every step). For images G is far from a multiple of the identity:
neighbouring pixels rise together, those of the border hardly ever. L-BFGS learns the metric from its last ten steps only. So it is given one:
with `T' (c G + l2 I) T = I` the search is for u in `w = T u`. The objective and its minimum are the same; so is the rule that ends the search, which
looks at the gradient with respect to w.

On MNIST, 60,000 images, the objective that takes plain L-BFGS 112 evaluations takes 15. G comes from some thousand rows: it need not be exact.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.linalg import blas, lapack

from fastmnist.backends.device_rows import DeviceRows
from fastmnist.backends.rows import Matrix, convert

ROWS_PER_FEATURE = 8  # of which G is estimated; with 4 MNIST took 21 evaluations, with 8 15, with 16 no fewer
# Added to G's diagonal, times the square of the feature's largest value: what so few rows know of rare features is mostly chance. A share of the
# largest value, not of the mean square, so that rare pixels get more of it, and features of any unit the same. Of 0.001 to 0.1 the best for
# MNIST, and within a third of the best for wine, digits and unscaled breast cancer.
SHRINKAGE = 0.01
DIAGONAL_ROWS = 1024  # of which the diagonal alone is estimated
MOST_FEATURES = 4096  # T takes 8 bytes times their square
GRAM_STRIPS = (
    3  # of a symmetric product; more leave out more of its half that nobody needs, but are products of fewer rows
)
WORTH_EVALUATIONS = 25  # a full T may cost as much arithmetic as so many evaluations, else the diagonal of G has to do


class Preconditioner:
    """A linear change of variables, the same for every output.

    Parameters
    ----------
    transform : ndarray, float64
        T: `(m, m)` upper triangular (by columns, as BLAS has matrices, it is not copied), or `(m,)` for a diagonal one; m counts the features, and
        the intercept where there is one.
    """

    def __init__(self, transform: np.ndarray) -> None:
        self.transform = transform

    def to_parameters(self, u: np.ndarray) -> np.ndarray:
        """T u, a column for each output."""
        return blas.dtrmm(1.0, self.transform, u) if self._is_full else self.transform[:, None] * u

    def to_variables(self, w: np.ndarray) -> np.ndarray:
        """The u with T u = w."""
        return scipy.linalg.solve_triangular(self.transform, w) if self._is_full else w / self.transform[:, None]

    def to_gradient(self, gradient: np.ndarray) -> np.ndarray:
        """Gradient with respect to u of what has this gradient with respect to w: T' gradient."""
        return (
            blas.dtrmm(1.0, self.transform, gradient, trans_a=1)
            if self._is_full
            else self.transform[:, None] * gradient
        )

    @property
    def _is_full(self) -> bool:
        return self.transform.ndim == 2


def make_preconditioner(
    X: Matrix,
    *,
    scale: float,
    sample_weight: np.ndarray | None,
    n_outputs: int,
    l2: float,
    fit_intercept: bool,
    dtype: np.dtype,
    max_memory: int,
) -> Preconditioner:
    """For a logistic model on the rows of X.

    Parameters
    ----------
    X : ndarray or csr_array of shape (n, n_features)
    scale : float
        What the values of X are multiplied by.
    sample_weight : ndarray of shape (n,) or None
    n_outputs : int
    l2 : float
        As in `Objective`.
    fit_intercept : bool
    dtype : dtype
        In which the executor computes: float32 products are our own, float64 ones NumPy's.
    max_memory : int
        Bytes that may be taken.

    Returns
    -------
    Preconditioner
        Full where that costs little beside the evaluations that it saves; else diagonal.
    """
    n_columns = X.shape[1] + fit_intercept
    share = 1 / n_outputs
    curvature = share * (1 - share) if n_outputs > 1 else 0.25  # p (1 - p) of classes that are equally frequent
    penalty = np.full(n_columns, l2)
    penalty[X.shape[1] :] = 0  # the intercept is not penalised
    full = _is_worth_it(X, n_columns, n_outputs, dtype.itemsize, max_memory)
    part, weights = _sample(X, sample_weight, _full_rows(X) if full else min(_full_rows(X), DIAGONAL_ROWS))
    largest = _largest(part, scale, n_columns)
    added = SHRINKAGE + penalty / (curvature * largest**2)
    unit = largest * math.sqrt(curvature)
    if not full:
        return Preconditioner(1 / (unit * np.sqrt(_mean_squares(part, weights, scale, largest) + added)))
    rows = _scaled_rows(part, np.r_[np.full(X.shape[1], scale), np.ones(n_columns - X.shape[1])] / largest, dtype)
    if sample_weight is None:
        weight = 1 / len(rows)
    else:
        weight = 1.0
        rows *= np.sqrt(weights).astype(dtype)[:, None]
    moments = weight * (_upper_gram(rows) if dtype == np.float32 else rows.T @ rows).astype(np.float64)
    moments[np.diag_indices_from(moments)] += added
    inverse, _ = lapack.dtrtri(scipy.linalg.cholesky(moments, overwrite_a=True))
    return Preconditioner(inverse / unit[:, None])


def _scaled_rows(part: Matrix, factors: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rows with a column of ones where there are more factors than features, times the factors: now at most 1."""
    n_features = part.shape[1]
    rows = np.ones((part.shape[0], len(factors)), dtype)
    if isinstance(part, np.ndarray) and part.dtype == np.uint8:  # in one pass
        np.multiply(part, factors[:n_features].astype(dtype), out=rows[:, :n_features])
        return rows
    convert(part, dtype, out=rows[:, :n_features])
    rows *= factors.astype(dtype)
    return rows


def _upper_gram(rows: np.ndarray) -> np.ndarray:
    """`rows.T @ rows`, float32, by columns; below the diagonal only in part."""
    from fastmnist.matrix_product import gemm  # here: with LLVM, which nobody else needs before a fit

    m = rows.shape[1]
    gram = np.zeros((m, m), rows.dtype)
    for lo, hi in pairwise(np.linspace(0, m, GRAM_STRIPS + 1).astype(int)):
        gemm(rows.T[lo:hi], rows[:, :hi], gram[lo:hi, :hi])
    return gram.T


def _full_rows(X: Matrix) -> int:
    return min(X.shape[0], ROWS_PER_FEATURE * X.shape[1])


def _sample(X: Matrix, sample_weight: np.ndarray | None, n_rows: int) -> tuple[Matrix, np.ndarray]:
    """Rows at equal distances, and their weights, which add up to 1."""
    weighted = np.arange(X.shape[0]) if sample_weight is None else np.flatnonzero(sample_weight)
    n = min(len(weighted), n_rows)
    chosen = weighted[np.linspace(0, len(weighted) - 1, n).astype(np.intp)]
    weights = np.ones(n) if sample_weight is None else np.asarray(sample_weight, np.float64)[chosen]
    part = X[chosen]
    return part.dense() if isinstance(part, DeviceRows) else part, weights / weights.sum()


def _largest(part: Matrix, scale: float, n_columns: int) -> np.ndarray:
    """Largest absolute value of each column, 1 for the intercept's; a feature that no row has counts as the smallest of the others."""
    values = np.maximum(_dense(part.max(axis=0)), -_dense(part.min(axis=0))) * scale
    seen = values > 0
    values[~seen] = values[seen].min() if seen.any() else 1.0
    return np.r_[values, np.ones(n_columns - part.shape[1])]


def _dense(row: np.ndarray | scipy.sparse.coo_array) -> np.ndarray:
    return np.asarray(row if isinstance(row, np.ndarray) else row.toarray(), np.float64).ravel()


def _mean_squares(part: Matrix, weights: np.ndarray, scale: float, largest: np.ndarray) -> np.ndarray:
    """Of each column, over its largest value; 1 for the intercept's."""
    squares = np.ones(len(largest))
    if isinstance(part, np.ndarray):
        of_features = np.einsum("ij,ij,i->j", part, part, weights, dtype=np.float64, casting="unsafe")
    else:
        of_features = part.astype(np.float64).power(2).T @ weights
    squares[: part.shape[1]] = of_features * (scale / largest[: part.shape[1]]) ** 2
    return squares


def _is_worth_it(X: Matrix, n_columns: int, n_outputs: int, itemsize: int, max_memory: int) -> bool:
    """Whether a full T costs less than the evaluations that it is allowed to, and the memory is there."""
    n_rows = _full_rows(X)
    cost = 2 * n_rows * n_columns**2 + n_columns**3
    sample = n_rows * n_columns * (X.dtype.itemsize + itemsize)
    memory = sample + n_columns**2 * (itemsize + 3 * 8)
    affordable = cost <= WORTH_EVALUATIONS * 4 * X.shape[0] * n_columns * n_outputs and memory <= max_memory
    return n_columns <= MOST_FEATURES + 1 and affordable
