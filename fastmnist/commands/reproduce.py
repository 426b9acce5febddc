"""`fastmnist reproduce`: published work beside this library."""

from __future__ import annotations

from pathlib import Path

import click

from fastmnist.commands.options import WholeNumber, json_option
from fastmnist.console import EXIT_INTERRUPTED, emit_json, output


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--quick", is_flag=True, help="A few rows, two epochs, one seed: whether it runs, not how good it is.")
@click.option("--seeds", type=WholeNumber(min=1), default=5, help="Fits of each system; default: 5.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for results, pictures and a page; what is there already is not run again.",
)
@click.option("--fresh", is_flag=True, help="Run again what --out has already.")
@json_option
@click.pass_context
def reproduce(
    context: click.Context,
    names: tuple[str, ...],
    quick: bool,
    seeds: int,
    out: Path | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Run the recipes of published work (all, or those that are named) and show published numbers beside ours.

    Ctrl-C keeps what is complete; the same command with --out goes on from there.
    """
    from fastmnist.recipes import find
    from fastmnist.recipes.page import write_page
    from fastmnist.recipes.results import rows_of
    from fastmnist.recipes.running import Options
    from fastmnist.recipes.running import reproduce as run_recipe

    recipes = find(names)
    if out is not None:
        from fastmnist.extras import require

        require("matplotlib.figure", "Pictures")  # rather now than after the first fit
    options = Options(seeds, quick, out, fresh)
    done = []
    for recipe in recipes:
        done.append((recipe, run_recipe(recipe, options, lambda message: click.echo(message, err=True))))
        if not done[-1][1].complete:
            break
    rows = [row for recipe, result in done for row in rows_of(recipe, result)]
    page = write_page(out) if out is not None else None
    complete = len(done) == len(recipes) and done[-1][1].complete
    if as_json:
        emit_json(
            {
                "complete": complete,
                "quick": quick,
                "rows": [row.as_dict() for row in rows],
                "recipes": {
                    recipe.name: {"source": recipe.source, "notes": recipe.notes, "chosen": result.chosen}
                    for recipe, result in done
                },
                "page": None if page is None else str(page),
            }
        )
    else:
        _print_table(rows)
        for recipe, _ in done:
            for note in recipe.notes:
                click.echo(f"{recipe.name}: {note}")
        if page is not None:
            click.echo(f"page: {page}")
    if not complete:
        click.echo("fastmnist: interrupted; the table above has what is complete.", err=True)
        context.exit(EXIT_INTERRUPTED)


def _print_table(rows: list) -> None:
    from rich.table import Column, Table

    from fastmnist.recipes.page import COLUMNS, cells

    right = {"published", "ours"}
    table = Table(*(Column(name, justify="right" if name in right else "left") for name in COLUMNS))
    for row in rows:
        table.add_row(*cells(row))
    output().print(table)
