"""`fastmnist bench`: ops of the contract, verified and then timed, beside a function of the user's own."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from fastmnist.commands.options import WholeNumber, json_option
from fastmnist.console import emit_json, output

if TYPE_CHECKING:
    from fastmnist.profiling.kernel_bench import Timing

DEFAULT_OPS = ("linear_relu", "linear_dx", "linear_dw", "conv2d_relu", "adam", "softmax_cross_entropy")


@click.command()
@click.argument("ops", nargs=-1, metavar="[OP]...")
@click.option("--backends", default="numba,numpy", help="With commas between them; default: numba,numpy.")
@click.option(
    "--shape",
    default="",
    metavar="NAME=N,...",
    help="Sizes and parameters, as in B=256,I=784,O=128; `fastmnist kernels` names them.",
)
@click.option(
    "--kernel",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="A function of yours, called as those of fastmnist.kernels.reference are; repeatable.",
)
@click.option("--seed", type=WholeNumber(0), default=0, help="Of the random operands; default: 0.")
@json_option
@click.pass_context
def bench(
    context: click.Context,
    ops: tuple[str, ...],
    backends: str,
    shape: str,
    kernel: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Verify each OP against the oracle in float64, then time it on one thread (so NumPy's BLAS); without OP a few of a network's.

    Ends with 1 if an implementation is wrong: that one has no time.
    """
    from fastmnist.profiling.kernel_bench import bench_op

    names = [name.strip() for name in backends.split(",") if name.strip()]
    functions = {text: _function(text) for text in kernel}
    if not names and not functions:
        raise click.UsageError("--backends must name at least one of numba, numpy, cupy, or give a --kernel.")
    sizes = _sizes(shape)
    timings = [
        t
        for op in ops or DEFAULT_OPS
        for t in bench_op(op, sizes=sizes, providers=names, functions=functions, seed=seed)
    ]
    if as_json:
        emit_json({"timings": [timing.as_dict() for timing in timings]})
    else:
        _show(timings)
    context.exit(int(any(timing.problem for timing in timings)))


def _sizes(text: str) -> dict[str, int]:
    sizes = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if not (value.isdecimal() and int(value) > 0):
            raise click.UsageError(
                f"--shape must be NAME=N with commas between them, N whole and above 0; got {part!r}."
            )
        sizes[name.strip()] = int(value)
    return sizes


def _function(text: str) -> Any:
    """`module:function`, the module from where the command is called or installed."""
    module, _, name = text.partition(":")
    if not (module and name):
        raise click.UsageError(f"--kernel must be MODULE:FUNCTION; got {text!r}.")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"--kernel {text}: {error}. Call it from the folder of {module}.py.") from error
    except Exception as error:  # the user's module may raise anything
        raise click.UsageError(
            f"--kernel {text}: importing {module} failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise click.UsageError(
            f"--kernel must name a function; {text} is {found!r:.60}, which can't be called. "
            "It takes what the function of that name in fastmnist.kernels.reference takes."
        )
    return found


def _number(value: float | None) -> str:
    """Three digits, or the whole number where there are more."""
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _show(timings: list[Timing]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("op", "by", "a call, us", "quartiles", "GFLOP/s", "GB/s", "of the roof", "times the best", "sizes"):
        table.add_column(title, justify="left" if title in ("op", "by", "sizes") else "right")
    best: dict[str, float] = {}
    for timing in timings:
        if timing.microseconds is not None:
            best[timing.op] = min(best.get(timing.op, timing.microseconds), timing.microseconds)
    for t in timings:
        if t.microseconds is None:
            table.add_row(t.op, t.provider, "no time", "", "", "", "", "", Text(t.problem))
            continue
        table.add_row(
            t.op,
            t.provider,
            _number(t.microseconds),
            f"{_number(t.low)} .. {_number(t.high)}",
            "" if t.gflops is None else f"{t.gflops:.3g}",
            "" if t.gbytes is None else f"{t.gbytes:.3g}",
            "" if t.roof is None else f"{t.roof:.0%}",
            _number(t.microseconds / best[t.op]),
            t.sizes,
        )
    output().print(table)
