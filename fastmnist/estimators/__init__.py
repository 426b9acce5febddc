"""scikit-learn's surface. They validate, encode and choose; what is computed, executors compute."""

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
