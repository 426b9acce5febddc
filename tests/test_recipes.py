"""Published work: the sources' splits, every recipe in its quick form, what is kept, judged and shown."""

from __future__ import annotations

import json
import re
from functools import cache

import numpy as np
import pytest
from click.testing import CliRunner

from fastmnist.cli import main
from fastmnist.evaluation import classification_report
from fastmnist.recipes import RECIPES, find, page, pictures, running
from fastmnist.recipes.page import cells, write_page
from fastmnist.recipes.peer_times import COLUMNS, RECORDS, PeerTime, Ratio, peer_times
from fastmnist.recipes.results import RecipeResult, Run, results_file, rows_of, verdict
from fastmnist.recipes.running import Options, reproduce
from fastmnist.recipes.splits import SPLITS
from fastmnist.training.history import EpochRecord

QUICK = Options(quick=True)


@cache
def quick(name):
    """Result and what was told meanwhile; tests only read it."""
    told = []
    return reproduce(RECIPES[name], QUICK, told.append), told


def sizes(split):
    parts = (split.train, split.validation, split.test)
    return [None if part is None else len(part[1]) for part in parts]


# --- splits -----------------------------------------------------------------------------------------------------------


def test_the_split_of_sklearn_softmax_has_the_published_supports():
    split = SPLITS[RECIPES["sklearn-softmax"].split](0)
    assert sizes(split) == [56_000, None, 14_000]
    supports = [1343, 1600, 1380, 1433, 1295, 1273, 1396, 1503, 1357, 1420]
    assert classification_report(split.test[1], split.test[1]).support.tolist() == supports


def test_keras_mlp_validates_on_the_last_tenth_1575_steps_an_epoch():
    recipe = RECIPES["keras-mlp"]
    split, whole = SPLITS[recipe.split](0), SPLITS["56,000 / 14,000"](0)
    assert sizes(split) == [50_400, 5_600, 14_000]
    assert -(-50_400 // recipe.systems[0].parameters["batch_size"]) == 1575
    np.testing.assert_array_equal(split.validation[0], whole.train[0][50_400:])
    np.testing.assert_array_equal(split.test[1], whole.test[1])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ova-logistic"], [56_000, None, 14_000]),
        (["scratch-mlp-sigmoid", "scratch-mlp-tanh", "scratch-mlp-relu"], [50_000, 10_000, 10_000]),
        (["pytorch-mlp-adam", "pytorch-mlp-l2"], [48_000, 12_000, 10_000]),
        (["random-forest", "fcnn", "cnn", "cnn-simple", "learning-rates", "next-steps"], [60_000, None, 10_000]),
    ],
)
def test_the_other_splits(names, expected):
    for split in {RECIPES[name].split for name in names}:
        assert sizes(SPLITS[split](0)) == expected


def test_a_split_of_unknown_seed_differs_from_seed_to_seed():
    one, other = (SPLITS[RECIPES["ova-logistic"].split](seed) for seed in (0, 1))
    assert not np.array_equal(one.test[1], other.test[1])


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_those_that_are_known():
    with pytest.raises(
        ValueError, match=r"unknown recipe 'nosuch'; there are: sklearn-softmax, keras-mlp, .*cnn-simple"
    ):
        find(("fcnn", "nosuch"))
    assert [recipe.name for recipe in find(("cnn", "fcnn"))] == ["fcnn", "cnn"]
    assert len(find(())) == len(RECIPES) == 14


@pytest.mark.parametrize("name", RECIPES)
def test_quick(name):
    recipe = RECIPES[name]
    result, told = quick(name)
    rows = rows_of(recipe, result)
    assert result.complete and len(result.runs) == len(recipe.systems) and len(told) >= len(recipe.systems)
    assert len(rows) == sum(len(system.lines) for system in recipe.systems)
    assert all(0 <= row.mean <= 100 and row.n == 1 and row.deviation is None and row.seconds > 0 for row in rows)
    assert {row.verdict for row in rows} <= {"", "excepted", "not judged"}  # two epochs prove nothing
    for run in result.runs:
        assert sum(map(sum, run.confusion)) == run.n_test == 200 and run.n_train == 500


def test_validation_chooses_what_was_not_published():
    result, _ = quick("ova-logistic")
    assert [found["learning_rate_init"] for found in result.chosen_from] == [0.1, 0.3, 1.0]
    best = max(result.chosen_from, key=lambda found: found["validation_accuracy"])
    assert result.chosen == {name: best[name] for name in ("learning_rate_init", "max_iter")}


def test_one_vs_all_tells_binary_accuracies_from_those_of_images():
    metrics = quick("ova-logistic")[0].runs[0].metrics
    assert metrics["binary_mean"] == pytest.approx(np.mean([metrics[f"binary_{k}"] for k in range(10)]))
    assert metrics["binary_mean"] > metrics["accuracy"] + 0.1
    assert round(0.972993 * 140_000) / 140_000 == pytest.approx(0.972993, abs=5e-7)  # the published mean, as decisions
    assert abs(round(0.972993 * 14_000) / 14_000 - 0.972993) > 5e-6  # but not as images


def test_one_vs_all_tells_the_cost_of_each_digit_as_it_descends():
    result, told = quick("ova-logistic")
    costs = [line for line in told if ", seed 0, iteration 2 of 2, cost of each digit: 0: " in line]
    assert len(costs) == 2 and costs[0].count(":") == 11 and costs[1].startswith("ova-logistic (digit 0 alone)")
    (run,) = result.of("")
    told_last = [float(part.rpartition(" ")[2]) for part in costs[0].partition("digit: ")[2].split(", ")]
    np.testing.assert_allclose(told_last, [curve[-1] for curve in run.extra["cost_by_class"]["costs"]], atol=5e-5)
    assert told.index(costs[0]) < next(i for i, line in enumerate(told) if "9: " in line and "%" in line)


@pytest.mark.parametrize(("last", "expected"), [(3, [1, 2, 3]), (50, [1, 10, 20, 30, 40, 50])])
def test_costs_are_told_a_few_times_however_many_iterations_there_are(last, expected):
    told = []
    listen = running._telling_costs("ova", RECIPES["ova-logistic"].systems[1], told.append)
    for epoch in range(1, last + 1):
        listen(EpochRecord(epoch, last, 0.5, None, None, None, 0.1, 0.0, np.array([0.5])))
    assert told == [f"ova, iteration {n} of {last}, cost of each digit: 0: 0.5000" for n in expected]


def test_ctrl_c_keeps_what_is_complete_and_the_next_call_goes_on(tmp_path, monkeypatch):
    recipe, options = RECIPES["pytorch-mlp-adam"], Options(quick=True, out=tmp_path)
    fit, fitted = running._fit, []

    def interrupted_at_the_second(*arguments):
        if fitted:
            raise KeyboardInterrupt
        fitted.append(arguments)
        return fit(*arguments)

    monkeypatch.setattr(running, "_fit", interrupted_at_the_second)
    first = reproduce(recipe, options)
    assert not first.complete and len(first.runs) == 1
    monkeypatch.setattr(running, "_fit", fit)
    told = []
    second = reproduce(recipe, options, told.append)
    assert second.complete and second.runs[0] == first.runs[0] and len(told) == 1
    again = reproduce(recipe, options, told.append)
    assert again == second and "kept from" in told[-1]
    with pytest.raises(ValueError, match=r"pytorch-mlp-adam.json has results of other settings.*--fresh"):
        reproduce(recipe, Options(seeds=1, out=tmp_path))


# --- what counts as met -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published", "mean", "deviation", "n", "expected"),
    [
        ("fcnn", None, 97.0, 0.1, 5, ""),
        ("fcnn", 97.0, 96.81, 0.1, 5, "met"),
        ("fcnn", 97.0, 96.79, 0.1, 5, "missed"),
        ("fcnn", 97.0, 97.5, 0.1, 4, "not judged"),
        ("fcnn", 97.0, float("nan"), 0.1, 5, "missed"),
        ("sklearn-softmax", 92.04, 91.95, None, 1, "met"),
        ("sklearn-softmax", 92.04, 91.93, None, 1, "missed"),
        ("pytorch-mlp-l2", 10.0, 96.0, 0.1, 5, "excepted"),
        ("scratch-mlp-sigmoid", 66.0, 11.0, 0.1, 5, "excepted"),
    ],
)
def test_verdict(name, published, mean, deviation, n, expected):
    assert verdict(RECIPES[name], published, mean, deviation, n) == expected


def result_of(recipe, *accuracies):
    """As if every system of a recipe had been run with so many seeds."""
    names = ("accuracy", "precision", "recall", "f1")
    runs = [
        Run(system.name, seed, dict.fromkeys(names, value), 2.0, 10, "epoch", "numba", 60_000, 10_000)
        for system in recipe.systems
        for seed, value in enumerate(accuracies)
    ]
    return RecipeResult(recipe.name, "", False, "a machine", "0", "2026-01-01", runs=runs, complete=True)


def fcnn_of(accuracies):
    return result_of(RECIPES["fcnn"], *accuracies)


def test_a_row_has_mean_and_deviation_of_the_seeds():
    (row,) = rows_of(RECIPES["fcnn"], fcnn_of([0.97, 0.98, 0.97, 0.98, 0.975]))
    assert row.ours == "97.50 ± 0.50" and row.verdict == "met" and row.n == 5
    assert row.our_time == "2.00 s a fit, 0.20 s an epoch"
    assert cells(row)[:4] == ("fcnn", "97.00", "97.50 ± 0.50", "met")


def test_the_overview_has_what_tells_ten_digits_apart(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(pictures.figures, "time_accuracy", lambda points, title: drawn.extend(points))
    monkeypatch.setattr(pictures.figures, "save", lambda figure, path: None)
    names = ("ova-logistic", "pytorch-mlp-adam", "scratch-mlp-sigmoid", "next-steps")
    results = [(RECIPES[name], result_of(RECIPES[name], 0.5)) for name in names]
    pictures.draw_overview(results, tmp_path)
    assert [point.name for point in drawn] == [
        "ova-logistic",
        "pytorch-mlp-adam softmax twice",
        "pytorch-mlp-adam softmax once",
    ]
    assert drawn[0].accuracy == 0.5 and drawn[0].seconds == 2.0


# --- peers' times -----------------------------------------------------------------------------------------------------


def test_peers_times_are_medians_of_the_newest_run(tmp_path):
    path = tmp_path / "times.csv"
    samples = [("2026-01-01", 9.0, 3.0), ("2026-01-02", 3.0, 1.0), ("2026-01-02", 1.0, 0.5), ("2026-01-02", 2.0, 0.2)]
    lines = [",".join(COLUMNS), *(f"{day},fcnn,,torch 2,epoch,{s},,,a machine,{ours},0.1" for day, s, ours in samples)]
    path.write_text("\n".join(lines) + "\n")
    (time,) = peer_times(path).values()
    assert (time.seconds, time.samples, time.date, str(time)) == (2.0, 3, "2026-01-02", "torch 2: 2.00 s an epoch")
    assert (time.ratio.middle, time.ratio.our_seconds) == (3.0, 0.5)  # of 3, 2 and 10; of 1, 0.5 and 0.2
    assert time.ratio.low == pytest.approx(2.4) and time.ratio.high == pytest.approx(7.2)


@pytest.mark.parametrize(("ratio", "expected"), [(24.9, "not reached"), (25.0, "reached"), (None, "")])
def test_a_goal_of_speed_is_judged_by_the_median_of_ratios(monkeypatch, ratio, expected):
    found = None if ratio is None else Ratio(1.0, ratio, 99.0, 0.1, "0.1 abc")
    time = PeerTime("Keras 3", "epoch", 2.5, 7, "batch 32", "a machine", "2026-01-02T03:04:05+00:00", found)
    monkeypatch.setattr(page, "peer_times", lambda: {("keras-mlp", ""): time})
    result = RecipeResult("keras-mlp", "", False, "a machine", "0", "2026-01-01")
    line = next(line for line in page._speed([(RECIPES["keras-mlp"], result)]) if line.startswith("| keras-mlp"))
    assert line.endswith(f"| 7 | 25 | {expected} |")
    assert ("24.9 (1.0 .. 99.0)" in line) == (ratio == 24.9)
    assert page._speed([]) == []


def test_every_record_names_a_system_and_a_machine():
    assert RECORDS.read_text().splitlines()[0].split(",") == list(COLUMNS)
    for (recipe, system), time in peer_times().items():
        assert system in [known.name for known in RECIPES[recipe].systems]
        assert time.seconds > 0 and time.machine and time.unit in ("fit", "epoch", "iteration")


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["reproduce", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def test_the_command_prints_a_table_and_what_differs():
    shown = run("sklearn-softmax", "scratch-mlp-tanh", "--quick")
    assert re.search(r"sklearn-softmax .*92\.04 .*not judged", shown.stdout)
    assert "scratch-mlp-tanh: The source's division" in shown.stdout
    assert "scratch-mlp-tanh, seed 0:" in shown.stderr


def test_json_page_and_pictures(tmp_path):
    names = ("sklearn-softmax", "keras-mlp", "scratch-mlp-relu", "random-forest")
    told = json.loads(run(*names, "--quick", "--json", "--out", tmp_path).stdout)
    assert told["complete"] and told["quick"] and {row["recipe"] for row in told["rows"]} == set(names)
    page = (tmp_path / "README.md").read_text()
    for name in names:
        assert f"## {name}" in page and RecipeResult.load(results_file(tmp_path, name)).complete
    linked = re.findall(r"\]\((\S+\.png)\)", page)
    assert len(linked) == len(set(linked)) >= 16
    for name in linked:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.glob("*.png")} == set(linked)
    # The page is about the folder: a call for one recipe leaves the others on it.
    run("sklearn-softmax", "--quick", "--out", tmp_path)
    assert (tmp_path / "README.md").read_text() == page


def test_every_picture_has_a_way_to_be_drawn():
    known = {*pictures.MODEL_PICTURES, *pictures.RESULT_PICTURES}
    assert {name for recipe in RECIPES.values() for name in recipe.pictures} == known


def test_results_that_are_none_are_refused(tmp_path):
    (tmp_path / "fcnn.json").write_text('{"runs": 3}')
    with pytest.raises(ValueError, match=r"fcnn\.json: not a recipe's results"):
        write_page(tmp_path)


def test_bad_input_is_one_line():
    result = run("nosuch", code=2)
    assert result.stderr.startswith("fastmnist: error: unknown recipe 'nosuch'; there are: sklearn-softmax,")
    assert len(result.stderr.splitlines()) == 1
