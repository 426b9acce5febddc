"""How many threads to use when the caller does not say: the smallest limit that anyone has set on this process."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath

ENVIRONMENT_VARIABLE = "FASTMNIST_NUM_THREADS"


def default_threads() -> int:
    """Number of threads used when `n_threads` is None: the smallest of `thread_limits`.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ValueError
        An environment variable that limits threads is not an integer >= 1; the message names it.
    """
    return min(limit for limit, _ in thread_limits())


def thread_limits() -> list[tuple[int, str]]:
    """Every limit that applies to this process, with its origin.

    Considered are the CPU affinity mask, the CPU quota of the control groups (v1 and v2, rounded up),
    `FASTMNIST_NUM_THREADS`, and what joblib allows: `LOKY_MAX_CPU_COUNT`, and inside one of its workers the share of
    the cores that it grants to each.

    Returns
    -------
    list of (int, str)
        Limit (at least 1) and its origin, in words.

    Raises
    ------
    ValueError
        As in `default_threads`.
    """
    return list(_limits())


def _limits() -> Iterator[tuple[int, str]]:
    if hasattr(os, "sched_getaffinity"):
        yield len(os.sched_getaffinity(0)), "CPUs in the affinity mask"
    else:
        yield os.cpu_count() or 1, "CPUs of the machine"
    quota = cgroup_quota()
    if quota is not None:
        yield max(1, math.ceil(quota)), f"control group's CPU quota ({quota:g} CPUs, rounded up)"
    for variable in (ENVIRONMENT_VARIABLE, "LOKY_MAX_CPU_COUNT"):
        if os.environ.get(variable):
            yield _positive_integer(variable), f"environment variable {variable}"
    yield from _joblib_worker_limits()


def _positive_integer(variable: str) -> int:
    text = os.environ[variable]
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ValueError(
            f"Environment variable {variable} must be an integer >= 1; got {text!r}. "
            "Set it to a number of threads, or unset it."
        )
    return value


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """CPU quota of this process's control groups in CPUs, the smallest on the way from its group up to the mount.

    Parameters
    ----------
    root : Path
        Where the file system begins; tests give another one.

    Returns
    -------
    float or None
        None where there is no quota, or no control groups.
    """
    quotas = []
    for mount, group in cgroup_folders(root, "cpu"):
        # Inside a container the path may be the host's and not exist here; its last parent "/" is the container's
        # group.
        for folder in (PurePosixPath(group), *PurePosixPath(group).parents):
            quota = _folder_quota(mount / folder.relative_to("/"))
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def cgroup_folders(root: Path, controller: str) -> Iterator[tuple[Path, str]]:
    """Mount point and group path of every hierarchy that can limit a resource: "cpu" or "memory".

    `/proc/self/cgroup` has lines `number:controllers:path` (cgroups(7)); version 2 has the number 0 and no controllers.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(":", 2)
        if len(fields) != 3 or not fields[2].startswith("/"):
            continue
        _, controllers, group = fields
        if not controllers:
            yield root / "sys/fs/cgroup", group
            yield root / "sys/fs/cgroup/unified", group  # beside version 1 ("hybrid")
        elif controller in controllers.split(","):
            yield root / "sys/fs/cgroup" / controllers, group
            yield root / "sys/fs/cgroup" / controller, group


def _folder_quota(folder: Path) -> float | None:
    """Quota divided by period of one group; None when it sets none ("max" in version 2, -1 in version 1)."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        cpus = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return cpus if cpus > 0 else None


def _joblib_worker_limits() -> Iterator[tuple[int, str]]:
    """Limits inside joblib's workers: together they must not use more threads than there are cores.

    Nothing is imported for the question: inside a worker these modules are loaded already.
    """
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None:
        process = multiprocessing.current_process()
        if process.name.startswith("LokyProcess"):
            # joblib tells its process workers their share of the cores through the usual libraries' variables.
            for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
                if os.environ.get(variable):
                    yield _positive_integer(variable), f"joblib's share for each worker process ({variable})"
            return
        if process.daemon:
            yield 1, "worker process of a pool (daemonic), where joblib allows one job"
            return
    joblib = sys.modules.get("joblib.parallel")
    if joblib is not None and (joblib.get_active_backend()[0].nesting_level or 0) > 0:
        yield 1, "worker thread of joblib, which runs beside others"


class _BlasLimit:
    """The limit of `one_blas_thread`, shared by all Python threads that are inside: the last to leave lifts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limiter: AbstractContextManager | None = None

    def enter(self) -> None:
        """One more thread is inside."""
        from threadpoolctl import threadpool_limits

        with self._lock:
            if self._inside == 0:
                self._limiter = threadpool_limits(limits=1, user_api="blas")
                self._limiter.__enter__()
            self._inside += 1

    def leave(self) -> None:
        """One less."""
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._limiter is not None:
                self._limiter.__exit__(None, None, None)
                self._limiter = None


_BLAS_LIMIT = _BlasLimit()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within it BLAS computes on its caller's thread.

    The threads of OpenBLAS go on spinning for milliseconds after a product, on the cores that compiled code needs: between SciPy's small products
    a gradient on two cores took 8.2 ms instead of 4.3.
    """
    _BLAS_LIMIT.enter()
    try:
        yield
    finally:
        _BLAS_LIMIT.leave()
