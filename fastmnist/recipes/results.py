"""What was measured, kept as JSON; the rows of the table; what counts as met."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastmnist.files import write_atomically
from fastmnist.recipes.peer_times import PeerTime, peer_times
from fastmnist.recipes.recipe import Recipe

SEEDS_TO_JUDGE = 5  # fewer say too little about the deviation
CONVEX_POINTS = 0.1  # per cent points below the published number that a convex model may be: the split differs


@dataclass
class Run:
    """One fit and its test.

    Attributes
    ----------
    system : str
        Its name within the recipe.
    seed : int
    metrics : dict
        Name: value between 0 and 1.
    fit_seconds : float
        Without compiling.
    epochs : int
        Epochs, iterations or trees.
    unit : str
        "epoch", "iteration" or "tree".
    backend : str
    n_train, n_test : int
    history : dict of lists
        Of epochs, see the estimators; empty for many iterations, and for forests.
    report, train_report : dict or None
        In the layout of scikit-learn's `classification_report(output_dict=True)`.
    confusion : list of lists
        Rows: the true class.
    extra : dict
        What single recipes keep: costs of each digit, mean losses of 200 steps.
    """

    system: str
    seed: int
    metrics: dict[str, float]
    fit_seconds: float
    epochs: int
    unit: str
    backend: str
    n_train: int
    n_test: int
    history: dict[str, list[float | None]] = field(default_factory=dict)
    report: dict[str, Any] | None = None
    train_report: dict[str, Any] | None = None
    confusion: list[list[int]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class RecipeResult:
    """All runs of a recipe so far.

    Attributes
    ----------
    recipe : str
    settings : str
        A hash of everything that was asked for; runs of other settings are not continued.
    quick : bool
        Made with --quick: the numbers are not judged.
    machine, version, date : str
    chosen : dict
        Parameters that the validation part chose.
    chosen_from : list of dict
        What they were chosen from, each with its validation accuracy.
    runs : list of Run
    complete : bool
    """

    recipe: str
    settings: str
    quick: bool
    machine: str
    version: str
    date: str
    chosen: dict[str, Any] = field(default_factory=dict)
    chosen_from: list[dict[str, Any]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    complete: bool = False

    def of(self, system: str) -> list[Run]:
        """Runs of a system, by seed."""
        return sorted((run for run in self.runs if run.system == system), key=lambda run: run.seed)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_atomically(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> RecipeResult:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            It is something else.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**fields, "runs": [Run(**run) for run in fields["runs"]]})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}: not a recipe's results ({error}). Delete the file, or name another folder."
            ) from error


def results_file(out: Path, recipe: str) -> Path:
    """Where a recipe's results lie."""
    return out / f"{recipe}.json"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes
    ----------
    recipe, system, label : str
    published : float or None
        In per cent, like `mean` and `deviation`.
    mean : float
    deviation : float or None
        Of the seeds, with n - 1; None of a single one.
    n : int
    verdict : str
        "met", "missed", "excepted", "not judged", or "" where nothing was published.
    published_time : str
    peer : PeerTime or None
    seconds, unit_seconds : float
        Of our fit, and of an epoch, iteration or tree of it; means.
    unit : str
    """

    recipe: str
    system: str
    label: str
    published: float | None
    mean: float
    deviation: float | None
    n: int
    verdict: str
    published_time: str
    peer: PeerTime | None
    seconds: float
    unit_seconds: float
    unit: str

    @property
    def ours(self) -> str:
        """As the table has it."""
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")

    @property
    def their_time(self) -> str:
        """The source's software measured, else what was published, else "-"."""
        if self.peer is None:
            return self.published_time or "-"
        return str(self.peer) + (f" (published: {self.published_time})" if self.published_time else "")

    @property
    def our_time(self) -> str:
        """In the peer's unit."""
        if self.unit == "tree" or (self.peer is not None and self.peer.unit == "fit"):
            return f"{seconds_text(self.seconds)} a fit"
        return f"{seconds_text(self.seconds)} a fit, {seconds_text(self.unit_seconds)} an {self.unit}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def seconds_text(seconds: float) -> str:
    """Two or three digits, milliseconds below a tenth of a second."""
    if seconds < 0.1:
        return f"{1000 * seconds:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def rows_of(recipe: Recipe, result: RecipeResult) -> list[Row]:
    """The table's lines of a recipe; systems without a run have none."""
    rows = []
    times = peer_times()
    for system in recipe.systems:
        runs = result.of(system.name)
        for line in system.lines if runs else ():
            values = [100 * run.metrics[line.metric] for run in runs]
            mean = float(np.mean(values))
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            rows.append(
                Row(
                    recipe.name,
                    system.name,
                    line.label,
                    line.published,
                    mean,
                    deviation,
                    len(values),
                    verdict(recipe, line.published, mean, deviation, 0 if result.quick else len(values)),
                    recipe.published_time,
                    times.get((recipe.name, system.name)),
                    float(np.mean([run.fit_seconds for run in runs])),
                    float(np.mean([run.fit_seconds / max(run.epochs, 1) for run in runs])),
                    runs[0].unit,
                )
            )
    return rows


def verdict(recipe: Recipe, published: float | None, mean: float, deviation: float | None, n: int) -> str:
    """Whether a published number (in per cent) is met.

    A convex model: at most 0.1 points below it. Any other: at most two standard deviations of at least five seeds. `n` is how many seeds there
    were, 0 if they mean nothing.
    """
    if published is None:
        return ""
    if recipe.excepted:
        return "excepted"
    if n == 0:
        return "not judged"
    if recipe.convex:
        slack = CONVEX_POINTS
    elif n < SEEDS_TO_JUDGE or deviation is None:
        return "not judged"
    else:
        slack = 2 * deviation
    return "met" if not math.isnan(mean) and mean >= published - slack else "missed"


def missed(rows: Sequence[Row]) -> list[Row]:
    """Rows whose published number is not met."""
    return [row for row in rows if row.verdict == "missed"]
