"""MNIST's relatives, downloaded once and verified by their published checksums."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fastmnist.datasets.dataset import Dataset, DatasetError
from fastmnist.datasets.mnist import file_prefixes, join_files


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
        for prefix in file_prefixes("fetch_emnist", "part", part)
    ]
    path = _download("emnist", "gzip.zip", base_url, cache_dir)
    try:
        with zipfile.ZipFile(path) as archive:
            description = REMOTES["emnist"].description
            return join_files(
                archive.open, prefixes, f"emnist {split} ({part})", description, return_X_y, transposed=True
            )
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise DatasetError(f"{path}: not EMNIST's archive: {error}. Delete the file and fetch it again.") from error


def _fetch_idx_pairs(
    name: str, split: str, return_X_y: bool, base_url: str | None, cache_dir: str | os.PathLike | None
) -> Dataset | tuple[np.ndarray, np.ndarray]:
    prefixes = file_prefixes(f"fetch_{name}", "split", split)

    def open_downloaded(filename: str) -> IO[bytes]:
        return open(_download(name, filename, base_url, cache_dir), "rb")

    return join_files(open_downloaded, prefixes, f"{name} ({split})", REMOTES[name].description, return_X_y)


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
