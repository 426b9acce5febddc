"""Every op of the contract in plain NumPy: the readable specification, and the oracle of all other implementations.

One function an op, with the contract's name and positional order: outputs, inputs, parameters; returns None. Outputs
are written in place and may be strided views of larger arrays, hence `y[...] = ...` throughout. Arithmetic is done in
the operands' own float type, float32 or float64 alike. The formulas are `contract.py`'s; where one would overflow or
cancel as it is written there, its stable form stands here, with the reason.

The alphabet: B rows of a batch, I inputs, O outputs, C classes, N rows of the data set, M entries of the order, S steps
of an epoch, R x Q any matrix; of images H W C height, width and channels, OH and OW those of what a layer makes.

Numbers behave as in IEEE 754, silently: overflow gives inf, inf - inf gives NaN, and NaN stays NaN (`relu` of NaN is
NaN).

Sources: log-sum-exp and softmax, Blanchard, Higham & Higham 2021 ("Accurately computing the log-sum-exp and softmax
functions"); Adam, Kingma & Ba 2015; GELU, Hendrycks & Gimpel 2016; Philox, Salmon et al. 2011 ("Parallel random
numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

from .contract import BLOCK

Array = NDArray

_ieee = np.errstate(all="ignore")  # as a decorator: inf and NaN are results here, not events to report


# --- reading the batch ------------------------------------------------------------------------------------------------


def advance(cursor: Array, rows: float) -> None:
    """On to the next batch: `rows` further in the order, one step further in the epoch."""
    cursor[0] += int(rows)
    cursor[1] += 1


def _batch(order: Array, cursor: Array, n_rows: int) -> Array:
    """Rows of the data set that form the current batch of `n_rows`."""
    start = int(cursor[0])
    return order[start : start + n_rows]


@_ieee
def gather_rows(x: Array, source: Array, order: Array, cursor: Array, scale: float) -> None:
    """`x[r] = scale * source[order[cursor[0] + r]]`; x (B, I), source (N, I)."""
    rows = source[_batch(order, cursor, len(x))]
    x[...] = rows.astype(x.dtype) * x.dtype.type(scale)


def scatter_rows(target: Array, p: Array, cursor: Array) -> None:
    """`target[cursor[0] + r] = p[r]`; target (M, C), p (B, C)."""
    start = int(cursor[0])
    target[start : start + len(p)] = p


# --- matrix products: c (B, O), the sum runs over I -------------------------------------------------------------------


def _accumulate(c: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """`c = alpha a b + beta c`; what is multiplied by an exact 0 is not read: NaN there does not spread."""
    old = c * c.dtype.type(beta) if beta != 0 else np.zeros_like(c)
    c[...] = c.dtype.type(alpha) * (a @ b) + old if alpha != 0 else old


@_ieee
def gemm_nn(c: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """`c = alpha a b + beta c`; a (B, I), b (I, O)."""
    _accumulate(c, a, b, alpha, beta)


@_ieee
def gemm_nt(c: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """`c = alpha a b^T + beta c`; a (B, I), b (O, I)."""
    _accumulate(c, a, b.T, alpha, beta)


@_ieee
def gemm_tn(c: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """`c = alpha a^T b + beta c`; a (I, B), b (I, O)."""
    _accumulate(c, a.T, b, alpha, beta)


@_ieee
def gemm_tt(c: Array, a: Array, b: Array, alpha: float, beta: float) -> None:
    """`c = alpha a^T b^T + beta c`; a (I, B), b (O, I)."""
    _accumulate(c, a.T, b.T, alpha, beta)


# --- fully connected layer: x (B, I), w (I, O), b (O,), y (B, O) ------------------------------------------------------


@_ieee
def linear(y: Array, x: Array, w: Array, b: Array) -> None:
    """`y = x w + b`."""
    y[...] = x @ w + b


@_ieee
def linear_relu(y: Array, x: Array, w: Array, b: Array) -> None:
    """`y = max(x w + b, 0)`."""
    y[...] = np.maximum(x @ w + b, 0)


@_ieee
def linear_dx(dx: Array, dy: Array, w: Array) -> None:
    """`dx = dy w^T`."""
    dx[...] = dy @ w.T


@_ieee
def linear_dx_add(dx: Array, dy: Array, w: Array) -> None:
    """`dx += dy w^T`."""
    dx[...] = dx + dy @ w.T


@_ieee
def linear_dw(dw: Array, x: Array, dy: Array) -> None:
    """`dw = x^T dy`."""
    dw[...] = x.T @ dy


@_ieee
def linear_dw_add(dw: Array, x: Array, dy: Array) -> None:
    """`dw += x^T dy`."""
    dw[...] = dw + x.T @ dy


@_ieee
def linear_db(db: Array, dy: Array) -> None:
    """`db = column sums of dy`."""
    db[...] = dy.sum(axis=0)


@_ieee
def linear_db_add(db: Array, dy: Array) -> None:
    """`db += column sums of dy`."""
    db[...] = db + dy.sum(axis=0)


# --- first layer on compressed rows: row i is columns[indptr[i]:indptr[i+1]] with values[...], each column at most once


def count_nonzeros(counts: Array, source: Array) -> None:
    """`counts[r]` = number of values of `source[r]` that are not 0."""
    counts[...] = (source != 0).sum(axis=1)


def compress_rows(columns: Array, values: Array, source: Array, indptr: Array) -> None:
    """The nonzeros of `source[r]` to `values[indptr[r]:indptr[r + 1]]`, their columns, ascending, to `columns[...]`."""
    for r, row in enumerate(source):
        stored = slice(indptr[r], indptr[r + 1])
        columns[stored] = np.flatnonzero(row)
        values[stored] = row[row != 0]


@_ieee
def sparse_linear(
    y: Array,
    indptr: Array,
    columns: Array,
    values: Array,
    w: Array,
    b: Array,
    order: Array,
    cursor: Array,
    scale: float,
) -> None:
    """`y = x w + b`, row r of x being the compressed row order[cursor[0] + r]; what is not stored is not multiplied."""
    for r, i in enumerate(_batch(order, cursor, len(y))):
        stored = slice(indptr[i], indptr[i + 1])
        pixels = values[stored].astype(y.dtype) * y.dtype.type(scale)
        y[r] = pixels @ w[columns[stored]] + b


@_ieee
def sparse_linear_relu(
    y: Array,
    indptr: Array,
    columns: Array,
    values: Array,
    w: Array,
    b: Array,
    order: Array,
    cursor: Array,
    scale: float,
) -> None:
    """`y = max(x w + b, 0)`, x as in `sparse_linear`."""
    sparse_linear(y, indptr, columns, values, w, b, order, cursor, scale)
    relu(y, y)


@_ieee
def skipping_linear(y: Array, source: Array, w: Array, b: Array, order: Array, cursor: Array, scale: float) -> None:
    """`y = x w + b`, row r of x being source[order[cursor[0] + r]] times scale; zeros are not multiplied."""
    for r, row in enumerate(source[_batch(order, cursor, len(y))]):
        pixels = row[row != 0].astype(y.dtype) * y.dtype.type(scale)
        y[r] = pixels @ w[row != 0] + b


@_ieee
def skipping_linear_relu(
    y: Array, source: Array, w: Array, b: Array, order: Array, cursor: Array, scale: float
) -> None:
    """`y = max(x w + b, 0)`, x as in `skipping_linear`."""
    skipping_linear(y, source, w, b, order, cursor, scale)
    relu(y, y)


@_ieee
def sparse_transpose(
    counts: Array,
    rows: Array,
    entries: Array,
    indptr: Array,
    columns: Array,
    values: Array,
    order: Array,
    cursor: Array,
    scale: float,
) -> None:
    """The batch by feature: which of its rows store feature i, ascending, and with what values.

    These are rows[i, :counts[i]] and entries[i, :counts[i]]; what lies behind is left as it was. counts (I,) int32,
    rows (I, B) int32, entries (I, B).
    """
    counts[...] = 0
    for r, i in enumerate(_batch(order, cursor, rows.shape[1])):
        stored = slice(indptr[i], indptr[i + 1])
        features = columns[stored]
        slots = counts[features]
        rows[features, slots] = r
        entries[features, slots] = values[stored].astype(entries.dtype) * entries.dtype.type(scale)
        counts[features] += 1


@_ieee
def sparse_linear_dw(dw: Array, counts: Array, rows: Array, entries: Array, dy: Array) -> None:
    """`dw = x^T dy`, x by feature as `sparse_transpose` leaves it."""
    for i, n in enumerate(counts):
        dw[i] = entries[i, :n] @ dy[rows[i, :n]]


@_ieee
def sparse_linear_dw_add(
    dw: Array,
    indptr: Array,
    columns: Array,
    values: Array,
    dy: Array,
    order: Array,
    cursor: Array,
    scale: float,
) -> None:
    """`dw += x^T dy`, x as in `sparse_linear`; rows are added in ascending order."""
    for r, i in enumerate(_batch(order, cursor, len(dy))):
        stored = slice(indptr[i], indptr[i + 1])
        pixels = values[stored].astype(dw.dtype) * dw.dtype.type(scale)
        dw[columns[stored]] += np.outer(pixels, dy[r])


# --- images: each a row, pixel by pixel, the channels of a pixel side by side ------------------------------------------


def _image(x: Array, height: float, width: float) -> Array:
    """The rows of x as images (B, height, width, channels)."""
    return x.reshape(len(x), int(height), int(width), x.shape[1] // max(int(height) * int(width), 1))


def _steps(size: float, window: float, stride: float) -> int:
    """How many places a window of that size has."""
    return (int(size) - int(window)) // int(stride) + 1


def _windows(x: Array, height: float, width: float, rows: float, columns: float, stride: float) -> Array:
    """Every window of rows x columns pixels of every image: (B, OH, OW, rows, columns, channels)."""
    image, step = _image(x, height, width), int(stride)
    windows = np.lib.stride_tricks.sliding_window_view(image, (int(rows), int(columns)), axis=(1, 2))
    return np.moveaxis(windows[:, ::step, ::step], 3, -1)


def _add_windows(dx: Array, sent: Array, height: float, width: float, stride: float) -> None:
    """`dx` = the sum of what each window sends to its pixels; sent (B, OH, OW, rows, columns, channels)."""
    _, out_height, out_width, rows, columns, _ = sent.shape
    step = int(stride)
    image = np.zeros_like(_image(np.zeros(dx.shape, dx.dtype), height, width))
    for i in range(rows):
        for j in range(columns):
            # The pixels that stand at (i, j) of the windows, one for each window.
            down, across = slice(i, i + step * out_height, step), slice(j, j + step * out_width, step)
            image[:, down, across] += sent[:, :, :, i, j]
    dx[...] = image.reshape(dx.shape)


def _pixels(y: Array, channels: int) -> Array:
    """All pixels of all images, (B OH OW, channels)."""
    return y.reshape(-1, channels)


@_ieee
def conv2d(
    y: Array,
    x: Array,
    w: Array,
    b: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> None:
    """`y[oy, ox] = window(oy, ox) w + b`: x (B, H W C), w (kernel_height kernel_width C, O), y (B, OH OW O)."""
    windows = _windows(x, height, width, kernel_height, kernel_width, stride)
    y[...] = (windows.reshape(-1, w.shape[0]) @ w + b).reshape(y.shape)


@_ieee
def conv2d_relu(
    y: Array,
    x: Array,
    w: Array,
    b: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> None:
    """`y = max(conv2d, 0)`."""
    conv2d(y, x, w, b, height, width, channels, kernel_height, kernel_width, stride)
    relu(y, y)


@_ieee
def conv2d_dx(
    dx: Array,
    dy: Array,
    wt: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> None:
    """Each output pixel sends `dy wt` back to its window; what a pixel of the input gets is added up."""
    places = _steps(height, kernel_height, stride), _steps(width, kernel_width, stride)
    window = int(kernel_height), int(kernel_width), int(channels)
    sent = (_pixels(dy, len(wt)) @ wt).reshape(len(dy), *places, *window)
    _add_windows(dx, sent, height, width, stride)


@_ieee
def conv2d_dw(
    dw: Array,
    x: Array,
    dy: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> None:
    """`dw = sum over images and output pixels of the window's values times dy`."""
    windows = _windows(x, height, width, kernel_height, kernel_width, stride)
    dw[...] = windows.reshape(-1, dw.shape[0]).T @ _pixels(dy, dw.shape[1])


@_ieee
def conv2d_dw_add(
    dw: Array,
    x: Array,
    dy: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
) -> None:
    """`dw += ...` as in `conv2d_dw`."""
    windows = _windows(x, height, width, kernel_height, kernel_width, stride)
    dw[...] = dw + windows.reshape(-1, dw.shape[0]).T @ _pixels(dy, dw.shape[1])


@_ieee
def conv2d_db(db: Array, dy: Array) -> None:
    """`db = sum of dy over images and pixels`."""
    db[...] = _pixels(dy, len(db)).sum(axis=0)


@_ieee
def conv2d_db_add(db: Array, dy: Array) -> None:
    """`db += sum of dy over images and pixels`."""
    db[...] = db + _pixels(dy, len(db)).sum(axis=0)


# Lavin and Gray 2016 at the points 0, 1, -1, 2, -2, infinity: what F(4 x 4, 3 x 3) multiplies tiles, filters and products by.
_PIXEL_TRANSFORM = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_FILTER_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT_TRANSFORM = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def _combine(coefficients: tuple[tuple[float, ...], ...], a: Array, axis: int) -> Array:
    """The matrix times a along an axis; terms whose coefficient is 0 are left out, so that infinity stays out of them."""
    parts = np.moveaxis(a, axis, 0)
    sums = [sum(a.dtype.type(c) * part for c, part in zip(row, parts, strict=True) if c != 0) for row in coefficients]
    return np.moveaxis(np.stack(sums), 0, axis)


@_ieee
def winograd_filters(u: Array, w: Array) -> None:
    """`u = G w G^T` for each channel and filter: w (9 C, O), u (36 C, O)."""
    filters = w.reshape(3, 3, -1, w.shape[1])
    u[...] = _combine(_FILTER_TRANSFORM, _combine(_FILTER_TRANSFORM, filters, 0), 1).reshape(u.shape)


@_ieee
def conv2d_winograd(y: Array, x: Array, u: Array, b: Array, height: float, width: float, channels: float) -> None:
    """`y = A^T (sum over channels of u * B^T d B) A + b` for tiles of 4 x 4 pixels; x (B, H W C), u (36 C, O)."""
    out_height, out_width = int(height) - 2, int(width) - 2
    down, across = -(-out_height // 4), -(-out_width // 4)
    image = _image(x, height, width)
    image = np.pad(image, ((0, 0), (0, 4 * down - out_height), (0, 4 * across - out_width), (0, 0)))
    tiles = np.lib.stride_tricks.sliding_window_view(image, (6, 6), axis=(1, 2))[:, ::4, ::4]  # ..., channels, 6, 6
    pixels = _combine(_PIXEL_TRANSFORM, _combine(_PIXEL_TRANSFORM, tiles, 4), 5)
    products = np.moveaxis(pixels, (4, 5), (0, 1)).reshape(36, -1, int(channels)) @ u.reshape(36, int(channels), -1)
    products = products.reshape(6, 6, len(x), down, across, len(b))
    made = _combine(_OUTPUT_TRANSFORM, _combine(_OUTPUT_TRANSFORM, products, 0), 1)  # (4, 4, images, down, across, O)
    made = made.transpose(2, 3, 0, 4, 1, 5).reshape(len(x), 4 * down, 4 * across, len(b)) + b
    y[...] = made[:, :out_height, :out_width].reshape(y.shape)


@_ieee
def conv2d_winograd_relu(y: Array, x: Array, u: Array, b: Array, height: float, width: float, channels: float) -> None:
    """`y = max(conv2d_winograd, 0)`."""
    conv2d_winograd(y, x, u, b, height, width, channels)
    relu(y, y)


@_ieee
def conv2d_grey_pooled(
    y: Array,
    argmax: Array,
    x: Array,
    w: Array,
    b: Array,
    height: float,
    width: float,
    kernel_height: float,
    kernel_width: float,
) -> None:
    """`conv2d_relu` of one channel, then `max_pool` of 2 x 2 pixels."""
    rows, columns = _steps(height, kernel_height, 1), _steps(width, kernel_width, 1)
    made = np.empty((len(x), rows * columns * len(b)), x.dtype)
    conv2d_relu(made, x, w, b, height, width, 1, kernel_height, kernel_width, 1)
    max_pool(y, argmax, made, rows, columns, len(b), 2, 2, 2)


def _chosen_windows(
    x: Array, argmax: Array, window: tuple[float, ...], pool: tuple[float, ...], filters: int
) -> tuple[Array, tuple[Array, ...]]:
    """Indices of the windows of x that pooling chose, (B, PH, PW, O) each: image, row, column; and the windows, (B, OH, OW, K)."""
    windows = _windows(x, *window)
    rows, columns = _steps(windows.shape[1], pool[0], pool[2]), _steps(windows.shape[2], pool[1], pool[2])
    place = argmax.reshape(len(x), rows, columns, filters).astype(np.int64)
    image, row, column, _ = np.indices(place.shape, sparse=True)
    step, width = int(pool[2]), int(pool[1])
    chosen = image, row * step + place // width, column * step + place % width
    return windows.reshape(*windows.shape[:3], int(np.prod(windows.shape[3:]))), chosen


@_ieee
def conv2d_pooled_dwt(
    dwt: Array,
    x: Array,
    dy: Array,
    argmax: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
    pool_height: float,
    pool_width: float,
    pool_stride: float,
) -> None:
    """Of each filter: the sum of the windows that pooling chose, each times its dy where that is not 0."""
    window, pool = (height, width, kernel_height, kernel_width, stride), (pool_height, pool_width, pool_stride)
    windows, (image, row, column) = _chosen_windows(x, argmax, window, pool, len(dwt))
    for o in range(len(dwt)):
        taken = windows[image[..., 0], row[..., o], column[..., o]].reshape(-1, dwt.shape[1])
        sent = _pixels(dy, len(dwt))[:, o]
        dwt[o] = sent @ np.where(sent[:, np.newaxis] == 0, 0, taken)


@_ieee
def conv2d_pooled_dwt_add(
    dwt: Array,
    x: Array,
    dy: Array,
    argmax: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
    pool_height: float,
    pool_width: float,
    pool_stride: float,
) -> None:
    """`dwt += ...` as in `conv2d_pooled_dwt`."""
    added = np.empty_like(dwt)
    window, pool = (
        (height, width, channels, kernel_height, kernel_width, stride),
        (pool_height, pool_width, pool_stride),
    )
    conv2d_pooled_dwt(added, x, dy, argmax, *window, *pool)
    dwt[...] = dwt + added


@_ieee
def conv2d_pooled_dx(
    dx: Array,
    dy: Array,
    argmax: Array,
    wt: Array,
    height: float,
    width: float,
    channels: float,
    kernel_height: float,
    kernel_width: float,
    stride: float,
    pool_height: float,
    pool_width: float,
    pool_stride: float,
) -> None:
    """Each pooled pixel sends `dy wt[o]` back to the window that pooling chose for filter o."""
    window, pool = (height, width, kernel_height, kernel_width, stride), (pool_height, pool_width, pool_stride)
    windows, (image, row, column) = _chosen_windows(dx, argmax, window, pool, len(wt))
    sent = np.zeros(windows.shape, dx.dtype)
    gradient = dy.reshape(row.shape)
    for o, filter_ in enumerate(wt):
        each = gradient[..., o, np.newaxis]
        places = image[..., 0], row[..., o], column[..., o]
        np.add.at(sent, places, np.where(each == 0, 0, each * filter_))
    shape = *windows.shape[:3], int(kernel_height), int(kernel_width), int(channels)
    _add_windows(dx, sent.reshape(shape), height, width, stride)


def transpose(wt: Array, w: Array) -> None:
    """`wt = w^T`."""
    wt[...] = w.T


def pad(
    y: Array,
    x: Array,
    height: float,
    width: float,
    channels: float,
    top: float,
    bottom: float,
    left: float,
    right: float,
) -> None:
    """The image with a border of zeros; height and width are x's."""
    border = ((0, 0), (int(top), int(bottom)), (int(left), int(right)), (0, 0))
    y[...] = np.pad(_image(x, height, width), border).reshape(y.shape)


def crop(
    x: Array,
    y: Array,
    height: float,
    width: float,
    channels: float,
    top: float,
    bottom: float,
    left: float,
    right: float,
) -> None:
    """The image without its border; height and width are x's."""
    whole = _image(y, height + top + bottom, width + left + right)
    inner = whole[:, int(top) : int(top) + int(height), int(left) : int(left) + int(width)]
    x[...] = inner.reshape(x.shape)


@_ieee
def max_pool(
    y: Array,
    argmax: Array,
    x: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> None:
    """The largest value of each window, and the first place where it stands: i pool_width + j."""
    windows = _windows(x, height, width, pool_height, pool_width, stride)
    flat = windows.reshape(*windows.shape[:3], int(pool_height) * int(pool_width), windows.shape[-1])
    y[...] = flat.max(axis=3).reshape(y.shape)
    argmax[...] = flat.argmax(axis=3).reshape(argmax.shape)


@_ieee
def max_pool_dx(
    dx: Array,
    dy: Array,
    argmax: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> None:
    """Each window sends its dy to the place of its largest value."""
    rows, columns, channels = int(pool_height), int(pool_width), int(channels)
    shape = len(dy), _steps(height, rows, stride), _steps(width, columns, stride), 1, channels
    chosen = argmax.reshape(shape) == np.arange(rows * columns)[:, np.newaxis]
    sent = np.where(chosen, dy.reshape(shape), 0)
    _add_windows(dx, sent.reshape(*sent.shape[:3], rows, columns, channels), height, width, stride)


@_ieee
def avg_pool(
    y: Array,
    x: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> None:
    """The mean of each window."""
    y[...] = _windows(x, height, width, pool_height, pool_width, stride).mean(axis=(3, 4)).reshape(y.shape)


@_ieee
def avg_pool_dx(
    dx: Array,
    dy: Array,
    height: float,
    width: float,
    channels: float,
    pool_height: float,
    pool_width: float,
    stride: float,
) -> None:
    """Each window sends its dy, divided by the window's size, to all its pixels."""
    rows, columns = int(pool_height), int(pool_width)
    shape = len(dy), _steps(height, rows, stride), _steps(width, columns, stride), 1, 1, int(channels)
    share = dy.reshape(shape) / (rows * columns)
    _add_windows(dx, np.broadcast_to(share, (*share.shape[:3], rows, columns, int(channels))), height, width, stride)


# --- batch normalisation of images: each channel by itself --------------------------------------------------------------


@_ieee
def batch_moments(moments: Array, x: Array) -> None:
    """Mean, and sum of squared deviations from it, of each channel; moments (2, O), x (B, pixels O)."""
    pixels = _pixels(x, moments.shape[1])
    moments[0] = pixels.sum(axis=0) / len(pixels)
    moments[1] = ((pixels - moments[0]) ** 2).sum(axis=0)


@_ieee
def merge_moments(total: Array, part: Array, n_total: float, n_part: float) -> None:
    """Moments of `n_total + n_part` pixels from those of both (Chan, Golub & LeVeque 1983, equation 2.1)."""
    share = part.dtype.type(n_part / (n_total + n_part))
    distance = part[0] - total[0]
    total[1] = total[1] + part[1] + distance * distance * (share * part.dtype.type(n_total))
    total[0] = total[0] + distance * share


@_ieee
def moving_moments(mean: Array, variance: Array, moments: Array, n: float, momentum: float) -> None:
    """`running += (1 - momentum) (batch - running)`; the variance is the unbiased one."""
    step = mean.dtype.type(1 - momentum)
    mean[...] = mean + step * (moments[0] - mean)
    variance[...] = variance + step * (moments[1] / mean.dtype.type(max(n - 1, 1)) - variance)


def _inverse_deviation(moments: Array, n: float, epsilon: float) -> Array:
    return 1 / np.sqrt(moments[1] / moments.dtype.type(n) + moments.dtype.type(epsilon))


@_ieee
def batch_norm(y: Array, x: Array, moments: Array, gamma: Array, beta: Array, n: float, epsilon: float) -> None:
    """`y = gamma (x - mean) / sqrt(variance + epsilon) + beta`, with the batch's moments."""
    scale = gamma * _inverse_deviation(moments, n, epsilon)
    y[...] = ((_pixels(x, len(gamma)) - moments[0]) * scale + beta).reshape(y.shape)


@_ieee
def batch_norm_inference(
    y: Array, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float
) -> None:
    """`y = gamma (x - mean) / sqrt(variance + epsilon) + beta`, with the running statistics."""
    scale = gamma / np.sqrt(variance + variance.dtype.type(epsilon))
    y[...] = ((_pixels(x, len(gamma)) - mean) * scale + beta).reshape(y.shape)


@_ieee
def batch_norm_sums(sums: Array, dy: Array, x: Array, moments: Array, n: float, epsilon: float) -> None:
    """`dbeta = sum dy`, `dgamma = sum dy x_hat`, with x_hat = (x - mean) / sqrt(variance + epsilon)."""
    d = _pixels(dy, sums.shape[1])
    hat = (_pixels(x, sums.shape[1]) - moments[0]) * _inverse_deviation(moments, n, epsilon)
    sums[0], sums[1] = d.sum(axis=0), (d * hat).sum(axis=0)


@_ieee
def batch_norm_dx(
    dx: Array, dy: Array, x: Array, moments: Array, gamma: Array, sums: Array, n: float, epsilon: float
) -> None:
    """`dx = gamma / sqrt(variance + epsilon) (dy - dbeta / n - x_hat dgamma / n)`: mean and variance depend on x too."""
    inverse = _inverse_deviation(moments, n, epsilon)
    hat = (_pixels(x, len(gamma)) - moments[0]) * inverse
    d = _pixels(dy, len(gamma)) - sums[0] / sums.dtype.type(n) - hat * (sums[1] / sums.dtype.type(n))
    dx[...] = (gamma * inverse * d).reshape(dx.shape)


# --- a layer of few outputs on rows in occupied blocks of 16 slots: features (F,), bitmap (N, W), w (F O,) -------------


def _in_slots(source: Array, features: Array) -> Array:
    """The rows of source (N, I) slot by slot, (N, F): 0 in empty slots."""
    return np.where(features >= 0, source[:, np.maximum(features, 0)], 0)


def _slots(bitmap_row: Array, n_slots: int) -> Array:
    """The slots of those blocks that a row's bitmap names, (stored blocks, 16)."""
    slots = np.arange(n_slots).reshape(-1, BLOCK)
    return slots[[bitmap_row[k // 64] >> k % 64 & 1 == 1 for k in range(len(slots))]]


@_ieee
def occupied_blocks(bitmap: Array, source: Array, features: Array) -> None:
    """Bit k of `bitmap[r, v]`: whether block 64 v + k of row r is not all 0."""
    bitmap[...] = 0
    occupied = (_in_slots(source, features) != 0).reshape(len(source), len(features) // BLOCK, BLOCK).any(axis=2)
    for k, rows in enumerate(occupied.T):
        bitmap[:, k // 64] |= rows.astype(np.int64) << k % 64


def pack_blocks(values: Array, source: Array, features: Array, bitmap: Array, indptr: Array) -> None:
    """The named blocks of row r to `values[indptr[r]:indptr[r + 1]]`."""
    for r, row in enumerate(_in_slots(source, features)):
        values[indptr[r] : indptr[r + 1]] = row[_slots(bitmap[r], len(features))].ravel()


@_ieee
def block_linear(
    y: Array,
    indptr: Array,
    bitmap: Array,
    values: Array,
    w: Array,
    b: Array,
    order: Array,
    cursor: Array,
    scale: float,
) -> None:
    """`y = x w + b`, row r of x being the blocks of row order[cursor[0] + r]; what is not stored is not multiplied."""
    n_outputs = y.shape[1]
    weights = w.reshape(-1, n_outputs, BLOCK).swapaxes(1, 2).reshape(-1, n_outputs)
    for r, i in enumerate(_batch(order, cursor, len(y))):
        x = values[indptr[i] : indptr[i + 1]].astype(y.dtype) * y.dtype.type(scale)
        y[r] = x @ weights[_slots(bitmap[i], len(weights)).ravel()] + b


@_ieee
def block_linear_dw_add(
    dw: Array, indptr: Array, bitmap: Array, values: Array, dy: Array, order: Array, cursor: Array, scale: float
) -> None:
    """`dw += x^T dy`, x as in `block_linear`."""
    n_outputs = dy.shape[1]
    blocks = dw.reshape(-1, n_outputs, BLOCK)
    for r, i in enumerate(_batch(order, cursor, len(dy))):
        x = values[indptr[i] : indptr[i + 1]].astype(dw.dtype) * dw.dtype.type(scale)
        stored = _slots(bitmap[i], len(blocks) * BLOCK)[:, 0] // BLOCK
        blocks[stored] += dy[r][:, np.newaxis] * x.reshape(-1, 1, BLOCK)


# --- activations: y may be x, dx may be dy ----------------------------------------------------------------------------


@_ieee
def relu(y: Array, x: Array) -> None:
    """`y = max(x, 0)`."""
    y[...] = np.maximum(x, 0)


@_ieee
def relu_backward(dx: Array, dy: Array, y: Array) -> None:
    """`dx = dy where y > 0, else 0`."""
    dx[...] = np.where(y > 0, dy, 0)


@_ieee
def leaky_relu(y: Array, x: Array) -> None:
    """`y = x where x > 0, else 0.01 x`."""
    y[...] = np.where(x > 0, x, 0.01 * x)


@_ieee
def leaky_relu_backward(dx: Array, dy: Array, y: Array) -> None:
    """`dx = dy where y > 0, else 0.01 dy`."""
    dx[...] = np.where(y > 0, dy, 0.01 * dy)


@_ieee
def elu(y: Array, x: Array) -> None:
    """`y = x where x > 0, else exp(x) - 1`."""
    y[...] = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


@_ieee
def elu_backward(dx: Array, dy: Array, y: Array) -> None:
    """`dx = dy where y > 0, else dy (y + 1)`."""
    dx[...] = np.where(y > 0, dy, dy * (y + 1))


@_ieee
def sigmoid(y: Array, x: Array) -> None:
    """`y = 1 / (1 + exp(-x))`."""
    y[...] = _sigmoid(x)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))  # never above 1: exp(-x) itself overflows for x < -88 in float32
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


@_ieee
def sigmoid_backward(dx: Array, dy: Array, y: Array) -> None:
    """`dx = dy y (1 - y)`."""
    dx[...] = dy * y * (1 - y)


@_ieee
def tanh(y: Array, x: Array) -> None:
    """`y = tanh(x)`."""
    y[...] = np.tanh(x)


@_ieee
def tanh_backward(dx: Array, dy: Array, y: Array) -> None:
    """`dx = dy (1 - y^2)`."""
    dx[...] = dy * (1 - y * y)


@_ieee
def gelu(y: Array, x: Array) -> None:
    """`y = x Phi(x)`, Phi the normal distribution function."""
    y[...] = x * _normal_distribution(x)


@_ieee
def gelu_backward(dx: Array, dy: Array, x: Array) -> None:
    """`dx = dy (Phi(x) + x phi(x))`, phi the normal density."""
    density = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi).astype(x.dtype)
    dx[...] = dy * (_normal_distribution(x) + x * density)


def _normal_distribution(x: Array) -> Array:
    # erfc(-x / sqrt 2) / 2 equals (1 + erf(x / sqrt 2)) / 2, but does not cancel for x << 0.
    return erfc(-x / np.sqrt(2).astype(x.dtype)) / 2


# --- dropout ----------------------------------------------------------------------------------------------------------


def philox4x32(counter: Array, key: Array) -> Array:
    """Philox4x32-10, a counter-based random generator: a keyed bijection of 128-bit blocks (Salmon et al. 2011).

    Parameters
    ----------
    counter : ndarray of shape (..., 4), uint32
    key : ndarray of shape (..., 2), uint32
        Broadcasts against `counter`.

    Returns
    -------
    ndarray of shape (..., 4), uint32
        Four independent uniform words for each counter.
    """
    multiplier_0, multiplier_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
    weyl_0, weyl_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    k0, k1 = np.moveaxis(np.asarray(key, dtype=np.uint64), -1, 0)
    for _ in range(10):
        product_0, product_1 = multiplier_0 * c0, multiplier_1 * c2  # 32 x 32 -> 64 bits: exact in uint64
        c0, c1, c2, c3 = (
            (product_1 >> half) ^ c1 ^ k0,
            product_1 & low,
            (product_0 >> half) ^ c3 ^ k1,
            product_0 & low,
        )
        k0, k1 = (k0 + weyl_0) & low, (k1 + weyl_1) & low
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


@_ieee
def dropout(
    y: Array,
    mask: Array,
    x: Array,
    key: Array,
    cursor: Array,
    rate: float,
    layer: float,
    row_offset: float,
    column_offset: float,
) -> None:
    """`mask = 0` with probability rate, else `1 / (1 - rate)`; `y = x mask`.

    Element (r, c) of the block is element (cursor[0] + row_offset + r, column_offset + c) of the epoch's activations;
    its mask depends on the key, the layer and these coordinates alone.
    """
    rows = int(cursor[0]) + int(row_offset) + np.arange(x.shape[0])
    columns = int(column_offset) + np.arange(x.shape[1])
    counter = np.zeros((*x.shape, 4), dtype=np.uint32)
    counter[..., 0] = columns // 4
    counter[..., 1] = rows[:, np.newaxis] & 0xFFFFFFFF
    counter[..., 2] = int(layer)
    words = philox4x32(counter, key)
    drawn = np.take_along_axis(words, np.broadcast_to(columns % 4, x.shape)[..., np.newaxis], axis=-1)[..., 0]
    mask[...] = np.where(drawn < rate * 2.0**32, 0, 1 / (1 - rate))
    y[...] = x * mask


@_ieee
def dropout_backward(dx: Array, dy: Array, mask: Array) -> None:
    """`dx = dy mask`."""
    dx[...] = dy * mask


# --- losses: logits z (B, C) to gradient dz (B, C); losses (M,), hits (M,) are written at the batch's positions -------


def _log_softmax(z: Array) -> Array:
    # Shifted by the maximum exp cannot overflow, and one summand is 1: the logarithm's argument lies in [1, C].
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@_ieee
def softmax(p: Array, z: Array) -> None:
    """Softmax of each row of z."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p[...] = e / e.sum(axis=1, keepdims=True)


@_ieee
def softmax_cross_entropy(
    dz: Array,
    losses: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
    label_smoothing: float,
) -> None:
    """`losses = -sum t log softmax(z)`, with `t = (1 - s) onehot + s / C`, s = label_smoothing.

    `dz = weight scale (softmax(z) - t)`; `hits = (argmax z == label)`, the first of equals. A label that names no
    output (see DESIGN.md, Vocabulary) has a onehot of zeros and is never hit.
    """
    rows = _batch(order, cursor, len(z))
    n_outputs = z.shape[1]
    onehot = (labels[rows][:, np.newaxis] == np.arange(n_outputs)).astype(z.dtype)
    target = (1 - label_smoothing) * onehot + label_smoothing / n_outputs
    log_p = _log_softmax(z)
    here = slice(int(cursor[0]), int(cursor[0]) + len(z))
    # 0 log 0 is 0: an output that is not asked for costs nothing, however improbable.
    losses[here] = -np.where(target == 0, 0, target * log_p).sum(axis=1)
    hits[here] = z.argmax(axis=1) == labels[rows]
    dz[...] = _weights(sample_weight, rows, scale, cursor, z.dtype) * (np.exp(log_p) - target)


@_ieee
def softmax_twice_cross_entropy(
    dz: Array,
    losses: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> None:
    """`losses = -sum t log q`, with `p = softmax(z)`, `q = softmax(p)`, t = onehot: probabilities taken for logits.

    `dz = weight scale p (g - sum g p)`, the chain rule through the first softmax, with `g = q - t`; hits as in
    `softmax_cross_entropy`.
    """
    rows = _batch(order, cursor, len(z))
    onehot = (labels[rows][:, np.newaxis] == np.arange(z.shape[1])).astype(z.dtype)
    p = np.exp(_log_softmax(z))
    log_q = _log_softmax(p)
    here = slice(int(cursor[0]), int(cursor[0]) + len(z))
    losses[here] = -np.where(onehot == 0, 0, log_q).sum(axis=1)
    hits[here] = z.argmax(axis=1) == labels[rows]
    g = np.exp(log_q) - onehot
    dz[...] = _weights(sample_weight, rows, scale, cursor, z.dtype) * p * (g - (g * p).sum(axis=1, keepdims=True))


@_ieee
def binary_cross_entropy(
    dz: Array,
    losses: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> None:
    """One-vs-rest: each output's cross-entropy, summed, with t = (label == output).

    `losses = sum of -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z))`; `dz = weight scale (sigmoid(z) - t)`; hits as in
    `softmax_cross_entropy`, and with one output `(z > 0) == (label == 0)`.
    """
    here = slice(int(cursor[0]), int(cursor[0]) + len(z))
    losses[here] = _one_vs_rest(dz, hits, z, labels, sample_weight, order, scale, cursor).sum(axis=1)


@_ieee
def binary_cross_entropy_by_class(
    dz: Array,
    losses: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> None:
    """`binary_cross_entropy` without the sum: losses (M, C) has each output's cross-entropy."""
    here = slice(int(cursor[0]), int(cursor[0]) + len(z))
    losses[here] = _one_vs_rest(dz, hits, z, labels, sample_weight, order, scale, cursor)


def _one_vs_rest(
    dz: Array,
    hits: Array,
    z: Array,
    labels: Array,
    sample_weight: Array,
    order: Array,
    scale: Array,
    cursor: Array,
) -> Array:
    """Write dz and hits of `binary_cross_entropy`; return the cross-entropy (B, C) of each output."""
    rows = _batch(order, cursor, len(z))
    target = (labels[rows][:, np.newaxis] == np.arange(z.shape[1])).astype(z.dtype)
    here = slice(int(cursor[0]), int(cursor[0]) + len(z))
    if z.shape[1] == 1:
        hits[here] = (z[:, 0] > 0) == (labels[rows] == 0)
    else:
        hits[here] = z.argmax(axis=1) == labels[rows]
    dz[...] = _weights(sample_weight, rows, scale, cursor, z.dtype) * (_sigmoid(z) - target)
    # -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z)) without the logarithm of a rounded 0.
    return np.maximum(z, 0) - z * target + np.log1p(np.exp(-np.abs(z)))


def _weights(sample_weight: Array, rows: Array, scale: Array, cursor: Array, dtype: np.dtype) -> Array:
    """Factor (B, 1) of each row's gradient."""
    return (sample_weight[rows].astype(dtype) * scale[cursor[1]].astype(dtype))[:, np.newaxis]


# --- optimizers: (step_size, decay, l2) = hyper[cursor[1]]; all matrices (R, Q) ---------------------------------------


@_ieee
def sgd(w: Array, dw: Array, hyper: Array, cursor: Array) -> None:
    """`w -= step_size (dw + l2 w)`."""
    step_size, _, l2 = hyper[cursor[1]]
    w[...] = w - step_size * (dw + l2 * w)


@_ieee
def momentum(w: Array, velocity: Array, dw: Array, hyper: Array, cursor: Array, momentum: float) -> None:
    """`velocity = momentum velocity - step_size (dw + l2 w); w += velocity`."""
    step_size, _, l2 = hyper[cursor[1]]
    velocity[...] = momentum * velocity - step_size * (dw + l2 * w)
    w[...] = w + velocity


@_ieee
def nesterov(w: Array, velocity: Array, dw: Array, hyper: Array, cursor: Array, momentum: float) -> None:
    """`velocity = momentum velocity - step_size g`, `g = dw + l2 w`; `w += momentum velocity - step_size g`."""
    step_size, _, l2 = hyper[cursor[1]]
    g = dw + l2 * w
    velocity[...] = momentum * velocity - step_size * g
    w[...] = w + momentum * velocity - step_size * g


@_ieee
def adam(
    w: Array,
    m: Array,
    v: Array,
    dw: Array,
    hyper: Array,
    cursor: Array,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> None:
    """Adam (Kingma & Ba 2015); step_size holds the bias correction; AdamW's decay is taken from the old w."""
    step_size, decay, l2 = hyper[cursor[1]]
    g = dw + l2 * w
    m[...] = beta_1 * m + (1 - beta_1) * g
    v[...] = beta_2 * v + (1 - beta_2) * g * g
    w[...] = w - decay * w - step_size * m / (np.sqrt(v) + epsilon)


@_ieee
def add(total: Array, part: Array) -> None:
    """`total += part`."""
    total[...] = total + part
