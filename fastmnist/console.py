"""How the commands talk: errors in one line, exit codes, JSON, tables, progress."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from fastmnist.extras import MissingExtra

if TYPE_CHECKING:
    from rich.console import Console

    from fastmnist.training.history import EpochRecord

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PIPE_WIDTH = 160  # columns of a table that goes to a file or a pipe


class Commands(click.Group):
    """A group whose commands end on bad input with one line on stderr and exit code 2, and on Ctrl-C with 130.

    Anything else that goes wrong is a bug: its traceback is shown, and the exit code is 1.
    `FASTMNIST_VERBOSE=traceback` shows that of bad input too.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; see `click.Command.main`."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                code = super().main(args, "fastmnist", complete_var, standalone_mode=False, **extra)
            except click.Abort:
                click.echo("fastmnist: interrupted before the end; no result.", err=True)
                code = EXIT_INTERRUPTED
            except click.UsageError as error:
                command = error.ctx.command_path if error.ctx else "fastmnist"
                _say_error(f"{_one_line(error.format_message())} Try '{command} --help'.")
                code = EXIT_BAD_INPUT
            except _BAD_INPUT as error:
                if "traceback" in os.environ.get("FASTMNIST_VERBOSE", "").split(","):
                    traceback.print_exc()
                _say_error(_one_line(_message(error)))
                code = EXIT_BAD_INPUT
        if standalone_mode:
            # CPython remembers a KeyboardInterrupt that left an `exec` of a string (as imports have them), though it
            # was caught, and would end by the signal instead of with our code; another `exec` makes it forget.
            exec("")
            sys.exit(code)
        return code


# RuntimeError: only its subclass BackendUnavailable, which `_message` tells from bugs.
_BAD_INPUT = (click.ClickException, ValueError, OSError, RuntimeError, MemoryError, MissingExtra)


def _message(error: BaseException) -> str:
    from fastmnist.backends import BackendUnavailable

    if isinstance(error, RuntimeError) and not isinstance(error, BackendUnavailable):
        raise error
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, MemoryError):
        return f"not enough memory: {error or 'no details'}. Take a smaller network, smaller batches or less data."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _say_error(message: str) -> None:
    click.echo(f"fastmnist: error: {message}", err=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    click.echo(f"fastmnist: warning: {_one_line(str(message))}", err=True)


def output() -> Console:
    """The console for results: stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def emit_json(value: Any) -> None:
    """Write one JSON object to stdout."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays as JSON knows them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


@contextmanager
def epoch_progress(*, quiet: bool, unit: str = "epoch") -> Iterator[Callable[[EpochRecord], None] | None]:
    """Show a fit's progress on stderr: a bar on a terminal, else a line for each epoch, nothing when quiet.

    Parameters
    ----------
    quiet : bool
    unit : str
        What is counted.

    Yields
    ------
    callable or None
        A listener for `set_on_epoch`.
    """
    if quiet:
        yield None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda record: click.echo(f"{unit} {record.epoch}/{record.n_epochs}: {_facts(record)}", err=True)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(unit),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None)

        def show(record: EpochRecord) -> None:
            progress.update(task, total=record.n_epochs, completed=record.epoch, description=_facts(record))

        yield show


def _facts(record: EpochRecord) -> str:
    facts = [] if record.loss is None else [f"loss {record.loss:.4f}"]
    if record.accuracy is not None:
        facts.append(f"training accuracy {record.accuracy:.4f}")
    return ", ".join([*facts, f"{record.seconds:.2f} s"])


@contextmanager
def counted_progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show progress over named items on stderr: a bar on a terminal, else nothing.

    Yields
    ------
    callable
        To be called with the item's name, its number from 1, and how many there are.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn(title), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda name, number, total: progress.update(task, total=total, completed=number, description=name)
