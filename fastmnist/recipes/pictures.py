"""The recipes' pictures: of a fitted model as soon as it is there, of results when the last fit is done. PNG files in one folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastmnist.evaluation import Evaluation, evaluate, figures
from fastmnist.evaluation.figures.style import BLUE, new_figure, plain_axes
from fastmnist.recipes.recipe import Recipe, System
from fastmnist.recipes.results import RecipeResult, Run
from fastmnist.recipes.splits import Split

SIDE = 28
EACH_KIND = 6  # samples that are right, and as many that are wrong


def picture_file(recipe: str, system: str, picture: str) -> str:
    """Name of a picture's file."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{recipe} {system} {picture}".lower())
    return f"{words.strip('-')}.png"


def _title(recipe: Recipe, system: System) -> str:
    return recipe.name + (f": {system.name}" if system.name else "")


# --- of a fitted model ------------------------------------------------------------------------------------------------


def _steps(model: Any, judged: Evaluation, images: np.ndarray, title: str) -> Any:
    return figures.step_losses(model.step_losses_, window=min(200, len(model.step_losses_)), title=title)


def _confusion(model: Any, judged: Evaluation, images: np.ndarray, title: str) -> Any:
    return figures.confusion_matrix(judged.report, title=title)


def _samples(model: Any, judged: Evaluation, images: np.ndarray, title: str) -> Any:
    right = np.flatnonzero(judged.true == judged.predicted)
    rows = np.concatenate([right[:EACH_KIND], judged.wrong[:EACH_KIND]])
    assert judged.probabilities is not None
    shown = judged.labels[judged.true[rows]]
    return figures.sample_predictions(images[rows], shown, judged.probabilities[rows], judged.labels, title=title)


def _mistakes(model: Any, judged: Evaluation, images: np.ndarray, title: str) -> Any:
    return figures.worst_mistakes(judged, images, title=title)


def _weights(model: Any, judged: Evaluation, images: np.ndarray, title: str) -> Any:
    return figures.class_weights(model.coef_, model.classes_, title=title)


def _filters(model: Any, judged: Evaluation, images: np.ndarray, title: str) -> Any:
    return figures.filters(model.coefs_[0], title=title)


def _importances(model: Any, judged: Evaluation, images: np.ndarray, title: str) -> Any:
    return figures.feature_importances(model.feature_importances_, title=title)


def _costs(model: Any, judged: Evaluation, images: np.ndarray, title: str) -> Any:
    """A panel a class, on one scale: ten curves in one are not told apart. Logarithmic: most of the way is gone in the first few iterations."""
    curves = model.loss_curve_by_class_.T
    names = [f"digit {name}" for name in model.classes_] if len(curves) > 1 else [str(model.classes_[-1])]
    columns = min(len(curves), 5)
    width, height = (2.2, 2.0) if len(curves) > 1 else (4.4, 3.2)
    figure = new_figure(width * columns + 0.6, height * -(-len(curves) // columns) + 0.6, title)
    panels = figure.subplots(-(-len(curves) // columns), columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, name, curve in zip(panels, names, curves, strict=False):
        plain_axes(axes, "iteration", "cross-entropy (nats)")
        axes.loglog(np.arange(1, len(curve) + 1), curve, color=BLUE)
        axes.set_title(f"{name}: {curve[0]:.3f} to {curve[-1]:.4f}", fontsize=8)
        axes.label_outer()
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    return figure


MODEL_PICTURES: dict[str, Callable[[Any, Evaluation, np.ndarray, str], Any]] = {
    "steps": _steps,
    "confusion": _confusion,
    "samples": _samples,
    "mistakes": _mistakes,
    "weights": _weights,
    "filters": _filters,
    "importances": _importances,
    "costs": _costs,
}


def draw_model(recipe: Recipe, system: System, model: Any, split: Split, out: Path) -> None:
    """Draw what the recipe asks for of a fitted model.

    Raises
    ------
    fastmnist.extras.MissingExtra
        There is no matplotlib.
    OSError
        A file can't be written.
    """
    X, y = split.test
    wanted = [name for name in recipe.pictures if name in MODEL_PICTURES]
    if not wanted:
        return
    judged = evaluate(model, X, system.labels(y))
    images = X.reshape(-1, SIDE, SIDE)
    for name in wanted:
        figure = MODEL_PICTURES[name](model, judged, images, _title(recipe, system))
        figures.save(figure, out / picture_file(recipe.name, system.name, name))


# --- of results -------------------------------------------------------------------------------------------------------


def _curves(recipe: Recipe, result: RecipeResult) -> Any:
    return figures.training_curves(
        {system.name: result.of(system.name)[0].history for system in recipe.systems}, title=recipe.name
    )


def _learning_rates(solver: str, recipe: Recipe, result: RecipeResult) -> Any:
    runs = {
        system.parameters["learning_rate_init"]: [run.history for run in result.of(system.name)]
        for system in recipe.systems
        if system.parameters["solver"] == solver
    }
    return figures.learning_rates(runs, title=f"{recipe.name}: {solver}")


def _time_accuracy(recipe: Recipe, result: RecipeResult) -> Any:
    points = [_point(system.name, result.of(system.name)) for system in recipe.systems]
    return figures.time_accuracy(points, title=recipe.name)


def _point(name: str, runs: Sequence[Run]) -> figures.Point:
    accuracies = [run.metrics["accuracy"] for run in runs]
    seconds = float(np.mean([run.fit_seconds for run in runs]))
    deviation = float(np.std(accuracies, ddof=1)) if len(runs) > 1 else 0.0
    return figures.Point(name, seconds, float(np.mean(accuracies)), deviation)


# Name -> (system of the file's name, how it is drawn).
RESULT_PICTURES: dict[str, Sequence[tuple[str, Callable[[Recipe, RecipeResult], Any]]]] = {
    "curves": [("", _curves)],
    "learning-rates": [(solver, partial(_learning_rates, solver)) for solver in ("adam", "sgd")],
    "time-accuracy": [("", _time_accuracy)],
}


def draw_results(recipe: Recipe, result: RecipeResult, out: Path) -> None:
    """Draw what the recipe asks for of all its runs; raises as `draw_model`."""
    for name in recipe.pictures:
        for system, draw in RESULT_PICTURES.get(name, ()):
            figures.save(draw(recipe, result), out / picture_file(recipe.name, system, name))


def draw_overview(results: Sequence[tuple[Recipe, RecipeResult]], out: Path) -> str:
    """Time against accuracy of every system that tells ten digits apart and stands beside a published number; returns the file's name."""
    points = [
        _point(_short(recipe, system), result.of(system.name))
        for recipe, result in results
        for system in recipe.systems
        if not recipe.excepted and recipe.published and system.digit is None and result.of(system.name)
    ]
    name = picture_file("overview", "", "time accuracy")
    if points:
        figures.save(figures.time_accuracy(points, title="Published work, with this library"), out / name)
    return name


def _short(recipe: Recipe, system: System) -> str:
    """What a point is called: the recipe, and what comes before the first comma of the system."""
    return f"{recipe.name} {system.name.partition(',')[0]}".strip()


CAPTIONS = {
    "curves": "Loss and accuracy of each epoch, of the first seed: on the training part as its batches were met, so on average half an epoch "
    "earlier than on the validation part.",
    "steps": "Loss of each batch, and its mean over the last 200.",
    "confusion": "Confusion matrix of the test part: mistakes are coloured, recall stands at the right, precision below.",
    "samples": "The first test images that are classified correctly (blue) and wrongly (orange): bars are the probabilities of the classes, "
    "the outlined one is the true class.",
    "mistakes": "The wrong answers that the model is surest of; the outlined bar is the true class.",
    "weights": "Learned weights of each class as images: red pixels speak for it, blue ones against it.",
    "filters": "Weights of the first layer's units or filters, the largest first.",
    "importances": "What share of the trees' decrease of impurity each pixel has.",
    "costs": "Cost against iteration, both logarithmic; above each panel the first and the last value.",
    "learning-rates": "Left: training loss after each epoch, mean and range of the seeds; right: training accuracy after the last one, a point "
    "a seed.",
    "time-accuracy": "Test accuracy against seconds of training; bars are one standard deviation of the seeds.",
}


def files_of(recipe: Recipe, out: Path) -> list[tuple[str, str]]:
    """Names and captions of the recipe's pictures that are in the folder, in the order in which they are to be shown."""
    files = []
    for picture in recipe.pictures:
        systems = [system.name for system in recipe.systems]
        if picture in RESULT_PICTURES:
            systems = [system for system, _ in RESULT_PICTURES[picture]]
        files += [(picture_file(recipe.name, system, picture), CAPTIONS[picture]) for system in systems]
    return [(name, caption) for name, caption in files if (out / name).exists()]
