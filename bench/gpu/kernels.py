"""Kernels on a GPU, each verified, then timed: products against cuBLAS, streams against a copy, augmented images, and the ladder of the product.

`python bench/gpu/kernels.py --out FOLDER` writes kernels.csv. cuBLAS computes in float32 as ours does: CuPy leaves TF32 off.
In TF32 and bf16 cuBLAS is called through torch, where that is installed; for bf16 it then reads factors of 16 bits, ours of 32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cupy
import numpy as np
from timing import facts, show, spread, time_calls, time_launches, torch_runs, write

from fastmnist.backends.gpu import open_device
from fastmnist.backends.gpu_device import CupyDevice
from fastmnist.backends.gpu_probe import probe
from fastmnist.backends.warping import ImageJobs, key_of
from fastmnist.kernels.contract import CONTRACT
from fastmnist.kernels.gpu import Array, launches, warping
from fastmnist.network.augmentation import FOR_DIGITS, Augment

LADDER = Path(__file__).resolve().parents[1] / "ladder" / "gpu"
PRODUCTS = [(n, n, n) for n in (1024, 2048, 4096, 8192)] + [(32, 784, 128), (1024, 784, 128), (4096, 784, 512)]
STREAMS = {
    "relu": (1 << 16, 1024),
    "adam": (1 << 14, 4096),
    "softmax_cross_entropy": (1 << 22, 10),
    "gather_rows": (1 << 17, 784),
}
TENSOR_PRODUCTS = [(n, n, n) for n in (1024, 4096, 8192)] + [(1024, 784, 128), (4096, 784, 512)]
UNITS = {"tf32": 2.0**-10, "bf16": 2.0**-7}  # of the error of a product: two factors, half a last bit each
COPY_BYTES = 1 << 29
AUGMENTED = 60_000  # images of 28 x 28
RUNGS = {"1_naive": (16, 16), "2_shared_tile": (32, 32), "3_register_tile": (128, 128), "4_vectors": (128, 128)}


class Memory:
    """Device arrays with random content, kept alive together."""

    def __init__(self, device: CupyDevice) -> None:
        self._device, self._buffers, self._rng = device, [], np.random.default_rng(0)

    def put(self, array: np.ndarray) -> Array:
        """Upload."""
        buffer = self._device.allocate(array.nbytes)
        self._device.upload(buffer.address, array)
        self._buffers.append(buffer)
        return Array(buffer.address, array.shape, array.shape[1] if array.ndim == 2 else 1, array.dtype.name)

    def random(self, *shape: int) -> Array:
        """Normal numbers."""
        return self.put(self._rng.standard_normal(shape, dtype=np.float32))

    def get(self, array: Array) -> np.ndarray:
        """Download."""
        result = np.empty(array.shape, array.dtype)
        self._device.download(result, array.address)
        return result


def assert_product(got: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """A sample of rows against float64: a wrong kernel can't print a number."""
    rows = np.unique(np.linspace(0, len(a) - 1, 16).astype(int))
    exact = a[rows].astype(np.float64) @ b
    error, numpys = np.abs(got[rows] - exact).max(), np.abs(a[rows] @ b - exact).max()
    assert error <= 8 * numpys + 1e-6, f"off by {error:.3g}, NumPy's float32 by {numpys:.3g}"


def cublas_loads(device: CupyDevice) -> bool:
    """Whether cuBLAS is here: CuPy is installed without it, and loads it when it is first asked for a product."""
    try:
        with device.stream:
            cupy.matmul(cupy.ones((2, 2), np.float32), cupy.ones((2, 2), np.float32))
    except (ImportError, OSError, RuntimeError) as error:
        print(f"without cuBLAS: {error}")
        return False
    return True


def products(device: CupyDevice, peers: bool) -> list[dict[str, object]]:
    """`linear` without anything but a bias of zeros, beside cuBLAS."""
    rows = []
    for m, k, n in PRODUCTS:
        memory = Memory(device)
        y, x, w, bias = (
            memory.random(m, n),
            memory.random(m, k),
            memory.random(k, n),
            memory.put(np.zeros(n, np.float32)),
        )
        plan = launches("linear", device.facts, [y, x, w, bias], [])
        device.run(plan)
        assert_product(memory.get(y), memory.get(x), memory.get(w))
        seconds, iqr = spread(time_launches(device, plan))
        row = {
            "kernel": plan[0].kernel,
            "shape": f"{m}x{k}x{n}",
            "us": seconds * 1e6,
            "iqr_us": iqr * 1e6,
            "tflops": 2e-12 * m * k * n / seconds,
        }
        if peers:
            with device.stream:
                a, b, c = (cupy.asarray(memory.get(v)) for v in (x, w, y))
                peer, _ = spread(time_calls(device, lambda a=a, b=b, c=c: cupy.matmul(a, b, out=c)))
            row |= {"cublas_us": peer * 1e6, "of_cublas": peer / seconds}
        rows.append(row)
    return rows


def assert_tensor_product(got: np.ndarray, a: np.ndarray, b: np.ndarray, unit: float) -> None:
    """A sample of rows against float64, within the rounding of the factors; and their rounding shows, or it ran in float32."""
    rows = np.unique(np.linspace(0, len(a) - 1, 16).astype(int))
    exact = a[rows].astype(np.float64) @ b
    error = np.abs(got[rows] - exact) / (np.abs(a[rows]) @ np.abs(b))
    assert 1e-3 * unit < error.max() <= 1.01 * unit, f"off by {error.max():.3g} of the terms, budget {unit:.3g}"


def tensor_products(device: CupyDevice, peers: bool) -> list[dict[str, object]]:
    """`linear` on tensor cores, beside cuBLAS through torch; the target is 80 % of it at 4096."""
    rows = []
    with_torch = peers and torch_runs()
    for precision, unit in UNITS.items():
        facts_ = replace(device.facts, precision=precision)
        for m, k, n in TENSOR_PRODUCTS:
            memory = Memory(device)
            y, x, w, bias = memory.random(m, n), memory.random(m, k), memory.random(k, n), memory.random(n)
            device.upload(bias.address, np.zeros(n, np.float32))
            plan = launches("linear", facts_, [y, x, w, bias], [])
            device.run(plan)
            assert_tensor_product(memory.get(y), memory.get(x), memory.get(w), unit)
            seconds, iqr = spread(time_launches(device, plan))
            row: dict[str, object] = {
                "kernel": plan[0].kernel,
                "shape": f"{m}x{k}x{n}",
                "us": seconds * 1e6,
                "iqr_us": iqr * 1e6,
                "tflops": 2e-12 * m * k * n / seconds,
            }
            if with_torch:
                call = torch_product(device, precision, memory.get(x), memory.get(w))
                peer, _ = spread(time_calls(device, call))
                row |= {"cublas_us": peer * 1e6, "of_cublas": peer / seconds}
            rows.append(row)
    return rows


def torch_product(device: CupyDevice, precision: str, a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    """A product by cuBLAS, on our stream."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.from_numpy(matrix).to("cuda", dtype) for matrix in (a, b))
    result = torch.empty(len(a), b.shape[1], dtype=dtype, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.ExternalStream(device.stream.ptr)

    def call() -> None:
        with torch.cuda.stream(stream):
            torch.matmul(left, right, out=result)

    return call


def streams(device: CupyDevice) -> list[dict[str, object]]:
    """Bandwidth-bound ops on tensors larger than any level-2 cache, beside a copy."""
    nbytes = COPY_BYTES
    source, target = device.allocate(nbytes), device.allocate(nbytes)
    runtime = cupy.cuda.runtime

    def copy() -> None:
        runtime.memcpyAsync(target.address, source.address, nbytes, runtime.memcpyDeviceToDevice, device.stream.ptr)

    copy_seconds, _ = spread(time_calls(device, copy))
    rate = 2 * nbytes / copy_seconds
    rows: list[dict[str, object]] = [
        {"kernel": "copy", "shape": f"{nbytes} bytes", "us": copy_seconds * 1e6, "gbs": rate * 1e-9}
    ]
    for op, (n, width) in STREAMS.items():
        memory = Memory(device)
        plan = launches(op, device.facts, *_stream_operands(op, n, width, memory))
        device.run(plan)
        seconds, iqr = spread(time_launches(device, plan, copies=3))
        dims = dict.fromkeys(CONTRACT[op].dims, n) | dict(zip(("I", "O", "C", "Q"), (width,) * 4, strict=True))
        moved = CONTRACT[op].nbytes(dims) / seconds
        rows.append(
            {
                "kernel": plan[0].kernel,
                "shape": f"{n}x{width}",
                "us": seconds * 1e6,
                "iqr_us": iqr * 1e6,
                "gbs": moved * 1e-9,
                "of_copy": moved / rate,
            }
        )
    return rows


def _stream_operands(op: str, n: int, width: int, memory: Memory) -> tuple[list[Array], list[float]]:
    rng, cursor = np.random.default_rng(0), np.zeros(2, np.int64)
    order = rng.permutation(n)
    if op == "relu":
        return [memory.random(n, width), memory.random(n, width)], []
    if op == "adam":
        hyper = np.array([[1e-3, 0, 0]], np.float32)
        moments = [memory.random(n, width), memory.random(n, width), memory.put(np.ones((n, width), np.float32))]
        return [*moments, memory.random(n, width), memory.put(hyper), memory.put(cursor)], [0.9, 0.999, 1e-8]
    if op == "gather_rows":
        pixels = rng.integers(0, 256, (n, width), dtype=np.uint8)
        return [memory.random(n, width), memory.put(pixels), memory.put(order), memory.put(cursor)], [1 / 255]
    labels, ones = rng.integers(0, width, n).astype(np.int32), np.ones(n, np.float32)
    outs = [memory.random(n, width), memory.put(ones), memory.put(np.zeros(n, np.uint8))]
    ins = [memory.random(n, width), *map(memory.put, (labels, ones, order, np.ones(1, np.float32), cursor))]
    return [*outs, *ins], [0.0]


def augmented(device: CupyDevice) -> list[dict[str, object]]:
    """The images of an epoch."""
    rng, rows, key, shape = np.random.default_rng(0), [], key_of(0), (28, 28, 1)
    source, numbers = rng.integers(0, 256, (AUGMENTED, 784), dtype=np.uint8), np.arange(AUGMENTED)
    for name, augment in (("affine", FOR_DIGITS), ("elastic", Augment(elastic_alpha=34))):
        memory, taps = Memory(device), augment.taps(28, 28).astype(np.float32)
        room = np.zeros(warping.scratch_size(device.facts, AUGMENTED, 28, 28, len(taps)), np.float32)
        images, *others = map(memory.put, (np.zeros_like(source), room, source, numbers, numbers, key, taps))
        params = dict(zip(("height", "width", "channels"), shape, strict=True)) | augment.params
        plan = warping.augment_images(device.facts, images, *others, epoch=0, **params)
        device.run(plan)
        few = np.zeros_like(source[:64])
        ImageJobs("numpy", 1, shape).augment(few, source, numbers[:64], numbers[:64], augment, key, 0)
        difference = np.abs(memory.get(images)[: len(few)].astype(int) - few)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3, "not the oracle's images"
        seconds, iqr = spread(time_launches(device, plan, copies=3))
        shape_ = f"{AUGMENTED}x784 {name}"
        rows.append({"kernel": plan[0].kernel, "shape": shape_, "us": seconds * 1e6, "iqr_us": iqr * 1e6})
    return rows


def ladder(device: CupyDevice, n: int = 4096) -> list[dict[str, object]]:
    """The rungs of bench/ladder/gpu on a square product."""
    rows = []
    for rung, (tile_rows, tile_columns) in RUNGS.items():
        memory = Memory(device)
        c, a, b = (memory.random(n, n) for _ in range(3))
        kernel = cupy.RawModule(
            code=(LADDER / f"{rung}.cu").read_text(encoding="utf-8"), options=("-std=c++17",)
        ).get_function("sgemm")
        block = (tile_columns, tile_rows) if tile_rows < 128 else (256,)
        grid = (-(-n // tile_columns), -(-n // tile_rows))
        arguments = (*(np.uint64(v.address) for v in (c, a, b)), *(np.int32(n),) * 3)
        with device.stream:
            run = lambda kernel=kernel, grid=grid, block=block, arguments=arguments: kernel(grid, block, arguments)  # noqa: E731
            run()
            assert_product(memory.get(c), memory.get(a), memory.get(b))
            seconds, iqr = spread(time_calls(device, run, rounds=7))
        rate = 2e-12 * n**3 / seconds
        rows.append(
            {
                "kernel": f"ladder {rung}",
                "shape": f"{n}x{n}x{n}",
                "us": seconds * 1e6,
                "iqr_us": iqr * 1e6,
                "tflops": rate,
            }
        )
    return rows


def main() -> None:
    """Everything, into a CSV file; what was measured before the time was up is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--no-peers", action="store_true", help="without cuBLAS")
    options = parser.parse_args()
    device, peers = open_device(), not options.no_peers
    parts = [partial(products, device, peers and cublas_loads(device)), partial(streams, device)]
    if "tf32" in probe().precisions:
        parts.append(partial(tensor_products, device, peers))
    rows: list[dict[str, object]] = []
    for part in (*parts, partial(augmented, device), partial(ladder, device)):
        rows += part()
        write(options.out / "kernels.csv", [row | facts(device) for row in rows])
    show(rows, ("kernel", "shape", "us", "tflops", "of_cublas", "gbs", "of_copy"))


if __name__ == "__main__":
    main()
