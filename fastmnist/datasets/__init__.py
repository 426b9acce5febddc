"""Data sets: the bundled MNIST, IDX files, downloads of MNIST's relatives, and tables of the user's own.

Every bad input ends in a `DatasetError` that names the file, the rule, what was found and what to do.
"""

from fastmnist.datasets.dataset import Dataset, DatasetError, Splits
from fastmnist.datasets.downloads import (
    EMNIST_SPLITS,
    REMOTES,
    Remote,
    fetch_emnist,
    fetch_fashion_mnist,
    fetch_kmnist,
)
from fastmnist.datasets.idx import read_idx
from fastmnist.datasets.mnist import load_mnist
from fastmnist.datasets.tables import load_table

__all__ = [
    "EMNIST_SPLITS",
    "REMOTES",
    "Dataset",
    "DatasetError",
    "Remote",
    "Splits",
    "fetch_emnist",
    "fetch_fashion_mnist",
    "fetch_kmnist",
    "load_mnist",
    "load_table",
    "read_idx",
]
