"""Every way in which the package can be on a machine: bare checkout, editable install, wheel, source distribution."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from test_gpu_compile import WHEELS

from fastmnist.backends import gpu_probe

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
WHERE = "import fastmnist, fastmnist.kernels.contract as c, fastmnist.kernels.cpu as k; print(fastmnist.__file__, c.__file__, k.__file__)"


def run(*command: object, cwd: Path, path: Path | None = None) -> str:
    """Standard output of a command, far from the checkout, that sees the package in `path` alone."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    result = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the files of a clone, because building leaves files beside the sources."""
    target = tmp_path_factory.mktemp("checkout") / "fastmnist"
    # By name: everything that is made from the sources, and the environments.
    skip = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "*.egg-info", "build", "dist", ".*_cache", "api")
    shutil.copytree(ROOT, target, ignore=skip)
    return target


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    run(sys.executable, "-c", code, cwd=checkout)
    (file,) = folder.glob("*.whl")
    return file


def expected_modules() -> set[str]:
    """Files of code that every installation must have, as they are called there."""
    framework = {path.relative_to(ROOT) for path in (ROOT / "fastmnist").rglob("*.py")}
    kernels = {Path("fastmnist") / path.relative_to(ROOT) for path in (ROOT / "kernels").rglob("*.py")}
    return {path.as_posix() for path in framework | kernels}


def test_every_folder_of_code_is_a_listed_package():
    found = {Path(name).parent.as_posix().replace("/", ".") for name in expected_modules()}
    assert found == set(PACKAGES), "pyproject.toml, [tool.setuptools] packages (and package-dir for kernels)"


def test_bare_checkout(tmp_path):
    files = run(sys.executable, "-c", WHERE, cwd=tmp_path, path=ROOT).split()
    assert files[0] == str(ROOT / "fastmnist" / "__init__.py")
    assert files[1] == str(ROOT / "kernels" / "contract" / "__init__.py")


def test_editable_install(tmp_path):
    try:
        importlib.metadata.distribution("fastmnist")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("a bare checkout; `make test` installs the package and runs this")
    files = run(sys.executable, "-c", WHERE, cwd=tmp_path).split()
    assert files[1] in (
        str(ROOT / "kernels" / "contract" / "__init__.py"),
        str(Path(files[0]).parent / "kernels" / "contract" / "__init__.py"),
    )
    run(sys.executable, "-m", "fastmnist", "--help", cwd=tmp_path)


def test_wheel_has_the_code_and_the_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert expected_modules() <= names, sorted(expected_modules() - names)
    cuda = {f"fastmnist/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "kernels" / "gpu").glob("*.cu*")}
    assert cuda and cuda <= names, sorted(cuda - names)
    data = {f"fastmnist/data/{path.name}" for path in (ROOT / "fastmnist" / "data").iterdir() if path.is_file()}
    assert {name for name in data if name.endswith(".gz")} <= names
    assert len([name for name in data if name.endswith(".gz")]) == 4
    assert {"fastmnist/data/LICENSE", "fastmnist/data/SHA256SUMS"} <= names
    top = {name.split("/")[0] for name in names}
    assert top == {"fastmnist", f"fastmnist-{version()}.dist-info"}, (
        "nothing else may be installed, least of all `kernels`"
    )


def test_wheel_tells_its_licences_and_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = f"fastmnist-{version()}.dist-info"
        assert "License-Expression: MIT AND CC-BY-SA-3.0" in archive.read(f"{info}/METADATA").decode()
        assert {f"{info}/licenses/LICENSE", f"{info}/licenses/fastmnist/data/LICENSE"} <= set(archive.namelist())
        assert "fastmnist = fastmnist.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
        bridge = (ROOT / "fastmnist" / "kernels" / "__init__.py").read_text(encoding="utf-8")
        assert archive.read("fastmnist/kernels/__init__.py").decode() != bridge


def test_wheel_installs_and_works(wheel, tmp_path):
    target = tmp_path / "site"
    # An installed wheel of pure Python is its files: pip adds scripts and its own records, which the long test looks at.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    files = run(sys.executable, "-c", WHERE, cwd=tmp_path, path=target).split()
    assert files == [
        str(target / "fastmnist" / name)
        for name in ("__init__.py", "kernels/contract/__init__.py", "kernels/cpu/__init__.py")
    ]
    code = "import fastmnist; X, y = fastmnist.load_mnist('test', return_X_y=True); print(X.shape, y[:3].tolist())"
    assert run(sys.executable, "-c", code, cwd=tmp_path, path=target).strip() == "(10000, 784) [7, 2, 1]"


def test_source_distribution_is_a_whole_clone(checkout, tmp_path):
    run(
        sys.executable,
        "-c",
        f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})",
        cwd=checkout,
    )
    (file,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    folders = ("fastmnist", "kernels", "tests", "examples", "bench", ".ci")
    wanted = {
        path.relative_to(checkout).as_posix()
        for folder in folders
        for path in (checkout / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "egg-info" not in path.as_posix()
    }
    wanted |= {"pyproject.toml", "README.md", "LICENSE", "Makefile", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md"}
    assert wanted <= names, sorted(wanted - names)


@pytest.mark.long
def test_wheel_in_a_fresh_environment(wheel, tmp_path):
    """pip installs it beside this environment's dependencies; the command it makes runs."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    dependencies = Path(importlib.metadata.distribution("numpy").locate_file(""))
    (site / "dependencies.pth").write_text(f"{dependencies}\n", encoding="utf-8")
    files = run(python, "-c", WHERE, cwd=tmp_path).split()
    assert files[1] == str(site / "fastmnist" / "kernels" / "contract" / "__init__.py")
    assert version() in run(tmp_path / "venv" / "bin" / "fastmnist", "--version", cwd=tmp_path)


@pytest.mark.parametrize(("extra", "cuda"), [("cuda12", 12), ("cuda13", 13)])
def test_gpu_extras_are_what_the_probe_and_the_compiler_want(extra, cuda):
    """Offline; whether the index has these names: below."""
    cupy, *others = (re.match("[a-z0-9-]+", line)[0] for line in PROJECT["project"]["optional-dependencies"][extra])
    assert gpu_probe._CUPY_DISTRIBUTIONS[cupy] == (cuda, 0)
    suffix = "" if cuda == 13 else f"-cu{cuda}"
    assert others == [f"nvidia-cuda-nvrtc{suffix}", f"nvidia-cuda-runtime{suffix}"]
    assert others[0] == WHEELS[cuda]  # with which the sources are compiled in test_gpu_compile.py


@pytest.mark.long
@pytest.mark.parametrize("extra", ["cuda12", "cuda13"])
def test_names_of_the_gpu_extras_exist(extra, tmp_path):
    def would_install(requirement: str) -> str:
        options = ("--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-")
        report = run(sys.executable, "-m", "pip", "install", *options, requirement, cwd=tmp_path)
        return json.loads(report)["install"][0]["metadata"]["name"]

    try:
        would_install("setuptools")
    except AssertionError as error:
        pytest.skip(f"offline: the package index does not answer ({str(error).strip()[-200:]})")
    for requirement in PROJECT["project"]["optional-dependencies"][extra]:
        name = re.match("[a-z0-9-]+", requirement)[0]
        assert would_install(requirement).replace("_", "-") == name


def version() -> str:
    return re.search(r'"(.+)"', (ROOT / "fastmnist" / "version.py").read_text(encoding="utf-8").rsplit("=", 1)[1])[1]
