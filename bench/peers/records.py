"""The raw records: `bench/results/peers.csv`, one line a sample, appended to and never changed."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results" / "peers.csv"
TRIAL, FAILED = "trial", "failed"


@dataclass(frozen=True)
class Record:
    """A sample of one provider.

    Attributes
    ----------
    run : str
        When the command was begun that compared them, UTC: samples with the same run, job and peer alternated.
    job, peer : str
        What was compared: fastmnist with that peer.
    provider : str
        Whose sample this is.
    settings : str
        As "name=value name=value".
    round : str
        Number of the round; "trial": a setting was tried; "failed": there is no sample, `note` says why.
    seconds, fit_seconds, loss, accuracy : float or None
        See the job.
    note, versions, python, machine, commit : str
        `commit` is the last that changed fastmnist's sources, with "+" when there were changes on top.
    """

    run: str
    job: str
    peer: str
    provider: str
    settings: str
    round: str
    seconds: float | None
    fit_seconds: float | None
    loss: float | None
    accuracy: float | None
    note: str
    versions: str
    python: str
    machine: str
    commit: str


COLUMNS = [field.name for field in dataclasses.fields(Record)]
NUMBERS = ("seconds", "fit_seconds", "loss", "accuracy")


def append(records: Iterable[Record], path: Path = RESULTS) -> None:
    """Add lines; a new file begins with the columns' names.

    Raises
    ------
    ValueError
        The file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        load(path)  # refuses other columns
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        for record in records:
            writer.writerow([_text(getattr(record, name)) for name in COLUMNS])


def _text(value: object) -> object:
    return "" if value is None else f"{value:.8g}" if isinstance(value, float) else value


def load(path: Path = RESULTS) -> list[Record]:
    """All records, in the order in which they were added.

    Raises
    ------
    ValueError
        The file has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path.name} must have the columns {COLUMNS}; got {reader.fieldnames}. Rename the file.")
        return [_record(row) for row in reader]


def _record(row: dict[str, str]) -> Record:
    numbers = {name: float(row[name]) if row[name] else None for name in NUMBERS}
    return Record(**{**row, **numbers})


def newest_runs(records: Sequence[Record], machine: str) -> dict[tuple[str, str], list[Record]]:
    """Of each job and peer on that machine, the records of the last run that has more than trials."""
    runs: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.machine == machine and record.round != TRIAL:
            pair = runs.setdefault((record.job, record.peer), [])
            if pair and pair[0].run != record.run:
                pair.clear()
            pair.append(record)
    return runs
