"""Data sets: the bundled MNIST, IDX files, downloads of MNIST's relatives, and tables of the user's own.

Every bad input ends in a `DatasetError` that names the file, the rule, what was found and what to do.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np


class DatasetError(ValueError):
    """A file or an argument from which no data set can be made."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their labels.

    Attributes
    ----------
    data : ndarray of shape (n, n_features), uint8
    target : ndarray of shape (n,), int64
    name : str
    description : str
        What it is, who made it, under which licence.
    """

    data: np.ndarray
    target: np.ndarray
    name: str
    description: str


@dataclass(frozen=True, eq=False)
class Splits:
    """A table, in a part to train on and a part to test on.

    Attributes
    ----------
    X_train, X_test : ndarray of shape (n, n_features)
    y_train, y_test : ndarray of shape (n,)
        int64, or strings.
    source : str
        One line for people: where it came from and how it was split.
    """

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    source: str


# --- IDX --------------------------------------------------------------------------------------------------------------

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20  # bytes asked for at once: what a lying header can make us allocate beyond the real content
_MAX_RANK = 64  # NumPy's limit
_READ_ERRORS = (OSError, EOFError, zlib.error, zipfile.BadZipFile)


def read_idx(source: str | os.PathLike | IO[bytes]) -> np.ndarray:
    """Read an IDX file: the format of MNIST, any of its types, any rank, compressed with gzip or not.

    Whether it is compressed is seen from its content, not from its name. Memory grows with the content that is there,
    never with what the header claims.

    Parameters
    ----------
    source : path or binary file
        A file is read to its end and left open.

    Returns
    -------
    ndarray
        uint8, int8, int16, int32, float32 or float64, in the machine's byte order; a 0-d array for rank 0.

    Raises
    ------
    DatasetError
        Missing or unreadable file, wrong magic number, impossible sizes, less or more data than the header announces,
        or a damaged gzip stream.
    TypeError
        `source` is neither a path nor a binary file.

    References
    ----------
    "The IDX file format", at the foot of http://yann.lecun.com/exdb/mnist/: two zero bytes, a type, the rank, then
    each size as a big-endian 4-byte integer, then the values, big-endian, the last index fastest.
    """
    if isinstance(source, (str, os.PathLike)):
        try:
            with open(source, "rb") as file:
                return _read_idx_stream(file, os.fspath(source))
        except OSError as error:
            raise _unreadable(source, error) from error
    if not isinstance(source, io.IOBase) or isinstance(source, io.TextIOBase):
        raise TypeError(
            f"read_idx: source must be a path or a file opened in binary mode; got {type(source).__name__}."
        )
    name = str(getattr(source, "name", "<file>"))
    if hasattr(source, "peek"):
        return _read_idx_stream(source, name)
    buffered = io.BufferedReader(source)  # type: ignore[type-var]  # adds peek
    try:
        return _read_idx_stream(buffered, name)
    finally:
        buffered.detach()  # the caller's file stays open


def _read_idx_stream(stream: Any, name: str) -> np.ndarray:
    """`stream` has `read` and `peek`."""
    try:
        if stream.peek(2)[:2] == _GZIP_MAGIC:
            with gzip.GzipFile(fileobj=stream, mode="rb") as unzipped:
                return _parse_idx(unzipped.read, name)
        return _parse_idx(stream.read, name)
    except _READ_ERRORS as error:
        raise DatasetError(f"{name}: damaged or truncated: {error}. Get a fresh copy of the file.") from error


def _parse_idx(read: Callable[[int], bytes], name: str) -> np.ndarray:
    magic = bytes(_read_up_to(read, 4))
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_DTYPES:
        raise DatasetError(
            f"{name}: not an IDX file: it must begin with 00 00, a type (08 09 0b 0c 0d 0e) and the rank; got "
            f"{magic.hex(' ') or 'an empty file'}. Is it the right file?"
        )
    dtype, rank = np.dtype(_IDX_DTYPES[magic[2]]), magic[3]
    if rank > _MAX_RANK:
        raise DatasetError(
            f"{name}: the rank must be at most {_MAX_RANK}; the header says {rank}. Get a fresh copy of the file."
        )
    header = bytes(_read_up_to(read, 4 * rank))
    if len(header) < 4 * rank:
        raise DatasetError(
            f"{name}: truncated: the header of an IDX file of rank {rank} has {4 + 4 * rank} bytes; got "
            f"{4 + len(header)}. Get a fresh copy of the file."
        )
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    if math.prod(size for size in shape if size) * dtype.itemsize > np.iinfo(np.intp).max:
        raise DatasetError(
            f"{name}: no array can have the shape {shape} that the header claims. Get a fresh copy of the file."
        )
    n_bytes = math.prod(shape) * dtype.itemsize
    content = _read_up_to(read, n_bytes + 1)  # one more than there should be, to see what follows
    if len(content) < n_bytes:
        raise DatasetError(
            f"{name}: truncated: shape {shape} of {dtype.name} needs {n_bytes} bytes of data; got {len(content)}. "
            "Get a fresh copy of the file."
        )
    if len(content) > n_bytes:
        raise DatasetError(
            f"{name}: too long: shape {shape} of {dtype.name} needs exactly {n_bytes} bytes of data, and more follow. "
            "Get a fresh copy of the file."
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_up_to(read: Callable[[int], bytes], n_bytes: int) -> bytearray:
    """Read `n_bytes`, or what is left; a writable buffer that has grown with the content."""
    content = bytearray()
    while len(content) < n_bytes and (chunk := read(min(_CHUNK, n_bytes - len(content)))):
        content += chunk
    return content


def _unreadable(path: str | os.PathLike, error: OSError) -> DatasetError:
    return DatasetError(
        f"{os.fspath(path)}: can't be read: {error.strerror or error}. Check the path and the permissions."
    )


# --- MNIST, bundled ---------------------------------------------------------------------------------------------------

_BUNDLED = Path(__file__).parent / "data"
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
    prefixes = _prefixes("load_mnist", "split", split)
    sums: dict[str, str] = {}
    for line in _read_bundled("SHA256SUMS").decode().splitlines():
        digest, name = line.split()
        sums[name] = digest

    def open_verified(name: str) -> IO[bytes]:
        content = _read_bundled(name)
        if hashlib.sha256(content).hexdigest() != sums.get(name):
            raise DatasetError(f"{_BUNDLED / name}: its SHA-256 is not the one in SHA256SUMS. {_REINSTALL}")
        return io.BytesIO(content)

    return _assemble(open_verified, prefixes, f"mnist ({split})", _MNIST_DESCRIPTION, return_X_y)


def _read_bundled(name: str) -> bytes:
    try:
        return (_BUNDLED / name).read_bytes()
    except OSError as error:
        raise DatasetError(f"{_BUNDLED / name}: can't be read: {error.strerror or error}. {_REINSTALL}") from error


def _prefixes(function: str, parameter: str, value: str) -> tuple[str, ...]:
    if value not in _PREFIXES:
        raise DatasetError(f"{function}: {parameter} must be one of {tuple(_PREFIXES)}; got {value!r}.")
    return _PREFIXES[value]


def _assemble(
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


# --- MNIST's relatives, downloaded ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remote:
    """Where a data set lies, and what its files must hash to.

    Attributes
    ----------
    url : str
        Folder of the files.
    sha256 : mapping of str to str
        By file name.
    description : str
    """

    url: str
    sha256: Mapping[str, str]
    description: str


# The checksums are those of TensorFlow Datasets, https://github.com/tensorflow/datasets,
# tensorflow_datasets/url_checksums/{fashion_mnist,kmnist,emnist}.txt; the addresses are torchvision's,
# https://github.com/pytorch/vision, torchvision/datasets/mnist.py. Two of the hosts are asked over plain HTTP: what
# arrives is trusted for its checksum, not for the way it came.
REMOTES: dict[str, Remote] = {
    "fashion_mnist": Remote(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        "Fashion-MNIST: Zalando's articles in 10 classes, 28 x 28; 60,000 + 10,000. Xiao, Rasul & Vollgraf 2017; "
        "MIT licence. https://github.com/zalandoresearch/fashion-mnist",
    ),
    "kmnist": Remote(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
        {
            "train-images-idx3-ubyte.gz": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "train-labels-idx1-ubyte.gz": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "t10k-images-idx3-ubyte.gz": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "t10k-labels-idx1-ubyte.gz": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        },
        "Kuzushiji-MNIST: 10 characters of cursive Japanese, 28 x 28; 60,000 + 10,000. Clanuwat et al. 2018; "
        "CC BY-SA 4.0. https://github.com/rois-codh/kmnist",
    ),
    "emnist": Remote(
        "https://biometrics.nist.gov/cs_links/EMNIST",
        {"gzip.zip": "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"},
        "EMNIST: handwritten digits and letters of NIST Special Database 19, 28 x 28. Cohen, Afshar, Tapson & "
        "van Schaik 2017. https://www.nist.gov/itl/products-and-services/emnist-dataset",
    ),
}
EMNIST_SPLITS = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")


def fetch_fashion_mnist(
    split: str = "train",
    *,
    return_X_y: bool = False,
    base_url: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset | tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), downloaded once and then read from the cache folder.

    Parameters
    ----------
    split : {"train", "test", "all"}, default="train"
    return_X_y : bool, default=False
        Return `(data, target)` instead of a `Dataset`.
    base_url : str or None, default=None
        A mirror: an address that has the files of the same names. The checksums hold for it too.
    cache_dir : path or None, default=None
        Where downloads are kept. None takes the environment variable FASTMNIST_DATA, or else the user's cache folder.

    Returns
    -------
    Dataset, or tuple of ndarrays
        Pixels uint8 (n, 784) with n = 60,000, 10,000 or 70,000, and labels int64 (n,).

    Raises
    ------
    ImportError
        pooch is not installed.
    DatasetError
        Unknown split; no connection; the server does not have the file; what it sent has the wrong checksum (it is
        then discarded); the cache folder can't be written.
    """
    return _fetch_idx_pairs("fashion_mnist", split, return_X_y, base_url, cache_dir)


def fetch_kmnist(
    split: str = "train",
    *,
    return_X_y: bool = False,
    base_url: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset | tuple[np.ndarray, np.ndarray]:
    """Kuzushiji-MNIST (Clanuwat et al. 2018), downloaded once and then read from the cache folder.

    Parameters, result and errors are those of `fetch_fashion_mnist`.
    """
    return _fetch_idx_pairs("kmnist", split, return_X_y, base_url, cache_dir)


def fetch_emnist(
    split: str = "balanced",
    part: str = "train",
    *,
    return_X_y: bool = False,
    base_url: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset | tuple[np.ndarray, np.ndarray]:
    """EMNIST (Cohen et al. 2017), downloaded once and then read from the cache folder.

    One archive of 562 MB has all its splits. The files hold every image with its axes exchanged; here they come
    upright, as in MNIST.

    Parameters
    ----------
    split : {"balanced", "byclass", "bymerge", "digits", "letters", "mnist"}, default="balanced"
        Which of the published data sets. Labels are as published: those of "letters" run from 1 (a) to 26 (z).
    part : {"train", "test", "all"}, default="train"
    return_X_y, base_url, cache_dir
        As for `fetch_fashion_mnist`.

    Returns
    -------
    Dataset, or tuple of ndarrays
        Pixels uint8 (n, 784) and labels int64 (n,).

    Raises
    ------
    ImportError, DatasetError
        As for `fetch_fashion_mnist`.
    """
    if split not in EMNIST_SPLITS:
        raise DatasetError(f"fetch_emnist: split must be one of {EMNIST_SPLITS}; got {split!r}.")
    prefixes = [
        f"gzip/emnist-{split}-{'train' if prefix == 'train' else 'test'}"
        for prefix in _prefixes("fetch_emnist", "part", part)
    ]
    path = _download("emnist", "gzip.zip", base_url, cache_dir)
    try:
        with zipfile.ZipFile(path) as archive:
            description = REMOTES["emnist"].description
            return _assemble(
                archive.open, prefixes, f"emnist {split} ({part})", description, return_X_y, transposed=True
            )
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise DatasetError(f"{path}: not EMNIST's archive: {error}. Delete the file and fetch it again.") from error


def _fetch_idx_pairs(
    name: str, split: str, return_X_y: bool, base_url: str | None, cache_dir: str | os.PathLike | None
) -> Dataset | tuple[np.ndarray, np.ndarray]:
    prefixes = _prefixes(f"fetch_{name}", "split", split)

    def open_downloaded(filename: str) -> IO[bytes]:
        return open(_download(name, filename, base_url, cache_dir), "rb")

    return _assemble(open_downloaded, prefixes, f"{name} ({split})", REMOTES[name].description, return_X_y)


def _download(name: str, filename: str, base_url: str | None, cache_dir: str | os.PathLike | None) -> Path:
    """The verified file's path in the cache. pooch moves a download there only if its checksum is right."""
    try:
        import pooch
        import requests.exceptions as failures  # pooch's own dependency
    except ImportError as error:
        raise ImportError("Downloading data sets needs pooch. Install it: pip install fastmnist[datasets]") from error

    url = f"{(base_url or REMOTES[name].url).rstrip('/')}/{filename}"
    if not url.startswith(("http://", "https://")):
        raise DatasetError(f"fetch_{name}: base_url must begin with http:// or https://; got {base_url!r}.")
    folder = Path(cache_dir or os.environ.get("FASTMNIST_DATA") or pooch.os_cache("fastmnist")) / name
    digest = REMOTES[name].sha256[filename]
    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{digest}", fname=filename, path=folder))
    except failures.HTTPError as error:
        raise DatasetError(
            f"{url}: the server refused: {error}. Pass base_url= with a mirror that has the file."
        ) from error
    except (failures.ConnectionError, failures.Timeout) as error:
        raise DatasetError(
            f"{url}: could not be reached: {error}. Check the connection, pass base_url= with a mirror, or put the "
            f"file into {folder}."
        ) from error
    except failures.RequestException as error:
        raise DatasetError(f"{url}: the download broke off: {error}. Try again.") from error
    except ValueError as error:  # pooch's word for a wrong checksum
        raise DatasetError(
            f"{url}: what arrived is not the published file (its SHA-256 is not {digest}) and was discarded. Try "
            "again, or pass base_url= with another mirror."
        ) from error
    except OSError as error:
        raise DatasetError(
            f"{folder}: the download can't be stored: {error.strerror or error}. Set FASTMNIST_DATA to a folder "
            "that can be written."
        ) from error


# --- tables of the user's own -----------------------------------------------------------------------------------------

_NPZ_PAIRS = (("x", "y"), ("data", "target"), ("images", "labels"))
_LABEL_COLUMNS = ("label", "class", "target")  # taken when no label column is named
_CSV_ROWS = 4096  # rows converted at once: bounds the float64 copy of a table of bytes
_IDX_ROLE = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
Table = tuple[np.ndarray, np.ndarray]


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
        ".csv": lambda file: (_read_csv(file, label_column), None),
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
        raise _unreadable(path, error) from error
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


def _read_csv(path: Path, label_column: str | None) -> Table:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
            label_index = _find_label_column(path, header, label_column)
            return _read_csv_rows(path, file, header, label_index)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not text in UTF-8: {error}. Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DatasetError(f"{path}: not a readable CSV file: {error}. Save it as CSV, with commas.") from error


def _find_label_column(path: Path, header: list[str], label_column: str | None) -> int:
    if not any(header):
        raise DatasetError(f"{path}: the first line must name the columns, separated by commas; it is empty.")
    shown = ", ".join(header[:10]) + (f", ... ({len(header)} in all)" if len(header) > 10 else "")
    candidates = _LABEL_COLUMNS if label_column is None else (label_column,)
    matches = [i for i, name in enumerate(header) if name in candidates]
    if len(matches) == 1:
        return matches[0]
    hint = " The first line looks like data: it must name the columns." if all(map(_is_number, header)) else ""
    if label_column is None:
        raise DatasetError(
            f"{path}: name the column of labels with label_column: there is not exactly one called "
            f"{', '.join(_LABEL_COLUMNS)}. Columns: {shown}.{hint}"
        )
    raise DatasetError(
        f"{path}: label_column must name exactly one column; {label_column!r} names {len(matches) or 'none'}. "
        f"Columns: {shown}.{hint}"
    )


def _read_csv_rows(path: Path, file: Iterable[str], header: list[str], label_index: int) -> Table:
    codes: dict[str, int] = {}  # by label, in order of appearance: so the table is all numbers, and read in one pass

    def encode(cell: str) -> int:
        if _is_missing(cell):
            raise ValueError(f"missing label {cell!r}")
        return codes.setdefault(cell.strip(), len(codes))

    features, labels = [], []
    lines = (line for line in file if line.strip())
    while chunk := list(itertools.islice(lines, _CSV_ROWS)):
        try:
            rows = np.loadtxt(
                chunk, delimiter=",", quotechar='"', comments=None, converters={label_index: encode}, ndmin=2
            )
        except ValueError as error:
            _explain_csv(path, header, label_index, error)
        if rows.shape != (len(chunk), len(header)) or not np.isfinite(rows).all():
            _explain_csv(path, header, label_index, ValueError(f"{len(chunk)} lines gave rows of shape {rows.shape}"))
        labels.append(rows[:, label_index].astype(np.intp))
        values = np.delete(rows, label_index, axis=1)
        small = values.astype(np.uint8) if values.size and values.min() >= 0 and values.max() <= 255 else None
        features.append(small if small is not None and np.array_equal(small, values) else values)
    if not features:
        raise DatasetError(f"{path}: at least one row must follow the header; there is none.")
    return np.concatenate(features), _decode_labels(list(codes))[np.concatenate(labels)]


def _decode_labels(names: list[str]) -> np.ndarray:
    """Numbers if all of them are (whether they can be labels, `_check_labels` says), else the words themselves."""
    return np.array([float(name) for name in names]) if all(map(_is_number, names)) else np.array(names)


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in ("", "nan")


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _explain_csv(path: Path, header: list[str], label_index: int, error: ValueError) -> NoReturn:
    """Find the first bad cell again, slowly, to say where it is."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        for row in reader:
            if not "".join(row).strip() and len(row) <= 1:
                continue  # a blank line
            if len(row) != len(header):
                raise DatasetError(
                    f"{path}: line {reader.line_num} must have {len(header)} cells, as the header; got {len(row)}."
                ) from error
            for index, cell in enumerate(row):
                if index == label_index and _is_missing(cell):
                    raise DatasetError(
                        f"{path}: line {reader.line_num}, column {header[index]!r}: the label is missing; got "
                        f"{cell!r}. Drop the row or fill it in."
                    ) from error
                if index != label_index and not _is_number(cell):
                    raise DatasetError(
                        f"{path}: line {reader.line_num}, column {header[index]!r}: every feature must be a finite "
                        f"number; got {cell!r}. Drop, fill or encode it first."
                    ) from error
    raise DatasetError(
        f"{path}: not a table of numbers: {error}. Save it as CSV, with commas, one line a row."
    ) from error
