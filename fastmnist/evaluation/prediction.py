"""Classify pictures with a saved model: what `fastmnist predict` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmnist.images import ImageError, read_images, to_mnist

if TYPE_CHECKING:
    from fastmnist.estimators import LogisticRegression, MLPClassifier, OneVsRestLogisticRegression


@dataclass(frozen=True, eq=False)
class Digit:
    """A picture as a model sees it.

    Attributes
    ----------
    name : str
        Of its file; with its number, from 0, where the file has several.
    pixels : ndarray of shape (H, W), uint8
    """

    name: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What a model says about a picture.

    Attributes
    ----------
    name : str
        As in `Digit`.
    label : object
        The most likely class.
    probabilities : dict
        Of all classes.
    """

    name: str
    label: Any
    probabilities: dict[Any, float]

    def ranked(self) -> list[tuple[Any, float]]:
        """Classes and probabilities, the most likely first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name; classes are strings where they are keys."""
        named = {str(label): probability for label, probability in self.probabilities.items()}
        return {"image": self.name, "label": self.label, "probabilities": named}


def read_digits(paths: Iterable[str], *, raw: bool = False) -> list[Digit]:
    """Read the pictures of all files, in order.

    Parameters
    ----------
    paths : iterable of str
    raw : bool, default=False
        Leave the pixels alone; else each picture is brought into MNIST's form.

    Returns
    -------
    list of Digit

    Raises
    ------
    fastmnist.images.ImageError, fastmnist.datasets.DatasetError
        A file can't be read, or a picture has no digit; the message names the file.
    """
    digits = []
    for path in paths:
        images = read_images(path)
        for number, image in enumerate(images):
            name = path if len(images) == 1 else f"{path}[{number}]"
            try:
                digits.append(Digit(name, image if raw else to_mnist(image)))
            except ImageError as error:
                raise ImageError(f"{name}: {error}") from error
    return digits


def classify(
    model: LogisticRegression | OneVsRestLogisticRegression | MLPClassifier, digits: Sequence[Digit]
) -> list[Prediction]:
    """Label and probabilities of each picture.

    Parameters
    ----------
    model : LogisticRegression, OneVsRestLogisticRegression or MLPClassifier
        Fitted on pictures of as many pixels.
    digits : sequence of Digit

    Returns
    -------
    list of Prediction

    Raises
    ------
    ValueError
        A picture has another number of pixels than the model has features.
    """
    for digit in digits:
        if digit.pixels.size != model.n_features_in_:
            height, width = digit.pixels.shape
            raise ValueError(
                f"{digit.name}: the model takes {model.n_features_in_} pixels; got {height} x {width} = {digit.pixels.size}. "
                "Scale the picture, or use a model that was trained on pictures of this size."
            )
    X = np.stack([digit.pixels.ravel() for digit in digits])
    classes = model.classes_.tolist()
    return [
        Prediction(digit.name, label, dict(zip(classes, row.tolist(), strict=True)))
        for digit, label, row in zip(digits, model.predict(X).tolist(), model.predict_proba(X), strict=True)
    ]
