"""The page that lies beside results and pictures: README.md, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastmnist.files import write_atomically
from fastmnist.recipes import pictures
from fastmnist.recipes.catalog import RECIPES
from fastmnist.recipes.peer_times import PeerTime, peer_times
from fastmnist.recipes.recipe import Recipe
from fastmnist.recipes.results import RecipeResult, Row, missed, results_file, rows_of, seconds_text

PAGE = "README.md"
COLUMNS = ("system", "published", "ours", "", "published or peer time", "our time")

MET = (
    "**met**: not more than two standard deviations (of at least five seeds) below the published number; for convex models not more than "
    "0.1 points below it. **excepted**: the published number is a failure of the source, which nobody wants to meet."
)
TIMES = (
    "Times are those of whole fits, compiling excluded; a peer's time was measured with the source's software at the same job (where and "
    "how stands under Speed), a published time is given as it was published, and - means that there is neither."
)
SPEED = (
    "The sources' software as the sources use it (scikit-learn's and Keras' defaults, eager PyTorch, plain NumPy) and this library in two "
    "processes that take turns; whoever is not being timed is stopped. A whole fit, or the marginal epoch or iteration, (fit of k + 1 less "
    "fit of one) / k, without validation. Times are medians; times as fast is the median of the rounds' ratios, with their 20 % and 80 % "
    "quantiles. The goals were set before the code was written; - where none was. Raw records: `fastmnist/recipes/peer_times.csv`, made by "
    "`bench/peers/sources.py`. Peers at the best of their settings are another comparison: `make peers`."
)
OVERVIEW = (
    f"{pictures.CAPTIONS['time-accuracy']} What tells ten digits apart, so without digit 0 alone; of one-vs-all the share of images that "
    "get the right digit. Without what is excepted."
)


def system_name(row: Row) -> str:
    """Recipe, system and what the line is about."""
    name = f"{row.recipe}, {row.system}" if row.system else row.recipe
    return f"{name}: {row.label}" if row.label else name


def cells(row: Row) -> tuple[str, ...]:
    """A line of the table as texts, one for each of `COLUMNS`; accuracies in per cent."""
    published = "-" if row.published is None else f"{row.published:.2f}"
    return system_name(row), published, row.ours, row.verdict, row.their_time, row.our_time


def write_page(out: Path) -> Path:
    """Write README.md from all results and pictures in a folder.

    Parameters
    ----------
    out : Path

    Returns
    -------
    Path

    Raises
    ------
    OSError
        It can't be written.
    ValueError
        A file has something else than results.
    """
    files = ((recipe, results_file(out, recipe.name)) for recipe in RECIPES.values())
    results = [(recipe, RecipeResult.load(path)) for recipe, path in files if path.exists()]
    rows = [row for recipe, result in results for row in rows_of(recipe, result)]
    lines = [
        "# Published work, reproduced",
        "",
        *_summary(rows, results),
        "",
        *_table(rows),
        "",
        MET,
        "",
        TIMES,
        "",
    ]
    lines += _speed(results)
    overview = pictures.draw_overview(results, out)
    if (out / overview).exists():
        lines += [f"![time against accuracy]({overview})", "", f"*{OVERVIEW}*", ""]
    for recipe, result in results:
        lines += _section(recipe, result, out)
    path = out / PAGE
    write_atomically(path, ("\n".join(lines).rstrip() + "\n").encode())
    return path


def _summary(rows: Sequence[Row], results: Sequence[tuple[Recipe, RecipeResult]]) -> list[str]:
    if any(result.quick for _, result in results):
        return [
            "Made with `--quick`: a few rows and two epochs, to see that everything runs. The numbers mean nothing."
        ]
    judged = [row for row in rows if row.verdict in ("met", "missed")]
    seconds = sum(run.fit_seconds for _, result in results for run in result.runs)
    machines = sorted({result.machine for _, result in results})
    told = (
        f"Made by `fastmnist reproduce --out DIR`. {len(judged) - len(missed(rows))} of {len(judged)} published numbers are met. All fits "
        f"together took {seconds_text(seconds)} on {'; '.join(machines)}."
    )
    return [told, "", "Accuracies in per cent, mean ± standard deviation of the seeds."]


def _table(rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- | ---: | ---: | --- | --- | --- |"]
    return lines + ["| " + " | ".join(cells(row)) + " |" for row in rows]


def _speed(results: Sequence[tuple[Recipe, RecipeResult]]) -> list[str]:
    """What took turns with this library; nothing where there are no records."""
    times = peer_times()
    timed = [
        (recipe, system, times[recipe.name, system.name])
        for recipe, _ in results
        for system in recipe.systems
        if (recipe.name, system.name) in times
    ]
    if not timed:
        return []
    names = ("system", "the source's software", "its time", "fastmnist", "times as fast", "rounds", "goal", "")
    lines = ["## Speed", "", SPEED, "", "| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    for recipe, system, peer in timed:
        goal = recipe.goal if system is recipe.systems[0] else None
        lines.append(
            "| " + " | ".join(_speed_cells(", ".join(filter(None, (recipe.name, system.name))), peer, goal)) + " |"
        )
    about = sorted({f"{peer.machine}, {peer.date[:10]}" for _, _, peer in timed})
    ours = sorted({f"fastmnist {peer.ratio.fastmnist}" for _, _, peer in timed if peer.ratio is not None})
    return [*lines, "", f"Measured on {'; '.join(about)}; {', '.join(ours) or 'fastmnist has not taken turns'}.", ""]


def _speed_cells(name: str, peer: PeerTime, goal: float | None) -> tuple[str, ...]:
    """A line of the table of speeds as texts."""
    theirs = f"{seconds_text(peer.seconds)} {peer.a_unit}"
    ours, ratio, verdict = "-", "-", ""
    if peer.ratio is not None:
        r = peer.ratio
        ours = f"{seconds_text(r.our_seconds)} {peer.a_unit}"
        ratio = f"{r.middle:.1f} ({r.low:.1f} .. {r.high:.1f})"
        verdict = "" if goal is None else "reached" if r.middle >= goal else "not reached"
    goal_text = "-" if goal is None else f"{goal:g}"
    return name, f"{peer.software}; {peer.settings}", theirs, ours, ratio, str(peer.samples), goal_text, verdict


def _section(recipe: Recipe, result: RecipeResult, out: Path) -> list[str]:
    lines = [f"## {recipe.name}", "", f"{recipe.title}. Source: {recipe.source}. Split: {recipe.split}.", ""]
    if not result.complete:
        lines += ["**Incomplete: the run was interrupted.**", ""]
    if result.chosen:
        chosen = ", ".join(f"{name} {value:g}" for name, value in result.chosen.items())
        others = "; ".join(
            f"{', '.join(f'{n} {v:g}' for n, v in found.items() if n != 'validation_accuracy')}: {found['validation_accuracy']:.2%}"
            for found in result.chosen_from
        )
        lines += [f"Chosen on the validation part: {chosen}. Tried: {others}.", ""]
    lines += [f"- {note}" for note in recipe.notes]
    lines += [""] if recipe.notes else []
    lines += _averages(recipe, result)
    lines += _reports(recipe, result)
    lines += [
        f"![{name.removesuffix('.png')}]({name})\n\n*{caption}*\n" for name, caption in pictures.files_of(recipe, out)
    ]
    return lines


def _averages(recipe: Recipe, result: RecipeResult) -> list[str]:
    """Accuracy, precision, recall and F1 of each system: means over classes and seeds."""
    names = ("accuracy", "precision", "recall", "f1")
    lines = ["| system | accuracy | precision | recall | F1 | seeds | fit | backend |", "| --- " * 8 + "|"]
    for system in recipe.systems:
        runs = result.of(system.name)
        if runs:
            means = [sum(run.metrics[name] for run in runs) / len(runs) for name in names]
            seconds = sum(run.fit_seconds for run in runs) / len(runs)
            values = [f"{100 * mean:.2f}" for mean in means]
            values += [str(len(runs)), seconds_text(seconds), runs[0].backend]
            lines.append("| " + " | ".join([system.name or recipe.name, *values]) + " |")
    return [*lines, ""]


def _reports(recipe: Recipe, result: RecipeResult) -> list[str]:
    """The report of each class, of the first seed; folded away."""
    lines = []
    for system in recipe.systems:
        for run in result.of(system.name)[:1]:
            for part, report in (("test", run.report), ("training", run.train_report)):
                if report is not None:
                    title = f"{system.name or recipe.name}: report on the {part} part, seed {run.seed}"
                    lines += [f"<details><summary>{title}</summary>", "", *_report_table(report), "", "</details>", ""]
    return lines


def _report_table(report: dict) -> list[str]:
    lines = ["| class | precision | recall | F1 | support |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, entry in report.items():
        if name == "accuracy":
            lines.append(f"| accuracy | | | {entry:.4f} | |")
        else:
            values = " | ".join(f"{entry[key]:.4f}" for key in ("precision", "recall", "f1-score"))
            lines.append(f"| {name} | {values} | {entry['support']:g} |")
    return lines
