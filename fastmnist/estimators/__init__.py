"""scikit-learn's surface. They validate, encode and choose; what is computed, executors compute.

Each name is loaded when it is first used (PEP 562): who trains an MLP does not wait for forests.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastmnist.estimators.cnn import CNNClassifier
    from fastmnist.estimators.forest import RandomForestClassifier
    from fastmnist.estimators.logistic import LogisticRegression, OneVsRestLogisticRegression
    from fastmnist.estimators.mlp import MLPClassifier
    from fastmnist.estimators.preprocessing import AugmentTransformer, Deskew

__all__ = [
    "AugmentTransformer",
    "CNNClassifier",
    "Deskew",
    "LogisticRegression",
    "MLPClassifier",
    "OneVsRestLogisticRegression",
    "RandomForestClassifier",
]

_HOME = {
    "AugmentTransformer": "preprocessing",
    "CNNClassifier": "cnn",
    "Deskew": "preprocessing",
    "LogisticRegression": "logistic",
    "MLPClassifier": "mlp",
    "OneVsRestLogisticRegression": "logistic",
    "RandomForestClassifier": "forest",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has: {', '.join(__all__)}.")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # found directly from now on
    return value
