"""Saved models: everything comes back, nothing runs, no file is ever lost."""

import contextlib
import json
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from sklearn.base import is_classifier
from sklearn.exceptions import NotFittedError

from fastmnist import LogisticRegression, MLPClassifier, OneVsRestLogisticRegression, load_model
from fastmnist.backends import BackendUnavailable
from fastmnist.estimators import serialization
from fastmnist.estimators.serialization import ModelFileError, save_model
from fastmnist.files import check_writable, write_atomically
from fastmnist.network.schedules import Cosine

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 12)).astype(np.uint8)
Y = (X[:, :4].sum(axis=1) // 200).astype(np.int64)


def mlp(**parameters):
    return MLPClassifier((8, 5), max_iter=3, batch_size=16, backend="numpy", random_state=0, tol=0, **parameters)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    mlp(solver="sgd").fit(X, Y).save(path)
    return path


def equal(a, b):
    """Same type and same value, arrays to the last bit."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            equal(one, other)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            equal(a[key], b[key])
    elif isinstance(a, float) and np.isnan(a):
        assert np.isnan(b)
    elif isinstance(a, np.random.RandomState):
        equal(a.get_state(legacy=True), b.get_state(legacy=True))
    else:
        assert a == b


def fitted(estimator):
    return {name: value for name, value in vars(estimator).items() if name.endswith("_") and not name.startswith("_")}


pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize(
    "estimator",
    [
        mlp(),
        mlp(solver="sgd", dropout=[0.1, 0.2], schedule="cosine", record_steps=True, class_weight={0: 1.0, 1: 2.5}),
        mlp(early_stopping=True, n_iter_no_change=np.inf, schedule=Cosine(final=0.1)),
        MLPClassifier([6], solver="lbfgs", max_iter=5, backend="numpy", random_state=np.random.RandomState(3)),
        LogisticRegression(max_iter=5, backend="numpy", class_weight="balanced", C=np.inf),
        OneVsRestLogisticRegression(max_iter=5, backend="numpy", C=np.float32(0.5)),
    ],
    ids=lambda e: f"{type(e).__name__}-{e.solver}",
)
@pytest.mark.parametrize("binary", [False, True])
def test_everything_comes_back(tmp_path, estimator, binary):
    y = (Y > 2).astype(int) if binary else Y
    estimator.fit(X, y)
    estimator.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert type(again) is type(estimator)
    equal(again.get_params(), estimator.get_params())
    equal(fitted(again), fitted(estimator))
    for method in ("predict", "predict_proba"):
        equal(getattr(again, method)(X), getattr(estimator, method)(X))
    assert again.score(X, y) == estimator.score(X, y)


@pytest.mark.parametrize(
    "classes",
    [
        np.array([-3, 0, 7, 9], np.int16),
        np.array([-1.0, 0.0, 1.0, 2.0], np.float32),
        np.array(["ant", "bee", "Ünïcode", ""]),
        np.array(["one", "two", "three", "four"], object),
        np.array([False, True]),
    ],
    ids=lambda c: c.dtype.str,
)
def test_classes_of_any_type(tmp_path, classes):
    estimator = LogisticRegression(max_iter=3, backend="numpy").fit(X, classes[Y % len(classes)])
    estimator.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    equal(again.classes_, estimator.classes_)
    equal(again.predict(X), estimator.predict(X))


def test_feature_names_come_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.astype(np.float64), columns=[f"pixel {i}" for i in range(12)])
    estimator = mlp().fit(frame, Y)
    estimator.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    equal(again.feature_names_in_, estimator.feature_names_in_)
    equal(again.predict_proba(frame), estimator.predict_proba(frame))


def test_compiled_code_predicts_the_same_bits(tmp_path):
    estimator = mlp().set_params(backend="numba", n_threads=1).fit(X, Y)
    estimator.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    equal(again.predict_proba(X), estimator.predict_proba(X))
    again.set_params(backend="numpy")
    np.testing.assert_allclose(again.predict_proba(X), estimator.predict_proba(X), atol=1e-6)


def test_a_model_of_a_missing_backend_predicts_on_another(tmp_path, monkeypatch):
    estimator = mlp().set_params(backend="auto").fit(X, Y)
    estimator.backend_ = "cupy"  # as if it had been fitted on a machine with a GPU
    estimator.save(tmp_path / "m")
    np.testing.assert_allclose(load_model(tmp_path / "m").predict_proba(X), estimator.predict_proba(X), atol=1e-6)


def test_a_loaded_model_does_not_fall_back_from_what_the_user_asks_for(saved, monkeypatch):
    monkeypatch.setenv("FASTMNIST_LIBCUDA", "/nowhere/libcuda.so")
    with pytest.raises(BackendUnavailable, match="backend 'cupy'"):
        load_model(saved).set_params(backend="cupy").predict(X)


def test_training_goes_on_after_loading(saved):
    again = load_model(saved)
    again.partial_fit(X, Y)
    assert len(again.loss_curve_) == 4


# --- what is refused when saving --------------------------------------------------------------------------------------


def test_an_unfitted_model_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        mlp().save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_other_classes_are_refused(tmp_path):
    class Mine(LogisticRegression):
        pass

    with pytest.raises(
        TypeError, match=r"takes a fitted LogisticRegression, .*RandomForestClassifier; got Mine\. Pickle"
    ):
        save_model(Mine(backend="numpy").fit(X, Y), tmp_path / "m")


def test_values_without_a_form_are_refused_by_name(tmp_path):
    estimator = mlp().fit(X, Y).set_params(class_weight={0: object()})
    with pytest.raises(TypeError, match=r"class_weight\.0 is a object, which can't be saved"):
        estimator.save(tmp_path / "m")
    estimator.set_params(class_weight=None).extra_ = np.ones(2, np.complex64)
    with pytest.raises(TypeError, match="extra_ is an array of complex64, which can't be saved"):
        estimator.save(tmp_path / "m")
    estimator.extra_ = np.longdouble(1)
    with pytest.raises(TypeError, match="extra_ is a longdouble, which can't be saved"):
        estimator.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# --- what is refused when loading -------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"can't be read: No such file or directory. Check the path.*nothing\.st"
    ):
        load_model(tmp_path / "nothing.st")


def test_a_folder(tmp_path):
    with pytest.raises(IsADirectoryError, match="Name a file, not a folder"):
        load_model(tmp_path)


def test_any_truncation_is_noticed(saved, tmp_path):
    content = saved.read_bytes()
    for length in (0, 1, 7, 8, 9, 200, len(content) // 2, len(content) - 1):
        (tmp_path / "short").write_bytes(content[:length])
        with pytest.raises(
            ModelFileError, match=r"short: damaged, truncated or not a model file \(.*Save the model again"
        ):
            load_model(tmp_path / "short")


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04 a zip", b"\x80\x04\x95pickle" * 9, b"\xff" * 64, struct.pack("<Q", 1 << 60) + b"{}", b"{}" * 50],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ModelFileError, match="other: damaged, truncated or not a model file"):
        load_model(tmp_path / "other")


def test_other_safetensors_are_refused(tmp_path):
    safetensors.numpy.save_file({"weight": np.ones(3)}, tmp_path / "net.safetensors")
    with pytest.raises(
        ModelFileError, match=r"net.safetensors: a safetensors file, but not a model saved by fastmnist"
    ):
        load_model(tmp_path / "net.safetensors")


def tampered(saved: Path, change) -> Path:
    """The saved model after `change(metadata, model, tensors)`."""
    with safetensors.safe_open(saved, framework="numpy") as file:
        metadata = file.metadata()
    tensors = safetensors.numpy.load_file(saved)
    model = json.loads(metadata["model"])
    change(metadata, model, tensors)
    metadata["model"] = json.dumps(model)
    safetensors.numpy.save_file(tensors, saved, metadata)
    return saved


def test_a_newer_format_is_refused_with_the_command(saved):
    tampered(saved, lambda metadata, model, tensors: metadata.update(format_version="2", fastmnist_version="9.9"))
    with pytest.raises(
        ModelFileError, match=r"format version 2 by fastmnist 9\.9; this is .* Run: pip install --upgrade"
    ):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.update({"class": "TransformerClassifier"}), "unknown class 'TransformerClassifier'"),
        (lambda model: model["parameters"].update(new_option=1), "MLPClassifier has no parameter new_option"),
        (lambda model: model["fitted"].update(t_={"pickle": "..."}), "unknown type of value 'pickle'"),
        (
            lambda model: model["parameters"].update(schedule={"schedule": "Warp", "fields": {}}),
            "unknown schedule 'Warp'",
        ),
    ],
)
def test_what_a_newer_version_may_have_written(saved, change, message):
    tampered(saved, lambda metadata, model, tensors: change(model))
    with pytest.raises(ModelFileError, match=f"{message}.*saved by fastmnist .*pip install --upgrade fastmnist"):
        load_model(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda model, tensors: model.pop("fitted"),
        lambda model, tensors: model["fitted"].pop("coefs_"),
        lambda model, tensors: model["fitted"].update(coefs_=[{"tensor": "missing"}]),
        lambda model, tensors: model["fitted"].update(__class__=1),
        lambda model, tensors: model["fitted"].update(predict=1),
        lambda model, tensors: model["fitted"].update(classes_={"strings": ["a"], "dtype": "O", "shape": [1]}),
        lambda model, tensors: model["fitted"].update(classes_={}),
        lambda model, tensors: model["fitted"].update(classes_=3),
        # Weights of other shapes or types than the network's would let compiled code read beyond them.
        lambda model, tensors: tensors.update({"coefs_.0": np.ones((2, 2), np.float32)}),
        lambda model, tensors: tensors.update({"coefs_.0": tensors["coefs_.0"].astype(np.int32)}),
        lambda model, tensors: model["fitted"].update(n_features_in_=10_000),
        lambda model, tensors: model["parameters"].update(hidden_layer_sizes=[1_000_000]),
    ],
)
def test_a_description_that_does_not_fit_is_refused(saved, change):
    tampered(saved, lambda metadata, model, tensors: change(model, tensors))
    with pytest.raises(ModelFileError, match="its description is damaged"):
        load_model(saved)


def test_every_changed_byte_of_the_description_is_survived(saved):
    content = bytearray(saved.read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for at in range(0, header, 37):
        damaged = content.copy()
        damaged[at] ^= 0x15
        saved.write_bytes(damaged)
        with contextlib.suppress(ModelFileError):
            load_model(saved)  # a changed digit of a number is still a model


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_failure_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"No space left on device. A file that was there before is unchanged. Free some space"
    ):
        write_atomically(path, b"new")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def run_python(code: str, *arguments: object, **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_real_limit_keeps_the_old_file(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"old")
    process = run_python(
        "import sys; from fastmnist.files import write_atomically; write_atomically(sys.argv[1], b'n' * 10**6)",
        path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "A file that was there before is unchanged" in error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_process_keeps_a_whole_file(tmp_path):
    path = tmp_path / "m"
    process = run_python(
        """
        import itertools, sys
        from fastmnist.files import write_atomically
        for i in itertools.count():
            write_atomically(sys.argv[1], bytes([i % 256]) * 3_000_000)
            if i == 2:
                print("going", flush=True)
        """,
        path,
    )
    assert process.stdout.readline() == "going\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    content = path.read_bytes()
    assert len(content) == 3_000_000
    assert len(set(content)) == 1


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"can't be written: .*Create its folder first.*absent"):
        write_atomically(tmp_path / "absent" / "m", b"")


def test_permissions_and_links_are_kept(tmp_path):
    path, link = tmp_path / "m", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_atomically(link, b"new")
    assert path.read_bytes() == b"new"
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_has_the_usual_permissions(tmp_path):
    write_atomically(tmp_path / "m", b"")
    (tmp_path / "other").touch()
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_check_writable_leaves_no_trace(tmp_path):
    (tmp_path / "m").write_bytes(b"old")
    check_writable(tmp_path / "m")
    check_writable(tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_bytes() == b"old"
    with pytest.raises(IsADirectoryError, match="Name a file"):
        check_writable(tmp_path)
    with pytest.raises(OSError, match="can't be written"):
        check_writable(tmp_path / "m" / "below a file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("write", [check_writable, lambda path: write_atomically(path, b"new")])
def test_devices_and_pipes_are_not_replaced(write, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="a device, pipe or socket is no place for a result; name a file"):
        write(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_every_public_estimator_can_be_saved():
    from fastmnist import estimators

    classifiers = {name for name in estimators.__all__ if is_classifier(getattr(estimators, name)())}
    assert set(serialization._CLASSES) == classifiers


@pytest.mark.parametrize("name", ["model.pkl", "model.JSON"])
def test_a_name_that_promises_another_format_is_warned_of_at_the_user_s_line(saved, tmp_path, name):
    path = tmp_path / name
    with pytest.warns(UserWarning, match=f"{name} is a safetensors file, .*Call it .safetensors") as seen:
        load_model(saved).save(path)
    assert [warning.filename for warning in seen] == [__file__]
    np.testing.assert_array_equal(load_model(path).predict(X), load_model(saved).predict(X))


@pytest.mark.parametrize("name", ["model.safetensors", "model", "model.v2"])
def test_other_names_are_not_warned_of(saved, tmp_path, name, recwarn):
    load_model(saved).save(tmp_path / name)
    assert not recwarn.list
