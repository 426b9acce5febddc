"""The ladder of convolutions: from nested loops to what is shipped, forward and backward. `make ladder` runs it.

Each rung is verified against float64, then timed on one thread, warm, rungs in turn; medians of the rounds. GFLOP/s count every product of the
convolution, whether a rung computes it or not. The last three rungs do other work than the first ones: those that say "and pooling" also rectify
and pool 2 x 2 pixels, and gradients begin with what came back through that pooling.
"""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from gemm import ROUNDS, seconds
from numba import njit

import fastmnist.kernels.cpu as cpu
from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT
from fastmnist.kernels.cpu.isa import LANES
from fastmnist.kernels.cpu.simd import OPTIONS

IMAGES = 4
# Height, width, channels, kernel, filters of layers that are pooled: the first and second of LeNet-5, the second of 32c3-64c3.
SHAPES = [(32, 32, 1, 5, 6), (14, 14, 6, 5, 16), (26, 26, 32, 3, 64)]


@njit(**OPTIONS)
def _naive(y, x, w, b, kernel, width, channels, out_height, out_width):
    for n in range(x.shape[0]):
        for oy in range(out_height):
            for ox in range(out_width):
                for o in range(w.shape[1]):
                    total = b[o]
                    for i in range(kernel):
                        for j in range(kernel):
                            for c in range(channels):
                                at = ((oy + i) * width + ox + j) * channels + c
                                total += x[n, at] * w[(i * kernel + j) * channels + c, o]
                    y[n, (oy * out_width + ox) * w.shape[1] + o] = total


@njit(**OPTIONS)
def _reordered(y, x, w, b, kernel, width, channels, out_height, out_width):
    filters = w.shape[1]
    for n in range(x.shape[0]):
        for oy in range(out_height):
            for ox in range(out_width):
                to = (oy * out_width + ox) * filters
                for o in range(filters):
                    y[n, to + o] = b[o]
                for i in range(kernel):
                    for t in range(kernel * channels):
                        a = x[n, ((oy + i) * width + ox) * channels + t]
                        for o in range(filters):
                            y[n, to + o] += a * w[i * kernel * channels + t, o]


class Layer:
    """Operands of one layer, and what float64 makes of them."""

    def __init__(self, height: int, width: int, channels: int, kernel: int, filters: int) -> None:
        rng = np.random.default_rng(0)
        self.window = (height, width, channels, kernel, kernel, 1)
        self.out_height, self.out_width, self.filters = height - kernel + 1, width - kernel + 1, filters
        self.pool = (2, 2, 2)
        made = self.out_height, self.out_width, filters
        inputs, places = kernel * kernel * channels, self.out_height // 2 * (self.out_width // 2) * filters
        self.flops = 2.0 * IMAGES * self.out_height * self.out_width * filters * inputs

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        self.x, self.w, self.b = normal(IMAGES, height * width * channels), normal(inputs, filters), normal(filters)
        self.wt, self.sent = np.ascontiguousarray(self.w.T), normal(IMAGES, places)
        self.y, self.dy = (np.empty((IMAGES, int(np.prod(made))), np.float32) for _ in range(2))
        self.pooled, self.argmax = np.empty((IMAGES, places), np.float32), np.empty((IMAGES, places), np.uint8)
        self.dx, self.dw, self.dwt = np.empty_like(self.x), np.empty_like(self.w), np.empty_like(self.wt)
        self.image = made
        self.columns = np.empty((IMAGES * self.out_height * self.out_width, inputs), np.float32)
        exact = np.empty(self.y.shape)
        reference.conv2d(exact, self.x.astype(float), self.w.astype(float), self.b.astype(float), *self.window)
        self.exact, self.exact_pooled = exact, np.empty(self.pooled.shape)
        reference.max_pool(self.exact_pooled, self.argmax, np.maximum(exact, 0), *made, *self.pool)
        self.sent *= self.exact_pooled > 0  # as the derivative of relu leaves it
        self.exact_dx, self.exact_dw, dy = np.empty(self.x.shape), np.empty(self.w.shape), np.empty(exact.shape)
        reference.max_pool_dx(dy, self.sent.astype(float), self.argmax, *made, *self.pool)
        reference.conv2d_dx(self.exact_dx, dy, self.wt.astype(float), *self.window)
        reference.conv2d_dw(self.exact_dw, self.x.astype(float), dy, *self.window)


def op(name: str, *arguments: Any) -> Callable[[], None]:
    """A call of a compiled op, encoded once."""
    n = len(CONTRACT[name].operands)
    row = np.zeros(cpu.ROW_WORDS, np.int64)
    operands = [(a.ctypes.data, a.shape, a.shape[-1], a.dtype.name) for a in arguments[:n]]
    cpu.encode(row, name, operands, list(arguments[n:]))
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(row[0]))
    return lambda row=row, keep=arguments: entry(row.ctypes.data)


def in_turn(calls: list[Callable[[], None]]) -> None:
    """One after the other."""
    for call in calls:
        call()


def naive(at: Layer) -> Callable[[], None]:
    """Seven loops, one product at a time."""
    return lambda: _naive(at.y, at.x, at.w, at.b, at.window[3], at.window[1], at.window[2], at.out_height, at.out_width)


def reordered(at: Layer) -> Callable[[], None]:
    """Filters inside: the compiler makes vectors of them; y is loaded and stored for every product."""
    return lambda: _reordered(
        at.y, at.x, at.w, at.b, at.window[3], at.window[1], at.window[2], at.out_height, at.out_width
    )


def copied_windows(at: Layer) -> Callable[[], None]:
    """Every window copied into a row of a matrix, then the shipped product."""
    height, width, channels, kernel, _, _ = at.window
    images = at.x.reshape(IMAGES, height, width, channels)
    windows = np.lib.stride_tricks.sliding_window_view(images, (kernel, kernel), axis=(1, 2)).transpose(
        0, 1, 2, 4, 5, 3
    )
    copies = at.columns.reshape(windows.shape)
    product = op("linear", at.y.reshape(len(at.columns), at.filters), at.columns, at.w, at.b)

    def run() -> None:
        np.copyto(copies, windows)
        product()

    return run


def window_tile(at: Layer) -> Callable[[], None]:
    """Shipped: the register tile reads the image where it lies; filters are the lanes."""
    return op("conv2d", at.y, at.x, at.w, at.b, *at.window)


def tile_and_pooling(at: Layer) -> Callable[[], None]:
    """The same and pooling, one op after the other."""
    first = op("conv2d_relu", at.y, at.x, at.w, at.b, *at.window)
    second = op("max_pool", at.pooled, at.argmax, at.y, *at.image, *at.pool)
    return lambda: in_turn([first, second])


def pixels_and_pooling(at: Layer) -> Callable[[], None]:
    """Shipped where channels are one and filters few: pixels are the lanes, and pooling, in registers."""
    return op("conv2d_grey_pooled", at.pooled, at.argmax, at.x, at.w, at.b, *at.window[:2], *at.window[3:5])


def transformed_tiles(at: Layer) -> Callable[[], None]:
    """Shipped for 3 x 3 of many channels: Winograd's algorithm, 36 products for 16 pixels instead of 144; filters already transformed."""
    u = np.empty((4 * len(at.w), at.filters), np.float32)
    op("winograd_filters", u, at.w)()
    return op("conv2d_winograd", at.y, at.x, u, at.b, *at.window[:3])


def dense_gradients(at: Layer) -> Callable[[], None]:
    """Both gradients from an image of dy, three quarters of which are zeros."""
    calls = [
        op("max_pool_dx", at.dy, at.sent, at.argmax, *at.image, *at.pool),
        op("conv2d_dw", at.dw, at.x, at.dy, *at.window),
        op("conv2d_dx", at.dx, at.dy, at.wt, *at.window),
    ]
    return lambda: in_turn(calls)


def pooled_gradients(at: Layer) -> Callable[[], None]:
    """Shipped: both gradients from the pixels that pooling chose."""
    calls = [
        op("conv2d_pooled_dwt", at.dwt, at.x, at.sent, at.argmax, *at.window, *at.pool),
        op("conv2d_pooled_dx", at.dx, at.sent, at.argmax, at.wt, *at.window, *at.pool),
    ]
    return lambda: in_turn(calls)


def _near(got: np.ndarray, exact: np.ndarray) -> bool:
    return bool(np.abs(got - exact).max() <= 1e-5 * max(np.abs(exact).max(), 1))


RUNGS: dict[Callable, Callable[[Layer], bool]] = {
    **dict.fromkeys(
        (naive, reordered, copied_windows, window_tile, transformed_tiles), lambda at: _near(at.y, at.exact)
    ),
    **dict.fromkeys((tile_and_pooling, pixels_and_pooling), lambda at: _near(at.pooled, at.exact_pooled)),
    dense_gradients: lambda at: _near(at.dx, at.exact_dx) and _near(at.dw, at.exact_dw),
    pooled_gradients: lambda at: _near(at.dx, at.exact_dx) and _near(at.dwt.T, at.exact_dw),
}
WORK = {dense_gradients: 2, pooled_gradients: 2}  # convolutions of the same size


def main() -> None:
    """Verify, time, print."""
    print(f"{LANES} float32 a vector; {IMAGES} images; height x width x channels, kernel, filters")
    print(f"{'GFLOP/s':20}" + "".join(f"{'{}x{}x{} {} {}'.format(*shape):>16}" for shape in SHAPES))
    rates: dict[Callable, list[str]] = {rung: [] for rung in RUNGS}
    for shape in SHAPES:
        layer = Layer(*shape)
        unfit = {pixels_and_pooling: shape[2] > 1, transformed_tiles: shape[3] != 3}
        runs = {rung: rung(layer) for rung in RUNGS if not unfit.get(rung)}
        for rung, run in runs.items():
            for array in (layer.y, layer.pooled, layer.dx, layer.dw, layer.dwt):
                array[:] = np.nan
            before = layer.argmax.copy()
            run()
            assert RUNGS[rung](layer), rung.__name__
            layer.argmax[...] = before
        times: dict[Callable, list[float]] = {rung: [] for rung in runs}
        for _ in range(ROUNDS):
            for rung, run in runs.items():
                times[rung].append(seconds(run, ()))
        for rung in RUNGS:
            flops = layer.flops * WORK.get(rung, 1)
            rates[rung].append(f"{flops / statistics.median(times[rung]) / 1e9:16.1f}" if rung in times else f"{'':16}")
    for rung in RUNGS:
        print(f"{rung.__name__:20}" + "".join(rates[rung]) + f"   {rung.__doc__}")


if __name__ == "__main__":
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        main()
