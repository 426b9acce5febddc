"""The jobs of a random forest in plain NumPy: their readable specification, and the oracle of the compiled ones.

Sums are made in the order that the compiled code has (`cumsum`, `bincount`; `sum` adds in pairs), so both give the same tree for any weights, to
the last bit.

N rows, I features, C classes, B rows of a batch, T trees, M nodes, V mixed leaves.

Sources: impurity and cuts, Breiman, Friedman, Olshen & Stone 1984 ("Classification and regression trees"); features drawn at each node,
Breiman 2001 ("Random forests"); Philox, Salmon et al. 2011.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .common import Array
from .philox import philox4x32

_FEATURES, _SAMPLES = 0, 1  # third word of the counter: what a random number is for


def _words(purpose: int, tree: float, key: Array, first: int, n: int) -> Array:
    """`n` words of a tree's stream, from word `first`, which is a multiple of 4."""
    quads = np.arange(first // 4, (first + n + 3) // 4, dtype=np.uint64)
    counter = np.empty((len(quads), 4), np.uint32)
    counter[:, 0], counter[:, 1] = quads & np.uint64(0xFFFFFFFF), quads >> np.uint64(32)
    counter[:, 2], counter[:, 3] = purpose, int(tree)
    return philox4x32(counter, key).reshape(-1)[:n].astype(np.uint64)


def _stream(purpose: int, tree: float, key: Array) -> Iterator[int]:
    """All words of a tree's stream."""
    first, n = 0, 1024
    while True:
        yield from map(int, _words(purpose, tree, key, first, n))
        first += n


def bootstrap(weights: Array, sample_weight: Array, key: Array, tree: float, n_draws: float) -> None:
    """How often each row was drawn, times its weight."""
    n_rows = len(weights)
    words = _words(_SAMPLES, tree, key, 0, int(n_draws))
    rows = (words * np.uint64(n_rows)) >> np.uint64(32)
    weights[...] = np.bincount(rows.astype(np.int64), minlength=n_rows) * sample_weight


class _Cut(NamedTuple):
    """Rows with values up to `low` go to the left; `high` is the next value in the node."""

    score: float
    feature: int
    low: int
    high: int


def _total(values: Array) -> float:
    """The sum from the first to the last."""
    return float(np.cumsum(values)[-1])


def _best_cut(
    values: Array, labels: Array, weights: Array, totals: Array, min_leaf: int, min_weight: float
) -> tuple[float, int, int] | None:
    """Score and both values of a feature's best cut; rows move to the right side, the largest value first, of equals the last first."""
    order = np.argsort(values, kind="stable")[::-1]
    order = order[values[order] > 0]
    value, w, c = values[order].astype(np.int64), weights[order], labels[order]
    following = np.append(value[1:], 0)
    right = np.zeros(len(order))  # weight of the row's class on the right side before it arrives
    moved = np.zeros(len(totals))
    for i, label in enumerate(c):
        right[i] = moved[label]
        moved[label] += w[i]
    left = totals[c] - right
    right_squares = np.cumsum(w * (2 * right + w))
    left_squares = np.cumsum(np.append(_total(totals * totals), -(w * (2 * left - w))))[1:]
    right_weight = np.cumsum(w)
    left_weight = _total(weights) - right_weight
    n_right = np.arange(1, len(order) + 1)
    n_left = len(values) - n_right
    allowed = (following != value) & (n_left >= max(min_leaf, 1)) & (n_right >= min_leaf)
    allowed &= (left_weight > 0) & (left_weight >= min_weight) & (right_weight >= min_weight)
    if not allowed.any():
        return None
    at = np.flatnonzero(allowed)
    scores = left_squares[at] / left_weight[at] + right_squares[at] / right_weight[at]
    best = len(scores) - 1 - int(np.argmax(scores[::-1]))  # of equal cuts the lowest
    return float(scores[best]), int(following[at[best]]), int(value[at[best]])


def grow_tree(
    nodes: Array,
    gains: Array,
    spans: Array,
    rows: Array,
    summary: Array,
    classes: Array,
    carried: Array,
    scratch: Array,
    stack: Array,
    sums: Array,
    drawn: Array,
    block: Array,
    source: Array,
    columns: Array,
    labels: Array,
    weights: Array,
    key: Array,
    stop: Array,
    tree: float,
    max_features: float,
    max_depth: float,
    min_samples_split: float,
    min_samples_leaf: float,
    min_weight_leaf: float,
    min_decrease: float,
    block_rows: float,
) -> None:
    """Nodes are taken from a stack, the left child before the right one; the workspace and the transposed table are not needed."""
    n_classes, n_features = sums.shape[1], source.shape[1]
    min_leaf = int(min_samples_leaf)
    stream = _stream(_FEATURES, tree, key)
    features = list(range(n_features))
    sample = np.flatnonzero(weights > 0)
    whole_weight = _total(weights[sample])
    n_nodes = n_mixed = n_placed = deepest = 0
    pending = [(sample, 0, -1, 0)]  # rows, depth, parent, side
    while pending:
        own, depth, parent, side = pending.pop()
        deepest = max(deepest, depth)
        own_labels, own_weights = labels[own], weights[own]
        totals = np.bincount(own_labels, own_weights, minlength=n_classes)
        weight, squares = _total(own_weights), _total(totals * totals)
        pure = bool((own_labels == own_labels[0]).all())
        best = None
        if (
            not pure
            and depth < max_depth
            and len(own) >= min_samples_split
            and len(own) >= 2 * min_leaf
            and weight >= 2 * min_weight_leaf
        ):
            visited, varied = 0, False
            while (
                visited < n_features
                and (visited < max_features or not varied)
                and (best is None or best.score < weight)
            ):
                if stop[0]:
                    summary[0] = -1
                    return
                other = visited + (next(stream) * (n_features - visited) >> 32)
                features[visited], features[other] = features[other], features[visited]
                feature = features[visited]
                visited += 1
                values = source[own, feature]
                if values.min() == values.max():
                    continue
                varied = True
                cut = _best_cut(values, own_labels, own_weights, totals, min_leaf, min_weight_leaf)
                if cut is not None and (best is None or cut[0] > best.score):
                    best = _Cut(cut[0], feature, cut[1], cut[2])
        if best is not None and best.score - squares / weight >= min_decrease * whole_weight:
            reference = n_nodes
            nodes[n_nodes, :2] = best.feature, 256 * best.low + best.high
            gains[n_nodes] = best.score - squares / weight
            n_nodes += 1
            goes_left = source[own, best.feature] <= best.low
            pending.append((own[~goes_left], depth + 1, reference, 1))
            pending.append((own[goes_left], depth + 1, reference, 0))
        else:
            if pure:
                reference = ~int(own_labels[0])
            else:
                reference = ~(n_classes + n_mixed)
                spans[n_mixed] = n_placed, n_placed + len(own)
                n_mixed += 1
            rows[n_placed : n_placed + len(own)] = own
            n_placed += len(own)
        if parent < 0:
            summary[2] = reference
        else:
            nodes[parent, 2 + side] = reference
    summary[0], summary[1], summary[3] = n_nodes, n_mixed, deepest


def forest_proba(
    p: Array, x: Array, nodes: Array, thresholds: Array, roots: Array, values: Array, scale: float
) -> None:
    """`p[r]` is the mean of the distributions that row r meets in the trees, added in their order."""
    n_classes = p.shape[1]
    scaled = x.astype(np.float32) * np.float32(scale)
    p[...] = 0
    for root in roots:
        at = np.full(len(x), root)
        while (moving := np.flatnonzero(at >= 0)).size:
            node = at[moving]
            feature, left, right = nodes[node].T
            at[moving] = np.where(scaled[moving, feature] <= thresholds[node], left, right)
        leaf = ~at
        pure = np.flatnonzero(leaf < n_classes)
        mixed = np.flatnonzero(leaf >= n_classes)
        p[pure, leaf[pure]] += 1
        p[mixed] += values[leaf[mixed] - n_classes]
    p /= len(roots)
