"""Philox, the random generator of dropout, of augmentation and of random forests.

Source: Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import numpy as np

from .common import Array


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
