"""The second process that compiles: what it makes is taken, and nothing depends on it."""

import os
import subprocess
import sys
import time

import pytest

from fastmnist.kernels import cpu
from fastmnist.kernels.cpu import compile_helper
from fastmnist.kernels.cpu.compile_helper import HELP_FROM, helped, summon

KERNELS = [(name, ("float32",) * 3) for name in ("a", "b", "c", "d")]
# Says that it begins the last kernel, takes its time, makes a file, and goes on to the one before.
PLAYED = """
import json, pathlib, sys, time
sys.stdin.readline()
kernels = json.loads(sys.stdin.readline())
print(json.dumps(kernels[-1]), flush=True)
time.sleep(0.5)
pathlib.Path({done!r}).touch()
print(json.dumps(kernels[-2]), flush=True)
time.sleep(60)
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no helper on Windows")


@pytest.fixture
def played(monkeypatch, tmp_path):
    """A helper that compiles nothing; the file that it makes when it has ended with the last kernel."""
    monkeypatch.setattr(compile_helper, "_PROGRAM", PLAYED.format(done=str(tmp_path / "done")))
    return tmp_path / "done"


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    processes = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return processes


def test_what_the_helper_is_at_is_waited_for_and_nothing_else(played, started):
    with helped(KERNELS) as wait_for:
        wait_for(KERNELS[0])
        while not played.exists():  # it may not have begun when it is asked for the first time
            wait_for(KERNELS[-1])
        wait_for(KERNELS[0])
        assert started[0].poll() is None
    assert started[0].poll() is not None


def test_a_helper_that_dies_is_not_waited_for(monkeypatch, started):
    monkeypatch.setattr(compile_helper, "_PROGRAM", "raise SystemExit(1)")
    with helped(KERNELS) as wait_for:
        started[0].wait()
        for kernel in KERNELS:
            wait_for(kernel)


def test_the_helper_gets_the_folders_that_the_interpreter_looks_into(played, monkeypatch, tmp_path, started):
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path])  # a Path there is ignored
    with helped(KERNELS):
        assert len(started) == 1


def test_the_helper_runs_nothing_of_the_working_folder(monkeypatch, tmp_path, started):
    (tmp_path / "json.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compile_helper, "_PROGRAM", "import json")
    with helped(KERNELS):
        assert started[0].wait() == 0
    assert not (tmp_path / "ran").exists()


def test_few_kernels_are_compiled_alone(started):
    with helped(KERNELS[: HELP_FROM - 1]) as wait_for:
        wait_for(KERNELS[0])
    assert started == []


@pytest.mark.parametrize("executable", ["", "editor"])
def test_a_program_that_embeds_python_is_not_started_again(monkeypatch, started, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with helped(KERNELS) as wait_for:
        wait_for(KERNELS[0])
    assert started == []


def test_a_summoned_helper_is_the_one_that_helps_and_ends_when_nothing_is_missing(played, started):
    summon()
    summon()
    assert len(started) == 1
    with helped([]):
        pass
    assert started[0].poll() is not None
    assert compile_helper._waiting == []
    summon()
    with helped(KERNELS):
        assert len(started) == 2


def test_it_compiles_the_last_kernels_first(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMNIST_CACHE_DIR", str(tmp_path))
    kernels = [
        (name, ("float32",) * len(cpu.find(name).operands)) for name in ("tanh", "sigmoid", "elu", "gelu", "relu")
    ]
    assert not any(map(cpu.is_kept, kernels))
    end = time.monotonic() + 120
    with helped(kernels):
        while not cpu.is_kept(kernels[-1]) and time.monotonic() < end:
            time.sleep(0.05)
    assert cpu.is_kept(kernels[-1])
    assert not cpu.is_kept(kernels[0])


def test_one_thread_compiles_alone(monkeypatch, tmp_path, started):
    monkeypatch.setenv("FASTMNIST_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cpu, "_addresses", {})
    monkeypatch.setattr(cpu, "entry", lambda *kernel: 0)
    assert cpu.prepare([(name, ()) for name in (*cpu.WALKERS, *cpu.CREW)], n_processes=1) == 4
    cpu.expect("walk", 1)
    assert started == []
