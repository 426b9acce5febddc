"""Data that are not in memory as executors read them: trained on window by window, with bounded memory and the same batches."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from fastmnist import LogisticRegression, MLPClassifier, OneVsRestLogisticRegression, load_mnist
from fastmnist.backends.base import ReadingOrder
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.backends.rows import StoredRows, is_mapped
from fastmnist.backends.windows import BLOCKS_A_WINDOW, WindowedExecutor, bind_rows, outputs_of
from fastmnist.evaluation.explanation import explain
from fastmnist.memory import default_memory
from fastmnist.network.layers import Dense
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec
from fastmnist.training.trainer import _shuffle

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
N, FEATURES, CLASSES = 500, 30, 4
SPEC = Spec(FEATURES, (Dense(40, "relu"), Dense(CLASSES)), optimizer=Adam(), l2=1e-3)
EXECUTORS = {
    "numba": lambda spec=SPEC, n_threads=2: CpuExecutor(spec, n_threads=n_threads),
    "numpy": lambda spec=SPEC, n_threads=1: ReferenceExecutor(spec),
}


def _data(share=0.2):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, FEATURES)) * (rng.random((N, FEATURES)) < share)
    return X, rng.integers(0, CLASSES, N).astype(np.int32), rng.random(N).astype(np.float32)


def _parameters(spec=SPEC):
    rng = np.random.default_rng(1)
    return [(rng.normal(size=shape) * 0.3).astype(np.float32) for shape in spec.parameter_shapes]


def _bound(executor, rows_a_window, weighted=True, share=0.2):
    X, y, weight = _data(share)
    memory = 4 * rows_a_window * FEATURES * 4
    rows = StoredRows(X, np.float32)
    return bind_rows(executor, rows, y, weight if weighted else None, pixel_scale=1.0, max_memory=memory)


def _epochs(executor, batch=32):
    executor.set_parameters(_parameters())
    results = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(N)[: N - 7]
        results.append(executor.run_epoch(order, np.full(-(-len(order) // batch), 0.01), batch, seed=seed))
    return executor.get_parameters(), results


# --- executors ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 32, 333])
@pytest.mark.parametrize("share", [0.2, 0.9])
@pytest.mark.parametrize("name", EXECUTORS)
def test_windows_give_the_bits_of_the_whole(name, share, batch):
    whole, windowed = _bound(EXECUTORS[name](), N, share=share), _bound(EXECUTORS[name](), 100, share=share)
    assert not isinstance(whole, WindowedExecutor)
    assert windowed.n_windows == 5
    expected, epochs = _epochs(whole, batch)
    got, ours = _epochs(windowed, batch)
    assert [p.tobytes() for p in got] == [p.tobytes() for p in expected]
    for mine, theirs in zip(ours, epochs, strict=True):
        assert mine.losses.tobytes() == theirs.losses.tobytes()
        assert (mine.hits == theirs.hits).all()
        assert (mine.steps, mine.interrupted) == (theirs.steps, False)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), BinaryCrossEntropy()])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", EXECUTORS)
def test_gradient_by_windows(name, weighted, loss):
    spec = Spec(FEATURES, (Dense(CLASSES),), loss)
    parameters = _parameters(spec)
    results = [
        _bound(EXECUTORS[name](spec), rows, weighted).losses_and_gradient(parameters) for rows in (N, 128, N // 2)
    ]
    for losses, gradient in results[1:]:
        np.testing.assert_allclose(losses, results[0][0], rtol=1e-6)
        for mine, whole in zip(gradient, results[0][1], strict=True):
            np.testing.assert_allclose(mine, whole, atol=1e-6)


def test_windows_without_weight_count_nothing():
    X, y, weight = _data()
    weight[:100] = 0
    spec = Spec(FEATURES, (Dense(CLASSES),))
    windowed = WindowedExecutor(
        CpuExecutor(spec, n_threads=1),
        StoredRows(X, np.float32),
        y,
        weight,
        pixel_scale=1.0,
        max_memory=4 * 100 * FEATURES * 4,
    )
    whole = CpuExecutor(spec, n_threads=1)
    whole.bind(X[100:].astype(np.float32), y[100:], weight[100:])
    loss, _ = windowed.loss_and_gradient(_parameters(spec))
    assert loss == pytest.approx(whole.loss_and_gradient(_parameters(spec))[0], rel=1e-6)


def test_same_bits_on_any_number_of_threads():
    results = [_epochs(_bound(CpuExecutor(SPEC, n_threads=n), 100))[0] for n in (1, 2, 3)]
    assert all([p.tobytes() for p in r] == [p.tobytes() for p in results[0]] for r in results)
    gradients = [_bound(CpuExecutor(SPEC, n_threads=n), 100).losses_and_gradient(_parameters()) for n in (1, 2, 3)]
    assert all(g[0].tobytes() == gradients[0][0].tobytes() for g in gradients)
    assert all(g[1][0].tobytes() == gradients[0][1][0].tobytes() for g in gradients)


@pytest.mark.parametrize("name", EXECUTORS)
def test_outputs_by_blocks(name, monkeypatch):
    X, _, _ = _data()
    executor = EXECUTORS[name]()
    monkeypatch.setattr("fastmnist.backends.rows.BLOCK_BYTES", 120 * FEATURES * 4)
    whole = executor.outputs(_parameters(), X.astype(np.float32))
    by_blocks = outputs_of(executor, _parameters(), StoredRows(X, np.float32), pixel_scale=1.0)
    # NumPy's own sums depend on how many rows it is given.
    np.testing.assert_allclose(by_blocks, whole, atol=1e-6 if name == "numpy" else 0)


def test_an_interrupt_between_windows_ends_the_epoch_after_a_step(monkeypatch):
    executor = _bound(CpuExecutor(SPEC, n_threads=2), 100)
    executor.set_parameters(_parameters())
    reads = []

    def interrupted(self, out=None):
        reads.append(len(self))
        if len(reads) == 3:
            raise KeyboardInterrupt
        return dense(self, out)

    dense = StoredRows.dense
    monkeypatch.setattr(StoredRows, "dense", interrupted)
    epoch = executor.run_epoch(np.arange(N), np.full(N // 20, 0.01), 20)
    assert epoch.interrupted
    assert epoch.steps == 10
    assert len(epoch.losses) == len(epoch.hits) == 200
    monkeypatch.undo()
    whole = _bound(CpuExecutor(SPEC, n_threads=2), N)
    whole.set_parameters(_parameters())
    whole.run_epoch(np.arange(200), np.full(10, 0.01), 20)
    assert [p.tobytes() for p in executor.get_parameters()] == [p.tobytes() for p in whole.get_parameters()]


def test_the_order_of_rows_in_a_file():
    rows = np.random.default_rng(0).permutation(1000)[:900]
    order = _shuffle(rows, ReadingOrder(10, 200), 64, np.random.RandomState(0))
    assert sorted(order) == sorted(rows)
    windows = [order[i : i + 192] for i in range(0, 900, 192)]
    ascending = np.sort(rows)
    for window in windows:
        # At most 21 blocks of ten neighbours each, in no order, from all over the file.
        assert len({np.searchsorted(ascending, row) // 10 for row in window}) <= 21
        assert (np.diff(window) < 0).sum() > len(window) / 3
        assert window.min() < 300
        assert window.max() > 600 or len(window) < 192
    other = _shuffle(rows, ReadingOrder(10, 200), 64, np.random.RandomState(1))
    assert (order != other).any()


# --- estimators ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist():
    X, y = load_mnist("train", return_X_y=True)
    return X[:12_000], y[:12_000]


def _file(path, X):
    np.save(path, X)
    return np.load(path, mmap_mode="r")


def _fit(X, y, **parameters):
    parameters = {"batch_size": 64, "max_iter": 3, "random_state": 0, "backend": "numba", **parameters}
    return MLPClassifier((32,), **parameters).fit(X, y)


@pytest.mark.parametrize("form", ["uint8", "sorted by class", "float64", "Fortran", "int16"])
def test_the_loss_curve_of_a_file_is_that_of_memory(mnist, tmp_path, form):
    X, y = mnist
    if form == "sorted by class":
        order = np.argsort(y, kind="stable")
        X, y = X[order], y[order]
    if form == "float64":
        X = X / 255
    if form == "int16":
        X = X.astype(np.int16) // 128
    stored = _file(tmp_path / "X.npy", np.asfortranarray(X) if form == "Fortran" else X)
    assert is_mapped(stored)
    itemsize = 4 if form in ("float64", "int16") else 1
    windowed = _fit(stored, y, max_memory=len(X) * 784 * itemsize // 3)
    assert "rows at a time are in memory" in windowed.backend_reason_
    # Windows of 1,000 rows, of 7 neighbours each: of one class, if the file is sorted by class. Then a window's shares of the classes
    # are off by a fifth or so, which costs a little.
    np.testing.assert_allclose(windowed.loss_curve_, _fit(X, y).loss_curve_, rtol=0.1 if "sorted" in form else 0.02)
    again = _fit(stored, y, max_memory=len(X) * 784 * itemsize // 3, n_threads=3)
    assert [w.tobytes() for w in again.coefs_] == [w.tobytes() for w in windowed.coefs_]
    np.testing.assert_array_equal(windowed.predict(stored[:3000]), windowed.predict(np.array(X[:3000])))


@pytest.mark.parametrize("model", [LogisticRegression, OneVsRestLogisticRegression])
@pytest.mark.parametrize("solver", ["lbfgs", "gd", "sgd"])
def test_regressions_of_a_file(mnist, tmp_path, model, solver):
    X, y = mnist[0][:3000], mnist[1][:3000]
    stored = _file(tmp_path / "X.npy", X)
    parameters = {"solver": solver, "max_iter": 5, "tol": 1e-3, "backend": "numba", "random_state": 0}
    windowed = model(max_memory=X.nbytes // 2, **parameters).fit(stored, y)
    assert "rows at a time" in windowed.backend_reason_
    rel = 0.02 if solver == "sgd" else 1e-4
    np.testing.assert_allclose(windowed.loss_curve_, model(**parameters).fit(X, y).loss_curve_, rtol=rel)


def test_early_stopping_and_validation_data_stay_in_the_file(mnist, tmp_path):
    X, y = mnist
    stored = _file(tmp_path / "X.npy", X)
    model = _fit(stored, y, max_memory=X.nbytes // 20, early_stopping=True, max_iter=2)
    assert model.validation_scores_[-1] > 0.8
    history = _fit(stored, y, max_memory=X.nbytes // 20, max_iter=1)
    other = MLPClassifier((32,), max_iter=1, max_memory=1000, random_state=0, backend="numba")
    other.fit(X, y, validation_data=(stored, y))
    assert other.history_["val_accuracy"][0] == pytest.approx(other.score(X, y))
    assert history.backend_ == "numba"


def test_rows_of_another_dtype_in_memory_keep_their_order(mnist):
    X, y = mnist
    X = X[:4000] / 255
    windowed, whole = _fit(X, y[:4000], max_memory=X.nbytes // 8), _fit(X, y[:4000])
    assert "is stored in another form" in windowed.backend_reason_
    assert windowed.loss_curve_ == whole.loss_curve_
    assert [w.tobytes() for w in windowed.coefs_] == [w.tobytes() for w in whole.coefs_]


def test_explain_says_how_rows_are_read(mnist, tmp_path):
    X, y = mnist
    stored = _file(tmp_path / "X.npy", X)
    model = MLPClassifier((32,), backend="numba", max_memory=X.nbytes // 3)
    assert "X lies in a file and would take 9,408,000 bytes as uint8" in explain(model, stored, y).reason
    assert "rows at a time" not in explain(model, X, y).reason
    floats = X.astype(np.float32)  # rows of bytes may be read where they lie, without a copy
    dropped = explain(model, floats, y).program
    assert any("max_memory allows" in line for line in dropped)
    compressed = explain(model.set_params(max_memory=floats.nbytes), floats, y).program
    assert any("compressed float32" in line for line in compressed)


def test_compressed_rows_take_no_more_than_the_data():
    X = np.zeros((2000, 3), np.float32)
    X[:1800, 0] = 7  # 30 %: below the limit of the share, but 6 bytes a value and 8 a row exceed the data
    y = np.arange(2000) % 3
    lines = explain(MLPClassifier((5,), backend="numba"), X, y).program
    assert any("Compressed rows would take 26,808 bytes, X itself takes 24,000." in line for line in lines)


def test_values_too_large_in_a_file_are_refused(tmp_path):
    X = np.ones((3000, 10))
    X[2500, 3] = 1e200
    stored = _file(tmp_path / "X.npy", X)
    with pytest.raises(ValueError, match="too large for dtype"):
        _fit(stored, np.arange(3000) % 2, max_memory=20_000)


@pytest.mark.parametrize("value", [0, -1, 2.5, "1GB"])
def test_max_memory_is_checked(value):
    with pytest.raises(ValueError, match="max_memory"):
        MLPClassifier(max_memory=value).fit(np.eye(4), [0, 1, 0, 1])


def test_a_window_has_many_blocks():
    rows = StoredRows(np.zeros((4000, 10), np.uint8), np.uint8)
    executor = WindowedExecutor(
        CpuExecutor(Spec(10, (Dense(2),)), n_threads=1),
        rows,
        np.zeros(4000, np.int32),
        None,
        pixel_scale=1.0,
        max_memory=40_000,
    )
    assert executor.reading_order is None  # in memory
    executor._X.is_mapped = True
    assert executor.reading_order == ReadingOrder(10_000 // BLOCKS_A_WINDOW // 10, 1000)


# --- memory -------------------------------------------------------------------------------------------------------------------------

_PROGRAM = """
import json, sys, threading, warnings
import numpy as np
from fastmnist import MLPClassifier, LogisticRegression
warnings.simplefilter("ignore")

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

path, n_features, max_memory = sys.argv[1], 784, int(sys.argv[2])
X = np.load(path, mmap_mode="r")
y = np.arange(len(X)) % 10
models = [
    MLPClassifier((64,), max_iter=1, early_stopping=True, backend="numba", random_state=0, max_memory=max_memory),
    LogisticRegression(max_iter=2, backend="numba", max_memory=max_memory),
]
for model in models:  # everything is compiled and imported
    model.fit(np.array(X[:2000]), y[:2000]).predict_proba(X[:2000])
baseline = peak = anonymous()
done = threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
for model in models:
    model.fit(X, y)
    model.predict(X)
done.set()
watcher.join()
print(json.dumps({"taken": peak - baseline, "reasons": [model.backend_reason_ for model in models]}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize(("dtype", "rows"), [("uint8", 150_000), ("float64", 25_000)])
def test_training_on_a_file_takes_bounded_memory(tmp_path, mnist, dtype, rows):
    path = tmp_path / "X.npy"
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, 784))
    for first in range(0, rows, 10_000):
        part = mnist[0][: min(10_000, rows - first)]
        stored[first : first + len(part)] = part if dtype == "uint8" else part / 255
    stored.flush()
    del stored
    max_memory = 16 << 20
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM), str(path), str(max_memory)],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(result.stdout)
    assert all("lies in a file" in reason for reason in report["reasons"])
    # max_memory, 100 bytes a row of labels, orders, losses and outputs, and 24 MiB: a block to predict and a few MiB a thread.
    assert 0 < report["taken"] <= max_memory + 100 * rows + (24 << 20) < path.stat().st_size / 2


def _write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2000 kB\n"}, 1_024_000),
        (
            {  # 2: a limit of 600,000, 500,000 in use, of which 300,000 are pages of files
                "proc/meminfo": "MemAvailable: 2000 kB\n",
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": "600000\n",
                "sys/fs/cgroup/a/memory.current": "500000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 200000\nactive_file 100000\ninactive_file 200000\n",
                "sys/fs/cgroup/memory.max": "max\n",
            },
            200_000,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 2000 kB\n",
                "proc/self/cgroup": "7:memory:/b\n",
                "sys/fs/cgroup/memory/b/memory.limit_in_bytes": "100000\n",
                "sys/fs/cgroup/memory/b/memory.usage_in_bytes": "90000\n",
                "sys/fs/cgroup/memory/b/memory.stat": "total_active_file 0\ntotal_inactive_file 10000\n",
            },
            10_000,
        ),
    ],
)
def test_default_memory_is_half_of_what_is_available(tmp_path, files, expected):
    assert default_memory(_write(tmp_path, files)) == expected


def test_default_memory_without_proc(tmp_path):
    assert default_memory(tmp_path) > 1 << 20
