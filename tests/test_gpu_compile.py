"""The CUDA sources compile for every supported device, without spilling and within a table of what they may take; no GPU is needed."""

import csv
import os
import re
from functools import cache, partial
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
# Devices that get the same PTX: the front end, half of the work, runs for the oldest of them that gets kernels.
FAMILIES = (("sm_70",), ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a"), ("sm_100",), ("sm_120",))
WHEELS = {12: "nvidia-cuda-nvrtc-cu12", 13: "nvidia-cuda-nvrtc"}
MOST_SHARED = 48 << 10  # bytes a block may have on every device without asking for more
REGISTERS, ALLOCATION = 64 << 10, 8  # of a multiprocessor; a thread's are allocated in eights

TABLE = Path(__file__).parent / "gpu_resources.csv"


def library(cuda):
    file = nvrtc.find(cuda)
    if file is None:
        problem = f"needs NVIDIA's compiler for CUDA {cuda}. Run: pip install {WHEELS[cuda]}"
        assert not os.environ.get("FASTMNIST_REQUIRE_CUSIM"), problem  # continuous integration must not skip this
        pytest.skip(problem)
    return file


@cache
def compiler(cuda):
    return nvrtc.Nvrtc(library(cuda))


@cache
def ptx(file, architecture):
    return compiler(ARCHITECTURES[architecture]).ptx(source(file), architecture)


def compiled(file, architecture):
    """What its kernels take, by NVRTC alone, as on a user's machine."""
    return compiler(ARCHITECTURES[architecture]).compile(source(file), architecture)[1]


def assembled(file, family, architecture):
    """Likewise from the family's PTX."""
    alike = [a for a in family if has_kernels(file, a) == has_kernels(file, architecture)]
    return nvrtc.assemble(nvrtc.find_assembler(), ptx(file, alike[0]), architecture)


def usage(file, family, architecture):
    front_end, assembler = library(ARCHITECTURES[architecture]), nvrtc.find_assembler()
    if len(family) == 1 or assembler is None:
        return nvrtc.remembered(partial(compiled, file, architecture), (front_end,), source(file), architecture)
    make = partial(assembled, file, family, architecture)
    return nvrtc.remembered(make, (front_end, assembler), source(file), architecture)


@cache
def table():
    with TABLE.open(encoding="utf-8") as lines:
        return {row["kernel"]: (int(row["registers"]), int(row["shared"])) for row in csv.DictReader(lines)}


def has_kernels(file, architecture):
    least = LEAST_COMPUTE_CAPABILITY.get(file, (0, 0))
    return int(architecture[3:].rstrip("a")) >= 10 * least[0] + least[1]


# The longest first: so two processes that share the tests end together.
LONGEST = ("tensor_matmul", "tensor_convolution", "persistent", "convolution", "matmul")
BY_LENGTH = sorted(FILES, key=lambda file: LONGEST.index(file) if file in LONGEST else len(LONGEST))


@pytest.mark.timeout(1200)  # half a minute for the longest, six devices; on a machine with other work much more
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family[0])
@pytest.mark.parametrize("file", BY_LENGTH)
def test_compiles_within_the_table(file, family):
    problems = []
    for architecture in family:
        used = usage(file, family, architecture)
        assert set(used) == (set(kernels(file)) if has_kernels(file, architecture) else set()), architecture
        for kernel, use in used.items():
            registers, shared = table().get(kernel, (0, 0))
            if use.spilled:
                problems.append(f"{architecture}: {kernel} spills {use.spilled} bytes")
            if use.registers > registers or use.shared != shared:
                rounded = -(-use.registers // ALLOCATION) * ALLOCATION
                row = f"{kernel},{rounded},{use.shared} is not within {kernel},{registers},{shared}"
                problems.append(f"{architecture}: {row}")
    assert not problems, f"see {TABLE.name}:\n" + "\n".join(problems)


def same_as_by_nvrtc(file, family, architecture):
    if nvrtc.find_assembler() is None:
        pytest.skip("needs NVIDIA's assembler. Run: pip install nvidia-cuda-nvcc")
    assert assembled(file, family, architecture) == compiled(file, architecture)


def test_devices_of_a_family_share_their_ptx():
    """By the quickest file with sums; all of them: below."""
    family = FAMILIES[1]
    bodies = {re.sub(rb"^\.target .*", b"", ptx("losses", a), flags=re.MULTILINE) for a in family}
    assert len(bodies) == 1
    same_as_by_nvrtc("losses", family, "sm_90a")


@pytest.mark.long
@pytest.mark.parametrize("architecture", FAMILIES[1])
@pytest.mark.parametrize("file", BY_LENGTH)
def test_all_devices_of_a_family_share_their_ptx(file, architecture):
    same_as_by_nvrtc(file, FAMILIES[1], architecture)


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
