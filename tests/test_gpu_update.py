"""The gradient of weights and the optimizer's step in one kernel: the bits of two kernels, and where one is taken. No GPU is needed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cusim import compiler_missing, device
from cusim.device import SimulatedDevice
from executor_cases import CASES, _data, _spec

from fastmnist.backends.gpu import CupyExecutor
from fastmnist.kernels.gpu import Array, Facts, launches, plan, update
from fastmnist.network.layers import Dense
from fastmnist.network.optimizers import Adam

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)

MOMENTS = {"sgd": 0, "momentum": 1, "nesterov": 1, "adam": 2}
PARAMS = {"sgd": (), "momentum": (0.9,), "nesterov": (0.9,), "adam": (0.9, 0.999, 1e-8)}
SIZES = [(64, 64, 32), (65, 70, 33), (1, 3, 1), (17, 10, 200), (130, 37, 7)]  # inputs, outputs, samples


def _strided(rng, rows, columns, padding):
    """A matrix whose rows lie further apart than they are long; NaN between them."""
    whole = np.full((rows, columns + padding), np.nan, np.float32)
    whole[:, :columns] = rng.standard_normal((rows, columns))
    return whole, whole[:, :columns]


def _operands(op, rows, columns, samples, seed=0, padding=0):
    """(buffers, x, dy, dw, the weights and what is kept of them, hyper, cursor)."""
    rng = np.random.default_rng(seed)
    x, dy = (rng.standard_normal((samples, width)).astype("f") for width in (rows, columns))
    pairs = [_strided(rng, rows, columns, padding) for _ in range(1 + MOMENTS[op])]
    for whole, _ in pairs[2:]:
        np.abs(whole, out=whole)  # second moments
    hyper = np.array([[0.0, 0.0, 0.0], [0.05, 0.01, 0.002]], "f")
    dw = np.full((rows, columns), np.nan, "f")
    return [whole for whole, _ in pairs], x, dy, dw, [view for _, view in pairs], hyper, np.array([0, 1])


def _run(op, operands, *, fused, facts=device.FACTS, bias=False, **how):
    _, x, dy, dw, state, hyper, cursor = operands
    state, gradient, *rest = (
        [device.array(a) for a in state], *map(device.array, (dw, x, dy, hyper, cursor))
    )  # fmt: skip
    x, dy, hyper, cursor = rest
    first = ("linear_db", [Array(gradient.address, (dw.size,), 1, "float32"), dy], ()) if bias else None
    calls = [first or ("linear_dw", [gradient, x, dy], ()), (op, [*state, gradient, hyper, cursor], PARAMS[op])]
    planned = plan(facts, calls) if fused else [x for call in calls for x in launches(call[0], facts, *call[1:])]
    for launch in planned:
        device.run(launch, **how)
    return [launch.kernel for launch in planned]


@pytest.mark.parametrize("op", MOMENTS)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_one_kernel_gives_the_bits_of_two(op, precision):
    facts = dataclasses.replace(device.FACTS, precision=precision)
    tiles = set()
    for k, size in enumerate(SIZES):
        one, two = (_operands(op, *size, seed=k, padding=k % 3) for _ in range(2))
        (kernel,) = _run(op, one, fused=True, facts=facts, reverse=bool(k % 2))
        _run(op, two, fused=False, facts=facts)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one[0], two[0], strict=True)), (kernel, size)
        assert np.isnan(one[3]).all(), "the gradient was written"
        assert not np.isnan(one[4][0]).any()
        tiles.add(kernel)
    suffix = "" if precision == "float32" else f"_{precision}"
    assert tiles == {f"update_small{suffix}_kernel", f"update_medium{suffix}_kernel"}


@pytest.mark.parametrize("op", MOMENTS)
def test_biases_likewise(op):
    for k, (_, columns, samples) in enumerate(SIZES):
        one, two = (_operands(op, 1, columns, samples, seed=k) for _ in range(2))
        assert _run(op, one, fused=True, bias=True, reverse=bool(k % 2)) == ["update_bias_kernel"]
        _run(op, two, fused=False, bias=True)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one[0], two[0], strict=True))
        assert np.isnan(one[3]).all()


def test_two_kernels_where_one_does_not_pay():
    h200 = Facts(132, Array(0, (1 << 22,), 1, "float32"))
    assert update.tile_of(h200, 784, 128, 32).name == "small"
    assert update.tile_of(h200, 784, 1024, 512).name == "medium"
    assert update.tile_of(h200, 784, 128, 1024).name == "small"  # enough tiles: nothing is cut
    assert update.tile_of(h200, 128, 10, 4096) is None  # the sum is cut
    assert update.tile_of(h200, 4096, 4096, 32) is None  # the largest tile has no registers left
    assert update.tile_of(dataclasses.replace(h200, precision="tf32"), 784, 128, 32).name == "small_tf32"


def test_a_gradient_that_is_read_again_is_written():
    a = lambda address, *shape: Array(address, shape, shape[-1], "float32")  # noqa: E731
    dw, step = a(64, 8, 4), ("sgd", [a(128, 8, 4), a(64, 8, 4), a(192, 1, 3), a(256, 2)], ())
    gradient = ("linear_dw", [dw, a(320, 16, 8), a(384, 16, 4)], ())
    assert len(plan(device.FACTS, [gradient, step])) == 1
    assert len(plan(device.FACTS, [gradient, step, gradient, step])) == 2  # overwritten, not read
    assert len(plan(device.FACTS, [gradient, step, ("relu", [a(448, 8, 4), dw], ())])) == 3
    assert len(plan(device.FACTS, [gradient, step, ("add", [dw, a(448, 8, 4)], ())])) == 3
    other = ("sgd", [a(128, 8, 4), a(512, 8, 4), a(192, 1, 3), a(256, 2)], ())
    assert len(plan(device.FACTS, [gradient, other])) == 2  # another gradient's step


def test_a_step_has_two_launches_less_for_each_layer():
    spec = _spec(optimizer=Adam(), layers=(Dense(140, "relu"), Dense(5)))
    run = CupyExecutor(spec, device=SimulatedDevice())
    X, y, _ = _data()
    run.bind(X, y, pixel_scale=1 / 255)
    run.set_parameters([np.zeros(shape, "f") for shape in spec.parameter_shapes])
    run.run_epoch(np.arange(64), np.full(2, 0.01), 32)
    kernels = [launch.kernel for launch in run.launches(32)]
    assert sum(kernel.startswith("update_") for kernel in kernels) == 4
    assert not {"adam_kernel", "channel_sums_kernel"} & set(kernels)


def test_explain_names_them():
    run = CupyExecutor(CASES["one layer"], device=SimulatedDevice(), precision="tf32")
    X, y, _ = _data()
    run.bind(X, y)
    lines = run.program((32,)).describe()
    assert "products in tf32, on tensor cores, sums in float32" in lines
    (fused,) = (line for line in lines if line.startswith("in one kernel with its gradient: "))
    assert fused.endswith(" 1")
