"""Metrics, calibration and mistakes: scikit-learn's numbers on well-behaved and on ugly predictions."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression as Peer
from sklearn.svm import LinearSVC

from fastmnist import RandomForestClassifier
from fastmnist.cli import main
from fastmnist.evaluation import classification_report, evaluate, measure_calibration

CASES = {
    "ten classes": (range(10), (), ()),
    "a class that never occurs": (range(-3, 4), (), (2, 3)),
    "a class that is never predicted": (range(5), (0, 4), ()),
    "strings": (["ant", "bee", "wasp"], ("bee",), ()),
    "strings with signs and a long name": (["[red]", "%d", "a class with a rather long name"], (), ()),
    "booleans": ([True, False], (), ()),
    "one class": ([7], (), ()),
}


def predictions(classes, never_predicted, never_true, n, rng):
    y_true = rng.choice([c for c in classes if c not in never_true], n)
    y_pred = np.where(rng.random(n) < 0.6, y_true, rng.choice(list(classes), n))
    return y_true, np.where(np.isin(y_pred, never_predicted), classes[1 % len(classes)], y_pred)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_one_pass_gives_what_scikit_learn_computes_one_by_one(case, weighted):
    rng = np.random.default_rng(len(case))
    for n in (1, 7, 500):
        y_true, y_pred = predictions(*CASES[case], n, rng)
        weights = rng.random(n) * (rng.random(n) < 0.8) + 1e-3 if weighted else None
        report = classification_report(y_true, y_pred, sample_weight=weights)
        scores = metrics.precision_recall_fscore_support(
            y_true, y_pred, average=None, sample_weight=weights, zero_division=0
        )
        ours = (report.precision, report.recall, report.f1, report.support)
        for name, column, expected in zip(("precision", "recall", "F1", "support"), ours, scores, strict=True):
            np.testing.assert_allclose(column, expected, rtol=0, atol=1e-12, err_msg=name)
        matrix = metrics.confusion_matrix(y_true, y_pred, sample_weight=weights)
        np.testing.assert_allclose(report.confusion, matrix, rtol=1e-13, atol=0)
        assert report.confusion.dtype == (np.float64 if weighted else np.int64)
        accuracy = metrics.accuracy_score(y_true, y_pred, sample_weight=weights)
        assert report.accuracy == pytest.approx(accuracy, abs=1e-14)
        # Sums of weights may differ in their last digit, which the text shows; and where nothing at all is right,
        # scikit-learn happens to write whole supports as 1.0.
        if weighted or accuracy == 0:
            continue
        for digits in (2, 4):
            text = metrics.classification_report(y_true, y_pred, digits=digits, zero_division=0)
            assert report.as_text(digits) == text


def test_the_text_of_weighted_reports():
    y_true, y_pred, weights = [0, 0, 1, 1], [0, 1, 1, 1], [0.5, 0.25, 1.0, 2.0]  # binary fractions: sums are exact
    expected = metrics.classification_report(y_true, y_pred, sample_weight=weights, digits=4)
    assert str(classification_report(y_true, y_pred, sample_weight=weights)) == expected


def test_numbers_that_are_equal_are_one_class():
    report = classification_report(np.array([0.0, 1.0, 2.0]), np.array([0, 1, 1], np.uint8))
    np.testing.assert_array_equal(report.confusion, [[1, 0, 0], [0, 1, 0], [0, 1, 0]])


def test_pandas_columns():
    pandas = pytest.importorskip("pandas")
    truth = pandas.Series(["a", "b", "b"])
    assert classification_report(truth, np.array(["a", "b", "a"])).accuracy == pytest.approx(2 / 3)


def test_top_confusions():
    report = classification_report([4, 4, 4, 4, 9, 9, 7, 7], [9, 9, 4, 7, 4, 9, 9, 9])
    found = [(c.true, c.predicted, c.count, c.share) for c in report.top_confusions()]
    assert found == [(4, 9, 2, 0.5), (7, 9, 2, 1.0), (4, 7, 1, 0.25), (9, 4, 1, 0.5)]
    assert [c.true for c in report.top_confusions(1)] == [4]
    assert classification_report([1, 2], [1, 2]).top_confusions() == []
    assert classification_report([1, 2], [2, 1]).top_confusions(0) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1, 2], [1, 1, 2]), "labels must name each class once"),
        (([1, 2], [1, 2], None, [1.0]), r"shape \(2,\); got shape \(1,\)"),
        (([1, 2], [1, 2], None, [1.0, -1.0]), ">= 0 with a positive sum; got -1 to 1"),
        (([1, 2], [1, 2], None, [0.0, 0.0]), "positive sum"),
        (([1, 2], [1, 2], None, [np.nan, 1.0]), "finite"),
        (([1, 2], [0.25, 0.75]), r"y_pred must be classes.*such as 0.25.*argmax"),
        (([1, np.nan], [1, 2]), "y_true must be classes"),
        (([1, 2], ["1", "2"]), "both strings or both numbers"),
        (([1, 2], np.array(["1", "2"], object)), "both strings or both numbers"),
        ((np.array(["1", 2], object), ["1", "2"]), "got both in one array"),
        (([[1, 2]], [[1, 2]]), "one-dimensional"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        classification_report(*arguments)


# --- calibration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bins", [1, 5, 15])
def test_calibration_bins_are_scikit_learn_s(n_bins):
    rng = np.random.default_rng(n_bins)
    confidence = np.concatenate([rng.random(500) ** 0.3, [0.0, 1.0, 0.2, 0.4, 0.6]])  # edges too
    correct = rng.random(len(confidence)) < confidence**2
    result = measure_calibration(correct, confidence, n_bins)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=n_bins)
    filled = result.count > 0
    np.testing.assert_allclose(result.accuracy[filled], accuracy, atol=1e-14)
    np.testing.assert_allclose(result.confidence[filled], mean, atol=1e-14)
    assert result.count.sum() == len(confidence)
    gaps = np.abs(accuracy - mean)
    assert result.expected_error == pytest.approx(gaps @ result.count[filled] / len(confidence))
    assert result.maximum_error == pytest.approx(gaps.max())


def test_a_worked_example_of_calibration():
    result = measure_calibration([True, False, True, True], [0.95, 0.85, 0.9, 0.25], n_bins=2)
    np.testing.assert_array_equal(result.count, [1, 3])
    np.testing.assert_allclose(result.accuracy, [1, 2 / 3])
    np.testing.assert_allclose(result.confidence, [0.25, 0.9])
    assert result.expected_error == pytest.approx((1 * 0.75 + 3 * (0.9 - 2 / 3)) / 4)
    assert result.maximum_error == pytest.approx(0.75)


def test_a_weight_counts_as_so_many_samples():
    correct, confidence = np.array([True, False, True]), np.array([0.9, 0.8, 0.3])
    once = measure_calibration(correct, confidence, 4, sample_weight=[2, 1, 3])
    often = measure_calibration(np.repeat(correct, [2, 1, 3]), np.repeat(confidence, [2, 1, 3]), 4)
    for name in ("count", "confidence", "accuracy", "expected_error", "maximum_error"):
        np.testing.assert_allclose(getattr(once, name), getattr(often, name), err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([True], [1.5]), "probabilities, 0 to 1; got 1.5 to 1.5"),
        (([True], [np.nan]), "probabilities"),
        (([], []), "not empty"),
        (([True], [0.5, 0.5]), "of one length"),
        (([True], [0.5], 0), "n_bins must be >= 1; got 0"),
    ],
)
def test_calibration_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        measure_calibration(*arguments)


# --- a model ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X, y, Peer(max_iter=20).fit(X[::2], y[::2])


@pytest.mark.filterwarnings("ignore")
def test_a_model_is_judged(iris):
    X, y, model = iris
    result = evaluate(model, X, y)
    assert result.accuracy == model.score(X, y)
    np.testing.assert_array_equal(result.wrong, np.flatnonzero(model.predict(X) != y))
    confidence = model.predict_proba(X).max(axis=1)
    assert result.calibration.count.sum() == len(y)
    accuracy, _ = calibration_curve(model.predict(X) == y, confidence, n_bins=15)
    np.testing.assert_allclose(result.calibration.accuracy[result.calibration.count > 0], accuracy)
    worst = result.worst_mistakes()
    assert len(worst) == min(10, len(result.wrong)) > 1
    assert [m.confidence for m in worst] == sorted((confidence[i] for i in result.wrong), reverse=True)[: len(worst)]
    for mistake in worst:
        assert mistake.true == y[mistake.index] != mistake.predicted
        assert mistake.true_probability == model.predict_proba(X)[mistake.index, mistake.true] < mistake.confidence
    facts = json.loads(json.dumps(result.as_dict(2)))
    assert facts["n_mistakes"] == len(result.wrong)
    assert len(facts["worst_mistakes"]) == 2
    assert facts["confusion_matrix"] == metrics.confusion_matrix(y, model.predict(X)).tolist()


@pytest.mark.filterwarnings("ignore")
def test_classes_that_the_model_does_not_know(iris):
    X, y, _ = iris
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    known = names != "versicolor"
    model = Peer(max_iter=20).fit(X[known], names[known])
    result = evaluate(model, X, names)
    assert result.labels.tolist() == ["setosa", "versicolor", "virginica"]
    assert result.report.recall[1] == 0
    assert result.probabilities[:, 1].max() == 0
    assert {m.true for m in result.worst_mistakes(1000)} == {"versicolor"}


@pytest.mark.filterwarnings("ignore")
def test_a_model_is_judged_with_weights(iris):
    X, y, model = iris
    weights = np.arange(len(y)) % 3
    result, often = (
        evaluate(model, X, y, weights),
        evaluate(model, np.repeat(X, weights, axis=0), np.repeat(y, weights)),
    )
    np.testing.assert_array_equal(result.report.confusion, often.report.confusion)
    assert result.calibration.expected_error == pytest.approx(often.calibration.expected_error)
    for arguments, message in (
        ((y[:-1],), "of one length"),
        ((y, [1.0]), "sample_weight"),
        ((y.astype(str),), "of one kind"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(model, X, *arguments)


def test_a_model_without_probabilities(iris):
    X, y, _ = iris
    result = evaluate(LinearSVC(random_state=0).fit(X, y), X, y)
    assert result.calibration is None
    assert json.loads(json.dumps(result.as_dict()))["worst_mistakes"] == []
    with pytest.raises(ValueError, match="no predict_proba"):
        result.worst_mistakes()


@pytest.mark.filterwarnings("ignore")
def test_the_command_says_the_same(iris, tmp_path):
    X, y, _ = iris
    np.savez(tmp_path / "iris.npz", x_train=X[::2], y_train=y[::2], x_test=X[1::2], y_test=y[1::2])
    model = RandomForestClassifier(2, max_depth=1, random_state=0, backend="numpy").fit(X[::2], y[::2])
    model.save(tmp_path / "trees.safetensors")
    command = ["evaluate", str(tmp_path / "trees.safetensors"), "--data", str(tmp_path / "iris.npz")]  # rows, no images
    text, facts = (CliRunner().invoke(main, [*command, *more]) for more in ([], ["--json", "--top", "1"]))
    assert (text.exit_code, facts.exit_code) == (0, 0), text.output
    expected = evaluate(model, X[1::2], y[1::2])
    assert json.loads(facts.stdout) == json.loads(json.dumps({"model": "trees", **expected.as_dict(1)}))
    (confusion,) = expected.report.top_confusions(1)
    assert f"{len(expected.wrong)} of 75 samples are wrong" in text.stdout
    assert f"most frequent: {confusion.true} as {confusion.predicted} ({confusion.count}, " in text.stdout
    assert f"surest mistakes: sample {expected.worst_mistakes(1)[0].index}, " in text.stdout
