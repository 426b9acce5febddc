"""Batch normalisation folded into the convolution before it: the network that predicts, exact but for rounding.

With running statistics a `BatchNorm` multiplies and shifts each channel by numbers that do not depend on the data, and so does the convolution
before it: `gamma (x . W + b - mean) / s + beta = x . (W gamma / s) + ((b - mean) gamma / s + beta)` with `s = sqrt(variance + epsilon)`
(Jacob et al. 2018, section 3.2). An activation that follows is then the convolution's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fastmnist.network.layers import Activation, BatchNorm, Conv2D, Dense, Layer
from fastmnist.network.spec import Spec


@dataclass(frozen=True)
class FoldedNetwork:
    """What a network predicts with.

    Parameters
    ----------
    trained : Spec

    Attributes
    ----------
    spec : Spec
        Without each BatchNorm that stands right behind a Conv2D that has no activation. Others stay: behind a maximum a negative gamma
        would turn the order around.
    """

    trained: Spec
    spec: Spec = field(init=False)
    _folds: tuple[bool, ...] = field(
        init=False
    )  # for each layer of the trained network, whether it is a BatchNorm that went

    def __post_init__(self) -> None:
        layers: list[Layer] = []
        folds: list[bool] = []
        for layer in self.trained.layers:
            before = layers[-1] if layers else None
            fold = isinstance(layer, BatchNorm) and isinstance(before, Conv2D) and before.activation == "identity"
            if fold:
                assert isinstance(before, Conv2D)
                layers[-1] = replace(before, use_bias=True)
            elif isinstance(layer, Activation) and folds and folds[-1]:
                assert isinstance(before, Conv2D)
                layers[-1] = replace(before, activation=layer.name)
            else:
                layers.append(layer)
            folds.append(fold)
        object.__setattr__(self, "_folds", tuple(folds))
        object.__setattr__(self, "spec", replace(self.trained, layers=tuple(layers)) if any(folds) else self.trained)

    def parameters(self, parameters: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The parameters of `spec` from those of the trained network; computed in float64, returned in their own type.

        Parameters
        ----------
        parameters : sequence of ndarray
            `[W0, b0, ...]`, see DESIGN.md, Vocabulary.

        Returns
        -------
        sequence of ndarray
            The same arrays where nothing is folded into them.
        """
        if self.spec is self.trained:
            return parameters
        rest, folded = iter(parameters), list[np.ndarray]()
        for layer, fold in zip(self.trained.layers, self._folds, strict=True):
            if isinstance(layer, (Conv2D, Dense)):
                folded += [next(rest), next(rest)]
            elif isinstance(layer, BatchNorm):
                norm = [next(rest) for _ in range(4)]
                if fold:
                    folded[-2:] = _fold(folded[-2], folded[-1], norm, layer.epsilon)
                else:
                    folded += norm
        return folded


def _fold(w: np.ndarray, b: np.ndarray, norm: Sequence[np.ndarray], epsilon: float) -> list[np.ndarray]:
    gamma, beta, mean, variance = (vector.astype(np.float64) for vector in norm)
    factor = gamma / np.sqrt(variance + epsilon)
    return [(w * factor).astype(w.dtype), ((b - mean) * factor + beta).astype(b.dtype)]
