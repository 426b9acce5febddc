"""How training images are changed at random from epoch to epoch: frozen, hashable, without arrays. What is done is in `kernels/`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from fastmnist.network.rules import is_number, require

TAIL = 3  # the Gaussian that smooths displacements is cut off after so many sigma: 0.3 % of it


@dataclass(frozen=True)
class Augment:
    """Random changes of images. Each range is drawn from anew for every image and epoch; what is left at 0 does not change.

    Parameters
    ----------
    translate : float, default=0.0
        Largest shift in pixels, across and down.
    rotate : float, default=0.0
        Largest angle in degrees, both ways, about the centre; at most 180.
    scale : float, default=0.0
        In [0, 1): the image is made 1 - scale to 1 + scale times as large.
    shear : float, default=0.0
        Largest angle in degrees by which upright lines are slanted, both ways; below 90.
    flip : float, default=0.0
        Probability of exchanging left and right. Not for digits.
    elastic_alpha : float, default=0.0
        Strength in pixels of elastic distortion (Simard et al. 2003): every pixel is displaced by `elastic_alpha` times a random field from -1 to 1
        that is smoothed by a Gaussian. With `elastic_sigma` of 4, 34 displaces by 1.4 pixels (standard deviation); Simard's value.
    elastic_sigma : float, default=4.0
        Standard deviation of that Gaussian in pixels, from 0.3 to 1000.
    erase : float, default=0.0
        Probability of setting a rectangle to 0 (Zhong et al. 2020).
    erase_area : tuple of float, default=(0.02, 0.2)
        Smallest and largest share of the image that is erased.

    Raises
    ------
    ValueError
        A parameter is outside its range; the message names it.

    Notes
    -----
    What comes from outside of the image is 0. Affine map and displacement are one map, sampled once by bilinear interpolation.

    Examples
    --------
    >>> from fastmnist import Augment, CNNClassifier
    >>> CNNClassifier("simple", augment=Augment(translate=2, rotate=10, scale=0.1))
    CNNClassifier(augment=Augment(translate=2.0, rotate=10.0, scale=0.1))
    """

    translate: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    flip: float = 0.0
    elastic_alpha: float = 0.0
    elastic_sigma: float = 4.0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.2)

    def __post_init__(self) -> None:
        for name, rule, allowed in (
            ("translate", "a number of pixels >= 0, at most 10,000", lambda v: 0 <= v <= 10_000),
            ("rotate", "an angle in degrees from 0 to 180", lambda v: 0 <= v <= 180),
            ("scale", "a fraction in [0, 1)", lambda v: 0 <= v < 1),
            ("shear", "an angle in degrees, 0 <= shear < 90", lambda v: 0 <= v < 90),
            ("flip", "a probability from 0 to 1", lambda v: 0 <= v <= 1),
            ("elastic_alpha", "a number of pixels >= 0, at most 10,000", lambda v: 0 <= v <= 10_000),
            ("elastic_sigma", "a number of pixels from 0.3 to 1000", lambda v: 0.3 <= v <= 1000),
            ("erase", "a probability from 0 to 1", lambda v: 0 <= v <= 1),
        ):
            value = getattr(self, name)
            require(is_number(value) and allowed(value), "Augment", name, rule, value)
            object.__setattr__(self, name, float(value))
        area = self.erase_area
        ok = isinstance(area, (tuple, list)) and len(area) == 2 and all(map(is_number, area))
        ok = ok and 0 < area[0] <= area[1] <= 1
        require(ok, "Augment", "erase_area", "a pair of fractions 0 < least <= most <= 1", area)
        object.__setattr__(self, "erase_area", (float(area[0]), float(area[1])))

    def __repr__(self) -> str:
        named = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return f"Augment({', '.join(f'{name}={value!r}' for name, value, default in named if value != default)})"

    @property
    def params(self) -> dict[str, float]:
        """By the names of the job `augment_images`."""
        names = ("translate", "rotate", "scale", "shear", "flip", "elastic_alpha", "erase")
        least, most = self.erase_area
        return {name: getattr(self, name) for name in names} | {"erase_least": least, "erase_most": most}

    def taps(self, height: int, width: int) -> np.ndarray:
        """The Gaussian that smooths displacements, float64, an odd number of them; none where nothing is displaced.

        Those that would reach over the whole image are left out: they only ever meet zeros.

        Parameters
        ----------
        height, width : int
            Of an image.

        Returns
        -------
        ndarray of shape (n_taps,)
            Its sum is 1 at most.
        """
        if self.elastic_alpha == 0:
            return np.empty(0)
        radius = math.ceil(TAIL * self.elastic_sigma)
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / self.elastic_sigma) ** 2)
        reach = min(radius, max(height, width) - 1)
        return (weights / weights.sum())[radius - reach : radius + reach + 1]


# What `augment=True` stands for.
FOR_DIGITS = Augment(translate=2, rotate=10, scale=0.1, shear=5)
