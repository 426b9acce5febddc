"""Whole fits from host arrays: time to 99 % beside the published 0.76-second recipe in torch, and the logistic models by L-BFGS beside the CPU's.

`python bench/gpu/fits.py --out FOLDER` writes fits.csv. A fit's seconds hold the upload, the recording of graphs and the way back; compiling
does not: a first fit of 300 images did that, and says how long it took. Ours and torch take turns.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from timing import facts, show, torch_runs, write

from fastmnist import CNNClassifier, LogisticRegression, OneVsRestLogisticRegression, available_backends, load_mnist
from fastmnist.backends.gpu import open_device

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))

import to_accuracy

SEEDS = 10
RECIPE = "99.0"
FITS = 3
COLUMNS = ("model", "job", "seed", "seconds", "accuracy", "iterations", "objective")


def our_fit(data: tuple[np.ndarray, ...], seed: int) -> dict[str, Any]:
    """The recipe on the GPU: seconds and accuracy."""
    X, y, X_test, y_test = data
    start = time.perf_counter()
    model = CNNClassifier(**to_accuracy.arguments(RECIPE), random_state=seed, backend="cupy").fit(X, y)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "accuracy": float((model.predict(X_test) == y_test).mean())}


class TorchOnGpu(to_accuracy.Torch):
    """The published recipe, its images uploaded as bytes within the clock."""

    def images(self, X: np.ndarray) -> Any:
        """Standardised pixels (n, 1, 28, 28) on the device."""
        torch = self.torch
        pixels = torch.from_numpy(X).cuda().to(torch.float32).div_(255).sub_(0.1307).div_(0.3081)
        return pixels.reshape(-1, 1, 28, 28).contiguous(memory_format=self.layout)


def time_to_accuracy(data: tuple[np.ndarray, ...], seeds: int) -> list[dict[str, Any]]:
    """A row for each fit; the first of ours says what compiling took."""
    device = open_device()
    our_fit((data[0][:300], data[1][:300], *data[2:]), 0)
    compiling = device.compile_seconds
    jobs = {"cupy": lambda seed: our_fit(data, seed)}
    if torch_runs():
        peer = TorchOnGpu({}, {"threads": 2, "layout": "nchw"})
        jobs["torch"] = lambda seed: {k: v for k, v in peer.sample(seed).items() if k in COLUMNS}
    title = f"time to accuracy {RECIPE}"
    rows = [{"model": title, "job": job, "seed": s} | fit(s) for s in range(seeds) for job, fit in jobs.items()]
    rows[0]["compile_seconds"] = compiling
    return rows


def full_batch_fits(X: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """The logistic models to the same tolerance: seconds, iterations and the objective reached."""
    rows = []
    compiled, _ = available_backends()["numba"]
    for model in (LogisticRegression, OneVsRestLogisticRegression):
        for backend in ("cupy", "numba")[: 1 + compiled]:
            for _ in range(FITS):
                fit = model(C=0.01, tol=1e-4, max_iter=500, backend=backend).fit(X, y)
                reached = {"iterations": int(fit.n_iter_.max()), "objective": fit.loss_curve_[-1]}
                rows.append({"model": model.__name__, "job": backend, "seconds": fit.fit_seconds_} | reached)
    return rows


def main() -> None:
    """Everything, into one CSV file; what was measured before the time was up is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    train, test = (load_mnist(part, return_X_y=True) for part in ("train", "test"))
    data = (*(a[: options.rows] for a in train), *(a[: options.rows] for a in test))
    found: list[dict[str, Any]] = []
    for measure in (lambda: time_to_accuracy(data, options.seeds), lambda: full_batch_fits(*data[:2])):
        found += measure()
        write(options.out / "fits.csv", [row | facts(open_device()) for row in found])
    show(found, COLUMNS)


if __name__ == "__main__":
    main()
