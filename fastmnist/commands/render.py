"""`fastmnist render MODEL --video out.mp4`: a film of what a saved model makes of images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastmnist.commands.judging import judging_options
from fastmnist.commands.options import FiniteRange, WholeNumber, build_estimator
from fastmnist.console import counted_progress

if TYPE_CHECKING:
    import numpy as np

    from fastmnist.commands.judging import Judged
    from fastmnist.datasets import Splits


@click.command()
@click.argument("model_file", metavar="[MODEL.safetensors]", type=click.Path(), required=False)
@judging_options
@click.option(
    "--video",
    type=click.Path(dir_okay=False),
    default="predictions.mp4",
    show_default=True,
    help="The film: .mp4 or .gif.",
)
@click.option("--count", type=WholeNumber(1), default=60, show_default=True, help="Images at most.")
@click.option("--fps", type=FiniteRange(0.1, 60), default=2.0, show_default=True, help="Images a second.")
@click.option("--only", type=click.Choice(["right", "wrong"]), help="Only such predictions; default: all.")
@click.option(
    "--shuffle", type=WholeNumber(min=0), metavar="SEED", help="Draw the images at random; default: the first ones."
)
def render(
    model_file: str | None,
    judging: Callable[..., Judged],
    video: str,
    count: int,
    fps: float,
    only: str | None,
    shuffle: int | None,
) -> None:
    """Film a saved model's predictions: a frame an image, with the probabilities of its classes (1280 x 720).

    Without a model the default network is trained first, as `fastmnist train` does.

    Needs the extra video: pip install 'fastmnist[video]'.
    """
    from fastmnist.evaluation.video import check_film, frames, write_video

    check_film(video, fps)
    found = judging(_name(model_file), lambda splits: _model(model_file, splits))
    rows = _rows(found, count, only, shuffle)
    if len(rows) == 0:
        raise click.UsageError(f"No prediction of {found.name} is {only}: there is nothing to film.")
    probabilities, labels = found.evaluation.probabilities, found.evaluation.labels.tolist()
    assert probabilities is not None  # all models that can be saved give them
    pictures = frames(found.images[rows], found.y[rows], probabilities[rows], labels, title=found.name)
    with counted_progress("frame") as show:
        n = write_video(video, pictures, fps=fps, on_frame=lambda number: show("", number, len(rows)))
    click.echo(f"written: {video} ({n} frames, {n / fps:g} s)")


def _name(model_file: str | None) -> str:
    return "the default network" if model_file is None else Path(model_file).stem


def _model(model_file: str | None, splits: Splits) -> Any:
    """The saved model, or the default network trained now."""
    from fastmnist import load_model

    if model_file is not None:
        return load_model(model_file)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Stochastic Optimizer: Maximum iterations")
        return build_estimator("mlp", 0, {}).fit(splits.X_train, splits.y_train)


def _rows(found: Judged, count: int, only: str | None, shuffle: int | None) -> np.ndarray:
    """Which images are shown, in order."""
    import numpy as np

    evaluation = found.evaluation
    rows = np.arange(len(found.y))
    if only is not None:
        rows = rows[(evaluation.true == evaluation.predicted) == (only == "right")]
    if shuffle is not None:
        rows = np.random.default_rng(shuffle).permutation(rows)
    return rows[:count]
