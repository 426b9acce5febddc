"""Launchers of channels.cu: how many threads stand over the channels, and how many blocks share the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from .launch import BLOCKS_PER_MULTIPROCESSOR, QUAD, THREADS, Array, Facts, Launch, integers, launcher, leading
from .tiles import ADD, add_shares, cut, scratch

MOST_LANES = 32
LEAST_SHARE = 1024  # pixels of a block that sums: fewer would not be worth the launch that adds the shares


def _lanes(channels: int) -> int:
    """Threads side by side over the channels: a power of two."""
    quads = -(-channels // QUAD)
    return min(1 << (quads - 1).bit_length(), MOST_LANES)


def _groups(channels: int) -> int:
    """Blocks that cover all channels."""
    return -(-channels // (_lanes(channels) * QUAD))


def lane_groups(channels: int) -> tuple[int, int]:
    """Threads side by side over the channels, and blocks that cover all of them."""
    return _lanes(channels), _groups(channels)


def _pixels(x: Array, channels: int) -> tuple[int, int]:
    """Images, and pixels of each."""
    return x.shape[0], x.shape[1] // channels


def _walk(facts: Facts, kernel: str, x: Array, channels: int, *arguments: Any, strides: tuple) -> list[Launch]:
    """A kernel that makes as many pixels as it reads: as many blocks as are resident, or a row of threads each."""
    images, pixels = _pixels(x, channels)
    rows, lanes = images * pixels, _lanes(channels)
    if not rows:
        return []
    wanted = max(facts.multiprocessors * BLOCKS_PER_MULTIPROCESSOR // _groups(channels), 1)
    share = max(-(-rows // wanted), THREADS // lanes)
    place = integers(images, pixels, channels, lanes, share)
    return [Launch(kernel, (_groups(channels), -(-rows // share)), (THREADS,), (*arguments, *place, *strides))]


def column_sums(facts: Facts, db: Array, dy: Array, *, flags: int = 0) -> list[Launch]:
    """`db` = sums over rows and pixels; with the flag ADD they are added to it."""
    channels = db.shape[0]
    if not channels:
        return []
    images, pixels = _pixels(dy, channels)
    n, share = cut(facts, _groups(channels), images * pixels, channels, LEAST_SHARE)
    to = scratch(facts, (n, channels)) if n > 1 else db
    place = integers(images, max(pixels, 1), channels, _lanes(channels), share)
    arguments = (to, dy, *place, *leading(dy), np.int32(0 if n > 1 else flags))
    launch = Launch("channel_sums_kernel", (_groups(channels), n), (THREADS,), arguments)
    return [launch, *add_shares(facts, db, n, flags=flags)] if n > 1 else [launch]


@launcher
def conv2d_db(facts: Facts, db: Array, dy: Array) -> list[Launch]:
    return column_sums(facts, db, dy)


@launcher
def conv2d_db_add(facts: Facts, db: Array, dy: Array) -> list[Launch]:
    return column_sums(facts, db, dy, flags=ADD)


def _by_channel(kernel: str, channels: int, *arguments: Any) -> list[Launch]:
    """A thread for each channel."""
    return [Launch(kernel, (-(-channels // THREADS),), (THREADS,), arguments)]


@launcher
def batch_moments(facts: Facts, moments: Array, x: Array) -> list[Launch]:
    channels = moments.shape[1]
    images, pixels = _pixels(x, channels)
    n, share = cut(facts, _groups(channels), images * pixels, 2 * channels, LEAST_SHARE)
    to = scratch(facts, (2 * n, channels)) if n > 1 else moments
    place = integers(images, pixels, channels, _lanes(channels), share)
    launch = Launch(
        "batch_moments_kernel", (_groups(channels), n), (THREADS,), (to, x, *place, *leading(to), *leading(x))
    )
    if n == 1:
        return [launch]
    sizes = integers(n, share, images * pixels, channels)
    return [launch, *_by_channel("merge_shares_kernel", channels, moments, to, *sizes, *leading(moments))]


@launcher
def merge_moments(facts: Facts, total: Array, part: Array, n_total: float, n_part: float) -> list[Launch]:
    channels = total.shape[1]
    numbers = np.float32(n_part / (n_total + n_part)), np.float32(n_total)
    arguments = (total, part, *numbers, *integers(channels), *leading(total, part))
    return _by_channel("merge_moments_kernel", channels, *arguments)


@launcher
def moving_moments(
    facts: Facts, mean: Array, variance: Array, moments: Array, n: float, momentum: float
) -> list[Launch]:
    channels = mean.shape[0]
    numbers = np.float32(1 - momentum), np.float32(max(n - 1, 1))
    arguments = (mean, variance, moments, *numbers, *integers(channels), *leading(moments))
    return _by_channel("moving_moments_kernel", channels, *arguments)


@launcher
def batch_norm(
    facts: Facts, y: Array, x: Array, moments: Array, gamma: Array, beta: Array, n: float, epsilon: float
) -> list[Launch]:
    arguments = (y, x, moments, gamma, beta, np.float32(n), np.float32(epsilon))
    return _walk(facts, "batch_norm_kernel", x, gamma.shape[0], *arguments, strides=leading(y, x, moments))


@launcher
def batch_norm_inference(
    facts: Facts, y: Array, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float
) -> list[Launch]:
    arguments = (y, x, gamma, beta, mean, variance, np.float32(epsilon))
    return _walk(facts, "batch_norm_inference_kernel", x, gamma.shape[0], *arguments, strides=leading(y, x))


@launcher
def batch_norm_sums(
    facts: Facts, sums: Array, dy: Array, x: Array, moments: Array, n: float, epsilon: float
) -> list[Launch]:
    channels = sums.shape[1]
    images, pixels = _pixels(x, channels)
    parts, share = cut(facts, _groups(channels), images * pixels, 2 * channels, LEAST_SHARE)
    to = scratch(facts, (2 * parts, channels)) if parts > 1 else sums
    place = integers(images, pixels, channels, _lanes(channels), share)
    numbers = np.float32(n), np.float32(epsilon)
    arguments = (to, dy, x, moments, *numbers, *place, *leading(to, dy, x, moments))
    launch = Launch("batch_norm_sums_kernel", (_groups(channels), parts), (THREADS,), arguments)
    return [launch, *add_shares(facts, sums, parts)] if parts > 1 else [launch]


@launcher
def batch_norm_dx(
    facts: Facts,
    dx: Array,
    dy: Array,
    x: Array,
    moments: Array,
    gamma: Array,
    sums: Array,
    n: float,
    epsilon: float,
) -> list[Launch]:
    arguments = (dx, dy, x, moments, gamma, sums, np.float32(n), np.float32(epsilon))
    strides = leading(dx, dy, x, moments, sums)
    return _walk(facts, "batch_norm_dx_kernel", x, gamma.shape[0], *arguments, strides=strides)
