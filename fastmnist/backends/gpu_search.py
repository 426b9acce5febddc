"""A full-batch search whose vectors stay on the GPU: points, gradients, remembered pairs and directions; the host sees a few numbers a trial."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fastmnist.backends.base import Parameters
from fastmnist.kernels.gpu import Array, lbfgs

if TYPE_CHECKING:
    from fastmnist.backends.gpu import CupyExecutor

PAIRS = 10  # remembered steps: SciPy's default


class DeviceSearch:
    """The state of L-BFGS on the device, for one problem or for several that share nothing, side by side.

    Parameters
    ----------
    executor : CupyExecutor
        Has data bound to it.
    start : list of ndarray
        `[W0, b0, ...]`.
    l2 : float
        The penalty is `l2 / 2 * sum(W ** 2)`.
    fit_intercept : bool
        With False the biases stay 0 and are no part of the vectors.
    problems : int
        1, or the number of outputs of a single layer with a loss for each.
    transform : ndarray of shape (m, m) or (m,), float64, optional
        T of a network of one layer: the search is for u in `parameters = T u`, see `fastmnist.training.preconditioner`.
    variables : ndarray of shape (n,), float64, optional
        With a transform: the u of `start`.

    Raises
    ------
    BackendUnavailable
        The vectors do not fit into the device's memory.
    """

    def __init__(
        self,
        executor: CupyExecutor,
        start: Parameters,
        l2: float,
        *,
        fit_intercept: bool,
        problems: int,
        transform: np.ndarray | None = None,
        variables: np.ndarray | None = None,
    ) -> None:
        self._executor, self._device, self._problems = executor, executor.device, problems
        self._shapes = executor.spec.parameter_shapes
        self._kept = [i for i in range(len(self._shapes)) if fit_intercept or i % 2 == 0]
        sizes = [math.prod(self._shapes[i]) for i in self._kept]
        self._at = dict(zip(self._kept, np.cumsum([0, *sizes]).tolist(), strict=False))
        self._penalty = [l2 if i % 2 == 0 else 0.0 for i in range(len(self._shapes))]
        self._total_weight = executor.total_weight
        n = sum(sizes)
        point = np.concatenate([np.asarray(start[i], np.float64).ravel() for i in self._kept])
        vector = np.zeros(n)
        vectors = ["trial", "gradient", "new_gradient", "direction", "penalty"]
        self._transformed = transform is not None
        if transform is not None:
            vectors += ["w", "w_trial", "w_gradient", "w_direction"]
        self._memory = executor.reserve(
            x=point if variables is None else variables,
            **dict.fromkeys(vectors, vector),
            **({} if transform is None else {"transform": np.ascontiguousarray(transform)}),
            s=np.zeros((PAIRS, n)),
            y=np.zeros((PAIRS, n)),
            curvature=np.zeros((PAIRS, problems)),
            pairs=np.zeros(problems, np.int64),
            facts=np.zeros((4, problems)),
            steps=np.zeros(problems),
            orders=np.zeros(problems, np.int32),
        )
        self._transform("w", "x")
        executor.place_gradient_parameters([np.zeros(shape, np.float32) for shape in self._shapes])

    def _vectors(self, *names: str) -> tuple[Array, ...]:
        return tuple(self._memory.arrays[name] for name in names)

    def _transform(self, out: str, vector: str, *, transposed: bool = False) -> None:
        """Change variables, where the search has other ones than the parameters."""
        if self._transformed:
            out_, matrix, vector_ = self._vectors(out, "transform", vector)
            self._device.run(lbfgs.transform(self._device.facts, out_, matrix, vector_, transposed=transposed))

    def evaluate(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value, slope along the direction and largest component of the gradient at `x + step direction`.

        Parameters
        ----------
        steps : ndarray of shape (problems,)

        Returns
        -------
        values, slopes, largest : ndarray of shape (problems,), float64

        Raises
        ------
        KeyboardInterrupt
            The state is that of before.
        """
        self._memory.put(steps=np.asarray(steps, np.float64))
        facts, arrays = self._device.facts, self._memory.arrays
        parameters, gradients, losses, weight = self._executor.gradient_operands()
        # Trial, point, direction and gradient: of the parameters, and of the variables that are searched.
        outer = self._vectors(*(("w_trial", "w", "w_direction") if self._transformed else ("trial", "x", "direction")))
        (steep,) = self._vectors("w_gradient" if self._transformed else "new_gradient")
        penalty, new, along = self._vectors("penalty", "new_gradient", "direction")
        for i in self._kept:
            self._device.run(lbfgs.trial(facts, parameters[i], outer, arrays["steps"], self._at[i], self._problems))
        if self._transformed:
            inner = self._vectors("trial", "x", "direction")
            self._device.run(lbfgs.move(facts, inner, arrays["steps"], self._problems))
        self._executor.run_gradient()
        for i in self._kept:
            outs = (steep, penalty)
            self._device.run(lbfgs.gradient(facts, outs, gradients[i], outer[0], self._penalty[i], self._at[i]))
        self._transform("new_gradient", "w_gradient", transposed=True)
        self._device.run(lbfgs.measure(arrays["facts"], losses, weight, (penalty, new, along, steep), self._problems))
        result = np.empty((4, self._problems))
        self._memory.get("facts", result)
        return result[0] / self._total_weight + result[1], result[2], result[3]

    def direct(self, accept: np.ndarray, forget: np.ndarray) -> np.ndarray:
        """Let problems take the trial as their new point, or forget their pairs; the others wait.

        Parameters
        ----------
        accept, forget : ndarray of shape (problems,), bool

        Returns
        -------
        ndarray of shape (problems,), float64
            Slopes along the new directions.
        """
        self._memory.put(
            orders=np.where(accept, lbfgs.ACCEPT, np.where(forget, lbfgs.FORGET, lbfgs.WAIT)).astype(np.int32)
        )
        names = (
            "x",
            "gradient",
            "direction",
            "s",
            "y",
            "curvature",
            "pairs",
            "facts",
            "trial",
            "new_gradient",
            "orders",
        )
        self._device.run(lbfgs.direction(self._vectors(*names), PAIRS, self._problems))
        self._transform("w", "x")
        self._transform("w_direction", "direction")
        result = np.empty((4, self._problems))
        self._memory.get("facts", result)
        return result[2]

    def point(self) -> np.ndarray:
        """Download the accepted point: `[W0, b0, ...]` as one vector, or the variables of the search."""
        x = np.empty(self._memory.arrays["x"].shape)
        self._memory.get("x", x)
        return x
