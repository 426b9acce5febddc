"""Measures where compressed rows stop paying: a small network's epochs and a gradient, on random rows with more and more nonzero values; and where
Winograd's algorithm does: convolutions both ways, of fewer and fewer channels.

`bench/bench_crossover.py` is the long form for rows: more networks, more shares, each dtype.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from fastmnist.backends.compressed import compress
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.crossovers import EPOCH, GRADIENT, WINOGRAD
from fastmnist.kernels import cpu
from fastmnist.kernels.cpu.isa import LANES
from fastmnist.network.image_choices import winograd_products
from fastmnist.network.layers import Dense
from fastmnist.network.optimizers import Adam
from fastmnist.network.shapes import Shape
from fastmnist.network.spec import Spec

ROWS, FEATURES, CLASSES = 2_000, 784, 10
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
TURNS = 5
# Crossover: (units of the hidden layers, rows of a batch) of each job; the mean of the jobs counts. No batch: the gradient of all rows.
JOBS: dict[str, list[tuple[tuple[int, ...], int | None]]] = {
    EPOCH: [((128, 64), 32), ((128, 64), 256)],
    GRADIENT: [((), None)],
}
# Images, and filters of each convolution: those that networks for small images have, near the crossover from both sides.
IMAGES = 16
_SMALL: list[Shape] = [(26, 26, channels) for channels in (6, 8, 12, 16)]
CONVOLUTIONS = [*((shape, 16) for shape in _SMALL), ((26, 26, 8), 32), ((13, 13, 16), 32)]
CONVOLUTION_TURNS = 15  # they are short
LEAST_GAIN = 0.9  # of the direct convolution's time: what rounds worse must save something


def measure_crossovers() -> dict[str, float]:
    """The shares at which both ways take the same time, by name (Winograd's: a tenth less); one that noise hides is left out."""
    found = {}
    for name, jobs in JOBS.items():
        shares = [crossing(SHARES, *_times(units, batch)) for units, batch in jobs]
        known = [share for share in shares if share is not None]
        if len(known) == len(shares):
            found[name] = round(statistics.mean(known), 3)
    convolutions = [_tiles_and_direct(shape, filters) for shape, filters in CONVOLUTIONS]
    products, ratios = (list(column) for column in zip(*convolutions, strict=True))
    limit = crossing(products, [LEAST_GAIN] * len(ratios), ratios)
    return found if limit is None else found | {WINOGRAD: round(limit, 3)}


def crossing(shares: Sequence[float], dense: list[float], compressed: list[float]) -> float | None:
    """Where the line through the compressed times meets the dense ones', which does not depend on the share; between the least share and the largest.

    Parameters
    ----------
    shares : sequence of float
    dense, compressed : list of float
        Seconds at each share, or any other unit.

    Returns
    -------
    float or None
        None where more nonzeros do not take longer: something else was measured.
    """
    slope, start = np.polyfit(shares, compressed, 1)
    if not slope > 0:
        return None
    return float(np.clip((statistics.median(dense) - start) / slope, min(shares), max(shares)))


def _times(units: tuple[int, ...], batch: int | None) -> tuple[list[float], list[float]]:
    """Median seconds of dense and of compressed rows at each share, taking turns."""
    medians = _taking_turns([_work(units, batch, share, way) for share in SHARES for way in (False, True)])
    return medians[::2], medians[1::2]


def _taking_turns(ways: list[Callable[[], object]], turns: int = TURNS) -> list[float]:
    """Median seconds of each."""
    seconds: list[list[float]] = [[] for _ in ways]
    for turn in range(turns + 1):
        for work, times in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            work()
            if turn:  # the first one compiles
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def _tiles_and_direct(shape: Shape, filters: int) -> tuple[float, float]:
    """Of a convolution by Winograd's algorithm: its products of vectors and its seconds, as parts of those of the direct one."""
    rng, (height, width, channels) = np.random.default_rng(0), shape
    x = rng.random((IMAGES, height * width * channels), np.float32)
    w = rng.random((9 * channels, filters), np.float32) - np.float32(0.5)
    b = rng.random(filters, np.float32)
    y = np.empty((IMAGES, (height - 2) * (width - 2) * filters), np.float32)
    u = np.empty((36 * channels, filters), np.float32)
    image: dict[str, float] = {"height": height, "width": width, "channels": channels}

    def directly() -> None:
        cpu.call("conv2d_relu", y, x, w, b, **image, kernel_height=3, kernel_width=3, stride=1)

    def by_tiles() -> None:
        cpu.call("winograd_filters", u, w)
        cpu.call("conv2d_winograd_relu", y, x, u, b, **image)

    (tiles, direct), (tile_products, products) = (
        _taking_turns([by_tiles, directly], CONVOLUTION_TURNS),
        winograd_products(shape, filters, LANES, IMAGES),
    )
    return tile_products / products, tiles / direct


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
