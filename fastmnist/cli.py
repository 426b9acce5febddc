"""The command line. Commands read options, call the library and print; they decide and compute nothing.

Everything big is imported inside the commands, so that `fastmnist --help` answers at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click

from fastmnist.console import EXIT_INTERRUPTED, Commands, counted_progress, emit_json, epoch_progress, output
from fastmnist.version import __version__

if TYPE_CHECKING:
    from fastmnist.datasets import Splits
    from fastmnist.estimators import (
        CNNClassifier,
        LogisticRegression,
        MLPClassifier,
        OneVsRestLogisticRegression,
        RandomForestClassifier,
    )

    Estimator = (
        LogisticRegression | OneVsRestLogisticRegression | MLPClassifier | CNNClassifier | RandomForestClassifier
    )

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="fastmnist")
@click.pass_context
def main(context: click.Context) -> None:
    """Train and use MNIST-class models with hand-written compiled kernels."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# --- options that train and explain share -----------------------------------------------------------------------------


class Widths(click.ParamType):
    """Comma-separated widths of hidden layers."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Turn "128,64" into (128, 64)."""
        if isinstance(value, tuple):
            return value
        words = value.split(",")
        if not all(word.strip().isdecimal() and int(word) >= 1 for word in words):
            self.fail(f"must be integers >= 1 with commas between them, as in 128,64; got {value!r}.", param, ctx)
        return tuple(map(int, words))


MODELS = ("softmax", "ovr", "mlp", "cnn", "forest")


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the model, its parameters and the data; the command receives the splits and an unfitted estimator."""

    @functools.wraps(command)
    def wrapper(
        model: str, data: str | None, label_column: str | None, test_size: float | None, seed: int, **options: Any
    ) -> Any:
        own = {name: options.pop(name) for name in list(options) if name in _PARAMETERS}
        estimator = _estimator(model, seed, {name: value for name, value in own.items() if value is not None})
        return command(model=model, splits=_load(data, label_column, test_size, seed), estimator=estimator, **options)

    for option in reversed(
        [
            click.argument("model", type=click.Choice(MODELS), default="mlp"),
            click.option(
                "--data", type=click.Path(), help="FILE.npz, folder of IDX files, .csv or .mat; default: MNIST."
            ),
            click.option("--label-column", help="Column of labels of a .csv; default: label, class or target."),
            click.option(
                "--test-size",
                type=click.FloatRange(0, 1, min_open=True, max_open=True),
                help="Part to test on; default: 0.2.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(0, 2**32 - 1),
                default=0,
                help="Of the split and of the training; default: 0.",
            ),
            click.option("--backend", type=click.Choice(["auto", "numpy", "numba", "cupy"]), help="Default: auto."),
            click.option("--threads", type=click.IntRange(min=1), help="Default: as many as this process may use."),
            click.option("--epochs", type=click.IntRange(min=1), help="At most (iterations of full-batch solvers)."),
            click.option("--batch-size", type=click.IntRange(min=1), help="Default: 32 (mlp), 64 (cnn)."),
            click.option("--hidden", type=Widths(), help="Widths of the hidden layers of an mlp; default: 128,64."),
            click.option(
                "--layers",
                type=click.Choice(["lenet5", "simple", "fast", "accurate"]),
                help="Architecture of a cnn, trained by its recipe; default: fast.",
            ),
            click.option(
                "--learning-rate", type=click.FloatRange(0, min_open=True), help="Default: 0.001 (mlp), 0.005 (cnn)."
            ),
            click.option("--solver", help="adam, adamw, sgd, lbfgs (mlp, cnn); lbfgs, gd, sgd (softmax, ovr)."),
            click.option(
                "--augment",
                is_flag=True,
                default=None,
                help="Train on randomly changed images (mlp, cnn), new ones each epoch.",
            ),
            click.option("--trees", type=click.IntRange(min=1), help="Trees of a forest; default: 100."),
            click.option("--max-depth", type=click.IntRange(min=1), help="Of a forest's trees; default: no limit."),
        ]
    ):
        wrapper = option(wrapper)
    return wrapper


# Option -> parameter of the estimators.
_PARAMETERS = {
    "backend": "backend",
    "threads": "n_threads",
    "epochs": "max_iter",
    "batch_size": "batch_size",
    "hidden": "hidden_layer_sizes",
    "layers": "layers",
    "learning_rate": "learning_rate_init",
    "solver": "solver",
    "augment": "augment",
    "trees": "n_estimators",
    "max_depth": "max_depth",
}
_FOREST_OPTIONS = ("backend", "threads", "trees", "max_depth")
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (128, 64), "batch_size": 32, "epochs": 10},
    "cnn": {},
}


def _estimator(model: str, seed: int, options: dict[str, Any]) -> Estimator:
    for name in options:
        if name not in _FOREST_OPTIONS if model == "forest" else name in ("trees", "max_depth"):
            has = "trees, which are not trained in steps" if model == "forest" else "no trees"
            raise click.UsageError(f"--{name.replace('_', '-')} does nothing for {model}, which has {has}.")
    return _forest(seed, options) if model == "forest" else _network(model, seed, options)


def _forest(seed: int, options: dict[str, Any]) -> RandomForestClassifier:
    from fastmnist import RandomForestClassifier

    names = _PARAMETERS | {"threads": "n_jobs"}
    return RandomForestClassifier(random_state=seed, **{names[name]: value for name, value in options.items()})


def _network(model: str, seed: int, options: dict[str, Any]) -> Estimator:
    from fastmnist import CNNClassifier, LogisticRegression, MLPClassifier, OneVsRestLogisticRegression

    solver = options.get("solver", "adam" if model in _DEFAULTS else "lbfgs")
    if model != "mlp" and "hidden" in options:
        reason = "the layers of a cnn are named by --layers" if model == "cnn" else f"{model} has no hidden layers"
        raise click.UsageError(f"--hidden is for mlp; {reason}.")
    if model != "cnn" and "layers" in options:
        raise click.UsageError(f"--layers is for cnn; got it with {model}.")
    if model not in _DEFAULTS and "augment" in options:
        raise click.UsageError(f"--augment is for mlp and cnn; got it with {model}.")
    if solver in ("lbfgs", "gd") and "batch_size" in options:
        raise click.UsageError(f"--batch-size does nothing with --solver {solver}, which takes all data at once.")
    if solver == "lbfgs" and "learning_rate" in options:
        raise click.UsageError("--learning-rate does nothing with --solver lbfgs, which finds its own step.")
    options = _DEFAULTS.get(model, {}) | options
    recipe = _cnn_recipe(options.get("layers", "fast"), solver) if model == "cnn" else {}
    parameters = recipe | {_PARAMETERS[name]: value for name, value in options.items()}
    classes = {
        "softmax": LogisticRegression,
        "ovr": OneVsRestLogisticRegression,
        "mlp": MLPClassifier,
        "cnn": CNNClassifier,
    }
    return classes[model](random_state=seed, **parameters)


def _cnn_recipe(layers: str, solver: str) -> dict[str, Any]:
    """How an architecture is trained where no option says otherwise."""
    from fastmnist.network.architectures import RECIPES

    return {"max_iter": 10} if solver == "lbfgs" else RECIPES[layers]


def _load(data: str | None, label_column: str | None, test_size: float | None, seed: int) -> Splits:
    from fastmnist import datasets

    if data is not None:
        return datasets.load_table(
            data, label_column=label_column, test_size=0.2 if test_size is None else test_size, seed=seed
        )
    for name, value in (("--label-column", label_column), ("--test-size", test_size)):
        if value is not None:
            raise click.UsageError(f"{name} needs --data: MNIST, the default, has its own labels and test part.")
    train, test = (cast("datasets.Dataset", datasets.load_mnist(part)) for part in ("train", "test"))
    source = "MNIST (bundled): 60,000 images to train on, 10,000 to test on"
    return datasets.Splits(train.data, train.target, test.data, test.target, source)


# --- train, predict ---------------------------------------------------------------------------------------------------


@main.command()
@model_options
@click.option("--save", type=click.Path(dir_okay=False), help="File for the trained model (safetensors).")
@click.option("-q", "--quiet", is_flag=True, help="No progress, and only the summary at the end.")
@json_option
@click.pass_context
def train(
    context: click.Context,
    model: str,
    splits: Splits,
    estimator: Estimator,
    save: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train MODEL (softmax, ovr, mlp, cnn or forest; default: mlp) and show how good it is.

    Without options: 784-128-64-10, ReLU, Adam, batches of 32, 10 epochs, on MNIST. A cnn: two convolutions, 256 units, four epochs.
    """
    from fastmnist.evaluation.training_run import training_run, unit_of_work

    if save is not None:
        from fastmnist.estimators.serialization import check_writable

        check_writable(save)
    unit = unit_of_work(estimator)
    with epoch_progress(quiet=quiet, unit=unit) as on_epoch:
        run = training_run(model, estimator, splits, on_epoch, save=save)
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
@json_option
def info(as_json: bool) -> None:
    """Version, CPU, GPU, backends with reasons, threads, caches, environment variables."""
    from rich.table import Table
    from rich.text import Text

    from fastmnist.backends.gpu_probe import probe
    from fastmnist.system_info import system_info

    facts = system_info()
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
    table = Table("op", "outputs", "inputs", "parameters", "backends", "MFLOP", "MB")
    for op in ops:
        outs, ins = " ".join(op.outputs), " ".join(op.inputs)
        numbers = f"{op.flops / 1e6:.3f}", f"{op.nbytes / 1e6:.3f}"
        table.add_row(op.name, outs, ins, " ".join(op.parameters), " ".join(op.backends), *numbers)
    output().print(table)
    click.echo("at " + ", ".join(f"{name} = {size:,}" for name, size in STANDARD_DIMS.items()))


@main.command()
@model_options
@json_option
def explain(model: str, splits: Splits, estimator: Estimator, as_json: bool) -> None:
    """Show what training MODEL would run: network, backend with its reason, and the program as a table."""
    from fastmnist.evaluation.explanation import explain as explain_fit

    if model == "forest":
        raise click.UsageError(
            "A forest has no program: each of its trees is one job, `grow_tree`. Explain softmax, ovr or mlp."
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
