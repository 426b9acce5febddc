"""What `import fastmnist` gives, and what it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import fastmnist

ROOT = str(Path(__file__).parents[1])


def run(code: str) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {ROOT!r}); {code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("name", fastmnist.__all__)
def test_every_public_name_is_there(name):
    value = getattr(fastmnist, name)
    assert value is getattr(fastmnist, name)
    assert name in dir(fastmnist)
    assert name == "__version__" or value.__doc__


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(
        AttributeError, match=r"module 'fastmnist' has no attribute 'MLPRegressor'; it has: .*MLPClassifier"
    ):
        _ = fastmnist.MLPRegressor
    with pytest.raises(ImportError):
        from fastmnist import nothing_of_that_name  # noqa: F401


@pytest.mark.parametrize("module", ["fastmnist", "fastmnist.cli", "fastmnist.__init__"])
def test_importing_is_light(module):
    loaded = run(f"import {module}; print(*sys.modules)").split()
    assert module in loaded
    heavy = {"numba", "llvmlite", "sklearn", "scipy", "cupy", "pandas", "PIL", "pooch", "rich", "numpy", "safetensors"}
    assert not heavy & set(loaded)


def test_the_library_needs_no_command_line():
    loaded = run("import fastmnist; fastmnist.MLPClassifier; fastmnist.load_mnist; print(*sys.modules)").split()
    assert "click" not in loaded
    assert "numba" not in loaded
    assert "cupy" not in loaded


def test_making_estimators_loads_nothing_that_only_fits_need():
    estimators = ["MLPClassifier", "CNNClassifier", "LogisticRegression", "RandomForestClassifier"]
    lines = run(
        f"import fastmnist\nfor name in {estimators}: getattr(fastmnist, name)(); print(*sys.modules)"
    ).splitlines()
    heavy = {
        "llvmlite",
        "sklearn.model_selection",
        "sklearn.metrics",
        "fastmnist.kernels",
        "fastmnist.network.lowering",
    }
    assert not heavy.intersection(lines[-1].split())
    others = {f"fastmnist.estimators.{module}" for module in ("cnn", "logistic", "forest", "preprocessing")}
    assert "fastmnist.estimators.mlp" in lines[0].split()
    assert not others.intersection(lines[0].split())


def test_available_backends_imports_neither_numba_nor_cupy():
    loaded = run("import fastmnist; fastmnist.available_backends(); print(*sys.modules)").split()
    assert not {"numba", "llvmlite", "cupy", "sklearn", "scipy"} & set(loaded)
