"""Training steps on a GPU: ours, the CPU's, and torch (eager, and captured in a CUDA graph) side by side; where the time of a step goes.

`python bench/gpu/models.py --out FOLDER` writes models.csv and steps.csv, anew after each model: what was measured before the time was up is kept.
One process, alternating: ours, torch, ours, torch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from timing import facts, show, spread, time_launches, torch_runs, write

from fastmnist import available_backends, load_mnist
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.gpu import CupyExecutor, open_device
from fastmnist.network.architectures import ARCHITECTURES
from fastmnist.network.initializers import initial_parameters
from fastmnist.network.layers import Conv2D, Dense, Flatten, MaxPool2D
from fastmnist.network.optimizers import SGD, Adam
from fastmnist.network.spec import Spec

# Those that goals are set for come first.
MODELS = {
    "mlp-128-64": Spec(784, (Dense(128, "relu"), Dense(64, "relu"), Dense(10)), optimizer=Adam()),
    "softmax": Spec(784, (Dense(10),), optimizer=SGD()),
    "mlp-500-250-100": Spec(
        784, (Dense(500, "relu"), Dense(250, "relu"), Dense(100, "relu"), Dense(10)), optimizer=Adam()
    ),
    "lenet5": Spec(784, (*ARCHITECTURES["lenet5"], Dense(10)), optimizer=Adam(), image_shape=(28, 28, 1)),
    "fast": Spec(784, (*ARCHITECTURES["fast"], Dense(10)), optimizer=Adam(), image_shape=(28, 28, 1)),
}
MOST_ROWS = {"lenet5": 6_000, "fast": 6_000}  # their epochs on the CPU take long
BATCHES = (32, 256, 1024)
EPOCHS = 3


def executor_epochs(executor, spec: Spec, X: np.ndarray, y: np.ndarray, batch: int) -> Callable[[], float]:
    """A function that trains one epoch and returns its seconds; the first call, which compiles and records, is made here."""
    executor.bind(X, y, pixel_scale=1 / 255)
    executor.set_parameters(initial_parameters(spec, np.random.default_rng(0), np.float32))
    rates, rng = np.full(-(-len(X) // batch), 1e-3), np.random.default_rng(1)

    def epoch() -> float:
        result = executor.run_epoch(rng.permutation(len(X)), rates, batch)
        assert np.isfinite(result.losses).all()
        return result.seconds

    epoch()
    return epoch


def torch_epochs(spec: Spec, X: np.ndarray, y: np.ndarray, batch: int, graph: bool) -> Callable[[], float]:
    """The same in torch: data resident, fused optimizer, indices drawn once an epoch."""
    import torch

    layers: list[torch.nn.Module] = [torch.nn.Unflatten(1, (1, 28, 28))] if spec.image_shape else []
    for before, layer in zip(spec.shapes, spec.layers, strict=False):
        if isinstance(layer, Flatten):
            layers.append(torch.nn.Flatten())
        elif isinstance(layer, MaxPool2D):
            layers.append(torch.nn.MaxPool2d(layer.window))
        elif isinstance(layer, Conv2D):
            layers.append(torch.nn.Conv2d(before[-1], layer.filters, layer.window, padding=layer.padding))
        else:
            layers.append(torch.nn.Linear(before[-1], layer.units))
        layers += [torch.nn.ReLU()] * (getattr(layer, "activation", "") == "relu")
    net = torch.nn.Sequential(*layers).cuda()
    data, labels = torch.tensor(X).cuda(), torch.tensor(y, dtype=torch.int64).cuda()
    make = torch.optim.Adam if isinstance(spec.optimizer, Adam) else torch.optim.SGD
    optimizer = make(
        net.parameters(), lr=1e-3, fused=True, **({"capturable": True} if make is torch.optim.Adam else {})
    )
    rows = torch.zeros(batch, dtype=torch.int64, device="cuda")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(data[rows].float() * (1 / 255)), labels[rows])
        loss.backward()
        optimizer.step()

    if graph:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            step()

    def epoch() -> float:
        order = torch.randperm(len(X), device="cuda")
        torch.cuda.synchronize()
        start = time.perf_counter()
        for first in range(0, len(X) - batch + 1, batch):
            rows.copy_(order[first : first + batch])
            recorded.replay() if graph else step()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    epoch()
    return epoch


def main() -> None:
    """Everything, into two CSV files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=60_000)
    options = parser.parse_args()
    X, y = load_mnist("train", return_X_y=True)
    everything = X[: options.rows], y[: options.rows].astype(np.int32)
    device = open_device()
    models, steps = [], []
    compiled, _ = available_backends()["numba"]
    for name, spec in MODELS.items():
        X, y = (a[: MOST_ROWS.get(name)] for a in everything)
        for batch in BATCHES:
            ours = CupyExecutor(spec)
            jobs = {"cupy": executor_epochs(ours, spec, X, y, batch)}
            if ours.one_launch_an_epoch:  # what it is instead of: the rule that chooses it rests on this line
                jobs["cupy graph"] = executor_epochs(CupyExecutor(spec, persistent=False), spec, X, y, batch)
            if compiled:
                jobs["numba"] = executor_epochs(CpuExecutor(spec), spec, X, y, batch)
            if torch_runs():
                jobs |= {
                    f"torch {kind}": torch_epochs(spec, X, y, batch, kind == "graph") for kind in ("eager", "graph")
                }
            seconds: dict[str, list[float]] = {job: [] for job in jobs}
            for _ in range(EPOCHS):
                for job, epoch in jobs.items():
                    seconds[job].append(epoch())
            n_steps, base = -(-len(X) // batch), {"model": name, "batch": batch}
            way = {"cupy": "one launch" if ours.one_launch_an_epoch else "graph", "cupy graph": "graph"}
            for job, times in seconds.items():
                ratio = median(theirs / ours_ for theirs, ours_ in zip(times, seconds["cupy"], strict=True))
                models.append(
                    base
                    | {
                        "job": job,
                        "way": way.get(job, ""),
                        "us_a_step": median(times) / n_steps * 1e6,
                        "over_ours": ratio,
                    }
                )
            for launch in ours.launches(
                batch
            ):  # the last one moves the cursor: it is timed when no other needs it any more
                us, iqr = (1e6 * value for value in spread(time_launches(device, [launch])))
                steps.append(
                    base | {"kernel": launch.kernel, "grid": "x".join(map(str, launch.grid)), "us": us, "iqr_us": iqr}
                )
        write(options.out / "models.csv", [row | facts(device) for row in models])
        write(options.out / "steps.csv", [row | facts(device) for row in steps])
    show(models, ("model", "batch", "job", "way", "us_a_step", "over_ours"))


if __name__ == "__main__":
    main()
