"""The cache of compiled code: object files on disk, loaded through llvmlite, without Numba.

A folder is named by a hash of everything that decides what the code is: all kernel sources, the versions of Numba and llvmlite, the CPU and its
features. So an edit of any file under `kernels/` is never answered with stale code, and unchanged sources never compile twice. A file is
written under a temporary name and renamed: two processes may compile at once, a killed one leaves nothing broken. A damaged file is noticed by
its checksum and made again; a folder that can't be written costs a warning and nothing else. Folders of sources that nobody has run for a month are
removed when something is compiled: who would still want them compiles again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import llvmlite.binding as llvm

from .caches import CACHES
from .isa import MACHINE

_SOURCES = Path(__file__).resolve().parents[1]
_HEADER = b"fastmnist-object-1\n"
_lock = threading.Lock()

DAY = 86_400.0
FOLDER_KEPT = 30 * DAY  # since a process last used it
TEMPORARY_KEPT = DAY  # nobody takes so long to write a file: its writer was killed


def cache_root() -> Path:
    """`$FASTMNIST_CACHE_DIR`, or `fastmnist` in the user's cache folder."""
    chosen = os.environ.get("FASTMNIST_CACHE_DIR")
    if chosen:
        return Path(os.path.expanduser(chosen))
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # neither HOME nor an entry in the user database, as in some containers
        base = Path(os.devnull)  # nothing can be kept there: said as of any folder that can't be written
    return base / "fastmnist"


@cache
def code_key() -> str:
    """Hash of what decides the compiled code."""
    digest = hashlib.sha256()
    for path in sorted(path.relative_to(_SOURCES) for path in _SOURCES.rglob("*.py")):
        if path.parts[0] != "gpu":
            digest.update(path.as_posix().encode() + b"\0" + (_SOURCES / path).read_bytes())
    for package in ("numba", "llvmlite"):
        try:
            digest.update(version(package).encode())
        except PackageNotFoundError:
            digest.update(b"none")
    digest.update(f"{sys.version_info[:2]} {MACHINE} {CACHES}".encode())
    digest.update(llvm.get_host_cpu_features().flatten().encode())
    digest.update(os.environ.get("NUMBA_CPU_FEATURES", "").encode())
    return digest.hexdigest()[:20]


def cache_folder() -> Path:
    """Folder of the object files that fit the sources and this machine."""
    return cache_root() / code_key()


def load(name: str, compile_object: Callable[[], tuple[bytes, str]]) -> tuple[int, bool]:
    """Address of a compiled function.

    Parameters
    ----------
    name : str
        Name of the object file.
    compile_object : callable
        Makes it: returns the object's bytes and the symbol to call.

    Returns
    -------
    address : int
    compiled : bool
        False when it came from the cache.
    """
    stored = _read(cache_folder() / f"{name}.o")
    if stored is not None:
        _mark_used(cache_folder())
        return _link(*stored), False
    code, symbol = compile_object()
    _write(cache_folder() / f"{name}.o", code, symbol)
    _remove_stale(cache_root())
    return _link(code, symbol), True


def _read(path: Path) -> tuple[bytes, str] | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    # header, sha256 of the file's name and the rest, symbol's name, newline, object
    body = content[len(_HEADER) + 32 :]
    if not content.startswith(_HEADER) or _checksum(path, body) != content[len(_HEADER) : len(_HEADER) + 32]:
        return None
    symbol, _, code = body.partition(b"\n")
    return code, symbol.decode()


def _checksum(path: Path, body: bytes) -> bytes:
    """Of the name too: code under another's name would be called with another's operands."""
    return hashlib.sha256(path.name.encode() + b"\0" + body).digest()


def _write(path: Path, code: bytes, symbol: str) -> None:
    body = symbol.encode() + b"\n" + code
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_HEADER + _checksum(path, body) + body)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        _warn_once(
            f"The compile cache {path.parent} can't be written ({error.strerror}); kernels will be compiled again next time. "
            "Set FASTMNIST_CACHE_DIR to a folder that can be written."
        )


@cache  # once a process
def _mark_used(folder: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(folder)


@cache
def _remove_stale(root: Path) -> None:
    """Remove folders and temporary files that nobody needs any more.

    Only what bears a name that this module gives is touched, file by file: the root may be any folder of the user's, and another process may be
    writing into one of these at this moment, whose folder then stays.
    """
    now = time.time()
    with contextlib.suppress(OSError):
        for folder in [path for path in root.iterdir() if re.fullmatch("[0-9a-f]{20}", path.name)]:
            with contextlib.suppress(OSError):
                unused = folder != cache_folder() and now - folder.stat().st_mtime > FOLDER_KEPT
                for file in folder.iterdir():
                    abandoned = file.suffix == ".tmp" and now - file.stat().st_mtime > TEMPORARY_KEPT
                    if abandoned or (unused and file.suffix == ".o"):
                        file.unlink()
                if unused:
                    folder.rmdir()


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


@cache
def _engine() -> llvm.ExecutionEngine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def _link(code: bytes, symbol: str) -> int:
    # One engine for all objects and for ever: code must not move while a table holds its address.
    with _lock:
        engine = _engine()
        engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return engine.get_function_address(symbol)
