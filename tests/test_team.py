"""Threads that stop together: Ctrl-C, failing workers, many at once, after a fork, at the interpreter's exit."""

import faulthandler
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from pathlib import Path

import numpy as np
import pytest

import fastmnist.backends.team as team_module
from fastmnist.backends.cpu import CpuExecutor, _Runner
from fastmnist.backends.team import Team
from fastmnist.kernels import cpu
from fastmnist.kernels.cpu.isa import MACHINE
from fastmnist.kernels.cpu.layout import ABORT, ALONE_COST, ALONE_UNTIL, CONTROL_WORDS, LANE_WORDS, ROW_WORDS
from fastmnist.network.layers import Dense
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def a_deadlock_ends_the_process():
    """With every thread's traceback, instead of hanging for ever."""
    faulthandler.dump_traceback_later(240, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def _executor(n_threads=2, rows=2000):
    rng = np.random.default_rng(0)
    spec = Spec(100, (Dense(128, "relu"), Dense(10)), optimizer=Adam())
    executor = CpuExecutor(spec, n_threads=n_threads)
    executor.bind(rng.random((rows, 100), np.float32), rng.integers(0, 10, rows).astype(np.int32))
    executor.set_parameters([rng.normal(size=s) * 0.1 for s in spec.parameter_shapes])
    return executor


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_every_thread_works_once(n_threads):
    seen = []
    assert Team(n_threads).run(lambda t: seen.append(t) or 10 + t) == 10
    assert sorted(seen) == list(range(n_threads))


def _epoch(executor, steps=63, rows=2000):
    return executor.run_epoch(np.arange(steps * 32) % rows, np.full(steps, 1e-3), 32)


def _while_running(executor, act):
    """A thread that waits until the executor's next epoch is under way, and then acts."""

    def watch():
        while executor._team not in team_module._pool._running:
            time.sleep(0.001)
        time.sleep(0.05)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def _bits(executor):
    return b"".join(p.tobytes() for p in executor.get_parameters())


def test_workers_are_kept_from_run_to_run():
    team, threads = Team(3), []
    for _ in range(5):
        idents = []
        team.run(lambda t, idents=idents: idents.append(threading.get_ident()) or 0)
        threads.append(sorted(idents))
    assert len(set(threads[0])) == 3
    assert threads == threads[:1] * 5


def test_parked_workers_use_no_cpu_and_hold_nothing():
    class Big:
        pass

    big = Big()
    there = weakref.ref(big)
    Team(4).run(lambda t, big=big: 0)
    del big
    assert there() is None
    used, slept = time.process_time(), time.monotonic()
    time.sleep(0.3)
    assert time.process_time() - used < 0.3 * (time.monotonic() - slept)


def test_many_teams_at_once_and_within_each_other():
    def run(results, i):
        for _ in range(30):
            inner = Team(1 + i % 3)
            results.append(Team(2).run(lambda t, inner=inner: inner.run(lambda u: i)))

    results: list[int] = []
    threads = [threading.Thread(target=run, args=(results, i)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(list(range(6)) * 30)


def _fail_in(monkeypatch, thread, steps_before):
    """Have worker `thread` walk so many steps, and then raise."""
    walk = _Runner.walk

    def failing(self, t, passes, team, position=0):
        if t != thread:
            return walk(self, t, passes, team, position)
        if steps_before:
            walk(self, t, [(passes[0][0], steps_before)], team, position)
        return _planted_failure()

    monkeypatch.setattr(_Runner, "walk", failing)


def _planted_failure():
    raise ZeroDivisionError("planted")


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("steps_before", [0, 20], ids=["before its first barrier", "between barriers"])
def test_a_failing_worker_reaches_the_caller_and_the_others_leave(monkeypatch, n_threads, steps_before):
    executor = _executor(n_threads)
    start = executor.get_parameters()
    for failing in range(n_threads):
        with monkeypatch.context() as patch:
            _fail_in(patch, failing, steps_before)
            with pytest.raises(ZeroDivisionError, match="planted") as caught:
                _epoch(executor)
        assert "_planted_failure" in {frame.name for frame in traceback.extract_tb(caught.value.__traceback__)}
        assert np.float32(1e-40) * np.float32(1) != 0
    # Set anew, the executor works as if nothing had been.
    executor.set_parameters(start)
    executor.reset_optimizer()
    _epoch(executor)
    fresh = _executor(n_threads)
    _epoch(fresh)
    assert _bits(executor) == _bits(fresh)


def test_a_failure_while_one_thread_works_alone_ends_the_others():
    executor = _executor(3)
    _epoch(executor)
    executor._team.control[ALONE_UNTIL] = time.monotonic_ns() + 10**11
    abort = _while_running(executor, lambda: executor._team.control.__setitem__(ABORT, 1))
    assert _epoch(executor, 50_000).steps < 50_000
    abort.join()


def test_one_thread_that_works_alone_makes_the_same_bits():
    together, alone, single = _executor(3), _executor(3), _executor(1)
    for _ in range(3):
        # Judged by the clock; so that nothing but the bits is left to chance, the times are planted.
        _epoch(together)
        together._team.control[ALONE_UNTIL] = 0
        _epoch(alone)
        alone._team.control[ALONE_UNTIL] = time.monotonic_ns() + 10**11
        _epoch(single)
    assert alone._team.control[ALONE_COST] > 0
    assert _bits(together) == _bits(alone) == _bits(single)


def test_a_thread_that_cannot_be_started_leaves_nobody_waiting(monkeypatch):
    monkeypatch.setattr(team_module, "_pool", team_module._Pool())  # nobody idle
    started, count = threading.Thread.start, itertools.count()

    def start(thread):
        if next(count) == 2:
            raise RuntimeError("can't start new thread")
        started(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        Team(3).run(lambda t: 0)
    assert len(team_module._pool._idle) == 2  # those that were started are kept, not lost
    assert Team(2).run(lambda t: 7) == 7


@pytest.mark.parametrize("alone", [False, True], ids=["together", "alone"])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_ctrl_c_stops_all_threads_after_the_same_step(n_threads, alone):
    executor = _executor(n_threads)
    executor.run_epoch(np.arange(10), np.full(1, 0.0), 10)  # compiles: the timer is meant for the training
    executor.reset_optimizer()
    executor._team.control[ALONE_UNTIL] = time.monotonic_ns() + 10**11 if alone else 0
    n, steps = 2000, 50_000
    order = np.tile(np.arange(n), steps * 10 // n)
    interrupt = _while_running(executor, lambda: os.kill(os.getpid(), signal.SIGINT))
    epoch = executor.run_epoch(order, np.full(steps, 1e-3), 10)
    interrupt.join()
    assert epoch.interrupted
    assert 0 < epoch.steps < steps
    assert len(epoch.losses) == epoch.steps * 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # The parameters are those of the last completed step.
    again = _executor(n_threads)
    again.run_epoch(order[: epoch.steps * 10], np.full(epoch.steps, 1e-3), 10)
    assert _bits(executor) == _bits(again)


def test_a_signals_handler_that_raises_ends_the_run():
    def handler(number, frame):
        raise TimeoutError("too long")

    executor = _executor(2)
    _epoch(executor)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        alarm = _while_running(executor, lambda: os.kill(os.getpid(), signal.SIGALRM))
        with pytest.raises(TimeoutError, match="too long"):
            _epoch(executor, 50_000)
        alarm.join()
    finally:
        signal.signal(signal.SIGALRM, before)


def _python(code, **environment):
    """Run `code`, with this file's names at hand, in a process of its own."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-c",
            "from test_team import *\nfrom test_team import _epoch, _executor\n" + code,
        ],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_any_number_of_interrupts_at_any_moment_is_survived():
    run = _python("""
executor = _executor(2)
_epoch(executor)
hitting = threading.Event()
def hit():
    while not hitting.wait(0.003):
        os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=hit)
stopped = 0
try:
    thread.start()
    while stopped < 30:
        try:
            while stopped < 30:
                stopped += _epoch(executor, 2000).interrupted
        except KeyboardInterrupt:
            stopped += 1
finally:
    while True:
        try:
            hitting.set()
            thread.join()
            break
        except KeyboardInterrupt:
            pass
print(_epoch(executor).steps, len(team_module._pool._running))
""")
    assert run.stdout.split() == ["63", "0"], run.stderr


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_interpreter_may_exit_in_the_middle_of_an_epoch(n_threads):
    run = _python(f"""
executor = _executor({n_threads})
_epoch(executor)
threading.Thread(target=_epoch, args=(executor, 50_000), daemon=True).start()
while not team_module._pool._running:
    time.sleep(0.001)
time.sleep(0.1)
print("exits")
""")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["exits"]
    assert run.stderr == ""


def _train_in_child(queue, executor):
    if executor is None:
        executor = _executor()
        _epoch(executor)
    X = np.random.default_rng(0).random((3000, 100), np.float32)
    queue.put((_bits(executor), executor.outputs(executor.get_parameters(), X).tobytes()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("inherit", [False, True], ids=["an executor of its own", "the parent's"])
def test_a_forked_child_trains_alike_while_the_parent_goes_on(inherit):
    executor, busy = _executor(), _executor()
    _epoch(executor)
    X = np.random.default_rng(0).random((3000, 100), np.float32)
    expected = _bits(executor), executor.outputs(executor.get_parameters(), X).tobytes()
    over = threading.Event()
    training = threading.Thread(target=lambda: [_epoch(busy, 5000) for _ in iter(over.is_set, True)])
    training.start()
    # A thread that predicts at that moment must not leave its lock to the child.
    with executor._predicting:
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_train_in_child, args=(queue, executor if inherit else None))
        child.start()
    try:
        assert queue.get(timeout=100) == expected
        child.join(timeout=20)
        assert child.exitcode == 0
        assert training.is_alive()
    finally:
        over.set()
        training.join()


@pytest.mark.skipif(not MACHINE.is_x86, reason="denormals are kept on this machine")
@pytest.mark.parametrize("abort", [False, True])
def test_denormals_are_flushed_while_walking_only(abort):
    total, part = np.full((1, 2), 1e-40, np.float32), np.full((1, 2), 2e-40, np.float32)
    table = np.zeros((2, ROW_WORDS), np.int64)
    for row in table:
        cpu.encode(row, "add", [(a.ctypes.data, a.shape, 2, "float32") for a in (total, part)], [])
    lanes, control = np.zeros((1, LANE_WORDS), np.int64), np.zeros(CONTROL_WORDS, np.int64)
    lanes[0, :2] = table.ctypes.data, len(table)
    control[ABORT] = abort
    assert cpu.walk()(lanes.ctypes.data, 1, 0, 1, control.ctypes.data) == (not abort)
    expected = [1e-40, 1e-40] if abort else [0, 0]
    assert total.tobytes() == np.float32(expected).tobytes()
    assert (part + np.float32(1e-40)).min() > 2e-40  # this thread's arithmetic is as it was


BARRIERS = """
import platform
platform.system = lambda: "Plan 9"
import sys, threading
import numpy as np
from fastmnist.kernels import cpu
from fastmnist.kernels.cpu.compiler import walker_module
from fastmnist.kernels.cpu.layout import CONTROL_WORDS, LANE_WORDS, ROW_WORDS
assert "syscall" not in str(walker_module()), "no system call of Linux"
assert "usleep" in str(walker_module())
total, part = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
tables = [np.zeros((4, ROW_WORDS), np.int64) for _ in range(3)]
for t, table in enumerate(tables):  # the threads take turns: each adds between two barriers of its own
    cpu.encode(table[t], "add", [(a.ctypes.data, a.shape, 2, "float32") for a in (total, part)], [])
control, lanes = np.zeros(CONTROL_WORDS, np.int64), np.zeros((3, LANE_WORDS), np.int64)
lanes[:, 0], lanes[:, 1] = [table.ctypes.data for table in tables], 4
walk = cpu.walk()
walkers = [threading.Thread(target=walk, args=(lanes.ctypes.data, 3, t, 500, control.ctypes.data)) for t in range(3)]
for walker in walkers: walker.start()
for walker in walkers: walker.join()
print(total)
"""


def test_systems_without_a_futex_sleep_in_short_naps(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FASTMNIST_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", BARRIERS], env=env, capture_output=True, text=True, timeout=200)
    assert run.stdout.strip() == "[[1500. 1500.]]", run.stderr


def test_more_threads_than_cores_and_a_busy_neighbour_finish():
    executor = _executor(n_threads=2 * (os.cpu_count() or 1) + 3)
    stop = threading.Event()
    neighbour = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    neighbour.start()
    try:
        epoch = executor.run_epoch(np.arange(2000), np.full(63, 1e-3), 32)
    finally:
        stop.set()
        neighbour.join()
    assert epoch.steps == 63
