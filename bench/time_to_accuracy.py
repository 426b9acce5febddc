"""Time to 99 % on MNIST's test images, and beyond: whole fits of ours beside the published recipe in PyTorch, alternating.

    python bench/time_to_accuracy.py [RECIPE ...] [--seeds N] [--python .venv-peers/bin/python] [--table]

Appends every fit of both to `bench/results/time_to_accuracy.csv`, says whether each recipe reaches its goals, and writes README's table of records.
What is timed: `bench/peers/to_accuracy.py`. How the recipes were chosen: `bench/time_to_accuracy.md`. `--table` measures nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import records  # noqa: E402
from compare import Pair  # noqa: E402
from jobs import OURS, Job  # noqa: E402
from markers import between  # noqa: E402
from records import FAILED, Record  # noqa: E402
from to_accuracy import RECIPES, Recipe  # noqa: E402

RESULTS = HERE / "results" / "time_to_accuracy.csv"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- records: begin, made by `make tables` -->", "<!-- records: end -->"
PEER = "torch"
HEADER = [
    "| recipe | seeds | accuracy, mean +- deviation (worst) | seconds | 0.76-s recipe in PyTorch, same run | faster by | goal |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]


@dataclass(frozen=True)
class Outcome:
    """What the fits of one recipe came to.

    Attributes
    ----------
    accuracies, seconds : list of float
        Ours, by seed.
    theirs, their_accuracies : list of float
        The published recipe's, by seed.
    problem : str
        Why there is no number; "" if there is one.
    """

    accuracies: list[float]
    seconds: list[float]
    theirs: list[float]
    their_accuracies: list[float]
    problem: str = ""

    @classmethod
    def of(cls, found: Sequence[Record]) -> Outcome:
        """From the records of one run of one recipe."""
        failed = [r.note for r in found if r.round == FAILED]
        ours, theirs = ([r for r in found if r.provider == p and r.seconds is not None] for p in (OURS, PEER))
        if failed or not ours or len(ours) != len(theirs):
            return cls([], [], [], [], failed[0] if failed else "no pairs of fits")
        columns = [[r.accuracy for r in ours], [r.seconds for r in ours], [r.seconds for r in theirs]]
        return cls(*columns, [r.accuracy for r in theirs])  # type: ignore[arg-type]

    @property
    def mean(self) -> float:
        """Of our accuracies."""
        return statistics.mean(self.accuracies)

    @property
    def ratio(self) -> float:
        """Their seconds over ours: the median over the pairs."""
        return statistics.median(b / a for a, b in zip(self.seconds, self.theirs, strict=True))

    def missed(self, recipe: Recipe) -> list[str]:
        """The goals that were not reached, in words."""
        if self.problem:
            return [self.problem]
        goals = {
            f"mean >= {recipe.mean:.1%}": self.mean >= recipe.mean,
            f"every seed >= {recipe.worst:.1%}": min(self.accuracies) >= recipe.worst,
            f">= {recipe.speedup:g} x": self.ratio >= recipe.speedup,
            f"{recipe.seeds} seeds": len(self.accuracies) >= recipe.seeds,
        }
        return [goal for goal, reached in goals.items() if not reached]


def job(name: str) -> Job:
    """A recipe as the comparison takes it."""
    runners = {OURS: "to_accuracy:FastMNIST", PEER: "to_accuracy:Torch"}
    return Job(name, RECIPES[name].title, runners, {"recipe": name}, columns={"seconds": "fit"}, loss_rule="none")


def line(name: str, outcome: Outcome) -> str:
    """A row of README's table."""
    recipe, missed = RECIPES[name], outcome.missed(RECIPES[name])
    goal = f"mean >= {recipe.mean:.1%}"
    goal += f", each >= {recipe.worst:.1%}" * (recipe.worst > 0) + f", >= {recipe.speedup:g} x" * (recipe.speedup > 0)
    verdict = f"{goal}: " + ("reached" if not missed else "missed: " + ", ".join(missed))
    if outcome.problem:
        return f"| {recipe.title} | | | | | | {verdict} |"
    deviation = statistics.stdev(outcome.accuracies) if len(outcome.accuracies) > 1 else 0.0
    cells = [
        recipe.title,
        str(len(outcome.accuracies)),
        f"{outcome.mean:.2%} +- {100 * deviation:.2f} ({min(outcome.accuracies):.2%})",
        f"{statistics.median(outcome.seconds):.2f}",
        f"{statistics.median(outcome.theirs):.2f} ({statistics.mean(outcome.their_accuracies):.2%})",
        f"{outcome.ratio:.2f} x",
        verdict,
    ]
    return "| " + " | ".join(cells) + " |"


def table(found: Sequence[Record]) -> str:
    """The Markdown between the markers: of each recipe the last run on the machine of the last record."""
    if not found:
        return "No records yet."
    runs = records.newest_runs(found, found[-1].machine)
    shown = {name: runs[name, PEER] for name in RECIPES if (name, PEER) in runs}
    used = [record for run in shown.values() for record in run]
    versions = " beside ".join(dict.fromkeys(r.versions for r in used if r.versions))
    days = " to ".join(dict.fromkeys((min(r.run for r in used)[:10], max(r.run for r in used)[:10])))
    about = f"{used[-1].machine}; {versions}; Python {used[-1].python}; {days}; commit " + ", ".join(
        dict.fromkeys(record.commit for record in used)
    )
    return "\n".join([f"{about}.", "", *HEADER, *(line(name, Outcome.of(run)) for name, run in shown.items())])


def updated(text: str, found: Sequence[Record]) -> str:
    """The text with a new table between its markers."""
    return between(text, BEGIN, END, table(found))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, append, judge; 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"of {', '.join(RECIPES)}; default: all")
    parser.add_argument("--seeds", type=int, help="instead of each recipe's own number")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has PyTorch and fastmnist's needs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only write README's table anew")
    options = parser.parse_args(argv)
    unknown = set(options.recipes) - RECIPES.keys()
    if unknown:
        parser.error(f"RECIPE must be of {', '.join(RECIPES)}; got {', '.join(sorted(unknown))}")
    code = 0
    for name in [] if options.table else options.recipes or list(RECIPES):
        found = Pair(job(name), PEER, options.python).sample(
            options.seeds or RECIPES[name].seeds, records.load(options.results)
        )
        records.append(found, options.results)
        outcome = Outcome.of([record for record in found if record.round != records.TRIAL])
        print(line(name, outcome), flush=True)
        code |= bool(outcome.missed(RECIPES[name]))
    if options.results == RESULTS:
        README.write_text(updated(README.read_text(encoding="utf-8"), records.load(RESULTS)), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
