"""What a fit would do, without doing it: the network, the backend with its reason, and the program as a table."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from fastmnist.network.layers import describe

if TYPE_CHECKING:
    from fastmnist.estimators import CNNClassifier, LogisticRegression, MLPClassifier, OneVsRestLogisticRegression
    from fastmnist.network.spec import Spec


@dataclass(frozen=True)
class Explanation:
    """The answer of `explain`.

    Attributes
    ----------
    model : str
        The estimator with the parameters that are not defaults.
    network : list of str
        The layers from input to output, then loss and solver.
    n_parameters : int
    backend, reason : str
        The choice and why.
    n_threads : int
    steps : int
        Optimizer steps, or full-batch evaluations, at most.
    gflop : float
        Of the whole fit at most, counted dense.
    program : list of str
        `Program.describe()`.
    """

    model: str
    network: list[str]
    n_parameters: int
    backend: str
    reason: str
    n_threads: int
    steps: int
    gflop: float
    program: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def explain(
    estimator: LogisticRegression | OneVsRestLogisticRegression | MLPClassifier | CNNClassifier,
    X: ArrayLike,
    y: ArrayLike,
) -> Explanation:
    """Say what `estimator.fit(X, y)` would run.

    Parameters
    ----------
    estimator : LogisticRegression, OneVsRestLogisticRegression, MLPClassifier or CNNClassifier
        Stays as it is.
    X : array-like or sparse matrix of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)

    Returns
    -------
    Explanation

    Raises
    ------
    ValueError
        As in `fit`.
    fastmnist.BackendUnavailable
        The backend that was asked for cannot run here.
    """
    model = type(estimator)(**estimator.get_params(deep=False))
    data, labels, _ = model._validate_training_data(X, y, None, reset=True)
    labels = model._labels(model._learn_classes(labels))
    spec = model._spec()
    full_batch = model.solver in ("lbfgs", "gd")
    n_samples = data.shape[0]
    batch_size = n_samples if full_batch else model._effective_batch_size(n_samples)
    steps = model.max_iter * math.ceil(n_samples / batch_size)
    flops = float(spec.flops_per_sample) * n_samples * model.max_iter
    # `Any`: estimators need no programs, so their view of an executor does not have them.
    executor: Any = model._open_executor(spec, data, epochs=model.max_iter, steps=steps)
    scale = model._set_pixel_scale(data)
    model._bind(executor, data, labels, None, scale, model._memory_limit(), full_batch=full_batch)
    program = executor.gradient_program() if full_batch else executor.program((batch_size,))
    return Explanation(
        model=" ".join(repr(estimator).split()),
        network=_network(spec, model.solver if full_batch else ""),
        n_parameters=sum(math.prod(shape) for shape in spec.parameter_shapes),
        backend=model.backend_,
        reason=model.backend_reason_,
        n_threads=executor.n_threads,
        steps=steps,
        gflop=flops / 1e9,
        program=program.describe(),
    )


def _network(spec: Spec, full_batch_solver: str) -> list[str]:
    if spec.image_shape is None:
        layers = [f"Input({spec.n_features})", *map(describe, spec.layers)]
    else:
        named = zip(["Input", *map(describe, spec.layers)], spec.shapes, strict=True)
        layers = [f"{layer} -> {' x '.join(map(str, shape))}" for layer, shape in named]
    layers.append(f"loss: {spec.loss}")
    if full_batch_solver:
        return [*layers, f"solver: {full_batch_solver}, full batch"]
    return [*layers, f"optimizer: {spec.optimizer}", *([f"l2: {spec.l2:g}"] if spec.l2 else [])]
