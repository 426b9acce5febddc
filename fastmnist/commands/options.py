"""Options that several commands share: the model with its parameters, the data, JSON."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click

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


class WholeNumber(click.IntRange):
    """Whole numbers between two limits, refused in words instead of Click's "not a valid integer range" and "x>=1"."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Turn text into a number of the range."""
        try:
            number = int(value)
        except ValueError:
            number = None
        if (
            number is None
            or not (self.min is None or number >= self.min)
            or not (self.max is None or number <= self.max)
        ):
            self.fail(f"must be a whole number {self._words()}; got {str(value)!r:.60}.", param, ctx)
        return number

    def _words(self) -> str:
        if self.max is None:
            return f"of at least {self.min}"
        return f"from {self.min} to {self.max}"


class FiniteRange(click.FloatRange):
    """A range without NaN, which no comparison finds to be outside."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Turn text into a number of the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is no number in the range {self._describe_range()}.", param, ctx)
        return number


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the data; the command receives `splits`, a function that loads them."""

    @functools.wraps(command)
    def wrapper(
        data: str | None, label_column: str | None, test_size: float | None, split_seed: int, **options: Any
    ) -> Any:
        return command(splits=lambda: load_splits(data, label_column, test_size, split_seed), **options)

    seed = click.option(
        "--split-seed", type=WholeNumber(0, 2**32 - 1), default=0, help="Of the split, train's --seed; default: 0."
    )
    for option in reversed([*_data_options(), seed]):
        wrapper = option(wrapper)
    return wrapper


def _data_options() -> list[Callable[..., Any]]:
    return [
        click.option("--data", type=click.Path(), help="FILE.npz, folder of IDX files, .csv or .mat; default: MNIST."),
        click.option("--label-column", help="Column of labels of a .csv; default: label, class or target."),
        click.option(
            "--test-size",
            type=FiniteRange(0, 1, min_open=True, max_open=True),
            help="Part to test on; default: 0.2.",
        ),
    ]


MODELS = ("softmax", "ovr", "mlp", "cnn", "forest")


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the model, its parameters and the data; the command receives the splits and an unfitted estimator."""

    @functools.wraps(command)
    def wrapper(
        model: str, data: str | None, label_column: str | None, test_size: float | None, seed: int, **options: Any
    ) -> Any:
        own = {name: options.pop(name) for name in list(options) if name in PARAMETERS}
        estimator = build_estimator(model, seed, {name: value for name, value in own.items() if value is not None})
        return command(
            model=model, splits=load_splits(data, label_column, test_size, seed), estimator=estimator, **options
        )

    for option in reversed(
        [
            click.argument("model", type=click.Choice(MODELS), default="mlp"),
            *_data_options(),
            click.option(
                "--seed",
                type=WholeNumber(0, 2**32 - 1),
                default=0,
                help="Of the split and of the training; default: 0.",
            ),
            *parameter_options(),
        ]
    ):
        wrapper = option(wrapper)
    return wrapper


def parameter_options(several: tuple[str, ...] = ()) -> list[Callable[..., Any]]:
    """The models' parameters; those named in `several` may be given more than once."""

    def option(name: str, **settings: Any) -> Callable[..., Any]:
        return click.option(name, multiple=name in several, **settings)

    return [
        option("--backend", type=click.Choice(["auto", "numpy", "numba", "cupy"]), help="Default: auto."),
        option(
            "--precision",
            type=click.Choice(["float32", "tf32", "bf16"]),
            help="Of products (mlp, cnn); default: float32, all others need a GPU.",
        ),
        option("--threads", type=WholeNumber(min=1), help="Default: as many as this process may use."),
        option("--epochs", type=WholeNumber(min=1), help="At most (iterations of full-batch solvers)."),
        option("--batch-size", type=WholeNumber(min=1), help="Default: 32 (mlp), 64 (cnn)."),
        option("--hidden", type=Widths(), help="Widths of the hidden layers of an mlp; default: 128,64."),
        option(
            "--layers",
            type=click.Choice(["lenet5", "simple", "fast", "accurate"]),
            help="Architecture of a cnn, trained by its recipe; default: fast.",
        ),
        option("--learning-rate", type=FiniteRange(0, min_open=True), help="Default: 0.001 (mlp), 0.005 (cnn)."),
        option("--solver", help="adam, adamw, sgd, lbfgs (mlp, cnn); lbfgs, gd, sgd (softmax, ovr)."),
        option(
            "--augment",
            is_flag=True,
            default=None,
            help="Train on randomly changed images (mlp, cnn), new ones each epoch.",
        ),
        option("--trees", type=WholeNumber(min=1), help="Trees of a forest; default: 100."),
        option("--max-depth", type=WholeNumber(min=1), help="Of a forest's trees; default: no limit."),
    ]


# Option -> parameter of the estimators.
PARAMETERS = {
    "backend": "backend",
    "precision": "precision",
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


def build_estimator(model: str, seed: int, options: dict[str, Any]) -> Estimator:
    """An unfitted MODEL with the given options, by their names on the command line.

    Raises
    ------
    click.UsageError
        An option does nothing for it.
    """
    for name in options:
        if name not in _FOREST_OPTIONS if model == "forest" else name in ("trees", "max_depth"):
            has = "trees, which are not trained in steps" if model == "forest" else "no trees"
            raise click.UsageError(f"--{name.replace('_', '-')} does nothing for {model}, which has {has}.")
    return _forest(seed, options) if model == "forest" else _network(model, seed, options)


def _forest(seed: int, options: dict[str, Any]) -> RandomForestClassifier:
    from fastmnist import RandomForestClassifier

    names = PARAMETERS | {"threads": "n_jobs"}
    return RandomForestClassifier(random_state=seed, **{names[name]: value for name, value in options.items()})


def _network(model: str, seed: int, options: dict[str, Any]) -> Estimator:
    from fastmnist import CNNClassifier, LogisticRegression, MLPClassifier, OneVsRestLogisticRegression

    solver = options.get("solver", "adam" if model in _DEFAULTS else "lbfgs")
    if model != "mlp" and "hidden" in options:
        reason = "the layers of a cnn are named by --layers" if model == "cnn" else f"{model} has no hidden layers"
        raise click.UsageError(f"--hidden is for mlp; {reason}.")
    if model != "cnn" and "layers" in options:
        raise click.UsageError(f"--layers is for cnn; got it with {model}.")
    for name in ("augment", "precision"):
        if model not in _DEFAULTS and name in options:
            raise click.UsageError(f"--{name} is for mlp and cnn; got it with {model}.")
    if solver in ("lbfgs", "gd") and "batch_size" in options:
        raise click.UsageError(f"--batch-size does nothing with --solver {solver}, which takes all data at once.")
    if solver == "lbfgs" and "learning_rate" in options:
        raise click.UsageError("--learning-rate does nothing with --solver lbfgs, which finds its own step.")
    options = _DEFAULTS.get(model, {}) | options
    recipe = _cnn_recipe(options.get("layers", "fast"), solver) if model == "cnn" else {}
    parameters = recipe | {PARAMETERS[name]: value for name, value in options.items()}
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


def load_splits(data: str | None, label_column: str | None, test_size: float | None, seed: int) -> Splits:
    """What --data and its options name: MNIST without them."""
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
