"""The one decision: which backend runs, why, and what is said when it can't."""

import importlib
import pickle
import sys
import warnings

import numpy as np
import pytest

from fastmnist import backends
from fastmnist.backends import BackendUnavailable, Choice, available_backends, build, gpu_probe, require, select
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.estimators import LogisticRegression, MLPClassifier
from fastmnist.evaluation.explanation import explain
from fastmnist.network.layers import Dense
from fastmnist.network.spec import Spec

SMALL = {"n_samples": 150, "n_features": 4, "flops": 1e6, "steps": 100}
LARGE = {"n_samples": 60_000, "n_features": 784, "flops": 2.7e11, "steps": 18_750}
SPEC = Spec(4, (Dense(3),))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.delenv("FASTMNIST_BACKEND", raising=False)
    monkeypatch.delenv("FASTMNIST_VERBOSE", raising=False)
    monkeypatch.setattr(backends, "_fallback_noticed", False)


@pytest.fixture
def no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)


# --- auto -------------------------------------------------------------------------------------------------------------


def test_auto_leaves_small_work_to_numpy():
    choice = select("auto", **SMALL)
    assert choice.backend == "numpy"
    assert (
        choice.reason
        == "auto: an estimated 0.015 s of work in NumPy is less than the 0.5 s that compiled kernels are worth."
    )


def test_auto_takes_compiled_kernels_for_large_work():
    choice = select("auto", **LARGE)
    assert choice.backend == "numba"
    assert "16.3 s of work in NumPy" in choice.reason


@pytest.mark.parametrize(
    ("flops", "steps", "values"), [(0, 3333, 0), (9.9e9, 0, 0), (5e9, 1666, 0), (0, 0, 1.24e9), (5e9, 833, 3.1e8)]
)
def test_the_rule_is_the_sum_of_steps_arithmetic_and_values(flops, steps, values):
    size = {"n_samples": 1, "n_features": 1}
    below = select("auto", **size, flops=flops, steps=steps, values=values)
    above = select("auto", **size, flops=flops * 1.05, steps=int(steps * 1.05), values=values * 1.05)
    assert (below.backend, above.backend) == ("numpy", "numba")


@pytest.mark.parametrize(
    ("n_samples", "max_iter", "backend"), [(20_000, 40, "numpy"), (20_000, 60, "numba"), (2_000, 100, "numpy")]
)
def test_what_one_output_reads_counts(n_samples, max_iter, backend):
    X = np.zeros((n_samples, 784), np.uint8)
    model = LogisticRegression(max_iter=max_iter)
    explanation = explain(model, X, np.arange(n_samples) % 2)
    assert explanation.backend == backend
    assert explanation.reason.startswith("auto: an estimated 0.")


def test_the_choice_does_not_depend_on_the_compile_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMNIST_CACHE_DIR", str(tmp_path / "empty"))
    for work in (SMALL, LARGE):
        cold = select("auto", **work)
        monkeypatch.delenv("FASTMNIST_CACHE_DIR", raising=False)
        assert select("auto", **work) == cold


def test_auto_takes_numpy_for_float64():
    choice = select("auto", **LARGE, dtype=np.float64)
    assert choice == Choice("numpy", "auto: float64 arithmetic is numpy's alone.")


def test_auto_falls_back_with_one_notice(no_numba):
    told = "falls back to backend 'numpy'.*Numba is not installed.*pip install numba"
    with pytest.warns(RuntimeWarning, match=told) as seen:
        choice = select("auto", **LARGE)
    assert [warning.filename for warning in seen] == [__file__]
    assert choice.backend == "numpy"
    assert "fell back from numba: Numba is not installed." in choice.reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select("auto", **LARGE).backend == "numpy"


def test_small_work_gives_no_notice_without_numba(no_numba):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select("auto", **SMALL).backend == "numpy"


def test_numba_that_is_switched_off_is_named(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(BackendUnavailable, match=r"NUMBA_DISABLE_JIT switches .* off\. Unset it\.") as error:
        select("numba", **SMALL)
    assert error.value.code == "switched-off"
    available, why = available_backends()["numba"]
    assert not available
    assert "NUMBA_DISABLE_JIT" in why
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")
    assert select("numba", **SMALL).backend == "numba"


def test_a_broken_numba_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMNIST_CACHE_DIR", str(tmp_path))  # nothing compiled: Numba would have to be imported
    real_import = importlib.import_module

    def broken(name, *arguments):
        if name == "numba":
            raise ImportError("Numba needs NumPy 2.4 or less. Got NumPy 9.0.")
        return real_import(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(
        BackendUnavailable, match=r"cannot be loaded \(Numba needs NumPy 2.4.*force-reinstall numba"
    ) as error:
        select("numba", **SMALL)
    assert error.value.code == "broken-install"
    with pytest.warns(RuntimeWarning, match="Numba needs NumPy 2.4 or less"):
        assert select("auto", **LARGE).backend == "numpy"


# --- a backend by name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_a_name_is_taken_at_its_word(name):
    assert select(name, **SMALL) == Choice(name, "asked for.")
    assert select(name, **LARGE).backend == name


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'numpy', 'numba', 'cupy'; got 'cuda'"):
        select("cuda", **SMALL)
    with pytest.raises(ValueError, match="backend must be one of 'numpy', 'numba', 'cupy'; got 'auto'"):
        build("auto", SPEC)


def test_numba_by_name_does_not_fall_back(no_numba):
    with pytest.raises(
        BackendUnavailable, match=r"backend 'numba': Numba is not installed. Run: pip install numba"
    ) as error:
        select("numba", **SMALL)
    assert (error.value.backend, error.value.code) == ("numba", "not-installed")


def test_numba_refuses_float64():
    with pytest.raises(
        BackendUnavailable, match=r"compute in float32; float64 was asked for. Use float32, or backend='numpy'"
    ):
        require("numba", dtype=np.float64)
    require("numpy", dtype=np.float64)


def test_cupy_says_why_the_gpu_cannot_run_and_what_mends_it(monkeypatch):
    monkeypatch.setenv("FASTMNIST_LIBCUDA", "/nowhere/libcuda.so")
    with pytest.raises(BackendUnavailable) as error:
        select("cupy", **LARGE)
    message = str(error.value)
    assert message.startswith("backend 'cupy': GPU: the NVIDIA driver library /nowhere/libcuda.so cannot be loaded")
    assert message.endswith("Install the NVIDIA driver; start a container with --gpus all. Or use backend='numba'.")
    assert error.value.code == "no-driver"


def test_cupy_refuses_float64():
    with pytest.raises(
        BackendUnavailable, match="backend 'cupy': its kernels compute in float32; float64 was asked for"
    ):
        require("cupy", dtype=np.float64)


def test_a_cupy_that_does_not_import(monkeypatch):
    usable = gpu_probe.GpuStatus("ok", True, name="Fake GPU", cupy="cupy-cuda13x 14.2.0")
    monkeypatch.setattr(gpu_probe, "probe", lambda: usable)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailable, match=r"CuPy cannot be loaded .*--force-reinstall cupy-cuda13x") as error:
        require("cupy")
    assert error.value.code == "broken-install"


def test_the_error_survives_pickling():
    error = BackendUnavailable("cupy", "code", "A reason.", "A remedy.")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "backend 'cupy': A reason. A remedy."
    assert again.code == "code"


# --- environment ------------------------------------------------------------------------------------------------------


def test_the_environment_sets_what_auto_means(monkeypatch):
    monkeypatch.setenv("FASTMNIST_BACKEND", "numpy")
    assert select("auto", **LARGE) == Choice("numpy", "asked for by environment variable FASTMNIST_BACKEND.")
    assert select("numba", **LARGE).backend == "numba"
    monkeypatch.setenv("FASTMNIST_BACKEND", "auto")
    assert select("auto", **SMALL).backend == "numpy"


def test_the_environment_is_named_when_it_is_wrong(monkeypatch):
    monkeypatch.setenv("FASTMNIST_BACKEND", "gpu")
    with pytest.raises(ValueError, match=r"environment variable FASTMNIST_BACKEND must be one of 'auto'.*got 'gpu'"):
        select("auto", **SMALL)
    monkeypatch.setenv("FASTMNIST_BACKEND", "cupy")
    monkeypatch.setenv("FASTMNIST_LIBCUDA", "/nowhere/libcuda.so")
    with pytest.raises(BackendUnavailable, match="It was asked for by environment variable FASTMNIST_BACKEND"):
        select("auto", **SMALL)


def test_choices_are_printed_on_request(monkeypatch, capsys):
    select("auto", **SMALL)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FASTMNIST_VERBOSE", "other,dispatch")
    select("auto", **SMALL)
    line = capsys.readouterr().err
    assert line.startswith("fastmnist: backend numpy for 150 x 4, 100 steps, 0.001 GFLOP, float32: auto: an estimated")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_what_an_executor_makes_of_the_network_is_printed_once(backend, solver, monkeypatch, capsys):
    monkeypatch.setenv("FASTMNIST_VERBOSE", "dispatch")
    X, y = np.eye(30, dtype=np.float32), np.arange(30) % 3
    MLPClassifier(hidden_layer_sizes=(4,), max_iter=2, solver=solver, backend=backend).fit(X, y)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"fastmnist: backend {backend} for 30 x 30")
    assert [line.partition(": rows of X: ")[0] for line in lines if "rows of X" in line] == [f"fastmnist: {backend}"]


# --- executors, listing -----------------------------------------------------------------------------------------------


def test_build_makes_the_executor():
    executor = build("numpy", SPEC, dtype=np.float64, n_threads=7)
    assert isinstance(executor, ReferenceExecutor)
    assert (executor.backend, executor.dtype, executor.n_threads, executor.spec) == ("numpy", np.float64, 1, SPEC)


def test_build_gives_compiled_code_its_threads(monkeypatch):
    assert build("numba", SPEC, n_threads=3).n_threads == 3
    monkeypatch.setenv("FASTMNIST_NUM_THREADS", "1")
    executor = build("numba", SPEC)
    assert (executor.backend, executor.n_threads) == ("numba", 1)
    with pytest.raises(BackendUnavailable, match="float64"):
        build("numba", SPEC, dtype=np.float64)


def test_available_backends(monkeypatch):
    monkeypatch.setenv("FASTMNIST_LIBCUDA", "/nowhere/libcuda.so")
    found = available_backends()
    assert list(found) == ["numpy", "numba", "cupy"]
    assert found["numpy"] == (True, f"NumPy {np.__version__}")
    assert found["numba"][0] is True
    assert found["numba"][1].startswith("Numba 0.")
    assert found["cupy"][0] is False
    assert found["cupy"][1].startswith("GPU: the NVIDIA driver library /nowhere/libcuda.so cannot be loaded")


def test_available_backends_without_numba(no_numba):
    assert available_backends()["numba"] == (False, "Numba is not installed. Run: pip install numba")
