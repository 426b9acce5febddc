"""The benchmarks for a GPU run, on a fake one: their verification is real, their times are not."""

import contextlib
import csv
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from cusim import Module, compiler_missing, fake_cupy

import fastmnist
from fastmnist.backends import gpu, gpu_probe

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture
def bench(monkeypatch):
    """Import a script of bench/gpu beside a fake CuPy that has clocks."""
    cupy = fake_cupy.module()
    cupy.__version__ = "0"
    cupy.cuda.Event = lambda: types.SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
    cupy.cuda.get_elapsed_time = lambda start, stop: 1.0
    cupy.cuda.runtime.driverGetVersion = cupy.cuda.runtime.runtimeGetVersion = lambda: 13000
    cupy.cuda.runtime.memcpyDeviceToDevice = 3
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    usable = gpu_probe.GpuStatus("ok", True, "", "", "Fake GPU", (9, 0), 1 << 30, (13, 0), 1, "cupy-cuda13x 14.2.0")
    monkeypatch.setattr(gpu_probe, "probe", lambda: usable)
    monkeypatch.setattr(sys, "path", [str(BENCH / "gpu"), *sys.path])
    gpu.open_device.cache_clear()
    loaded = []

    def load(name):
        for module in ("timing", name):
            sys.modules.pop(module, None)
        loaded.extend(("timing", name))
        module = __import__(name)
        if "timing" in sys.modules:
            monkeypatch.setattr(sys.modules["timing"], "ROUNDS", 2)
            monkeypatch.setattr(sys.modules["timing"], "TARGET_SECONDS", 1e-4)
        return module

    yield load
    for name in loaded:
        sys.modules.pop(name, None)
    gpu.open_device.cache_clear()


def rows(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_kernels(bench, tmp_path, monkeypatch):
    kernels = bench("kernels")
    monkeypatch.setattr(kernels, "PRODUCTS", [(33, 40, 36)])
    monkeypatch.setattr(kernels, "TENSOR_PRODUCTS", [(33, 40, 36)])
    monkeypatch.setattr(kernels, "probe", gpu_probe.probe)
    monkeypatch.setattr(kernels, "STREAMS", {op: (40, 10) for op in kernels.STREAMS})
    monkeypatch.setattr(kernels, "COPY_BYTES", 1 << 12)
    monkeypatch.setattr(kernels, "AUGMENTED", 64)
    monkeypatch.setattr(kernels.ladder, "__defaults__", (44,))
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--out", str(tmp_path), "--no-peers"])
    kernels.main()
    written = [row["kernel"] for row in rows(tmp_path / "kernels.csv")]
    assert written[0].startswith("gemm_nn_") and "copy" in written and "adam_kernel" in written
    assert {"gemm_nn_small_tf32_kernel", "gemm_nn_small_bf16_kernel"} <= set(written)
    assert written.count("augment_images_uint8_kernel") == 2
    assert [name for name in written if name.startswith("ladder")] == [f"ladder {rung}" for rung in kernels.RUNGS]


def test_what_was_measured_before_the_time_was_up_is_kept(bench, tmp_path, monkeypatch):
    kernels = bench("kernels")
    monkeypatch.setattr(kernels, "PRODUCTS", [(3, 4, 5)])

    def cut_short(device):
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels, "streams", cut_short)
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--out", str(tmp_path), "--no-peers"])
    with pytest.raises(KeyboardInterrupt):
        kernels.main()
    assert [row["shape"] for row in rows(tmp_path / "kernels.csv")] == ["3x4x5"]


def test_peers_that_cannot_run_are_left_out(bench, monkeypatch, capsys):
    kernels, timing = bench("kernels"), bench("timing")

    def matmul(a, b):
        raise ImportError("libcublas.so.13")

    monkeypatch.setattr(kernels, "cupy", types.SimpleNamespace(ones=np.ones, matmul=matmul))
    assert not kernels.cublas_loads(types.SimpleNamespace(stream=contextlib.nullcontext()))
    assert "without cuBLAS: libcublas.so.13" in capsys.readouterr().out
    for_processors = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False), __spec__=object())
    monkeypatch.setitem(sys.modules, "torch", for_processors)
    assert not timing.torch_runs()


def test_a_wrong_product_is_not_timed(bench, monkeypatch):
    kernels = bench("kernels")
    a = np.ones((5, 5), np.float32)
    with pytest.raises(AssertionError, match="off by"):
        kernels.assert_product(a @ a + 1e-3, a, a)
    for wrong in (a @ a, a @ a + 0.1):  # not rounded; off by more than that
        with pytest.raises(AssertionError, match="off by"):
            kernels.assert_tensor_product(wrong, a, a, kernels.UNITS["bf16"])


def test_models(bench, tmp_path, monkeypatch):
    models = bench("models")
    monkeypatch.setattr(models, "MODELS", {"softmax": models.MODELS["softmax"]})
    monkeypatch.setattr(models, "BATCHES", (32,))
    monkeypatch.setattr(models, "torch_runs", lambda: False)
    monkeypatch.setattr(sys, "argv", ["models.py", "--out", str(tmp_path), "--rows", "60"])
    models.main()
    measured = [(row["job"], row["way"]) for row in rows(tmp_path / "models.csv")]
    assert measured == [("cupy", "one launch"), ("cupy graph", "graph"), ("numba", "")]
    kernels = [row["kernel"] for row in rows(tmp_path / "steps.csv")]
    # A device of four multiprocessors takes the largest tile for 784 weights, and that one leaves the step to another kernel.
    assert kernels[0] == "gather_rows_uint8_kernel" and kernels[-1] == "advance_kernel" and len(kernels) == 7


def test_fits(bench, tmp_path, monkeypatch):
    fits = bench("fits")
    layers = [fastmnist.Conv2D(2, 5, stride=3), fastmnist.BatchNorm(), fastmnist.Flatten()]
    monkeypatch.setattr(fits.to_accuracy, "arguments", lambda recipe: {"layers": layers, "max_iter": 1})
    monkeypatch.setattr(fits, "FITS", 1)
    monkeypatch.setattr(fits, "torch_runs", lambda: False)
    monkeypatch.setattr(sys, "argv", ["fits.py", "--out", str(tmp_path), "--rows", "60", "--seeds", "2"])
    fits.main()
    written = rows(tmp_path / "fits.csv")
    assert [(row["job"], row["seed"]) for row in written] == [
        ("cupy", "0"),
        ("cupy", "1"),
        *[("cupy", ""), ("numba", "")] * 2,
    ]
    assert written[0]["compile_seconds"] and 0 < float(written[0]["accuracy"]) <= 1
    for ours, theirs in zip(written[2::2], written[3::2], strict=True):
        assert float(ours["objective"]) == pytest.approx(float(theirs["objective"]), rel=1e-3)


def test_goals_are_reached_missed_or_open(bench, tmp_path, capsys):
    goals = bench("goals")
    (tmp_path / "kernels.csv").write_text(
        "kernel,shape,of_cublas,of_copy\n"
        "gemm_nn_large_kernel,1024x1024x1024,0.95,\ngemm_nn_large_kernel,4096x4096x4096,0.85,\n"
        "gemm_nn_small_kernel,32x784x128,1.5,\ngemm_nn_large_bf16_kernel,4096x4096x4096,0.81,\nrelu_kernel,9x9,,0.93\n"
    )
    (tmp_path / "fits.csv").write_text(
        "model,job,accuracy,seconds\n" + "time to accuracy 99.0,cupy,0.991,0.2\n" * goals.SEEDS
    )
    lines = [goals.line(*goal) for goal in goals.measured(tmp_path)]
    verdicts = [next(word for word in ("reached", "missed", "open") if word in line) for line in lines]
    assert verdicts == ["missed", "reached", "reached", "reached", *["open"] * 4, "reached", "missed"]


def test_the_training_that_the_sanitizer_watches(bench, capsys):
    bench("short_training").main()
    assert capsys.readouterr().out == "trained\n"


@pytest.mark.parametrize("rung", sorted((BENCH / "ladder" / "gpu").glob("*.cu")), ids=lambda path: path.stem)
def test_rungs_have_no_races(rung):
    import numpy as np

    n = 36
    a, b = np.random.default_rng(0).standard_normal((2, n, n)).astype(np.float32)
    c = np.empty_like(a)
    block = (16, 16) if "naive" in rung.stem else (32, 32) if "shared" in rung.stem else (256,)
    arguments = (c, a, b, *(np.int32(n),) * 3)
    grid = (-(-n // block[0]), -(-n // block[0])) if len(block) == 2 else (1, 1)
    Module(rung.read_text(encoding="utf-8"), mode="race", name=rung.name).launch("sgemm", grid, block, arguments)
    np.testing.assert_allclose(c, a.astype(float) @ b, atol=1e-4)


def test_the_suite_fails_without_a_gpu(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "FASTMNIST_LIBCUDA": "/nowhere/libcuda.so"}
    command = ["bash", str(BENCH / "gpu_suite.sh"), "--out", str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 1
    for part in ("tests", "kernels", "models", "fits", "profile"):
        assert f"FAILED: {part}" in result.stderr, result.stderr
    assert result.stdout.count("open: not measured") == 10
    assert (tmp_path / "info.json").stat().st_size > 100


@pytest.mark.parametrize(
    ("summary", "passes"),
    [
        ("503 passed, 500 deselected in 9.00s", True),
        ("502 passed, 1 skipped, 500 deselected in 9.00s", False),
        ("1003 deselected in 9.00s", False),
        ("1 failed, 502 passed in 9.00s", False),
    ],
)
def test_the_suite_fails_where_a_test_did_not_run(tmp_path, summary, passes):
    (python := tmp_path / "python").write_text(
        f'#!/bin/sh\ncase "$*" in *pytest*) echo "{summary}" ;; *) exec "{sys.executable}" "$@" ;; esac\n'
    )
    python.chmod(0o755)
    command = ["bash", str(BENCH / "gpu_suite.sh"), "--out", str(tmp_path / "records"), "tests"]
    environment = {**os.environ, "PYTHON": str(python)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (result.returncode == 0) == passes, result.stderr
    assert (f"FAILED: tests (exit 0): {summary}" in result.stderr) != passes


def test_the_suite_takes_its_parts_by_name(tmp_path):
    command = ["bash", str(BENCH / "gpu_suite.sh"), "--out", str(tmp_path / "records")]
    environment = {**os.environ, "PYTHON": sys.executable}
    result = subprocess.run([*command, "kernel"], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and "PART must be of: facts tests" in result.stderr
    # A tool that refuses the device leaves its line open; one that finds something fails.
    (tool := tmp_path / "compute-sanitizer").write_text(
        "#!/bin/sh\n[ $2 = memcheck ] && echo Error: Device not supported && exit 1\necho ERROR SUMMARY: 1 error; exit 3\n"
    )
    tool.chmod(0o755)
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    result = subprocess.run([*command, "sanitizer"], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "memcheck cannot attach" in result.stdout
    assert [line for line in result.stderr.splitlines() if "FAILED" in line] == [
        "FAILED: compute-sanitizer racecheck (exit 3)"
    ]
    assert "Device not supported" in (tmp_path / "records" / "sanitizer.log").read_text()
