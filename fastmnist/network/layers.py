"""Layer descriptions: frozen, hashable, without arrays. What a layer computes is in `kernels/`; how it is run, in `program.py`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fastmnist.network.rules import is_count, is_number, require

ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu")
INITIALIZERS = ("glorot_uniform", "he_uniform", "he_normal", "zeros")


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


Layer = Dense | Activation | Dropout


def describe(layer: Layer) -> str:
    """One line for people: `Dense(128, relu)`."""
    values = [getattr(layer, f.name) for f in fields(layer) if f.name not in ("kernel_initializer", "use_bias")]
    return f"{type(layer).__name__}({', '.join(str(v) for v in values)})"
