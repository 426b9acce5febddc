"""The per-class report: scikit-learn's numbers, to the last bits."""

import io

import numpy as np
import pytest
from rich.console import Console
from sklearn import metrics

from fastmnist.evaluation.report import classification_report


def flatten(report: dict) -> dict:
    return {
        (name, key): number
        for name, value in report.items()
        for key, number in (value.items() if isinstance(value, dict) else [("", value)])
    }


@pytest.mark.parametrize(
    ("classes", "never_predicted", "never_true"),
    [
        (range(10), (), ()),
        (range(-3, 4), (0,), (2,)),
        (["ant", "bee", "wasp"], ("bee",), ()),
        ([True, False], (), ()),
        ([7], (), ()),
    ],
)
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_equals_scikit_learn(classes, never_predicted, never_true):
    rng = np.random.default_rng(0)
    for n in (1, 7, 500):
        y_true = rng.choice([c for c in classes if c not in never_true], n)
        y_pred = np.where(rng.random(n) < 0.6, y_true, rng.choice(list(classes), n))
        y_pred = np.where(np.isin(y_pred, never_predicted), classes[-1], y_pred)
        report = classification_report(y_true, y_pred)
        expected = flatten(metrics.classification_report(y_true, y_pred, output_dict=True, zero_division=0))
        assert flatten(report.as_dict()) == pytest.approx(expected, abs=1e-15)
        np.testing.assert_array_equal(report.confusion, metrics.confusion_matrix(y_true, y_pred))
        assert report.accuracy == pytest.approx(metrics.accuracy_score(y_true, y_pred))


def test_a_worked_example():
    report = classification_report([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(report.confusion, [[2, 1, 0], [0, 1, 1], [0, 0, 1]])
    np.testing.assert_allclose(report.precision, [1, 1 / 2, 1 / 2])
    np.testing.assert_allclose(report.recall, [2 / 3, 1 / 2, 1])
    np.testing.assert_allclose(report.f1, [4 / 5, 1 / 2, 2 / 3])
    np.testing.assert_array_equal(report.support, [3, 2, 1])
    assert report.accuracy == pytest.approx(4 / 6)
    assert report.averages()["macro avg"][0] == pytest.approx(2 / 3)
    assert report.averages()["weighted avg"][0] == pytest.approx((3 + 1 + 1 / 2) / 6)


def test_given_labels_keep_their_order_and_may_be_absent():
    report = classification_report(["a", "b"], ["a", "a"], labels=["c", "b", "a"])
    np.testing.assert_array_equal(report.labels, ["c", "b", "a"])
    np.testing.assert_array_equal(report.confusion, [[0, 0, 0], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(report.f1, [0, 0, 2 / 3])


def test_bad_input():
    with pytest.raises(ValueError, match=r"of one length.*got shapes \(2,\) and \(3,\)"):
        classification_report([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="not empty"):
        classification_report([], [])
    with pytest.raises(ValueError, match=r"missing: \[3\]. Leave labels out"):
        classification_report([1, 3], [1, 1], labels=[1, 2])


def test_the_table_shows_every_number():
    report = classification_report([0, 0, 0, 1], [0, 0, 1, 1])
    text = io.StringIO()
    Console(file=text, width=100).print(report.as_table())
    rows = [line.split() for line in text.getvalue().replace("│", " ").splitlines()]
    assert ["0", "1.0000", "0.6667", "0.8000", "3"] in rows
    assert ["1", "0.5000", "1.0000", "0.6667", "1"] in rows
    assert ["accuracy", "0.7500", "4"] in rows
    assert ["weighted", "avg", "0.8750", "0.7500", "0.7667", "4"] in rows


def test_labels_are_no_markup():
    text = io.StringIO()
    Console(file=text, width=100).print(classification_report(["[red]"], ["[red]"]).as_table())
    assert "[red]" in text.getvalue()
