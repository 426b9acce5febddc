"""`fastmnist profile MODEL`: what takes the time, on several backends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastmnist.commands.options import json_option, model_options
from fastmnist.console import emit_json

if TYPE_CHECKING:
    from fastmnist.commands.options import Estimator
    from fastmnist.datasets import Splits


@click.command()
@model_options
@click.option("--backends", default="numpy,numba", help="With commas between them; default: numpy,numba.")
@click.option(
    "--out", type=click.Path(file_okay=False), default="profile", help="Folder of the files; default: profile."
)
@json_option
def profile(model: str, splits: Splits, estimator: Estimator, backends: str, out: str, as_json: bool) -> None:
    """Train MODEL on several backends, and show what takes the time.

    Writes report.html (open it in a browser), profile.json, and trace.json for ui.perfetto.dev or chrome://tracing.
    """
    from fastmnist.backends import BACKENDS
    from fastmnist.profiling import profile as profile_fit

    if estimator.backend != "auto":
        raise click.UsageError("--backend does nothing here: say --backends.")
    names = [name.strip() for name in backends.split(",") if name.strip()]
    if not names or set(names) - set(BACKENDS):
        raise click.UsageError(
            f"--backends must be of {', '.join(BACKENDS)}, with commas between them; got {backends!r}."
        )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    found = profile_fit(estimator, splits.X_train, splits.y_train, backends=names, data=splits.source)
    for file, write in (
        ("report.html", found.to_html),
        ("profile.json", found.to_json),
        ("trace.json", found.to_trace),
    ):
        write(folder / file)
    if as_json:
        emit_json({**found.as_dict(), "out": out})
        return
    click.echo("\n".join(found.summary()))
    click.echo(f"written: {folder / 'report.html'}, {folder / 'profile.json'}, {folder / 'trace.json'}")
