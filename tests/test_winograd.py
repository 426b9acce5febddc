"""Winograd's convolution beside the direct one: its rounding within a budget, where it is chosen, and that training with it is the same training."""

from __future__ import annotations

import numpy as np
import pytest

import fastmnist.kernels.cpu as cpu
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.kernels import reference
from fastmnist.kernels.contract import WINOGRAD_CHANNELS
from fastmnist.network import image_choices
from fastmnist.network.crossover import Crossover
from fastmnist.network.initializers import initial_parameters
from fastmnist.network.layers import Conv2D, Dense, Flatten, MaxPool2D
from fastmnist.network.lowering import DataFormat, Target, inference_program, training_program
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec

# Root mean square error in those of the direct convolution: three bits; published measurements put F(4 x 4, 3 x 3) at one decimal digit, here it is
# 4 to 5. And four digits of a value of usual size are right everywhere: in a tile's corner, where factors of 5 and 8 meet, errors are largest.
RMS_BUDGET, WORST_BUDGET = 8, 1e-4


@pytest.mark.parametrize(
    ("height", "width", "channels", "filters"), [(26, 26, 32, 64), (13, 11, 24, 32), (8, 7, 128, 17)]
)
def test_rounding_is_within_the_budget(height, width, channels, filters):
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((3, height * width * channels)), 0).astype(np.float32)
    w = rng.standard_normal((9 * channels, filters)).astype(np.float32)
    b = rng.standard_normal(filters).astype(np.float32)
    y, exact = (
        np.empty((3, (height - 2) * (width - 2) * filters), np.float32),
        np.empty((3, (height - 2) * (width - 2) * filters)),
    )
    u = np.empty((36 * channels, filters), np.float32)
    image = {"height": height, "width": width, "channels": channels}
    cpu.call("winograd_filters", u, w)
    cpu.call("conv2d_winograd", y, x, u, b, **image)
    window = {"kernel_height": 3, "kernel_width": 3, "stride": 1}
    reference.conv2d(exact, x.astype(float), w.astype(float), b.astype(float), **image, **window)
    direct = np.empty_like(y)
    cpu.call("conv2d", direct, x, w, b, **image, **window)
    assert _rms(y - exact) <= RMS_BUDGET * _rms(direct - exact)
    assert np.abs(y - exact).max() <= WORST_BUDGET * _rms(exact)


@pytest.mark.parametrize(
    ("height", "width", "channels", "filters"), [(15, 15, 32, 64), (8, 9, 24, 32), (7, 6, 17, 128)]
)
def test_the_gradient_of_the_input_is_within_the_budget(height, width, channels, filters):
    rng = np.random.default_rng(3)
    dy = rng.standard_normal((3, (height - 2) * (width - 2) * filters)).astype(np.float32)
    wt = rng.standard_normal((filters, 9 * channels)).astype(np.float32)
    dx, direct, exact = (np.empty((3, height * width * channels), t) for t in (np.float32, np.float32, np.float64))
    padded = np.empty((3, (height + 2) * (width + 2) * filters), np.float32)
    u = np.empty((36 * filters, channels), np.float32)
    border = dict.fromkeys(("top", "bottom", "left", "right"), 2)
    cpu.call("pad", padded, dy, height=height - 2, width=width - 2, channels=filters, **border)
    cpu.call("winograd_filters_turned", u, wt)
    zeros = np.zeros(channels, np.float32)
    cpu.call("conv2d_winograd", dx, padded, u, zeros, height=height + 2, width=width + 2, channels=filters)
    window = {"height": height, "width": width, "channels": channels}
    window |= {"kernel_height": 3, "kernel_width": 3, "stride": 1}
    reference.conv2d_dx(exact, dy.astype(float), wt.astype(float), **window)
    cpu.call("conv2d_dx", direct, dy, wt, **window)
    assert _rms(dx - exact) <= RMS_BUDGET * _rms(direct - exact)
    assert np.abs(dx - exact).max() <= WORST_BUDGET * _rms(exact)


def test_kept_filters_are_made_anew_when_a_weight_changes_and_not_before():
    rng = np.random.default_rng(4)
    w = rng.standard_normal((27, 33)).astype(np.float32)
    u, seen, fresh = np.zeros((108, 33), np.float32), np.zeros_like(w), np.empty((108, 33), np.float32)
    for place in ((0, 0), (26, 32), (13, 16)):
        w[place] += 1
        cpu.call("winograd_filters_kept", u, seen, w)
        cpu.call("winograd_filters", fresh, w)
        np.testing.assert_array_equal(u, fresh)
        np.testing.assert_array_equal(seen, w)
    u[:] = 7
    cpu.call("winograd_filters_kept", u, seen, w)
    assert (u == 7).all()


def _rms(a):
    return np.sqrt(np.square(a).mean())


def test_the_oracle_is_the_convolution():
    rng = np.random.default_rng(1)
    x, w, b = rng.standard_normal((2, 9 * 7 * 3)), rng.standard_normal((27, 5)), rng.standard_normal(5)
    y, exact, u = np.empty((2, 7 * 5 * 5)), np.empty((2, 7 * 5 * 5)), np.empty((108, 5))
    reference.winograd_filters(u, w)
    reference.conv2d_winograd_relu(y, x, u, b, 9, 7, 3)
    reference.conv2d_relu(exact, x, w, b, 9, 7, 3, 3, 3, 1)
    np.testing.assert_allclose(y, exact, atol=1e-12)


def _network(size: int, *convolutions: Conv2D) -> Spec:
    layers = (*convolutions, MaxPool2D(), Flatten(), Dense(10))
    return Spec(size * size, layers, optimizer=Adam(), image_shape=(size, size, 1))


def _conv(filters: int, kernel: int = 3, **more: object) -> Conv2D:
    return Conv2D(filters, kernel, activation="relu", **more)


@pytest.mark.parametrize(
    ("spec", "chosen"),
    [
        (_network(28, _conv(32), _conv(64)), [2]),  # one channel: nothing to sum
        (_network(28, _conv(32, 5), _conv(64, 5)), []),
        (_network(28, _conv(32), _conv(64, stride=2)), []),
        (_network(28, _conv(6), _conv(16)), []),
        (_network(28, _conv(136), _conv(16)), []),  # more channels than the kernel takes
        (_network(28, _conv(96), _conv(96)), []),  # filters that leave no room in the cache
    ],
)  # fmt: skip
def test_chosen_where_it_pays(spec, chosen):
    program = training_program(spec, Target(2, lanes=16), DataFormat("uint8", 1 / 255), (64,))
    said = [i for i in (1, 2) if any(f"convolution {i}: by Winograd" in line for line in program.decisions)]
    ops = {
        instruction.op
        for table in program.tables.values()
        for thread in table.threads
        for instruction in thread
        if hasattr(instruction, "op")
    }
    assert said == chosen
    assert ({"winograd_filters", "conv2d_winograd_relu"} <= ops) == bool(chosen)


def test_the_rule_keeps_to_what_the_kernel_takes():
    assert image_choices.WINOGRAD_CHANNELS == WINOGRAD_CHANNELS


def test_training_is_that_of_the_oracle_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr("fastmnist.backends.cpu.winograd_limit", lambda: Crossover(0.9, "for few rows"))
    rng = np.random.default_rng(2)
    spec = _network(20, _conv(32), _conv(32), _conv(32))
    X, y = rng.integers(0, 256, (16, 400)).astype(np.uint8), rng.integers(0, 10, 16).astype(np.int32)
    start = initial_parameters(spec, rng, np.float32)
    # One row a group: no op that adds to a gradient, and takes seconds to compile, has anything to do with Winograd's.
    order, rates = np.arange(20) % 16, np.full(3, 0.001)
    ended = []
    for executor in (
        CpuExecutor(spec, n_threads=1),
        CpuExecutor(spec, n_threads=2),
        ReferenceExecutor(spec, dtype=np.float64),
    ):
        executor.bind(X, y, pixel_scale=1 / 255)
        executor.set_parameters(start)
        if isinstance(executor, CpuExecutor):
            said = [line for line in executor.program((8, 4)).decisions if ": by Winograd's" in line]
            assert [line.split(":")[0] for line in said] == [
                "convolution 2", "convolution 2, the gradient of its input", "convolution 3",
            ]  # fmt: skip
        losses = executor.run_epoch(order, rates, 8).losses
        ended.append(
            (losses, executor.get_parameters(), executor.outputs(executor.get_parameters(), X, pixel_scale=1 / 255))
        )
    (one, two, exact) = ended
    for a, b in zip(one[1], two[1], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(one[0], exact[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one[2], exact[2], atol=1e-4)


def test_an_image_by_itself_is_predicted_as_by_the_oracle_and_follows_what_is_written_into_weights():
    rng = np.random.default_rng(5)
    spec = _network(28, _conv(32), _conv(64))
    program = inference_program(spec, DataFormat("uint8", 1 / 255), (1,), lanes=16)
    assert any("convolution 2: by Winograd" in line for line in program.decisions)
    assert "dense 3: the zeros of an only row are skipped" in program.decisions
    executor, oracle = CpuExecutor(spec, n_threads=1), ReferenceExecutor(spec, dtype=np.float64)
    parameters = initial_parameters(spec, rng, np.float32)
    X = (rng.integers(0, 256, (3, 784)) * (rng.random((3, 784)) < 0.2)).astype(np.uint8)
    for _ in range(2):
        exact = oracle.outputs(parameters, X, pixel_scale=1 / 255)
        for row, expected in zip(X, exact, strict=True):
            made = executor.outputs(parameters, row[np.newaxis], pixel_scale=1 / 255)
            np.testing.assert_allclose(made[0], expected, atol=1e-5)
        parameters[2][5:7] *= -1  # filters of the second convolution, in place
    assert np.abs(oracle.outputs(parameters, X, pixel_scale=1 / 255) - exact).max() > 1e-3
