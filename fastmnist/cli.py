"""The command line. Commands read options, call the library and print; they decide and compute nothing.

Everything big is imported inside the commands, so that `fastmnist --help` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fastmnist.commands.bench import bench
from fastmnist.commands.evaluate import evaluate
from fastmnist.commands.options import FiniteRange, json_option, model_options
from fastmnist.commands.plot import plot
from fastmnist.commands.profile import profile
from fastmnist.commands.render import render
from fastmnist.commands.reproduce import reproduce
from fastmnist.commands.sweep import sweep
from fastmnist.console import EXIT_INTERRUPTED, Commands, counted_progress, emit_json, epoch_progress, output
from fastmnist.version import __version__

if TYPE_CHECKING:
    from fastmnist.commands.options import Estimator
    from fastmnist.datasets import Splits


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="fastmnist")
@click.pass_context
def main(context: click.Context) -> None:
    """Train and use MNIST-class models with hand-written compiled kernels."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# --- train, predict ---------------------------------------------------------------------------------------------------


@main.command()
@model_options
@click.option("--save", type=click.Path(dir_okay=False), help="File for the trained model (safetensors).")
@click.option(
    "--validation",
    type=FiniteRange(0, 1, max_open=True),
    default=0.0,
    help="Part of the training data to validate on after each epoch, for `plot curves`; default: none.",
)
@click.option("--record-steps", is_flag=True, help="Keep the loss of each step, for `plot steps` (mlp, cnn).")
@click.option("-q", "--quiet", is_flag=True, help="No progress, and only the summary at the end.")
@json_option
@click.pass_context
def train(
    context: click.Context,
    model: str,
    splits: Splits,
    estimator: Estimator,
    save: str | None,
    validation: float,
    record_steps: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train MODEL (softmax, ovr, mlp, cnn or forest; default: mlp) and show how good it is.

    Without options: 784-128-64-10, ReLU, Adam, batches of 32, 10 epochs, on MNIST. A cnn: two convolutions, 256 units, four epochs.
    """
    from fastmnist.evaluation.training_run import training_run, unit_of_work

    if save is not None:
        from fastmnist.files import check_writable

        check_writable(save)
    if validation and model == "forest":
        raise click.UsageError("--validation does nothing for forest, which has no epochs. Leave it out.")
    if record_steps:
        if model not in ("mlp", "cnn"):
            raise click.UsageError(f"--record-steps is for mlp and cnn; got it with {model}.")
        estimator.set_params(record_steps=True)
    unit = unit_of_work(estimator)
    with epoch_progress(quiet=quiet, unit=unit) as on_epoch:
        run = training_run(model, estimator, splits, on_epoch, save=save, validation=validation)
    if as_json:
        emit_json({**run.as_dict(), "saved": save})
    else:
        if not quiet:
            output().print(run.report.as_table())
        click.echo("\n".join(run.summary()))
        if save is not None:
            click.echo(f"saved to {save}")
    if run.interrupted:
        kept = "saved" if save is not None else "shown above, not saved"
        click.echo(
            f"fastmnist: interrupted after {run.epochs} complete {unit}s; the model of the last completed step is {kept}.",
            err=True,
        )
        context.exit(EXIT_INTERRUPTED)


@main.command()
@click.argument("model_file", type=click.Path())
@click.argument("images", type=click.Path(), nargs=-1, required=True)
@click.option("--raw", is_flag=True, help="Take the pixels as they are: no inverting, cropping, scaling, centring.")
@click.option("--show", is_flag=True, help="Draw what the model sees.")
@json_option
def predict(model_file: str, images: tuple[str, ...], raw: bool, show: bool, as_json: bool) -> None:
    """Classify IMAGES (PNG, JPEG, ..., IDX, .npy) with a saved model.

    Pictures may have any size, be grey or coloured, dark on light or light on dark: they are brought into MNIST's form.
    """
    from fastmnist import load_model
    from fastmnist.evaluation.prediction import classify, read_digits
    from fastmnist.images import show_image

    model = load_model(model_file)
    digits = read_digits(images, raw=raw)
    predictions = classify(model, digits)
    if show:
        for digit in digits:
            click.echo(f"{digit.name}\n{show_image(digit.pixels)}", err=as_json)
    if as_json:
        emit_json({"model": model_file, "predictions": [prediction.as_dict() for prediction in predictions]})
        return
    for prediction in predictions:
        likely = ", ".join(f"{label} {probability:.1%}" for label, probability in prediction.ranked()[:3])
        click.echo(f"{prediction.name}: {prediction.label}  ({likely})")


# --- what is there, and what would run --------------------------------------------------------------------------------


@main.command()
@click.option(
    "--measure",
    is_flag=True,
    help="Measure roofs and crossovers of this machine, again if they are known; some five seconds.",
)
@json_option
def info(measure: bool, as_json: bool) -> None:
    """Version, CPU, GPU, backends with reasons, threads, caches, environment variables."""
    from dataclasses import asdict

    from rich.table import Table
    from rich.text import Text

    from fastmnist.backends.crossovers import crossovers
    from fastmnist.backends.gpu_crossover import crossover_of, measure_crossover
    from fastmnist.backends.gpu_probe import probe
    from fastmnist.profiling.machine import known_roofs, measure_machine
    from fastmnist.system_info import system_info

    facts = system_info()
    known = measure_machine() if measure else known_roofs()
    facts["roofs"] = None if known is None else asdict(known)
    on_gpu = None
    if probe().usable:
        on_gpu = measure_crossover() if measure else crossover_of(probe().name)
    facts["gpu_crossover"] = None if on_gpu is None else asdict(on_gpu)
    facts["crossovers"] = {name: asdict(crossover) for name, crossover in crossovers().items()}
    if as_json:
        emit_json(facts)
        return
    cpu, threads = facts["cpu"], facts["threads"]
    target = ""
    if "compiled_for" in cpu:
        target = f", kernels for {cpu['compiled_for']} ({cpu['simd']}), {cpu['float32_lanes']} float32 a vector"
    limits = "; ".join(f"{limit['threads']}: {limit['origin']}" for limit in threads["limits"])
    rows = {
        "fastmnist": f"{facts['version']}, Python {facts['python']}, NumPy {facts['numpy']}, {facts['platform']}",
        "CPU": f"{cpu['name']}{target}",
        "threads": f"{threads['default']} ({limits})",
    }
    for name, backend in facts["backends"].items():
        rows[f"backend {name}"] = f"{'yes' if backend['available'] else 'no'}: {backend['reason']}"
    rows["GPU"] = f"{probe().summary.removeprefix('GPU: ')} {facts['gpu']['remedy']}"
    rows["roofs"] = "; ".join(known.summary()) if known else "not measured yet: fastmnist info --measure"
    rows["crossovers"] = "; ".join(f"{name}: up to {crossover}" for name, crossover in crossovers().items())
    if on_gpu is not None:
        rows["CPU or GPU"] = on_gpu.summary()
    for name, cache in facts["caches"].items():
        rows[f"cache of {name}"] = f"{cache['path']}: {cache['files']} files, {cache['bytes'] / 2**20:.1f} MiB"
    for name, variable in facts["environment"].items():
        value = "not set" if variable["value"] is None else repr(variable["value"])
        rows[name] = f"{value}  ({variable['meaning']})"
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in rows.items():
        table.add_row(name, Text(text))
    output().print(table)


@main.command()
@json_option
def kernels(as_json: bool) -> None:
    """Every op: operands, backends, and its FLOPs and bytes at a standard size."""
    from rich.table import Table

    from fastmnist.evaluation.kernel_list import STANDARD_DIMS, list_kernels

    ops = list_kernels()
    if as_json:
        emit_json({"dims": STANDARD_DIMS, "kernels": [op.as_dict() for op in ops]})
        return
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("op", no_wrap=True)
    table.add_column("operands")
    for title in ("backends", "MFLOP", "MB"):
        table.add_column(title, no_wrap=True, justify="left" if title == "backends" else "right")
    for op in ops:
        parameters = f" ({' '.join(op.parameters)})" if op.parameters else ""
        operands = f"{' '.join(op.outputs)} <- {' '.join(op.inputs)}{parameters}"
        numbers = f"{op.flops / 1e6:.3f}", f"{op.nbytes / 1e6:.3f}"
        table.add_row(op.name, operands, "\n".join(op.backends), *numbers)
    output(KERNEL_LIST_WIDTH).print(table)
    click.echo(f"At these sizes; `fastmnist kernels --json` has the formulas:\n{_wrapped(STANDARD_DIMS)}")


# The table breaks its lines itself, so that it can be read where a terminal shows 80 columns.
KERNEL_LIST_WIDTH = 80


def _wrapped(dims: dict[str, int]) -> str:
    import textwrap

    return textwrap.fill(", ".join(f"{name} = {size:,}" for name, size in dims.items()), KERNEL_LIST_WIDTH)


@main.command()
@model_options
@json_option
def explain(model: str, splits: Splits, estimator: Estimator, as_json: bool) -> None:
    """Show what training MODEL would run: network, backend with its reason, and the program as a table."""
    from fastmnist.evaluation.explanation import explain as explain_fit

    if model == "forest":
        raise click.UsageError(
            "A forest has no program: each of its trees is one job, `grow_tree`. Explain softmax, ovr, mlp or cnn."
        )
    explanation = explain_fit(estimator, splits.X_train, splits.y_train)
    if as_json:
        emit_json({"data": splits.source, **explanation.as_dict()})
        return
    click.echo(explanation.model)
    click.echo(splits.source)
    click.echo("\n".join(f"  {line}" for line in explanation.network))
    click.echo(
        f"{explanation.n_parameters:,} parameters; at most {explanation.steps:,} steps, {explanation.gflop:,.1f} GFLOP"
    )
    click.echo(f"backend {explanation.backend}, {explanation.n_threads} thread(s): {explanation.reason}")
    click.echo("\n".join(explanation.program))


@main.command()
@json_option
def warmup(as_json: bool) -> None:
    """Compile every kernel that is not in the cache yet."""
    import fastmnist

    with counted_progress("kernel") as on_kernel:
        done = fastmnist.warmup(on_kernel)
    if as_json:
        emit_json(
            {
                "folder": str(done.folder),
                "kernels": done.n_kernels,
                "compiled": done.n_compiled,
                "seconds": done.seconds,
            }
        )
        return
    click.echo(
        f"{done.n_kernels} kernels are ready, {done.n_compiled} compiled now, in {done.seconds:.1f} s; cache: {done.folder}"
    )


# --- commands with a file of their own ----------------------------------------------------------------------------------

for command in (bench, evaluate, plot, profile, render, reproduce, sweep):
    main.add_command(command)
