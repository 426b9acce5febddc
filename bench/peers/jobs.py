"""The jobs that every provider runs: the same network, batch, number of updates, shuffling and float32."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MLPJob:
    """One epoch is one pass over MNIST's 60,000 training images in a new random order."""

    name: str
    hidden: tuple[int, ...]
    solver: str  # "adam" or "sgd" (no momentum)
    learning_rate: float
    batch_size: int


JOBS = {
    job.name: job
    for job in (
        MLPJob("mlp-128-64-adam-32", (128, 64), "adam", 1e-3, 32),
        MLPJob("mlp-128-64-adam-256", (128, 64), "adam", 1e-3, 256),
        MLPJob("mlp-500-250-100-sgd-64", (500, 250, 100), "sgd", 0.01, 64),
    )
}
