"""The CUDA sources compile for every supported device, without spilling and within a table of what they may take; no GPU is needed."""

import csv
import os
from functools import cache
from pathlib import Path

import nvrtc
import pytest

from fastmnist.kernels.gpu import FILES, convolution, matmul, source, tiles
from fastmnist.kernels.gpu.source import LEAST_COMPUTE_CAPABILITY, kernels

# Which CUDA serves which devices: 13 dropped Volta (sm_70).
ARCHITECTURES = {
    "sm_70": 12,
    **dict.fromkeys(("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120"), 13),
}
WHEELS = {12: "nvidia-cuda-nvrtc-cu12", 13: "nvidia-cuda-nvrtc"}
MOST_SHARED = 48 << 10  # bytes a block may have on every device without asking for more
REGISTERS, ALLOCATION = 64 << 10, 8  # of a multiprocessor; a thread's are allocated in eights

TABLE = Path(__file__).parent / "gpu_resources.csv"


@cache
def compiler(cuda):
    library = nvrtc.find(cuda)
    if library is None:
        problem = f"needs NVIDIA's compiler for CUDA {cuda}. Run: pip install {WHEELS[cuda]}"
        assert not os.environ.get("FASTMNIST_REQUIRE_CUSIM"), problem  # continuous integration must not skip this
        pytest.skip(problem)
    return nvrtc.Nvrtc(library)


@cache
def usage(file, architecture):
    return compiler(ARCHITECTURES[architecture]).compile(source(file), architecture)[1]


@cache
def table():
    with TABLE.open(encoding="utf-8") as lines:
        return {row["kernel"]: (int(row["registers"]), int(row["shared"])) for row in csv.DictReader(lines)}


# Files that take 6 to 13 seconds of a processor for each device, with the devices for which they are always compiled: the oldest that gets kernels
# and the newest; one that gets none; and Hopper where sums are in float32. All devices would take 220 seconds more, 80 if only to PTX: the others
# are `make test-long`'s. Nothing in them depends on the device.
SLOW = {
    "convolution": ("sm_70", "sm_90", "sm_120"),
    "tensor_matmul": ("sm_75", "sm_80", "sm_120"),
    "tensor_convolution": ("sm_75", "sm_80", "sm_120"),
    "persistent": ("sm_70", "sm_90", "sm_120"),
}


def has_kernels(file, architecture):
    least = LEAST_COMPUTE_CAPABILITY.get(file, (0, 0))
    return int(architecture[3:].rstrip("a")) >= 10 * least[0] + least[1]


def both(file, architecture):
    seldom = architecture not in SLOW.get(file, ARCHITECTURES)
    return pytest.param(file, architecture, marks=pytest.mark.long if seldom else ())


@pytest.mark.parametrize(("file", "architecture"), [both(f, a) for a in ARCHITECTURES for f in FILES])
def test_compiles_within_the_table(file, architecture):
    used = usage(file, architecture)
    assert set(used) == (set(kernels(file)) if has_kernels(file, architecture) else set())
    problems = []
    for kernel, use in used.items():
        registers, shared = table().get(kernel, (0, 0))
        if use.spilled:
            problems.append(f"{kernel} spills {use.spilled} bytes")
        if use.registers > registers or use.shared != shared:
            rounded = -(-use.registers // ALLOCATION) * ALLOCATION
            problems.append(f"{kernel},{rounded},{use.shared} is not within {kernel},{registers},{shared}")
    assert not problems, f"see {TABLE.name}; {architecture}:\n" + "\n".join(problems)


def test_table_names_the_kernels_and_no_others():
    assert set(table()) == {kernel for file in FILES for kernel in kernels(file)}


def test_every_block_fits_on_every_device():
    dynamic = {}
    for precision in tiles.PRECISIONS:
        for tile in tiles.in_precision(matmul.TILES, precision):
            dynamic |= {f"gemm_{layout}_{tile.name}_kernel": tile for layout in ("nn", "nt", "tn")}
        updated = (tile for tile in tiles.in_precision(matmul.TILES, precision) if not tile.name.startswith("large"))
        dynamic |= {f"update_{tile.name}_kernel": tile for tile in updated}
        for op, shapes in (
            ("", convolution.IMAGE_TILES),
            ("_dx", convolution.IMAGE_TILES),
            ("_dw", convolution.FILTER_TILES),
        ):
            dynamic |= {f"conv2d{op}_{tile.name}_kernel": tile for tile in tiles.in_precision(shapes, precision)}
    assert set(dynamic) <= set(table())
    for kernel, (registers, shared) in table().items():
        tile = dynamic.get(kernel)
        threads = tile.threads if tile else 256
        assert registers * threads <= REGISTERS, kernel
        assert shared + (tile.shared if tile else 0) <= MOST_SHARED, kernel


def test_what_does_not_compile_is_reported():
    with pytest.raises(
        nvrtc.NvrtcError, match=r"sm_90: kernels.cu\(1\): error: identifier .nothing_of_this_name. is undefined"
    ):
        compiler(13).compile("__global__ void k(float* y) { y[0] = nothing_of_this_name; }", "sm_90")


def test_spills_are_reported():
    source_ = """extern "C" __global__ void __launch_bounds__(1024, 2) k(float* y) {
      float v[64];
      for (int i = 0; i < 64; ++i) v[i] = y[i * threadIdx.x];
      __syncthreads();
      for (int i = 0; i < 64; ++i) for (int j = 0; j < 64; ++j) y[i + j * threadIdx.x] += v[i] * v[j];
    }"""
    assert compiler(13).compile(source_, "sm_90")[1]["k"].spilled > 0
