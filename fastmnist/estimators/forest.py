"""Random forest, with scikit-learn's parameters."""

from __future__ import annotations

import math
import time
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, RealNotInt, StrOptions

from fastmnist import backends
from fastmnist.backends.rows import Matrix, convert
from fastmnist.backends.trees import Forest, ForestPlan, Tree, TreeRules
from fastmnist.estimators.base import MAX_THREADS, Classifier
from fastmnist.training.history import EpochRecord

if TYPE_CHECKING:
    from fastmnist.backends.forest import ForestExecutor
    from fastmnist.training.binning import Coding

# What a forest is in NumPy, for the choice of a backend: a node has some eight rows on average, and each of its features is a step.
ROWS_A_NODE = 8
LARGEST_ROW_NUMBER = np.iinfo(np.int32).max


class RandomForestClassifier(Classifier):
    """Random forest (Breiman 2001): classification trees on bootstrap samples, each node of which looks at some features drawn at random.

    uint8 X, images above all, is split exactly: at every distinct value of a feature in a node. Other numbers are rounded to float32 as in
    scikit-learn; features with more than 256 distinct values are divided once, before the first tree, into 256 bins of about as many rows
    each, and are split between bins.

    Parameters
    ----------
    n_estimators : int, default=100
        Trees.
    criterion : {"gini"}, default="gini"
        Measure of a split: Gini's impurity.
    max_depth : int or None, default=None
        Of a tree; None: no limit.
    min_samples_split : int or float, default=2
        Least number of rows in a node that is split; float: as a part of the training rows. What a bootstrap sample has several times counts once.
    min_samples_leaf : int or float, default=1
        Least number of rows on each side of a split; float: as a part of the training rows.
    min_weight_fraction_leaf : float, default=0.0
        Least weight on each side of a split, as a part of the tree's.
    max_features : {"sqrt", "log2"}, int, float or None, default="sqrt"
        Features that a node draws; float: as a part of all; None: all. As in scikit-learn it goes on drawing while all of them are constant.
    min_impurity_decrease : float, default=0.0
        Least decrease of impurity by a split, weighted with the node's part of the tree's weight.
    bootstrap : bool, default=True
        Whether each tree gets a sample of the rows, drawn with replacement; False: all rows.
    oob_score : bool, default=False
        Whether to judge the forest by the rows that trees did not get, see `oob_score_`; needs `bootstrap`.
    n_jobs : int or None, default=None
        Threads; None and -1: as many as this process may use (`fastmnist.threads.default_threads`). Results do not depend on it.
    random_state : int, RandomState or None, default=None
        A tree depends on it and on its own number alone: a larger forest begins with the smaller one's trees.
    verbose : int, default=0
        Whether to print each tree's time.
    class_weight : dict, "balanced" or None, default=None
        Factors of the rows' weights by class; "balanced": inversely proportional to the classes' weights in y.
    max_samples : int, float or None, default=None
        Rows drawn for each tree; float: as a part of the training rows; None: as many as there are.
    backend : {"auto", "numba", "numpy"}, default="auto"
        "numpy" is the readable reference: the same trees, slowly. Forests are grown on the CPU: "cupy" is refused.
    pixel_scale : "auto" or float, default="auto"
        What uint8 X is multiplied by in `fit` and `predict`; "auto": 1/255. The trees are the same; thresholds, and so what a model makes of
        floats, refer to the scaled values.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_classes_, n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        If X had names.
    feature_importances_ : ndarray of shape (n_features_in_,)
        Mean over the trees of each feature's part of the decrease of impurity.
    oob_score_ : float
        With `oob_score`: accuracy on the training rows, of each the trees that did not get it asked.
    oob_decision_function_ : ndarray of shape (n_samples, n_classes)
        Their mean probabilities; NaN for rows that all trees got, and for rows of weight 0, which no tree can get.
    tree_nodes_, tree_thresholds_, tree_roots_, tree_distributions_ : ndarray
        The forest, see `fastmnist.backends.trees.Forest`.
    tree_depths_ : ndarray of shape (n_estimators,)
    pixel_scale_, input_max_ : float
        What uint8 X was multiplied by, and the largest value after it.
    backend_, backend_reason_ : str
        What computed, and why.
    compile_seconds_, fit_seconds_ : float
        Seconds of `fit`, compiling apart.

    See Also
    --------
    sklearn.ensemble.RandomForestClassifier : The same with further criteria, `warm_start`, pruning, missing values and several outputs.

    Examples
    --------
    >>> from fastmnist import RandomForestClassifier, load_mnist
    >>> X, y = load_mnist("test", return_X_y=True)
    >>> RandomForestClassifier(10, random_state=0).fit(X[:1000], y[:1000]).tree_roots_.shape
    (10,)
    """

    _runs_on_cpu = "RandomForestClassifier"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Classifier._parameter_constraints,
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "criterion": [StrOptions({"gini"})],
        "max_depth": [Interval(Integral, 1, None, closed="left"), None],
        "min_samples_split": [
            Interval(Integral, 2, None, closed="left"),
            Interval(RealNotInt, 0.0, 1.0, closed="right"),
        ],
        "min_samples_leaf": [
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0.0, 1.0, closed="neither"),
        ],
        "min_weight_fraction_leaf": [Interval(Real, 0.0, 0.5, closed="both")],
        "max_features": [
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0.0, 1.0, closed="right"),
            StrOptions({"sqrt", "log2"}),
            None,
        ],
        "min_impurity_decrease": [Interval(Real, 0.0, None, closed="left")],
        "bootstrap": ["boolean"],
        "oob_score": ["boolean"],
        "n_jobs": [None, Options(Integral, {-1}), Interval(Integral, 1, MAX_THREADS, closed="both")],
        "max_samples": [
            None,
            Interval(RealNotInt, 0.0, 1.0, closed="right"),
            Interval(Integral, 1, None, closed="left"),
        ],
    }

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        criterion: str = "gini",
        max_depth: int | None = None,
        min_samples_split: float = 2,
        min_samples_leaf: float = 1,
        min_weight_fraction_leaf: float = 0.0,
        max_features: str | float | None = "sqrt",
        min_impurity_decrease: float = 0.0,
        bootstrap: bool = True,
        oob_score: bool = False,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        class_weight: dict | str | None = None,
        max_samples: float | None = None,
        backend: str = "auto",
        pixel_scale: str | float = "auto",
    ) -> None:
        self.n_estimators = n_estimators
        self.criterion = criterion
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.min_weight_fraction_leaf = min_weight_fraction_leaf
        self.max_features = max_features
        self.min_impurity_decrease = min_impurity_decrease
        self.bootstrap = bootstrap
        self.oob_score = oob_score
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.class_weight = class_weight
        self.max_samples = max_samples
        self.backend = backend
        self.pixel_scale = pixel_scale

    # --- fit ----------------------------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Grow the forest.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            uint8 or other finite numbers; sparse X is made dense.
        y : array-like of shape (n_samples,)
            Class labels; a single class is allowed.
        sample_weight : array-like of shape (n_samples,), optional
            Weights >= 0. Rows of weight 0 are left out, as if they were not there.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Invalid parameters or data.
        fastmnist.BackendUnavailable
            The backend that was asked for cannot run here.
        KeyboardInterrupt
            Ctrl-C; the estimator is what it was before.
        """
        with self._fitting():
            self._fit(X, y, sample_weight)
        return self

    def _fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> None:
        if self.oob_score and not self.bootstrap:
            raise ValueError(
                "oob_score=True needs rows that a tree did not get: it is only available with bootstrap=True."
            )
        validated, labels, weights = self._validate_training_data(X, y, sample_weight, reset=True)
        numbers = _dense(validated)
        if len(numbers) > LARGEST_ROW_NUMBER:
            raise ValueError(
                f"A forest takes at most {LARGEST_ROW_NUMBER:,} rows; got {len(numbers):,}. Fit on a part of them."
            )
        indices = self._learn_classes(labels)
        self.n_classes_ = len(self.classes_)
        row_weights = self._weights(indices, weights)
        if row_weights is None:
            row_weights = np.ones(len(numbers))
        kept = row_weights > 0
        if not kept.all():
            numbers, indices, row_weights = numbers[kept], indices[kept], row_weights[kept]
        plan = self._plan(len(numbers), self.n_features_in_)
        executor = self._open_forest_executor(len(numbers), self.n_features_in_, plan)
        self._set_pixel_scale(numbers)
        start, compiled_before = time.perf_counter(), _compile_seconds(executor)
        coding = self._code(numbers, executor.n_threads)
        trees = executor.grow(coding.codes, indices.astype(np.int32), row_weights, plan, self._listen_to_trees)
        self._keep(trees, coding)
        self._forest()
        if self.oob_score:
            self._judge_out_of_bag(executor, plan, numbers, indices, row_weights, kept)
        self.compile_seconds_ = _compile_seconds(executor) - compiled_before
        self.fit_seconds_ = time.perf_counter() - start - self.compile_seconds_

    def _set_classes(self, classes: np.ndarray) -> None:
        self.classes_ = classes  # one class is enough: every tree is a leaf

    def _code(self, X: np.ndarray, n_threads: int) -> Coding:
        from fastmnist.training.binning import code_numbers, code_pixels

        return code_pixels(X, self.pixel_scale_) if X.dtype == np.uint8 else code_numbers(X, n_threads)

    def _plan(self, n_samples: int, n_features: int) -> ForestPlan:
        """The parameters as numbers."""

        def count(value: float, least: int) -> int:
            return int(value) if isinstance(value, Integral) else max(least, math.ceil(value * n_samples))

        leaf = count(self.min_samples_leaf, 1)
        split = max(count(self.min_samples_split, 2), 2 * leaf)
        rules = TreeRules(
            max_features=self._features_a_node(n_features),
            max_depth=np.inf if self.max_depth is None else float(self.max_depth),
            min_samples_split=split,
            min_samples_leaf=leaf,
            min_weight_fraction_leaf=float(self.min_weight_fraction_leaf),
            min_impurity_decrease=float(self.min_impurity_decrease),
        )
        key = check_random_state(self.random_state).randint(0, 2**32, 2, dtype=np.uint64).astype(np.uint32)
        return ForestPlan(int(self.n_estimators), self.n_classes_, key, self._draws(n_samples), rules)

    def _features_a_node(self, n_features: int) -> int:
        if self.max_features is None:
            return n_features
        if self.max_features == "sqrt":
            return max(1, math.isqrt(n_features))
        if self.max_features == "log2":
            return max(1, int(math.log2(n_features)))
        if isinstance(self.max_features, Integral):
            return min(int(self.max_features), n_features)
        return max(1, int(self.max_features * n_features))

    def _draws(self, n_samples: int) -> int | None:
        if not self.bootstrap:
            if self.max_samples is not None:
                raise ValueError(
                    "`max_sample` cannot be set if `bootstrap=False`. Either switch to `bootstrap=True` or set `max_sample=None`."
                )
            return None
        if self.max_samples is None:
            return n_samples
        if isinstance(self.max_samples, Integral):
            if self.max_samples > n_samples:
                raise ValueError(f"`max_samples` must be <= n_samples={n_samples} but got value {self.max_samples}")
            return int(self.max_samples)
        return max(1, round(self.max_samples * n_samples))

    def _threads(self) -> int:
        return backends.default_threads() if self.n_jobs in (None, -1) else int(self.n_jobs)

    def _open_forest_executor(self, n_samples: int, n_features: int, plan: ForestPlan) -> ForestExecutor:
        """Choose the backend; sets `backend_` and `backend_reason_`."""
        from fastmnist.backends.forest import ForestExecutor

        if self.backend == "cupy":
            return ForestExecutor("cupy", 1)  # raises: whether there is a GPU does not matter
        steps = plan.n_trees * -(-n_samples // ROWS_A_NODE) * plan.rules.max_features
        choice = backends.select(self.backend, n_samples=n_samples, n_features=n_features, flops=0, steps=steps)
        executor = ForestExecutor(choice.backend, self._threads())
        self.backend_, self.backend_reason_ = choice.backend, choice.reason
        return executor

    def _listen_to_trees(self, done: int, seconds: float) -> None:
        if self.verbose:
            print(f"tree {done} of {self.n_estimators}: {seconds:.3f} s")
        listener = getattr(self, "_on_epoch", None)
        if listener is not None:
            listener(EpochRecord(done, self.n_estimators, None, None, None, None, None, seconds))

    # --- the grown forest -----------------------------------------------------------------------------------------------------------

    def _keep(self, trees: list[Tree], coding: Coding) -> None:
        """All trees in one table, with thresholds instead of codes; and what each feature was worth."""
        features, codes = (np.concatenate([tree.nodes[:, i] for tree in trees]).astype(np.int64) for i in (0, 1))
        children, roots, first_node, first_leaf = [], [], 0, self.n_classes_
        for tree in trees:
            references = np.append(tree.nodes[:, 2:].ravel(), tree.root)
            mixed = references < -self.n_classes_
            references[references >= 0] += first_node
            references[mixed] -= first_leaf - self.n_classes_
            children.append(references[:-1].reshape(-1, 2))
            roots.append(references[-1])
            first_node += len(tree.nodes)
            first_leaf += len(tree.distributions)
        self.tree_nodes_ = np.column_stack([features, np.concatenate(children)]).astype(np.int32)
        self.tree_thresholds_ = coding.thresholds(features, codes >> 8, codes & 255)
        self.tree_roots_ = np.array(roots, np.int32)
        self.tree_distributions_ = np.concatenate([tree.distributions for tree in trees])
        self.tree_depths_ = np.array([tree.depth for tree in trees])
        self.feature_importances_ = self._importances(trees)

    def _importances(self, trees: list[Tree]) -> np.ndarray:
        """Each tree's decreases of impurity by feature, in parts of their sum; the mean over the trees that have a node (Breiman 2001)."""
        total = np.zeros(self.n_features_in_)
        n_split = 0
        for tree in trees:
            gain = np.bincount(tree.nodes[:, 0], tree.gains, minlength=self.n_features_in_)
            if gain.sum() > 0:
                total += gain / gain.sum()
                n_split += 1
        return total / total.sum() if n_split else total

    def _judge_out_of_bag(
        self,
        executor: ForestExecutor,
        plan: ForestPlan,
        X: np.ndarray,
        indices: np.ndarray,
        weights: np.ndarray,
        kept: np.ndarray,
    ) -> None:
        votes, n_votes = np.zeros((len(X), self.n_classes_)), np.zeros(len(X))
        forest = self._forest()
        for number in range(plan.n_trees):
            out = np.flatnonzero(~executor.in_bag(weights, plan, number))
            if len(out) == 0:
                continue
            alone = Forest(forest.nodes, forest.thresholds, forest.roots[number : number + 1], forest.distributions)
            votes[out] += executor.probabilities(alone, X[out], self._fitted_scale(X), phase="out of bag")
            n_votes[out] += 1
        judged = n_votes > 0
        if not judged.any():
            raise ValueError(
                f"oob_score=True: every row is in the sample of all {plan.n_trees} trees. Set n_estimators to more, or oob_score=False."
            )
        probabilities = np.full((len(kept), self.n_classes_), np.nan)
        probabilities[np.flatnonzero(kept)[judged]] = votes[judged] / n_votes[judged, np.newaxis]
        self.oob_decision_function_ = probabilities
        self.oob_score_ = float((votes[judged].argmax(axis=1) == indices[judged]).mean())

    def _fitted_scale(self, X: np.ndarray) -> float:
        return self.pixel_scale_ if X.dtype == np.uint8 else 1.0

    def _require_sound(self) -> None:
        """See `Classifier`."""
        self._forest()

    def _forest(self) -> Forest:
        """The fitted arrays, looked through once: compiled code relies on them."""
        arrays = (self.tree_nodes_, self.tree_thresholds_, self.tree_roots_, self.tree_distributions_)
        facts = (*map(id, arrays), self.n_features_in_, len(self.classes_))
        known = getattr(self, "_asked", None)
        if known is None or known[0] != facts:
            forest = Forest(*arrays)
            forest.require_sound(self.n_features_in_, len(self.classes_))
            for array in arrays:
                array.flags.writeable = False
            self._asked = known = (facts, forest)
        return known[1]

    # --- predict --------------------------------------------------------------------------------------------------------------------

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Mean over the trees of the classes' parts in the leaf that a row arrives at.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            Columns as in `classes_`.
        """
        numbers, scale = self._validate_new_data(X)
        return self._asking_executor().probabilities(self._forest(), _dense(numbers), scale)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Class labels: of each row the most probable one, the first of equals.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        most_probable = self.predict_proba(X).argmax(axis=1)
        return self.classes_[most_probable]

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithm of `predict_proba`; -inf for classes in none of the leaves.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def _asking_executor(self) -> ForestExecutor:
        """Of the fit's backend; where that is missing (a loaded model), whatever this machine has."""
        from fastmnist.backends.forest import ForestExecutor

        backend = self.backend_ if self.backend == "auto" else self.backend
        try:
            if backend != "cupy":
                backends.require(backend)
        except backends.BackendUnavailable:
            if backend != self.backend_:
                raise
            backend = "numpy"
        return ForestExecutor(backend, self._threads())


def _dense(X: Matrix) -> np.ndarray:
    """uint8 as it is, everything else as float32; sparse X as an array."""
    return convert(X, np.dtype(np.uint8 if X.dtype == np.uint8 else np.float32))


def _compile_seconds(executor: ForestExecutor) -> float:
    if executor.backend == "numpy":
        return 0.0
    from fastmnist.kernels import cpu

    return cpu.compile_seconds()
