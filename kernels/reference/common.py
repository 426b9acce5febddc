"""What the oracles of all topics share: the type of arrays, silent IEEE arithmetic, the rows of the current batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray

ieee = np.errstate(all="ignore")  # as a decorator: inf and NaN are results here, not events to report


def batch_rows(order: Array, cursor: Array, n_rows: int) -> Array:
    """Rows of the data set that form the current batch of `n_rows`."""
    start = int(cursor[0])
    return order[start : start + n_rows]
