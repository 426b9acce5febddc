"""Prediction on a GPU: outputs, or only what is made of them there: labels, or sums of losses and hits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastmnist.backends.base import Parameters
from fastmnist.backends.device_rows import DeviceLabels, DeviceRows
from fastmnist.backends.gpu_memory import Bound
from fastmnist.kernels.gpu import Array, judging
from fastmnist.network.losses import BinaryCrossEntropy
from fastmnist.network.lowering import DataFormat, inference_program

if TYPE_CHECKING:
    from fastmnist.backends.gpu import CupyExecutor
    from fastmnist.backends.gpu_runner import Runner

KEPT_PROGRAMS = 3  # of a long X the blocks and the shorter last one; and one more


@dataclass(frozen=True)
class Judgement:
    """Sums over rows.

    Attributes
    ----------
    weight : float
        Of the samples.
    loss, hits : float
        Weighted cross-entropies and weighted hits; not divided.
    finite : bool
        Whether all outputs were finite numbers.
    """

    weight: float
    loss: float
    hits: float
    finite: bool


class Inference:
    """Runs inference programs block by block for one executor; calls take turns."""

    def __init__(self, executor: CupyExecutor) -> None:
        self._executor = executor
        self._runners: dict[object, Runner] = {}
        self._turn = threading.Lock()

    def outputs(
        self, parameters: Parameters, X: np.ndarray | DeviceRows, pixel_scale: float, *, link: bool
    ) -> np.ndarray:
        """See `CupyExecutor.outputs`."""
        result = np.empty((len(X), self._executor.spec.n_outputs), np.float32)
        for rows, runner in self._blocks(parameters, X, pixel_scale, link=link):
            runner.own.get("outputs", result[rows])
        return result

    def labels(self, parameters: Parameters, X: np.ndarray | DeviceRows, pixel_scale: float) -> np.ndarray:
        """See `CupyExecutor.predicted_labels`."""
        device = self._executor.device
        result = np.empty(len(X), np.int32)
        for rows, runner in self._blocks(parameters, X, pixel_scale, link=False):
            runner.own.put(labels=result[rows])
            outputs, labels = runner.own.arrays["outputs"], runner.own.arrays["labels"]
            device.run(judging.predict_labels(device.facts, labels, outputs, judging.OF_LOGITS))
            runner.own.get("labels", result[rows])
        return result

    def judge(
        self,
        parameters: Parameters,
        X: np.ndarray | DeviceRows,
        labels: np.ndarray | DeviceLabels,
        sample_weight: np.ndarray | None,
        pixel_scale: float,
        *,
        link: bool,
    ) -> Judgement:
        """See `CupyExecutor.judge`."""
        device, loss = self._executor.device, self._executor.spec.loss
        result, own = np.zeros(judging.TOTALS), Bound(device)
        own.put(totals=result, **({} if sample_weight is None else {"weight": sample_weight.astype(np.float32)}))
        if isinstance(labels, DeviceLabels):
            own.adopt("labels", labels.array, labels)
        else:
            own.put(labels=np.asarray(labels, np.int32))
        threshold = judging.OF_PROBABILITIES if link else judging.OF_LOGITS
        for rows, runner in self._blocks(parameters, X, pixel_scale, link=link):
            known = _part(own.arrays["labels"], rows)
            weight = None if sample_weight is None else _part(own.arrays["weight"], rows)
            outputs, one_vs_rest = runner.own.arrays["outputs"], isinstance(loss, BinaryCrossEntropy)
            device.run(judging.judge(own.arrays["totals"], outputs, known, weight, threshold, one_vs_rest=one_vs_rest))
        own.get("totals", result)
        weight_sum, loss_sum, hits, bad = map(float, result)
        return Judgement(weight_sum, loss_sum, hits, bad == 0)

    def _blocks(
        self, parameters: Parameters, X: np.ndarray | DeviceRows, pixel_scale: float, *, link: bool
    ) -> Iterator[tuple[slice, Runner]]:
        """Run block by block; after each the runner has its outputs on the device."""
        size = self._executor.block_rows
        with self._turn:
            for start in range(0, len(X), size):
                rows = slice(start, min(start + size, len(X)))
                yield rows, self._run(parameters, X, rows, pixel_scale, link)

    def _run(
        self, parameters: Parameters, X: np.ndarray | DeviceRows, rows: slice, pixel_scale: float, link: bool
    ) -> Runner:
        n, spec = rows.stop - rows.start, self._executor.spec
        key = (n, X.dtype.name, pixel_scale, link)
        runner = self._runners.pop(key, None)
        if runner is None:
            program = inference_program(spec, DataFormat(X.dtype.name, pixel_scale), (n,))
            runner = self._executor.runner(program)
            runner.link = link
            runner.own.put(outputs=np.empty((n, spec.n_outputs), np.float32))
        self._runners = {key: runner, **dict(list(self._runners.items())[: KEPT_PROGRAMS - 1])}
        named = {f"parameter_{i}": np.asarray(p, np.float32) for i, p in enumerate(parameters)}
        if isinstance(X, DeviceRows):
            runner.own.put(order=X.numbers(rows), **named)
            runner.own.adopt("source", X.array, X)
        else:
            runner.own.put(order=np.arange(n), source=X[rows], **named)
        try:
            if runner.walk([(n, 1)]):
                raise KeyboardInterrupt
        finally:
            if isinstance(X, DeviceRows):
                runner.own.release("source")  # a model must not keep its input alive
        return runner


def _part(vector: Array, rows: slice) -> Array:
    """Some elements of a vector on the device."""
    address = vector.address + rows.start * np.dtype(vector.dtype).itemsize
    return Array(address, (rows.stop - rows.start,), 1, vector.dtype)
