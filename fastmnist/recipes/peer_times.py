"""How long the sources' software takes at their recipes, and fastmnist beside it: records of `bench/peers/sources.py`, in `peer_times.csv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np

RECORDS = Path(__file__).parent / "peer_times.csv"
COLUMNS = (
    "date",
    "recipe",
    "system",
    "software",
    "unit",
    "seconds",
    "accuracy",
    "settings",
    "machine",
    "our_seconds",
    "fastmnist",
)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast this library was: the source's seconds / ours, round by round.

    Attributes
    ----------
    low, middle, high : float
        20 % quantile, median and 80 % quantile of the rounds.
    our_seconds : float
        Median.
    fastmnist : str
        Version and commit.
    """

    low: float
    middle: float
    high: float
    our_seconds: float
    fastmnist: str


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
    settings, machine : str
    date : str
        When the run was begun; samples of one run have the same.
    ratio : Ratio or None
        None where this library did not take turns with it.
    """

    software: str
    unit: str
    seconds: float
    samples: int
    settings: str
    machine: str
    date: str
    ratio: Ratio | None = None

    @property
    def a_unit(self) -> str:
        """With its article."""
        return f"{'an' if self.unit[0] in 'aei' else 'a'} {self.unit}"

    def __str__(self) -> str:
        value = f"{self.seconds:.2f} s" if self.seconds >= 0.1 else f"{1000 * self.seconds:.0f} ms"
        return f"{self.software}: {value} {self.a_unit}"


@cache
def peer_times(path: Path = RECORDS) -> dict[tuple[str, str], PeerTime]:
    """By recipe and system: the samples of the run that was made last."""
    samples: dict[tuple[str, str], list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            same = samples.setdefault((row["recipe"], row["system"]), [])
            if same and any(same[0][name] != row[name] for name in ("date", "software", "machine")):
                same.clear()
            same.append(row)
    return {key: _of_one_run(rows) for key, rows in samples.items()}


def _of_one_run(rows: list[dict[str, str]]) -> PeerTime:
    first = rows[0]
    seconds = [float(row["seconds"]) for row in rows]
    ours = [float(row["our_seconds"]) for row in rows if row["our_seconds"]]
    ratio = None
    if len(ours) == len(seconds):
        low, middle, high = np.quantile(np.divide(seconds, ours), [0.2, 0.5, 0.8]).tolist()
        ratio = Ratio(low, middle, high, median(ours), first["fastmnist"])
    about = (first["settings"], first["machine"], first["date"])
    return PeerTime(first["software"], first["unit"], median(seconds), len(rows), *about, ratio)
