"""Writes README's table of peers from `bench/results/peers.csv`, between the markers, and its picture:

    python bench/peers/readme_tables.py [--check]

Of every job and peer the last run counts, on the machine of the last record. Whatever the outcome, it has a line.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jobs import JOBS, Job
from markers import between
from picture import THEMES, picture
from records import RESULTS, Record, load, newest_runs
from verdict import Outcome, judge

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- peers: begin, made by `make tables` -->", "<!-- peers: end -->"
PICTURE = "bench/results/peers-{theme}.svg"  # below the folder of README
HEADER = [
    "| | peer | its time (memory) | fastmnist | faster (less) by (20 % .. 80 %) | verdict | loss, ours / peer's | accuracy, ours / peer's |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
]
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def seconds(value: float) -> str:
    """Three digits and a unit."""
    size, unit = next(((s, u) for s, u in UNITS if value >= s), UNITS[-1])
    number = value / size
    return f"{number:.{0 if number >= 100 else 1 if number >= 10 else 2}f} {unit}"


def amount(value: float, unit: str) -> str:
    """Seconds, or bytes in MiB."""
    return seconds(value) if unit == "s" else f"{value / 2**20:.0f} MiB"


def factor(value: float) -> str:
    """Two digits after the point below 10, one above."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def lines(job: Job, outcome: Outcome) -> list[str]:
    """A line for each column of the job, or one that says why there is none."""
    details = "; ".join(text for text in (outcome.peer.versions, outcome.peer.settings) if text)
    peer = f"{outcome.peer.peer} ({details})" if details else outcome.peer.peer
    losses = f"{outcome.losses[0]:.5g} / {outcome.losses[1]:.5g}" if outcome.losses else ""
    accuracies = f"{outcome.accuracies[0]:.2%} / {outcome.accuracies[1]:.2%}" if outcome.accuracies else ""
    if outcome.problem:
        return [f"| {job.title} | {peer} | | | no number: {outcome.problem} | | {losses} | {accuracies} |"]
    rows = []
    for column, c in outcome.comparisons.items():
        ratio = f"{factor(c.ratio)} x ({factor(c.low)} .. {factor(c.high)})"
        cells = [
            f"{job.title}: {job.label(column, outcome.peer.peer)}",
            peer,
            amount(c.theirs, job.unit),
            amount(c.ours, job.unit),
            ratio,
            f"**{c.verdict}**" if c.verdict == "SLOWER" else c.verdict,
        ]
        rows.append("| " + " | ".join([*cells, losses, accuracies]) + " |")
        losses = accuracies = ""  # once is enough
    return rows


def judged(records: Sequence[Record]) -> list[tuple[Job, Outcome]]:
    """The last run of every job and peer on the machine of the last record."""
    runs = newest_runs(records, records[-1].machine) if records else {}
    return [(job, judge(job, runs[job.name, p])) for job in JOBS.values() for p in job.peers if (job.name, p) in runs]


def slower(outcomes: Sequence[tuple[Job, Outcome]]) -> str:
    """A sentence that names where a peer is faster."""
    lost = [
        f"{job.title}, {job.label(column, outcome.peer.peer)}: {outcome.peer.peer} ({factor(c.ratio)} x)"
        for job, outcome in outcomes
        for column, c in outcome.comparisons.items()
        if c.verdict == "SLOWER"
    ]
    return (
        f"**Slower than a peer** ({len(lost)}): {'; '.join(lost)}."
        if lost
        else "In none of these jobs a peer is faster."
    )


def pictures(records: Sequence[Record]) -> dict[str, str]:
    """SVG by path below the folder of README."""
    outcomes = judged(records)
    return {PICTURE.format(theme=theme): picture(outcomes, theme) for theme in THEMES}


def shown_pictures() -> list[str]:
    """Markdown: the picture that fits the reader's theme."""
    return [
        "<picture>",
        f'  <source media="(prefers-color-scheme: dark)" srcset="{PICTURE.format(theme="dark")}">',
        f'  <img src="{PICTURE.format(theme="light")}" width="860" alt="How many times as fast fastmnist is as each peer">',
        "</picture>",
    ]


def table(records: Sequence[Record]) -> str:
    """The Markdown between the markers."""
    if not records:
        return "No records yet."
    runs = newest_runs(records, records[-1].machine)
    outcomes = judged(records)
    used = [record for job in JOBS.values() for p in job.peers for record in runs.get((job.name, p), [])]
    verdicts = Counter(
        c.verdict for _, outcome in outcomes for c in (outcome.comparisons or {"": None}).values() if c is not None
    )
    missing = sum(bool(outcome.problem) for _, outcome in outcomes)
    counts = [f"{verdicts[v]} {v}" for v in ("FASTER", "SAME", "SLOWER", "UNCLEAR") if verdicts[v]]
    days = sorted({record.run[:10] for record in used})
    runs_used = len({record.run for record in used})
    about = [
        f"{used[-1].machine}",
        f"Python {used[-1].python}",
        f"{'one run' if runs_used == 1 else f'{runs_used} runs'} of {' to '.join(dict.fromkeys((days[0], days[-1])))}",
        "commit " + ", ".join(dict.fromkeys(record.commit for record in used)),
        ", ".join(counts) + (f", {missing} without a number" if missing else ""),
    ]
    body = [line for job, outcome in outcomes for line in lines(job, outcome)]
    shown = ["<details><summary>All numbers</summary>", "", *HEADER, *body, "", "</details>"]
    return "\n".join(["; ".join(about) + ".", "", slower(outcomes), "", *shown_pictures(), "", *shown])


def updated(text: str, records: Sequence[Record]) -> str:
    """The text with a new table between its markers."""
    return between(text, BEGIN, END, table(records))


def main() -> int:
    """Write README, or with --check say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if README is not up to date")
    arguments = parser.parse_args()
    old = README.read_text(encoding="utf-8")
    records = load(RESULTS)
    new = {README: updated(old, records)} | {README.parent / path: svg for path, svg in pictures(records).items()}
    if arguments.check:
        same = all(path.exists() and path.read_text(encoding="utf-8") == text for path, text in new.items())
        print("README.md is up to date" if same else "README.md or its pictures are not up to date: run `make tables`")
        return int(not same)
    for path, text in new.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
