"""Images that are bent: training on other ones every epoch, and the jobs behind it for whoever has images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmnist.backends.base import Epoch, Executor, ReadingOrder
from fastmnist.backends.rows import StoredRows
from fastmnist.backends.windows import WindowedExecutor
from fastmnist.network.augmentation import Augment
from fastmnist.network.shapes import Shape

# Images of an epoch that are made at once: as many as fit. MNIST's bytes take 47 MB.
LARGEST_WINDOW = 64 << 20
BLOCK_ROWS = 256  # of NumPy's, which keeps a dozen arrays of the images' size
FIRST_ROWS = 1024  # bound before training begins: `explain` shows the program for them


def key_of(seed: int) -> np.ndarray:
    """The two words that a seed is for the random generator."""
    return np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32)


class ImageJobs:
    """Runs the jobs on images.

    Parameters
    ----------
    backend : {"numpy", "numba"}
    n_threads : int
        Of compiled code.
    image_shape : tuple (height, width, channels)
    """

    def __init__(self, backend: str, n_threads: int, image_shape: Shape) -> None:
        self._backend, self._n_threads, self._shape = backend, n_threads, image_shape

    def augment(
        self,
        images: np.ndarray,
        source: np.ndarray,
        rows: np.ndarray,
        numbers: np.ndarray,
        augment: Augment,
        key: np.ndarray,
        epoch: int,
    ) -> None:
        """Set `images[i]` to `source[rows[i]]`, changed by the random numbers of `numbers[i]` in that epoch.

        Parameters
        ----------
        images : ndarray of shape (n, features)
            Of the source's type: uint8 or float32; with NumPy also float64.
        source : ndarray of shape (n_source, features), C-contiguous
        rows, numbers : ndarray of shape (n,), int64
        augment : Augment
        key : ndarray of shape (2,), uint32
        epoch : int
        """
        height, width, _ = self._shape
        taps = augment.taps(height, width).astype(np.float64 if images.dtype == np.float64 else np.float32)
        params = augment.params | {"epoch": epoch}
        self._run(
            "augment_images",
            images,
            lambda lo, hi: (source, rows[lo:hi], numbers[lo:hi], key, taps),
            params,
            len(taps),
        )

    def deskew(self, images: np.ndarray, source: np.ndarray) -> None:
        """Set `images[i]` to `source[i]`, upright and in the middle."""
        self._run("deskew_images", images, lambda lo, hi: (source[lo:hi],), {}, 0)

    def _run(
        self,
        job: str,
        images: np.ndarray,
        inputs: Callable[[int, int], tuple[np.ndarray, ...]],
        params: dict[str, float],
        n_taps: int,
    ) -> None:
        params = dict(zip(("height", "width", "channels"), map(float, self._shape), strict=True)) | params
        if self._backend == "numpy":
            from fastmnist.kernels import reference

            function = getattr(reference, job)
            for lo in range(0, len(images), BLOCK_ROWS):
                hi = min(lo + BLOCK_ROWS, len(images))
                function(images[lo:hi], np.empty(0), *inputs(lo, hi), **params)
            return
        from fastmnist.backends.sharing import by_rows
        from fastmnist.kernels import cpu
        from fastmnist.kernels.contract import JOBS
        from fastmnist.kernels.cpu.layout import warp_scratch

        # Compiled, or loaded, before threads start: only the main thread keeps a Ctrl-C that arrives meanwhile.
        types = ("float32" if o.dtypes[0] == "float" else o.dtypes[0] for o in JOBS[job].operands)
        cpu.entry(job, tuple(images.dtype.name if dtype == "uint8" else dtype for dtype in types))

        def share(lo: int, hi: int) -> None:
            scratch = np.empty(warp_scratch(*self._shape, n_taps), np.float32)
            cpu.call(job, images[lo:hi], scratch, *inputs(lo, hi), **params)

        by_rows(len(images), self._n_threads, share)


class AugmentedExecutor(WindowedExecutor):
    """An executor that is given each row changed at random, anew every epoch; for the trainer it is like any other.

    The images of a window, for most data of a whole epoch, are made by all threads just before they are trained on, and bound like any data: their
    zeros are skipped where those of the originals would be. An image depends on the key, the epoch and the row's number alone.

    Parameters
    ----------
    executor : Executor
        Does the arithmetic; keeps parameters and optimizer.
    X : ndarray, C-contiguous of a dtype that the executor reads, or StoredRows
    y, sample_weight, pixel_scale, max_memory
        See `bind_rows`.
    augment : Augment
    image_shape : tuple (height, width, channels)
        Of the rows of X.
    """

    _largest_window = LARGEST_WINDOW
    _first_rows = FIRST_ROWS
    _memory_name = "memory"

    def __init__(
        self,
        executor: Executor,
        X: np.ndarray | StoredRows,
        y: np.ndarray,
        sample_weight: np.ndarray | None,
        *,
        pixel_scale: float,
        max_memory: int,
        augment: Augment,
        image_shape: Shape,
    ) -> None:
        self._source = None if isinstance(X, StoredRows) else X
        self._augment = augment
        self._jobs = ImageJobs(executor.backend, executor.n_threads, image_shape)
        self._images = np.empty((0, X.shape[1]), X.dtype)
        self.begin(0, 0)
        stored = StoredRows(X, X.dtype) if isinstance(X, np.ndarray) else X
        super().__init__(executor, stored, y, sample_weight, pixel_scale=pixel_scale, max_memory=max_memory)

    def begin(self, seed: int, epoch: int) -> None:
        """Say which random numbers come next.

        Parameters
        ----------
        seed : int
            From 0 to 2^64 - 1.
        epoch : int
            Number of the next epoch.
        """
        self._key, self._epoch = key_of(seed), epoch

    @property
    def reading_order(self) -> ReadingOrder | None:
        """See `Executor.reading_order`."""
        return super().reading_order if self._source is None else None

    @property
    def reason(self) -> str:
        """What happens to the rows, for people."""
        n = min(self._rows, len(self._X))
        made = f"{n:,} made at a time in {n * self._X.row_bytes:,} bytes of {self._memory_name}"
        return f"Every epoch trains on other images, {made}: {self._augment}."

    def _bind(self, rows: np.ndarray, full_batch: bool = False) -> None:
        """Attach some rows, ascending, to the executor: as this epoch has them."""
        self._attach(self._images_of(rows), rows)

    def _images_of(self, rows: np.ndarray) -> Any:
        """What the executor binds for some rows."""
        if len(rows) > len(self._images):
            self._images = np.empty((len(rows), self._X.shape[1]), self._X.dtype)
        images = self._images[: len(rows)]
        source, places = self._window(rows)
        self._jobs.augment(images, source, places, rows, self._augment, self._key, self._epoch)
        return images

    def _window(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An array that holds the rows, and where."""
        if self._source is not None:
            return self._source, rows
        return self._read(rows), np.arange(len(rows))

    def run_epoch(
        self,
        order: np.ndarray,
        learning_rates: np.ndarray,
        batch_size: int,
        *,
        seed: int = 0,
        run: Callable[..., Epoch] | None = None,
    ) -> Epoch:
        """See `WindowedExecutor.run_epoch`."""
        epoch = super().run_epoch(order, learning_rates, batch_size, seed=seed, run=run)
        self._epoch += 1
        return epoch
