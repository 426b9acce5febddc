"""When `auto` takes the GPU: the crossover's rule, its measurement, and the memory that a fit needs; over a fake of CuPy, no GPU is needed."""

import json
import sys
import types
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from cusim import compiler_missing, fake_cupy

import fastmnist
from fastmnist import backends
from fastmnist.backends import BackendUnavailable, gpu, gpu_crossover, gpu_memory, gpu_probe, select
from fastmnist.backends.gpu_crossover import Crossover, assumed, crossover_of, measure_crossover
from fastmnist.cli import main
from fastmnist.network.layers import Dense
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec

WORK = {"n_samples": 60_000, "n_features": 784, "steps": 1000}


def status(code="ok"):
    usable = code == "ok"
    why = ("", "") if usable else ("CuPy is not installed.", "Run: pip install 'fastmnist[cuda13]'")
    return gpu_probe.GpuStatus(code, usable, *why, "Fake GPU", (9, 0), 1 << 30, (13, 0), 1, "cupy-cuda13x 14.2.0")


@pytest.fixture
def a_gpu(monkeypatch, tmp_path):
    """A GPU that is never opened: it stands for what the choice asks of it."""
    monkeypatch.delenv("FASTMNIST_BACKEND", raising=False)
    monkeypatch.setenv("FASTMNIST_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(backends, "_fallback_noticed", False)
    monkeypatch.setattr(gpu_crossover, "default_threads", lambda: 2)
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    monkeypatch.setattr(gpu_probe, "probe", status)
    device = types.SimpleNamespace(name="Fake GPU", free_memory=lambda: gpu_memory.RESERVED_BYTES + (100 << 20))
    monkeypatch.setattr(gpu, "open_device", lambda: device)


# --- the rule ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mflop_a_step", "backend"), [(14, "numba"), (80, "numba"), (150, "cupy"), (3000, "cupy")])
def test_auto_takes_the_gpu_where_the_assumptions_let_it_win(a_gpu, mflop_a_step, backend):
    choice = select("auto", flops=mflop_a_step * 1e6 * 60_000, **{**WORK, "steps": 60_000})
    assert choice.backend == backend
    assert ("on the GPU" in choice.reason) and "assumed: fastmnist info --measure measures it" in choice.reason


def test_a_short_fit_does_not_pay_for_the_start(a_gpu):
    flops = {"flops": 5e8 * 1000}
    assert select("auto", **flops, **WORK).backend == "numba"
    assert select("auto", flops=5e8 * 100_000, **{**WORK, "steps": 100_000}).backend == "cupy"


def test_work_that_only_numpy_feels_does_not_speak_for_the_gpu(a_gpu):
    """NumPy changes images slowly; compiled code and the GPU both make them fast."""
    few = {"n_samples": 100, "n_features": 4, "steps": 10, "flops": 1e4}
    assert select("auto", **few).backend == "numpy"
    assert select("auto", **few, numpy_flops=1e15).backend == "numba"
    assert select("auto", **few | {"flops": 1e15}).backend == "cupy"


def test_the_rule_is_interpolated_between_what_was_measured():
    table = Crossover("G", 2, [(1e6, 1e-5, 1e-4), (1e8, 1e-3, 1e-4), (1e10, 1e-1, 1e-3)], "2026-11-21")
    assert table.step_seconds(1e7) == pytest.approx((1e-4, 1e-4))
    assert table.step_seconds(1e3) == pytest.approx((1e-5, 1e-4))  # a step costs its overhead
    assert table.step_seconds(1e12) == pytest.approx((10, 0.1))  # grows with the arithmetic
    assert "the GPU wins from 10 MFLOP a step on against 2 thread(s) (measured on G" in table.summary()
    lose, reason = table.judge(1e6 * 1e5, 10**5, 0)
    assert not lose and "an estimated 11 s on the GPU, 1 s in compiled code (measured here on 2026-11-21)" in reason
    assert table.judge(1e8 * 1e5, 10**5, 0)[0]
    never = Crossover("G", 2, [(1e6, 1e-6, 1e-4), (1e8, 1e-5, 1e-3)], "2026-11-21")
    assert "the GPU never wins" in never.summary() and not never.judge(1e13, 10, 0)[0]


def test_more_threads_want_more_work():
    def least(threads):
        return next(f for f in np.geomspace(1e6, 1e12, 200) if assumed(threads).judge(f * 1e7, 10**7, 0)[0])

    assert least(1) < least(2) < least(4)


def test_a_measured_table_is_kept_and_used(a_gpu, monkeypatch, tmp_path):
    table = Crossover("Fake GPU", 2, [(1e3, 1.0, 1e-6), (1e9, 1.0, 1e-6)], "2026-11-21")
    gpu_crossover._write(gpu_crossover._path("Fake GPU"), table)
    assert crossover_of("Fake GPU") == table and crossover_of("Other GPU").measured == ""
    choice = select("auto", flops=1e9 * 1000, **WORK)
    assert choice.backend == "cupy" and "measured here on 2026-11-21" in choice.reason
    for damaged in ("{", "[]", json.dumps({"version": 1, "points": [[1, 2]]}), json.dumps({"version": 0})):
        gpu_crossover._path("Fake GPU").write_text(damaged)
        assert crossover_of("Fake GPU").measured == ""


# --- what stands in the way -------------------------------------------------------------------------------------------------------------


def test_a_gpu_that_would_win_but_cannot_run_is_named_once(a_gpu, monkeypatch):
    monkeypatch.setattr(gpu_probe, "probe", lambda: status("no-cupy"))
    large = {"flops": 3e9 * 1e5, **WORK, "steps": 100_000}
    with pytest.warns(RuntimeWarning, match="falls back to backend 'numba'.*CuPy is not installed.*pip install"):
        choice = select("auto", **large)
    assert choice.backend == "numba" and "Fell back from cupy" in choice.reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select("auto", **large)
        monkeypatch.setattr(backends, "_fallback_noticed", False)
        monkeypatch.setattr(gpu_probe, "probe", lambda: status("no-driver"))  # nobody expects a GPU there
        choice = select("auto", **large)
    assert choice.backend == "numba" and "GPU" not in choice.reason


SPEC = Spec(784, (Dense(128, "relu"), Dense(10)), optimizer=Adam())


def test_the_memory_plan_names_everything_before_it_is_taken():
    plan = gpu_memory.plan_memory(SPEC, 60_000, "uint8", 100)
    weights = 4 * (784 * 128 + 128 + 128 * 10 + 10)
    assert plan.parts["data set"] == 60_000 * 784
    assert plan.parts["labels, weights, order and losses"] == 60_000 * 21
    assert plan.parts["parameters"] == weights
    assert 2 * weights <= plan.parts["optimizer state"] <= 2.2 * weights + 4096  # two moments, and padding
    assert plan.parts["activations and workspace"] >= 4 * 100 * (784 + 2 * 128 + 2 * 10)
    assert plan.nbytes == sum(plan.parts.values())
    assert gpu_memory.plan_memory(SPEC, 60_000, "uint8", 100, resident=True).parts["data set"] == 0
    search = gpu_memory.plan_memory(SPEC, 60_000, "float32", 4096, full_batch=True, search=True)
    assert search.parts["vectors of L-BFGS"] >= 8 * 20 * weights // 4


def test_what_does_not_fit_is_refused_by_name_and_left_to_compiled_code_by_auto(a_gpu):
    plan = lambda: gpu_memory.plan_memory(SPEC, 10**6, "float32", 100)  # noqa: E731
    work = {"flops": 3e9 * 1e5, **WORK, "steps": 100_000, "memory": plan}
    with pytest.raises(
        BackendUnavailable,
        match=r"has 100 MiB free; this fit needs [\d,]+ MiB \(data set 2,990.7 MiB, .*optimizer state",
    ) as error:
        select("cupy", **work)
    assert error.value.code == "memory"
    with pytest.warns(RuntimeWarning, match=r"falls back to backend 'numba'.*100 MiB free"):
        choice = select("auto", **work)
    assert choice.backend == "numba" and "Fell back from cupy" in choice.reason
    work["memory"] = lambda: gpu_memory.plan_memory(SPEC, 1000, "float32", 100)
    assert select("auto", **work).backend == select("cupy", **work).backend == "cupy"


def test_fit_plans_before_it_allocates(a_gpu, monkeypatch):
    X, y = np.zeros((60_000, 784), np.float32), np.arange(60_000) % 10
    for model in (fastmnist.MLPClassifier(backend="cupy"), fastmnist.LogisticRegression(backend="cupy")):
        with pytest.raises(BackendUnavailable, match=r"this fit needs .*\(data set 179.4 MiB"):
            model.fit(X, y)


# --- measured ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(compiler_missing()), reason=compiler_missing())
def test_info_measures_the_crossover(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMNIST_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())
    monkeypatch.setattr(gpu_probe, "probe", status)
    monkeypatch.setattr(gpu_crossover, "JOBS", ((2, (3,)), (4, (5,))))
    monkeypatch.setattr(gpu_crossover, "STEPS", 2)
    monkeypatch.setattr(gpu_crossover, "FEATURES", 6)
    monkeypatch.setattr(backends, "_numba_problem", lambda: None)
    plain = backends.build
    monkeypatch.setattr(backends, "build", lambda name, spec: plain("numpy" if name == "numba" else name, spec))
    gpu.open_device.cache_clear()
    try:
        table = measure_crossover()
    finally:
        gpu.open_device.cache_clear()
    assert table.device == "Fake GPU" and len(table.points) == 2 and min(min(point) for point in table.points) > 0
    assert table.points[0][0] == 2 * Spec(6, (Dense(3, "relu"), Dense(10))).flops_per_sample
    assert crossover_of("Fake GPU") == table
    shown = json.loads(CliRunner().invoke(main, ["info", "--json"]).output)["gpu_crossover"]
    assert shown["measured"] == table.measured and len(shown["points"]) == 2
    assert "CPU or GPU" in CliRunner().invoke(main, ["info"]).output
