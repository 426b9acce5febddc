"""Training on images that are changed at random on the GPU: the originals are uploaded once, and each epoch's images are made of them there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastmnist.backends.device_rows import DeviceLabels, DeviceRows
from fastmnist.backends.gpu_device import Buffer
from fastmnist.backends.gpu_memory import Bound, reserve
from fastmnist.backends.gpu_recording import run_job
from fastmnist.backends.recording import active
from fastmnist.backends.rows import StoredRows
from fastmnist.backends.warping import AugmentedExecutor
from fastmnist.kernels.gpu import Array, warping
from fastmnist.network.augmentation import Augment
from fastmnist.network.shapes import Shape

if TYPE_CHECKING:
    from fastmnist.backends.gpu import CupyExecutor


class DeviceAugmentedExecutor(AugmentedExecutor):
    """As `AugmentedExecutor`, in the same windows and with the same random numbers: one launch makes the images of a window.

    The steps behind it read them like any data: by graphs, or all in one launch.

    Parameters
    ----------
    executor : CupyExecutor
    X : ndarray, StoredRows or DeviceRows
        Stored rows are read and uploaded window by window, others as a whole.
    y, sample_weight, pixel_scale, max_memory, augment, image_shape
        See `AugmentedExecutor`.

    Raises
    ------
    BackendUnavailable
        No memory for them.
    """

    _memory_name = "the GPU's memory"

    def __init__(
        self,
        executor: CupyExecutor,
        X: np.ndarray | StoredRows | DeviceRows,
        y: np.ndarray | DeviceLabels,
        sample_weight: np.ndarray | None,
        *,
        pixel_scale: float,
        max_memory: int,
        augment: Augment,
        image_shape: Shape,
    ) -> None:
        self._device, self._shape = executor.device, image_shape
        self.judge = executor.judge  # on rows as they are
        self._own = Bound(self._device)
        self._own.put(taps=augment.taps(*image_shape[:2]).astype(np.float32))
        if isinstance(X, DeviceRows):
            self._own.adopt("source", X.array, X)
        elif not isinstance(X, StoredRows):
            self._own.put(source=X)
        self._made: Buffer | None = None
        self._there: np.ndarray | None = None  # rows whose originals, numbers, labels and weights are on the device
        self._recorder = active()
        super().__init__(
            executor,
            X,  # type: ignore[arg-type]  # rows on the device are read there
            np.asarray(y),
            sample_weight,
            pixel_scale=pixel_scale,
            max_memory=max_memory,
            augment=augment,
            image_shape=image_shape,
        )

    def _bind(self, rows: np.ndarray, full_batch: bool = False) -> None:
        """As the base's; where an epoch is one window, all but its images stays as the epoch before left it."""
        there = self._there is not None and np.array_equal(rows, self._there)
        if not there:
            self._there = None
            self._put(rows)
        images: Any = self._images_of(rows)
        if not there:
            self._attach(images, rows)
            self._there = rows.copy()

    def _put(self, rows: np.ndarray) -> None:
        self._own.put(numbers=rows)
        if self._source is None:
            self._own.put(source=self._read(rows), places=np.arange(len(rows)))

    def _images_of(self, rows: np.ndarray) -> DeviceRows:
        if self._made is None:
            self._reserve()
        assert self._made is not None
        shape = len(rows), self._X.shape[1]
        images = Array(self._made.address, shape, shape[1], self._X.dtype.name)
        self._own.put(key=self._key)
        arrays = self._own.arrays
        places = arrays["places" if self._source is None else "numbers"]
        operands = images, arrays["scratch"], arrays["source"], places, arrays["numbers"], arrays["key"], arrays["taps"]
        params = dict(zip(("height", "width", "channels"), map(float, self._shape), strict=True)) | self._augment.params
        launches = warping.augment_images(self._device.facts, *operands, epoch=self._epoch, **params)
        if self._recorder is None:
            self._device.run(launches)
        else:
            run_job(self._recorder, self._device, "augment_images", operands, launches, "images")
        return DeviceRows(self._device, images, self._made, (0.0, 0.0))

    def _reserve(self) -> None:
        """Memory for the images of the largest window, and what the kernel works with."""
        n, height, width = min(self._rows, len(self._X)), *self._shape[:2]
        scratch = warping.scratch_size(self._device.facts, n, height, width, self._own.arrays["taps"].shape[0])
        self._made = reserve(self._device, {"augmented images": n * self._X.row_bytes})
        memory = reserve(self._device, {"noise of elastic distortion": 4 * scratch})
        self._own.adopt("scratch", Array(memory.address, (scratch,), 1, "float32"), memory)
