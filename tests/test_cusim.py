"""The CUDA simulator sees planted mistakes, and passes their right twins."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cusim import Module, SimulatorError, compiler_missing
from cusim.simulator import sanitizer_environment

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)

TESTS = Path(__file__).parent
BUGS = TESTS / "cusim" / "planted_bugs.cu"


@pytest.fixture(scope="module")
def plain():
    return Module(BUGS.read_text(encoding="utf-8"), name="planted_bugs.cu")


@pytest.fixture(scope="module")
def race():
    return Module(BUGS.read_text(encoding="utf-8"), name="planted_bugs.cu", mode="race")


def floats(n):
    return np.arange(1, n + 1, dtype=np.float32)


def line_of(text, after):
    lines = BUGS.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if f"void {after}(" in line)
    return next(i for i, line in enumerate(lines[start:], start + 1) if text in line)


def test_a_kernel_computes(plain):
    x, y = floats(64), np.zeros(64, np.float32)
    for reverse in (False, True):
        y[:] = 0
        plain.launch("reverse", (1,), (64,), (y, x, np.int32(64)), reverse=reverse)
        np.testing.assert_array_equal(y, x[::-1])
    y[:] = 0
    plain.launch("dynamic_reverse", (1,), (64,), (y, x, np.int32(64)), shared=256)
    np.testing.assert_array_equal(y, x[::-1])
    total = np.zeros(1, np.float32)
    plain.launch("sum", (4,), (32,), (total, floats(100), np.int32(100)))
    assert total[0] == 5050


def test_a_missing_barrier_reads_nan_or_is_a_race(plain, race):
    x, y = floats(64), np.zeros(64, np.float32)
    plain.launch("reverse_without_barrier", (1,), (64,), (y, x, np.int32(64)))
    assert np.isnan(y).sum() == 32  # those whose partner runs later
    with pytest.raises(SimulatorError, match="race on shared memory") as error:
        race.launch("reverse_without_barrier", (1,), (64,), (y, x, np.int32(64)))
    assert f"planted_bugs.cu:{line_of('block[63', 'reverse_without_barrier')}" in str(error.value)


def test_a_barrier_that_some_threads_miss(plain):
    y = np.zeros(64, np.float32)
    with pytest.raises(SimulatorError, match=r"returned while 10 wait at the __syncthreads in line \d+"):
        plain.launch("barrier_for_some", (1,), (64,), (y, np.int32(10)))
    with pytest.raises(SimulatorError, match="meet at different __syncthreads"):
        plain.launch("two_barriers_at_once", (1,), (64,), (y,))
    plain.launch("barrier_for_some", (1,), (64,), (y, np.int32(64)))  # the machine works on after a failure
    assert y.all()


def test_a_warp_operation_that_lanes_miss(plain):
    with pytest.raises(SimulatorError, match=r"deadlock.*16 thread.* wait at a warp operation"):
        plain.launch("half_a_warp_shuffles", (1,), (32,), (np.zeros(32, np.float32),))


def test_shared_memory_starts_as_nan_in_every_block(plain):
    y = np.zeros(64, np.float32)
    plain.launch("shared_never_written", (3,), (64,), (y,))
    assert np.isnan(y[32:]).all() and (y[:32] == 1).all()


@pytest.mark.parametrize(
    ("kernel", "grid", "block", "make", "where"),
    [
        ("sum_without_atomic", 4, 256, lambda: (np.zeros(1, np.float32), floats(1000), np.int32(1000)), "global"),
        ("shift_in_place", 4, 256, lambda: (floats(1000), np.int32(1000)), "global"),
        ("across_warps_with_warp_barrier", 1, 64, lambda: (floats(64),), "shared"),
        ("last_block_wins", 2, 1, lambda: (floats(1),), "global"),
    ],
)
def test_races(race, kernel, grid, block, make, where):
    with pytest.raises(SimulatorError, match=rf"race on {where} memory: .*planted_bugs.cu:\d+, no barrier between"):
        race.launch(kernel, (grid,), (block,), make())


@pytest.mark.parametrize(
    ("kernel", "grid", "block", "make"),
    [
        ("sum", 4, 256, lambda: (np.zeros(1, np.float32), floats(1000), np.int32(1000))),
        ("reverse", 3, 64, lambda: (floats(64), floats(64), np.int32(0))),
        ("within_warp_with_warp_barrier", 1, 64, lambda: (floats(64),)),
        ("bytes_side_by_side", 4, 256, lambda: (np.zeros(1000, np.uint8), np.int32(1000))),
    ],
)
def test_no_race_where_there_is_none(race, kernel, grid, block, make):
    race.launch(kernel, (grid,), (block,), make())


def test_a_result_that_depends_on_the_order_of_blocks(plain):
    results = []
    for reverse in (False, True):
        y = np.zeros(1, np.float32)
        plain.launch("last_block_wins", (5,), (1,), (y,), reverse=reverse)
        results.append(y[0])
    assert results == [4, 0]


# --- blocks that wait for each other -------------------------------------------------------------------------------------------------


def relay(module, kernel, *, blocks=5, threads=64, reverse=False, cooperative=True):
    """What each thread has read of its neighbour in the next block, and what that was."""
    z, y, arrivals = np.zeros(blocks * threads, np.float32), np.zeros(blocks * threads, np.float32), np.zeros(1, np.uint32)
    options = {"shared": 4 * threads, "reverse": reverse, "cooperative": cooperative}
    module.launch(kernel, (blocks,), (threads,), (z, y, arrivals), **options)
    return z, np.roll(np.arange(blocks * threads), -threads)


@pytest.mark.parametrize("reverse", [False, True])
def test_blocks_that_meet_see_each_others_work(plain, race, reverse):
    for module in (plain, race):
        for blocks, threads in ((5, 64), (1, 32), (3, 1), (40, 33)):
            z, expected = relay(module, "relay", blocks=blocks, threads=threads, reverse=reverse)
            np.testing.assert_array_equal(z, expected)


def test_a_missing_meeting_gives_wrong_numbers(plain):
    z, expected = relay(plain, "relay_without_meeting")
    assert (z != expected).mean() == 0.8  # the last block's neighbour has run before
    z, expected = relay(plain, "relay_without_second_meeting", reverse=True)
    assert (z == -1).any()


@pytest.mark.parametrize(
    "kernel",
    [
        "relay_without_meeting",
        "relay_that_reads_before_it_waits",
        "relay_without_second_meeting",
        "relay_that_arrives_before_all_have_written",
        "relay_with_plain_counter",
    ],
)
def test_a_missing_or_weak_meeting_is_a_race(race, kernel):
    with pytest.raises(SimulatorError, match=r"race on global memory: .*planted_bugs.cu:\d+, no barrier between"):
        relay(race, kernel)


@pytest.mark.parametrize(
    ("kernel", "waiting"), [("waits_for_one_too_many", 5), ("waits_for_blocks_that_have_left", 3)]
)
def test_blocks_that_wait_forever(plain, race, kernel, waiting):
    where = line_of("cusim_poll()", "wait")
    message = (
        rf"deadlock in block \(0,0,0\): .*1 thread\(s\) wait at a poll of other blocks in line {where}.*"
        rf"of 5 blocks {waiting} wait"
    )
    for module in (plain, race):
        with pytest.raises(SimulatorError, match=message):
            relay(module, kernel)
        np.testing.assert_array_equal(*relay(module, "relay"))  # the machine works on


def test_blocks_that_wait_need_a_cooperative_launch(plain):
    with pytest.raises(SimulatorError, match="waiting for other blocks in a launch that is not cooperative"):
        relay(plain, "relay", cooperative=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((floats(4), floats(4)), "takes 3 arguments, got 2"),
        ((floats(4), floats(4), 4), "takes 'i', got int"),  # CuPy would pass eight bytes
        ((floats(4), floats(4), np.int64(4)), "takes 'i', got int64"),
        ((floats(4), np.zeros(4), np.int32(4)), "takes 'Pf', got an array of float64"),
        ((floats(4), floats(4), None), "takes 'i', got None"),
    ],
)
def test_arguments_of_another_type(plain, arguments, message):
    with pytest.raises(TypeError, match=message):
        plain.launch("reverse", (1,), (64,), arguments)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [(1, 1025, 0, "bad block size"), (0, 32, 0, "bad grid"), (1, 32, 200 << 10, "too much shared memory")],
)
def test_launches_that_no_device_takes(plain, grid, block, shared, message):
    with pytest.raises(SimulatorError, match=message):
        plain.launch("last_block_wins", (grid,), (block,), (floats(1),), shared=shared)


def test_what_does_not_compile():
    with pytest.raises(SimulatorError, match=r"wrong\.cu:2:.*nothing_of_this_name"):
        Module('\nextern "C" __global__ void k(float* y) { y[0] = nothing_of_this_name; }', name="wrong.cu")


LAUNCH = """
import sys, numpy as np
from pathlib import Path
from cusim import Module
module = Module(Path(sys.argv[1]).read_text(), name="planted_bugs.cu", mode="address")
x, y = np.ones(40, np.float32), np.zeros(64, np.float32)
buffer = np.zeros(64, np.float32)
assert buffer.ctypes.data % 16 == 0
kernel, n = sys.argv[2], np.int32(int(sys.argv[3]))
arguments = {"one_element_too_far": (x, n), "shared_too_far": (y, n), "misaligned_vector": (y, buffer, n)}[kernel]
module.launch(kernel, (1,), (64 if kernel == "one_element_too_far" else 1,), arguments)
print("not seen")
"""


@pytest.mark.parametrize(
    ("kernel", "right", "wrong", "message"),
    [
        ("one_element_too_far", 39, 40, "heap-buffer-overflow"),
        ("shared_too_far", 32, 33, "out of bounds"),
        ("misaligned_vector", 4, 1, "misaligned address"),
    ],
)
def test_sanitizers_see_bad_addresses(kernel, right, wrong, message):
    environment = {**os.environ, **sanitizer_environment(), "PYTHONPATH": str(TESTS)}

    def run(n):
        command = [sys.executable, "-c", LAUNCH, str(BUGS), kernel, str(n)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    fine = run(right)
    assert fine.stdout == "not seen\n", fine.stderr[-2000:]
    found = run(wrong)
    assert found.returncode != 0 and message in found.stderr and "planted_bugs.cu" in found.stderr, found.stderr[-2000:]
