"""Every file of examples/ and README's first program run as a user runs them, and print what their text promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# What must be in the output; groups are numbers, with the least that each must reach.
PROMISES = {
    "train": (r"epoch 3: loss \S+, test accuracy (\S+)%\nbackend numba, because: ", [90]),
    "own_csv": (r"classes: eight, five, .*\ntest accuracy (\S+)%", [93]),
    "compare_backends": (r"numpy .* s, loss (?s:.*)numba .* s, loss (?s:.*)largest difference .*: \d\.\de-0[4-9]", []),
    "benchmark_kernel": (r"numpy .* GFLOP/s(?s:.*)numba .* GFLOP/s", []),
    "save_and_load": (r"same predictions: True\naccuracy .*: (\S+)%", [88]),
}


def run(folder: Path, *arguments: object) -> str:
    """What Python prints, run far from the checkout, with the defaults of a user who has set nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "FASTMNIST_BACKEND"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_example_has_a_promise():
    assert {path.stem for path in EXAMPLES} == set(PROMISES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    output = run(tmp_path, "-W", "error", path)  # an example that warns is a bad example
    pattern, minima = PROMISES[path.stem]
    found = re.search(pattern, output)
    assert found, output
    assert all(float(value) >= least for value, least in zip(found.groups(), minima, strict=True)), output
    assert list(tmp_path.iterdir()) == [], "an example leaves nothing behind"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_says_what_it_shows(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert len(text.splitlines()) <= 40


def test_readme_prints_what_it_says(tmp_path):
    """The same backend, and an accuracy within 0.3 points: another CPU rounds otherwise. Its time is its machine's."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    promised = re.search(r"```text\n(\S+) (\S+) \S+ s\n```", text)
    accuracy, backend, seconds, unit = run(tmp_path, "-c", program).split()
    assert backend == promised[2]
    assert abs(float(accuracy) - float(promised[1])) <= 0.003
    assert float(seconds) > 0
    assert unit == "s"
