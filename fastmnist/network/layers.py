"""Layer descriptions: frozen, hashable, without arrays. What a layer computes is in `kernels/`; how it is run, in `program.py`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fastmnist.network.rules import is_count, is_number, require

ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu")
# Activations whose derivative is a function of the output; gelu's needs the input.
IN_PLACE = ("relu", "leaky_relu", "elu", "sigmoid", "tanh")
INITIALIZERS = ("glorot_uniform", "glorot_uniform_zero_bias", "torch_uniform", "he_uniform", "he_normal", "zeros")
MOST_POOLED = 256  # pixels of a pooling window: the place of the largest is kept in a byte


@dataclass(frozen=True)
class Dense:
    """Fully connected layer: `activation(x @ W + b)`.

    Parameters
    ----------
    units : int
        Width of the output, >= 1.
    activation : str, default="identity"
        One of `ACTIVATIONS`.
    kernel_initializer : str, default="glorot_uniform"
        One of `INITIALIZERS`; biases follow scikit-learn (the same uniform bound) for "glorot_uniform" and are 0 otherwise.
    use_bias : bool, default=True
        With False the bias is 0 and stays 0.

    Raises
    ------
    ValueError
        A parameter is outside its range; the message names it.
    """

    units: int
    activation: str = "identity"
    kernel_initializer: str = "glorot_uniform"
    use_bias: bool = True

    def __post_init__(self) -> None:
        require(is_count(self.units), "Dense", "units", "an integer >= 1", self.units)
        object.__setattr__(self, "units", int(self.units))  # NumPy's integers do not go into JSON
        require(self.activation in ACTIVATIONS, "Dense", "activation", f"one of {ACTIVATIONS}", self.activation)
        require(
            self.kernel_initializer in INITIALIZERS,
            "Dense",
            "kernel_initializer",
            f"one of {INITIALIZERS}",
            self.kernel_initializer,
        )
        require(isinstance(self.use_bias, bool), "Dense", "use_bias", "True or False", self.use_bias)


@dataclass(frozen=True)
class Activation:
    """An activation function as a layer of its own.

    Parameters
    ----------
    name : str
        One of `ACTIVATIONS`. leaky_relu has slope 0.01 for x < 0, elu has alpha 1, gelu is the exact (erf) form.
    """

    name: str

    def __post_init__(self) -> None:
        require(self.name in ACTIVATIONS, "Activation", "name", f"one of {ACTIVATIONS}", self.name)


@dataclass(frozen=True)
class Dropout:
    """Inverted dropout (Srivastava et al. 2014): in training each value is 0 with probability `rate`, else divided by 1 - rate.

    Parameters
    ----------
    rate : float
        0 <= rate < 1.
    """

    rate: float

    def __post_init__(self) -> None:
        require(is_number(self.rate) and 0 <= self.rate < 1, "Dropout", "rate", "in [0, 1)", self.rate)
        object.__setattr__(self, "rate", float(self.rate))


def _pair(owner: str, name: str, value: object) -> tuple[int, int]:
    """One integer for both directions, or one for each."""
    both = (value, value) if is_count(value) else value
    ok = isinstance(both, (tuple, list)) and len(both) == 2 and all(is_count(v) for v in both)
    require(ok, owner, name, "an integer >= 1, or a pair (height, width) of them", value)
    assert isinstance(both, (tuple, list))
    return int(both[0]), int(both[1])


@dataclass(frozen=True)
class Conv2D:
    """Convolution of images: each pixel of the output is `activation(window . W + b)`.

    Parameters
    ----------
    filters : int
        Channels of the output, >= 1.
    kernel : int or pair of int, default=3
        Height and width of the window.
    stride : int, default=1
        Pixels from one window to the next, both ways.
    padding : {"valid", "same"} or int, default="valid"
        Zeros around the image: none; as many as make ceil(size / stride) windows, the odd one at the end; or so many on all sides.
    activation : str, default="identity"
        One of `ACTIVATIONS`.
    kernel_initializer : str, default="he_uniform"
        As of `Dense`, its inputs being `kernel height * kernel width * channels`, its units `kernel height * kernel width * filters`.
    use_bias : bool, default=True
        With False the bias is 0 and stays 0.

    Raises
    ------
    ValueError
        A parameter is outside its range; the message names it.
    """

    filters: int
    kernel: int | tuple[int, int] = 3
    stride: int = 1
    padding: str | int = "valid"
    activation: str = "identity"
    kernel_initializer: str = "he_uniform"
    use_bias: bool = True

    def __post_init__(self) -> None:
        require(is_count(self.filters), "Conv2D", "filters", "an integer >= 1", self.filters)
        require(is_count(self.stride), "Conv2D", "stride", "an integer >= 1", self.stride)
        object.__setattr__(self, "filters", int(self.filters))
        object.__setattr__(self, "stride", int(self.stride))
        object.__setattr__(self, "kernel", _pair("Conv2D", "kernel", self.kernel))
        known = self.padding in ("valid", "same") if isinstance(self.padding, str) else False
        if not known:
            ok = is_count(self.padding) or (self.padding == 0 and not isinstance(self.padding, (bool, str)))
            require(ok, "Conv2D", "padding", "'valid', 'same' or an integer >= 0", self.padding)
            object.__setattr__(self, "padding", int(self.padding) or "valid")
        require(self.activation in ACTIVATIONS, "Conv2D", "activation", f"one of {ACTIVATIONS}", self.activation)
        known = self.kernel_initializer in INITIALIZERS
        require(known, "Conv2D", "kernel_initializer", f"one of {INITIALIZERS}", self.kernel_initializer)
        require(isinstance(self.use_bias, bool), "Conv2D", "use_bias", "True or False", self.use_bias)

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return _pair("Conv2D", "kernel", self.kernel)


@dataclass(frozen=True)
class _Pool2D:
    """What both poolings have.

    Parameters
    ----------
    size : int or pair of int, default=2
        Height and width of the window; at most 256 pixels.
    stride : int, default=None
        Pixels from one window to the next, both ways; None: `size`, which is then one number. Pixels that fill no window are left out.
    """

    size: int | tuple[int, int] = 2
    stride: int | None = None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        size = _pair(owner, "size", self.size)
        require(size[0] * size[1] <= MOST_POOLED, owner, "size", f"at most {MOST_POOLED} pixels", self.size)
        object.__setattr__(self, "size", size)
        if self.stride is None:
            require(size[0] == size[1], owner, "stride", "given where size is no square", self.stride)
        else:
            require(is_count(self.stride), owner, "stride", "an integer >= 1 or None", self.stride)
            object.__setattr__(self, "stride", int(self.stride))

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the window."""
        return _pair(type(self).__name__, "size", self.size)


class MaxPool2D(_Pool2D):
    """Largest value of each window of each channel."""

    __doc__ += _Pool2D.__doc__.partition("\n")[2]  # type: ignore[union-attr]


class AvgPool2D(_Pool2D):
    """Mean value of each window of each channel."""

    __doc__ += _Pool2D.__doc__.partition("\n")[2]  # type: ignore[union-attr]


@dataclass(frozen=True)
class GlobalAvgPool2D:
    """Mean of each channel over the whole image: images become rows of numbers."""


@dataclass(frozen=True)
class Flatten:
    """Images become rows of numbers: pixel by pixel, the channels of a pixel side by side."""


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation of each channel of images (Ioffe & Szegedy 2015): `gamma (x - mean) / sqrt(variance + epsilon) + beta`.

    In training mean and variance are the batch's own; in prediction the running ones: `running = momentum running + (1 - momentum) batch`,
    with the unbiased variance, as in torch.

    Parameters
    ----------
    momentum : float, default=0.9
        0 <= momentum < 1. (torch's is 1 minus it.)
    epsilon : float, default=1e-5
        > 0.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        ok = is_number(self.momentum) and 0 <= self.momentum < 1
        require(ok, "BatchNorm", "momentum", "in [0, 1)", self.momentum)
        require(
            is_number(self.epsilon) and self.epsilon > 0, "BatchNorm", "epsilon", "a finite number > 0", self.epsilon
        )
        object.__setattr__(self, "momentum", float(self.momentum))
        object.__setattr__(self, "epsilon", float(self.epsilon))


Layer = Dense | Activation | Dropout | Conv2D | MaxPool2D | AvgPool2D | GlobalAvgPool2D | Flatten | BatchNorm
IMAGE_LAYERS = (Conv2D, MaxPool2D, AvgPool2D, GlobalAvgPool2D, Flatten, BatchNorm)


def describe(layer: Layer) -> str:
    """One line for people: `Dense(128, relu)`, `Conv2D(32, 3x3, relu)`."""
    words = []
    for field in fields(layer):
        value = getattr(layer, field.name)
        if field.name in ("kernel_initializer", "use_bias", "momentum", "epsilon"):
            continue
        if isinstance(layer, IMAGE_LAYERS) and value == field.default and field.name != "kernel":
            continue
        if isinstance(value, tuple):
            words.append("x".join(map(str, value)))
        elif field.name in ("stride", "padding") and not isinstance(value, str):
            words.append(f"{field.name} {value}")
        else:
            words.append(str(value))
    return f"{type(layer).__name__}({', '.join(words)})"
