"""How long the sources' software takes at their recipes: records made by `bench/peers/sources.py`, in `peer_times.csv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

RECORDS = Path(__file__).parent / "peer_times.csv"
COLUMNS = ("date", "recipe", "system", "software", "unit", "seconds", "accuracy", "settings", "machine")


@dataclass(frozen=True)
class PeerTime:
    """Median of some samples of one software at one recipe.

    Attributes
    ----------
    software : str
        With its version.
    unit : str
        "fit", "epoch" or "iteration".
    seconds : float
    samples : int
    settings, machine, date : str
    """

    software: str
    unit: str
    seconds: float
    samples: int
    settings: str
    machine: str
    date: str

    def __str__(self) -> str:
        article = "an" if self.unit[0] in "aei" else "a"
        value = f"{self.seconds:.2f} s" if self.seconds >= 0.1 else f"{1000 * self.seconds:.0f} ms"
        return f"{self.software}: {value} {article} {self.unit}"


@cache
def peer_times(path: Path = RECORDS) -> dict[tuple[str, str], PeerTime]:
    """By recipe and system: the newest software's samples on the machine that was measured last."""
    samples: dict[tuple[str, str], list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            same = samples.setdefault((row["recipe"], row["system"]), [])
            if same and any(same[0][name] != row[name] for name in ("date", "software", "machine")):
                same.clear()
            same.append(row)
    return {
        key: PeerTime(
            rows[0]["software"],
            rows[0]["unit"],
            median(float(row["seconds"]) for row in rows),
            len(rows),
            rows[0]["settings"],
            rows[0]["machine"],
            rows[0]["date"],
        )
        for key, rows in samples.items()
    }
