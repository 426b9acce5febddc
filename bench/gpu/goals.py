"""The goals for a GPU beside what the records of bench/gpu_suite.sh say: reached, missed, or open where there is no record.

`python bench/gpu/goals.py --out FOLDER` reads kernels.csv, models.csv and fits.csv. Needs no GPU.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median

SQUARES = [f"{n}x{n}x{n}" for n in (1024, 2048, 4096, 8192)]
MODEL, RECIPE = "mlp-128-64", "time to accuracy 99.0"
ACCURACY, SEEDS = 0.99, 10


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def values(rows: Iterable[dict[str, str]], column: str, **wanted: str) -> list[float]:
    """A column of the rows that have these values, where it is not empty."""
    chosen = (row for row in rows if all(row.get(name) == value for name, value in wanted.items()))
    return [float(row[column]) for row in chosen if row.get(column)]


def measured(folder: Path) -> list[tuple[str, float | None, float, bool]]:
    """Each goal: what, the value or None, the goal, whether more is better."""
    kernels, models, fits = (read(folder / f"{name}.csv") for name in ("kernels", "models", "fits"))
    single = [row for row in kernels if row["kernel"].startswith("gemm_") and row["kernel"].count("_") == 3]
    tensor = [row for row in kernels if row["kernel"].endswith(("_tf32_kernel", "_bf16_kernel"))]
    streams = [row for row in kernels if row.get("of_copy")]
    goals: list[tuple[str, list[float], float, bool]] = [
        (
            "SGEMM of cuBLAS, worst of 1024 to 8192",
            [v for s in SQUARES for v in values(single, "of_cublas", shape=s)],
            0.9,
            True,
        ),
        (
            "SGEMM of cuBLAS, worst of MNIST's shapes",
            [float(row["of_cublas"]) for row in single if row["shape"] not in SQUARES and row.get("of_cublas")],
            1.0,
            True,
        ),
        ("TF32, bf16 of cuBLAS at 4096, worst", values(tensor, "of_cublas", shape=SQUARES[2]), 0.8, True),
        ("bandwidth-bound kernels of a copy, worst", values(streams, "of_copy"), 0.9, True),
        (
            "MLP 128-64, batch 32: us a step",
            values(models, "us_a_step", model=MODEL, batch="32", job="cupy"),
            12,
            False,
        ),
    ]
    for batch, job, least in (("32", "torch graph", 2.0), ("32", "torch eager", 10.0), ("1024", "torch graph", 1.5)):
        ratio = values(models, "over_ours", model=MODEL, batch=batch, job=job)
        goals.append((f"MLP 128-64, batch {batch}: over {job}", ratio, least, True))
    worst = [(what, (min if more else max)(found) if found else None, goal, more) for what, found, goal, more in goals]
    accuracies, seconds = (values(fits, column, model=RECIPE, job="cupy") for column in ("accuracy", "seconds"))
    enough = len(accuracies) >= SEEDS
    worst.append(
        (f"time to 99 %: mean accuracy of {SEEDS} seeds", mean(accuracies) if enough else None, ACCURACY, True)
    )
    worst.append(("time to 99 %: median seconds", median(seconds) if enough else None, 0.1, False))
    return worst


def line(what: str, value: float | None, goal: float, more: bool) -> str:
    """For people."""
    reached = value is not None and (value >= goal if more else value <= goal)
    verdict = "open: not measured" if value is None else "reached" if reached else "missed"
    shown = "" if value is None else f"{value:.4g}"
    return f"{what:<45} {shown:>9}  goal {'>=' if more else '<='} {goal:<5g} {verdict}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    for goal in measured(parser.parse_args().out):
        print(line(*goal))


if __name__ == "__main__":
    main()
