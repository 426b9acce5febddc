"""Where one way of computing becomes faster than another: measured on this machine by `fastmnist info --measure`, else a stated value.

The measurements stand beside the machine's roofs in one file of the cache folder. It is named by the machine and not by the number of threads,
so that a fit takes the same path, and has the same bits, on any number of them. Another crossover may choose another path: its results agree within
the kernels' budgets of rounding, not to the bit.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastmnist.network.crossover import STATED, Crossover
from fastmnist.network.image_choices import STATED_WINOGRAD
from fastmnist.warning import warn_user

VERSION = 2  # of the file's form and of how it is measured

# Above this share of nonzeros dense rows are multiplied: a vector product passes zeros faster than a list passes nonzeros. On two cores the ways
# cross at 26 % (epoch, 128-64, batch 32), 33 to 37 % (larger batches, wider layers) and 35 to 43 % (full-batch gradient of softmax), for
# bytes and floats alike: bench/bench_crossover.py, records in bench/results/crossover.csv. At 30 % no job loses more than a tenth.
STATED_SHARE = 0.3
EPOCH, GRADIENT = "compressed rows, mini-batches", "compressed rows, full-batch gradient"
WINOGRAD = "Winograd's algorithm, of the direct products"
NAMES = (EPOCH, GRADIENT, WINOGRAD)


def machine_file() -> Path:
    """What was measured on this machine: roofs and crossovers."""
    import hashlib
    import platform

    from fastmnist.kernels.cpu.caches import CACHES
    from fastmnist.kernels.cpu.isa import MACHINE
    from fastmnist.kernels.cpu.objects import cache_root

    key = f"{platform.node()} {MACHINE} {CACHES}"
    return cache_root() / "roofs" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def read_machine_file() -> dict[str, Any] | None:
    """Its values; None where nothing was measured.

    Raises
    ------
    ValueError
        It is damaged, or of another version.
    OSError
        It can't be read.
    """
    import json

    try:
        values = json.loads(machine_file().read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise ValueError("it was made by another version of fastmnist")
    return values


def share_to_compress(*, full_batch: bool) -> Crossover:
    """Up to which share of nonzero values rows are compressed.

    Parameters
    ----------
    full_batch : bool
        For gradients of all rows, not for mini-batches.
    """
    return crossovers()[GRADIENT if full_batch else EPOCH]


def winograd_limit() -> Crossover:
    """Up to which part of the direct convolution's products Winograd's algorithm is used, see `fastmnist.network.image_choices`."""
    return crossovers()[WINOGRAD]


@cache
def crossovers() -> dict[str, Crossover]:
    """All crossovers by name, read once a process; a file that can't be used is ignored with one warning."""
    stated = dict.fromkeys((EPOCH, GRADIENT), Crossover(STATED_SHARE, STATED)) | {WINOGRAD: STATED_WINOGRAD}
    try:
        values = read_machine_file()
        return stated if values is None else stated | _measured(values)
    except (OSError, ImportError, ValueError, TypeError, KeyError, AttributeError) as problem:
        warn_user(
            f"fastmnist ignores its measurements of this machine ({problem}) and goes by stated crossovers. Run: fastmnist info --measure",
            RuntimeWarning,
        )
        return stated


def _measured(values: dict[str, Any]) -> dict[str, Crossover]:
    found = {name: float(share) for name, share in values["crossovers"].items() if name in NAMES}
    for name, share in found.items():
        if not 0 <= share <= 1:
            raise ValueError(f"a share of {share!r} for {name}")
    return {name: Crossover(share, f"measured here on {values['measured']}") for name, share in found.items()}
