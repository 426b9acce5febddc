"""IDX files: the format of MNIST."""

from __future__ import annotations

import gzip
import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from fastmnist.datasets.dataset import DatasetError

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
            raise unreadable(source, error) from error
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


def unreadable(path: str | os.PathLike, error: OSError) -> DatasetError:
    """The error to raise for a file that the operating system refuses."""
    return DatasetError(
        f"{os.fspath(path)}: can't be read: {error.strerror or error}. Check the path and the permissions."
    )
