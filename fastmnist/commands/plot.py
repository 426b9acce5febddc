"""`fastmnist plot KIND MODEL`: the pictures of a saved model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastmnist.commands.judging import Judged, judged_options
from fastmnist.commands.options import WholeNumber, data_options

if TYPE_CHECKING:
    from fastmnist.datasets import Splits


@click.group()
def plot() -> None:
    """Draw a saved model: curves, confusions, samples, weights, ... as PNG, PDF or SVG.

    Needs the extra plots: pip install 'fastmnist[plots]'.
    """


# --- what the pictures share ----------------------------------------------------------------------------------------------------


@contextmanager
def _picture(out: str) -> Iterator[Callable[[Any], None]]:
    """Find out first whether the file can be written; then write the figure that is handed over, and say so."""
    from fastmnist.evaluation.figures import save
    from fastmnist.evaluation.figures.style import check_format
    from fastmnist.extras import require
    from fastmnist.files import check_writable

    require("matplotlib.figure", "Pictures")
    check_format(out)
    check_writable(out)

    def finish(figure: Any) -> None:
        save(figure, out)
        click.echo(f"written: {out}")

    yield finish


def _out(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "-o",
        "--out",
        type=click.Path(dir_okay=False),
        default=default,
        show_default=True,
        help="The picture: .png, .pdf or .svg.",
    )


title_option = click.option("--title", help="Above the picture; default: the model and what it reaches.")


def _fitted(model_file: str, attribute: str, otherwise: str) -> Any:
    """A model that has the attribute that a picture shows."""
    from fastmnist import load_model

    model = load_model(model_file)
    if not hasattr(model, attribute):
        raise click.UsageError(f"{model_file} holds a {type(model).__name__}, {otherwise}")
    return model


# --- training -------------------------------------------------------------------------------------------------------------------


@plot.command()
@click.argument("model_files", metavar="MODEL.safetensors...", type=click.Path(), nargs=-1, required=True)
@_out("curves.png")
@title_option
def curves(model_files: tuple[str, ...], out: str, title: str | None) -> None:
    """Loss and accuracy of each epoch, training and (`train --validation`) validation; several models together."""
    from fastmnist.evaluation.figures import training_curves
    from fastmnist.evaluation.training_run import unit_of_work

    with _picture(out) as finish:
        models = {Path(f).stem: _fitted(f, "history_", "which has no epochs to draw.") for f in model_files}
        units = {unit_of_work(model) for model in models.values()}
        histories = {name: model.history_ for name, model in models.items()}
        finish(
            training_curves(
                histories if len(histories) > 1 else next(iter(histories.values())),
                unit=" or ".join(sorted(units)),
                title=title if title is not None else "" if len(models) > 1 else f"Training of {next(iter(models))}",
            )
        )


@plot.command()
@click.argument("model_files", metavar="MODEL.safetensors...", type=click.Path(), nargs=-1, required=True)
@click.option(
    "--window", type=WholeNumber(min=1), default=200, show_default=True, help="Steps of which the mean is drawn."
)
@_out("steps.png")
@title_option
def steps(model_files: tuple[str, ...], window: int, out: str, title: str | None) -> None:
    """Loss of each step, as a moving mean; for models trained with `train --record-steps`."""
    from fastmnist.evaluation.figures import step_losses

    missing = "without the losses of its steps. Train mlp or cnn with --record-steps."
    with _picture(out) as finish:
        losses = {Path(f).stem: _fitted(f, "step_losses_", missing).step_losses_ for f in model_files}
        single = len(losses) == 1
        name, values = next(iter(losses.items()))
        finish(
            step_losses(
                values if single else losses,
                window=window,
                title=title if title is not None else f"Loss of each batch of {name}" if single else "",
            )
        )


@plot.command()
@click.argument("model_files", metavar="MODEL.safetensors...", type=click.Path(), nargs=-1, required=True)
@data_options
@_out("times.png")
@title_option
def times(model_files: tuple[str, ...], splits: Callable[[], Splits], out: str, title: str | None) -> None:
    """Test accuracy of several models against the seconds that their training took."""
    from fastmnist.evaluation.figures import Point, time_accuracy

    with _picture(out) as finish:
        data = splits()
        points = []
        for file in model_files:
            model = _fitted(file, "fit_seconds_", "without the time of its training.")
            points.append(Point(Path(file).stem, model.fit_seconds_, float(model.score(data.X_test, data.y_test))))
        finish(time_accuracy(points, title="Time against accuracy" if title is None else title))


# --- predictions ----------------------------------------------------------------------------------------------------------------


@plot.command()
@judged_options
@_out("confusion.png")
@title_option
def confusion(judged: Callable[[], Judged], out: str, title: str | None) -> None:
    """Which classes are taken for which others, with recall and precision."""
    from fastmnist.evaluation.figures import confusion_matrix

    with _picture(out) as finish:
        found = judged()
        finish(confusion_matrix(found.evaluation.report, title=found.title("Confusions") if title is None else title))


@plot.command()
@judged_options
@_out("calibration.png")
@title_option
def calibration(judged: Callable[[], Judged], out: str, title: str | None) -> None:
    """How often the model is right when it is so sure."""
    from fastmnist.evaluation.figures import reliability

    with _picture(out) as finish:
        found = judged()
        assert found.evaluation.calibration is not None  # all models that can be saved give probabilities
        finish(
            reliability(found.evaluation.calibration, title=f"Reliability of {found.name}" if title is None else title)
        )


@plot.command()
@judged_options
@click.option("--count", type=WholeNumber(1, 60), default=12, show_default=True, help="Pictures.")
@click.option("--wrong", type=WholeNumber(0, 60), default=3, show_default=True, help="Mistakes among them.")
@click.option("--seed", type=WholeNumber(min=0), default=0, show_default=True, help="Which ones are drawn.")
@_out("samples.png")
@title_option
def samples(judged: Callable[[], Judged], count: int, wrong: int, seed: int, out: str, title: str | None) -> None:
    """Some images with the probabilities of their classes, right and wrong in two colours.

    Right predictions first, then mistakes, each drawn at random.
    """
    import numpy as np

    from fastmnist.evaluation.figures import sample_predictions

    if wrong > count:
        raise click.UsageError(f"--wrong must be at most --count, {count}; got {wrong}.")
    with _picture(out) as finish:
        found = judged()
        rng = np.random.default_rng(seed)
        mistakes = found.evaluation.wrong
        right = np.setdiff1d(np.arange(len(found.y)), mistakes)
        parts = [rng.permutation(right)[: count - wrong], rng.permutation(mistakes)[:wrong]]
        rows = np.concatenate([np.sort(part) for part in parts])
        what = f"{len(parts[0])} right and {len(parts[1])} wrong predictions"
        finish(
            sample_predictions(
                found.images[rows],
                found.y[rows],
                found.evaluation.probabilities[rows],  # type: ignore[index]
                found.evaluation.labels.tolist(),
                title=found.title(what) if title is None else title,
            )
        )


@plot.command()
@judged_options
@click.option("--count", type=WholeNumber(1, 60), default=12, show_default=True, help="Mistakes at most.")
@_out("mistakes.png")
@title_option
def mistakes(judged: Callable[[], Judged], count: int, out: str, title: str | None) -> None:
    """The mistakes of which the model was surest."""
    from fastmnist.evaluation.figures import worst_mistakes

    with _picture(out) as finish:
        found = judged()
        finish(
            worst_mistakes(
                found.evaluation, found.images, count, title=found.title("Surest mistakes") if title is None else title
            )
        )


# --- what was learned -----------------------------------------------------------------------------------------------------------


@plot.command()
@click.argument("model_file", metavar="MODEL.safetensors", type=click.Path())
@_out("weights.png")
@title_option
def weights(model_file: str, out: str, title: str | None) -> None:
    """The weights of each class of a linear model (softmax, ovr) as images."""
    from fastmnist.evaluation.figures import class_weights

    with _picture(out) as finish:
        model = _fitted(model_file, "coef_", "which has no weights of classes. See `fastmnist plot filters`.")
        title = f"Weights of {Path(model_file).stem}" if title is None else title
        finish(class_weights(model.coef_, model.classes_.tolist(), title=title))


@plot.command()
@click.argument("model_file", metavar="MODEL.safetensors", type=click.Path())
@click.option("--layer", type=WholeNumber(min=1), default=1, show_default=True, help="Dense or Conv2D, counted from 1.")
@click.option("--count", type=WholeNumber(1, 200), default=40, show_default=True, help="Units or filters at most.")
@_out("filters.png")
@title_option
def filters(model_file: str, layer: int, count: int, out: str, title: str | None) -> None:
    """What the first layer of an mlp, or a convolution of a cnn, looks for."""
    from fastmnist.evaluation import figures

    with _picture(out) as finish:
        model = _fitted(model_file, "coefs_", "which has no layers. See `fastmnist plot weights` or `importances`.")
        if layer > len(model.coefs_):
            raise click.UsageError(f"--layer must be 1 to {len(model.coefs_)}, the model's layers; got {layer}.")
        array = model.coefs_[layer - 1]
        if layer > 1 and array.ndim == 2:
            raise click.UsageError(f"Layer {layer} is a Dense layer that reads no image; take a Conv2D or layer 1.")
        title = f"Layer {layer} of {Path(model_file).stem}" if title is None else title
        finish(figures.filters(array, n=count, title=title))


@plot.command()
@click.argument("model_file", metavar="MODEL.safetensors", type=click.Path())
@_out("importances.png")
@title_option
def importances(model_file: str, out: str, title: str | None) -> None:
    """How much each pixel is worth to a forest."""
    from fastmnist.evaluation.figures import feature_importances

    with _picture(out) as finish:
        model = _fitted(model_file, "feature_importances_", "which has no importances. See `fastmnist plot filters`.")
        title = f"Importance of each pixel to {Path(model_file).stem}" if title is None else title
        finish(feature_importances(model.feature_importances_, title=title))


# --- data -----------------------------------------------------------------------------------------------------------------------


def _augment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the ranges of `fastmnist.Augment`; the command receives those that were given as `ranges`."""
    ranges = {
        "translate": "Pixels.",
        "rotate": "Degrees.",
        "scale": "Part of the size.",
        "shear": "Degrees.",
        "elastic_alpha": "Pixels of elastic distortion; 34 is Simard's.",
        "erase": "Probability of an erased rectangle.",
    }

    @functools.wraps(command)
    def wrapper(**options: Any) -> Any:
        given = {name: options.pop(name) for name in ranges}
        return command(ranges={name: value for name, value in given.items() if value is not None}, **options)

    for name, meaning in reversed(ranges.items()):
        wrapper = click.option(f"--{name.replace('_', '-')}", type=float, help=meaning)(wrapper)
    return wrapper


@plot.command()
@data_options
@_augment_options
@click.option("--count", type=WholeNumber(1, 30), default=10, show_default=True, help="Images.")
@click.option("--copies", type=WholeNumber(1, 30), default=5, show_default=True, help="Changed copies of each.")
@click.option("--seed", type=WholeNumber(min=0), default=0, show_default=True, help="Of the changes.")
@_out("augmented.png")
@title_option
def augmented(
    splits: Callable[[], Splits],
    ranges: dict[str, Any],
    count: int,
    copies: int,
    seed: int,
    out: str,
    title: str | None,
) -> None:
    """Training images and what `train --augment` makes of them, or other ranges."""
    import numpy as np

    from fastmnist import Augment, AugmentTransformer
    from fastmnist.evaluation.figures import augmented_images
    from fastmnist.evaluation.figures.style import image_shape_of

    with _picture(out) as finish:
        augment = Augment(**ranges) if ranges else True
        X = splits().X_train[:count]
        images = X.reshape(len(X), *image_shape_of(X.shape[1]))
        changed, _ = AugmentTransformer(augment, n_copies=copies, random_state=seed).fit_resample(
            images, np.zeros(len(images))
        )
        chosen = ", ".join(f"{name} {value:g}" for name, value in ranges.items()) or "as of train --augment"
        title = f"Augmentation: {chosen}" if title is None else title
        finish(augmented_images(images, changed[len(images) :].reshape(copies, *images.shape), title=title))
