"""Whether a fit is worth the GPU: seconds of a step on both, from a table that was measured on this machine, else from stated assumptions.

A table has steps of growing arithmetic, with the seconds that compiled code and the GPU take for one. Between two entries the times are
interpolated on logarithmic axes; below the first they are its own, since a step costs its overhead; beyond the last they grow with the arithmetic.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastmnist.files import write_atomically
from fastmnist.threads import default_threads

if TYPE_CHECKING:
    from fastmnist.network.spec import Spec

VERSION = 1
# Assumed where nothing was measured, and not seen on any GPU yet: the GPU slower than the slowest that is sold, the processor as fast as the
# fastest core here (250 GFLOP/s) and without overhead, so that only large work moves.
ASSUMED_GPU_STEP_SECONDS, ASSUMED_GPU_FLOPS = 100e-6, 2e12
ASSUMED_CORE_FLOPS = 250e9
START_SECONDS = 1.0  # of a context, CuPy's import and the first compilation
UPLOAD_BYTES_PER_SECOND = 2e9  # from pageable memory
ASSUMED_MARGIN, MEASURED_MARGIN = 1.5, 1.1  # by which the GPU must win
# What is measured: rows of a batch and units of the hidden layers.
JOBS = ((16, (32,)), (32, (128, 64)), (256, (256, 128)), (1024, (512, 256)), (2048, (2048, 1024)))
STEPS = 24  # of each job
FEATURES, CLASSES = 784, 10


@dataclass(frozen=True)
class Crossover:
    """Seconds of training steps.

    Attributes
    ----------
    device : str
        Name of the GPU; "" where the table is assumed.
    threads : int
        Of compiled code.
    points : list of (float, float, float)
        FLOPs of a step, seconds of it in compiled code, seconds on the GPU; ascending.
    measured : str
        The date; "" where the table is assumed.
    version : int
    """

    device: str
    threads: int
    points: list[tuple[float, float, float]]
    measured: str = ""
    version: int = VERSION

    def step_seconds(self, flops: float) -> tuple[float, float]:
        """Of a step with so much arithmetic: compiled code's, the GPU's."""
        sizes, *columns = zip(*self.points, strict=True)
        beyond = max(flops / sizes[-1], 1.0)
        at = math.log(max(flops, 1.0))
        cpu, gpu = (float(np.exp(np.interp(at, np.log(sizes), np.log(seconds)))) * beyond for seconds in columns)
        return cpu, gpu

    def judge(self, flops: float, steps: int, nbytes: float) -> tuple[bool, str]:
        """Whether the GPU is to be taken for a fit of so much arithmetic, steps and data, and why."""
        cpu, gpu = (max(steps, 1) * seconds for seconds in self.step_seconds(flops / max(steps, 1)))
        gpu += START_SECONDS + nbytes / UPLOAD_BYTES_PER_SECOND
        margin = MEASURED_MARGIN if self.measured else ASSUMED_MARGIN
        origin = (
            f"measured here on {self.measured}" if self.measured else "assumed: fastmnist info --measure measures it"
        )
        return margin * gpu < cpu, f"an estimated {gpu:.3g} s on the GPU, {cpu:.3g} s in compiled code ({origin})"

    def summary(self) -> str:
        """One line for people."""
        low, high = 1e3, 1e13
        for _ in range(60):
            middle = math.sqrt(low * high)
            cpu, gpu = self.step_seconds(middle)
            low, high = (low, middle) if cpu > gpu else (middle, high)
        where = f"the GPU wins from {high / 1e6:,.3g} MFLOP a step on" if high < 9e12 else "the GPU never wins"
        origin = f"measured on {self.device}, {self.measured}" if self.measured else "assumed, not measured: --measure"
        return f"{where} against {self.threads} thread(s) ({origin})"


def crossover_of(device: str) -> Crossover:
    """The table of a GPU: measured if there is one, else assumed."""
    return known_crossover(device) or assumed(default_threads())


def assumed(threads: int) -> Crossover:
    """What is believed of a GPU that was not measured: its step against all threads at their best."""
    sizes = np.geomspace(1e4, 1e12, 65).tolist()  # so close that interpolation adds nothing
    rate = ASSUMED_CORE_FLOPS * threads
    points = [(size, size / rate, ASSUMED_GPU_STEP_SECONDS + size / ASSUMED_GPU_FLOPS) for size in sizes]
    return Crossover("", threads, points)


def known_crossover(device: str) -> Crossover | None:
    """The measured table of a GPU in this machine; None where there is none, or it is damaged."""
    try:
        values = json.loads(_path(device).read_text())
        if values.get("version") != VERSION:
            return None
        table = Crossover(**{**values, "points": [tuple(map(float, point)) for point in values["points"]]})
        return table if len(table.points) > 1 and all(len(p) == 3 and min(p) > 0 for p in table.points) else None
    except (OSError, ImportError, ValueError, TypeError, KeyError, AttributeError):
        return None


def measure_crossover() -> Crossover:
    """Train some networks on both, and keep the table; some seconds.

    Raises
    ------
    BackendUnavailable
        One of them cannot run here.
    """
    from fastmnist.backends import build, require
    from fastmnist.backends.gpu import open_device
    from fastmnist.network.layers import Dense
    from fastmnist.network.optimizers import Adam
    from fastmnist.network.spec import Spec

    for backend in ("numba", "cupy"):
        require(backend)
    points = []
    for batch, hidden in JOBS:
        spec = Spec(FEATURES, (*(Dense(units, "relu") for units in hidden), Dense(CLASSES)), optimizer=Adam())
        seconds = [_step_seconds(build(backend, spec), spec, batch) for backend in ("numba", "cupy")]
        points.append((float(spec.flops_per_sample) * batch, *seconds))
    name = open_device().name
    table = Crossover(name, default_threads(), sorted(points), time.strftime("%Y-%m-%d"))  # type: ignore[arg-type]
    _write(_path(name), table)
    return table


def _step_seconds(executor: object, spec: Spec, batch: int) -> float:
    """Of the faster of two epochs after one that compiles and records."""
    rng, n = np.random.default_rng(0), STEPS * batch
    X = rng.integers(0, 256, (n, FEATURES), dtype=np.uint8) * (rng.random((n, FEATURES)) < 0.2).astype(np.uint8)
    executor.bind(X, (np.arange(n) % CLASSES).astype(np.int32), pixel_scale=1 / 255)  # type: ignore[attr-defined]
    parameters = [(0.05 * rng.standard_normal(shape)).astype(np.float32) for shape in spec.parameter_shapes]
    executor.set_parameters(parameters)  # type: ignore[attr-defined]
    order, rates = rng.permutation(n), np.full(STEPS, 1e-3)
    times = [executor.run_epoch(order, rates, batch).seconds for _ in range(3)]  # type: ignore[attr-defined]
    return max(min(times[1:]) / STEPS, 1e-9)


def _path(device: str) -> Path:
    from fastmnist.kernels.cpu.isa import MACHINE
    from fastmnist.kernels.cpu.objects import cache_root

    key = f"{platform.node()} {MACHINE} {default_threads()} {device}"
    return cache_root() / "crossover" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _write(path: Path, table: Crossover) -> None:
    """Whole or not at all; where nothing can be written the assumptions stay."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(table), indent=1).encode())
