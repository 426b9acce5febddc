"""Sizes of this machine's caches: what the block sizes of the products derive from.

Linux tells them under `/sys/devices/system/cpu/cpu0/cache`, as one core sees them (`Documentation/ABI/testing/sysfs-devices-system-cpu`). Where
nothing is told, small ones are assumed, which no processor with vector units of the last fifteen years undercuts: a block that is too small costs
some per cent, one that is too large a factor.
"""

from __future__ import annotations

from pathlib import Path

_LINUX = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
FALLBACK = {1: 32 << 10, 2: 256 << 10}


def detect(folder: Path = _LINUX) -> dict[int, int]:
    """Bytes of the caches that hold data, by level; 1 and 2 are always there.

    Parameters
    ----------
    folder : Path
        Where the folders `index0`, `index1`, ... lie; tests give another one.

    Returns
    -------
    dict
        `FALLBACK`'s value for a level that is not told.
    """
    sizes = dict(FALLBACK)
    for index in sorted(folder.glob("index[0-9]*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind in ("Data", "Unified"):
                sizes[int(level)] = int(size.rstrip("KMG")) * _UNITS.get(size[-1:], 1)
        except (OSError, ValueError):
            continue
    # Some virtual machines tell of caches of no bytes.
    return {level: max(size, FALLBACK.get(level, 0)) for level, size in sizes.items()}


CACHES = detect()
