"""Job: a whole fit on MNIST, from images as uint8 arrays in memory to a model that can predict, and its accuracy on the test images.

Timed: `seconds`, everything between the two: scaling, types, layout, parameters, optimizer, training. Not timed: reading the files, imports, and a
warm-up (ours: a fit of 300 images and a prediction, which load the compiled kernels; theirs: three steps). The accuracy is evaluated after the clock
has stopped.

Theirs is the published 0.76-second recipe (github.com/tuomaso/train_mnist_fast, 8_Final_00s76.ipynb) in PyTorch, as it stands there: 24 filters of
5 x 5, largest of 2 x 2, ReLU, 32 of 3 x 3, largest of 2 x 2, ReLU, 256 units; standardised pixels, Adam with betas (0.7, 0.9), one cycle up to 0.01
without cycling the momentum, batches of 256 in the order of the file, one epoch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from runner import Runner, blas_threads, mnist


@dataclass(frozen=True)
class Recipe:
    """How to train, and what that shall reach.

    Attributes
    ----------
    title : str
        As in README.
    mean, worst : float
        Least accuracy: of the mean over all seeds, of each seed.
    seeds : int
    speedup : float
        How much faster than the published recipe in PyTorch it shall be; 0: not compared.
    """

    title: str
    mean: float
    worst: float
    seeds: int
    speedup: float = 0.0


# How the recipes were chosen stands in bench/time_to_accuracy.md.
RECIPES = {
    "99.0": Recipe("8 and 32 filters, normalised, 128 units; 1 epoch", 0.990, 0.988, 10, 4.0),
    "99.4": Recipe("24 and 64 filters, normalised, 128 units; augmented, 3 epochs", 0.994, 0.0, 10),
    "99.5": Recipe("24 and 64 filters, normalised, 128 units; augmented, 6 epochs", 0.995, 0.0, 10),
    "default": Recipe("`CNNClassifier()`, `fastmnist train cnn`", 0.992, 0.0, 5, 0.5),
    "simple": Recipe('`layers="simple"` with its recipe', 0.993, 0.0, 5),
    "accurate": Recipe('`layers="accurate"` with its recipe', 0.996, 0.0, 5),
}


def arguments(name: str) -> dict[str, Any]:
    """What a recipe gives `CNNClassifier`."""
    from fastmnist import Activation, Augment, BatchNorm, Conv2D, Dense, Flatten, MaxPool2D
    from fastmnist.network.architectures import RECIPES as NAMED

    def small(first: int, second: int, units: int) -> tuple[Any, ...]:
        # Pooled first: a quarter of the values is left to normalise.
        stages = [
            layer
            for convolution in (Conv2D(first, 5, use_bias=False), Conv2D(second, 3, use_bias=False))
            for layer in (convolution, MaxPool2D(), BatchNorm(), Activation("relu"))
        ]
        return (*stages, Flatten(), Dense(units, "relu", kernel_initializer="he_uniform"))

    if name == "default":
        return {}
    if name in NAMED:
        return NAMED[name]
    common = {"beta_1": 0.85, "beta_2": 0.97, "schedule": "one_cycle", "label_smoothing": 0.1, "tol": 0.0}
    if name == "99.0":
        return {**common, "layers": small(8, 32, 128), "batch_size": 64, "learning_rate_init": 0.01, "max_iter": 1}
    bent = Augment(translate=1, rotate=8, scale=0.08, shear=4)
    own = {"batch_size": 128, "learning_rate_init": 0.015, "max_iter": {"99.4": 3, "99.5": 6}[name], "augment": bent}
    return {**common, "layers": small(24, 64, 128), **own}


class FastMNIST(Runner):
    """`CNNClassifier(**arguments(recipe))`, with as many threads as there are cores."""

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        import fastmnist

        self.data = mnist()
        self.make = lambda seed: fastmnist.CNNClassifier(**arguments(parameters["recipe"]), random_state=seed)
        warm = self.make(0).fit(self.data[0][:300], self.data[1][:300])
        warm.predict(self.data[2])
        self.version = f"fastmnist {fastmnist.__version__}"

    def sample(self, seed: int) -> dict[str, Any]:
        """See the module."""
        X, y, X_test, y_test = self.data
        start = time.perf_counter()
        model = self.make(seed).fit(X, y)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "loss": model.loss_, "accuracy": float((model.predict(X_test) == y_test).mean())}


class Torch(Runner):
    """The published recipe on two threads, images as rows of channels or channels last; the fused Adam, which is faster."""

    CHOICES: ClassVar = {"threads": [2], "layout": ["nchw", "channels_last"]}
    environment = staticmethod(blas_threads)

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(settings["threads"])
        self.torch, self.data = torch, mnist()
        layouts = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
        self.layout = layouts[settings["layout"]]
        self.version = f"torch {torch.__version__}"
        self.fit(0, steps=3)

    def trial(self) -> float:
        """One fit tells enough: the layouts differ by a factor of three."""
        return self.sample(0)["seconds"]

    def sample(self, seed: int) -> dict[str, Any]:
        """See the module."""
        start = time.perf_counter()
        model, loss = self.fit(seed)
        seconds = time.perf_counter() - start
        with self.torch.no_grad():
            found = (
                self.torch.cat([model(part) for part in self.images(self.data[2]).split(1000)]).argmax(1).cpu().numpy()
            )
        return {"seconds": seconds, "loss": loss, "accuracy": float((found == self.data[3]).mean())}

    def images(self, X: np.ndarray) -> Any:
        """Standardised pixels (n, 1, 28, 28)."""
        pixels = self.torch.from_numpy(X).to(self.torch.float32).div_(255).sub_(0.1307).div_(0.3081)
        return pixels.reshape(-1, 1, 28, 28).contiguous(memory_format=self.layout)

    def fit(self, seed: int, steps: int = 0) -> tuple[Any, float]:
        """The trained network, and its mean training loss; `steps`: no more than so many."""
        torch, nn = self.torch, self.torch.nn
        torch.manual_seed(seed)
        images = self.images(self.data[0])
        labels = torch.from_numpy(self.data[1].astype(np.int64)).to(images.device)
        layers = [nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()]
        layers += [nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10)]
        model = nn.Sequential(*layers).to(images.device, memory_format=self.layout)
        batches = list(zip(images.split(256), labels.split(256), strict=True))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.7, 0.9), fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.01, total_steps=len(batches), cycle_momentum=False
        )
        losses = []
        for x, t in batches[: steps or len(batches)]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), t)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        return model, float(torch.stack(losses).mean())
