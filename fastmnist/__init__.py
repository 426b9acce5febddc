"""fastmnist: hand-written compiled kernels that train MNIST-class models, behind scikit-learn's API.

Public names are loaded when they are first used (PEP 562): `import fastmnist` imports NumPy at most, so that it costs
nothing to programs that only sometimes need it.

For developers: `fastmnist.network`, `fastmnist.backends`, `fastmnist.kernels.contract`, `fastmnist.kernels.reference`,
`fastmnist.training`, `fastmnist.estimators`, `fastmnist.evaluation`, `fastmnist.datasets`, `fastmnist.images`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fastmnist.version import __version__

if TYPE_CHECKING:
    from fastmnist.backends import BackendUnavailable, available_backends
    from fastmnist.datasets import fetch_emnist, fetch_fashion_mnist, fetch_kmnist, load_mnist, read_idx
    from fastmnist.estimators.cnn import CNNClassifier
    from fastmnist.estimators.forest import RandomForestClassifier
    from fastmnist.estimators.logistic import LogisticRegression, OneVsRestLogisticRegression
    from fastmnist.estimators.mlp import MLPClassifier
    from fastmnist.estimators.preprocessing import AugmentTransformer, Deskew
    from fastmnist.estimators.serialization import load_model
    from fastmnist.kernel_call import call_kernel, warmup
    from fastmnist.matrix_product import MatrixProduct, gemm
    from fastmnist.network.augmentation import Augment
    from fastmnist.network.layers import (
        Activation,
        AvgPool2D,
        BatchNorm,
        Conv2D,
        Dense,
        Dropout,
        Flatten,
        GlobalAvgPool2D,
        MaxPool2D,
    )

__all__ = [
    "Activation",
    "Augment",
    "AugmentTransformer",
    "AvgPool2D",
    "BackendUnavailable",
    "BatchNorm",
    "CNNClassifier",
    "Conv2D",
    "Dense",
    "Deskew",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2D",
    "LogisticRegression",
    "MLPClassifier",
    "MatrixProduct",
    "MaxPool2D",
    "OneVsRestLogisticRegression",
    "RandomForestClassifier",
    "__version__",
    "available_backends",
    "call_kernel",
    "fetch_emnist",
    "fetch_fashion_mnist",
    "fetch_kmnist",
    "gemm",
    "load_mnist",
    "load_model",
    "read_idx",
    "warmup",
]

_MODULES = {
    "fastmnist.backends": ("BackendUnavailable", "available_backends"),
    "fastmnist.datasets": ("fetch_emnist", "fetch_fashion_mnist", "fetch_kmnist", "load_mnist", "read_idx"),
    "fastmnist.estimators.cnn": ("CNNClassifier",),
    "fastmnist.estimators.forest": ("RandomForestClassifier",),
    "fastmnist.estimators.logistic": ("LogisticRegression", "OneVsRestLogisticRegression"),
    "fastmnist.estimators.mlp": ("MLPClassifier",),
    "fastmnist.estimators.preprocessing": ("AugmentTransformer", "Deskew"),
    "fastmnist.estimators.serialization": ("load_model",),
    "fastmnist.kernel_call": ("call_kernel", "warmup"),
    "fastmnist.matrix_product": ("MatrixProduct", "gemm"),
    "fastmnist.network.augmentation": ("Augment",),
    "fastmnist.network.layers": (
        "Activation",
        "AvgPool2D",
        "BatchNorm",
        "Conv2D",
        "Dense",
        "Dropout",
        "Flatten",
        "GlobalAvgPool2D",
        "MaxPool2D",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'fastmnist' has no attribute {name!r}; it has: {', '.join(__all__)}.")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
