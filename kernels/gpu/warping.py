"""Launchers of warping.cu."""

from __future__ import annotations

import numpy as np

from .launch import THREADS, Array, Facts, Launch, integers, job_launcher, leading

BLOCKS_PER_MULTIPROCESSOR = (
    8  # three are resident at once (80 registers a thread); one that is done early is followed by another
)
FIELDS = 2  # as in warping.cu
SCRATCH_BYTES = 64 << 20  # at most, but for images of which one alone takes more


def scratch_size(facts: Facts, images: int, height: int, width: int, n_taps: int) -> int:
    """Floats with which `augment_images` works on as many images at once as fit the device, or `SCRATCH_BYTES`: their noise, twice."""
    each = 2 * FIELDS * height * width
    at_once = min(images, facts.multiprocessors * BLOCKS_PER_MULTIPROCESSOR, max(SCRATCH_BYTES // (4 * each), 1))
    return at_once * each if n_taps else 0


@job_launcher
def augment_images(
    facts: Facts,
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
) -> list[Launch]:
    n, n_taps = images.shape[0], taps.shape[0]
    each = int(2 * FIELDS * height * width)
    if each * channels >= 1 << 31:
        raise OverflowError(
            f"augment_images: images of {height:g} x {width:g} x {channels:g}; the kernel counts in 32 bits."
        )
    blocks = min(n, facts.multiprocessors * BLOCKS_PER_MULTIPROCESSOR)
    if n_taps:
        blocks = min(blocks, scratch.shape[0] // each)
        assert blocks or not n, "scratch is smaller than scratch_size says"
    if not n:
        return []
    arguments = (
        *(images, scratch, source, rows, numbers, key, taps),
        *integers(n, n_taps, height, width, channels),
        np.uint32(int(epoch) & 0xFFFFFFFF),
        *map(np.float64, (translate, rotate, scale, shear, flip)),
        np.float32(elastic_alpha),
        *map(np.float64, (erase, erase_least, erase_most)),
        *leading(images, source),
    )
    return [Launch(f"augment_images_{images.dtype}_kernel", (blocks,), (THREADS,), arguments)]
