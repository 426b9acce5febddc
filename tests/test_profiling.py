"""Profiles: times of kernels that are measured, their files, and the machine's roofs. The report in a browser: test_report_page.py."""

import dataclasses
import errno
import itertools
import json
import os

import numpy as np
import pytest

import fastmnist
from fastmnist import CNNClassifier, LogisticRegression, MLPClassifier, RandomForestClassifier
from fastmnist.backends import crossovers
from fastmnist.backends.compressed import choose_format
from fastmnist.backends.cpu import CpuExecutor
from fastmnist.backends.recording import Recorder, recording_to
from fastmnist.backends.reference import ReferenceExecutor
from fastmnist.network.layers import Conv2D, Dense, Flatten
from fastmnist.network.optimizers import Adam
from fastmnist.network.program import BARRIER, Table
from fastmnist.network.spec import Spec
from fastmnist.profiling import crossovers as measuring
from fastmnist.profiling import machine
from fastmnist.profiling.profiles import Overhead, Profile

READ_MACHINE_FILE = crossovers.read_machine_file  # before a fixture hides it from all tests
N, BATCH = 1600, 32
NOTHING_FOUND = Profile("a model", "its data", [], {"numpy": "a reason"}, [], [], None, {})
TWICE = "linear_relu", "forward 1"  # an instruction and its place
SPEC = Spec(300, (Dense(128, "relu"), Dense(64, "relu"), Dense(10)), optimizer=Adam())


def _executor(recorder=None, kind=CpuExecutor, **options):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (N, SPEC.n_features), dtype=np.uint8)
    if recorder is None:
        executor = kind(SPEC, **options)
    else:
        with recording_to(recorder):
            executor = kind(SPEC, **options)
    executor.bind(X, rng.integers(0, 10, N).astype(np.int32), pixel_scale=1 / 255)
    executor.set_parameters([rng.normal(size=shape) * 0.05 for shape in SPEC.parameter_shapes])
    return executor


def _epoch(executor):
    return executor.run_epoch(np.arange(N), np.full(N // BATCH, 1e-3), BATCH)


def _accounted(recorder):
    """Kernels and waiting as a part of the wall time of all threads."""
    (table,) = recorder.tables
    seconds = sum(table.timed_seconds[lane].sum() for lane in range(len(table.lanes))) + sum(table.waited_alone)
    # Of compiled code from its first instruction on: a machine that is busy may let a worker wait before that.
    return seconds / (sum(table.walked_seconds) or sum(span.seconds for span in recorder.spans))


def _by_line(recorder):
    """Seconds of a step by (op, place)."""
    result = {}
    for table in recorder.tables:
        for lane, lines in enumerate(table.lanes):
            for line, seconds in zip(lines, table.seconds_a_call(lane), strict=True):
                result[line.op, line.place] = result.get((line.op, line.place), 0.0) + seconds
    return result


# --- what is recorded ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CpuExecutor, ReferenceExecutor])
def test_recording_changes_no_bit(kind):
    plain, recorded = _executor(kind=kind), _executor(Recorder(), kind)
    epochs = [_epoch(executor) for executor in (plain, recorded)]
    assert epochs[0].losses.tobytes() == epochs[1].losses.tobytes()
    for one, other in zip(plain.get_parameters(), recorded.get_parameters(), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(("kind", "n_threads"), [(CpuExecutor, 1), (CpuExecutor, 2), (ReferenceExecutor, 1)])
def test_kernels_and_waiting_add_up_to_the_wall_time(kind, n_threads):
    # All steps are timed: a neighbour on the same core then counts on both sides. What a thread waits for its first time slice counts on one
    # side only, so the best of some epochs says whether anything is missing; of an account with a hole all would be low, with one too much high.
    parts = []
    for _ in range(4):
        recorder = Recorder(every=1)
        executor = _executor(recorder, kind, n_threads=n_threads)
        _epoch(executor)
        parts.append(_accounted(recorder))
        assert recorder.tables[0].calls == [N // BATCH] * n_threads
        assert recorder.tables[0].timed == [N // BATCH] * n_threads
    assert 0.95 <= max(parts) <= 1.02, parts


@pytest.fixture(scope="module")
def beside_twice():
    """Records of an epoch each of whose steps runs its instructions four times on the same batch, TWICE in the last pass twice; and where the
    last two passes begin and end.

    The first two bring the batch into the caches (what was read once only is the first to leave them), so the last two differ in nothing else. They
    are tens of microseconds apart, in the same memory: whatever a neighbour on the same core takes, it takes from both.
    """
    from fastmnist.backends import cpu

    lower, ends = cpu.training_program, []

    def lowered(*arguments):
        program = lower(*arguments)
        *step, advance = program.tables[BATCH].threads[0]
        assert advance.op == "advance"
        doubled = [i for i in step for _ in range(1 + ((i.op, i.label) == TWICE))]
        assert len(doubled) > len(step)
        ends.extend([2 * len(step), 3 * len(step), 3 * len(step) + len(doubled)])
        return dataclasses.replace(program, tables={BATCH: Table([[*step, *step, *step, *doubled, advance]])})

    recorder = Recorder(every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "training_program", lowered)
        patch.setattr(cpu, "TRACED_STEPS", N // BATCH)  # each reading of the clock is kept
        executor = _executor(recorder, n_threads=1)
        _epoch(executor)  # its memory is touched for the first time
        recorder.tables[0].timed_seconds[0][:] = 0
        _epoch(executor)
    return recorder.tables[0], ends


def _seconds_by_step(table):
    """Of each instruction in each step, (steps, instructions)."""
    (trace,) = table.traces
    seconds = trace.seconds.reshape(N // BATCH, -1)
    np.testing.assert_array_equal(
        trace.rows.reshape(seconds.shape), np.tile(np.arange(len(table.lanes[0])), (N // BATCH, 1))
    )
    return seconds


def test_a_kernel_that_runs_twice_takes_twice_the_time(beside_twice):
    table, (once_from, twice_from, end) = beside_twice
    seconds = _seconds_by_step(table)

    def by_line(start, end):
        sums = {}
        for row in range(start, end):
            line = table.lanes[0][row]
            sums[line.op, line.place] = sums.get((line.op, line.place), 0) + seconds[:, row]
        return sums

    once, twice = by_line(once_from, twice_from), by_line(twice_from, end)
    step = sum(map(np.median, once.values()))
    assert once.keys() == twice.keys()
    # Of pairs within a step the median: a time slice that is lost falls into one of many. Shorter ones are as long as some readings of the clock.
    ratios = {line: np.median(twice[line] / once[line]) for line in once if np.median(once[line]) > 0.02 * step}
    assert len(ratios) > 5
    assert ratios.pop(TWICE) == pytest.approx(2, rel=0.15)
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1), rel=0.10)


def test_a_line_s_time_is_the_sum_of_its_readings(beside_twice):
    table, _ = beside_twice
    np.testing.assert_allclose(table.timed_seconds[0], _seconds_by_step(table).sum(axis=0), rtol=1e-9)


def test_few_steps_are_timed_and_some_in_the_middle_traced():
    recorder = Recorder(every=10)
    _epoch(_executor(recorder, n_threads=2))
    (table,) = recorder.tables
    assert table.calls == [N // BATCH] * 2
    assert all(N // BATCH // 10 <= timed <= N // BATCH // 10 + 5 for timed in table.timed)
    assert {event.thread for event in table.events} <= {0, 1}
    for thread in (0, 1):
        events = [event for event in table.events if event.thread == thread]
        assert all(a.start + a.seconds <= b.start + 1e-6 for a, b in itertools.pairwise(events))
    (span,) = recorder.spans
    assert all(span.start <= e.start and e.start + e.seconds <= span.start + span.seconds + 1e-4 for e in table.events)


def test_an_executor_made_outside_records_nothing():
    recorder = Recorder()
    executor = _executor()
    with recording_to(recorder):
        _epoch(executor)
    assert recorder.tables == [] and recorder.spans == []


def test_the_walker_of_other_runs_does_not_read_the_clock():
    from fastmnist.kernels.cpu.compiler import walker_module

    assert "readcyclecounter" not in str(walker_module())


# --- profile ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist():
    X, y = fastmnist.load_mnist("test", return_X_y=True)
    return X[:1500], y[:1500]


@pytest.fixture(scope="module")
def found(mnist):
    return fastmnist.profile(
        MLPClassifier((16,), batch_size=50, max_iter=2, random_state=0), *mnist, data="some of MNIST"
    )


def test_a_profile_has_every_kernel_of_every_backend(found):
    assert [run.backend for run in found.backends] == ["numpy", "numba"]
    for run in found.backends:
        assert run.steps == 60
        assert run.train_seconds > 0 and run.predict_seconds > 0 and run.fit_seconds >= run.train_seconds
        assert run.overhead.pairs >= 5
        assert np.isfinite([run.overhead.low, run.overhead.median, run.overhead.high]).all()
        assert str(run.overhead) in "".join(found.summary())
        for phase in ("training", "inference"):
            kernels = [k for k in found.kernels if (k.backend, k.phase) == (run.backend, phase)]
            assert sum(k.share for k in kernels) == pytest.approx(1)
            assert [k.seconds for k in kernels] == sorted((k.seconds for k in kernels), reverse=True)
    by_name = {(k.backend, k.phase, k.op, k.place): k for k in found.kernels}
    linear = by_name["numpy", "training", "linear_relu", "forward 1"]
    assert linear.calls == 60
    assert linear.gflops == pytest.approx(2 * 50 * 784 * 16 / linear.mean_us / 1e3)
    assert "NumPy multiplies dense rows" in linear.reason
    assert any(k.op == "quad_linear_relu" and "nonzero" in k.reason for k in found.kernels)
    (pair,) = found.speed_ups
    seconds = {run.backend: run.train_seconds for run in found.backends}
    assert pair.training == pytest.approx(seconds[pair.slow] / seconds[pair.fast])


def test_a_profile_as_files(found, tmp_path):
    found.to_json(tmp_path / "profile.json")
    found.to_trace(tmp_path / "trace.json")
    found.to_html(tmp_path / "report.html")
    values = json.loads((tmp_path / "profile.json").read_text())
    assert values["kernels"] == [dataclasses.asdict(kernel) for kernel in found.kernels]
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["ph"] for event in trace} == {"M", "X"}
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in trace if event["ph"] == "X")
    lanes = {(event["pid"], event["tid"]) for event in trace if event["ph"] == "X"}
    assert lanes == {(event["pid"], event["tid"]) for event in trace if event["name"] == "thread_name"}
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", ""), "the page needs no network"
    assert "quad_linear_relu" in page and "$" not in page.split("<script>")[0].split("</style>")[1]
    assert "<table" in found._repr_html_()
    assert len(found.to_frame()) == len(found.kernels)


@pytest.mark.parametrize("write", ["to_html", "to_json", "to_trace"])
def test_a_full_disk_costs_no_older_report(write, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "report"
    path.write_text("older")
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("fastmnist.profiling.report.page", lambda profile: "a page")
    with pytest.raises(OSError, match="Free some space") as error:
        getattr(NOTHING_FOUND, write)(path)
    assert error.value.filename == str(path) and path.read_text() == "older" and len(list(tmp_path.iterdir())) == 1


def test_a_profile_shows_itself_as_its_summary():
    assert repr(NOTHING_FOUND) == "a model\nits data\nnumpy did not run: a reason"


def test_full_batch_solvers_and_images_are_profiled(mnist):
    X, y = mnist
    softmax = fastmnist.profile(LogisticRegression(max_iter=3), X, y, backends=["numba"])
    assert any(k.phase == "gradient" and k.op.startswith("block_linear") for k in softmax.kernels)
    cnn = fastmnist.profile(CNNClassifier(max_iter=1, batch_size=100), X[:300], y[:300], backends=["numba"])
    forward = ("conv2d_grey_pooled", "conv2d_relu")  # the first layer, of one channel, is pooled in registers
    convolutions = [k for k in cnn.kernels if k.op in forward and k.phase == "training"]
    assert sorted(k.op for k in convolutions) == sorted(forward)
    assert all(k.gflops > 1 and "Direct" in k.reason for k in convolutions)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_forest_is_profiled_tree_by_tree(mnist, dtype, tmp_path):
    X, y = mnist
    X = (
        X[:, 200:260]
        if dtype == "uint8"
        else X[:, 200:260] + np.random.default_rng(0).random((len(X), 60)).astype(np.float32)
    )
    model = RandomForestClassifier(9, random_state=0, oob_score=True)
    found = fastmnist.profile(model, X, y, backends=["numba"])
    (run,) = found.backends
    assert run.steps == 9 and run.unit == "tree" and run.timed == 1
    assert 0.5 < run.accounted < 1.02
    by_name = {(k.phase, k.op): k for k in found.kernels}
    assert {op for phase, op in by_name if phase == "training"} == {
        "grow_tree",
        "bootstrap",
        "leaf_distributions",
        "barrier",
    }
    assert by_name["training", "grow_tree"].calls == by_name["training", "bootstrap"].calls == 9
    assert by_name["training", "grow_tree"].share > by_name["training", "bootstrap"].share
    assert by_name["out of bag", "forest_proba"].calls >= 9 and by_name["inference", "forest_proba"].calls >= 1
    assert ("preparation", "bin_values") in by_name or dtype == "uint8"
    assert by_name["preparation", "transpose"].calls == 1
    assert sum(e.line.op == "grow_tree" for e in found.events["numba"]) == 9
    assert run.overhead.pairs >= 5 and np.isfinite(run.overhead.median)
    found.to_html(tmp_path / "report.html")
    assert "9 trees of" in (tmp_path / "report.html").read_text()
    plain, profiled = (RandomForestClassifier(9, random_state=0, backend="numba") for _ in range(2))
    with recording_to(Recorder()):
        profiled.fit(X, y)
    assert plain.fit(X, y).tree_nodes_.tobytes() == profiled.tree_nodes_.tobytes()


def test_the_overhead_says_where_it_is_noise():
    assert str(Overhead(None, None, None, 0)) == "not measured"
    noise, cost = Overhead(0.004, -0.01, 0.012, 25), Overhead(0.021, 0.011, 0.03, 25)
    assert noise.within_noise and not cost.within_noise
    assert str(noise) == "+0.4% (half of 25 pairs between -1.0% and +1.2%: within noise)"
    assert str(cost) == "+2.1% (half of 25 pairs between +1.1% and +3.0%)"


def test_what_cannot_be_profiled_says_so(mnist, monkeypatch):
    with pytest.raises(ValueError, match="backends must name"):
        fastmnist.profile(MLPClassifier(), *mnist, backends=())
    with pytest.raises(ValueError, match="got 'tpu'"):
        fastmnist.profile(MLPClassifier(), *mnist, backends=("tpu",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(fastmnist.BackendUnavailable):
        fastmnist.profile(MLPClassifier(), *mnist, backends=("cupy",))


# --- roofs -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_measured(monkeypatch, tmp_path):
    """A machine of which nothing is known; where its file would be."""
    path = tmp_path / "roofs" / "here.json"
    monkeypatch.setattr(crossovers, "machine_file", lambda: path)
    monkeypatch.setattr(crossovers, "read_machine_file", READ_MACHINE_FILE)
    monkeypatch.setattr(machine, "TURNS", 4)
    crossovers.crossovers.cache_clear()
    yield path
    crossovers.crossovers.cache_clear()


def test_roofs_are_plausible_and_kept(nothing_measured, monkeypatch):
    assert machine.known_roofs() is None
    measured = machine.roofs()
    assert machine.known_roofs() == measured
    one = measured.gflops[1]
    assert list(one) == sorted(one) and all(1 < value < 1000 for value in one.values())
    assert one[max(one)] > one[4] or len(one) == 1, "wider vectors do more"
    assert all(1 < value < 5000 for value in measured.bandwidth[1].values())
    assert measured.bandwidth_of("L1", 1) > measured.bandwidth_of("memory", 1)
    assert measured.roof(1e6, 1) == measured.peak(1)
    assert measured.roof(1e-6, 1) == pytest.approx(1e-6 * measured.bandwidth_of("L1", 1))
    worse = {n: dict.fromkeys(row, 1.0) for n, row in measured.gflops.items()}
    monkeypatch.setattr(machine, "_measure", lambda: dataclasses.replace(measured, gflops={**worse, 1: {4: 1.0}}))
    assert machine.roofs(measure=True).gflops[1] == {4: one[4]}, "the best seen"
    monkeypatch.setattr(machine, "default_threads", lambda: 99)
    assert machine.known_roofs() is None, "not measured on so many threads"
    nothing_measured.write_text("{")
    assert machine.known_roofs() is None, "a damaged file is measured again"


def test_crossovers_are_measured_kept_and_gone_by(nothing_measured, monkeypatch):
    X = (np.random.default_rng(0).random((50, 40)) < 0.42).astype(np.float32)
    spec = Spec(40, (Dense(8, "relu"), Dense(3)))
    format_, _ = choose_format(X, 1.0, spec)
    assert not format_.compressed and "limit of 30% (stated" in format_.reason
    known = machine.Roofs("here", 1, {1: {4: 1.0}}, {1: {"L1": 1.0}}, {1: {8192: 1.0}}, measured="2026-11-21")
    monkeypatch.setattr(machine, "_measure", lambda: known)
    monkeypatch.setattr(
        measuring, "_times", lambda units, batch: ([9.0] * 5, [2.0 + 14 * share for share in measuring.SHARES])
    )
    monkeypatch.setattr(measuring, "_tiles_and_direct", lambda shape, filters: (shape[2] / 20, 1.8 * shape[2] / 20))
    expected = dict.fromkeys(crossovers.NAMES, 0.5)
    image = Spec(
        18 * 18, (Conv2D(32, 3, activation="relu"), Conv2D(32, 3), Flatten(), Dense(3)), image_shape=(18, 18, 1)
    )
    assert "46%, at most 50% (stated, not measured here)" in _about_winograd(image)
    assert machine.measure_machine().crossovers == expected
    format_, _ = choose_format(X, 1.0, spec)
    assert format_.compressed and "at most 50% (measured here on 2026-11-21)" in format_.reason
    assert "at most 50% (measured here on 2026-11-21)" in _about_winograd(image)
    monkeypatch.setattr(measuring, "_tiles_and_direct", lambda shape, filters: (shape[2] / 50, shape[2] / 10))
    machine.measure_machine()
    assert "above the limit of 18% (measured here" in _about_winograd(image)
    assert machine.roofs(measure=True).crossovers == expected | {crossovers.WINOGRAD: 0.18}, "kept"
    model = MLPClassifier((8,), max_iter=1, backend="numba", batch_size=50).fit(X, np.arange(50) % 3)
    assert "measured here on 2026-11-21" in model.backend_reason_


def _about_winograd(spec):
    """What an executor says of the second convolution, and does."""
    executor = CpuExecutor(spec)
    executor.bind(np.zeros((64, 18 * 18), np.uint8), np.zeros(64, np.int32), pixel_scale=1.0)
    program = executor.program((64,))
    (said,) = (line.partition(": ")[2] for line in program.decisions if line.startswith("convolution 2: "))
    ops = {i.op for thread in program.tables[64].threads for i in thread if i is not BARRIER}
    assert ("conv2d_winograd" in ops) == said.startswith("by Winograd")
    return said


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"version": 1}',
        json.dumps({"version": 2, "crossovers": {crossovers.EPOCH: 7}, "measured": ""}),
        '{"version": 2, "crossovers": 3}',
        "\0",
    ],
)
def test_a_file_of_crossovers_that_cannot_be_used_is_ignored_with_one_warning(nothing_measured, content):
    nothing_measured.parent.mkdir()
    nothing_measured.write_text(content)
    with pytest.warns(RuntimeWarning, match="info --measure") as caught:
        assert [crossovers.share_to_compress(full_batch=full).share for full in (False, True)] == [0.3, 0.3]
    assert len(caught) == 1


def test_the_crossover_is_where_the_lines_meet():
    shares = (0.1, 0.2, 0.3)
    assert measuring.crossing(shares, [5.0, 5.1, 4.9], [3.0, 4.0, 5.0]) == pytest.approx(0.3)
    assert measuring.crossing(shares, [4.5] * 3, [3.0, 4.0, 5.0]) == pytest.approx(0.25)
    assert measuring.crossing(shares, [99.0] * 3, [3.0, 4.0, 5.0]) == 0.3
    assert measuring.crossing(shares, [1.0] * 3, [3.0, 4.0, 5.0]) == 0.1
    assert measuring.crossing(shares, [4.0] * 3, [3.0, 3.0, 3.0]) is None


def test_crossovers_of_this_machine_are_shares():
    dense, compressed = measuring._times((), None)
    share = measuring.crossing(measuring.SHARES, dense, compressed)
    assert share is None or measuring.SHARES[0] <= share <= measuring.SHARES[-1]
    assert compressed[0] < compressed[-1], "five times as many nonzeros take longer"
    few, many = (measuring._tiles_and_direct((26, 26, channels), 16) for channels in (4, 32))
    assert few[0] > many[0] and few[1] > many[1], "of few channels it is mostly transformations"


def test_the_triad_adds_and_the_chains_multiply():
    from fastmnist.kernels.cpu import roofs

    items = 3 * roofs.TRIAD_ITEMS
    a, b, c = np.zeros(items + 1, np.float32), *np.random.default_rng(0).random((2, items), np.float32)
    roofs.triad()(a.ctypes.data, b.ctypes.data, c.ctypes.data, items, 2)
    np.testing.assert_allclose(a[:items], b + 3 * c, rtol=1e-6)
    assert a[items] == 0
    for lanes in roofs.widths():
        memory = np.repeat(np.float32([0.5, 2.0, 0.0]), lanes)
        roofs.multiply_adds(lanes)(memory.ctypes.data, 1)
        # c = a b + c from c = a, or c = a c + b where there is no fused multiply-add, summed over all chains
        one = 0.5 * 2.0 + 0.5 if roofs.MACHINE.has_fma else 0.5 * 0.5 + 2.0
        np.testing.assert_allclose(memory[2 * lanes :], roofs.CHAINS * one)
