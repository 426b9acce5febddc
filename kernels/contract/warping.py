"""Images that are bent: jobs.

A pixel of the result is read where a map sends it, between pixels by bilinear interpolation; outside of the image all is 0. Bytes are rounded.
"""

from __future__ import annotations

from .table import Table

JOBS = Table()

_WARP = {
    **dict.fromkeys(("images", "source"), ("uint8", "float")),
    **dict.fromkeys(("rows", "numbers"), ("int64",)),
    "key": ("uint32",),
}
JOBS.add(
    "augment_images",
    "images[B,X] scratch[K]",
    "source[N,X] rows[B] numbers[B] key[2] taps[T]",
    """images[i] = source[rows[i]], changed at random. With uniform random u from -1 to 1, each its own: the image is flipped left to right with
    probability flip, sheared by u shear degrees, made 1 + u scale times as large, turned by u rotate degrees about its centre, and moved by u
    translate pixels each way; then pixel (y, x) is taken from (y, x) + elastic_alpha d[y, x], where d are two fields of u, one for each pixel and 0
    outside, smoothed by `taps` both ways (Simard et al. 2003; no taps: no displacement); all this is one map, sampled once. Then, with probability
    erase, a rectangle of erase_least to erase_most of the area, its height over its width from 0.3 to 1 / 0.3, is set to 0 (Zhong et al. 2020). The
    words are those of Philox4x32-10 with counter (word div 4, numbers[i], epoch, purpose) and key = key, so an image depends on nothing else.
    scratch, of `layout.warp_scratch` values, is workspace.""",
    params="height width channels epoch translate rotate scale shear flip elastic_alpha erase erase_least erase_most",
    types=_WARP,
)
JOBS.add(
    "deskew_images",
    "images[B,X] scratch[K]",
    "source[B,X]",
    """images[i] = source[i], its centre of mass moved to the centre of the image and sheared so that the covariance of x and y is 0: pixel (y, x) is
    taken from (y - cy + my, x - cx + mx + (y - cy) mu_xy / mu_yy), (cy, cx) the centre, (my, mx) the mean and mu the covariance of the pixels'
    places, weighted by their positive values summed over channels. An image without any is copied.""",
    params="height width channels",
    types=_WARP,
)
