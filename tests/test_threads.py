"""How many threads are used by default: every limit, and the smallest of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastmnist.threads import cgroup_quota, default_threads, thread_limits


@pytest.fixture(autouse=True)
def no_limits_from_outside(monkeypatch):
    for variable in ("FASTMNIST_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):
        monkeypatch.delenv(variable, raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_default_is_the_smallest_limit(monkeypatch):
    affinity = len(os.sched_getaffinity(0))
    monkeypatch.setenv("FASTMNIST_NUM_THREADS", str(affinity + 5))
    assert default_threads() <= affinity
    monkeypatch.setenv("FASTMNIST_NUM_THREADS", "1")
    assert default_threads() == 1
    assert (1, "environment variable FASTMNIST_NUM_THREADS") in thread_limits()


def test_affinity_mask_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert default_threads() == 1


def test_machines_without_affinity_count_their_cpus(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert (12, "CPUs of the machine") in thread_limits()


@pytest.mark.parametrize("variable", ["FASTMNIST_NUM_THREADS", "LOKY_MAX_CPU_COUNT"])
@pytest.mark.parametrize("value", ["0", "-2", "two", "1.5", " "])
def test_a_bad_number_is_refused_with_its_variable(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"{variable} must be an integer >= 1; got {value!r}"):
        default_threads()


def test_an_empty_variable_is_no_limit(monkeypatch):
    monkeypatch.setenv("FASTMNIST_NUM_THREADS", "")
    assert not any("FASTMNIST_NUM_THREADS" in origin for _, origin in thread_limits())


def test_lokys_limit_counts(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert default_threads() == 1


# --- control groups ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        # The smallest on the way up counts.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/cpu.max": "max 100000\n",
            },
            3.0,
        ),
        # Version 1, whose path is the host's: the mount's root is the container's own group.
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/0123\n2:memory:/docker/0123\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "nonsense\n0::relative\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "garbage\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
        ({}, None),
    ],
)
def test_cgroup_quota(tmp_path, files, quota):
    assert cgroup_quota(write(tmp_path, files)) == quota


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.0, 1), (1.5, 2), (2.0, 2)])
def test_a_quota_is_rounded_up(monkeypatch, quota, threads):
    monkeypatch.setattr("fastmnist.threads.cgroup_quota", lambda: quota)
    assert threads in [limit for limit, origin in thread_limits() if "quota" in origin]


# --- joblib's workers -------------------------------------------------------------------------------------------------

IN_WORKERS = """
import sys
from joblib import Parallel, delayed

def limits():
    from fastmnist.threads import thread_limits
    return thread_limits()

if __name__ == "__main__":
    print(Parallel(n_jobs=2, backend=sys.argv[1])(delayed(limits)() for _ in range(2))[0])
"""


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("loky", "joblib's share for each worker process (OMP_NUM_THREADS)"),
        ("multiprocessing", "worker process of a pool"),
        ("threading", "worker thread of joblib"),
    ],
)
def test_joblibs_workers_share_the_cores(tmp_path, backend, expected):
    script = tmp_path / "script.py"
    script.write_text(IN_WORKERS)
    root = str(Path(__file__).parents[1])
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, script, backend], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    share = max(1, len(os.sched_getaffinity(0)) // 2) if backend == "loky" else 1
    assert f"({share}, " in result.stdout
    assert expected in result.stdout.replace('"', "'")


def test_outside_of_workers_joblib_sets_no_limit():
    assert not any("joblib" in origin for _, origin in thread_limits())
