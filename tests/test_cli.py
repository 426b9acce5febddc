"""The commands: what they print, where, and how they end."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fastmnist
from fastmnist.cli import main
from fastmnist.kernel_call import Warmup
from fastmnist.kernels.contract import CONTRACT

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for variable in ("FASTMNIST_BACKEND", "FASTMNIST_VERBOSE", "FASTMNIST_NUM_THREADS", "FORCE_COLOR"):
        monkeypatch.delenv(variable, raising=False)


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def error_of(*arguments):
    """The one line on stderr of a command that is refused."""
    result = run(*arguments, code=2)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("fastmnist: error: ")
    return lines[0].removeprefix("fastmnist: error: ")


def digits(n, rng):
    """Pictures of 28 x 28 whose class is where the bright square is."""
    y = rng.integers(0, 3, n)
    X = rng.integers(0, 40, (n, 28, 28)).astype(np.uint8)
    for image, label in zip(X, y, strict=True):
        image[10:18, 4 + 7 * label : 12 + 7 * label] = 250
    return X, y


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    rng = np.random.default_rng(0)
    (X, y), (X_test, y_test) = digits(200, rng), digits(60, rng)
    np.savez(path, x_train=X, y_train=y, x_test=X_test, y_test=y_test)
    return path


@pytest.fixture(scope="module")
def model(data):
    path = data.with_name("model.safetensors")
    run("train", "mlp", "--data", data, "--hidden", "8", "--epochs", 4, "--backend", "numpy", "--save", path, "-q")
    return path


# --- train ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax", "ovr", "mlp"])
def test_train_prints_one_json_object(data, name):
    result = run("train", name, "--data", data, "--epochs", 3, "--backend", "numpy", "--json")
    facts = json.loads(result.stdout)
    assert (facts["model"], facts["backend"], facts["reason"]) == (name, "numpy", "asked for.")
    assert (facts["n_train"], facts["n_test"], facts["epochs"]) == (200, 60, 3)
    assert len(facts["loss_curve"]) == 3
    assert facts["loss_curve"][-1] < facts["loss_curve"][0]
    assert facts["accuracy"] == facts["report"]["accuracy"] > 0.5
    assert set(facts["report"]) == {"0", "1", "2", "accuracy", "macro avg", "weighted avg"}
    assert set(facts["report"]["0"]) == {"precision", "recall", "f1-score", "support"}
    assert np.trace(facts["confusion_matrix"]) == round(60 * facts["accuracy"])
    assert facts["train_seconds"] > 0
    assert facts["compile_seconds"] == 0
    assert facts["interrupted"] is False
    assert facts["saved"] is None


def test_train_a_forest(data, tmp_path):
    saved = tmp_path / "forest.safetensors"
    result = run("train", "forest", "--data", data, "--trees", 7, "--max-depth", 6, "--threads", 1, "--save", saved)
    assert "RandomForestClassifier(max_depth=6, n_estimators=7, n_jobs=1" in result.stdout
    assert "(7 trees, " in result.stdout
    assert "tree 7/7: " in result.stderr
    facts = json.loads(run("train", "forest", "--data", data, "--trees", 7, "--backend", "numpy", "--json").stdout)
    assert (facts["epochs"], facts["unit"], facts["loss_curve"], facts["interrupted"]) == (7, "tree", [], False)
    assert facts["accuracy"] > 0.5
    assert len(fastmnist.load_model(saved).tree_roots_) == 7


def test_train_prints_what_people_want_to_know(data):
    result = run("train", "--data", data, "--epochs", 3, "--backend", "numpy", "--hidden", "16,8", "--batch-size", 20)
    assert "precision" in result.stdout
    assert "weighted avg" in result.stdout
    assert (
        "MLPClassifier(backend='numpy', batch_size=20, hidden_layer_sizes=(16, 8), max_iter=3, random_state=0)"
        in result.stdout
    )
    assert f"data: {data}: 200 rows to train on, 60 to test on" in result.stdout
    assert "backend numpy: asked for." in result.stdout
    assert "compiling 0.00 s, training 0." in result.stdout
    assert "test accuracy " in result.stdout
    assert " on 60 samples" in result.stdout
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "loss " in lines[0]
    assert "training accuracy " in lines[0]


def test_quiet(data):
    result = run("train", "--data", data, "--epochs", 2, "--backend", "numpy", "--quiet")
    assert result.stderr == ""
    assert "precision" not in result.stdout
    assert "test accuracy" in result.stdout


def test_a_terminal_gets_a_bar(data, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    result = run("train", "--data", data, "--epochs", 2, "--backend", "numpy", "--json")
    assert "2/2" in result.stderr
    assert "epoch 1/2:" not in result.stderr
    assert json.loads(result.stdout)["epochs"] == 2


def test_the_same_seed_gives_the_same_bits(data):
    runs = [
        json.loads(run("train", "--data", data, "--epochs", 2, "--backend", "numpy", "--seed", seed, "--json").stdout)
        for seed in (1, 1, 2)
    ]
    assert runs[0]["loss_curve"] == runs[1]["loss_curve"] != runs[2]["loss_curve"]


def test_options_reach_the_estimator(data):
    facts = json.loads(
        run("train", "ovr", "--data", data, "--solver", "sgd", "--learning-rate", 0.05, "--batch-size", 30, "--epochs", 2,
            "--backend", "numba", "--threads", 1, "--seed", 5, "--json").stdout
    )  # fmt: skip
    for part in (
        "solver='sgd'",
        "learning_rate_init=0.05",
        "batch_size=30",
        "max_iter=2",
        "n_threads=1",
        "random_state=5",
    ):
        assert part in facts["description"]
    assert facts["backend"] == "numba"


def test_a_table_without_a_test_part_is_split(tmp_path):
    rows = ["width,height,kind", *(f"{i % 7},{i % 5},{'ab'[i % 7 > 3]}" for i in range(50))]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    options = ("--data", tmp_path / "table.csv", "--label-column", "kind", "--test-size", 0.3, "--json")
    facts = json.loads(run("train", "softmax", *options).stdout)
    assert (facts["n_train"], facts["n_test"]) == (35, 15)
    assert "split with test_size=0.3 and seed=0" in facts["data"]
    assert set(facts["report"]) == {"a", "b", "accuracy", "macro avg", "weighted avg"}


def test_a_solver_that_did_not_converge_gives_one_line(data):
    result = run("train", "softmax", "--data", data, "--epochs", 1, "--backend", "numpy", "--quiet")
    (line,) = result.stderr.splitlines()
    assert line.startswith("fastmnist: warning: lbfgs failed to converge after 1 iteration(s)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["boosting"],
            "'boosting' is not one of 'softmax', 'ovr', 'mlp', 'cnn', 'forest'. Try 'fastmnist train --help'.",
        ),
        (["forest", "--epochs", "3"], "--epochs does nothing for forest, which has trees"),
        (["mlp", "--trees", "3"], "--trees does nothing for mlp, which has no trees."),
        (["forest", "--backend", "cupy"], "random forests are grown and asked on the CPU"),
        (["--backend", "cuda"], "'cuda' is not one of 'auto', 'numpy', 'numba', 'cupy'."),
        (["--backend", "cupy"], "backend 'cupy': GPU: the NVIDIA driver library"),
        (["softmax", "--hidden", "8"], "--hidden is for mlp; softmax has no hidden layers."),
        (["--hidden", "8,x"], "must be integers >= 1 with commas between them, as in 128,64; got '8,x'."),
        (["--hidden", "0"], "must be integers >= 1"),
        (["ovr", "--batch-size", "8"], "--batch-size does nothing with --solver lbfgs"),
        (["softmax", "--learning-rate", "1"], "--learning-rate does nothing with --solver lbfgs"),
        (["--solver", "newton"], "The 'solver' parameter of MLPClassifier must be"),
        (["--epochs", "0"], "Invalid value for '--epochs': must be a whole number of at least 1; got '0'."),
        (["--epochs", "2.5"], "'--epochs': must be a whole number of at least 1; got '2.5'."),
        (["--seed", "-1"], "'--seed': must be a whole number from 0 to 4294967295; got '-1'."),
        (["--learning-rate", "-1"], "Invalid value for '--learning-rate'"),
        (["--learning-rate", "nan"], "Invalid value for '--learning-rate': nan is no number in the range x>0."),
        (["--validation", "nan"], "Invalid value for '--validation': nan is no number in the range 0<=x<1."),
        (["--test-size", "1.5"], "Invalid value for '--test-size'"),
        (["--label-column", "kind"], "label_column is for CSV files only"),
        (["--save", "absent/folder/m"], "absent/folder/m: can't be written: No such file or directory."),
        (["--save", "."], "Invalid value for '--save': File '.' is a directory."),
        (["--nonsense"], "No such option"),
    ],
)
def test_bad_input_ends_with_one_line(data, options, message, monkeypatch):
    monkeypatch.setenv("FASTMNIST_LIBCUDA", "/nowhere/libcuda.so")
    assert message in error_of("train", "--data", data, *options)


def test_too_little_memory_ends_with_one_line(monkeypatch, data):
    def fit(*_, **__):
        raise MemoryError("Unable to allocate 72.8 TiB")

    monkeypatch.setattr(fastmnist.MLPClassifier, "fit", fit)
    assert "not enough memory: Unable to allocate 72.8 TiB. Take a smaller network" in error_of("train", "--data", data)


def test_options_that_need_data():
    assert "--test-size needs --data: MNIST, the default, has its own labels and test part." in error_of(
        "train", "--test-size", "0.5"
    )


def test_unreadable_data(tmp_path):
    assert (
        error_of("train", "--data", tmp_path / "no.npz")
        == f"{tmp_path / 'no.npz'}: no such file or folder. Check the path."
    )
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not a zip")
    assert "bad.npz" in error_of("train", "--data", tmp_path / "bad.npz")
    np.savez(tmp_path / "one.npz", X=np.ones((9, 2)), y=np.ones(9, int))
    assert "at least 2 classes" in error_of("train", "--data", tmp_path / "one.npz")


def test_the_traceback_is_there_on_request(data, monkeypatch):
    monkeypatch.setenv("FASTMNIST_VERBOSE", "traceback")
    result = run("train", "--data", data, "--solver", "newton", code=2)
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("fastmnist: error: The 'solver' parameter")


def test_a_failed_run_leaves_the_old_file(data, tmp_path):
    (tmp_path / "m").write_bytes(b"old")
    error_of("train", "--data", data, "--solver", "newton", "--save", tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


# --- predict ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(data):
    """A file of three pictures, one of each class."""
    X, y = digits(30, np.random.default_rng(1))
    path = data.with_name("pictures.npy")
    np.save(path, np.stack([X[y == label][0] for label in range(3)]))
    return path


def test_predict_prints_labels_and_probabilities(model, pictures):
    lines = run("predict", model, pictures, "--raw").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"{pictures}[{i}]: {i}" for i in range(3)]
    assert "%" in lines[0]


def test_predict_as_json_equals_the_library(model, pictures):
    facts = json.loads(run("predict", model, pictures, "--raw", "--json").stdout)
    expected = fastmnist.load_model(model).predict_proba(np.load(pictures).reshape(3, -1))
    assert [p["label"] for p in facts["predictions"]] == [0, 1, 2]
    assert facts["predictions"][1]["image"] == f"{pictures}[1]"
    found = [list(p["probabilities"].values()) for p in facts["predictions"]]
    np.testing.assert_array_equal(found, expected)
    assert list(facts["predictions"][0]["probabilities"]) == ["0", "1", "2"]


def test_show_draws_what_the_model_saw(model, pictures):
    shown = run("predict", model, pictures, "--raw", "--show").stdout
    assert shown.count("████████") >= 9
    result = run("predict", model, pictures, "--raw", "--show", "--json")
    assert len(json.loads(result.stdout)["predictions"]) == 3
    assert "████████" in result.stderr


def test_pictures_of_any_size_are_brought_into_form(model, tmp_path):
    from PIL import Image

    picture = np.full((90, 120, 3), 255, np.uint8)
    picture[20:70, 50:58] = (20, 30, 90)  # a blue stroke on white
    Image.fromarray(picture).save(tmp_path / "one.png")
    result = run("predict", model, tmp_path / "one.png", "--json", "--show")
    (prediction,) = json.loads(result.stdout)["predictions"]
    assert prediction["image"] == str(tmp_path / "one.png")
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert "█" in result.stderr


def test_predict_refuses_what_is_no_picture_or_model(model, pictures, tmp_path, data):
    assert error_of("predict", tmp_path / "no", pictures) == (
        f"{tmp_path / 'no'}: can't be read: No such file or directory. Check the path."
    )
    assert "damaged, truncated or not a model file" in error_of("predict", data, pictures)
    assert "Missing argument 'IMAGES...'" in error_of("predict", model)
    assert str(tmp_path / "no.png") in error_of("predict", model, tmp_path / "no.png")
    np.save(tmp_path / "small.npy", np.zeros((5, 5), np.uint8))
    assert "small.npy: the model takes 784 pixels; got 5 x 5 = 25" in error_of(
        "predict", model, tmp_path / "small.npy", "--raw"
    )
    assert "small.npy: the picture is blank" in error_of("predict", model, pictures, tmp_path / "small.npy")


# --- what is there, and what would run --------------------------------------------------------------------------------


def test_explain_shows_the_default_network():
    facts = json.loads(run("explain", "--json", "--threads", 2).stdout)
    assert facts["network"][:4] == ["Input(784)", "Dense(128, relu)", "Dense(64, relu)", "Dense(10, identity)"]
    assert "optimizer: Adam(" in facts["network"][5]
    assert facts["n_parameters"] == 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    assert facts["steps"] == 10 * 60_000 // 32
    assert (facts["backend"], facts["n_threads"]) == ("numba", 2)
    assert "s of work in NumPy is worth compiled kernels" in facts["reason"]
    assert any("quad_linear_relu(" in line for line in facts["program"])
    assert any("barrier" in line for line in facts["program"])


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (
            ["softmax", "--backend", "numpy"],
            ["LogisticRegression(backend='numpy'", "solver: lbfgs, full batch", "softmax_cross_entropy("],
        ),
        (["ovr", "--solver", "sgd"], ["OneVsRestLogisticRegression(", "binary_cross_entropy(", "sgd("]),
        (
            ["mlp", "--hidden", "6", "--epochs", "1"],
            ["Dense(6, relu)", "backend numpy, 1 thread(s): auto: an estimated", "adam("],
        ),
    ],
)
def test_explain_shows_network_backend_and_program(data, options, shown):
    text = run("explain", "--data", data, *options).stdout
    for part in shown:
        assert part in text


def test_kernels_lists_the_contract():
    facts = json.loads(run("kernels", "--json").stdout)
    assert [op["name"] for op in facts["kernels"]] == list(CONTRACT)
    linear = next(op for op in facts["kernels"] if op["name"] == "linear")
    assert linear["flops"] == 2 * 32 * 784 * 128
    assert linear["nbytes"] == 4 * (32 * 784 + 784 * 128 + 128 + 32 * 128)
    assert linear["outputs"] == ["y[B,O]"]
    assert linear["backends"] == ["numpy", "numba", "cupy"]
    table = run("kernels").stdout
    for name in CONTRACT:
        assert f"\n{name} " in table
    assert "y[B,O] <- x[B,I]" in table
    assert "B = 32, I = 784, O = 128" in table
    assert max(map(len, table.splitlines())) <= 80


def test_info_tells_what_decides_how_a_fit_runs(monkeypatch):
    monkeypatch.setenv("FASTMNIST_NUM_THREADS", "1")
    monkeypatch.setenv("FASTMNIST_DATA", "~/data")
    facts = json.loads(run("info", "--json").stdout)
    assert facts["version"] == fastmnist.__version__
    assert facts["threads"]["default"] == 1
    assert facts["backends"]["numpy"]["available"] is True
    assert facts["backends"]["cupy"]["reason"].startswith("GPU: ")
    assert facts["gpu"]["code"]
    assert facts["cpu"]["float32_lanes"] in (4, 8, 16)
    assert facts["environment"]["FASTMNIST_NUM_THREADS"]["value"] == "1"
    assert set(facts["caches"]) == {"kernels", "datasets"}
    assert facts["caches"]["datasets"]["path"] == os.path.expanduser("~/data")
    text = run("info").stdout
    for part in ("CPU", "backend numba", "GPU", "cache of kernels", "FASTMNIST_NUM_THREADS", "'1'"):
        assert part in text


def test_info_names_a_wrong_variable(monkeypatch):
    monkeypatch.setenv("FASTMNIST_NUM_THREADS", "many")
    assert "Environment variable FASTMNIST_NUM_THREADS must be an integer >= 1; got 'many'" in error_of("info")


def test_every_environment_variable_is_documented():
    used = set()
    for folder in ("fastmnist", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            words = path.read_text().replace('"', " ").replace("$", " ").replace("`", " ").replace("=", " ").split()
            used |= {word.strip(".,;:()[]'") for word in words if word.startswith("FASTMNIST_")}
    assert used == set(json.loads(run("info", "--json").stdout)["environment"])


def test_warmup_says_what_it_did(monkeypatch, tmp_path):
    def pretend(on_kernel):
        on_kernel("linear", 1, 1)
        return Warmup(tmp_path, 52, 3, 1.25)

    monkeypatch.setattr(fastmnist, "warmup", pretend)
    assert run("warmup").stdout == f"52 kernels are ready, 3 compiled now, in 1.2 s; cache: {tmp_path}\n"
    assert json.loads(run("warmup", "--json").stdout) == {
        "folder": str(tmp_path),
        "kernels": 52,
        "compiled": 3,
        "seconds": 1.25,
    }


@pytest.mark.long
def test_warmup_fills_an_empty_cache(tmp_path):
    for compiled in (True, False):
        result = spawn("warmup", "--json", FASTMNIST_CACHE_DIR=str(tmp_path))
        out, _ = result.communicate(timeout=300)
        facts = json.loads(out)
        assert facts["compiled"] == (facts["kernels"] if compiled else 0)
        assert len(list(Path(facts["folder"]).glob("*.o"))) == facts["kernels"]


# --- the command as a process -----------------------------------------------------------------------------------------


def spawn(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "fastmnist", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_help_and_version():
    assert run("--version").stdout == f"fastmnist, version {fastmnist.__version__}\n"
    for arguments in (["-h"], ["--help"], []):
        text = run(*arguments).stdout
        for command in ("info", "train", "predict", "kernels", "explain", "warmup"):
            assert f"\n  {command} " in text
    for command in ("info", "train", "predict", "kernels", "explain", "warmup"):
        assert "--json" in run(command, "-h").stdout
    message = error_of("trian")
    assert message.startswith("No such command 'trian'.")
    assert message.endswith("Try 'fastmnist --help'.")


def test_python_m_runs_the_command():
    process = spawn("--version")
    assert process.communicate(timeout=60) == (f"fastmnist, version {fastmnist.__version__}\n", "")
    assert process.returncode == 0


def test_bad_input_of_a_process():
    process = spawn("train", "--data", "/no/such/file.npz")
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert error == "fastmnist: error: /no/such/file.npz: no such file or folder. Check the path.\n"


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_ctrl_c_keeps_the_model(data, tmp_path, backend):
    # The learning rate is too small to converge: the run would take hours.
    options = ("--epochs", 10**6, "--learning-rate", 1e-9, "--backend", backend, "--save", tmp_path / "m", "--json")
    process = spawn("train", "--data", data, "--hidden", 4, *options)
    for line in process.stderr:
        if line.startswith("epoch 3/"):
            break
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "fastmnist: warning: Training interrupted by user." in error
    assert error.splitlines()[-1].startswith("fastmnist: interrupted after ")
    assert error.splitlines()[-1].endswith("complete epochs; the model of the last completed step is saved.")
    facts = json.loads(out)
    assert facts["interrupted"] is True
    assert facts["epochs"] >= 2
    again = fastmnist.load_model(tmp_path / "m")
    assert again.interrupted_ is True
    assert again.predict(np.zeros((1, 784), np.uint8)).shape == (1,)


def test_ctrl_c_before_the_training_saves_nothing(monkeypatch, tmp_path, data):
    from fastmnist import datasets

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "load_table", interrupted)
    (tmp_path / "m").write_bytes(b"old")
    result = run("train", "--data", data, "--save", tmp_path / "m", code=130)
    assert result.stderr.strip() == "fastmnist: interrupted before the end; no result."
    assert (tmp_path / "m").read_bytes() == b"old"


def test_a_disk_that_fills_up_while_training_does_not_cost_the_model(monkeypatch, tmp_path, data):
    from fastmnist.estimators import serialization

    write = serialization.write_atomically

    def full(path, content):
        if Path(path).parent == tmp_path:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(serialization, "write_atomically", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path.parent))
    result = run("train", "--data", data, "--epochs", "2", "--save", tmp_path / "m", code=2)
    said = re.search(
        r"No space left.* The trained model was saved to (\S+/m) instead\.", " ".join(result.stderr.split())
    )
    assert fastmnist.load_model(said[1]).n_features_in_ > 0


def test_a_bug_shows_its_traceback_and_exits_1(monkeypatch):
    from fastmnist import system_info

    def bug():
        raise RuntimeError("an assumption was wrong")

    monkeypatch.setattr(system_info, "system_info", bug)
    result = CliRunner().invoke(main, ["info"])
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


def test_a_closed_pipe_is_no_crash():
    process = spawn("kernels", "--json")
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in error


def test_augment_is_for_networks_of_images(data):
    result = run("train", "mlp", "--data", data, "--augment", "--epochs", 1, "--hidden", 4, "--json")
    assert "augment=True" in json.loads(result.stdout)["description"]
    assert error_of("train", "softmax", "--data", data, "--augment").startswith("--augment is for mlp and cnn")
    assert error_of("train", "forest", "--data", data, "--augment").startswith("--augment does nothing for forest")
