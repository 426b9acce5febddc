"""Threads that stop together: Ctrl-C, failing workers, many at once, after a fork."""

import itertools
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

import fastmnist.backends.team as team_module
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.team import Team
from fastmnist.network.layers import Dense
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec


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


def test_a_failing_worker_is_reported_and_the_others_are_asked_to_stop():
    team = Team(3)

    def work(thread):
        if thread == 1:
            raise ZeroDivisionError("planted")
        while not team.control.any():
            time.sleep(0.001)
        return 0

    with pytest.raises(ZeroDivisionError, match="planted"):
        team.run(work)
    assert threading.active_count() < 20


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
    assert Team(2).run(lambda t: 7) == 7


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_ctrl_c_stops_all_threads_after_the_same_step(n_threads):
    _executor(n_threads).run_epoch(np.arange(10), np.full(1, 1e-3), 10)  # compiles: the timer is meant for the training
    executor = _executor(n_threads)
    n, steps = 2000, 200_000
    order = np.tile(np.arange(n), steps * 10 // n)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    start = time.monotonic()
    timer.start()
    epoch = executor.run_epoch(order, np.full(steps, 1e-3), 10)
    timer.join()
    assert epoch.interrupted
    assert 0 < epoch.steps < steps
    assert len(epoch.losses) == epoch.steps * 10
    assert time.monotonic() - start < 10
    # The parameters are those of the last completed step.
    again = _executor(n_threads)
    again.run_epoch(order[: epoch.steps * 10], np.full(epoch.steps, 1e-3), 10)
    assert all(
        a.tobytes() == b.tobytes() for a, b in zip(executor.get_parameters(), again.get_parameters(), strict=True)
    )


def _train_in_child(queue):
    executor = _executor()
    executor.run_epoch(np.arange(2000), np.full(63, 1e-3), 32)
    queue.put(executor.get_parameters()[0].tobytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_trains_alike():
    executor = _executor()
    executor.run_epoch(np.arange(2000), np.full(63, 1e-3), 32)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_train_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == executor.get_parameters()[0].tobytes()
    child.join(timeout=10)
    assert child.exitcode == 0


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
