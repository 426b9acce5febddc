"""Tables of the user's own: .npz, a folder of IDX files, MATLAB's .mat, .csv; split in a part to train on and one to test on."""

from __future__ import annotations

import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastmnist.datasets.csv_files import Table, read_csv
from fastmnist.datasets.dataset import DatasetError, Splits
from fastmnist.datasets.idx import read_idx, unreadable

_NPZ_PAIRS = (("x", "y"), ("data", "target"), ("images", "labels"))
_IDX_ROLE = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")


def load_table(
    path: str | os.PathLike, *, label_column: str | None = None, test_size: float = 0.2, seed: int = 0
) -> Splits:
    """Load a labelled table from a file or folder, in a part to train on and a part to test on.

    Parameters
    ----------
    path : path
        What it is decides how it is read:

        - `.npz` with `x_train, y_train, x_test, y_test` (Keras' mnist.npz), or without a test part `x_train, y_train`,
          `X, y`, `data, target` or `images, labels` (upper or lower case);
        - a folder with IDX files named as MNIST's: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, and
          `t10k-...` for the test part, gzipped or not;
        - `.csv` with a header line, commas, one numeric column per feature and one column of labels (numbers or words);
        - `.mat` laid out as mnist-original: `data` (n_features, n), `label` (1, n).

        Images are flattened to one row each. A table whose values are all integers within 0..255 becomes uint8.
        Nothing pickled is ever loaded.
    label_column : str or None, default=None
        CSV only: the column of labels. None takes the one called label, class or target.
    test_size : float, default=0.2
        Part of the rows, 0 < test_size < 1, that is set aside for the test if the data have no test part of their own.
    seed : int, default=0
        Of that split, which keeps the proportions of the classes; rows keep their order.

    Returns
    -------
    Splits

    Raises
    ------
    DatasetError
        Missing file, unknown kind of file, missing arrays or columns, a cell that is no number, NaN or infinity,
        lengths that do not match, nothing in it, or a parameter outside its range.
    """
    if isinstance(test_size, bool) or not isinstance(test_size, (int, float)) or not (0 < test_size < 1):
        raise DatasetError(
            f"test_size must be a number with 0 < test_size < 1 (the part of the rows to test on); got {test_size!r}."
        )
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DatasetError(f"seed must be an integer >= 0; got {seed!r}.")
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder. Check the path.")
    extension = ".idx folder" if path.is_dir() else path.suffix.lower()
    readers: dict[str, Callable[[Path], tuple[Table, Table | None]]] = {
        ".npz": _read_npz,
        ".idx folder": _read_idx_folder,
        ".mat": _read_mat,
        ".csv": lambda file: (read_csv(file, label_column), None),
    }
    if extension not in readers:
        raise DatasetError(
            f"{path}: the data must be .npz, .csv, .mat or a folder of IDX files; got "
            f"{path.suffix or 'no extension'!r}."
        )
    if label_column is not None and extension != ".csv":
        raise DatasetError(f"{path}: label_column is for CSV files only; got {label_column!r}. Leave it out.")
    try:
        train, test = readers[extension](path)
    except OSError as error:
        raise unreadable(path, error) from error
    return _to_splits(path, train, test, float(test_size), int(seed))


def _to_splits(path: Path, train: Table, test: Table | None, test_size: float, seed: int) -> Splits:
    X_train, y_train = _check_table(*train, f"{path}, training part" if test else str(path))
    if test is None:
        X, y = _shrink(X_train)[0], y_train
        if len(X) < 2:
            raise DatasetError(f"{path}: at least 2 rows are needed to split off a test part; got {len(X)}.")
        in_test = _split_mask(y, test_size, seed)
        source = (
            f"{path}: {np.sum(~in_test)} rows to train on, {np.sum(in_test)} to test on, split with "
            f"test_size={test_size:g} and seed={seed}"
        )
        return Splits(X[~in_test], y[~in_test], X[in_test], y[in_test], source)
    X_test, y_test = _check_table(*test, f"{path}, test part")
    if X_train.shape[1] != X_test.shape[1]:
        raise DatasetError(
            f"{path}: both parts must have as many features; got {X_train.shape[1]} to train on and "
            f"{X_test.shape[1]} to test on."
        )
    if y_train.dtype.kind != y_test.dtype.kind:
        raise DatasetError(
            f"{path}: labels of both parts must be of one kind; got {y_train.dtype} to train on and {y_test.dtype} "
            "to test on."
        )
    X_train, X_test = _shrink(X_train, X_test)
    source = f"{path}: {len(X_train)} rows to train on, {len(X_test)} to test on, as the data are divided"
    return Splits(X_train, y_train, X_test, y_test, source)


def _check_table(X: np.ndarray, y: np.ndarray, name: str) -> Table:
    """Flatten images to rows, labels to one dimension; refuse what can't be learnt from."""
    if X.dtype.kind not in "buif":
        raise DatasetError(f"{name}: features must be numbers; got dtype {X.dtype}.")
    if X.ndim < 2:
        raise DatasetError(
            f"{name}: features must have at least 2 dimensions, (rows, features) or (images, height, width); got "
            f"shape {X.shape}."
        )
    if X.size == 0:
        raise DatasetError(f"{name}: it must have at least one row and one feature; got shape {X.shape}.")
    y = y.ravel() if y.ndim and y.size == max(y.shape) else y  # (n, 1) and (1, n) are one column
    if y.ndim != 1:
        raise DatasetError(
            f"{name}: labels must be one a row, of shape (n,); got shape {y.shape}. One-hot labels: take "
            "argmax(axis=1)."
        )
    if len(X) != len(y):
        raise DatasetError(f"{name}: features and labels must have as many rows; got {len(X)} and {len(y)}.")
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        row = int(np.argmin(np.isfinite(X).reshape(len(X), -1).all(axis=1)))
        raise DatasetError(
            f"{name}: features must be finite; row {row} (counted from 0) has NaN or infinity. Drop or fill it first."
        )
    if X.dtype.kind == "b":
        X = X.astype(np.float32)  # 0 and 1 as they are; as uint8 they would count as pixels of 255 levels
    return X.reshape(len(X), -1), _check_labels(y, name)


def _check_labels(y: np.ndarray, name: str) -> np.ndarray:
    """int64, or strings."""
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.rint(y)) & (np.abs(y) < 2**53)  # beyond 2**53 floats skip integers
        if not whole.all():
            raise DatasetError(
                f"{name}: labels must be whole numbers or words; got {y[~whole][0]}. Classes are expected, not "
                "measurements."
            )
        return y.astype(np.int64)
    if y.dtype.kind in "bui":
        return y.astype(np.int64)
    if y.dtype.kind == "S":
        return np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind == "U":
        return y
    raise DatasetError(f"{name}: labels must be whole numbers or words; got dtype {y.dtype}.")


def _shrink(*parts: np.ndarray) -> list[np.ndarray]:
    """Integers that all fit become uint8 in every part: pixels are then treated alike, whatever file they came from."""
    fits = all(part.dtype.kind in "ui" and part.min() >= 0 and part.max() <= 255 for part in parts)
    return [part.astype(np.uint8, copy=False) if fits else part for part in parts]


def _split_mask(y: np.ndarray, test_size: float, seed: int) -> np.ndarray:
    """Which rows go to the test part: ceil(test_size n) of them, as scikit-learn rounds, at most n - 1.

    Systematic sampling of the shuffled rows sorted by class: each class is represented within one row of its share.
    The smaller part is drawn, so that a class of two rows is not used up by it.
    """
    n = len(y)
    n_test = min(math.ceil(test_size * n), n - 1)
    n_drawn = min(n_test, n - n_test)
    shuffled = np.random.default_rng(seed).permutation(n)
    by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
    drawn = np.zeros(n, dtype=bool)
    drawn[by_class[((np.arange(n_drawn) + 0.5) * n / n_drawn).astype(np.intp)]] = True
    return drawn if n_drawn == n_test else ~drawn


def _pick_npz_arrays(path: Path, archive: np.lib.npyio.NpzFile) -> tuple[Table, Table | None]:
    names = {name.lower(): name for name in archive.files}

    def pair(features: str, labels: str) -> Table | None:
        missing = [name for name in (features, labels) if name not in names]
        if len(missing) == 1:
            raise DatasetError(
                f"{path}: {features!r} and {labels!r} go together; {missing[0]!r} is missing. It has {archive.files}."
            )
        return None if missing else (np.asarray(archive[names[features]]), np.asarray(archive[names[labels]]))

    train, test = pair("x_train", "y_train"), pair("x_test", "y_test")
    if train:
        return train, test
    for features, labels in _NPZ_PAIRS:
        if whole := pair(features, labels):
            return whole, None
    known = ", or ".join(f"{features} and {labels}" for features, labels in (("x_train", "y_train"), *_NPZ_PAIRS))
    raise DatasetError(f"{path}: it must have the arrays {known}; it has {archive.files}.")


def _read_npz(path: Path) -> tuple[Table, Table | None]:
    try:
        if not zipfile.is_zipfile(path):
            raise DatasetError(f"{path}: not an .npz archive. Save the arrays with np.savez(path, X=X, y=y).")
        with np.load(path, allow_pickle=False) as archive:
            return _pick_npz_arrays(path, archive)
    except DatasetError:
        raise
    except (ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        reason = "it holds Python objects, which are never loaded" if "allow_pickle" in str(error) else f"{error}"
        raise DatasetError(
            f"{path}: not a readable .npz of plain arrays: {reason}. Save it with np.savez(path, X=X, y=y)."
        ) from error


def _read_idx_folder(path: Path) -> tuple[Table, Table | None]:
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(path.iterdir()):  # name before name.gz: the unpacked one of two twins is read
        if match := _IDX_ROLE.fullmatch(file.name):
            role = (match[1], match[2])
            if role in found and file.name != f"{found[role].name}.gz":
                raise DatasetError(
                    f"{path}: {found[role].name} and {file.name} claim the same part. Leave one of them."
                )
            found.setdefault(role, file)

    def pair(prefix: str) -> Table | None:
        files = [found.get((prefix, kind)) for kind in ("images", "labels")]
        if files == [None, None]:
            return None
        if None in files:
            kind = ("images", "labels")[files.index(None)]
            raise DatasetError(
                f"{path}: {prefix} images and labels go together; there is no {prefix}-{kind}-idx?-ubyte(.gz)."
            )
        return read_idx(files[0]), read_idx(files[1])  # type: ignore[arg-type]

    train, test = pair("train"), pair("t10k")
    if train is None:
        names = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise DatasetError(
            f"{path}: a folder must hold train-images-idx3-ubyte and train-labels-idx1-ubyte, with .gz or without "
            f"(and t10k-... for the test part); it holds {names}."
        )
    return train, test


def _read_mat(path: Path) -> tuple[Table, Table | None]:
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("data", "label"))
    except NotImplementedError as error:
        raise DatasetError(
            f"{path}: MATLAB 7.3 files are not read. Save it in MATLAB with save(..., '-v7')."
        ) from error
    except Exception as error:  # scipy's parser meets damaged bytes with errors of many types
        raise DatasetError(f"{path}: not a readable .mat file: {error}. Get a fresh copy of the file.") from error
    missing = [name for name in ("data", "label") if not isinstance(content.get(name), np.ndarray)]
    if missing:
        raise DatasetError(
            f"{path}: it must have the arrays data (n_features, n) and label (1, n); {' and '.join(missing)} not found."
        )
    data, label = content["data"], content["label"]
    if data.ndim != 2 or data.shape[1] != label.size:
        raise DatasetError(
            f"{path}: data must be (n_features, n) and label (1, n), as in mnist-original; got {data.shape} and "
            f"{label.shape}."
        )
    return (np.ascontiguousarray(data.T), label), None
