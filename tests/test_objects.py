"""The cache of compiled code: damaged files, folders that can't be written, changed sources, two processes at once."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Compiles (or loads) one op, runs it, and prints whether anything was compiled and whether Numba was imported.
SCRIPT = """
import sys
import numpy as np
from fastmnist.kernels import cpu
total, part = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
cpu.call("add", total, part)
assert (total == 2).all()
print(cpu.compile_seconds() > 0, "numba" in sys.modules)
"""


def _run(cache: Path, root: Path = ROOT, script: str = SCRIPT, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "FASTMNIST_CACHE_DIR": str(cache), "PYTHONPATH": str(root), **environment}
    return subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, cwd=cache.parent, timeout=120
    )


@pytest.fixture
def warm(tmp_path):
    """A cache folder with one compiled op."""
    first = _run(tmp_path / "cache")
    assert first.stdout.split() == ["True", "True"], first.stderr
    return tmp_path / "cache"


def test_a_warm_cache_neither_compiles_nor_imports_numba(warm):
    second = _run(warm)
    assert second.stdout.split() == ["False", "False"], second.stderr


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "directory", "another's"])
def test_a_damaged_file_is_compiled_again(warm, damage):
    (path,) = warm.rglob("add.o")
    content = path.read_bytes()
    if damage == "directory":
        path.unlink()
        path.mkdir()
    else:
        changed = {"truncate": content[:-100], "flip": content[:200] + b"\0\1\2\3" + content[204:], "empty": b""}
        if damage == "another's":
            _run(warm, script=SCRIPT.replace('"add"', '"relu"').replace("== 2", "== 1"))
            changed[damage] = (path.parent / "relu.o").read_bytes()
        path.write_bytes(changed[damage])
    again = _run(warm)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split()[0] == "True"
    if damage != "directory":
        assert path.read_bytes() == content or _run(warm).stdout.split()[0] == "False"


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    run = _run(blocked)
    assert run.returncode == 0, run.stderr
    assert "can't be written" in run.stderr
    assert "FASTMNIST_CACHE_DIR" in run.stderr


def test_an_edit_of_any_kernel_source_is_never_answered_with_stale_code(warm, tmp_path):
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "kernels", copy / "kernels")
    (copy / "fastmnist").mkdir()
    for name in ("__init__.py", "version.py"):
        shutil.copy(ROOT / "fastmnist" / name, copy / "fastmnist" / name)
    shutil.copytree(ROOT / "fastmnist" / "kernels", copy / "fastmnist" / "kernels")
    assert _run(warm, copy).stdout.split()[0] == "False"
    source = copy / "kernels" / "cpu" / "optimizers.py"
    text = source.read_text()
    assert "load_n(tr, j, Q - j) + load_n(pr, j, Q - j)" in text
    source.write_text(text.replace("load_n(tr, j, Q - j) + load_n(pr", "load_n(tr, j, Q - j) - load_n(pr"))
    run = _run(warm, copy, SCRIPT.replace("total == 2", "total == 0"))
    assert run.stdout.split()[0] == "True", run.stderr


KEYS = """
from pathlib import Path
from fastmnist.kernels.cpu import objects
sources = sorted(path for path in Path("kernels").rglob("*.py") if "gpu" not in path.parts)
keys = [objects.code_key()]
for source in sources:
    text = source.read_text()
    source.write_text(text + "# edited\\n")
    objects.code_key.cache_clear()
    keys.append(objects.code_key())
    source.write_text(text)
objects.code_key.cache_clear()
print(len(sources), len(set(keys)), objects.code_key() == keys[0])
"""


def test_the_key_sees_an_edit_of_every_file_and_nothing_but_content(tmp_path):
    for folder in ("kernels", "fastmnist"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "data"))
    # Copied just now: other times of modification, the same content.
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", KEYS], env=env, capture_output=True, text=True, cwd=tmp_path)
    sources, keys, same = run.stdout.split()
    assert int(sources) >= 18, run.stderr
    assert int(keys) == int(sources) + 1
    assert same == "True"


FIT = """
import sys, warnings
import numpy as np
from fastmnist import LogisticRegression, MLPClassifier
warnings.simplefilter("ignore")
X = np.random.default_rng(0).integers(0, 256, (200, 40), np.uint8)
y = np.arange(200) % 3
digests = []
for model in (
    MLPClassifier((20,), max_iter=2, backend="numba", random_state=0),
    LogisticRegression(max_iter=3, backend="numba"),
):
    model.fit(X, y)
    digests.append(model.predict_proba(X).tobytes().hex()[:40] + str(model.loss_curve_))
    assert model.compile_seconds_ == 0 or sys.argv[1:] == ["cold"]
print("numba" in sys.modules, "".join("".join(d.split()) for d in digests))
"""


def test_a_second_process_fits_without_a_compiler_and_with_the_same_bits(tmp_path):
    env = {**os.environ, "FASTMNIST_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.run([sys.executable, "-c", FIT, *arguments], env=env, capture_output=True, text=True, timeout=200)
        for arguments in (["cold"], [])
    ]
    (compiled, fresh), (imported, cached) = (run.stdout.split() for run in runs)
    assert compiled == "True"
    assert imported == "False"
    assert fresh == cached


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files")
def test_a_full_disk_costs_a_warning_only(tmp_path):
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    run = _run(tmp_path / "cache", script=limit + SCRIPT)
    assert run.returncode == 0, run.stderr
    assert "can't be written" in run.stderr
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_costs_a_warning_only(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o500)
    run = _run(tmp_path / "cache")
    assert run.returncode == 0, run.stderr
    assert "can't be written" in run.stderr


def test_two_processes_may_compile_at_once(tmp_path):
    env = {**os.environ, "FASTMNIST_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([sys.executable, "-c", SCRIPT], env=env, stdout=subprocess.PIPE) for _ in range(2)]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    assert [p.name for p in (tmp_path / "cache").rglob("*.tmp")] == []
    assert _run(tmp_path / "cache").stdout.split()[0] == "False"
    for p in both:
        assert p.stdout is not None
        p.stdout.close()


def test_another_cpu_gets_a_folder_of_its_own(warm):
    run = _run(warm, NUMBA_CPU_NAME="x86-64")
    assert run.stdout.split()[0] == "True", run.stderr
    assert len(list(warm.iterdir())) == 2


def _swallow_an_interrupt():
    """What LLVM does when it calls back into Python: the exception is printed and forgotten."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("at_once", [True, False])
def test_an_interrupt_while_compiling_is_not_lost(at_once):
    from fastmnist.kernels.cpu.interrupts import interrupts_kept

    handler, reached = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), interrupts_kept(at_once=at_once):
        _swallow_an_interrupt()
        reached.append("end of the block")
    assert reached
    assert signal.getsignal(signal.SIGINT) is handler
    with interrupts_kept(at_once=at_once):
        pass  # nothing caught, nothing raised


@pytest.fixture
def objects(tmp_path, monkeypatch):
    """The module, with an empty cache and as if it had just been imported."""
    from fastmnist.kernels.cpu import objects

    monkeypatch.setenv("FASTMNIST_CACHE_DIR", str(tmp_path))
    for once in (objects._mark_used, objects._remove_stale):
        once.cache_clear()
    yield objects
    for once in (objects._mark_used, objects._remove_stale):
        once.cache_clear()


def _aged(path, days, content=b""):
    """A file, and the folder that it lies in, that many days old."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    for aged in (path, path.parent):
        os.utime(aged, (time.time() - days * 86_400,) * 2)
    return path


def test_what_nobody_needs_any_more_is_removed_and_nothing_else(objects, tmp_path):
    old, young = "0123456789abcdef0123", "3210fedcba9876543210"
    gone = [_aged(tmp_path / old / name, 31) for name in ("add.o", "walk.o")]
    kept = [
        _aged(tmp_path / young / "add.o", 29),
        _aged(tmp_path / "photographs" / "add.o", 400),
        _aged(tmp_path / "fedcba98765432100123" / "notes.txt", 400),
        _aged(objects.cache_folder() / "add.o", 400),
    ]
    gone.append(_aged(objects.cache_folder() / "adam-x.tmp", 2))
    kept.append(_aged(objects.cache_folder() / "adam-y.tmp", 0.5))
    objects._remove_stale(tmp_path)
    assert [path for path in gone if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []
    assert not (tmp_path / old).exists()
    objects._remove_stale.cache_clear()
    objects._remove_stale(tmp_path / "nowhere")  # a cache that can't be written
    objects._remove_stale(kept[0])


def test_use_keeps_a_folder_and_compiling_cleans_up(warm, tmp_path):
    folder = next(warm.iterdir())
    stale = _aged(warm / "0123456789abcdef0123" / "add.o", 31)
    os.utime(folder, (time.time() - 31 * 86_400,) * 2)
    assert _run(warm).stdout.split()[0] == "False"
    assert time.time() - folder.stat().st_mtime < 3600
    assert stale.exists()
    (folder / "add.o").unlink()
    assert _run(warm).stdout.split()[0] == "True"
    assert not stale.parent.exists()
    assert (folder / "add.o").exists()


def test_without_a_home_nothing_is_kept(monkeypatch):
    from fastmnist.kernels.cpu import objects

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FASTMNIST_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(objects.Path, "home", no_home)
    objects._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"can't be written.*Set FASTMNIST_CACHE_DIR"):
        objects._write(objects.cache_folder() / "x.o", b"code", "symbol")
    assert objects._read(objects.cache_folder() / "x.o") is None
