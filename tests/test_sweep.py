"""Sweeps: nothing is computed twice, nothing finished is lost, and any joblib backend carries them."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import click
import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from joblib._parallel_backends import ThreadingBackend

from fastmnist import MLPClassifier, RandomForestClassifier
from fastmnist.cli import main
from fastmnist.commands.sweep import SeveralValues
from fastmnist.evaluation import sweep as module
from fastmnist.evaluation.sweep import Data, Run, RunFile, Summary, best, run_key, summarize, sweep

ROOT = Path(__file__).parents[1]


def blobs(n, rng):
    y = rng.integers(0, 3, n)
    return (rng.random((n, 16)) + np.eye(3, 16)[y]).astype(np.float32), y


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return Data(*blobs(90, rng), *blobs(60, rng))


def candidates(rates=(0.1, 0.001), seeds=(0, 1), **parameters):
    parameters = {"max_iter": 3, "backend": "numpy", **parameters}
    return [
        ({"learning_rate_init": rate}, MLPClassifier((4,), learning_rate_init=rate, random_state=seed, **parameters))
        for rate in rates
        for seed in seeds
    ]


def results(runs):
    """What does not depend on the clock."""
    return [(r.key, r.setting, r.seed, r.accuracy, r.diverged, r.history["loss"], r.history["val_loss"]) for r in runs]


# --- fits -------------------------------------------------------------------------------------------------------------


def test_each_run_is_what_the_estimator_gives(data, tmp_path):
    seen = []
    runs = sweep(candidates(), data, RunFile(tmp_path / "s"), on_run=lambda run, i, n: seen.append((run, i, n)))
    assert [(run.setting, run.seed) for run in runs] == [(s, e.random_state) for s, e in candidates()]
    assert seen == [(run, i, 4) for i, run in enumerate(runs, 1)]
    for run, (_, estimator) in zip(runs, candidates(), strict=True):
        with pytest.warns(UserWarning):
            estimator.fit(data.X_train, data.y_train, validation_data=(data.X_test, data.y_test))
        assert run.accuracy == estimator.score(data.X_test, data.y_test)
        assert run.history["loss"] == estimator.loss_curve_
        assert run.history["val_accuracy"] == estimator.history_["val_accuracy"]


def test_a_forest_has_no_epochs_but_a_score(data, tmp_path):
    forest = RandomForestClassifier(3, random_state=0, backend="numpy")
    (run,) = sweep([({"n_estimators": 3}, forest)], data, RunFile(tmp_path / "s"))
    assert run.accuracy > 0.8
    assert run.history["val_loss"] == [None, None, None]


def test_divergence_is_a_result(data, tmp_path):
    runs = sweep(candidates((1e30, 0.1), (0,), solver="sgd"), data, RunFile(tmp_path / "s"))
    assert [run.diverged for run in runs] == [True, False]
    assert runs[0].accuracy == 0
    assert not math.isfinite(runs[0].history["loss"][-1])
    again = sweep(candidates((1e30, 0.1), (0,), solver="sgd"), data, RunFile(tmp_path / "s"))
    assert [summary.n_diverged for summary in summarize(again)] == [1, 0]
    assert again[0].history["loss"][-1] is None  # JSON has no NaN


def test_other_mistakes_are_no_results(data, tmp_path):
    with pytest.raises(ValueError, match="max_iter"):
        sweep(candidates(max_iter=-1), data, RunFile(tmp_path / "s"))
    assert RunFile(tmp_path / "s").read() == {}


def test_what_a_result_depends_on():
    key = run_key(MLPClassifier(random_state=0), "data")
    assert key == run_key(MLPClassifier(random_state=0, n_threads=2, verbose=True), "data")
    others = [
        MLPClassifier(random_state=1),
        MLPClassifier(alpha=0, random_state=0),
        RandomForestClassifier(random_state=0),
    ]
    assert len({key, run_key(MLPClassifier(random_state=0), "other data"), *(run_key(e, "data") for e in others)}) == 5


def test_data_differ_by_a_value_a_type_or_the_split(data):
    changed = data.X_train.copy()
    changed[3, 3] += 1
    variants = [
        data,
        dataclasses.replace(data, X_train=changed),
        dataclasses.replace(data, X_train=data.X_train.astype(np.float64)),
        dataclasses.replace(data, y_train=data.y_train.astype(object)),
        Data(data.X_test, data.y_test, data.X_train, data.y_train),
    ]
    assert len({variant.digest() for variant in variants}) == 5


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fits(monkeypatch):
    """Counts the fits of this process."""
    counted = []
    fit_one = module.fit_one

    def counting(*arguments):
        counted.append(arguments[0])
        return fit_one(*arguments)

    monkeypatch.setattr(module, "fit_one", counting)
    return counted


def test_a_finished_sweep_is_only_read(data, tmp_path, fits):
    first = sweep(candidates(), data, RunFile(tmp_path / "s"))
    assert len(fits) == 4
    second = sweep(candidates(), data, RunFile(tmp_path / "s"))
    assert len(fits) == 4
    assert second == first
    sweep(candidates((0.1, 0.001, 0.01)), data, RunFile(tmp_path / "s"))
    assert len(fits) == 6


def test_an_interrupted_sweep_goes_on(data, tmp_path, fits):
    def interrupt(run, number, total):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(candidates(), data, RunFile(tmp_path / "s"), on_run=interrupt)
    assert len(RunFile(tmp_path / "s").read()) == 3
    fits.clear()
    runs = sweep(candidates(), data, RunFile(tmp_path / "s"))
    assert len(fits) == 1
    assert results(runs) == results(sweep(candidates(), data, RunFile(tmp_path / "whole")))


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_line_is_one_lost_run(data, tmp_path, fits, cut):
    path = tmp_path / "s"
    whole = sweep(candidates(), data, RunFile(path))
    path.write_bytes(path.read_bytes()[:-cut])
    fits.clear()
    assert results(sweep(candidates(), data, RunFile(path))) == results(whole)
    assert len(fits) == (0 if cut == 1 else 1)  # only the newline is missing: the line is whole
    assert len(RunFile(path).read()) == 4


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[]", b"{}", b'"text"', b'{"key": 1}', b"null", b"[" * 100_000], ids=range(7)
)
def test_lines_of_others_are_left_alone(data, tmp_path, line):
    path = tmp_path / "s"
    path.write_bytes(line)
    sweep(candidates((0.1,)), data, RunFile(path))
    assert len(RunFile(path).read()) == 2
    assert path.read_bytes().startswith(line + b"\n")


def test_two_processes_write_one_file(tmp_path):
    code = (
        "import sys; from fastmnist.evaluation.sweep import Run, RunFile; f = RunFile(sys.argv[1])\n"
        "for i in range(60): f.append(Run(f'{sys.argv[2]}{i}', {'text': 'x' * 20000}, i, 0.5, 1.0))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s"), name], cwd=ROOT, stderr=subprocess.PIPE)
        for name in "ab"
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    assert len((tmp_path / "s").read_bytes().splitlines()) == 120
    assert set(RunFile(tmp_path / "s").read()) == {f"{name}{i}" for name in "ab" for i in range(60)}


# --- joblib -----------------------------------------------------------------------------------------------------------


def test_two_jobs_give_the_same_bits(data, tmp_path):
    one = sweep(candidates(), data, RunFile(tmp_path / "1"))
    two = sweep(candidates(), data, RunFile(tmp_path / "2"), n_jobs=2)
    assert results(one) == results(two)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("generators", [True, False])
def test_a_registered_backend_carries_the_sweep(data, tmp_path, generators):
    carried, pools = [], []

    class Elsewhere(ThreadingBackend):
        supports_return_generator = generators

        def configure(self, *arguments, **options):
            pools.append(self)
            return super().configure(*arguments, **options)

        def submit(self, func, callback=None):
            carried.append(func)
            return super().submit(func, callback)

    joblib.register_parallel_backend("elsewhere", Elsewhere)
    try:
        with joblib.parallel_config("elsewhere"):
            runs = sweep(candidates(), data, RunFile(tmp_path / "s"), n_jobs=2)
    finally:
        joblib.parallel.BACKENDS.pop("elsewhere")
    assert len(carried) == 4 and len(pools) == 1
    assert results(runs) == results(sweep(candidates(), data, RunFile(tmp_path / "here")))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_carries_the_command_line_s_sweep(table, tmp_path):
    """In a process of its own, whose cluster ends with it: only where Ray is installed."""
    pytest.importorskip("ray")
    words = ["mlp", "--learning-rate", "0.1", "0.01", "--hidden", "4", "--epochs", "1", "--data", table, "--json"]
    several = ["--n-jobs", "2", "--joblib-backend", "ray", "--file", tmp_path / "ray.jsonl"]
    line = [sys.executable, "-m", "fastmnist", "sweep", *map(str, words + several)]
    there = json.loads(subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    here = json.loads(command(tmp_path, *words).stdout)
    assert [run["key"] for run in there["runs"]] == [run["key"] for run in here["runs"]]
    # NumPy's sums differ in the last bits with the number of BLAS' threads, of which Ray allows one.
    losses = [[loss for run in found["runs"] for loss in run["history"]["loss"]] for found in (there, here)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_summaries_are_means_and_sample_deviations():
    runs = [Run(str(i), {"a": i // 3}, i, x, 1.0 + i) for i, x in enumerate([0.5, 0.7, 0.9, 0.6, 0.8])]
    first, second = summarize(runs)
    assert first == Summary({"a": 0}, 3, 0, pytest.approx(0.7), pytest.approx(0.2), 2.0)
    assert second.deviation == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert best([first, second]) is first  # equal means: the first
    assert summarize(runs[:1])[0].deviation == 0


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "data.npz"
    rng = np.random.default_rng(1)
    (X, y), (X_test, y_test) = blobs(80, rng), blobs(40, rng)
    np.savez(path, x_train=X, y_train=y, x_test=X_test, y_test=y_test)
    return path


def command(folder, *arguments, code=0):
    result = CliRunner().invoke(main, ["sweep", *map(str, arguments), "--file", str(folder / "runs.jsonl")])
    assert result.exit_code == code, result.output
    return result


def test_the_line_of_the_help_works(table, tmp_path):
    line = "mlp --learning-rate 1e-1 1e-2 1e-3 --seeds 2 --n-jobs 1"
    small = ["--epochs", 2, "--backend", "numpy", "--data", table]
    picture = tmp_path / "rates.png"
    result = command(tmp_path, *line.split(), *small, "--out", picture, "--test")
    assert [row.split()[1] for row in result.stdout.splitlines() if row.startswith("│")] == ["0.1", "0.01", "0.001"]
    assert "6 runs in" in result.stdout
    assert "validated on 8 of 80 training samples" in result.stdout
    assert picture.stat().st_size > 1000
    facts = json.loads(command(tmp_path, *line.split(), *small, "--test", "--json").stdout)
    means = [setting["mean"] for setting in facts["settings"]]
    assert facts["best"] == facts["settings"][int(np.argmax(means))]
    assert facts["test"]["n_seeds"] == 2
    assert f"test accuracy {facts['test']['mean']:.4f}" in result.stdout
    assert len(facts["runs"]) == 6


def test_a_grid_of_two_parameters(table, tmp_path):
    facts = json.loads(
        command(
            tmp_path, "mlp", "--hidden", "4", "3,2", "--batch-size", 8, 16, "--seeds", 1, "--epochs", 1, "--data", table,
            "--backend", "numpy", "--json",
        ).stdout
    )  # fmt: skip
    found = [(s["setting"]["hidden_layer_sizes"], s["setting"]["batch_size"]) for s in facts["settings"]]
    assert sorted(found) == [([3, 2], 8), ([3, 2], 16), ([4], 8), ([4], 16)]


@pytest.mark.parametrize(
    ("words", "rates", "rest"),
    [
        ("--rate 1 2 3 --other 4", (1, 2, 3), ()),
        ("--rate 1 --rate 2 3", (1, 2, 3), ()),
        ("--rate=1 2 name", (1, 2), ("name",)),
        ("name --rate .5 2", (0.5, 2), ("name",)),
        ("--other 4 5", (), ("5",)),
        ("--rate 1 -- 2", (1,), ("2",)),
    ],
)
def test_an_option_takes_all_numbers_that_follow(words, rates, rest):
    seen = []

    @click.command(cls=SeveralValues)
    @click.option("--rate", type=float, multiple=True)
    @click.option("--other", type=int)
    @click.argument("rest", nargs=-1)
    def probe(**values):
        seen.append(values)

    probe(words.split(), standalone_mode=False)
    assert seen[0]["rate"] == rates
    assert seen[0]["rest"] == rest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mlp", "--learning-rate", "fast"], "'fast' is not a valid float"),
        (["mlp", "--learning-rate", "1", "2x"], "'2x' is not a valid float"),
        (["softmax", "--learning-rate", "1", "2"], "--learning-rate does nothing with --solver lbfgs"),
        (["mlp", "--trees", "1", "2"], "--trees does nothing for mlp"),
        (["mlp", "--n-jobs", "0"], "--n-jobs must be 1 or more"),
        (["mlp", "--joblib-backend", "nowhere"], "--joblib-backend nowhere"),
        (["mlp", "--joblib-backend", "ray"], "--joblib-backend ray: No module named 'ray"),
        (["mlp", "--batch-size", "8", "16", "--out", "x.png"], "--out draws learning rates"),
        (["mlp", "--learning-rate", "1", "--out", "x.bmp"], "must end in .png"),
    ],
)
def test_bad_input_is_a_line(arguments, message, table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    result = command(tmp_path, *arguments, "--data", table, code=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "runs.jsonl").exists()


def test_ctrl_c_says_where_the_results_are(monkeypatch, table, tmp_path):
    def interrupted(*arguments):
        return None  # what fit_one returns then

    monkeypatch.setattr(module, "fit_one", interrupted)
    result = command(tmp_path, "mlp", "--data", table, code=130)
    assert "what was finished is in" in result.stderr
