"""Epochs in one launch, on a simulated device, against the oracle and against launches of single steps. No GPU is needed."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from cusim import Module, SimulatorError, compiler_missing, device, fake_cupy
from cusim.device import COOPERATIVE_FACTS, SimulatedDevice
from executor_cases import CASES, N, _data, _parameters, _spec, _train

import fastmnist
from fastmnist.backends import gpu
from fastmnist.backends.gpu import CupyExecutor
from fastmnist.backends.gpu_persistent import choose
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.evaluation.explanation import explain
from fastmnist.kernels.gpu import Facts, persistent, source
from fastmnist.kernels.gpu.source import part
from fastmnist.network.layers import Dense
from fastmnist.network.losses import BinaryCrossEntropy
from fastmnist.network.lowering import DataFormat
from fastmnist.network.optimizers import SGD, Adam
from fastmnist.network.spec import Spec

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)

CLASSES = 5
# As of the other executors, but the two wide layers, in which the simulator spends its time, are narrower.
NARROW = (Dense(36, "relu"), Dense(33, "relu"), Dense(CLASSES))
NETWORKS = {
    name: replace(spec, layers=NARROW) if spec.layers[0] == Dense(140, "relu") else spec
    for name, spec in CASES.items()
    if "dropout" not in name and name != "softmax twice"
}
SMALL = _spec(layers=(Dense(30, "relu"), Dense(9, "tanh"), Dense(CLASSES)), optimizer=Adam())


class Device(SimulatedDevice):
    """Counts the launches that are an epoch."""

    def __init__(self, facts=COOPERATIVE_FACTS, **options):
        super().__init__(facts=facts, **options)
        self.epochs = 0

    def run(self, launches):
        self.epochs += sum(launch.cooperative for launch in launches)
        super().run(launches)


def executor(spec, **options):
    return CupyExecutor(spec, device=Device(**options))


def assert_same_bits(a, b):
    (parameters, epochs), (others, other_epochs) = a, b
    assert all(x.tobytes() == y.tobytes() for x, y in zip(parameters, others, strict=True))
    assert all(x.losses.tobytes() == y.losses.tobytes() for x, y in zip(epochs, other_epochs, strict=True))
    assert all(x.hits.tobytes() == y.hits.tobytes() for x, y in zip(epochs, other_epochs, strict=True))


# --- numbers ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_training_follows_the_float64_oracle(name):
    spec, kind = NETWORKS[name], "dense float" if list(NETWORKS).index(name) % 2 else "sparse uint8"
    expected, epochs = _train(ReferenceExecutor(spec, dtype=np.float64), spec, kind, weighted=True)
    ours = executor(spec)
    got, our_epochs = _train(ours, spec, kind, weighted=True)
    assert ours.device.epochs == 3 and not ours.device.recorded
    for theirs, mine in zip(epochs, our_epochs, strict=True):
        np.testing.assert_allclose(mine.losses, theirs.losses, rtol=2e-3, atol=2e-5)
        assert (mine.hits != theirs.hits).mean() <= 0.02  # a tie may fall the other way
        assert mine.steps == theirs.steps == -(-N // 32) and not mine.interrupted
    for a, b in zip(got, expected, strict=True):
        assert not (np.abs(a - b).max() > 3e-4 * max(1, np.abs(b).max()))  # as single launches, test_gpu_executor.py


@pytest.mark.parametrize("name", ["one layer", "activations"])
def test_some_hundred_steps_follow_the_oracle(name):
    spec = CASES[name]
    expected, epochs = _train(ReferenceExecutor(spec, dtype=np.float64), spec, batch=7, epochs=10, rate=0.005)
    got, ours = _train(executor(spec), spec, batch=7, epochs=10, rate=0.005)
    assert sum(epoch.steps for epoch in ours) == 290
    np.testing.assert_allclose(ours[-1].losses, epochs[-1].losses, rtol=5e-3, atol=5e-5)
    for a, b in zip(got, expected, strict=True):
        assert not (np.abs(a - b).max() > 1e-3 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("batch", [1, 7, N, 1000])
def test_any_batch_size(batch):
    expected, _ = _train(ReferenceExecutor(SMALL, dtype=np.float64), SMALL, batch=batch, epochs=1, rate=0.005)
    ours = executor(SMALL)
    got, epochs = _train(ours, SMALL, batch=batch, epochs=1, rate=0.005)
    assert len(epochs[0].losses) == N and ours.device.epochs == 1
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-4)


@pytest.mark.parametrize("outputs", [1, 45])
@pytest.mark.parametrize("layers", [(), (Dense(6, "elu"),)])
def test_any_number_of_outputs(outputs, layers):
    """One (two classes as one sigmoid), and more than a warp has lanes."""
    spec = _spec(layers=(*layers, Dense(outputs)), loss=BinaryCrossEntropy(), optimizer=SGD(0.9))
    expected, epochs = _train(ReferenceExecutor(spec, dtype=np.float64), spec, epochs=2)
    ours = executor(spec)
    got, our_epochs = _train(ours, spec, epochs=2)
    assert ours.device.epochs == 2
    np.testing.assert_allclose(our_epochs[-1].losses, epochs[-1].losses, rtol=1e-4)
    np.testing.assert_array_equal(our_epochs[-1].hits, epochs[-1].hits)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("features", [1, 3, 130, 131])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_rows_of_any_width(features, dtype):
    """Rows that start on no word, and rows longer than a warp reads at once."""
    spec = Spec(features, (Dense(7, "gelu"), Dense(3)), optimizer=SGD())
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 200, (40, features)).astype(dtype), rng.integers(0, 3, 40).astype(np.int32)
    order, results = rng.permutation(40), []
    for candidate in (ReferenceExecutor(spec, dtype=np.float64), executor(spec)):
        candidate.bind(X, y, pixel_scale=1 / 255)
        candidate.set_parameters(_parameters(spec))
        epoch = candidate.run_epoch(order, np.full(6, 0.1), 7)
        results.append((epoch.losses, *candidate.get_parameters()))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_what_is_not_finite_stays_so():
    """An infinite weight of the second layer, a NaN in a row: what they reach and no more, as by single launches."""
    X, y, _ = _data("dense float")
    X[5, 3] = np.nan
    start = _parameters(SMALL)
    start[2][4, 2] = np.inf
    results = []
    for simulated in (Device(), SimulatedDevice()):
        ours = CupyExecutor(SMALL, device=simulated)
        ours.bind(X, y)
        ours.set_parameters(start)
        results.append((ours.run_epoch(np.arange(6), np.full(2, 0.01), 3).losses, *ours.get_parameters()))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))


# --- the same bits ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw, smoothing", "one layer"])
def test_bits_do_not_depend_on_blocks_or_their_order(name):
    spec = NETWORKS[name]
    expected = _train(executor(spec), spec, epochs=2)
    assert_same_bits(_train(executor(spec, reverse=True), spec, epochs=2), expected)
    few = executor(spec, facts=replace(COOPERATIVE_FACTS, multiprocessors=-(-spec.parameter_shapes[1][0] // 4)))
    assert_same_bits(_train(few, spec, epochs=2), expected)
    assert few.device.epochs == 2 and few._choice((32,)).layout.columns == 4


def test_an_epoch_may_follow_one_of_single_launches_and_the_other_way_round():
    """Parameters and moments are the same memory in the same form."""
    X, y, _ = _data()
    results = []
    for ways in ((True, True, True), (True, False, True), (False, False, False)):
        ours = executor(SMALL)
        ours.bind(X, y, pixel_scale=1 / 255)
        ours.set_parameters(_parameters(SMALL))
        for way in ways:
            ours._persistent, ours._initial, ours._training = way, ours.get_parameters(), None  # another program
            ours.run_epoch(np.arange(N), np.full(21, 0.01), 10)
        results.append(ours.get_parameters())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


def test_batch_size_and_data_may_change_and_the_optimizer_goes_on():
    X, y, _ = _data("dense float")
    results = []
    for candidate in (ReferenceExecutor(SMALL, dtype=np.float64), executor(SMALL)):
        _train(candidate, SMALL, "dense float", batch=32, epochs=1)
        candidate.run_epoch(np.arange(33), np.full(3, 0.02), 11)  # a batch as large as the last one before
        candidate.run_epoch(np.arange(8), np.full(1, 0.02), 100)  # less than a batch
        candidate.bind(X[:100], y[:100])
        candidate.run_epoch(np.arange(100), np.full(5, 0.02), 20)
        candidate.reset_optimizer()
        candidate.run_epoch(np.arange(40), np.full(2, 0.02), 20)
        results.append(candidate.get_parameters())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-4)


# --- mistakes that numbers do not show ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "reverse"), [("adam, coupled decay", False), ("one layer", True)])
def test_blocks_do_not_race(name, reverse):
    spec = CASES[name] if name == "one layer" else replace(SMALL, layers=(Dense(11, "relu"), Dense(9), Dense(CLASSES)))
    expected, _ = _train(executor(spec), spec, batch=30, epochs=1)
    got, _ = _train(executor(spec, mode="race", reverse=reverse), spec, batch=30, epochs=1)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


# What a hurried author might leave out of persistent.cu.
MISTAKES = {
    "the first meeting": ("    meetings.wait();\n    while (r < rows) {", "    while (r < rows) {"),
    "the second meeting": ("    meetings.wait();\n    head.backward_units(rows);", "    head.backward_units(rows);"),
    "that all threads have written": (
        "    __syncthreads();\n    if (threadIdx.x == 0) add_release",
        "    if (threadIdx.x == 0) add_release",
    ),
    "the end of a step": ("of_biases);\n    __syncthreads();\n  }\n  units", "of_biases);\n  }\n  units"),
}


@pytest.mark.long
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_meeting_that_is_left_out_is_a_race(mistake, monkeypatch):
    right, wrong = MISTAKES[mistake]
    text = source("persistent")
    assert text.count(right) == 1
    broken = Module(text.replace(right, wrong), mode="race", name="persistent.cu")
    monkeypatch.setattr(device, "module", lambda file, mode: broken)
    with pytest.raises(SimulatorError, match=r"race on (global|shared) memory: .* no barrier between"):
        _train(executor(SMALL), SMALL, batch=30, epochs=1)


def test_the_tables_have_the_fields_of_the_source():
    text = part("persistent.cu")

    def fields(struct):
        body = re.search(rf"struct {struct} {{(.*?)}};", text, re.DOTALL)[1]
        body = re.sub(r"//.*|__device__.*", "", body)
        return tuple(re.findall(r"(\w+)\s*(?=[,;])", body))

    assert fields("Job") == persistent.JOB
    assert fields("Layer") == persistent.LAYER
    assert fields("Constants") == persistent.CONSTANTS
    assert f"HEAD_FLOATS = {persistent._HEAD_FLOATS};" in text and len(persistent.LAYER) == persistent._LAYER_WORDS
    enumerations = [tuple(x.strip().lower() for x in found.split(",")) for found in re.findall(r"enum {(.*?)};", text)]
    assert enumerations == [persistent.ACTIVATIONS, persistent.OPTIMIZERS, ("softmax", "one_vs_rest")]


# --- the choice -------------------------------------------------------------------------------------------------------------------------

H200 = Facts(132, None, 227 << 10, True)
T4 = Facts(40, None, 64 << 10, True)
BYTES, FLOATS = DataFormat("uint8", 1 / 255), DataFormat("float32")
MLP = Spec(784, (Dense(128, "relu"), Dense(64, "relu"), Dense(10)), optimizer=Adam())
DEEP = Spec(784, (Dense(500, "relu"), Dense(250, "relu"), Dense(100, "relu"), Dense(10)), optimizer=SGD())


@pytest.mark.parametrize(
    ("spec", "data", "batch", "facts", "reason"),
    [
        (MLP, BYTES, 32, H200, "one launch an epoch: 64 blocks of 2 units of the first layer each, 77 KB"),
        (
            MLP,
            BYTES,
            32,
            T4,
            r"two batches of 32 rows and the weights of 4 units take 9\d KB of shared memory; a block has 64",
        ),
        (MLP, BYTES, 256, H200, "two batches of 256 rows .* a block has 227"),
        (MLP, FLOATS, 64, H200, "two batches of 64 rows"),
        (MLP, BYTES, 32, replace(H200, cooperative=False), "the device has no cooperative launches"),
        (MLP, DataFormat("float64"), 32, H200, "X is float64"),
        (MLP, BYTES, 32, replace(H200, precision="bf16"), "it multiplies in float32, not in bf16"),
        (DEEP, BYTES, 64, H200, "125 blocks of 4 units"),
        (DEEP, BYTES, 126, H200, "read 302,000 weights behind the first layer in each step; at most 262,144 pay"),
        (
            replace(MLP, layers=(Dense(529), Dense(10))),
            BYTES,
            32,
            H200,
            "529 units .* more than 4 for each of 132 multi",
        ),
        (
            replace(MLP, layers=(Dense(9), Dense(1025), Dense(9))),
            BYTES,
            9,
            H200,
            "layer behind the first has more than 1024",
        ),
        (CASES["dropout"], BYTES, 32, H200, "only plain dense layers have such a kernel"),
        (Spec(784, (Dense(10),)), BYTES, 32, T4, "5 blocks of 2 units"),
    ],
)
def test_the_rule_and_its_reason(spec, data, batch, facts, reason):
    choice = choose(spec, data, batch, facts)
    assert re.search(reason, choice.reason), choice.reason
    assert (choice.layout is not None) == ("blocks of" in reason)
    if choice.layout:
        assert "not measured" in choice.reason and choice.layout.blocks <= facts.multiprocessors
    assert choose(spec, data, batch, facts, wanted=False).layout is None


def test_an_epoch_that_is_interrupted_ends_as_a_whole():
    class Interrupted(Device):
        waits = 0

        def synchronize(self):
            self.waits += 1
            if self.waits == 1:
                raise KeyboardInterrupt

    ours = CupyExecutor(SMALL, device=Interrupted())
    (_, epochs), expected = _train(ours, SMALL, epochs=1), _train(executor(SMALL), SMALL, epochs=1)
    assert epochs[0].interrupted and epochs[0].steps == 7 and ours.device.waits == 2
    assert_same_bits((ours.get_parameters(), epochs), expected)


def test_a_grid_that_was_cut_is_an_error_and_changes_nothing():
    class Cutting(Device):
        def run(self, launches):
            super().run([replace(launch, grid=(launch.grid[0] - 1,)) for launch in launches])

    ours = CupyExecutor(SMALL, device=Cutting())
    with pytest.raises(RuntimeError, match=r"did not start the 15 blocks of an epoch together.*Use backend='numba'"):
        _train(ours, SMALL, epochs=1)
    for a, b in zip(ours.get_parameters(), _parameters(SMALL), strict=True):
        np.testing.assert_array_equal(a, b.astype(np.float32))


@pytest.fixture
def fake_gpu(monkeypatch):
    fake_cupy.install(monkeypatch)
    gpu.open_device.cache_clear()
    yield
    gpu.open_device.cache_clear()


def test_through_cupy(fake_gpu):
    """More shared memory than a launch has without asking; and what `explain` says."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (70, 784)).astype(np.uint8), rng.integers(0, 3, 70)
    make = partial(fastmnist.MLPClassifier, (12,), batch_size=20, max_iter=1, random_state=0, backend="cupy")
    with pytest.warns(match="Maximum iterations"):
        ours = make().fit(X, y)
    with pytest.warns(match="Maximum iterations"):
        theirs = make(backend="numpy").fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
    program = "\n".join(explain(make(), X, y).program)
    shared = re.search(r"one launch an epoch: 3 blocks of 4 units of the first layer each, (\d+) KB", program)
    assert int(shared[1]) > 48
