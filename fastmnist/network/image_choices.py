"""Which way each image layer is computed, where there are several: the one of fewer products of vectors; `fastmnist explain` prints the reasons."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from fastmnist.network.crossover import STATED, Crossover
from fastmnist.network.image_nodes import BackByTiles, Convolution, ImageChain, MaxPool, is_grey
from fastmnist.network.shapes import Shape

if TYPE_CHECKING:
    from fastmnist.network.lowering import Lowering

# Largest window whose filter gradient takes pooled pixels as lanes, that of its smaller tile, and the vectors that come with registers enough.
GREY_TAPS, FEW_GREY_TAPS, GREY_LANES = 5, 3, 16
# Convolutions by transformed tiles: most channels that the kernel takes, most bytes of filters (half of a level-2 cache, they are read for
# every few tiles), and what it costs, in products of vectors, to transform a vector of a tile, there or back, and one of filters (36 stores
# far apart).
WINOGRAD_CHANNELS, WINOGRAD_BYTES, WINOGRAD_TILE, WINOGRAD_FILTER = 128, 1 << 19, 200, 2600
# Up to this part of the direct products tiles are taken: by that count both ways take the same time at 0.57 (Zen 5, AVX-512; from 8 to 32 channels),
# and at 0.5 tiles save a tenth, without which they are not worth their rounding. `fastmnist info --measure` measures it.
STATED_WINOGRAD = Crossover(0.5, STATED)


def choose_ways(chain: ImageChain, low: Lowering) -> None:
    """Mark the nodes, and say why; without the length of a vector there is nothing to compare, and every node stays as it is written."""
    if not low.target.lanes:
        return
    _pool_at_once(chain, low)
    if low.purpose == "training":
        _pool_gradients(chain, low)
    _go_by_tiles(chain, low)


def winograd_products(shape: Shape, filters: int, lanes: int, rows: int, *, ready: bool = False) -> tuple[int, int]:
    """Products of vectors of a convolution of 3 x 3 pixels with stride 1: by Winograd's algorithm, transformations included, and directly.

    Parameters
    ----------
    shape : tuple of int
        Height, width and channels of an image, its border included.
    filters, lanes, rows : int
        `rows` images are convolved with the filters, which are transformed once.
    ready : bool, default=False
        The filters are transformed already.
    """
    height, width, channels = shape
    tiles, vectors = -(-(height - 2) // 4) * -(-(width - 2) // 4), -(-filters // lanes)
    transformed = rows * tiles * WINOGRAD_TILE * (-(-channels // lanes) + vectors)
    by_tiles = rows * tiles * 36 * channels * vectors + transformed
    if not ready:
        by_tiles += WINOGRAD_FILTER * channels * vectors
    return by_tiles, rows * (height - 2) * (width - 2) * 9 * channels * vectors


def _pooled_convolutions(chain: ImageChain) -> Iterator[tuple[Convolution, MaxPool]]:
    """Those that nothing but max pooling follows."""
    for node, after in pairwise(chain.nodes):
        if isinstance(node, Convolution) and isinstance(after, MaxPool):
            yield node, after


def _pool_at_once(chain: ImageChain, low: Lowering) -> None:
    """Of grey images, where vectors of pixels are no more than vectors of filters."""
    lanes = low.target.lanes
    for node, after in _pooled_convolutions(chain):
        if not (is_grey(node, after) and node.relu):
            continue
        out_height, out_width, filters = node.output.shape
        by_filter = out_height * out_width * -(-filters // lanes)
        by_pixel = 2 * (out_height // 2) * 2 * -(-(out_width // 2) // lanes) * filters
        if by_pixel <= by_filter:
            node.fused, after.fused = after, True
            low.decisions.append(
                f"convolution {node.index + 1}: pooled at once, pixels along the vectors: {by_pixel:,} sums of vectors an image instead of "
                f"{by_filter:,}"
            )


def _pool_gradients(chain: ImageChain, low: Lowering) -> None:
    """Of convolutions that nothing but max pooling follows: by the vectors of either way, those of the pooled one by half dearer."""
    lanes = low.target.lanes
    for node, after in _pooled_convolutions(chain):
        out_height, out_width, filters = node.output.shape
        rows, columns = node.layer.window
        run = columns * node.source.shape[2]
        dense = out_height * out_width * rows * run * -(-filters // lanes)
        pooled = after.output.size * rows * -(-run // lanes)
        if lanes >= GREY_LANES and is_grey(node, after) and max(rows, columns) <= GREY_TAPS:
            taps = FEW_GREY_TAPS if max(rows, columns) <= FEW_GREY_TAPS else GREY_TAPS
            pooled = min(pooled, (out_height // 2) * -(-(out_width // 2) // lanes) * filters * 2 * taps**2)
        if 1.5 * pooled < dense:
            node.pooled, after.sends = after, False
            low.decisions.append(
                f"convolution {node.index + 1}: its gradients are taken from the pooled pixels alone, {pooled:,} vectors an image instead of "
                f"{dense:,}"
            )


def _go_by_tiles(chain: ImageChain, low: Lowering) -> None:
    """Of 3 x 3 pixels with stride 1: by the products of vectors either way."""
    lanes = low.target.lanes
    for node in chain.convolutions:
        if node.fused or (*node.layer.window, node.layer.stride) != (3, 3, 1):
            continue
        shape, filters = node.source.shape, node.layer.filters
        ready = low.purpose == "inference"  # filters are kept from call to call
        products = winograd_products(shape, filters, lanes, low.rows, ready=ready)
        node.winograd, why = _tiles_or_direct(low, shape[2], filters, products)
        low.decisions.append(f"convolution {node.index + 1}: {why}")
        if low.purpose == "training" and chain.needs_gradient(node) and not node.pooled:
            # The output's gradient within two pixels of zeros, convolved with the turned filters.
            (height, width, channels), (out_height, out_width, _) = shape, node.output.shape
            by_tiles, _ = winograd_products((height + 2, width + 2, filters), channels, lanes, low.rows)
            vectors = min(-(-3 * channels // lanes), 3 * -(-channels // lanes))
            products = by_tiles, low.rows * out_height * out_width * 3 * filters * vectors
            chosen, why = _tiles_or_direct(low, filters, channels, products)
            node.back = BackByTiles() if chosen else None
            low.decisions.append(f"convolution {node.index + 1}, the gradient of its input: {why}")


def _tiles_or_direct(low: Lowering, channels: int, filters: int, products: tuple[int, int]) -> tuple[bool, str]:
    """Whether Winograd's algorithm serves a convolution of 3 x 3 pixels that takes so many products of vectors either way, and why."""
    (by_tiles, direct), limit, rows = products, low.target.winograd, low.rows
    nbytes = 4 * 36 * channels * filters
    if channels > WINOGRAD_CHANNELS:
        return False, f"direct, Winograd's algorithm is for {WINOGRAD_CHANNELS} channels at most"
    if nbytes > WINOGRAD_BYTES:
        return False, (
            f"direct, Winograd's filters would take {nbytes:,} bytes of the cache, above the limit of {WINOGRAD_BYTES:,}"
        )
    share = f"{by_tiles / direct:.0%}"
    if by_tiles > limit.share * direct:
        return (
            False,
            f"direct, Winograd's algorithm would take {share} of its products of vectors, above the limit of {limit}",
        )
    return True, (
        f"by Winograd's algorithm F(4 x 4, 3 x 3), as dear as {by_tiles // rows:,} products of vectors an image instead of "
        f"{direct // rows:,}: {share}, at most {limit}"
    )
