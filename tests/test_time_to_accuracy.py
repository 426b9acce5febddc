"""The record of time to accuracy: its recipes, its goals and README's table, on records made up here."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fastmnist import CNNClassifier
from fastmnist.network.architectures import ARCHITECTURES
from fastmnist.network.architectures import RECIPES as NAMED

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path[:0] = [str(BENCH), str(BENCH / "peers")]

import records  # noqa: E402
import time_to_accuracy as bench  # noqa: E402
import to_accuracy  # noqa: E402

sys.path[:] = [path for path in sys.path if path not in (str(BENCH), str(BENCH / "peers"))]


def fits(recipe="99.0", accuracies=(0.991, 0.992), ours=1.0, theirs=5.0, note=""):
    def record(provider, number, seconds, accuracy):
        number = records.FAILED if note else str(number)
        values = (None, None, None) if note else (seconds, 0.1, accuracy)
        text = ("2026-11-21T10:00:00+00:00", recipe, "torch", provider, "", number)
        return records.Record(*text, values[0], None, *values[1:], note, f"{provider} 1", "3.11", "a machine", "abc")

    return [
        one
        for i, accuracy in enumerate(accuracies)
        for one in (record("torch", i, theirs, 0.99), record("fastmnist", i, ours, accuracy))
    ]


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, ["10 seeds"]),
        ({"accuracies": [0.991] * 10}, []),
        ({"accuracies": [0.9905] * 9 + [0.9879]}, ["every seed >= 98.8%"]),
        ({"accuracies": [0.9899] * 10}, ["mean >= 99.0%"]),
        ({"accuracies": [0.991] * 10, "theirs": 3.9}, [">= 4 x"]),
        ({"note": "not available: no torch"}, ["not available: no torch"]),
    ],
)
def test_goals(changes, missed):
    outcome = bench.Outcome.of(fits(**changes))
    assert outcome.missed(bench.RECIPES["99.0"]) == missed
    line = bench.line("99.0", outcome)
    assert line.count("|") == bench.HEADER[0].count("|")
    assert ("missed" in line) == bool(missed)


def test_table_shows_the_last_run_of_each_recipe():
    text = bench.table([*fits(accuracies=[0.5] * 10), *fits("simple", ours=20.0)])
    assert "| 10 | 50.00% +- 0.00 (50.00%) | 1.00 | 5.00 (99.00%) | 5.00 x | mean >= 99.0%" in text
    assert '| `layers="simple"` with its recipe | 2 | 99.15% +- 0.07 (99.10%) | 20.00 |' in text
    assert bench.table([]) == "No records yet."


def test_readme_shows_the_records():
    text = bench.README.read_text(encoding="utf-8")
    assert bench.updated(text, records.load(bench.RESULTS)) == text, "run `make tables`"
    with pytest.raises(ValueError, match="once each"):
        bench.updated("", [])


def test_recipes_can_be_trained():
    """Each on a few images, in one epoch; the compiled network of each, its last batch short."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (150, 28, 28)).astype(np.uint8), np.arange(150) % 10
    assert NAMED.keys() == ARCHITECTURES.keys()
    for name in (*to_accuracy.RECIPES, "lenet5", "fast"):
        model = CNNClassifier(**(to_accuracy.arguments(name) | {"max_iter": 1}), random_state=0, backend="numba")
        assert np.isfinite(model.fit(X[:70], y[:70]).loss_), name


def test_fast_is_what_the_defaults_are():
    assert NAMED["fast"] == {"layers": CNNClassifier().layers}
    assert to_accuracy.arguments("default") == {}


def test_a_small_training_reaches_its_accuracy():
    """The record's network and learning on a twelfth of MNIST."""
    from fastmnist import load_mnist

    X, y = load_mnist("train", return_X_y=True)
    model = CNNClassifier(**to_accuracy.arguments("99.0"), random_state=0, backend="numba").fit(X[:5000], y[:5000])
    assert model.score(X[-2000:], y[-2000:]) > 0.95
