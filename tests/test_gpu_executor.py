"""The cupy executor on a simulated device, against the oracle: same program, same data, same results. No GPU is needed."""

import warnings
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from cusim import compiler_missing, fake_cupy
from cusim.device import SimulatedDevice, call
from executor_cases import CASES, FEATURES, N, _data, _parameters, _spec, _train
from test_image_layers import CASES as IMAGE_CASES
from test_image_layers import _train as _train_images

import fastmnist
from fastmnist import backends
from fastmnist.backends import BackendUnavailable, gpu, gpu_memory, gpu_probe, gpu_runner
from fastmnist.backends.gpu import CupyExecutor
from fastmnist.backends.gpu_runner import Runner
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.kernels.gpu import launches
from fastmnist.network.layers import BatchNorm, Conv2D, Dense, Flatten, MaxPool2D
from fastmnist.network.losses import BinaryCrossEntropy
from fastmnist.network.optimizers import Adam
from fastmnist.network.spec import Spec

if compiler_missing():
    pytest.skip(compiler_missing(), allow_module_level=True)

CLASSES = 5
# A step of it takes the simulator milliseconds: for some hundred of them.
SMALL_IMAGES = Spec(
    36,
    (Conv2D(4, 3, activation="relu"), MaxPool2D(), Flatten(), Dense(7, "relu"), Dense(CLASSES)),
    optimizer=Adam(),
    image_shape=(6, 6, 1),
)


def executor(spec, **options):
    return CupyExecutor(spec, device=SimulatedDevice(**options))


def test_the_loss_that_is_a_mistake_is_refused():
    spec = CASES["softmax twice"]
    with pytest.raises(
        BackendUnavailable, match=r"it has no loss 'softmax_twice': it is a mistake.*Use backend='numba'"
    ):
        _train(executor(spec), spec)


@pytest.mark.parametrize("kind", ["sparse uint8", "dense float"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "softmax twice"])
def test_training_follows_the_float64_oracle(name, kind):
    spec = CASES[name]
    expected, epochs = _train(ReferenceExecutor(spec, dtype=np.float64), spec, kind, weighted=True)
    got, ours = _train(executor(spec), spec, kind, weighted=True)
    for theirs, mine in zip(epochs, ours, strict=True):
        np.testing.assert_allclose(mine.losses, theirs.losses, rtol=2e-3, atol=2e-5)
        assert (mine.hits != theirs.hits).mean() <= 0.02  # a tie may fall the other way
        assert mine.steps == theirs.steps == -(-N // 32) and not mine.interrupted
    for a, b in zip(got, expected, strict=True):
        # 21 steps of float32 against float64: rounding errors of 1e-7 a step, grown by the learning itself.
        assert not (np.abs(a - b).max() > 3e-4 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("name", ["momentum", "one-vs-rest", "one layer", "dropout"])
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
    spec = _spec(layers=(Dense(30, "relu"), Dense(CLASSES)))
    expected, _ = _train(ReferenceExecutor(spec, dtype=np.float64), spec, batch=batch, epochs=1)
    got, epochs = _train(executor(spec), spec, batch=batch, epochs=1)
    assert len(epochs[0].losses) == N
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_batch_size_and_data_may_change_and_the_optimizer_goes_on():
    spec = _spec(optimizer=Adam())
    X, y, _ = _data("dense float")
    results = []
    for run in (ReferenceExecutor(spec, dtype=np.float64), executor(spec)):
        _train(run, spec, "dense float", batch=32, epochs=1)
        run.run_epoch(np.arange(N), np.full(-(-N // 50), 0.02), 50)
        run.bind(X[:100], y[:100])
        run.run_epoch(np.arange(100), np.full(5, 0.02), 20)
        run.reset_optimizer()
        run.run_epoch(np.arange(40), np.full(2, 0.02), 20)
        results.append(run.get_parameters())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-4)


@pytest.mark.parametrize("kind", ["sparse uint8", "dense float"])
@pytest.mark.parametrize("name", ["sgd", "one-vs-rest", "one layer", "activations", "dropout"])
def test_full_batch_gradient_and_outputs(name, kind, monkeypatch):
    monkeypatch.setattr(gpu, "BLOCK_ROWS", 64)  # several blocks and a shorter last one
    spec = CASES[name]
    X, y, weight = _data(kind)
    scale = 1 / 255 if X.dtype == np.uint8 else 1.0
    parameters = _parameters(spec)
    oracle, ours = ReferenceExecutor(spec, dtype=np.float64), executor(spec)
    for run in (oracle, ours):
        run.bind(X, y, weight, pixel_scale=scale)
    loss, gradient = oracle.loss_and_gradient(parameters)
    for _ in range(2):  # the second time from recorded graphs
        our_loss, our_gradient = ours.loss_and_gradient(parameters)
        assert our_loss == pytest.approx(loss, rel=1e-6)
        for a, b in zip(our_gradient, gradient, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)
    np.testing.assert_allclose(
        ours.outputs(parameters, X, pixel_scale=scale), oracle.outputs(parameters, X, pixel_scale=scale), atol=2e-6
    )
    assert ours.outputs(parameters, X[:0], pixel_scale=scale).shape == (0, CLASSES)


def test_losses_by_class():
    spec = _spec(loss=BinaryCrossEntropy(), layers=(Dense(CLASSES),))
    X, y, weight = _data()
    results = []
    for run in (ReferenceExecutor(spec, dtype=np.float64), executor(spec)):
        run.bind(X, y, weight, pixel_scale=1 / 255)
        results.append(run.losses_and_gradient(_parameters(spec))[0])
    assert results[1].shape == (CLASSES,)
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)


# --- layers of images -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_image_layers_follow_the_float64_oracle(name, monkeypatch):
    monkeypatch.setattr(gpu, "IMAGE_BLOCK_ROWS", 20)  # several blocks and a shorter last one
    spec = IMAGE_CASES[name]
    oracle, ours = ReferenceExecutor(spec, dtype=np.float64), executor(spec)
    expected, losses, X, initial = _train_images(oracle)
    got, our_losses, _, _ = _train_images(ours)
    np.testing.assert_allclose(our_losses, losses, rtol=1e-4, atol=1e-5)
    for a, b, start in zip(got, expected, initial, strict=True):
        # Six steps of float32 against float64, grown by the learning itself.
        assert not (np.abs(a - b).max() > 1e-4 * max(1, np.abs(b).max()))
        assert a.size < 40 or not np.array_equal(a, start.astype(np.float32))
    outputs = [run.outputs(expected, X, pixel_scale=1 / 255) for run in (ours, oracle)]
    np.testing.assert_allclose(*outputs, atol=2e-6)
    if any(isinstance(layer, BatchNorm) for layer in spec.layers):
        return
    (our_loss, our_gradient), (loss, gradient) = (run.loss_and_gradient(expected) for run in (ours, oracle))
    assert our_loss == pytest.approx(loss, rel=1e-6)
    for a, b in zip(our_gradient, gradient, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * max(1, np.abs(b).max()))


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("small", 34), ("batch normalisation", 7), pytest.param("lenet", 40, marks=pytest.mark.long)],
)
def test_many_steps_of_images_follow_the_oracle(name, epochs):
    """In float32, beside NumPy's: both drift from float64 by their rounding, grown by the learning itself."""
    spec = SMALL_IMAGES if name == "small" else IMAGE_CASES[name]
    exact, losses, _, _ = _train_images(ReferenceExecutor(spec, dtype=np.float64), batch=10, epochs=epochs)
    numpys, _, _, _ = _train_images(ReferenceExecutor(spec, dtype=np.float32), batch=10, epochs=epochs)
    got, ours, _, _ = _train_images(executor(spec), batch=10, epochs=epochs)
    np.testing.assert_allclose(ours, losses, rtol=5e-3, atol=5e-5)
    error, theirs = (max(np.abs(a - b).max() for a, b in zip(run, exact, strict=True)) for run in (got, numpys))
    assert error <= 8 * theirs + 1e-5


# --- recorded launches ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def unrecorded(monkeypatch):
    """A context in which the launches of each step are made anew from the operands as they are then: nothing is frozen."""

    @contextmanager
    def context():
        def graph(runner, rows, steps):
            def replay():
                for _ in range(steps):
                    runner._device.run(runner.launches(rows))

            return SimpleNamespace(replay=replay)

        with monkeypatch.context() as patch:
            patch.setattr(Runner, "_graph", graph)
            yield

    return context


@pytest.mark.parametrize(
    ("name", "precision"),
    [("nesterov, l2", "float32"), ("dropout", "float32"), ("adamw, smoothing", "bf16"), ("momentum", "tf32")],
)
def test_replayed_launches_give_the_bits_of_plain_ones(name, precision, unrecorded):
    """The optimizer's step in one kernel with its gradient among them."""
    spec, how = CASES[name], {"batch": 10, "epochs": 3 if precision == "float32" else 1}
    with unrecorded():
        plain_run = CupyExecutor(spec, device=SimulatedDevice(), precision=precision)
        plain, plain_epochs = _train(plain_run, spec, **how)
    assert plain_run.device.recorded == 0
    run = CupyExecutor(spec, device=SimulatedDevice(), precision=precision)
    replayed, epochs = _train(run, spec, **how)
    assert any(launch.kernel.startswith("update_") for launch in run.launches(10))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(plain, replayed, strict=True))
    assert all(a.losses.tobytes() == b.losses.tobytes() for a, b in zip(plain_epochs, epochs, strict=True))


def test_replayed_launches_of_images_give_the_bits_of_plain_ones(unrecorded):
    with unrecorded():
        plain, losses, _, _ = _train_images(executor(SMALL_IMAGES), batch=10)
    replayed, our_losses, _, _ = _train_images(executor(SMALL_IMAGES), batch=10)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(plain, replayed, strict=True))
    np.testing.assert_array_equal(our_losses, losses)


def test_fused_kernels_give_the_bits_of_single_ones(monkeypatch):
    spec = _spec(optimizer=Adam(), layers=(Dense(140, "relu"), Dense(33, "relu"), Dense(CLASSES)))
    fused_device, single_device = SimulatedDevice(), SimulatedDevice()
    fused_run, single_run = CupyExecutor(spec, device=fused_device), CupyExecutor(spec, device=single_device)
    fused, epochs = _train(fused_run, spec)
    n_fused = len(fused_run.launches(32))
    monkeypatch.setattr(
        gpu_runner, "plan", lambda facts, calls: [x for call in calls for x in launches(call[0], facts, *call[1:])]
    )
    single, single_epochs = _train(single_run, spec)
    assert len(single_run.launches(32)) - n_fused == 6  # weights and biases of three layers
    assert all(a.tobytes() == b.tobytes() for a, b in zip(fused, single, strict=True))
    assert all(a.losses.tobytes() == b.losses.tobytes() for a, b in zip(epochs, single_epochs, strict=True))


def test_epochs_replay_what_the_first_one_recorded():
    spec = _spec()
    device = SimulatedDevice()
    _train(CupyExecutor(spec, device=device), spec, batch=10, epochs=4)
    # 20 full batches: a graph of 16 steps and one of a single step; and the last batch of 3 rows.
    assert device.recorded == 3


def test_an_interrupted_epoch_ends_between_two_steps(monkeypatch):
    spec = _spec(layers=(Dense(9, "tanh"), Dense(CLASSES)))
    X, y, _ = _data()
    rates, order = np.full(-(-N // 10), 0.1), np.arange(N)
    monkeypatch.setattr(gpu_runner, "STEPS_PER_GRAPH", 2)

    class Interrupted(SimulatedDevice):
        left = 3

        def record(self, launches):
            device, graph = self, super().record(launches)

            class Counted:
                def replay(self):
                    device.left -= 1
                    if device.left < 0:
                        raise KeyboardInterrupt
                    graph.replay()

            return Counted()

    interrupted, short = CupyExecutor(spec, device=Interrupted()), executor(spec)
    for run in (interrupted, short):
        run.bind(X, y, pixel_scale=1 / 255)
        run.set_parameters(_parameters(spec))
    epoch = interrupted.run_epoch(order, rates, 10)
    assert (epoch.interrupted, epoch.steps, len(epoch.losses)) == (True, 6, 60)
    short.run_epoch(order[:60], rates[:6], 10)
    for a, b in zip(interrupted.get_parameters(), short.get_parameters(), strict=True):
        assert a.tobytes() == b.tobytes()


# --- memory -----------------------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_says_what_and_how_much():
    X, y, _ = _data("dense float")
    small = executor(_spec(), memory=gpu_memory.RESERVED_BYTES + 1000)
    with pytest.raises(
        BackendUnavailable, match=r"Simulated GPU has 0 MiB free; .*\(source 0 MiB\).*smaller batch_size"
    ) as error:
        small.bind(X, y)
    assert error.value.code == "memory"
    # The data set fits, the network does not.
    wide = _spec(layers=(Dense(100_000, "relu"), Dense(CLASSES)))
    tight = executor(wide, memory=gpu_memory.RESERVED_BYTES + (1 << 20))
    tight.bind(X, y)
    tight.set_parameters([np.zeros(shape, np.float32) for shape in wide.parameter_shapes])
    with pytest.raises(BackendUnavailable, match=r"parameters and moments \d+ MiB"):
        tight.run_epoch(np.arange(N), np.full(-(-N // 32), 0.1), 32)


def test_parameters_before_anything_ran():
    run = executor(_spec())
    with pytest.raises(RuntimeError, match="set_parameters was not called"):
        run.get_parameters()
    run.set_parameters(_parameters(_spec()))
    np.testing.assert_allclose(run.get_parameters()[0], _parameters(_spec())[0], rtol=1e-6)


# --- one op -----------------------------------------------------------------------------------------------------------------------------


def test_call_runs_one_op():
    x = np.linspace(-1, 1, FEATURES, dtype=np.float32)[None]
    y, expected = np.zeros_like(x), np.zeros_like(x)
    gpu.call("gelu", [y, x], device=SimulatedDevice())
    call("gelu", expected, x)
    assert y.tobytes() == expected.tobytes() and y.any()
    with pytest.raises(BackendUnavailable, match="it has no sparse_linear: the data set stays on the device"):
        gpu.call("sparse_linear", [], device=SimulatedDevice())


# --- CuPy itself, played by a strict fake ------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_gpu(monkeypatch):
    fake_cupy.install(monkeypatch)
    gpu.open_device.cache_clear()
    yield
    gpu.open_device.cache_clear()


def test_captured_graphs_give_the_bits_of_recorded_launches(fake_gpu):
    spec = CASES["adamw, smoothing"]
    expected, epochs = _train(executor(spec), spec, batch=10)
    got, ours = _train(CupyExecutor(spec), spec, batch=10)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(expected, got, strict=True))
    assert all(a.losses.tobytes() == b.losses.tobytes() for a, b in zip(epochs, ours, strict=True))


def test_a_capture_allows_nothing_but_launches(fake_gpu):
    device = gpu.open_device()
    buffer = device.allocate(16)
    with device.stream:
        device.stream.begin_capture()
        for forbidden in (
            lambda: device.allocate(16),
            lambda: device.upload(buffer.address, np.zeros(4, np.float32)),
            lambda: device._function("adam_kernel"),
            device.synchronize,
        ):
            with pytest.raises(fake_cupy.FakeCudaError, match="not permitted while a stream captures"):
                forbidden()
        device.stream.end_capture()


@pytest.mark.parametrize("model", ["mlp", "softmax", "one-vs-rest", "softmax by steps"])
def test_estimators_on_the_gpu_predict_as_on_the_cpu(fake_gpu, model):
    make = {
        "mlp": partial(fastmnist.MLPClassifier, hidden_layer_sizes=(20, 9), max_iter=5, batch_size=50),
        "softmax": partial(fastmnist.LogisticRegression, max_iter=200, tol=1e-5),
        "one-vs-rest": partial(fastmnist.OneVsRestLogisticRegression, max_iter=200, tol=1e-5),
        "softmax by steps": partial(fastmnist.LogisticRegression, solver="sgd", max_iter=5),
    }[model]
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (300, 30)).astype(np.uint8)
    y = np.array(list("abc"))[X[:, :3].argmax(axis=1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged: so few iterations
        theirs, ours = (make(backend=backend, random_state=0).fit(X, y) for backend in ("numpy", "cupy"))
    assert ours.backend_ == "cupy"
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=2e-3)
    assert (ours.predict(X) == theirs.predict(X)).mean() > 0.99


def test_one_op_on_the_gpu(fake_gpu):
    x = np.linspace(-3, 3, 7, dtype=np.float32)[None]
    ours, theirs = (fastmnist.call_kernel("tanh", x, backend=backend) for backend in ("cupy", "numpy"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_gpu_is_offered_with_its_facts(fake_gpu):
    assert backends.available_backends()["cupy"] == (True, gpu_probe.probe().summary)
    assert backends.select("cupy", n_samples=1, n_features=1, flops=1, steps=1).reason == "asked for."
    assert backends.build("cupy", _spec()).device.name == "Fake GPU"


def test_sparse_input_reaches_the_gpu_in_dense_windows(fake_gpu):
    rng = np.random.default_rng(0)
    X = (rng.random((200, 30)) * (rng.random((200, 30)) < 0.1)).astype(np.float32)
    y = X[:, :3].argmax(axis=1)
    make = partial(fastmnist.MLPClassifier, (9,), max_iter=2, batch_size=20, random_state=0, backend="cupy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged: so few iterations
        dense, sparse = make().fit(X, y), make(max_memory=20_000).fit(scipy.sparse.csr_array(X), y)
    np.testing.assert_array_equal(sparse.predict_proba(X), dense.predict_proba(X))
