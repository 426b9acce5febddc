"""Rows and labels that another library (CuPy, PyTorch, JAX, Numba) has put on the GPU: read where they lie, never copied through the host.

Estimators ask of any X whether it is of these; the code that runs a GPU is imported by what does so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastmnist.backends.gpu_device import Device, Foreign
    from fastmnist.backends.gpu_memory import Bound
    from fastmnist.kernels.gpu import Array


class DeviceRows:
    """A C-contiguous matrix of uint8 or float32 on the device, or some of its rows.

    Parameters
    ----------
    device : Device
    array : Array
        The whole matrix.
    owner : object
        Kept as long as this object: the memory is its.
    limits : tuple of float
        The smallest and the largest value.
    rows : ndarray of int64, optional
        Those rows, in that order; None: all.
    """

    def __init__(
        self,
        device: Device,
        array: Array,
        owner: object,
        limits: tuple[float, float],
        rows: np.ndarray | None = None,
    ) -> None:
        self.array = array
        self._device, self._owner, self._limits, self._rows = device, owner, limits, rows
        self.shape = (array.shape[0] if rows is None else len(rows), array.shape[1])
        self.dtype = np.dtype(array.dtype)
        self.ndim = 2
        self.is_mapped = False

    @property
    def row_bytes(self) -> int:
        """Of a row."""
        return self.shape[1] * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Of all rows."""
        return len(self) * self.row_bytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> DeviceRows:
        """Some of the rows; nothing is moved."""
        numbers = self.numbers(slice(0, len(self)))[rows]
        return DeviceRows(self._device, self.array, self._owner, self._limits, numbers)

    def numbers(self, rows: slice) -> np.ndarray:
        """Which rows of the matrix these are."""
        return np.arange(rows.start, rows.stop) if self._rows is None else self._rows[rows]

    def min(self) -> float:
        """The smallest value of the whole matrix."""
        return self._limits[0]

    def max(self) -> float:
        """The largest value of the whole matrix."""
        return self._limits[1]

    def dense(self) -> np.ndarray:
        """Download the rows: for a sample of them."""
        from fastmnist.backends.gpu_memory import Bound
        from fastmnist.kernels.gpu import launches

        bound, picked = Bound(self._device), np.empty(self.shape, np.float32)
        bound.put(x=picked, order=self.numbers(slice(0, len(self))), cursor=np.zeros(2, np.int64))
        operands = [bound.arrays["x"], self.array, bound.arrays["order"], bound.arrays["cursor"]]
        self._device.run(launches("gather_rows", self._device.facts, operands, [1.0]))
        bound.get("x", picked)
        return picked.astype(self.dtype)  # bytes are exact in float32


class DeviceLabels:
    """Labels as kernels read them, int32 on the device.

    Parameters
    ----------
    bound : Bound
        Has them under the name "labels".
    """

    def __init__(self, bound: Bound) -> None:
        self.array = bound.arrays["labels"]
        self._bound = bound
        self.shape = self.array.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        host = np.empty(self.shape, np.int32)
        self._bound.get("labels", host)
        return host if dtype is None else host.astype(dtype)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some of them, downloaded."""
        return np.asarray(self)[rows]


class DeviceClasses:
    """A vector of class labels on the device, integers from 0 to 4095.

    Parameters
    ----------
    device : Device
    foreign : Foreign
        Of one of `judging.LABEL_DTYPES`.
    classes : ndarray
        Those that occur, ascending.
    """

    def __init__(self, device: Device, foreign: Foreign, classes: np.ndarray) -> None:
        self._device, self._foreign, self.classes = device, foreign, classes
        self.shape, self.dtype = foreign.shape, np.dtype(foreign.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        host = download(self._device, self._foreign)
        return host if dtype is None else host.astype(dtype)

    def encoded(self, outputs: dict[int, int]) -> DeviceLabels:
        """The label that each class has; -1 for a class that is not named."""
        from fastmnist.backends.gpu_memory import Bound
        from fastmnist.kernels.gpu import judging

        table, bound = np.full(judging.MOST_CLASSES, -1, np.int32), Bound(self._device)
        for label, output in outputs.items():
            table[label] = output
        bound.put(output_of=table, labels=np.zeros(self.shape, np.int32))
        arrays = bound.arrays
        self._device.run(
            judging.encode_labels(self._device.facts, arrays["labels"], self._foreign.array, arrays["output_of"])
        )
        return DeviceLabels(bound)


class DeviceIndices:
    """Labels on the device as indices of known classes: downloaded only where they are looked at."""

    def __init__(self, labels: DeviceClasses, classes: np.ndarray) -> None:
        self.labels, self._classes = labels, classes

    def __len__(self) -> int:
        return len(self.labels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        host = np.searchsorted(self._classes, np.asarray(self.labels))
        return host if dtype is None else host.astype(dtype)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some of them, downloaded."""
        return np.asarray(self)[rows]


def survey(device: Device, array: Array) -> tuple[float, float, int]:
    """Smallest and largest value, and how many are no finite numbers, of a contiguous array of uint8 or float32."""
    from fastmnist.backends.gpu_memory import Bound
    from fastmnist.kernels.gpu import judging

    parts, bound = np.empty((judging.SURVEYORS, judging.FACTS)), Bound(device)
    bound.put(parts=parts)
    device.run(judging.survey(bound.arrays["parts"], array))
    bound.get("parts", parts)
    return -float(parts[:, 0].max()), float(parts[:, 1].max()), int(parts[:, 2].sum())


def find_classes(device: Device, foreign: Foreign) -> np.ndarray | None:
    """The classes of a vector of integers, by one transfer of 16 KB; None where one is not between 0 and 4095."""
    from fastmnist.backends.gpu_memory import Bound
    from fastmnist.kernels.gpu import judging

    present, bound = np.zeros(judging.MOST_CLASSES + 1, np.int32), Bound(device)
    bound.put(present=present)
    device.run(judging.find_classes(device.facts, bound.arrays["present"], foreign.array))
    bound.get("present", present)
    found = np.flatnonzero(present[:-1])
    return None if present[-1] else found.astype(foreign.dtype)


def download(device: Device, foreign: Foreign) -> np.ndarray:
    """All of a contiguous array, on the host."""
    host = np.empty(foreign.shape, foreign.dtype)
    if host.nbytes:
        device.download(host, foreign.address)
    return host
