"""Memory layout, barriers, and lowering: that a program computes the same whatever the threads and panels it is lowered for."""

import numpy as np
import pytest

from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.network.layers import Activation, Conv2D, Dense, Dropout, Flatten, MaxPool2D
from fastmnist.network.lowering import DataFormat, Target, inference_program, optimizer_op, training_program
from fastmnist.network.optimizers import SGD, Adam, AdamW
from fastmnist.network.program import ALIGNMENT, BARRIER, Instruction, Memory, TableBuilder
from fastmnist.network.spec import Spec


def test_tensors_do_not_overlap_and_are_aligned():
    memory = Memory("workspace")
    tensors = [memory.tensor(f"t{i}", shape, "float32") for i, shape in enumerate([(3,), (5, 7), (1, 1), (16, 64)])]
    ends = [t.offset + t.shape[0] * t.strides[0] * 4 for t in tensors]
    assert all(t.offset % ALIGNMENT == 0 for t in tensors)
    assert all(end <= following.offset for end, following in zip(ends, tensors[1:], strict=False))
    assert ends[-1] <= memory.size


@pytest.mark.parametrize("width", [1, 16, 17, 64, 128, 784])
def test_odd_lines_gives_an_odd_number_of_cache_lines_a_row(width):
    tensor = Memory("workspace").tensor("h", (8, width), "float32", odd_lines=True)
    assert tensor.strides[0] >= width
    assert tensor.strides[0] * 4 // 64 % 2 == 1


def _write(tensor, lo, hi):
    return Instruction("write", (tensor.view.rows(lo, hi),), ())


def _read(tensor, lo, hi, to):
    return Instruction("read", (to.view,), (tensor.view.rows(lo, hi),))


def test_a_barrier_stands_exactly_where_threads_clash():
    memory = Memory("workspace")
    a, mine, yours = (memory.tensor(n, (10, 4), "float32") for n in ("a", "mine", "yours"))
    builder = TableBuilder(2)
    builder.stage([[_write(a, 0, 5)], [_write(a, 5, 10)]])
    builder.stage([[_read(a, 0, 5, mine)], [_read(a, 5, 10, yours)]])  # own halves: no barrier
    assert BARRIER not in builder.table.threads[0]
    builder.stage([[_read(a, 4, 6, mine)], []])  # one row of the other's half
    assert [thread.count(BARRIER) for thread in builder.table.threads] == [1, 1]
    builder.stage([[], [_write(a, 4, 5)]])  # overwrites what the other may still be reading
    assert [thread.count(BARRIER) for thread in builder.table.threads] == [2, 2]


def test_threads_that_clash_within_a_stage_are_a_bug():
    a = Memory("workspace").tensor("a", (10, 4), "float32")
    with pytest.raises(AssertionError, match="clash"):
        TableBuilder(2).stage([[_write(a, 0, 6)], [_write(a, 5, 10)]])


def test_one_thread_needs_no_barrier():
    spec = Spec(20, (Dense(64, "relu"), Dense(3)))
    table = training_program(spec, Target(), DataFormat("float32"), (8,)).tables[8]
    assert all(instruction is not BARRIER for instruction in table.threads[0])


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (SGD(), ("sgd", 0, ())),
        (SGD(0.9), ("momentum", 1, (0.9,))),
        (SGD(0.9, nesterov=True), ("nesterov", 1, (0.9,))),
        (Adam(), ("adam", 2, (0.9, 0.999, 1e-8))),
        (AdamW(), ("adam", 2, (0.9, 0.999, 1e-8))),
    ],
)
def test_optimizer_op(optimizer, expected):
    assert optimizer_op(optimizer) == expected


LAYERS = {
    "linear": (Dense(3),),
    "mlp": (Dense(70, "relu"), Dense(33, "relu"), Dense(3)),
    "in place": (Dense(40, "tanh"), Dense(64, "sigmoid"), Dense(5, "elu"), Dense(3)),
    "stacked activations": (Dense(40, "relu"), Activation("sigmoid"), Activation("gelu"), Dense(16, "gelu"), Dense(3)),
    "dropout": (Dropout(0.2), Dense(40, "relu"), Dropout(0.5), Dense(33, "leaky_relu"), Dropout(0.1), Dense(3)),
    "activation first": (Activation("tanh"), Dense(8), Dense(3)),
    "relu as a layer": (Dense(40), Activation("relu"), Dense(9, "relu"), Activation("relu"), Dense(3)),
}


def _train(spec, target, X, y, epochs=2, batch=16):
    executor = ReferenceExecutor(spec, dtype=np.float64, target=target)
    executor.bind(X, y)
    rng = np.random.default_rng(1)
    executor.set_parameters([rng.normal(size=s) * 0.3 for s in spec.parameter_shapes])
    losses = []
    for epoch in range(epochs):
        steps = -(-len(X) // batch)
        losses.append(executor.run_epoch(np.arange(len(X)), np.full(steps, 0.05), batch, seed=epoch).losses)
    return executor.get_parameters(), np.concatenate(losses)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
def test_panels_blocks_and_threads_do_not_change_what_is_computed(name, n_threads):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(37, 20)), rng.integers(0, 3, 37).astype(np.int32)
    spec = Spec(20, LAYERS[name], optimizer=Adam(), l2=1e-3)
    plain, plain_losses = _train(spec, None, X, y)
    tiled, tiled_losses = _train(spec, Target(n_threads, (16, 8), 6, "float64"), X, y)
    np.testing.assert_allclose(tiled_losses, plain_losses, rtol=1e-12)
    for a, b in zip(plain, tiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_stacked_activations_differentiate_through_each():
    """A relu that a sigmoid follows: computing in place would lose the relu's sign."""
    spec = Spec(4, LAYERS["stacked activations"])
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(9, 4)), rng.integers(0, 3, 9).astype(np.int32)
    executor = ReferenceExecutor(spec, dtype=np.float64)
    executor.bind(X, y)
    parameters = [rng.normal(size=s) for s in spec.parameter_shapes]
    _, gradient = executor.loss_and_gradient(parameters)
    step = 1e-6
    for i, parameter in enumerate(parameters):
        at = np.unravel_index(int(np.abs(gradient[i]).argmax()), parameter.shape)
        sides = []
        for sign in (1, -1):
            moved = [p.copy() for p in parameters]
            moved[i][at] += sign * step
            outputs = executor.outputs(moved, X)
            sides.append(-np.log(outputs[np.arange(9), y]).mean())
        assert gradient[i][at] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5)


_RECTIFIED_IMAGES = (Conv2D(2, 3, activation="relu"), MaxPool2D(2), Flatten())


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((Dense(8, "relu"), Dense(3)), ["linear_dx_relu"]),
        ((Dense(8), Activation("relu"), Dense(3)), ["linear_dx_relu"]),
        ((Dense(8, "relu"), Dense(40, "relu"), Dense(3)), ["linear_dx_relu", "linear_dx", "linear_dx_add", "linear_dx_add_relu"]),
        ((Dense(8, "tanh"), Dense(3)), ["linear_dx", "tanh_backward"]),
        ((Dense(8, "relu"), Dropout(0.5), Dense(3)), ["linear_dx", "dropout_backward", "relu_backward"]),
        ((Dense(8, "relu"), Activation("tanh"), Dense(3)), ["linear_dx", "tanh_backward", "relu_backward"]),
        ((Dense(8, "relu"), Activation("relu"), Dense(3)), ["linear_dx", "relu_backward", "relu_backward"]),
        ((*_RECTIFIED_IMAGES, Dense(3)), ["linear_dx_relu"]),
        ((*_RECTIFIED_IMAGES, Dropout(0.5), Dense(3)), ["linear_dx", "dropout_backward", "relu_backward"]),
        ((*_RECTIFIED_IMAGES[:1], Flatten(), Dense(3)), ["linear_dx_relu"]),
    ],
)  # fmt: skip
def test_the_product_takes_the_derivative_of_a_relu_right_below(layers, expected):
    images = isinstance(layers[0], Conv2D)
    spec = Spec(36, layers, image_shape=(6, 6, 1) if images else None)
    program = training_program(spec, Target(1, (16,), 4), DataFormat("float32"), (5,))
    ops = [instruction.op for instruction in program.tables[5].threads[0]]
    assert [op for op in ops if op.startswith("linear_dx") or op.endswith("_backward")] == expected


def test_a_bias_that_is_not_used_stays_zero():
    spec = Spec(5, (Dense(3, use_bias=False),))
    executor = ReferenceExecutor(spec, dtype=np.float64)
    rng = np.random.default_rng(0)
    executor.bind(rng.normal(size=(20, 5)), rng.integers(0, 3, 20).astype(np.int32))
    executor.set_parameters([np.ones((5, 3)), np.zeros(3)])
    executor.run_epoch(np.arange(20), np.full(2, 0.1), 10)
    weights, bias = executor.get_parameters()
    assert not np.allclose(weights, 1)
    assert not bias.any()


def test_describe_names_decisions_and_folds_repeats():
    spec = Spec(784, (Dense(128, "relu"), Dense(10)), optimizer=Adam())
    data = DataFormat("uint8", 1 / 255, "uint16", "19% nonzero.")
    text = "\n".join(training_program(spec, Target(2, (64, 32), 16), data, (32,)).describe())
    assert "compressed uint8. 19% nonzero." in text
    assert "threads own columns in panels of 64" in text
    assert "threads own rows" in text
    assert "... 48 more of this" in text  # 784 rows of weights in blocks of 16
    assert "linear_db(" in text
    assert "barrier()" in text


def test_inference_has_neither_loss_nor_update():
    spec = Spec(7, (Dense(5, "relu"), Dropout(0.5), Dense(3)))
    table = inference_program(spec, DataFormat("float32"), (4,)).tables[4]
    ops = [instruction.op for instruction in table.threads[0]]
    assert ops == ["gather_rows", "linear_relu", "linear", "softmax", "scatter_rows", "advance"]
