"""Job: memory that training a convolutional network takes. Every sample is a fresh process that trains one epoch on the first `rows` images.

Timed is nothing here: `seconds` holds bytes, the most physical memory that the process had at any time (VmHWM of Linux), imports and the uint8
images of MNIST included. PyTorch keeps the images as bytes too and converts batch by batch. Compared: training loss and test accuracy, as in `cnn`.
After so few steps the loss depends on the order of the rows by a tenth, so both take them in the same one, that of `CNNClassifier`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cnn
import numpy as np
import startup
from runner import Runner, blas_threads

TRAINING = """
import json, sys
import cnn_memory
print()
print(json.dumps(cnn_memory.measured(*sys.argv[1:])))
"""


def peak_memory() -> int:
    """Bytes; of this process alone, unlike `ru_maxrss`, which begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def measured(kind: str, parameters: str, settings: str, seed: str) -> dict[str, Any]:
    """What a process says after one epoch; before it evaluates the model."""
    runner = {"FastMNIST": cnn.FastMNIST, "Torch": _FrugalTorch}[kind](json.loads(parameters), json.loads(settings))
    _, _, losses = runner.fit(runner.X, runner.y, 1, int(seed))
    memory = peak_memory()
    return {"seconds": memory, "loss": losses[0], "accuracy": float(runner.accuracy()), "version": runner.version}


class _FrugalTorch(cnn.Torch):
    """Images stay bytes; rows in the order of `CNNClassifier`'s first epoch."""

    def order(self, n: int) -> Any:
        rows = np.arange(n)
        self.rng.shuffle(rows)
        return self.torch.from_numpy(rows)

    def images(self, X: Any) -> Any:
        return self.torch.from_numpy(X).reshape(-1, 1, 28, 28)

    def pixels(self, batch: Any) -> Any:
        return batch.float().mul_(1 / 255).contiguous(memory_format=self.layout)


class _Memory(Runner):
    """A provider whose every sample is a process."""

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        self.parameters, self.chosen = parameters, settings
        self._first = self.sample(0)
        self.version = self._first["version"]

    def trial(self) -> float:
        """Memory hardly differs from run to run: the first one will do."""
        return self._first["seconds"]

    def sample(self, seed: int) -> dict[str, Any]:
        """A fresh process."""
        arguments = type(self).__name__, json.dumps(self.parameters), json.dumps(self.chosen), str(seed)
        return json.loads(startup.process(TRAINING, *arguments).splitlines()[-1])


class FastMNIST(_Memory):
    """This library, two threads."""


class Torch(_Memory):
    """PyTorch eager, two threads, in the layout that needs less."""

    CHOICES = cnn.Torch.CHOICES | {"threads": [2]}
    environment = staticmethod(blas_threads)
