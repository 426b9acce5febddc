"""The jobs on images in plain NumPy: their readable specification, and the oracle of the compiled ones.

Places are computed in the images' own float type, those of bytes in float32; what is drawn in float64.

B images of the result, N of the source, H height, W width, C channels.

Sources: affine and elastic distortions, Simard, Steinkraus & Platt 2003 ("Best practices for convolutional neural networks applied to visual
document analysis"); random erasing, Zhong et al. 2020; deskewing by moments, as in LeCun et al. 1998 ("Gradient-based learning applied to
document recognition"); Philox, Salmon et al. 2011.
"""

from __future__ import annotations

import numpy as np

from .common import Array
from .philox import philox4x32

_AFFINE, _ELASTIC = 0, 1  # fourth word of the counter: what a random number is for
_NARROWEST = 0.3  # side over side of an erased rectangle


def _words(purpose: int, numbers: Array, epoch: float, key: Array, n_quads: int) -> Array:
    """(B, 4 n_quads) random words."""
    counter = np.empty((len(numbers), n_quads, 4), np.uint32)
    counter[..., 0] = np.arange(n_quads)
    counter[..., 1] = (numbers & 0xFFFFFFFF)[:, np.newaxis]
    counter[..., 2] = int(epoch) & 0xFFFFFFFF
    counter[..., 3] = purpose
    return philox4x32(counter, key).reshape(len(numbers), -1)


def _sample(images: Array, source: Array, y: Array, x: Array, shape: tuple[int, int, int]) -> None:
    """`images[b]` is the image source[b] at the places (y[b], x[b]), each (H, W): bilinear, 0 outside."""
    height, width, channels = shape
    dtype = y.dtype.type
    padded = np.zeros((len(source), height + 3, width + 3, channels), dtype)
    padded[:, 1:-2, 1:-2] = source.reshape(-1, *shape)
    # Whatever lies further outside is 0 too.
    y, x = np.clip(y + dtype(1), 0, height + 1), np.clip(x + dtype(1), 0, width + 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    v, u = (y - top).astype(dtype)[..., np.newaxis], (x - left).astype(dtype)[..., np.newaxis]
    b = np.arange(len(source))[:, np.newaxis, np.newaxis]
    p, q = padded[b, top, left], padded[b, top, left + 1]
    r, s = padded[b, top + 1, left], padded[b, top + 1, left + 1]
    upper, lower = p + u * (q - p), r + u * (s - r)
    result = (upper + v * (lower - upper)).reshape(images.shape)
    images[...] = np.floor(result + 0.5) if images.dtype == np.uint8 else result


def _float_type(images: Array) -> type[np.floating]:
    return np.float32 if images.dtype == np.uint8 else images.dtype.type


def augment_images(
    images: Array,
    scratch: Array,
    source: Array,
    rows: Array,
    numbers: Array,
    key: Array,
    taps: Array,
    height: float,
    width: float,
    channels: float,
    epoch: float,
    translate: float,
    rotate: float,
    scale: float,
    shear: float,
    flip: float,
    elastic_alpha: float,
    erase: float,
    erase_least: float,
    erase_most: float,
) -> None:
    """Image i is source[rows[i]], changed at random by numbers that depend on numbers[i], the epoch and the key alone."""
    shape = int(height), int(width), int(channels)
    dtype = _float_type(images)
    words = _words(_AFFINE, numbers, epoch, key, 3).astype(np.float64) + 0.5
    both_signs, share = words / 2.0**31 - 1, words / 2.0**32

    angle, slope = np.radians(both_signs[:, 0] * rotate), np.tan(np.radians(both_signs[:, 2] * shear))
    factor = 1 + both_signs[:, 1] * scale
    # The inverse of moving, turning, enlarging, shearing and flipping, in the opposite order: x = a x' + b y' + x0, y = c x' + d y' + y0.
    c, d = -np.sin(angle) / factor, np.cos(angle) / factor
    a, b = np.cos(angle) / factor - slope * c, np.sin(angle) / factor - slope * d
    mirror = np.where(share[:, 3] < flip, -1, 1)
    a, b = a * mirror, b * mirror
    cx, cy = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    tx, ty = cx + both_signs[:, 4] * translate, cy + both_signs[:, 5] * translate

    column: Array = np.arange(shape[1], dtype=dtype)
    line = np.arange(shape[0])[np.newaxis, :, np.newaxis]

    def place(along: Array, across: Array, start: Array) -> Array:
        along, across, start = (v[:, np.newaxis, np.newaxis] for v in (along, across, start))
        return along.astype(dtype) * column + (across * line + start).astype(dtype)

    x = place(a, b, cx - a * tx - b * ty)
    y = place(c, d, cy - c * tx - d * ty)
    if len(taps):
        dx, dy = _displacements(numbers, epoch, key, taps.astype(dtype), shape)
        x, y = x + dtype(elastic_alpha) * dx, y + dtype(elastic_alpha) * dy
    _sample(images, source[rows], y, x, shape)
    _erase(images, share, erase, erase_least, erase_most, shape)


def _displacements(numbers: Array, epoch: float, key: Array, taps: Array, shape: tuple[int, int, int]) -> Array:
    """Two smooth random fields (2, B, H, W), along x and y: each half of a word is a number from -1 to 1, the low half first."""
    from scipy.ndimage import correlate1d  # here: it takes a tenth of a second to import, and nothing else needs it

    size = 2 * shape[0] * shape[1]
    words = _words(_ELASTIC, numbers, epoch, key, -(-size // 8))
    halves = np.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(len(numbers), -1)[:, :size]
    noise = ((halves + 0.5) / 32768 - 1).astype(taps.dtype).reshape(-1, 2, *shape[:2])
    for axis in (2, 3):
        noise = correlate1d(noise, taps, axis, mode="constant")
    return np.moveaxis(noise, 1, 0)


def _erase(images: Array, share: Array, erase: float, least: float, most: float, shape: tuple[int, int, int]) -> None:
    height, width, _ = shape
    area = (least + (most - least) * share[:, 8]) * (height * width)
    ratio = _NARROWEST + (1 / _NARROWEST - _NARROWEST) * share[:, 9]
    h = np.minimum(np.sqrt(area * ratio) + 0.5, height).astype(int)
    w = np.minimum(np.sqrt(area / ratio) + 0.5, width).astype(int)
    top, left = (share[:, 10] * (height - h + 1)).astype(int), (share[:, 7] * (width - w + 1)).astype(int)
    for i in np.flatnonzero(share[:, 6] < erase):
        images[i].reshape(shape)[top[i] : top[i] + h[i], left[i] : left[i] + w[i]] = 0


def deskew_images(images: Array, scratch: Array, source: Array, height: float, width: float, channels: float) -> None:
    """The centre of mass to the centre of the image, and lines sheared until x and y are uncorrelated."""
    shape = int(height), int(width), int(channels)
    dtype = _float_type(images)
    mass = np.maximum(source.reshape(-1, *shape).astype(np.float64), 0).sum(axis=3)
    column, line = np.arange(shape[1]), np.arange(shape[0])[:, np.newaxis]
    cx, cy = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    total = mass.sum(axis=(1, 2))
    some = np.where(total > 0, total, 1)

    def mean(values: Array) -> Array:
        return ((mass * values).sum(axis=(1, 2)) / some)[:, np.newaxis, np.newaxis]

    mean_x, mean_y = mean(column), mean(line)
    mixed, square = mean((column - mean_x) * (line - mean_y)), mean((line - mean_y) ** 2)
    slope = np.divide(mixed, square, out=np.zeros_like(mixed), where=square > 0)
    found = total[:, np.newaxis, np.newaxis] > 0
    shift_x, shift_y = np.where(found, mean_x - cx, 0), np.where(found, mean_y - cy, 0)
    x = column.astype(dtype) + (slope * line + shift_x - slope * cy).astype(dtype)
    y = np.broadcast_to((line + shift_y).astype(dtype), x.shape)
    _sample(images, source, y, x, shape)
