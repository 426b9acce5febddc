"""How much memory a run takes at most."""

from __future__ import annotations

from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The most memory that this process has from now on.

    Linux is told to forget the peak before (`Documentation/filesystems/proc.rst`, clear_refs); elsewhere nothing is known of a part of a
    process' life.
    """

    def __init__(self) -> None:
        try:
            _CLEAR.write_text("5")  # reset the peak
            self._before = _field("VmRSS")
        except OSError:
            self._before = None

    def stop(self) -> tuple[int | None, int | None]:
        """Bytes at most, and how many more than at the beginning; None where that can't be known."""
        peak = None if self._before is None else _field("VmHWM")
        if peak is None or self._before is None:
            return None, None
        return peak, max(peak - self._before, 0)


def _field(name: str) -> int | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
