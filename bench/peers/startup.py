"""Jobs: what a user waits for before the first result. Every sample is a fresh process. Warm-up: one run, so that files are in memory.

`import`
    Timed: the import statement, within a process that has imported nothing but `sys` and `time`. Ours is `import numpy, fastmnist`:
    fastmnist's own share is the difference to the peer "numpy". fastmnist's public names load what they need when they are first used;
    hence the next job.
`import-estimator`
    Timed: the import of what a classifier is made with, `from fastmnist import MLPClassifier` and the peers' counterparts.
`first-fit`
    Timed: `seconds`, from before the library's import to the end of the first fit of one epoch (784-128-64-10, Adam, batch 32), uint8
    images being in memory; recorded beside it, `fit_seconds`, the same fit once more in the same process: their difference is what only the
    first one pays. With a warm cache, fastmnist and JAX (its persistent compilation cache) find the code that an earlier process compiled;
    cold, both find an empty folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from runner import Runner

IMPORTS = {
    "fastmnist": "import numpy, fastmnist",
    "numpy": "import numpy",
    "numba": "import numba",
    "jax": "import jax",
    "scikit-learn": "import sklearn.neural_network",
    "torch": "import torch",
    "keras": "import keras",
}
ESTIMATORS = {
    "fastmnist": "from fastmnist import MLPClassifier",
    "scikit-learn": "from sklearn.neural_network import MLPClassifier",
    "torch": "from torch.nn import Linear, ReLU, Sequential",
    "keras": "from keras import Sequential, layers",
}
DISTRIBUTIONS = {"keras": ["keras", "tensorflow-cpu"]}
TIMED_IMPORT = """
import sys, time
start = time.perf_counter()
{statement}
print(time.perf_counter() - start)
"""
FIRST_FIT = """
import json, sys
import mlp
runner = getattr(mlp, sys.argv[1])(json.loads(sys.argv[2]), json.loads(sys.argv[3]))
print("\\n", runner.first_seconds, runner.fit(1, seed=1)[0])
"""
NETWORK = {"hidden": [128, 64], "solver": "adam", "learning_rate": 1e-3, "batch_size": 32, "epochs": 1}


class _Startup(Runner):
    """A provider whose every sample is a process."""

    provider = ""
    training = ""  # its class in `mlp`

    def __init__(self, parameters: dict[str, Any], settings: dict[str, Any]) -> None:
        from importlib.metadata import PackageNotFoundError, version

        self.what, self.warm = parameters["what"], parameters.get("warm", True)
        self.folder = tempfile.TemporaryDirectory()
        names = DISTRIBUTIONS.get(self.provider, [self.provider])
        try:
            self.version = ", ".join(f"{name} {version(name)}" for name in names)
        except PackageNotFoundError as error:
            raise ImportError(f"{error} is not installed") from error
        self.sample(0)

    @classmethod
    def settings(cls, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """First fits run with two threads; imports have nothing to set."""
        return [{"threads": 2}] if parameters["what"] == "first-fit" and cls.provider != "fastmnist" else [{}]

    @staticmethod
    def environment(settings: dict[str, Any]) -> dict[str, str]:
        """Keras asks which backend."""
        return {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}

    def sample(self, seed: int) -> dict[str, Any]:
        """A fresh process."""
        if self.what == "first-fit":
            return self._first_fit()
        statement = (IMPORTS if self.what == "import" else ESTIMATORS)[self.provider]
        return {"seconds": float(process(TIMED_IMPORT.format(statement=statement)).split()[-1]), "note": statement}

    def _first_fit(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as empty:
            folder = self.folder.name if self.warm else empty
            caches = {
                "FASTMNIST_CACHE_DIR": folder,
                "JAX_COMPILATION_CACHE_DIR": folder,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
            settings = json.dumps({"threads": 2, "jit_compile": False})
            output = process(FIRST_FIT, self.training, json.dumps(NETWORK), settings, environment=caches)
        first, second = map(float, output.split()[-2:])
        return {"seconds": first, "fit_seconds": second}


def process(code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Standard output of a fresh Python."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env={**os.environ, **(environment or {}), "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-1])
    return run.stdout


class FastMNIST(_Startup):
    """This library."""

    provider, training = "fastmnist", "FastMNIST"


class NumPy(_Startup):
    """What every one of them imports."""

    provider = "numpy"


class Numba(_Startup):
    """What fastmnist would import if it had no cache of its own."""

    provider = "numba"


class JAX(_Startup):
    """JAX."""

    provider, training = "jax", "JAX"


class ScikitLearn(_Startup):
    """scikit-learn."""

    provider, training = "scikit-learn", "ScikitLearn"


class Torch(_Startup):
    """PyTorch, eager."""

    provider, training = "torch", "Torch"


class Keras(_Startup):
    """Keras 3 on TensorFlow."""

    provider, training = "keras", "Keras"
