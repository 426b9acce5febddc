"""MNIST, bundled with the package, and the joining of its pairs of files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np

from fastmnist.datasets.dataset import Dataset, DatasetError
from fastmnist.datasets.idx import read_idx

_BUNDLED = Path(__file__).parents[1] / "data"
_REINSTALL = "Reinstall the package: pip install --force-reinstall fastmnist"
_PREFIXES = {"train": ("train",), "test": ("t10k",), "all": ("train", "t10k")}
_IMAGES, _LABELS = "-images-idx3-ubyte.gz", "-labels-idx1-ubyte.gz"
_MNIST_DESCRIPTION = (
    "MNIST: handwritten digits 0-9, 28 x 28, white ink on black; 60,000 to train on, 10,000 to test on. "
    "By Yann LeCun, Corinna Cortes and Christopher J.C. Burges; CC BY-SA 3.0."
)


def load_mnist(split: str = "train", *, return_X_y: bool = False) -> Dataset | tuple[np.ndarray, np.ndarray]:
    """Load MNIST from the files bundled with the package, after verifying their checksums.

    Parameters
    ----------
    split : {"train", "test", "all"}, default="train"
        "all" is the training set followed by the test set, each in file order: the order of OpenML's `mnist_784`.
    return_X_y : bool, default=False
        Return `(data, target)` instead of a `Dataset`.

    Returns
    -------
    Dataset, or tuple of ndarrays
        Pixels uint8 (n, 784) with n = 60,000, 10,000 or 70,000, and labels int64 (n,).

    Raises
    ------
    DatasetError
        Unknown split, or a bundled file is missing or altered.
    """
    prefixes = file_prefixes("load_mnist", "split", split)
    sums: dict[str, str] = {}
    for line in _read_bundled("SHA256SUMS").decode().splitlines():
        digest, name = line.split()
        sums[name] = digest

    def open_verified(name: str) -> IO[bytes]:
        content = _read_bundled(name)
        if hashlib.sha256(content).hexdigest() != sums.get(name):
            raise DatasetError(f"{_BUNDLED / name}: its SHA-256 is not the one in SHA256SUMS. {_REINSTALL}")
        return io.BytesIO(content)

    return join_files(open_verified, prefixes, f"mnist ({split})", _MNIST_DESCRIPTION, return_X_y)


def _read_bundled(name: str) -> bytes:
    try:
        return (_BUNDLED / name).read_bytes()
    except OSError as error:
        raise DatasetError(f"{_BUNDLED / name}: can't be read: {error.strerror or error}. {_REINSTALL}") from error


def file_prefixes(function: str, parameter: str, value: str) -> tuple[str, ...]:
    """How the names of the files of a split begin."""
    if value not in _PREFIXES:
        raise DatasetError(f"{function}: {parameter} must be one of {tuple(_PREFIXES)}; got {value!r}.")
    return _PREFIXES[value]


def join_files(
    opener: Callable[[str], IO[bytes]],
    prefixes: Iterable[str],
    name: str,
    description: str,
    return_X_y: bool,
    *,
    transposed: bool = False,
) -> Dataset | tuple[np.ndarray, np.ndarray]:
    """Read and join the pairs of image and label files with these prefixes."""
    pairs = []
    for prefix in prefixes:
        with opener(prefix + _IMAGES) as image_file, opener(prefix + _LABELS) as label_file:
            pairs.append(
                _check_pair(read_idx(image_file), read_idx(label_file), f"{prefix}{_IMAGES}", transposed=transposed)
            )
    data, target = pairs[0] if len(pairs) == 1 else (np.concatenate(part) for part in zip(*pairs, strict=True))
    return (data, target) if return_X_y else Dataset(data, target, name, description)


def _check_pair(
    images: np.ndarray, labels: np.ndarray, name: str, *, transposed: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, H, W) uint8 and integer labels (n,) -> (n, H * W) uint8, (n,) int64."""
    if images.ndim != 3 or images.dtype != np.uint8:
        raise DatasetError(
            f"{name}: images must be uint8 of shape (n, height, width); got {images.dtype} {images.shape}."
        )
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise DatasetError(f"{name}: its labels must be integers of shape (n,); got {labels.dtype} {labels.shape}.")
    if len(images) != len(labels):
        raise DatasetError(
            f"{name}: images and labels must be as many; got {len(images)} images and {len(labels)} labels."
        )
    if transposed:
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    return images.reshape(len(images), images.shape[1] * images.shape[2]), labels.astype(np.int64)
