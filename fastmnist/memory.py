"""How much memory a fit may take when the caller does not say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fastmnist.threads import cgroup_folders

SHARE = 0.5  # of the available memory: the rest is for the data's pages in the file cache and for everybody else


def default_memory(root: Path = Path("/")) -> int:
    """Bytes that a fit takes at most beyond the data it is given when `max_memory` is None: half of what is available.

    Parameters
    ----------
    root : Path
        Where the file system begins; tests give another one.
    """
    return int(SHARE * min(_available(root)))


def _available(root: Path) -> Iterator[int]:
    """What the system can give without swapping, and what the control groups leave of their limits."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        yield int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for mount, group in cgroup_folders(root, "memory"):
        for folder in (PurePosixPath(group), *PurePosixPath(group).parents):
            left = _left(mount / folder.relative_to("/"))
            if left is not None:
                yield left


def _left(folder: Path) -> int | None:
    """Limit minus usage of one group, pages of files not counted: they make room. None where it has no limit."""
    limit, usage, pages = "memory.max", "memory.current", ("active_file", "inactive_file")
    if not (folder / limit).exists():  # version 1
        limit, usage, pages = (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            ("total_active_file", "total_inactive_file"),
        )
    try:
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        left = int((folder / limit).read_text()) - int((folder / usage).read_text())
        return max(left + sum(int(statistics[name]) for name in pages), 0)
    except (OSError, KeyError, ValueError):  # "max" is no number
        return None
