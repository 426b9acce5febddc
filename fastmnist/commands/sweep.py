"""`fastmnist sweep MODEL --learning-rate 1e-1 1e-2 --seeds 5`: settings beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fastmnist.commands.options import (
    MODELS,
    PARAMETERS,
    FiniteRange,
    WholeNumber,
    build_estimator,
    data_options,
    json_option,
    parameter_options,
)
from fastmnist.console import counted_progress, emit_json, output

if TYPE_CHECKING:
    from fastmnist.datasets import Splits
    from fastmnist.evaluation.sweep import Data, Run, RunFile, Summary

SWEPT = ("--learning-rate", "--batch-size", "--hidden", "--trees", "--max-depth")
DIGITS = tuple("0123456789.")


class SeveralValues(click.Command):
    """A command whose options with `multiple=True` also take several values at once: `--rate 1 2` for `--rate 1 --rate 2`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each further value; a word that is no number ends the list."""
        options = {name for p in self.params if isinstance(p, click.Option) and p.multiple for name in p.opts}
        words: list[str] = []
        current, waiting = "", False  # the option whose values come, and whether its first one is still to come
        for word in args:
            name, given, _ = word.partition("=")
            if name in options:
                current, waiting = name, not given
            elif waiting:
                waiting = False
            elif current and word[:1] in DIGITS:
                words.append(current)
            else:
                current = ""
            words.append(word)
        return super().parse_args(ctx, words)


@click.command(cls=SeveralValues)
@click.argument("model", type=click.Choice(MODELS), default="mlp")
@click.option(
    "--seeds", type=WholeNumber(min=1), default=3, show_default=True, help="Fits of each setting: seeds 0, 1, ..."
)
@click.option("--n-jobs", type=int, help="Fits at a time; -1: as many as there are cores; default: 1.")
@click.option(
    "--joblib-backend", help="loky, threading, dask, ray, ... as `joblib.parallel_config` takes it; default: loky."
)
@click.option(
    "--validation",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Part of the training data that chooses the setting.",
)
@click.option(
    "--test", is_flag=True, help="At the end: the best setting trained on all training data, and its test accuracy."
)
@click.option(
    "--file",
    "file_name",
    type=click.Path(dir_okay=False),
    default="sweep.jsonl",
    show_default=True,
    help="Results, a line each; those that are there are not computed again.",
)
@click.option("-o", "--out", type=click.Path(dir_okay=False), help="Picture of the learning rates: .png, .pdf or .svg.")
@json_option
@data_options
def sweep(
    model: str,
    seeds: int,
    n_jobs: int | None,
    joblib_backend: str | None,
    validation: float,
    test: bool,
    file_name: str,
    out: str | None,
    as_json: bool,
    splits: Callable[[], Splits],
    **options: Any,
) -> None:
    """Train MODEL with every combination of the given settings, several seeds each, and compare.

    Example: fastmnist sweep mlp --learning-rate 1e-1 1e-2 1e-3 --seeds 5 --n-jobs 2

    Of --learning-rate, --batch-size, --hidden, --trees and --max-depth several values may follow. Settings are compared on a part
    of the training data. A sweep that was interrupted goes on where it stopped when it is started again.
    """
    from fastmnist.evaluation.sweep import Data, RunFile, best, summarize
    from fastmnist.evaluation.training_run import hold_out
    from fastmnist.files import check_writable

    grid = _grid({name: value for name, value in options.items() if value not in (None, ())})
    if n_jobs == 0:
        raise click.UsageError("--n-jobs must be 1 or more, or -1 for all cores; got 0.")
    candidates = [(setting, build_estimator(model, seed, given)) for setting, given in grid for seed in range(seeds)]
    if out is not None:
        _check_picture(out, grid)
    check_writable(file_name)
    loaded = splits()
    kept, held_out = hold_out(len(loaded.X_train), validation, 0)
    X, y = loaded.X_train, loaded.y_train
    data = Data(X[kept], y[kept], X[held_out], y[held_out])
    file = RunFile(file_name)
    runs = _run(candidates, data, file, n_jobs, joblib_backend)
    summaries = summarize(runs)
    chosen = best(summaries)
    tested = None
    if test:
        finalists = [candidate for candidate in candidates if candidate[0] == chosen.setting]
        whole = Data(X, y, loaded.X_test, loaded.y_test)
        (tested,) = summarize(_run(finalists, whole, file, n_jobs, joblib_backend))
    if out is not None:
        _draw(runs, out)
    if as_json:
        facts = {"model": model, "data": loaded.source, "file": file_name, "n_validation": len(held_out)}
        results = {"settings": [asdict(s) for s in summaries], "best": asdict(chosen)}
        emit_json(
            {**facts, **results, "test": None if tested is None else asdict(tested), "runs": [asdict(r) for r in runs]}
        )
        return
    _print(summaries, chosen, tested)
    click.echo(f"{len(runs)} runs in {file_name}; validated on {len(held_out):,} of {len(X):,} training samples")
    if out is not None:
        click.echo(f"written: {out}")


for _option in reversed(parameter_options(several=SWEPT)):
    _option(sweep)


def _grid(options: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each combination: what is shown of it, and all options of its model."""
    several = {name: value for name, value in options.items() if f"--{name.replace('_', '-')}" in SWEPT}
    fixed = {name: value for name, value in options.items() if name not in several}
    combinations = [
        dict(zip(several, values, strict=True))
        for values in itertools.product(*(dict.fromkeys(v) for v in several.values()))
    ]
    return [(_shown(combination), fixed | combination) for combination in combinations]


def _shown(combination: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it, so that what comes from the file compares equal."""
    return {PARAMETERS[name]: list(value) if isinstance(value, tuple) else value for name, value in combination.items()}


def _run(candidates: list[Any], data: Data, file: RunFile, n_jobs: int | None, joblib_backend: str | None) -> list[Run]:
    from joblib import parallel_config

    from fastmnist.evaluation.sweep import sweep as run_sweep

    try:
        with counted_progress("run") as show, _joblib(parallel_config, joblib_backend):
            return run_sweep(
                candidates,
                data,
                file,
                n_jobs=n_jobs,
                on_run=lambda run, number, total: show(_facts(run), number, total),
            )
    except KeyboardInterrupt:
        click.echo(f"fastmnist: what was finished is in {file.path}; the same command goes on behind it.", err=True)
        raise


def _joblib(parallel_config: Any, backend: str | None) -> Any:
    if backend is None:
        return nullcontext()
    try:
        if backend == "ray":  # joblib finds Dask by itself
            from ray.util.joblib import register_ray

            register_ray()
        return parallel_config(backend)
    except ImportError as error:
        raise click.UsageError(f"--joblib-backend {backend}: {error}. Install that package, or take loky.") from error
    except (ValueError, TypeError) as error:
        raise click.UsageError(
            f"--joblib-backend {backend}: {error} Register it in Python first (joblib.register_parallel_backend), or take loky."
        ) from error


def _name(setting: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in setting.items()) or "defaults"


def _value(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else f"{value:g}"


def _facts(run: Run) -> str:
    return f"{_name(run.setting)}, seed {run.seed}: " + ("diverged" if run.diverged else f"{run.accuracy:.4f}")


def _print(summaries: list[Summary], chosen: Summary, tested: Summary | None) -> None:
    from rich.table import Column, Table

    names = list(summaries[0].setting) or ["setting"]
    heads = [*names, "validation accuracy", "deviation", "seeds", "diverged", "seconds a fit"]
    table = Table(*(Column(head, justify="right") for head in heads))
    for summary in summaries:
        cells = [_value(value) for value in summary.setting.values()] or ["defaults"]
        numbers = [f"{summary.mean:.4f}", f"{summary.deviation:.4f}", f"{summary.n_seeds}", f"{summary.n_diverged}"]
        table.add_row(*cells, *numbers, f"{summary.seconds:.2f}", style="bold" if summary is chosen else None)
    output().print(table)
    click.echo(f"best: {_name(chosen.setting)}")
    if tested is not None:
        click.echo(
            f"test accuracy {tested.mean:.4f}, deviation {tested.deviation:.4f} of {tested.n_seeds} seeds, trained on all training data"
        )


def _check_picture(out: str, grid: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    from fastmnist.evaluation.figures.style import check_format
    from fastmnist.extras import require
    from fastmnist.files import check_writable

    if {len(setting) for setting, _ in grid} != {1} or "learning_rate_init" not in grid[0][0]:
        raise click.UsageError("--out draws learning rates: give --learning-rate several values, and nothing else.")
    check_format(out)
    check_writable(out)
    require("matplotlib.figure", "Pictures")


def _draw(runs: list[Run], out: str) -> None:
    from fastmnist.evaluation.figures import learning_rates, save

    by_rate: dict[float, list[Any]] = {}
    for run in runs:
        by_rate.setdefault(run.setting["learning_rate_init"], []).append(run.history)
    save(learning_rates(by_rate), out)
