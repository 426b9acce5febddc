"""Images that are bent: random changes of training images, and deskewing. H height, W width, C channels.

Every pixel of a result is read from the source where a map sends it: an affine map, plus a field of displacements. The source is first spread out as
planes of floats with a border of zeros, one pixel before and two behind; a place is clamped to that border, so that four neighbours are read without
asking where the image ends. Vectors are pixels of a line.

What decides *which* pixels are read is computed in float64, or in float32 that is rounded as the oracle rounds (`strict`).
"""

from __future__ import annotations

import math

import numpy as np

from .isa import LANES
from .registry import kernel
from .rows import philox4x32
from .simd import (
    fma,
    gather,
    lane_numbers,
    load,
    load_n,
    offset,
    splat,
    store_n,
    strict,
    truncate,
    where,
)

_F = np.float32
_BORDER = 3  # lines and columns that a plane has more than the image: one before, two behind
_AFFINE, _ELASTIC = np.uint64(0), np.uint64(1)  # what random words are for
_LOW = np.uint64(0xFFFFFFFF)
_DEGREE = math.pi / 180.0
_NARROWEST = 0.3  # side over side of an erased rectangle


@strict
def _spread(planes, row, H, W, C):
    """The image `row` as planes of floats within zeros."""
    wide = W + _BORDER
    for c in range(C):
        plane = offset(planes, c * (H + _BORDER) * wide)
        for i in range((H + _BORDER) * wide):
            plane[i] = _F(0)
        for y in range(H):
            to, line = offset(plane, (y + 1) * wide + 1), offset(row, y * W * C + c)
            for x in range(W):
                to[x] = _F(line[x * C])


@strict
def _clamp(v, largest):
    v = where(v < splat(_F(0)), splat(_F(0)), v)
    return where(v > largest, largest, v)


@strict
def _sample(image, planes, line, fields, alpha, a, b, c, d, x0, y0, rounding, H, W, C):
    """`image[y, x]` from (c x + d y + y0, a x + b y + x0) in pixels, plus alpha times the displacement there, if alpha is not 0."""
    wide = W + _BORDER
    right, bottom = splat(_F(W + 1)), splat(_F(H + 1))
    stride, far = splat(_F(wide)), splat(_F(alpha))
    for y in range(H):
        # Places in the plane, hence + 1.
        x_start, y_start = splat(_F(b * y + x0 + 1.0)), splat(_F(d * y + y0 + 1.0))
        for channel in range(C):
            plane = offset(planes, channel * (H + _BORDER) * wide)
            for x in range(0, W, LANES):
                number = lane_numbers() + splat(_F(x))
                u, v = splat(_F(a)) * number + x_start, splat(_F(c)) * number + y_start
                if alpha != 0.0:
                    u = u + far * load_n(fields, y * W + x, W - x)
                    v = v + far * load_n(fields, (H + y) * W + x, W - x)
                u, v = _clamp(u, right), _clamp(v, bottom)
                left, top = truncate(u), truncate(v)
                u, v = u - left, v - top
                at = top * stride + left
                p, q = gather(plane, at), gather(offset(plane, 1), at)
                r, s = gather(offset(plane, wide), at), gather(offset(plane, wide + 1), at)
                upper, lower = p + u * (q - p), r + u * (s - r)
                store_n(line, x, upper + v * (lower - upper), W - x)
            to = offset(image, y * W * C + channel)
            for x in range(W):
                to[x * C] = line[x] + rounding


@strict
def _rounding(images):
    """What makes whole numbers of type bytes the nearest: 0.5, and 0 for floats."""
    kept = images[0]
    images[0] = _F(0.5)
    rounding = _F(0.5) - _F(images[0])
    images[0] = kept
    return rounding


# --- augmentation -----------------------------------------------------------------------------------------------------------------------


@strict
def _both_signs(word):
    """From -1 to 1."""
    return (np.float64(word) + 0.5) / 2147483648.0 - 1.0


@strict
def _share(word):
    """From 0 to 1."""
    return (np.float64(word) + 0.5) / 4294967296.0


@strict
def _draw_fields(fields, noise, smooth, taps, number, epoch, k0, k1, H, W, T):
    """Two fields of noise from -1 to 1, smoothed along the lines and along the columns. Half a word is a number."""
    R = T // 2
    wide = W + T - 1
    for i in range(H * wide):
        noise[i] = _F(0)
    for i in range(R * W):
        smooth[i] = _F(0)
        smooth[(H + R) * W + i] = _F(0)
    x = y = field = np.int64(0)
    for quad in range((2 * H * W + 7) // 8):
        for word in philox4x32(np.uint64(quad), number, epoch, _ELASTIC, k0, k1):
            for half in range(2):
                if field < 2:
                    bits = (word >> np.uint64(16 * half)) & np.uint64(0xFFFF)
                    noise[y * wide + R + x] = (_F(bits) + _F(0.5)) * _F(1 / 32768) - _F(1)
                    x += 1
                    if x == W:
                        x, y = 0, y + 1
                    if y == H:
                        y = 0
                        _smooth(offset(fields, field * H * W), noise, smooth, taps, H, W, T)
                        field += 1


@strict
def _smooth(field, noise, smooth, taps, H, W, T):
    R = T // 2
    wide = W + T - 1
    for y in range(H):
        for x in range(0, W, LANES):
            total = splat(_F(0))
            for t in range(T):
                total = fma(splat(taps[t]), load_n(noise, y * wide + x + t, W - x), total)
            store_n(smooth, (y + R) * W + x, total, W - x)
    n = H * W
    for i in range(0, n, LANES):
        total = splat(_F(0))
        if i + LANES <= n:
            for t in range(T):
                total = fma(splat(taps[t]), load(smooth, t * W + i), total)
        else:
            for t in range(T):
                total = fma(splat(taps[t]), load_n(smooth, t * W + i, n - i), total)
        store_n(field, i, total, n - i)


@strict
def _erase(image, words, drawn, least, most, H, W, C):
    """A rectangle of zeros, by three words and one more."""
    area = (least + (most - least) * _share(words[0])) * (H * W)
    ratio = _NARROWEST + (1.0 / _NARROWEST - _NARROWEST) * _share(words[1])
    h = min(np.int64(math.sqrt(area * ratio) + 0.5), H)
    w = min(np.int64(math.sqrt(area / ratio) + 0.5), W)
    top, left = np.int64(_share(words[2]) * (H - h + 1)), np.int64(_share(drawn) * (W - w + 1))
    for y in range(top, top + h):
        for i in range((y * W + left) * C, (y * W + left + w) * C):
            image[i] = _F(0)


@strict
def _affine(angle, larger, slant, mirror, ranges):
    """Where a pixel (x, y) about the centre comes from, (a x + b y, c x + d y).

    The inverse of turning, enlarging, shearing and flipping, in the opposite order.
    """
    rotate, scale, shear, flip = ranges
    angle = _both_signs(angle) * rotate * _DEGREE
    slope = _both_signs(slant) * shear * _DEGREE
    slope = math.sin(slope) / math.cos(slope)
    factor = 1.0 + _both_signs(larger) * scale
    c, d = -math.sin(angle) / factor, math.cos(angle) / factor
    a, b = math.cos(angle) / factor - slope * c, math.sin(angle) / factor - slope * d
    if _share(mirror) < flip:
        a, b = -a, -b
    return a, b, c, d


@strict
def _augment(image, scratch, row, taps, number, epoch, k0, k1, sizes, T, translate, ranges, alpha, erasing):
    H, W, C = sizes
    planes = scratch
    line = offset(planes, C * (H + _BORDER) * (W + _BORDER))
    noise = offset(line, W)
    smooth = offset(noise, H * (W + T - 1))
    fields = offset(smooth, (H + T - 1) * W)
    cx, cy = (W - 1) / 2.0, (H - 1) / 2.0
    angle, larger, slant, mirror = philox4x32(np.uint64(0), number, epoch, _AFFINE, k0, k1)
    right, down, erased, last = philox4x32(np.uint64(1), number, epoch, _AFFINE, k0, k1)
    a, b, c, d = _affine(angle, larger, slant, mirror, ranges)
    tx, ty = cx + _both_signs(right) * translate, cy + _both_signs(down) * translate
    x0, y0 = cx - a * tx - b * ty, cy - c * tx - d * ty
    if alpha != 0.0:
        _draw_fields(fields, noise, smooth, taps, number, epoch, k0, k1, H, W, T)
    _spread(planes, row, H, W, C)
    _sample(image, planes, line, fields, alpha, a, b, c, d, x0, y0, _rounding(image), H, W, C)
    erase, least, most = erasing
    if _share(erased) < erase:
        words = philox4x32(np.uint64(2), number, epoch, _AFFINE, k0, k1)
        _erase(image, words, last, least, most, H, W, C)


@kernel
def augment_images(
    images,
    scratch,
    source,
    rows,
    numbers,
    key,
    taps,
    height,
    width,
    channels,
    epoch,
    translate,
    rotate,
    scale,
    shear,
    flip,
    elastic_alpha,
    erase,
    erase_least,
    erase_most,
    B,
    X,
    K,
    N,
    T,
    ld_images,
    ld_source,
):
    sizes = np.int64(height), np.int64(width), np.int64(channels)
    ranges, erasing = (rotate, scale, shear, flip), (erase, erase_least, erase_most)
    alpha = elastic_alpha if T > 0 else 0.0
    k0, k1, turn = np.uint64(key[0]), np.uint64(key[1]), np.uint64(np.int64(epoch)) & _LOW
    for i in range(B):
        image, row = offset(images, i * ld_images), offset(source, rows[i] * ld_source)
        number = np.uint64(numbers[i]) & _LOW
        _augment(image, scratch, row, taps, number, turn, k0, k1, sizes, T, translate, ranges, alpha, erasing)


# --- deskewing --------------------------------------------------------------------------------------------------------------------------


@strict
def _deskew_images(images, scratch, source, H, W, C, B, ld_images, ld_source):
    planes = scratch
    line = offset(planes, C * (H + _BORDER) * (W + _BORDER))
    cx, cy = (W - 1) / 2.0, (H - 1) / 2.0
    for i in range(B):
        row, image = offset(source, i * ld_source), offset(images, i * ld_images)
        mass = mean_x = mean_y = 0.0
        for y in range(H):
            for x in range(W):
                for c in range(C):
                    value = max(np.float64(row[(y * W + x) * C + c]), 0.0)
                    mass += value
                    mean_x += value * x
                    mean_y += value * y
        shift_x = shift_y = slope = 0.0
        if mass > 0.0:
            mean_x, mean_y = mean_x / mass, mean_y / mass
            shift_x, shift_y = mean_x - cx, mean_y - cy
            mixed = square = 0.0
            for y in range(H):
                for x in range(W):
                    for c in range(C):
                        value = max(np.float64(row[(y * W + x) * C + c]), 0.0)
                        mixed += value * (x - mean_x) * (y - mean_y)
                        square += value * (y - mean_y) * (y - mean_y)
            if square > 0.0:
                slope = mixed / square
        _spread(planes, row, H, W, C)
        x0 = shift_x - slope * cy
        _sample(image, planes, line, line, 0.0, 1.0, slope, 0.0, 1.0, x0, shift_y, _rounding(image), H, W, C)


@kernel
def deskew_images(images, scratch, source, height, width, channels, B, X, K, ld_images, ld_source):
    H, W, C = np.int64(height), np.int64(width), np.int64(channels)
    _deskew_images(images, scratch, source, H, W, C, B, ld_images, ld_source)
