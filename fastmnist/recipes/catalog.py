"""The recipes. What is not said here are the estimators' defaults: uint8 pixels divided by 255, Adam's betas 0.9 and 0.999."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmnist.network.layers import Conv2D, Dense, Dropout, Flatten, MaxPool2D
from fastmnist.recipes.recipe import Line, Recipe, System

# All epochs are run, none of the sources stopped early; no L2 unless it is named.
_EVERY_EPOCH: dict[str, Any] = {"n_iter_no_change": np.inf, "alpha": 0.0}


def _mlp(name: str, *lines: Line, **parameters: Any) -> System:
    return System(name, "MLPClassifier", {**_EVERY_EPOCH, **parameters}, lines or (Line(),))


def _cnn(name: str, *lines: Line, **parameters: Any) -> System:
    return System(name, "CNNClassifier", {**_EVERY_EPOCH, **parameters}, lines or (Line(),))


# --- the networks that several recipes share --------------------------------------------------------------------------

_SCRATCH: dict[str, Any] = {
    "hidden_layer_sizes": (500, 250, 100),
    "kernel_initializer": "glorot_uniform_zero_bias",
    "batch_size": 64,
    "max_iter": 15,
    "record_steps": True,
}
_PLAIN_SGD = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.01}
_PYTORCH = {**_SCRATCH, "activation": "logistic", "solver": "adam", "learning_rate_init": 0.01}
_FCNN: dict[str, Any] = {"hidden_layer_sizes": (128, 64), "batch_size": 64, "max_iter": 10}
_CNN_LAYERS = (Conv2D(32, 3, activation="relu"), MaxPool2D(), Flatten(), Dense(128, "relu"))
_CNN_SIMPLE_LAYERS = (
    Conv2D(32, 3, activation="relu"),
    MaxPool2D(),
    Conv2D(64, 3, activation="relu"),
    MaxPool2D(),
    Flatten(),
    Dropout(0.5),
)
_PLAIN_ADAM: dict[str, Any] = {"beta_2": 0.999, "label_smoothing": 0.0}
_CNN_TRAINING: dict[str, Any] = {
    **_PLAIN_ADAM,
    "batch_size": 64,
    "max_iter": 10,
    "learning_rate_init": 0.001,
    "schedule": None,
}
_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
_OURS = "The architecture was not published; this one is ours."

# --- one-vs-all -------------------------------------------------------------------------------------------------------

_DIGITS = (98.75, 99.18, 97.54, 96.92, 97.96, 96.51, 98.31, 98.06, None, None)
_GRADIENT_DESCENT: dict[str, Any] = {"solver": "gd", "C": np.inf, "tol": 0.0, "max_iter": 1500}


def _scratch(activation: str, published: float, excepted: str = "") -> Recipe:
    sigmoid_note = (
        "The source's 66 % is where three sigmoid layers happened to be after 15 epochs at this rate: gradients shrink from layer to layer, "
        "the loss rests near log(10) for the first epochs and is still falling at the end. How long it rests depends on the initial weights."
    )
    return Recipe(
        f"scratch-mlp-{activation}",
        f"784-500-250-100-10, {activation}, mini-batch SGD 0.01, batch 64, 15 epochs",
        "a network written from scratch with NumPy, Glorot uniform weights",
        "50,000 / 10,000 / 10,000",
        (
            _mlp(
                "",
                Line(published=published),
                activation="logistic" if activation == "sigmoid" else activation,
                **_SCRATCH,
                **_PLAIN_SGD,
            ),
        ),
        goal=3,
        excepted=excepted,
        train_report=True,
        pictures=("curves", "steps", "confusion", "samples"),
        notes=(
            "The source's division of the 60,000 into 50,000 and 10,000 is unknown; ours holds out the last 10,000.",
            *((sigmoid_note,) if activation == "sigmoid" else ()),
        ),
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "sklearn-softmax",
            "multinomial logistic regression, L-BFGS, 100 iterations",
            "scikit-learn's LogisticRegression on pixels / 255",
            "56,000 / 14,000",
            (System("", "LogisticRegression", {"max_iter": 100}, (Line(published=92.04),)),),
            goal=15,
            convex=True,
            random=False,
            pictures=("confusion", "weights", "samples", "mistakes"),
            notes=("The split is the source's own, row for row: the supports of its report are those of ours.",),
        ),
        Recipe(
            "keras-mlp",
            "784-128-64-10, ReLU, Adam 1e-3, batch 32, 10 epochs",
            "Keras, the last 10 % of the training part for validation: 1,575 steps an epoch",
            "56,000 / 14,000, the last 10 % to validate",
            (
                _mlp(
                    "",
                    Line(published=97.54),
                    hidden_layer_sizes=(128, 64),
                    kernel_initializer="glorot_uniform_zero_bias",
                    batch_size=32,
                    max_iter=10,
                ),
            ),
            published_time="5 to 10 s an epoch",
            goal=25,
            pictures=("curves", "confusion", "samples", "mistakes", "filters"),
            notes=(
                "The source does not say how it divided the data; ours is scikit-learn's division with random_state=42.",
            ),
        ),
        Recipe(
            "ova-logistic",
            "ten sigmoid classifiers, full-batch gradient descent from zero, no regularisation",
            "one-vs-all logistic regression written with NumPy, a digit after the other",
            "56,000 / 14,000, another for each seed",
            (
                System(
                    "",
                    "OneVsRestLogisticRegression",
                    _GRADIENT_DESCENT,
                    (
                        *(Line(f"binary_{k}", p, f"digit {k} or not") for k, p in enumerate(_DIGITS)),
                        Line("binary_mean", 97.30, "mean of the ten binary accuracies"),
                        Line(label="images classified correctly (argmax)"),
                    ),
                ),
                System(
                    "digit 0 alone",
                    "OneVsRestLogisticRegression",
                    _GRADIENT_DESCENT,
                    (Line("train_accuracy", 98.82, "on the training part"), Line("accuracy", 98.75)),
                    digit=0,
                ),
            ),
            goal=15,
            convex=True,
            choose={"learning_rate_init": (0.1, 0.3, 1.0)},
            pictures=("costs", "confusion", "weights"),
            notes=(
                "The 97.30 % that the source gives for the whole is the mean of the ten binary accuracies, of which the easy answer "
                '"it is another digit" already scores 90 %: 97.2993 % of 140,000 decisions is a whole number, of 14,000 images it is not. '
                "The share of images that get the right digit is the argmax accuracy, some five points lower.",
                "The source prints dJ/db = Y'Yhat / m, which is wrong; the gradient of the mean cross-entropy is mean(Yhat - Y).",
                "Learning rate and iterations were not published: the validation part (the last 10 % of the training part) chose them.",
                "The source's split is unknown: each of our seeds is another division, so the deviation is that of the division.",
                "All ten are descended at once, one pass over the images for all of them; gradient descent from zero draws no random number.",
            ),
        ),
        _scratch("sigmoid", 66.0, "a failure of the source"),
        _scratch("tanh", 95.0),
        _scratch("relu", 96.0),
        Recipe(
            "pytorch-mlp-adam",
            "784-500-250-100-10, sigmoid, Adam 0.01, batch 64, 15 epochs",
            "PyTorch",
            "48,000 / 12,000 / 10,000",
            (
                _mlp("softmax twice, as the source", Line(published=95.0), loss="softmax_twice", **_PYTORCH),
                _mlp("softmax once", Line(published=95.0), **_PYTORCH),
            ),
            pictures=("curves", "steps", "confusion"),
            notes=(
                "The source feeds softmax outputs into a cross-entropy that applies softmax again. That loss cannot fall below "
                "log(e + 9) - 1 = 1.46, and its gradient vanishes where the network is wrong with confidence. Both losses are shown.",
                "Its reports swap true and predicted labels: their supports are not the test set's (980 zeros, 1,135 ones, ...), and "
                "precision and recall change places. Ours have the true labels in the rows.",
                "Its division of the 60,000 into 48,000 and 12,000 is unknown; ours holds out the last 12,000. Glorot uniform weights, as "
                "in the network that it repeats.",
            ),
        ),
        Recipe(
            "pytorch-mlp-l2",
            "the same with weight_decay in Adam",
            "PyTorch, torch.optim.Adam(weight_decay=1e-3)",
            "48,000 / 12,000 / 10,000",
            (
                _mlp(
                    "1e-3, softmax twice, as the source",
                    Line(published=10.0),
                    Line("largest_share", None, "images that get its most frequent answer"),
                    loss="softmax_twice",
                    weight_decay=1e-3,
                    **_PYTORCH,
                ),
                _mlp("1e-3, softmax once", weight_decay=1e-3, **_PYTORCH),
                _mlp("1e-4, softmax once: works", weight_decay=1e-4, **_PYTORCH),
                _mlp("AdamW 1e-3, softmax once: works", weight_decay=1e-3, **{**_PYTORCH, "solver": "adamw"}),
            ),
            excepted="a failure of the source",
            pictures=("curves", "confusion"),
            notes=(
                "It is a collapse, and it is reproduced: nearly every seed ends at one class for every image (the table has the share of "
                "images that get the most frequent answer). torch's weight_decay adds 1e-3 w to the gradient of weights and biases before "
                "Adam divides by its size. The gradient of softmax applied twice, through three sigmoid layers, is smaller than that: Adam "
                "follows the decay at full speed, 0.01 a step, until the weights of the first layers are practically 0 and every image "
                "gives the same output. (scikit-learn's alpha = 1e-3 is divided by the batch size.)",
                "What works: the right loss with a tenth of the decay, or a decay that is not divided by Adam (AdamW).",
            ),
        ),
        Recipe(
            "random-forest",
            "100 trees",
            "scikit-learn's RandomForestClassifier",
            "60,000 / 10,000",
            (System("", "RandomForestClassifier", {"n_estimators": 100}, (Line(published=97.0),)),),
            goal=5,
            pictures=("importances", "confusion", "samples"),
            notes=("The source found that the forest trains faster than its FCNN; see the seconds of both.",),
        ),
        Recipe(
            "fcnn",
            "784-128-64-10, ReLU, Adam 1e-3, batch 64, 10 epochs",
            "a fully connected network",
            "60,000 / 10,000",
            (_mlp("", Line(published=97.0), **_FCNN),),
            pictures=("curves", "confusion", "samples", "mistakes"),
            notes=(_OURS,),
        ),
        Recipe(
            "cnn",
            "32c3-pool-128-10, ReLU, Adam 1e-3, batch 64, 10 epochs",
            "a convolutional network",
            "60,000 / 10,000",
            (_cnn("", Line(published=98.6), layers=_CNN_LAYERS, **_CNN_TRAINING),),
            pictures=("curves", "confusion", "samples", "mistakes", "filters"),
            notes=(_OURS,),
        ),
        Recipe(
            "cnn-simple",
            "32c3-pool-64c3-pool-dropout-10, ReLU, Adam, one-cycle rate up to 3e-3, batch 64, 15 epochs",
            "a simple convolutional network",
            "60,000 / 10,000",
            (
                _cnn(
                    "",
                    Line(published=99.3),
                    layers=_CNN_SIMPLE_LAYERS,
                    **_PLAIN_ADAM,
                    schedule="one_cycle",
                    learning_rate_init=3e-3,
                    batch_size=64,
                    max_iter=15,
                ),
            ),
            goal=3,
            pictures=("curves", "confusion", "samples", "mistakes", "filters"),
            notes=(_OURS,),
        ),
        Recipe(
            "learning-rates",
            "the fcnn with Adam and SGD at five learning rates",
            "Adam at 0.1, 0.01, 1e-3, 1e-4, 1e-5: 1e-3 was best, 0.1 stalled",
            "60,000 / 10,000",
            tuple(
                _mlp(f"{solver} {rate:g}", **{**_FCNN, "learning_rate_init": rate, **options})
                for solver, options in (("adam", {"solver": "adam"}), ("sgd", {"solver": "sgd", "momentum": 0.0}))
                for rate in _RATES
            ),
            pictures=("learning-rates",),
            notes=("SGD stands beside Adam as a contrast; it is not in the source.",),
        ),
        Recipe(
            "next-steps",
            "what the sources wished for next, from the fcnn on",
            "dropout, LeakyReLU and ELU, larger batches with more epochs, a CNN",
            "60,000 / 10,000",
            (
                _mlp("fcnn", **_FCNN),
                _mlp("dropout 0.2", **_FCNN, dropout=0.2),
                _mlp("LeakyReLU", **_FCNN, activation="leaky_relu"),
                _mlp("ELU", **_FCNN, activation="elu"),
                _mlp("batch 256, 30 epochs", **{**_FCNN, "batch_size": 256, "max_iter": 30}),
                _mlp(
                    "wider, dropout, 30 epochs",
                    **{**_FCNN, "hidden_layer_sizes": (512, 256), "max_iter": 30},
                    dropout=0.3,
                ),
                _cnn("CNN, LeNet-5", layers="lenet5", **_CNN_TRAINING),
            ),
            pictures=("time-accuracy",),
        ),
    )
}


def find(names: tuple[str, ...]) -> list[Recipe]:
    """Recipes by name, in the order of the catalog; all if none is named.

    Raises
    ------
    ValueError
        A name is unknown; the message lists those that are known.
    """
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise ValueError(
            f"unknown recipe {', '.join(map(repr, unknown))}; there are: {', '.join(RECIPES)}. Name none to run them all."
        )
    return [recipe for name, recipe in RECIPES.items() if not names or name in names]
