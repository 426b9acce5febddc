"""Every way in which a GPU can be unusable, played by a fake CUDA driver library; no GPU is needed."""

import os
import shutil
import subprocess
import sys

import pytest

from fastmnist.backends.gpu_probe import GpuStatus, probe

FAKE_DRIVER = r"""
#include <stdlib.h>
#include <string.h>
static int env(const char *name, int otherwise) { const char *s = getenv(name); return s ? atoi(s) : otherwise; }
int cuInit(unsigned flags) { (void)flags; return env("FAKE_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = env("FAKE_DRIVER", 13000); return 0; }
int cuDeviceGetCount(int *count) { *count = env("FAKE_COUNT", 1); return env("FAKE_COUNT_ERROR", 0); }
int cuDeviceGet(int *device, int index) { *device = index; return env("FAKE_GET", 0); }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    int capability = env("FAKE_CC", 90);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
    return 0;
}
int cuDeviceGetName(char *name, int size, int device) { (void)device; strncpy(name, "Fake GPU", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device; *bytes = (size_t)env("FAKE_MIB", 1024) << 20; return 0;
}
"""


@pytest.fixture(scope="session")
def compile_library(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to build a fake driver library")
    folder = tmp_path_factory.mktemp("libcuda")

    def compile_(name: str, source: str) -> str:
        (folder / f"{name}.c").write_text(source)
        library = folder / f"{name}.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / f"{name}.c"], check=True)
        return str(library)

    return compile_


@pytest.fixture(scope="session")
def fake_driver(compile_library):
    return compile_library("driver", FAKE_DRIVER)


@pytest.fixture
def cupy(tmp_path, monkeypatch):
    """Install fake distributions of CuPy, whose import would fail: the probe must not import it."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(*distributions: str) -> None:
        (tmp_path / "cupy").mkdir(exist_ok=True)
        (tmp_path / "cupy" / "__init__.py").write_text("raise AssertionError('cupy was imported')")
        for name in distributions:
            info = tmp_path / f"{name.replace('-', '_')}-14.2.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 14.2.0\n")

    yield install
    assert "cupy" not in sys.modules


def ask(library: str, monkeypatch, /, index: int = 0, **answers: int) -> GpuStatus:
    for name, value in answers.items():
        monkeypatch.setenv(f"FAKE_{name.upper()}", str(value))
    return probe(index, library=library)


def test_usable(fake_driver, monkeypatch, cupy):
    cupy("cupy-cuda13x")
    status = ask(fake_driver, monkeypatch)
    assert status == GpuStatus(
        code="ok",
        usable=True,
        name="Fake GPU",
        compute_capability=(9, 0),
        memory=1 << 30,
        driver_cuda=(13, 0),
        device_count=1,
        cupy="cupy-cuda13x 14.2.0",
    )
    assert (
        status.summary == "GPU: Fake GPU, compute capability 9.0, 1.0 GiB, driver for CUDA 13.0, cupy-cuda13x 14.2.0, "
        "precisions float32 tf32 bf16."
    )


@pytest.mark.parametrize(
    ("error", "code", "advice"),
    [
        (2, "no-memory", "Free GPU memory"),
        (3, "forked", "'spawn'"),
        (34, "stub-library", "stubs"),
        (35, "old-driver", "Update the NVIDIA driver"),
        (46, "busy", "nvidia-smi"),
        (100, "no-device", "CUDA_VISIBLE_DEVICES"),
        (304, "no-permission", "/dev/nvidia"),
        (800, "no-permission", "/dev/nvidia"),
        (802, "not-ready", "systemctl start nvidia-fabricmanager"),
        (803, "driver-mismatch", "Reboot"),
        (804, "compat-unsupported", "cuda-compat"),
        (999, "driver-error", "Run nvidia-smi"),
    ],
)
def test_each_error_of_the_driver_has_its_code_and_advice(fake_driver, monkeypatch, error, code, advice):
    status = ask(fake_driver, monkeypatch, init=error)
    assert (status.usable, status.code) == (False, code)
    assert f"cuInit failed with CUDA error {error} (" in status.reason
    assert advice in status.remedy
    assert status.name == ""


def test_later_calls_are_checked_too(fake_driver, monkeypatch):
    status = ask(fake_driver, monkeypatch, count_error=100)
    assert (status.code, status.driver_cuda, status.device_count) == ("no-device", (13, 0), None)
    assert "cuDeviceGetCount failed" in status.reason
    status = ask(fake_driver, monkeypatch, count_error=0, get=101)
    assert (status.code, "cuDeviceGet failed" in status.reason) == ("driver-error", True)


@pytest.mark.parametrize(
    ("answers", "code", "reason", "advice"),
    [
        ({"count": 0}, "no-device", "reports no CUDA device", "--gpus all"),
        ({"driver": 11080}, "old-driver", "supports CUDA 11.8; 12.0 is needed", "Update the NVIDIA driver"),
        ({"cc": 61}, "old-gpu", "Fake GPU has compute capability 6.1; 7.0 (Volta) is needed", "backend='numba'"),
        ({"mib": 100}, "small-memory", "has 100 MiB of memory; 256 MiB is needed", "larger GPU"),
        ({}, "no-cupy", "Fake GPU is present, but CuPy is not installed", "pip install 'fastmnist[cuda13]'"),
        ({"driver": 12040}, "no-cupy", "CuPy is not installed", "pip install 'fastmnist[cuda12]'"),
        ({"cc": 70}, "no-cupy", "CuPy is not installed", "pip install 'fastmnist[cuda12]'"),
    ],
)
def test_what_is_too_old_too_small_or_missing(fake_driver, monkeypatch, answers, code, reason, advice):
    monkeypatch.setitem(sys.modules, "cupy", None)  # whatever is installed here
    status = ask(fake_driver, monkeypatch, **answers)
    assert (status.usable, status.code) == (False, code)
    assert reason in status.reason
    assert advice in status.remedy
    assert status.summary == f"GPU: {status.reason}"


def test_an_index_beyond_the_devices(fake_driver, monkeypatch):
    status = ask(fake_driver, monkeypatch, index=2, count=2)
    assert (status.code, status.device_count) == ("bad-index", 2)
    assert status.reason == "device 2 was asked for; there are 2."
    assert status.remedy == "Ask for 0 to 1."


def test_two_distributions_of_cupy(fake_driver, monkeypatch, cupy):
    cupy("cupy-cuda12x", "cupy-cuda13x")
    status = ask(fake_driver, monkeypatch)
    assert status.code == "cupy-conflict"
    assert status.remedy == "Run: pip uninstall cupy-cuda13x cupy-cuda12x; pip install 'fastmnist[cuda13]'"


def test_a_cupy_that_is_too_new_for_the_driver(fake_driver, monkeypatch, cupy):
    cupy("cupy-cuda13x")
    status = ask(fake_driver, monkeypatch, driver=12080)
    assert status.code == "cupy-driver"
    assert "cupy-cuda13x needs a driver for CUDA 13.0; this one supports 12.8" in status.reason
    assert "pip install 'fastmnist[cuda12]'" in status.remedy


def test_a_cupy_that_is_too_new_for_the_gpu(fake_driver, monkeypatch, cupy):
    cupy("cupy-cuda13x")
    status = ask(fake_driver, monkeypatch, cc=70)
    assert status.code == "cupy-gpu"
    assert "no longer serves Fake GPU (compute capability 7.0)" in status.reason


def test_no_driver_library(monkeypatch):
    monkeypatch.setenv("FASTMNIST_LIBCUDA", "/nowhere/libcuda.so.1")
    status = probe()
    assert (status.code, status.usable) == ("no-driver", False)
    assert "the NVIDIA driver library /nowhere/libcuda.so.1 cannot be loaded" in status.reason
    assert "Install the NVIDIA driver" in status.remedy


def test_a_library_that_is_no_driver(compile_library, monkeypatch):
    other = compile_library("other", "int nothing(void) { return 0; }")
    status = probe(library=other)
    assert status.code == "not-a-driver"
    assert "has no function cuInit" in status.reason


def test_a_file_that_is_no_library(tmp_path):
    (tmp_path / "libcuda.so").write_bytes(b"\x7fELF and then nothing")
    assert probe(library=os.fspath(tmp_path / "libcuda.so")).code == "no-driver"


@pytest.mark.gpu
def test_on_a_real_gpu():
    status = probe()
    assert status.code in ("ok", "no-cupy"), status.reason
    assert status.memory > 1 << 30
    assert status.name
