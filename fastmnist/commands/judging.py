"""What commands share that judge a saved model on data: its file, the data, and what it makes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastmnist.commands.options import data_options

if TYPE_CHECKING:
    import numpy as np

    from fastmnist.datasets import Splits
    from fastmnist.evaluation import Evaluation


@dataclass(frozen=True)
class Judged:
    """A saved model and what it makes of the data."""

    name: str
    model: Any
    X: np.ndarray
    y: np.ndarray
    evaluation: Evaluation

    @property
    def images(self) -> np.ndarray:
        """X as images: those of a CNN, else square ones.

        Raises
        ------
        ValueError
            The rows are no images.
        """
        from fastmnist.evaluation.figures.style import image_shape_of

        shape = getattr(self.model, "image_shape_", None)
        if shape is None:
            return self.X.reshape(len(self.X), *image_shape_of(self.X.shape[1]))
        return self.X.reshape(len(self.X), *(shape[:2] if shape[2] == 1 else shape))  # one channel is not worth an axis

    def title(self, what: str) -> str:
        """For a picture of it."""
        return f"{what} of {self.name} ({self.evaluation.accuracy:.2%} of {len(self.y):,} samples right)"


def judged_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a model's file and the data; the command receives `judged`, a function that judges the model on them."""

    @click.argument("model_file", metavar="MODEL.safetensors", type=click.Path())
    @judging_options
    @functools.wraps(command)
    def wrapper(model_file: str, judging: Callable[..., Judged], **options: Any) -> Any:
        from fastmnist import load_model

        return command(judged=lambda: judging(Path(model_file).stem, lambda _: load_model(model_file)), **options)

    return wrapper


def judging_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the data; the command receives `judging`, which takes a name and a function from the data to a fitted model."""

    @data_options
    @click.option(
        "--split", type=click.Choice(["test", "train"]), default="test", show_default=True, help="Part of the data."
    )
    @functools.wraps(command)
    def wrapper(splits: Callable[[], Splits], split: str, **options: Any) -> Any:
        def judging(name: str, model_of: Callable[[Splits], Any]) -> Judged:
            from fastmnist.evaluation import evaluate

            data = splits()
            model = model_of(data)
            X, y = (data.X_test, data.y_test) if split == "test" else (data.X_train, data.y_train)
            return Judged(name, model, X, y, evaluate(model, X, y))

        return command(judging=judging, **options)

    return wrapper
