"""Cases that together launch every exported kernel, each compared with the oracle, in whatever mode the simulator is told: see test_gpu_modes.py."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import test_device_search
import test_gpu_judging
import test_gpu_update
import test_gpu_warping
from cusim import device
from cusim.device import COOPERATIVE_FACTS, SimulatedDevice
from executor_cases import _data, _parameters, _spec
from kernel_budget import assert_within_budget, run_reference
from kernel_cases import make_case, n_variants
from kernel_sizes import sizes

from fastmnist.backends.gpu import CupyExecutor
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.kernels.contract import CONTRACT
from fastmnist.kernels.gpu import LAUNCHERS, Facts, channels, convolution, launches, matmul, tiles, update
from fastmnist.network.layers import Dense
from fastmnist.network.optimizers import SGD, Adam


def tight(a: np.ndarray) -> np.ndarray:
    """A copy with the same strides in memory that ends with its last element: the sanitizers see the first byte too far."""
    if a.ndim == 1 or not a.size:
        return a.copy()
    rows, columns, ld = *a.shape, a.strides[0] // a.itemsize
    memory = np.full((rows - 1) * ld + columns, np.nan if a.dtype.kind == "f" else 77, a.dtype)
    view = np.lib.stride_tricks.as_strided(memory, a.shape, a.strides)
    view[...] = a
    return view


def call(op: str, *arrays: np.ndarray, facts: Facts = device.FACTS, mode: str, reverse: bool, **params: float) -> None:
    """Run an op on tight copies of its operands."""
    copies = [tight(a) for a in arrays]
    for launch in launches(op, facts, [device.array(a) for a in copies], list(params.values())):
        device.run(launch, mode=mode, reverse=reverse)
    for a, copied in zip(arrays, copies, strict=True):
        a[...] = copied


def assert_exact(op: str, dims: dict[str, int], facts: Facts, *, strided: bool = False, **how) -> None:
    """On small integers, which every precision holds and whose sums do not depend on their order."""
    case = make_case(op, dims, np.random.default_rng(0), strided=strided)
    for operand in CONTRACT[op].operands:
        array = case.arrays[operand.name]
        if operand in CONTRACT[op].ins or operand.name in CONTRACT[op].updates:
            array[...] = np.random.default_rng(1).integers(-4, 5, array.shape)
    expected = run_reference(case, np.float64)
    call(op, *case.arrays.values(), facts=facts, **case.params, **how)
    for name in case.out_names:
        np.testing.assert_array_equal(case.arrays[name], expected[name], err_msg=f"{case}, {facts.precision}")


def assert_close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """But for rounding: modes are compiled with other optimizations."""
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def ops(**how) -> None:
    """Every op at some ugly sizes, with the tiles that a small device takes."""
    for op in LAUNCHERS:
        tried = list(sizes(op))
        for k, dims in enumerate(tried[1::4] or tried):
            variant = k % n_variants(op)
            assert_within_budget(partial(call, **how), op, dims, strided=bool(k % 2), variant=variant)
        for variant in range(1, n_variants(op)):
            assert_within_budget(partial(call, **how), op, tried[2 % len(tried)], variant=variant)


def products(**how) -> None:
    """Every tile of products, in every layout and precision."""
    for precision in tiles.PRECISIONS:
        facts = replace(device.FACTS, precision=precision)
        for tile in tiles.in_precision(matmul.TILES, precision):
            rows, columns = tile.rows + 1, tile.columns + 3
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(matmul, "choose_tile", lambda *_, tile=tile: tile)
                assert_exact("linear_relu", {"B": rows, "I": 33, "O": columns}, facts, **how)
                assert_exact("linear_dx_add", {"B": rows, "I": columns, "O": 33}, facts, strided=True, **how)
                assert_exact("linear_dw_add", {"B": 33, "I": rows, "O": columns}, facts, **how)


def convolutions(**how) -> None:
    """Every tile of convolutions, in every precision."""
    for precision in tiles.PRECISIONS:
        facts = replace(device.FACTS, precision=precision)
        for op, shapes in (
            ("conv2d_relu", convolution.IMAGE_TILES),
            ("conv2d_dx", convolution.IMAGE_TILES),
            ("conv2d_dw_add", convolution.FILTER_TILES),
        ):
            for tile in tiles.in_precision(shapes, precision):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(convolution, "choose_tile", lambda *_, tile=tile: tile)
                    for k in (5, 8):
                        assert_exact(op, list(sizes(op))[k], facts, strided=k == 8, **how)


def shares(**how) -> None:
    """Sums that several blocks share."""
    facts = Facts(multiprocessors=1000, scratch=device.FACTS.scratch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "LEAST_SHARE", 8)
        patch.setattr(tiles, "SHARE_STEP", 64)
        patch.setattr(channels, "LEAST_SHARE", 2)
        for op in ("linear_relu", "linear_db_add", "conv2d_dw", "batch_moments", "batch_norm_sums"):
            dims = {"B": 140, "I": 140, "O": 7} | ({"Y": 9 * 7} if "Y" in CONTRACT[op].dims else {})
            large = (
                list(sizes(op))[6]
                if op == "conv2d_dw"
                else {name: dims[name] for name in CONTRACT[op].dims if name in dims}
            )
            assert_within_budget(partial(call, facts=facts, **how), op, large)


def steps(**how) -> None:
    """Gradient and optimizer's step in one kernel: the numbers of two; that bits agree, too, is test_gpu_update.py's."""
    for precision in tiles.PRECISIONS:
        facts = replace(device.FACTS, precision=precision)
        for tile in tiles.in_precision(matmul.TILES, precision)[1:]:
            for k, op in enumerate(update.KINDS):
                with pytest.MonkeyPatch.context() as patch:
                    for module in (matmul, update):
                        patch.setattr(module, "choose_tile", lambda *_, tile=tile: tile)
                    sizes_ = tile.rows + 1, tile.columns + 3, 33
                    one, two = (test_gpu_update._operands(op, *sizes_, padding=k % 3) for _ in range(2))
                    assert len(test_gpu_update._run(op, one, fused=True, facts=facts, **how)) == 1
                    test_gpu_update._run(op, two, fused=False, facts=facts)
                assert_close(one[0], two[0])
    for op in update.KINDS:
        one, two = (test_gpu_update._operands(op, 1, 70, 33) for _ in range(2))
        assert test_gpu_update._run(op, one, fused=True, bias=True, **how) == ["update_bias_kernel"]
        test_gpu_update._run(op, two, fused=False, bias=True)
        assert_close(one[0], two[0])


def judgements(mode: str, reverse: bool) -> None:
    """What is found out about rows and labels."""
    for shape in ((1, 1), (33, 67)):
        test_gpu_judging.test_labels_of_probabilities(shape, mode, reverse)
        test_gpu_judging.test_judgement(shape, True, mode, reverse)
    for dtype in (np.uint8, np.float32):
        test_gpu_judging.test_range_of_rows(257, dtype, mode, reverse)
    for dtype in test_gpu_judging.judging.LABEL_DTYPES:
        test_gpu_judging.test_classes_and_their_outputs(dtype, mode, reverse)


def searches(mode: str, reverse: bool) -> None:
    """L-BFGS: its kernels one by one, and some iterations."""
    test_device_search.test_change_of_variables(66, 10, mode, reverse)
    test_device_search.test_directions_follow_the_two_loop_recursion(301, 2, mode, reverse)
    test_device_search.test_facts_of_a_trial(mode, reverse)
    results = []
    for how in ({}, {"mode": mode, "reverse": reverse}):
        spec = test_device_search.ONE_VS_REST
        objective = test_device_search.objective(CupyExecutor(spec, device=SimulatedDevice(**how)))
        few = {**test_device_search.SETTINGS, "max_iter": 2}
        zeros = test_device_search.zeros(spec)
        results.append(test_device_search.lbfgs_on_device(objective, zeros, by_output=True, **few).parameters)
    assert all(part.any() for part in results[0])
    assert_close(*results)


def epochs(**how) -> None:
    """Epochs that are one launch: rows of both types, two and four units of the first layer in a block."""
    for kind, optimizer in (("sparse uint8", Adam()), ("dense float", SGD(0.9))):
        for units in (11, 30):  # of one block each two or four
            spec = _spec(layers=(Dense(units, "relu"), Dense(5)), optimizer=optimizer)
            facts = replace(COOPERATIVE_FACTS, multiprocessors=8)
            results = []
            for run in (
                ReferenceExecutor(spec, dtype=np.float64),
                CupyExecutor(spec, device=SimulatedDevice(facts=facts, **how)),
            ):
                X, y, weight = _data(kind)
                run.bind(X, y, weight, pixel_scale=1 / 255 if X.dtype == np.uint8 else 1.0)
                run.set_parameters(_parameters(spec))
                run.run_epoch(np.arange(33), np.full(3, 0.01), 13)
                results.append(run.get_parameters())
            assert run.one_launch_an_epoch
            for exact, ours in zip(*results, strict=True):
                np.testing.assert_allclose(ours, exact, atol=3e-4)


def warps(mode: str, reverse: bool) -> None:
    """Images changed at random: more than blocks, of both types, with one channel and several."""
    for shape in ((17, 16, 3), (3, 50, 1)):
        for dtype in ("uint8", "float32"):
            test_gpu_warping.test_images_are_the_cpu_s_to_the_bit(shape, dtype, mode, reverse)


CASES = (ops, products, convolutions, shares, steps, judgements, searches, epochs, warps)
