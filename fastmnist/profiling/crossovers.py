"""Measures where compressed rows stop paying: a small network's epochs and a gradient, on random rows with more and more nonzero values.

`bench/bench_crossover.py` is the long form: more networks, more shares, each dtype.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from fastmnist.backends.compressed import compress
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.crossovers import EPOCH, GRADIENT
from fastmnist.network.layers import Dense
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec

ROWS, FEATURES, CLASSES = 2_000, 784, 10
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
TURNS = 5
# Crossover: (units of the hidden layers, rows of a batch) of each job; the mean of the jobs counts. No batch: the gradient of all rows.
JOBS: dict[str, list[tuple[tuple[int, ...], int | None]]] = {
    EPOCH: [((128, 64), 32), ((128, 64), 256)],
    GRADIENT: [((), None)],
}


def measure_crossovers() -> dict[str, float]:
    """Shares of nonzeros at which compressed and dense rows take the same time, by name; one that noise hides is left out."""
    found = {}
    for name, jobs in JOBS.items():
        shares = [crossing(SHARES, *_times(units, batch)) for units, batch in jobs]
        known = [share for share in shares if share is not None]
        if len(known) == len(shares):
            found[name] = round(statistics.mean(known), 3)
    return found


def crossing(shares: tuple[float, ...], dense: list[float], compressed: list[float]) -> float | None:
    """Where the line through the compressed times meets the dense ones', which does not depend on the share; between the first share and the last.

    Parameters
    ----------
    shares : tuple of float
    dense, compressed : list of float
        Seconds at each share.

    Returns
    -------
    float or None
        None where more nonzeros do not take longer: something else was measured.
    """
    slope, start = np.polyfit(shares, compressed, 1)
    if not slope > 0:
        return None
    return float(np.clip((statistics.median(dense) - start) / slope, shares[0], shares[-1]))


def _times(units: tuple[int, ...], batch: int | None) -> tuple[list[float], list[float]]:
    """Median seconds of dense and of compressed rows at each share, taking turns."""
    ways = [work for share in SHARES for work in (_work(units, batch, share, way) for way in (False, True))]
    seconds: list[list[float]] = [[] for _ in ways]
    for turn in range(TURNS + 1):
        for work, times in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            work()
            if turn:  # the first one compiles
                times.append(time.perf_counter() - start)
    medians = [statistics.median(times) for times in seconds]
    return medians[::2], medians[1::2]


def _work(units: tuple[int, ...], batch: int | None, share: float, compressed: bool) -> Callable[[], object]:
    """An epoch or a gradient on rows that are bound one way or the other."""
    rng = np.random.default_rng(0)
    X = rng.integers(1, 256, (ROWS, FEATURES), dtype=np.uint8) * (rng.random((ROWS, FEATURES)) < share).astype(np.uint8)
    spec = Spec(FEATURES, (*(Dense(n, "relu") for n in units), Dense(CLASSES)), optimizer=Adam())
    executor = CpuExecutor(spec)
    # Without memory for compressed rows there are dense ones.
    executor.bind(
        compress(X) if compressed else X, np.arange(ROWS, dtype=np.int32) % CLASSES, pixel_scale=1 / 255, max_memory=0
    )
    parameters = [(rng.normal(size=shape) * 0.05).astype(np.float32) for shape in spec.parameter_shapes]
    if batch is None:
        return lambda: executor.loss_and_gradient(parameters)
    executor.set_parameters(parameters)
    order, rates = rng.permutation(ROWS), np.full(-(-ROWS // batch), 1e-3)
    return lambda: executor.run_epoch(order, rates, batch)
