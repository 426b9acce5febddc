"""Sizes to try every op of the contract with: the ugly ones, and those of ordinary layers."""

from __future__ import annotations

from collections.abc import Iterator

from fastmnist.kernels.contract import CONTRACT

# One, primes, and a vector, tile or strip with one less and one more; the last is an ordinary layer's.
UGLY_LAYERS = (  # B, I, O
    (0, 3, 4),
    (1, 1, 1),
    (2, 7, 5),
    (15, 16, 17),
    (31, 33, 32),
    (64, 65, 63),
    (16, 100, 10),
    (5, 257, 130),
    (130, 31, 257),
    (33, 196, 128),
)
UGLY_MATRICES = (  # rows, columns
    (0, 3),
    (1, 1),
    (2, 7),
    (15, 17),
    (16, 16),
    (17, 15),
    (31, 33),
    (64, 65),
    (100, 10),
    (5, 130),
    (3, 257),
)


def sizes(op: str) -> Iterator[dict[str, int]]:
    """Main dimensions to try an op with."""
    if is_image_op(op):
        yield from image_sizes(op)
        return
    if {"Y", "O"} <= set(CONTRACT[op].dims):
        yield from ({"B": b, "O": o, "Y": o * pixels} for b, pixels, o in UGLY_CHANNELS)
        return
    if op == "winograd_filters_turned":
        yield from ({"V": 36 * o, "C": c, "O": o, "K": 9 * c} for c, o in ((1, 1), (2, 17), (17, 3), (33, 5)))
        return
    if op.startswith("winograd_filters"):
        yield from ({"V": 36 * c, "O": o, "K": 9 * c} for c, o in ((1, 1), (2, 17), (17, 33), (5, 48)))
        return
    if op == "sparse_quads":  # its features are not seen in its operands' shapes
        yield from ({"B": rows, "I": features} for rows, features in UGLY_MATRICES)
        return
    if op == "transpose":
        yield from ({"O": rows, "K": columns} for rows, columns in UGLY_MATRICES)
        return
    main = sorted((name for name in CONTRACT[op].dims if name in "BIOCRQ"), key="BRIOCQ".index)
    if len(main) == 3:
        yield from (dict(zip(main, size, strict=True)) for size in UGLY_LAYERS)
    elif len(main) == 2:
        yield from (dict(zip(main, size, strict=True)) for size in UGLY_MATRICES)
    else:
        yield dict.fromkeys(main, 3)


# --- images -----------------------------------------------------------------------------------------------------------

# images, height, width, channels, rows and columns of the window, stride, filters: a tile's rows and lanes with one less and one more, windows as
# large as the image, strides that leave a rest, the layers of LeNet-5 in small.
UGLY_WINDOWS = (
    (0, 3, 3, 1, 2, 2, 1, 2),
    (1, 1, 1, 1, 1, 1, 1, 1),
    (2, 5, 4, 1, 3, 2, 1, 3),
    (3, 6, 6, 3, 3, 3, 2, 17),
    (1, 9, 7, 2, 2, 3, 3, 33),
    (2, 12, 13, 1, 5, 5, 1, 6),
    (2, 9, 9, 6, 5, 5, 1, 16),
    (2, 5, 6, 16, 3, 3, 1, 15),
    (1, 4, 5, 17, 2, 2, 1, 49),
    (2, 6, 5, 32, 3, 3, 1, 65),
    (1, 3, 3, 33, 3, 3, 1, 64),
    (1, 14, 3, 5, 3, 1, 1, 48),
)
UGLY_CHANNELS = (
    (0, 3, 4),
    (1, 1, 1),
    (2, 5, 17),
    (3, 4, 16),
    (5, 9, 33),
    (1, 130, 6),
    (17, 2, 64),
)  # images, pixels, channels
UGLY_POOLS = (
    (0, 4, 4, 3, 2, 2, 2, 0),
    (1, 1, 1, 1, 1, 1, 1, 0),
    (2, 4, 6, 16, 2, 2, 2, 0),
    (3, 7, 5, 17, 2, 2, 2, 0),
    (1, 6, 6, 33, 3, 3, 2, 0),
    (2, 5, 7, 5, 2, 3, 1, 0),
    (1, 8, 8, 15, 2, 3, 3, 0),
    (2, 7, 7, 6, 7, 7, 1, 0),
)


# The same with rows and columns of the pooling window and its stride behind them: windows that overlap, that leave a rest, that are the whole image.
UGLY_POOLED = (
    (0, 4, 4, 1, 2, 2, 1, 2, 2, 2, 2),
    (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    (2, 12, 13, 1, 5, 5, 1, 6, 2, 2, 2),
    (1, 36, 5, 1, 3, 2, 1, 3, 2, 2, 2),
    (1, 5, 38, 1, 4, 5, 1, 9, 2, 2, 2),
    (2, 3, 3, 1, 2, 2, 1, 65, 2, 2, 2),
    (2, 9, 9, 6, 5, 5, 1, 16, 2, 2, 2),
    (1, 8, 7, 32, 3, 3, 1, 65, 2, 2, 2),
    (3, 7, 6, 17, 3, 3, 2, 15, 2, 1, 1),
    (1, 7, 7, 40, 6, 3, 1, 17, 2, 2, 1),
    (2, 6, 9, 3, 2, 6, 1, 33, 2, 3, 3),
    (1, 40, 14, 16, 3, 4, 1, 5, 3, 3, 2),
    (1, 8, 16, 5, 1, 16, 1, 4, 1, 1, 1),
)


def is_image_op(op: str) -> bool:
    """Whether its operands are images, whose sizes stand in its params."""
    return "height" in CONTRACT[op].params


def image_sizes(op: str) -> Iterator[dict[str, int]]:
    """Dimensions and geometry to try an op on images with."""
    params = CONTRACT[op].params
    if "pool_stride" in params:
        yield from pooled_sizes()
        return
    if op == "conv2d_grey_pooled":
        yield from grey_sizes()
        return
    if "V" in CONTRACT[op].dims:
        yield from winograd_sizes()
        return
    for images, height, width, channels, rows, columns, stride, filters in (
        UGLY_WINDOWS if "kernel_height" in params else UGLY_POOLS
    ):
        geometry = {"height": height, "width": width, "channels": channels}
        if "top" in params:  # of padding: as many as the window has
            geometry |= {"top": rows - 1, "bottom": rows // 2, "left": columns // 3, "right": stride - 1}
            wide = width + geometry["left"] + geometry["right"]
            n_out = (height + geometry["top"] + geometry["bottom"]) * wide * channels
        else:
            window = "kernel" if "kernel_height" in params else "pool"
            geometry |= {f"{window}_height": rows, f"{window}_width": columns, "stride": stride}
            n_out = ((height - rows) // stride + 1) * ((width - columns) // stride + 1) * (filters or channels)
        sizes = {"B": images, "X": height * width * channels, "Y": n_out, "K": rows * columns * channels, "O": filters}
        yield {name: size for name, size in sizes.items() if name in CONTRACT[op].dims} | geometry


def winograd_sizes() -> Iterator[dict[str, int]]:
    """Tiles that hang over edges, blocks of them that end within an image, channels and filters around a vector and a strip."""
    for images, height, width, channels, filters in (
        (0, 3, 3, 1, 1),
        (1, 3, 3, 1, 1),
        (2, 6, 6, 16, 32),
        (3, 7, 5, 17, 15),
        (2, 13, 15, 5, 33),
        (1, 4, 30, 33, 49),
        (5, 8, 9, 2, 65),
    ):
        image, made = height * width, (height - 2) * (width - 2)
        sizes = {"B": images, "X": image * channels, "Y": made * filters, "V": 36 * channels, "O": filters}
        yield sizes | {"height": height, "width": width, "channels": channels}


def grey_sizes() -> Iterator[dict[str, int]]:
    """Of a convolution of one channel that is pooled: pixels and filters of a tile with one less and one more."""
    for images, height, width, rows, columns, filters in (
        (0, 4, 4, 1, 1, 1),
        (1, 2, 2, 1, 1, 1),
        (2, 12, 13, 5, 5, 6),
        (3, 7, 6, 2, 3, 5),
        (1, 6, 36, 3, 4, 7),
        (1, 9, 72, 4, 5, 3),
        (2, 5, 33, 2, 1, 13),
        (1, 8, 11, 7, 2, 8),
    ):
        pooled = ((height - rows + 1) // 2) * ((width - columns + 1) // 2)
        sizes = {"B": images, "X": height * width, "Y": pooled * filters, "K": rows * columns, "O": filters}
        yield sizes | {"height": height, "width": width, "kernel_height": rows, "kernel_width": columns}


def pooled_sizes() -> Iterator[dict[str, int]]:
    """Of a convolution whose output is pooled."""
    for images, height, width, channels, rows, columns, stride, filters, *pool in UGLY_POOLED:
        geometry = {"height": height, "width": width, "channels": channels}
        geometry |= {"kernel_height": rows, "kernel_width": columns, "stride": stride}
        geometry |= dict(zip(("pool_height", "pool_width", "pool_stride"), pool, strict=True))
        made = (height - rows) // stride + 1, (width - columns) // stride + 1
        pooled = ((made[0] - pool[0]) // pool[2] + 1) * ((made[1] - pool[1]) // pool[2] + 1)
        sizes = {"X": height * width * channels, "Y": pooled * filters, "K": rows * columns * channels}
        yield {"B": images, **sizes, "O": filters} | geometry
