"""Profiles of the GPU: time by events around each launch, NVTX ranges, the stream's lane, peak memory; over the fake of CuPy."""

import json

import numpy as np
import pytest
from cusim import compiler_missing, fake_cupy
from executor_cases import CASES, _train

import fastmnist
from fastmnist.backends import gpu, recording
from fastmnist.backends.gpu import CupyExecutor
from fastmnist.backends.gpu_recording import TIMED_STEPS, grouped
from fastmnist.network.lowering import optimizer_op
from fastmnist.profiling import profiler

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)


@pytest.fixture
def device(monkeypatch):
    fake_cupy.install(monkeypatch)
    monkeypatch.setattr(profiler, "OVERHEAD_SECONDS", 0.1)
    monkeypatch.setattr(profiler, "_roofs", lambda: None)  # of a simulator nobody wants to know them
    gpu.open_device.cache_clear()
    yield gpu.open_device()
    gpu.open_device.cache_clear()


def test_recording_changes_no_bit_and_times_every_launch(device):
    spec = CASES["adamw, smoothing"]
    expected, _ = _train(CupyExecutor(spec), spec, batch=10, epochs=2)
    with recording.recording_to(recording.Recorder()) as recorder:
        run = CupyExecutor(spec)
    got, epochs = _train(run, spec, batch=10, epochs=2)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(got, expected, strict=True))
    full = next(table for table in recorder.tables if table.rows == 10)
    steps = len(epochs[0].losses) // 10
    assert (
        full.phase == "training"
        and full.calls == [2 * steps]
        and full.timed == [2 * TIMED_STEPS]
        and steps > TIMED_STEPS
    )
    assert (full.timed_seconds[0] > 0).all() and len(full.lanes[0]) == len(full.timed_seconds[0])
    ops = [line.op for line in full.lanes[0]]
    assert {"gather_rows", "softmax_cross_entropy", "linear_dw + adam"} <= set(ops)
    assert any(line.flops > 0 and line.nbytes > 0 for line in full.lanes[0])
    starts = [event.start for event in full.events]
    assert starts == sorted(starts) and len(starts) == recording.TRACED_STEPS * len(ops)
    assert sum(span.steps for span in recorder.spans) == sum(epoch.steps for epoch in epochs)


@pytest.mark.parametrize("name", ["momentum", "activations", "one-vs-rest"])
def test_groups_are_all_launches_in_order_and_fused_ops_are_one(device, name):
    spec = CASES[name]
    run = CupyExecutor(spec)
    _train(run, spec, batch=10, epochs=1)
    runner = run._training[1]
    groups = grouped(runner.facts, runner.calls(10))
    assert [launch for _, _, launches in groups for launch in launches] == runner.launches(10)
    edges = [0, *(end for _, end, _ in groups)]
    assert edges == [*(first for first, _, _ in groups), len(runner.calls(10))]
    fused = [runner.calls(10)[first:end] for first, end, _ in groups if end - first > 1]
    names = {" + ".join(op for op, _, _ in calls) for calls in fused}
    step = optimizer_op(spec.optimizer)[0]
    assert names == {f"linear_dw + {step}", f"linear_db + {step}"}


def test_a_profile_of_the_gpu(device, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (120, 20)).astype(np.uint8)
    y = X[:, :3].argmax(axis=1)
    fake_cupy.RANGES.clear()
    model = fastmnist.MLPClassifier((9,), max_iter=2, batch_size=20, random_state=0)
    profile = fastmnist.profile(model, X, y, backends=("cupy",))
    (run,) = profile.backends
    assert run.backend == "cupy" and run.steps == 12 and 0 < run.timed < 1 and run.train_seconds > 0
    assert run.accounted == pytest.approx(1, abs=0.9)  # events and wall clock speak of the same work
    weights = 4 * (20 * 9 + 9 + 9 * 3 + 3)
    assert run.device_peak >= X.nbytes + 3 * weights
    training = [kernel for kernel in profile.kernels if kernel.phase == "training"]
    assert sum(kernel.share for kernel in training) == pytest.approx(1)
    assert {"gather_rows", "linear_dw + adam", "softmax_cross_entropy"} <= {kernel.op for kernel in training}
    assert all(kernel.calls % 12 == 0 and kernel.variant == "CUDA" for kernel in training)
    assert any(kernel.phase == "inference" for kernel in profile.kernels)
    assert any(name.startswith("linear_dw + adam ") for name in fake_cupy.RANGES) and not fake_cupy._open_ranges
    profile.to_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert "stream 0" in [event["args"].get("name") for event in events if event["ph"] == "M"]
    assert {event["name"] for event in events if event["ph"] == "X"} >= {"gather_rows", "linear_dw + adam"}


def test_a_profile_lists_the_images_that_are_changed_at_random(device):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (60, 16)).astype(np.uint8)
    augment = fastmnist.Augment(translate=1)
    model = fastmnist.MLPClassifier((5,), max_iter=3, batch_size=20, random_state=0, augment=augment)
    profile = fastmnist.profile(model, X, X[:, :3].argmax(axis=1), backends=("cupy",))
    (made,) = (kernel for kernel in profile.kernels if kernel.op == "augment_images")
    assert (made.phase, made.place, made.sizes.split()[0]) == ("training", "images", "B=60")
    assert (
        3 <= made.calls <= 4 and made.seconds > 0
    )  # an epoch each; what was bound before training began was made, too
    assert profile.backends[0].steps == 9


def test_a_profile_of_a_gradient_on_the_gpu(device):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (120, 20)).astype(np.uint8)
    model = fastmnist.LogisticRegression(max_iter=3)
    profile = fastmnist.profile(model, X, X[:, :3].argmax(axis=1), backends=("cupy",))
    assert {kernel.phase for kernel in profile.kernels} == {"gradient", "inference"}
    assert "linear_dw" in " ".join(kernel.op for kernel in profile.kernels)
