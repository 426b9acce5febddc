"""Matrix products, and the fully connected layer.

`gemm_*`: c (B, O), the sum runs over I. `linear*`: x (B, I), w (I, O), b (O,), y (B, O).
"""

from __future__ import annotations

import numpy as np

from .common import Array, ieee
from .optimizers import sgd


def _accumulate(c: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """`c = alpha a b + beta c`; what is multiplied by an exact 0 is not read: NaN there does not spread."""
    old = c * c.dtype.type(beta) if beta != 0 else np.zeros_like(c)
    c[...] = c.dtype.type(alpha) * (a @ b) + old if alpha != 0 else old


@ieee
def gemm_nn(c: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """`c = alpha a b + beta c`; a (B, I), b (I, O)."""
    _accumulate(c, a, b, alpha, beta)


@ieee
def gemm_nt(c: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """`c = alpha a b^T + beta c`; a (B, I), b (O, I)."""
    _accumulate(c, a, b.T, alpha, beta)


@ieee
def gemm_tn(c: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """`c = alpha a^T b + beta c`; a (I, B), b (I, O)."""
    _accumulate(c, a.T, b, alpha, beta)


@ieee
def gemm_tt(c: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """`c = alpha a^T b^T + beta c`; a (I, B), b (O, I)."""
    _accumulate(c, a.T, b.T, alpha, beta)


@ieee
def linear(y: Array, x: Array, w: Array, b: Array) -> None:
    """`y = x w + b`."""
    y[...] = x @ w + b


@ieee
def linear_relu(y: Array, x: Array, w: Array, b: Array) -> None:
    """`y = max(x w + b, 0)`."""
    y[...] = np.maximum(x @ w + b, 0)


@ieee
def linear_dx(dx: Array, dy: Array, w: Array) -> None:
    """`dx = dy w^T`."""
    dx[...] = dy @ w.T


@ieee
def linear_dx_add(dx: Array, dy: Array, w: Array) -> None:
    """`dx += dy w^T`."""
    dx[...] = dx + dy @ w.T


@ieee
def linear_dx_relu(dx: Array, dy: Array, w: Array, y: Array) -> None:
    """`dx = dy w^T where y > 0, else 0`."""
    dx[...] = np.where(y > 0, dy @ w.T, 0)


@ieee
def linear_dx_add_relu(dx: Array, dy: Array, w: Array, y: Array) -> None:
    """`dx = dx + dy w^T where y > 0, else 0`."""
    dx[...] = np.where(y > 0, dx + dy @ w.T, 0)


@ieee
def linear_dw(dw: Array, x: Array, dy: Array) -> None:
    """`dw = x^T dy`."""
    dw[...] = x.T @ dy


@ieee
def linear_dw_add(dw: Array, x: Array, dy: Array) -> None:
    """`dw += x^T dy`."""
    dw[...] = dw + x.T @ dy


@ieee
def linear_dw_sgd(w: Array, x: Array, dy: Array, hyper: Array, cursor: Array) -> None:
    """`w -= step_size (x^T dy + l2 w)`."""
    sgd(w, x.T @ dy, hyper, cursor)


@ieee
def linear_db(db: Array, dy: Array) -> None:
    """`db = column sums of dy`."""
    db[...] = dy.sum(axis=0)


@ieee
def linear_db_add(db: Array, dy: Array) -> None:
    """`db += column sums of dy`."""
    db[...] = db + dy.sum(axis=0)
