"""`fastmnist bench`: what is wrong gets no time, what is right gets one with its rates; ops, sizes and functions of the user's own."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from threadpoolctl import threadpool_info

from fastmnist.cli import main
from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT, check
from fastmnist.profiling import kernel_bench
from fastmnist.profiling.kernel_bench import benched_ops, operands

SMALL = {"B": 4, "I": 33, "O": 17}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(kernel_bench, "SAMPLES", 3)
    monkeypatch.setattr(kernel_bench, "SAMPLE_SECONDS", 1e-5)


@pytest.mark.parametrize("name", benched_ops())
def test_operands_are_what_the_contract_asks_for(name):
    arrays, params = operands(CONTRACT[name], {"B": 4} if "B" in CONTRACT[name].dims else {})
    check(name, *arrays)
    with np.errstate(all="ignore"):
        getattr(reference, name)(*arrays, *params.values())
    assert all(np.isfinite(a).all() for a in arrays if a.dtype.kind == "f")


def test_both_backends_are_verified_and_timed():
    compiled, numpy = kernel_bench.bench_op("linear_relu", sizes=SMALL)
    for timing, provider in ((compiled, "numba"), (numpy, "numpy")):
        assert (timing.provider, timing.problem, timing.sizes) == (provider, "", "B=4 O=17 I=33")
        assert timing.low <= timing.microseconds <= timing.high
        flops = CONTRACT["linear_relu"].flops({"B": 4, "I": 33, "O": 17})
        assert timing.gflops == pytest.approx(flops / timing.microseconds / 1e3)


def _off_by_a_little(y, x, w, b):
    reference.linear_relu(y, x, w, b)
    y[1, 2] += 1e-3


def _nan(y, x, w, b):
    y[:] = np.nan


def _raises(y, x, w, b):
    raise ZeroDivisionError("no")


def _writes_nothing(y, x, w, b):
    pass


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (_off_by_a_little, "1 of 68 values"),
        (_nan, "68 of 68"),
        (_raises, "ZeroDivisionError"),
        (_writes_nothing, "wrong: y"),
    ],
)
def test_a_wrong_function_gets_no_time(function, text):
    (timing,) = kernel_bench.bench_op("linear_relu", sizes=SMALL, providers=(), functions={"mine": function})
    assert timing.microseconds is None and text in timing.problem


def test_nothing_is_timed_before_all_is_verified(monkeypatch):
    order = []
    for name in ("_verified", "_timed"):
        original = getattr(kernel_bench, name)
        monkeypatch.setattr(kernel_bench, name, lambda *a, n=name, f=original: order.append(n) or f(*a))
    kernel_bench.bench_op("tanh", sizes={"B": 2, "O": 3}, providers=("numpy",), functions={"mine": reference.tanh})
    assert order == ["_verified"] * 2 + ["_timed"] * 2


def test_blas_has_one_thread_while_it_is_timed():
    seen = []

    def counting(y, x, w, b):
        seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
        reference.linear_relu(y, x, w, b)

    (timing,) = kernel_bench.bench_op("linear_relu", sizes=SMALL, providers=(), functions={"mine": counting})
    assert timing.problem == "" and len(seen) > 1 and all(threads <= {1} for threads in seen[1:])


def test_wrong_integers_are_wrong():
    def none_right(dz, losses, hits, *rest):
        reference.softmax_cross_entropy(dz, losses, hits, *rest)
        hits ^= 1

    (timing,) = kernel_bench.bench_op("softmax_cross_entropy", providers=(), functions={"mine": none_right})
    assert "hits differs" in timing.problem


@pytest.mark.parametrize(
    ("name", "sizes", "text"),
    [
        ("no_op", {}, "Unknown op 'no_op'"),
        ("sparse_linear", {}, "follow from each other"),
        ("tanh", {"K": 3}, "no size 'K'; dimensions: "),
    ],
)
def test_what_cannot_be_timed_says_why(name, sizes, text):
    with pytest.raises(ValueError, match=text):
        kernel_bench.bench_op(name, sizes=sizes)


def run(*arguments):
    return CliRunner().invoke(main, ["bench", *arguments])


def test_the_command_times_a_function_of_the_user_s_beside_ours(tmp_path, monkeypatch):
    (tmp_path / "mine_to_bench.py").write_text(
        "import numpy\ndef right(y, x):\n    numpy.tanh(x, out=y)\ndef wrong(y, x):\n    y[:] = 0\n"
    )
    monkeypatch.chdir(tmp_path)
    result = run("tanh", "--shape", "B=8,O=16", "--kernel", "mine_to_bench:right", "--json")
    assert result.exit_code == 0
    assert [t["provider"] for t in json.loads(result.stdout)["timings"]] == ["numba", "numpy", "mine_to_bench:right"]
    result = run("tanh", "--shape", "B=8,O=16", "--backends", "numpy", "--kernel", "mine_to_bench:wrong")
    assert result.exit_code == 1 and "no time" in result.stdout and "wrong: y is off" in result.stdout


def test_what_is_no_function_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "not_to_bench.py").write_text("number = 3\n")
    (tmp_path / "broken_to_bench.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernel_bench, "bench_op", lambda *a, **k: pytest.fail("measured"))
    result = run("tanh", "--kernel", "not_to_bench:number")
    assert result.exit_code == 2 and "must name a function; not_to_bench:number is 3" in result.stderr
    result = run("tanh", "--kernel", "broken_to_bench:f")
    assert result.exit_code == 2 and "broken_to_bench failed: ZeroDivisionError" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["tanh", "--shape", "B"], "--shape must be NAME=N"),
        (["tanh", "--kernel", "mine"], "must be MODULE:FUNCTION"),
        (["tanh", "--kernel", "no_such_module:f"], "No module named"),
        (["tanh", "--backends", ""], "at least one of"),
        (["tanh", "--backends", "tpu"], "got 'tpu'"),
    ],
)
def test_bad_input_is_one_line(arguments, text):
    result = run(*arguments)
    assert result.exit_code == 2 and text in result.stderr and "Traceback" not in result.stderr
