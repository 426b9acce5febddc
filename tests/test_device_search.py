"""L-BFGS with its vectors on the device, against SciPy's on the host: the kernels in the simulator, the line search by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cusim import compiler_missing, device
from cusim.device import SimulatedDevice
from executor_cases import _data, _spec

from fastmnist.backends.gpu import CupyExecutor
from fastmnist.backends.gpu_search import PAIRS
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.kernels.gpu import lbfgs as kernels
from fastmnist.network.layers import Dense
from fastmnist.network.losses import BinaryCrossEntropy
from fastmnist.training import device_search
from fastmnist.training.device_search import lbfgs_on_device, line_search, searches_on_device
from fastmnist.training.full_batch import Objective, lbfgs
from fastmnist.training.lockstep import lbfgs_by_output
from fastmnist.training.preconditioner import Preconditioner, make_preconditioner

needs_simulator = pytest.mark.skipif(bool(compiler_missing()), reason=compiler_missing())

SETTINGS = {"tol": 1e-5, "max_iter": 200, "options": {"maxls": 50, "ftol": 64 * np.finfo(np.float64).eps}}
SOFTMAX, ONE_VS_REST = _spec(layers=(Dense(5),)), _spec(layers=(Dense(5),), loss=BinaryCrossEntropy())


def objective(executor, *, l2=0.01, fit_intercept=True, correlated=False):
    X, y, weight = correlated_data() if correlated else _data()
    executor.bind(X, y, weight, pixel_scale=1 / 255)
    return Objective(executor, l2, fit_intercept=fit_intercept)


def correlated_data():
    """Features that rise together, as neighbouring pixels do."""
    X, y, weight = _data("dense float")
    return (255 * np.cumsum(X, axis=1) / 4).astype(np.float32), y, weight


def zeros(spec):
    return [np.zeros(shape) for shape in spec.parameter_shapes]


# --- against SciPy ----------------------------------------------------------------------------------------------------------------------


@needs_simulator
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("spec", [SOFTMAX, ONE_VS_REST], ids=["softmax", "one-vs-rest"])
def test_reaches_scipy_s_minimum_in_as_many_iterations(spec, fit_intercept):
    by_output = spec is ONE_VS_REST
    host = objective(ReferenceExecutor(spec, dtype=np.float64), fit_intercept=fit_intercept)
    ours = objective(CupyExecutor(spec, device=SimulatedDevice()), fit_intercept=fit_intercept)
    assert searches_on_device(ours.executor) and not searches_on_device(host.executor)
    theirs = (lbfgs_by_output if by_output else lbfgs)(host, zeros(spec), **SETTINGS)
    got = lbfgs_on_device(ours, zeros(spec), by_output=by_output, **SETTINGS)
    assert got.converged and theirs.converged and got.gradient_max <= SETTINGS["tol"]
    assert got.loss == pytest.approx(theirs.loss, rel=1e-6)
    # The minimum is known to tol / l2 only.
    for a, b in zip(got.parameters, theirs.parameters, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
        assert fit_intercept or a.ndim == 2 or not a.any()
    assert got.n_iter <= 1.3 * theirs.n_iter + 2
    assert len(got.loss_curve) == got.n_iter and len(got.n_iter_by_output) == len(theirs.n_iter_by_output)
    there = ours(ours.to_vector(got.parameters))
    assert there.value == pytest.approx(got.loss, rel=1e-6)
    assert there.steepness == pytest.approx(got.gradient_max, rel=0.3)


@needs_simulator
@pytest.mark.parametrize(
    ("spec", "fit_intercept"), [(SOFTMAX, True), (ONE_VS_REST, False)], ids=["softmax", "one-vs-rest"]
)
def test_a_preconditioner_is_applied_on_the_device(spec, fit_intercept):
    """The same objective, the same end and SciPy's number of iterations in the same variables, which are fewer than without."""
    by_output = spec is ONE_VS_REST
    X, _, weight = correlated_data()
    change = make_preconditioner(
        X,
        scale=1 / 255,
        sample_weight=weight,
        n_outputs=5,
        l2=0.01,
        fit_intercept=fit_intercept,
        dtype=np.dtype(np.float32),
        max_memory=1 << 30,
    )
    diagonal = Preconditioner(np.diag(change.transform).copy())
    host = objective(ReferenceExecutor(spec, dtype=np.float64), fit_intercept=fit_intercept, correlated=True)
    ours = objective(CupyExecutor(spec, device=SimulatedDevice()), fit_intercept=fit_intercept, correlated=True)
    start = [0.1 * np.ones(shape) for shape in spec.parameter_shapes]
    if not fit_intercept:
        start[1][:] = 0
    for used in (change,) if fit_intercept else (change, diagonal):
        host.preconditioner = ours.preconditioner = used
        theirs = (lbfgs_by_output if by_output else lbfgs)(host, start, **SETTINGS)
        got = lbfgs_on_device(ours, start, by_output=by_output, **SETTINGS)
        assert got.converged and got.gradient_max <= SETTINGS["tol"]
        assert got.loss == pytest.approx(theirs.loss, rel=1e-6)
        for a, b in zip(got.parameters, theirs.parameters, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3)
        assert got.n_iter <= 1.3 * theirs.n_iter + 2
        if used is change:
            ours.preconditioner = None
            few = {**SETTINGS, "max_iter": int(1.5 * got.n_iter)}
            assert not lbfgs_on_device(ours, start, by_output=by_output, **few).converged


@needs_simulator
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 3), (66, 10)])
def test_change_of_variables(rows, columns, mode="plain", reverse=False):
    rng = np.random.default_rng(rows)
    full = np.triu(rng.standard_normal((rows, rows)))
    vector, out = rng.standard_normal(rows * columns), np.empty(rows * columns)
    for matrix, transposed in ((full, False), (full, True), (full[0].copy(), False), (full[0].copy(), True)):
        (launch,) = kernels.transform(device.FACTS, *map(device.array, (out, matrix, vector)), transposed=transposed)
        device.run(launch, mode=mode, reverse=transposed != reverse)
        square = matrix if matrix.ndim == 2 else np.diag(matrix)
        expected = (square.T if transposed else square) @ vector.reshape(rows, columns)
        np.testing.assert_allclose(out, expected.ravel(), rtol=1e-12, atol=1e-12)


@needs_simulator
def test_a_trial_brings_a_few_numbers_to_the_host():
    class Counting(SimulatedDevice):
        downloaded, uploaded = 0, 0

        def download(self, array, address):
            self.downloaded = max(self.downloaded, array.nbytes)
            super().download(array, address)

        def upload(self, address, array):
            self.uploaded = max(self.uploaded, array.nbytes)
            super().upload(address, array)

    counting = Counting()
    ours = objective(CupyExecutor(SOFTMAX, device=counting))
    search = ours.executor.begin_search(zeros(SOFTMAX), 0.01, fit_intercept=True, by_output=False)
    counting.downloaded = counting.uploaded = 0
    search.evaluate(np.zeros(1))
    search.direct(np.ones(1, bool), np.zeros(1, bool))
    search.evaluate(np.full(1, 0.1))
    assert max(counting.downloaded, counting.uploaded) <= 4 * 8


@needs_simulator
def test_ctrl_c_keeps_the_last_iteration(monkeypatch):
    ours = objective(CupyExecutor(SOFTMAX, device=SimulatedDevice()))
    whole = lbfgs_on_device(ours, zeros(SOFTMAX), **{**SETTINGS, "max_iter": 3})
    assert (whole.n_iter, whole.converged) == (3, False) and "max_iter=3" in whole.message
    run, calls = ours.executor.run_gradient, []

    def interrupted():
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        run()

    monkeypatch.setattr(ours.executor, "run_gradient", interrupted)
    cut = lbfgs_on_device(ours, zeros(SOFTMAX), **SETTINGS)
    assert cut.interrupted and 0 < cut.n_iter < 6 and cut.loss == cut.loss_curve[-1]
    assert ours(ours.to_vector(cut.parameters)).value == pytest.approx(cut.loss, rel=1e-6)
    calls[:] = [1] * 5
    nothing = lbfgs_on_device(ours, zeros(SOFTMAX), **SETTINGS)
    assert nothing.interrupted and nothing.n_iter == 0 and math.isnan(nothing.loss)


# --- the kernel of the direction ----------------------------------------------------------------------------------------------------------


def two_loops(gradient, pairs):
    """Nocedal & Wright 2006, algorithm 7.4."""
    q, weights = gradient.copy(), []
    for s, y in reversed(pairs):
        weights.append(s @ q / (s @ y))
        q -= weights[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ y)
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        q += (weight - y @ q / (s @ y)) * s
    return -q


@needs_simulator
@pytest.mark.parametrize(("rows", "problems"), [(1, 1), (7, 3), (700, 1), (301, 2)])
def test_directions_follow_the_two_loop_recursion(rows, problems, mode="plain", reverse=False):
    """More steps than are remembered; a problem that waits and one whose step has no positive curvature keep what they have."""
    rng, n, memory = np.random.default_rng(rows), rows * problems, 4
    shapes = {"s": (memory, n), "y": (memory, n), "curvature": (memory, problems), "facts": (4, problems)}
    names = ("x", "gradient", "direction", "s", "y", "curvature", "pairs", "facts", "trial", "new_gradient", "orders")
    state = {name: np.zeros(shapes.get(name, n)) for name in names}
    state["pairs"], state["orders"] = np.zeros(problems, np.int64), np.zeros(problems, np.int32)
    slopes = np.linspace(0.5, 3, n)
    remembered = [[] for _ in range(problems)]
    for step in range(2 * memory):
        state["orders"][:] = kernels.ACCEPT
        if step == 3:
            state["orders"][-1] = kernels.WAIT
        if step == 5:
            state["orders"][0] = kernels.FORGET
        state["trial"][:] = state["x"] + rng.standard_normal(n)
        state["new_gradient"][:] = slopes * state["trial"] * (-1 if step == 1 else 1)
        before = {name: state[name].copy() for name in ("x", "gradient", "direction")}
        operands = tuple(device.array(state[name]) for name in names)
        (launch,) = kernels.direction(operands, memory, problems)
        device.run(launch, mode=mode, reverse=(step % 2 == 1) != reverse)
        for k, order in enumerate(state["orders"]):
            mine = slice(k, None, problems)
            x, gradient, new = before["x"][mine], before["gradient"][mine], state["new_gradient"][mine]
            if order == kernels.ACCEPT:
                pair = state["trial"][mine] - x, new - gradient
                if pair[0] @ pair[1] > -np.finfo(float).eps * (pair[0] @ gradient):
                    remembered[k] = [*remembered[k], pair][-memory:]
                np.testing.assert_array_equal(state["x"][mine], state["trial"][mine])
                gradient = new
            elif order == kernels.FORGET:
                remembered[k] = []
            if order == kernels.WAIT:
                np.testing.assert_array_equal(state["direction"][mine], before["direction"][mine])
                continue
            expected = two_loops(gradient, remembered[k])
            size = np.abs(expected).max()
            np.testing.assert_allclose(state["direction"][mine], expected, rtol=1e-9, atol=1e-9 * size)
            assert state["facts"][2, k] == pytest.approx(gradient @ expected, rel=1e-8)
    assert PAIRS <= kernels.MOST_PAIRS


@needs_simulator
def test_facts_of_a_trial(mode="plain", reverse=False):
    rng = np.random.default_rng(0)
    for n_rows, n_losses, problems, rows in ((300, 1, 1, 700), (5, 4, 1, 33), (70, 3, 3, 90), (1, 1, 1, 1)):
        losses, weight = rng.random((n_rows, n_losses), np.float32), rng.random(n_rows, np.float32)
        penalty, gradient, direction, steep = rng.standard_normal((4, rows * problems))
        facts = np.empty((4, problems))
        vectors = tuple(map(device.array, (penalty, gradient, direction, steep)))
        (launch,) = kernels.measure(device.array(facts), device.array(losses), device.array(weight), vectors, problems)
        device.run(launch, mode=mode, reverse=reverse)
        weighted = (losses.astype(float) * weight[:, None]).sum(axis=0)
        np.testing.assert_allclose(facts[0], weighted if problems > 1 else weighted.sum(), rtol=1e-12)
        columns = (a.reshape(-1, problems) for a in (penalty, gradient * direction, np.abs(steep)))
        sums, products, sizes = columns
        np.testing.assert_allclose(facts[1:3], [sums.sum(axis=0), products.sum(axis=0)], atol=1e-11)
        np.testing.assert_array_equal(facts[3], sizes.max(axis=0))
        steep[-1] = np.nan
        device.run(launch)
        assert np.isnan(facts[3, -1])


# --- the line search ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 100.0])
@pytest.mark.parametrize(
    "function",
    [
        lambda t: ((t - 1) ** 2, 2 * (t - 1)),
        lambda t: (-t / (t * t + 2), (t * t - 2) / (t * t + 2) ** 2),  # Moré & Thuente 1994, their first function
        lambda t: (math.cosh(min(t - 3, 700)), math.sinh(min(t - 3, 700))),
        lambda t: (t**4 - 2 * t, 4 * t**3 - 2) if t < 5 else (math.inf, math.nan),
    ],
    ids=["square", "moré", "cosh", "infinite"],
)
def test_line_search_ends_at_a_wolfe_point(function, first):
    value, slope = function(0.0)
    search = line_search(value, slope, first, 50)
    step, trials = next(search), 0
    try:
        while True:
            trials += 1
            at = step
            step = search.send(function(step))
    except StopIteration as end:
        assert end.value is True and trials <= 12
    found, new_slope = function(at)
    assert found <= value + device_search.DECREASE * at * slope
    assert abs(new_slope) <= -device_search.CURVATURE * slope


def test_line_search_gives_up():
    search = line_search(0.0, -1.0, 1.0, 5)  # rises although its slope says otherwise
    trials = [next(search)]
    with pytest.raises(StopIteration) as end:
        while True:
            trials.append(search.send((1.0, -1.0)))
    assert end.value.value is False and len(trials) == 5 and trials == sorted(trials, reverse=True)
