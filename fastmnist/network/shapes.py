"""What goes into a layer and what comes out: shapes from the input to the logits, checked when a Spec is made.

A shape is `(width,)` for rows of numbers and `(height, width, channels)` for images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastmnist.network.layers import (
    Activation,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    MaxPool2D,
    describe,
)

Shape = tuple[int, ...]
Padding = tuple[int, int, int, int]  # top, bottom, left, right


def infer_shapes(layers: Sequence[Layer], shape: Shape) -> tuple[Shape, ...]:
    """Shapes from the input to the last layer's output, one more than there are layers.

    Raises
    ------
    ValueError
        A layer cannot take what the one before it makes; the message shows it, its number and both shapes.
    """
    shapes = [shape]
    for number, layer in enumerate(layers, start=1):
        try:
            shapes.append(_output_shape(layer, shapes[-1]))
        except _Misfit as misfit:
            before = " -> ".join(["input", *(describe(one) for one in layers[: number - 1])])
            raise ValueError(
                f"Spec: layer {number}, {describe(layer)}, gets the shape {shapes[-1]} from {before}, but {misfit}."
            ) from None
    return tuple(shapes)


class _Misfit(Exception):
    """Why a layer cannot take a shape."""


def _output_shape(layer: Layer, shape: Shape) -> Shape:
    if isinstance(layer, Dense):
        if len(shape) == 3:
            raise _Misfit("Dense takes rows of numbers: put a Flatten() or GlobalAvgPool2D() before it")
        return (layer.units,)
    if isinstance(layer, (Activation, Dropout)):
        return shape
    if len(shape) != 3:
        raise _Misfit(
            f"{type(layer).__name__} takes images (height, width, channels): put it before Flatten, GlobalAvgPool2D and Dense, "
            "and give a Spec its image_shape"
        )
    if isinstance(layer, BatchNorm):
        return shape
    height, width, channels = shape
    if isinstance(layer, Flatten):
        return (height * width * channels,)
    if isinstance(layer, GlobalAvgPool2D):
        return (channels,)
    if isinstance(layer, Conv2D):
        top, bottom, left, right = conv_padding(layer, shape)
        height, width = height + top + bottom, width + left + right
        return *_places((height, width), layer.window, layer.stride, "kernel"), layer.filters
    assert isinstance(layer, (MaxPool2D, AvgPool2D))
    return *_places((height, width), layer.window, pool_stride(layer), "window"), channels


def _places(image: tuple[int, int], window: tuple[int, int], stride: int, what: str) -> tuple[int, int]:
    if window[0] > image[0] or window[1] > image[1]:
        raise _Misfit(
            f"its {what} of {window[0]} x {window[1]} is larger than the image of {image[0]} x {image[1]}: make it "
            "smaller, pad, or pool less before (channels come last)"
        )
    return (image[0] - window[0]) // stride + 1, (image[1] - window[1]) // stride + 1


def conv_padding(layer: Conv2D, shape: Shape) -> Padding:
    """Rows and columns of zeros around the image: "same" makes ceil(size / stride) places, the odd one at the end (as Keras has it)."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        both = [
            max((-(-size // layer.stride) - 1) * layer.stride + window - size, 0)
            for size, window in zip(shape[:2], layer.window, strict=True)
        ]
        return both[0] // 2, both[0] - both[0] // 2, both[1] // 2, both[1] - both[1] // 2
    assert isinstance(layer.padding, int)
    return (layer.padding,) * 4


def pool_stride(layer: MaxPool2D | AvgPool2D) -> int:
    """Windows lie side by side unless a stride says otherwise."""
    return layer.window[0] if layer.stride is None else layer.stride


def parameter_shapes(layer: Layer, shape: Shape) -> tuple[Shape, ...]:
    """Shapes of a layer's parameters, given that of its input, as kernels store them: weights (inputs, outputs), biases (outputs,)."""
    if isinstance(layer, Dense):
        return (shape[0], layer.units), (layer.units,)
    if isinstance(layer, Conv2D):
        return (math.prod(layer.window) * shape[2], layer.filters), (layer.filters,)
    if isinstance(layer, BatchNorm):
        return ((shape[2],),) * 4
    return ()
