"""X and y that are not the host's: DLPack tensors and arrays on a GPU, checked and taken over where a user hands them in."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from fastmnist import backends
from fastmnist.backends.device_rows import DeviceClasses, DeviceRows, download, find_classes, survey

if TYPE_CHECKING:
    from fastmnist.backends.gpu_device import Device, Foreign

# DLDeviceType of dlpack.h: memory that the processor can read, and that of CUDA devices.
_HOST, _CUDA = (1, 3), (2, 13)
_ROW_DTYPES = ("uint8", "float32")
DEVICE_INDEX = 0  # the one that `open_device` opens


def on_device(array: Any) -> bool:
    """Whether something offers itself as an array on a CUDA device; what it is is not looked at."""
    return _cuda_index(array) is not None


def _cuda_index(array: Any) -> int | None:
    """Number of the CUDA device that an array lies on, as far as it tells (else 0); None for everything else.

    Raises
    ------
    ValueError
        It lies on a device of another kind.
    """
    if isinstance(array, DeviceRows):
        return DEVICE_INDEX
    if isinstance(array, np.ndarray) or scipy.sparse.issparse(array):
        return None
    if hasattr(array, "__dlpack_device__"):
        kind, index = map(int, array.__dlpack_device__())
        if kind in _CUDA:
            return index
        if kind not in _HOST:
            raise ValueError(
                f"Arrays must lie in the host's memory or on a CUDA device; got {_name(array)} on a device of DLPack's type {kind}. Copy it "
                "to the host first."
            )
        return None
    return 0 if hasattr(array, "__cuda_array_interface__") else None


def on_host(array: Any) -> Any:
    """A DLPack tensor in the host's memory as a NumPy array that shares it; everything else as it is.

    Raises
    ------
    ValueError
        The tensor cannot be shared: the message has the owner's reason.
    """
    plain = isinstance(array, (np.ndarray, np.generic)) or scipy.sparse.issparse(array)
    if plain or not hasattr(array, "__dlpack__") or on_device(array):
        return array
    try:
        return np.from_dlpack(array)
    except Exception as problem:  # each library has exceptions of its own
        raise ValueError(
            f"{_name(array)} cannot be read through DLPack: {problem} Pass a NumPy array; of PyTorch's tensors X.detach().float().numpy()."
        ) from problem


def require_gpu(backend: str, array: Any, *, model: str = "") -> None:
    """Refuse an array on a device where something else is to compute.

    Parameters
    ----------
    backend : str
        The estimator's parameter.
    array : object
        For the message.
    model : str, default=""
        Of an estimator that has no GPU code.

    Raises
    ------
    ValueError
        The message says how to go on.
    BackendUnavailable
        The GPU cannot be used.
    """
    wanted = (os.environ.get(backends.DEFAULT_VARIABLE) or backend) if backend == "auto" else backend
    fetch = "pass it to the host with X.get() (CuPy) or X.cpu() (PyTorch)"
    if model:
        raise ValueError(f"{_name(array)} lies on the GPU, and {model} runs on the CPU only: {fetch}.")
    if wanted not in ("auto", "cupy"):
        raise ValueError(
            f"{_name(array)} lies on the GPU, and backend={wanted!r} computes on the CPU: {fetch}, or set backend='cupy'."
        )
    backends.require("cupy")


def open_device() -> Device:
    """The GPU."""
    from fastmnist.backends.gpu import open_device as opened

    return opened()


def take_rows(array: Any, name: str = "X") -> tuple[DeviceRows, tuple[int, int, int] | None]:
    """X on the device; of images (n, height, width[, channels]) also what a row is.

    Raises
    ------
    ValueError
        Of another device, type, layout or shape than kernels read, or with values that are no finite numbers.
    """
    from fastmnist.backends.gpu_device import Foreign

    device, foreign = _take(array, name)
    if foreign.dtype not in _ROW_DTYPES:
        raise ValueError(
            f"{name} on the GPU must be uint8 or float32; got {foreign.dtype}. Convert it there, as with {name}.astype('float32')."
        )
    if len(foreign.shape) not in (2, 3, 4):
        raise ValueError(
            f"Expected 2D array: {name} must have one row a sample, (n_samples, n_features); got shape {foreign.shape}. Reshape it."
        )
    n, *rest = foreign.shape
    features = math.prod(rest)
    if n == 0 or features == 0:
        raise ValueError(
            f"Found array with {n} sample(s) and {features} feature(s) (shape={foreign.shape}) while a minimum of 1 of each is required."
        )
    flat = Foreign(foreign.address, (n, features), foreign.dtype, True, foreign.index, foreign.owner)
    least, largest, bad = survey(device, flat.array)
    if bad:
        raise ValueError(f"Input {name} contains NaN or infinity: {bad} values. Replace or drop them.")
    height, width, channels = (*rest, 1, 1)[:3]
    shape = None if len(rest) == 1 else (height, width, channels)
    return DeviceRows(device, flat.array, foreign.owner, (least, largest)), shape


def take_labels(array: Any, name: str = "y") -> DeviceClasses | np.ndarray:
    """Class labels on the device; those that cannot be told apart there (not small integers) are downloaded.

    Raises
    ------
    ValueError
        Of another device, layout or shape.
    """
    device, foreign = _take(array, name)
    if len(foreign.shape) != 1:
        raise ValueError(f"{name} must be a 1d array of class labels; got an array of shape {foreign.shape}.")
    if foreign.dtype in ("uint8", "int32", "int64"):
        classes = find_classes(device, foreign)
        if classes is not None:
            return DeviceClasses(device, foreign, classes)
    return download(device, foreign)


def to_host(array: Any, name: str = "y") -> Any:
    """A vector as scikit-learn takes it, wherever it lies."""
    return download(*_take(array, name)) if on_device(array) else on_host(array)


def _take(array: Any, name: str) -> tuple[Device, Foreign]:
    index = _cuda_index(array)
    foreign = None
    if index in (None, DEVICE_INDEX):
        device = open_device()
        try:
            foreign = device.take(array)
        except Exception as problem:  # each library has exceptions of its own
            raise ValueError(
                f"{name} ({_name(array)}) cannot be shared with CuPy: {problem} Of PyTorch's tensors pass {name}.detach()."
            ) from problem
        index = foreign.index
    if foreign is None or index != DEVICE_INDEX:
        raise ValueError(
            f"{name} lies on CUDA device {index}; this process computes on device {DEVICE_INDEX}. Copy it there, or start the process with "
            f"CUDA_VISIBLE_DEVICES={index}."
        )
    if not foreign.contiguous:
        raise ValueError(
            f"{name} on the GPU must be C-contiguous; got an array of shape {foreign.shape} with other strides. Pass "
            f"cupy.ascontiguousarray({name}), or {name}.contiguous() of PyTorch."
        )
    return device, foreign


def _name(array: Any) -> str:
    return f"{type(array).__module__.partition('.')[0]}.{type(array).__name__}"
