"""Files that are whole or not there, and errors of the operating system that say what to do."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path


@contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Raise what the operating system says about a file again, with advice.

    Parameters
    ----------
    path : Path
    action : {"read", "written"}
    """
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOENT: "Check the path." if action == "read" else "Create its folder first.",
            errno.EISDIR: "Name a file, not a folder.",
            errno.ENOSPC: "Free some space on the disk.",
            errno.EFBIG: "Raise the limit on file sizes (ulimit -f).",
            errno.EDQUOT: "The disk quota is used up.",
            errno.EINVAL: "Check the path.",
        }.get(error.errno or 0, "Check the path and its permissions.")
        kept = "" if action == "read" else " A file that was there before is unchanged."
        message = f"can't be {action}: {error.strerror or error}.{kept} {advice}"
        raise type(error)(error.errno, message, str(path)) from error


def check_writable(path: str | PathLike[str]) -> None:
    """Find out before a long run whether its result can be saved.

    Parameters
    ----------
    path : path
        Where a file is to be written; what is there stays as it is.

    Raises
    ------
    OSError
        It can't be written; the message says why.
    """
    target = Path(os.path.realpath(path))
    with explained(Path(path), "written"):
        temporary, handle = _open_temporary(target)
        os.close(handle)
        temporary.unlink()


def write_atomically(path: str | PathLike[str], content: bytes) -> None:
    """Write a file so that its name stands for the old content or the new one, never for a part.

    The content goes to a temporary file beside it, to the disk, and then under the name by `os.replace`. A link is
    followed; permissions of an existing file are kept.

    Parameters
    ----------
    path : path
    content : bytes

    Raises
    ------
    OSError
        It can't be written; the message says why. The old file, if any, is unchanged.
    """
    target = Path(os.path.realpath(path))
    with explained(Path(path), "written"):
        temporary, handle = _open_temporary(target)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                temporary.chmod(target.stat().st_mode & 0o7777)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _open_temporary(target: Path) -> tuple[Path, int]:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists() and not target.is_file():
        # Renaming a file over /dev/null would take the device away from everyone.
        raise OSError(errno.EINVAL, "a device, pipe or socket is no place for a result; name a file")
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return temporary, os.open(temporary, flags, 0o666)
