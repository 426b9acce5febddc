"""Forests on a backend: growing trees side by side, and asking all of them.

A tree is one call of the job `grow_tree` (`kernels/contract/`), so threads take whole trees, one after the other. A tree depends on its number
and the key alone: the forest has the same bits on any number of threads, and on both backends.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastmnist.backends import BackendUnavailable
from fastmnist.backends.job_clock import JobClock
from fastmnist.backends.recording import Line, active
from fastmnist.backends.team import Team
from fastmnist.backends.trees import Forest, ForestPlan, Tree
from fastmnist.kernels import reference
from fastmnist.kernels.contract import JOBS
from fastmnist.kernels.cpu.layout import ABORT, STOP, block_stride

# A block of a node's rows should stay in L2 and L3; measured on 60,000 x 784 with 1 MB of L2 a core, 1,000 to 4,000 rows are within 10 %.
BLOCK_BYTES = 2 << 20
SMALLEST_BLOCK = 64  # rows; where there are many features
# Rows that make it worth starting another thread to predict.
ROWS_A_THREAD = 256
# A cut that gains nothing is still made where `min_impurity_decrease` is 0: it must not be refused for a rounding error.
ROUNDING = 1e-14
_JOB_NAMES = ("bootstrap", "grow_tree", "forest_proba")

# What a thread does for a tree, and for a prediction.
BOOTSTRAP, DISTRIBUTIONS, GROW = range(3)
_GROWING = (
    Line("bootstrap", "rows of a tree"),
    Line("leaf_distributions", "mixed leaves of a tree"),
    Line("grow_tree", "a whole tree"),
)
_TRANSPOSING = (Line("transpose", "columns of X"),)
_ASKING = (Line("forest_proba", "all trees, a share of the rows"),)

OnTree = Callable[[int, float], None]


class ForestExecutor:
    """Grows and asks forests on one backend.

    Parameters
    ----------
    backend : {"numpy", "numba"}
    n_threads : int
        Of compiled code; NumPy's trees are grown one after the other.

    Raises
    ------
    BackendUnavailable
        Another backend.
    """

    def __init__(self, backend: str, n_threads: int) -> None:
        if backend not in ("numpy", "numba"):
            raise BackendUnavailable(
                backend,
                "not-implemented",
                "random forests are grown and asked on the CPU: a tree is a chain of small decisions, each on other rows.",
                "Use backend='numba', or backend='auto'.",
            )
        self.backend, self.n_threads = backend, n_threads if backend == "numba" else 1
        self._recorder = active()
        self._job: dict[str, Callable[..., None]]
        if backend == "numpy":
            self._job = {name: getattr(reference, name) for name in _JOB_NAMES}
        else:
            from fastmnist.kernels import cpu

            self._cpu = cpu
            self._job = {name: _compiled(cpu, name) for name in _JOB_NAMES}

    def _prepare(self, *names: str, x_dtype: str = "uint8") -> None:
        """Compile, or load, before threads start: only the main thread keeps a Ctrl-C that arrives meanwhile."""
        if self.backend == "numba":
            dtypes = (tuple(x_dtype if o.name == "x" else o.dtypes[0] for o in JOBS[name].operands) for name in names)
            self._cpu.prepare(zip(names, dtypes, strict=True), self.n_threads)

    def grow(
        self,
        codes: np.ndarray,
        labels: np.ndarray,
        sample_weight: np.ndarray,
        plan: ForestPlan,
        on_tree: OnTree | None = None,
    ) -> list[Tree]:
        """Grow all trees.

        Parameters
        ----------
        codes : ndarray of shape (n, n_features), C-contiguous uint8
            Values, or numbers of bins.
        labels : ndarray of shape (n,), int32
        sample_weight : ndarray of shape (n,), float64
            All > 0.
        plan : ForestPlan
        on_tree : callable, optional
            Called with the number of trees that are done and the seconds that the last one took, from whichever thread has grown it.

        Raises
        ------
        KeyboardInterrupt
            Ctrl-C, within some ms.
        """
        self._prepare("bootstrap", "grow_tree")
        clock = JobClock(self._recorder, "preparation", _TRANSPOSING, len(codes), 1)
        with clock.timing(0, 0):
            columns = np.ascontiguousarray(codes.T)
        clock.stop()
        trees: list[Tree | None] = [None] * plan.n_trees
        numbers, done = itertools.count(), itertools.count(1)
        n_threads = min(self.n_threads, plan.n_trees)
        team = Team(n_threads)
        stop = team.control[STOP : STOP + 1]
        clock = JobClock(self._recorder, "training", _GROWING, len(codes), n_threads)

        def work(thread: int) -> int:
            grower = _Grower(self._job, codes, columns, labels, sample_weight, plan, stop, clock, thread)
            for number in numbers:
                if number >= plan.n_trees or team.control[STOP] or team.control[ABORT]:
                    break
                start = time.perf_counter()
                trees[number] = grower.grow(number)
                if on_tree is not None and trees[number] is not None:
                    on_tree(next(done), time.perf_counter() - start)
            return 0

        team.run(work)
        if team.stop_requested:
            raise KeyboardInterrupt
        clock.stop()
        return [tree for tree in trees if tree is not None]

    def in_bag(self, sample_weight: np.ndarray, plan: ForestPlan, number: int) -> np.ndarray:
        """Which rows tree `number` was grown on, as a mask."""
        weights = np.empty(len(sample_weight))
        self._job["bootstrap"](weights, np.ones(len(sample_weight)), plan.key, tree=number, n_draws=plan.n_draws)
        return weights > 0

    def probabilities(self, forest: Forest, x: np.ndarray, scale: float, *, phase: str = "inference") -> np.ndarray:
        """Mean over the trees of what they say about each row, (n, n_classes).

        Parameters
        ----------
        forest : Forest
            A sound one.
        x : ndarray of shape (n, n_features), C-contiguous, uint8 or float32
        scale : float
            Values are multiplied by it.
        phase : str, default="inference"
            Of whoever profiles.
        """
        n = len(x)
        p = np.empty((n, forest.distributions.shape[1]))
        tables = (forest.nodes, forest.thresholds, forest.roots, forest.distributions)
        self._prepare("forest_proba", x_dtype=x.dtype.name)
        n_threads = max(1, min(self.n_threads, n // ROWS_A_THREAD))
        bounds = [n * t // n_threads for t in range(n_threads + 1)]
        clock = JobClock(self._recorder, phase, _ASKING, n, n_threads)

        def work(thread: int) -> int:
            share = slice(bounds[thread], bounds[thread + 1])
            with clock.timing(thread, 0):
                self._job["forest_proba"](p[share], x[share], *tables, scale=scale)
            return 0

        if n_threads == 1:
            work(0)  # starting a thread would take as long
        else:
            team = Team(n_threads)
            team.run(work)
            if team.stop_requested:
                raise KeyboardInterrupt
        clock.stop()
        return p


def _compiled(cpu: Any, name: str) -> Callable[..., None]:
    return lambda *arrays, **params: cpu.call(name, *arrays, **params)


class _Grower:
    """One thread's memory, for one tree after the other."""

    def __init__(
        self,
        job: dict[str, Callable[..., None]],
        codes: np.ndarray,
        columns: np.ndarray,
        labels: np.ndarray,
        sample_weight: np.ndarray,
        plan: ForestPlan,
        stop: np.ndarray,
        clock: JobClock,
        thread: int,
    ) -> None:
        n, n_features = codes.shape
        self._clock, self._thread = clock, thread
        self._job, self._plan, self._labels, self._sample_weight = job, plan, labels, sample_weight
        self._block_rows = min(n, max(SMALLEST_BLOCK, BLOCK_BYTES // n_features))
        self._weights = sample_weight.copy()
        self._outputs: dict[str, np.ndarray] = {
            "nodes": np.empty((n, 4), np.int32),
            "gains": np.empty(n),
            "spans": np.empty((n, 2), np.int32),
            "rows": np.empty(n, np.int32),
            "summary": np.empty(4, np.int64),
        }
        self._workspace = (
            np.empty(n, np.int32),
            np.empty((2, n)),
            np.empty((4, n), np.int64),
            np.empty((n, 4), np.int64),
            np.empty((2, plan.n_classes)),
            np.empty(n_features, np.int32),
            np.empty(n_features * block_stride(self._block_rows), np.uint8),
        )
        self._inputs = (codes, columns, labels, self._weights, plan.key, stop)

    def grow(self, number: int) -> Tree | None:
        """Tree `number`; None when it was stopped."""
        plan, rules = self._plan, self._plan.rules
        if plan.n_draws is not None:
            with self._clock.timing(self._thread, BOOTSTRAP):
                self._job["bootstrap"](self._weights, self._sample_weight, plan.key, tree=number, n_draws=plan.n_draws)
        with self._clock.timing(self._thread, GROW):
            self._job["grow_tree"](
                *self._outputs.values(),
                *self._workspace,
                *self._inputs,
                tree=number,
                max_features=rules.max_features,
                max_depth=rules.max_depth,
                min_samples_split=rules.min_samples_split,
                min_samples_leaf=rules.min_samples_leaf,
                min_weight_leaf=rules.min_weight_fraction_leaf * float(self._weights.sum()),
                min_decrease=rules.min_impurity_decrease - ROUNDING,
                block_rows=self._block_rows,
            )
        n_nodes, n_mixed, root, depth = map(int, self._outputs["summary"])
        if n_nodes < 0:
            return None
        nodes, gains = self._outputs["nodes"][:n_nodes].copy(), self._outputs["gains"][:n_nodes].copy()
        with self._clock.timing(self._thread, DISTRIBUTIONS):
            distributions = self._distributions(self._outputs["spans"][:n_mixed])
        return Tree(nodes, gains, distributions, root, depth)

    def _distributions(self, spans: np.ndarray) -> np.ndarray:
        """Parts of the classes in the mixed leaves."""
        n_classes = self._plan.n_classes
        lengths = spans[:, 1] - spans[:, 0]
        leaf = np.repeat(np.arange(len(spans)), lengths)
        places = np.concatenate([np.arange(first, last) for first, last in spans]) if len(spans) else np.zeros(0, int)
        rows = self._outputs["rows"][places]
        weight = np.bincount(leaf * n_classes + self._labels[rows], self._weights[rows], len(spans) * n_classes)
        weight = weight.reshape(len(spans), n_classes)
        return weight / weight.sum(axis=1, keepdims=True)
