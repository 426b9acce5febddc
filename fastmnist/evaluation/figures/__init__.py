"""Pictures of models and their training: each function returns a `matplotlib.figure.Figure` of its own.

pyplot and its global state are never touched, so these may be called from any thread and beside the user's own plots. matplotlib
is an extra: `pip install 'fastmnist[plots]'`; without it each function raises `fastmnist.extras.MissingExtra`, which says so.
"""

from __future__ import annotations

from fastmnist.evaluation.figures.predictions import confusion_matrix, reliability, sample_predictions, worst_mistakes
from fastmnist.evaluation.figures.style import save
from fastmnist.evaluation.figures.training import Point, learning_rates, step_losses, time_accuracy, training_curves
from fastmnist.evaluation.figures.weights import (
    augmented_images,
    class_weights,
    feature_importances,
    filters,
    image_grid,
)

__all__ = [
    "Point",
    "augmented_images",
    "class_weights",
    "confusion_matrix",
    "feature_importances",
    "filters",
    "image_grid",
    "learning_rates",
    "reliability",
    "sample_predictions",
    "save",
    "step_losses",
    "time_accuracy",
    "training_curves",
    "worst_mistakes",
]
