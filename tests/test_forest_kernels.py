"""The jobs of a random forest: compiled against the oracle, to the last bit; and the oracle against what can be said by hand."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forest_cases import DEFAULTS, grown, tree_operands

from fastmnist.kernels import cpu, reference
from fastmnist.kernels.contract import CONTRACT, JOBS, check
from fastmnist.kernels.cpu import compiler

ROWS = (1, 2, 3, 16, 17, 63, 64, 65, 130, 400, 700, 700)
FEATURES = (1, 2, 15, 16, 17, 33)


def random_case(seed: int) -> tuple[dict, dict, dict]:
    """Two sets of operands with the same content, and parameters; sizes, values, weights and rules differ from seed to seed."""
    rng = np.random.default_rng(seed)
    n, n_features, n_classes = int(rng.choice(ROWS)), int(rng.choice(FEATURES)), int(rng.choice([1, 2, 3, 10, 300]))
    X = rng.integers(0, rng.choice([2, 4, 256]), (n, n_features)).astype(np.uint8)
    X[rng.random(X.shape) < rng.choice([0.0, 0.5, 0.9])] = rng.choice([0, 255])
    noise = rng.integers(0, 2, n)
    labels = (X.sum(axis=1) // 7 + noise) % n_classes
    weights = [np.ones(n), rng.integers(0, 4, n).astype(float), rng.random(n) * 10 ** rng.uniform(-3, 3, n)][seed % 3]
    weights[rng.integers(0, n)] = 1
    params = DEFAULTS | {
        "tree": seed,
        "max_features": int(rng.integers(1, n_features + 1)),
        "max_depth": float(rng.choice([np.inf, np.inf, 1, 3])),
        "min_samples_split": int(rng.choice([2, 2, 10])),
        "min_samples_leaf": int(rng.choice([1, 1, 3])),
        "min_weight_leaf": float(rng.choice([0, 0, 2.5])),
        "min_decrease": float(rng.choice([-1e-14, 1e-3])),
        "block_rows": int(rng.choice([1, 16, 64, 1000])),
    }
    operands = [tree_operands(X, labels, weights, n_classes, seed=seed, block_rows=params["block_rows"]) for _ in "ab"]
    return operands[0], operands[1], params


def assert_same_tree(one: dict, other: dict) -> None:
    for name, expected in grown(other).items():
        np.testing.assert_array_equal(grown(one)[name], expected, err_msg=name)


@pytest.mark.parametrize("seed", range(60))
def test_compiled_tree_is_the_oracle_s_to_the_last_bit(seed):
    compiled, oracle, params = random_case(seed)
    assert check("grow_tree", *compiled.values())
    cpu.call("grow_tree", *compiled.values(), **params)
    reference.grow_tree(*oracle.values(), **params)
    assert oracle["summary"][0] >= 0
    assert_same_tree(compiled, oracle)


def test_the_random_cases_grow_trees_of_all_kinds():
    """What the test above compares: many nodes, mixed leaves, single leaves."""
    summaries = []
    for seed in range(60):
        _, oracle, params = random_case(seed)
        reference.grow_tree(*oracle.values(), **params)
        summaries.append(oracle["summary"])
    nodes, mixed, root, depth = np.array(summaries).T
    assert (nodes > 50).sum() >= 5
    assert (mixed > 5).sum() >= 5
    assert (root < 0).sum() >= 3
    assert depth.max() >= 10


@pytest.mark.parametrize("n_classes", [2, 10])
def test_a_tree_does_not_depend_on_the_size_of_blocks(n_classes):
    rng = np.random.default_rng(5)
    X = rng.integers(0, 256, (3000, 20)).astype(np.uint8)
    labels = (X[:, :4].sum(axis=1) // 90) % n_classes
    trees = []
    for block_rows in (1, 100, 3000):
        operands = tree_operands(X, labels, np.ones(3000), n_classes, block_rows=block_rows)
        cpu.call("grow_tree", *operands.values(), **DEFAULTS | {"block_rows": block_rows})
        trees.append(operands)
    assert trees[0]["summary"][0] > 100
    assert_same_tree(trees[1], trees[0])
    assert_same_tree(trees[2], trees[0])


def test_nothing_but_outputs_is_written():
    compiled, untouched, params = random_case(9)
    cpu.call("grow_tree", *compiled.values(), **params)
    for operand in JOBS["grow_tree"].ins:
        np.testing.assert_array_equal(compiled[operand.name], untouched[operand.name], err_msg=operand.name)


@pytest.mark.parametrize("grow", [lambda *a, **k: cpu.call("grow_tree", *a, **k), reference.grow_tree])
def test_a_request_to_stop_is_heard(grow):
    operands, _, params = random_case(9)
    operands["stop"][0] = 1
    grow(*operands.values(), **params)
    assert operands["summary"][0] == -1


def test_a_tree_by_hand():
    """Values 3, 5 | 9, 9 of the second feature separate the classes; the first one is constant."""
    X = np.array([[7, 3], [7, 9], [7, 5], [7, 9]], np.uint8)
    operands = tree_operands(X, np.array([1, 0, 1, 0]), np.array([1.0, 2.0, 1.0, 1.0]), 2)
    reference.grow_tree(*operands.values(), **DEFAULTS)
    tree = grown(operands)
    assert tree["summary"].tolist() == [1, 0, 0, 1]
    assert tree["nodes"].tolist() == [[1, 256 * 5 + 9, ~1, ~0]]
    # Squares: node 2^2 + 3^2 = 13 of weight 5; sides 4 / 2 and 9 / 3.
    assert tree["gains"][0] == pytest.approx(4 / 2 + 9 / 3 - 13 / 5)


@pytest.mark.parametrize("grow", [lambda *a, **k: cpu.call("grow_tree", *a, **k), reference.grow_tree])
def test_of_equal_cuts_the_lowest_wins(grow):
    operands = tree_operands(np.array([[0], [5], [9]], np.uint8), np.array([0, 1, 0]), np.ones(3), 2)
    grow(*operands.values(), **DEFAULTS | {"max_depth": 1})
    assert operands["nodes"][0, :2].tolist() == [0, 5]


def test_the_search_goes_on_until_a_feature_varies():
    X = np.zeros((8, 40), np.uint8)
    X[4:, 17] = 1
    for seed in range(5):
        operands = tree_operands(X, np.arange(8) // 4, np.ones(8), 2, seed=seed)
        cpu.call("grow_tree", *operands.values(), **DEFAULTS | {"max_features": 1})
        assert operands["nodes"][0].tolist() == [17, 1, ~0, ~1]


@pytest.mark.parametrize(("n", "n_draws"), [(1, 1), (5, 3), (1000, 1000), (1000, 5001)])
def test_bootstrap(n, n_draws):
    rng = np.random.default_rng(n)
    weight, key = rng.random(n) + 0.5, np.array([3, 4], np.uint32)
    compiled, oracle = np.full(n, np.nan), np.full(n, np.nan)
    cpu.call("bootstrap", compiled, weight, key, tree=7, n_draws=n_draws)
    reference.bootstrap(oracle, weight, key, 7, n_draws)
    np.testing.assert_array_equal(compiled, oracle)
    counts = compiled / weight
    assert round(counts.sum()) == n_draws
    if n == n_draws == 1000:  # 1 / e of the rows are not drawn: 368 +- 10
        assert 325 < (compiled == 0).sum() < 411


def random_forest_tables(rng: np.random.Generator, n_features: int, n_classes: int) -> list[np.ndarray]:
    """Nodes that refer to later nodes or to leaves; thresholds that values meet exactly; roots anywhere."""
    n, n_mixed = 50, 7
    children = rng.integers(-(n_classes + n_mixed), n, (n, 2))
    behind = children <= np.arange(n)[:, None]
    children[behind & (children >= 0)] = -1
    nodes = np.column_stack([rng.integers(0, n_features, n), children]).astype(np.int32)
    thresholds = rng.integers(0, 8, n).astype(np.float32)
    roots = np.append(rng.integers(0, 20, 12), [-1, -(n_classes + 2)]).astype(np.int32)
    return [nodes, thresholds, roots, rng.dirichlet(np.ones(n_classes), n_mixed)]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("n", "n_features", "n_classes"), [(0, 3, 2), (1, 1, 1), (2, 5, 3), (33, 7, 10), (1500, 4, 17)]
)
def test_compiled_forest_says_what_the_oracle_says(dtype, n, n_features, n_classes):
    rng = np.random.default_rng(n)
    x = rng.integers(0, 9, (n, n_features)).astype(dtype)
    tables = random_forest_tables(rng, n_features, n_classes)
    compiled, oracle = np.full((n, n_classes), np.nan), np.full((n, n_classes), np.nan)
    cpu.call("forest_proba", compiled, x, *tables, scale=1.0)
    reference.forest_proba(oracle, x, *tables, 1.0)
    np.testing.assert_array_equal(compiled, oracle)
    np.testing.assert_allclose(compiled.sum(axis=1), 1)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_described_and_its_oracle_has_its_signature(job):
    op = JOBS[job]
    assert job not in CONTRACT
    assert op.doc.endswith(".")
    expected = [*(operand.name for operand in op.operands), *op.params]
    oracle = getattr(reference, job)
    assert list(inspect.signature(oracle).parameters) == expected


@pytest.mark.parametrize("job", JOBS)
def test_a_job_s_machine_code_calls_nothing_of_python_and_rounds_as_numpy_does(job):
    dtypes = tuple("float32" if o.dtypes[0] == "float" else o.dtypes[0] for o in JOBS[job].operands)
    module = str(compiler.entry_module(job, dtypes))
    calls = re.findall(r"^declare .*@([\w.$\"]+)\(", module, re.MULTILINE)
    assert [
        name for name in calls if not name.startswith("llvm.") and name not in ("memset", "memcpy", "memmove", "sqrt")
    ] == []
    if job == "grow_tree":  # a fused multiply-add is formed of a multiplication that allows it
        assert len(re.findall(r"fmul double", module)) > 5
    if job != "weighted_sums":  # a sum is judged by its error, not by its bits
        assert re.findall(r"fmul contract double", module) == []


WITHOUT_A_COMPILER = """
from forest_cases import DEFAULTS, grown, tree_operands
import numpy as np
from test_forest_kernels import assert_same_tree, random_case, random_forest_tables
from fastmnist.kernels import reference
from fastmnist.kernels.contract import JOBS
from fastmnist.kernels.cpu import forest, simd
assert not simd.JIT

def call(kernel, job, arrays, params):
    op = JOBS[job]
    dims = op.bind_dims([a.shape for a in arrays])
    lds = [a.shape[1] for a in arrays if a.ndim == 2]
    kernel(*(a.reshape(-1) for a in arrays), *(params[p] for p in op.params), *dims.values(), *lds)

n_nodes = 0
with np.errstate(over="ignore"):
    for seed in range(12):
        plain, oracle, params = random_case(seed)
        call(forest.grow_tree, "grow_tree", list(plain.values()), params)
        reference.grow_tree(*oracle.values(), **params)
        assert_same_tree(plain, oracle)
        n_nodes += plain["summary"][0]
    rng = np.random.default_rng(0)
    tables = random_forest_tables(rng, 4, 3)
    x, p, q = rng.integers(0, 9, (5, 4)).astype(np.uint8), np.zeros((5, 3)), np.zeros((5, 3))
    call(forest.forest_proba, "forest_proba", [p, x, *tables], {"scale": 1.0})
    reference.forest_proba(q, x, *tables, 1.0)
    np.testing.assert_array_equal(p, q)
print(n_nodes)
"""


def test_the_kernels_without_a_compiler():
    here = Path(__file__).parent
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    command = [sys.executable, "-c", WITHOUT_A_COMPILER]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 30
