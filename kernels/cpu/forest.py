"""Decision trees: a bootstrap sample, growing one tree, asking a forest. N rows, I features, C classes, B rows of a batch, T trees, M nodes.

Values are bytes, so a feature has at most 256 of them and a node's best cut of it is found exactly: its rows are ordered by value and moved one
by one from the left side to the right one, the largest first. The rows with value 0 never move: of an image that is most of them, and they are
not even looked at again once the others are picked out.

Large nodes read columns of the whole table. Once a node has no more than `block_rows` rows, they are copied into a small table of columns of
their own, a block: what its subtree reads then lies in L2, side by side.

All float arithmetic stands in `strict` functions: it rounds as NumPy's does, so that any weights give the oracle's tree to the last bit.
"""

from __future__ import annotations

import numpy as np

from .layout import block_stride
from .registry import kernel
from .rows import philox4x32
from .simd import TILE, atomic_load, inline, offset, prefetch, stack_array, strict, transpose_tile

# Up to so many values are ordered by insertion, more by counting, which costs 256 steps whatever their number.
INSERTION = 24
# A cut whose score is, roughly computed, below this part of the best one's is no better than it; rounding is a thousand times finer.
NEARLY = 1 - 1e-12
# (row, tree) pairs that descend at the same time when a forest is asked: 256 rows of an image and the nodes of a tree fit into L2, and the nodes
# that are asked for ahead into L1.
LANES = 256
LINE = 64  # bytes of a line of the cache

_POSITION = np.int64(0xFFFFFFFF)
_VALUE = np.int64(32)
FEATURES, SAMPLES = 0, 1  # third word of the counter: what a random number is for
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)

new_bins = stack_array(257, "int64")
new_lanes = stack_array(LANES, "int64")
new_words = stack_array(4, "int64")
new_starts = stack_array(TILE, "int64")
stride_of = inline(block_stride)


@inline
def below(word, n):
    """Map a word below 2^32 to an integer below n, as evenly as 2^32 / n allows."""
    return np.int64((np.uint64(word) * np.uint64(n)) >> _32)


@inline
def random_quad(words, quad, purpose, tree, key):
    """Four words of the stream of a tree."""
    c0, c1 = np.uint64(quad) & _LOW, np.uint64(quad) >> _32
    quadruple = philox4x32(c0, c1, np.uint64(purpose), np.uint64(tree), np.uint64(key[0]), np.uint64(key[1]))
    for lane in range(4):
        words[lane] = np.int64(quadruple[lane])


@strict
def _times(weights, sample_weight, n):
    for i in range(n):
        weights[i] *= sample_weight[i]


@kernel
def bootstrap(weights, sample_weight, key, tree, n_draws, N):
    words = new_words()
    for i in range(N):
        weights[i] = 0.0
    for i in range(np.int64(n_draws)):
        if i % 4 == 0:
            random_quad(words, i // 4, SAMPLES, tree, key)
        weights[below(words[i % 4], N)] += 1.0
    _times(weights, sample_weight, N)


# --- the best cut of one feature --------------------------------------------------------------------------------------------------------


@inline
def _pick_nonzero(keys, values, places, n):
    """Keys (value, position) of the node's rows whose value is not 0; returns their number."""
    k = np.int64(0)
    for i in range(n):
        value = np.int64(values[places[i]])
        keys[k] = (value << _VALUE) | i
        k += np.int64(value != 0)
    return k


@inline
def _insertion_sort(keys, n):
    for i in range(1, n):
        key = keys[i]
        j = i
        while j > 0 and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key


@inline
def _counting_sort(ordered, keys, n):
    ends = new_bins()
    for b in range(257):
        ends[b] = 0
    for i in range(n):
        ends[(keys[i] >> _VALUE) + 1] += 1
    for b in range(1, 257):
        ends[b] += ends[b - 1]
    for i in range(n):
        b = keys[i] >> _VALUE
        ordered[ends[b]] = keys[i]
        ends[b] += 1


@strict
def _scan(ordered, k, n, labels, weights, totals, moved, weight, squares, min_leaf, min_weight, best):
    """Move rows to the right side, from the last key to the first; returns the best score above `best` and the values on both sides of its cut
    (-1: none).
    """
    right_weight, right_squares, left_squares = 0.0, 0.0, squares
    low, high = np.int64(-1), np.int64(-1)
    promising = best * NEARLY
    key = ordered[k - 1]
    for j in range(k - 1, -1, -1):
        i, value = key & _POSITION, key >> _VALUE
        key = ordered[j - 1] if j > 0 else np.int64(0)
        c, w = labels[i], weights[i]
        right = moved[c]
        left = totals[c] - right
        moved[c] = right + w
        right_squares += w * (2.0 * right + w)
        left_squares -= w * (2.0 * left - w)
        right_weight += w
        left_weight = weight - right_weight
        # A product instead of two quotients: nearly all cuts end here.
        good = left_squares * right_weight + right_squares * left_weight >= promising * (left_weight * right_weight)
        if good & (key >> _VALUE != value):
            n_left = n - k + j
            if n_left < 1 or n_left < min_leaf or n - n_left < min_leaf:
                continue
            if not (left_weight > 0.0 and left_weight >= min_weight and right_weight >= min_weight):
                continue
            score = left_squares / left_weight + right_squares / right_weight
            # Of equal cuts scikit-learn takes the lowest of the feature drawn first: zero against the rest, for pixels.
            if score > best or (score == best and high >= 0):
                best, low, high = score, key >> _VALUE, value
                promising = best * NEARLY
    return best, low, high


@inline
def _forget(moved, ordered, k, labels, C):
    if k < C:
        for j in range(k):
            moved[labels[ordered[j] & _POSITION]] = 0.0
    else:
        for c in range(C):
            moved[c] = 0.0


# --- one tree ---------------------------------------------------------------------------------------------------------------------------


@strict
def _take_rows(rows, places, classes, carried, labels, weights, n_rows):
    """The rows of the sample, ascending, with their labels and weights; returns their number and the sum of weights."""
    n = np.int64(0)
    total = 0.0
    for row in range(n_rows):
        if weights[row] > 0.0:
            rows[n], places[n], classes[n], carried[n] = row, row, labels[row], weights[row]
            total += weights[row]
            n += 1
    return n, total


@strict
def _sum_up(totals, labels, weights, n, C):
    """Weight of each class; returns their sum, the sum of their squares, and whether there is only one class."""
    for c in range(C):
        totals[c] = 0.0
    weight = 0.0
    pure = True
    for i in range(n):
        totals[labels[i]] += weights[i]
        weight += weights[i]
        pure = pure and labels[i] == labels[0]
    squares = 0.0
    for c in range(C):
        squares += totals[c] * totals[c]
    return weight, squares, pure


@strict
def _gain(score, squares, weight):
    return score - squares / weight


@strict
def _product(x, y):
    return x * y


@inline
def _copy_block(block, source, ld_source, rows, n, I):
    """The columns of n rows; of fewer than TILE features one by one."""
    starts = new_starts()
    stride = stride_of(n)
    for i in range(0, n, TILE):
        for r in range(TILE):
            starts[r] = np.int64(rows[min(i + r, n - 1)]) * ld_source
            following = offset(source, np.int64(rows[min(i + TILE + r, n - 1)]) * ld_source)
            for f in range(0, I, LINE):
                prefetch(following, f)
        if I < TILE:
            for f in range(I):
                for r in range(TILE):
                    block[f * stride + i + r] = source[starts[r] + f]
        else:
            for f in range(0, I, TILE):
                f = min(f, I - TILE)  # the last tile may overlap the one before
                transpose_tile(offset(block, f * stride + i), stride, offset(source, f), starts)


@inline
def _part(rows, places, labels, weights, spare_rows, spare_places, spare_weights, values, n, low):
    """Rows with values up to `low` first, both parts in their old order; returns the size of the first."""
    left, right = np.int64(0), np.int64(0)
    for i in range(n):
        row, place, label, weight = rows[i], places[i], labels[i], weights[i]
        goes_left = np.int64(np.int64(values[place]) <= low)
        rows[left], places[left], labels[left], weights[left] = row, place, label, weight
        spare_rows[right] = (np.int64(row) << _VALUE) | np.int64(label)
        spare_places[right], spare_weights[right] = place, weight
        left += goes_left
        right += 1 - goes_left
    for i in range(right):
        rows[left + i], labels[left + i] = spare_rows[i] >> _VALUE, spare_rows[i] & _POSITION
        places[left + i], weights[left + i] = spare_places[i], spare_weights[i]
    return left


@inline
def _push(stack, top, first, last, depth, link):
    entry = offset(stack, top * 4)
    entry[0], entry[1], entry[2], entry[3] = first, last, depth, link


@kernel
def grow_tree(
    nodes,
    gains,
    spans,
    rows,
    summary,
    classes,
    carried,
    scratch,
    stack,
    sums,
    drawn,
    block,
    source,
    columns,
    labels,
    weights,
    key,
    stop,
    tree,
    max_features,
    max_depth,
    min_samples_split,
    min_samples_leaf,
    min_weight_leaf,
    min_decrease,
    block_rows,
    N,
    C,
    I,
    K,
    ld_nodes,
    ld_spans,
    ld_carried,
    ld_scratch,
    ld_stack,
    ld_sums,
    ld_source,
    ld_columns,
):
    places, keys = scratch, offset(scratch, ld_scratch)
    ordered, spare_places = offset(scratch, 2 * ld_scratch), offset(scratch, 3 * ld_scratch)
    totals, moved = sums, offset(sums, ld_sums)
    spare_weights = offset(carried, ld_carried)
    words = new_words()
    min_leaf, n_words = np.int64(min_samples_leaf), np.int64(0)
    n_nodes, n_mixed, deepest = np.int64(0), np.int64(0), np.int64(0)
    for f in range(I):
        drawn[f] = f
    for c in range(C):
        moved[c] = 0.0
    n_sample, whole_weight = _take_rows(rows, places, classes, carried, labels, weights, N)
    least_gain = _product(min_decrease, whole_weight)
    block_end, stride = np.int64(0), np.int64(0)
    top = np.int64(0)
    _push(stack, top, 0, n_sample, 0, -1)
    while top >= 0:
        entry = offset(stack, top * 4)
        first, last, depth, link = entry[0], entry[1], entry[2], entry[3]
        top -= 1
        n = last - first
        deepest = max(deepest, depth)
        own_rows, own_places = offset(rows, first), offset(places, first)
        own_labels, own_weights = offset(classes, first), offset(carried, first)
        weight, squares, pure = _sum_up(totals, own_labels, own_weights, n, C)
        best, low, high, feature = -1.0, np.int64(-1), np.int64(-1), np.int64(-1)
        splits = (
            not pure
            and depth < max_depth
            and n >= min_samples_split
            and n >= 2 * min_leaf
            and weight >= _product(2.0, min_weight_leaf)
        )
        base, step = columns, ld_columns
        if splits:
            if n <= block_rows:
                if last > block_end:  # nodes come from left to right: this one is not in the last block
                    _copy_block(block, source, ld_source, own_rows, n, I)
                    block_end, stride = last, stride_of(n)
                    for i in range(n):
                        own_places[i] = i
                base, step = block, stride
            visited, varied = np.int64(0), False
            # As in scikit-learn: constant features count, but the search goes on until one was found that is not constant.
            while visited < I and (visited < max_features or not varied) and best < weight:
                if atomic_load(stop) != 0:
                    summary[0] = -1
                    return
                if n_words % 4 == 0:
                    random_quad(words, n_words // 4, FEATURES, tree, key)
                other = visited + below(words[n_words % 4], I - visited)
                n_words += 1
                f = np.int64(drawn[other])
                drawn[other], drawn[visited] = drawn[visited], f
                visited += 1
                k = _pick_nonzero(keys, offset(base, f * step), own_places, n)
                in_order = keys
                if k <= INSERTION:
                    _insertion_sort(keys, k)
                else:
                    _counting_sort(ordered, keys, k)
                    in_order = ordered
                if k == 0 or (k == n and in_order[0] >> _VALUE == in_order[k - 1] >> _VALUE):
                    continue  # constant
                varied = True
                score, below_cut, above_cut = _scan(
                    in_order,
                    k,
                    n,
                    own_labels,
                    own_weights,
                    totals,
                    moved,
                    weight,
                    squares,
                    min_leaf,
                    min_weight_leaf,
                    best,
                )
                _forget(moved, in_order, k, own_labels, C)
                if above_cut >= 0:
                    best, low, high, feature = score, below_cut, above_cut, f
        gain = _gain(best, squares, weight)
        if feature < 0 or gain < least_gain:
            if pure:
                reference = -1 - np.int64(own_labels[0])
            else:
                reference = -1 - (C + n_mixed)
                spans[n_mixed * ld_spans], spans[n_mixed * ld_spans + 1] = first, last
                n_mixed += 1
        else:
            reference = n_nodes
            node = offset(nodes, n_nodes * ld_nodes)
            node[0], node[1] = feature, 256 * low + high
            gains[n_nodes] = gain
            n_nodes += 1
            n_left = _part(
                own_rows,
                own_places,
                own_labels,
                own_weights,
                keys,
                spare_places,
                spare_weights,
                offset(base, feature * step),
                n,
                low,
            )
            _push(stack, top + 1, first + n_left, last, depth + 1, 2 * reference + 1)
            _push(stack, top + 2, first, first + n_left, depth + 1, 2 * reference)
            top += 2
        if link < 0:
            summary[2] = reference
        else:
            nodes[(link >> 1) * ld_nodes + 2 + (link & 1)] = reference
    summary[0], summary[1], summary[3] = n_nodes, n_mixed, deepest


# --- asking a forest --------------------------------------------------------------------------------------------------------------------


@inline
def _descend(place, row_starts, active, n, x, scale, nodes, ld_nodes, thresholds):
    """Lead all lanes to their leaves; each step moves those that have not arrived, whose loads do not wait for each other.

    A lane's next node is asked for when it is known, and needed when the other lanes have moved.
    """
    factor = np.float32(scale)
    while n > 0:
        still = np.int64(0)
        for a in range(n):
            lane = active[a]
            k = place[lane]
            node = offset(nodes, k * ld_nodes)
            value = np.float32(x[row_starts[lane] + np.int64(node[0])]) * factor
            side = np.int64(not (value <= thresholds[k]))
            k = np.int64(node[1 + side])
            place[lane] = k
            prefetch(nodes, k * ld_nodes)
            prefetch(thresholds, k)
            active[still] = lane
            still += np.int64(k >= 0)
        n = still


@strict
def _vote(votes, leaf, values, ld_values, C):
    if leaf < C:
        votes[leaf] += 1.0
    else:
        row = offset(values, (leaf - C) * ld_values)
        for c in range(C):
            votes[c] += row[c]


@strict
def _average(p, n_trees, C):
    for c in range(C):
        p[c] /= n_trees


@kernel
def forest_proba(p, x, nodes, thresholds, roots, values, scale, B, C, I, M, T, V, ld_p, ld_x, ld_nodes, ld_values):
    place, row_starts, active = new_lanes(), new_lanes(), new_lanes()
    for first_row in range(0, B, LANES):
        n_rows = min(LANES, B - first_row)
        block, votes = offset(x, first_row * ld_x), offset(p, first_row * ld_p)
        for r in range(n_rows):
            for c in range(C):
                votes[r * ld_p + c] = 0.0
        at_once = LANES // n_rows
        for first_tree in range(0, T, at_once):
            n_trees = min(at_once, T - first_tree)
            lane, n = np.int64(0), np.int64(0)
            for t in range(first_tree, first_tree + n_trees):
                for r in range(n_rows):
                    place[lane], row_starts[lane] = roots[t], r * ld_x
                    active[n] = lane
                    n += np.int64(place[lane] >= 0)
                    lane += 1
            _descend(place, row_starts, active, n, block, scale, nodes, ld_nodes, thresholds)
            for t in range(n_trees):
                for r in range(n_rows):
                    _vote(offset(votes, r * ld_p), -1 - place[t * n_rows + r], values, ld_values, C)
        for r in range(n_rows):
            _average(offset(votes, r * ld_p), np.float64(T), C)
