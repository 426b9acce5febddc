"""Where one way of computing becomes faster than another; what is known of this machine: `fastmnist.backends.crossovers`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Crossover:
    """A share up to which one of two ways is taken.

    Attributes
    ----------
    share : float
        Of values that are not 0, for compressed rows; of the direct convolution's products, for Winograd's algorithm.
    origin : str
        Where the number comes from, for people.
    """

    share: float
    origin: str

    def __str__(self) -> str:
        return f"{self.share:.0%} ({self.origin})"


STATED = "stated, not measured here"
