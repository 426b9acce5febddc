"""Random forest: jobs.

T trees, M nodes, V distributions of mixed leaves. A reference is the number of a node, or ~c for a leaf of class c alone, or ~(C + v) for
the mixed leaf v. Random words are those of Philox4x32-10 with counter (i div 4 mod 2^32, i div 2^34, purpose, tree) and key = key, word i mod 4;
a word stands for the integer floor(word n / 2^32) below n.
"""

from __future__ import annotations

from .table import Table

JOBS = Table()

_FOREST = {
    **dict.fromkeys(("weights", "sample_weight", "gains", "carried", "sums", "p", "values"), ("float64",)),
    **dict.fromkeys(("nodes", "spans", "rows", "classes", "drawn", "roots"), ("int32",)),
    **dict.fromkeys(("summary", "scratch", "stack", "stop"), ("int64",)),
    **dict.fromkeys(("source", "columns", "block"), ("uint8",)),
    "key": ("uint32",),
    "thresholds": ("float32",),
    "x": ("uint8", "float32"),
}
JOBS.add(
    "bootstrap",
    "weights[N]",
    "sample_weight[N] key[2]",
    """weights[i] = sample_weight[i] times how often i was drawn in n_draws draws with replacement, draw d by word d of purpose 1.""",
    params="tree n_draws",
    types=_FOREST,
)
JOBS.add(
    "grow_tree",
    "nodes[N,4] gains[N] spans[N,2] rows[N] summary[4] classes[N] carried[2,N] scratch[4,N] stack[N,4] sums[2,C] drawn[I] block[K]",
    "source[N,I] columns[I,N] labels[N] weights[N] key[2] stop[1]",
    """A classification tree on the rows with weights > 0 (Breiman et al. 1984; features drawn at each node as in Breiman 2001). columns =
    source^T. Nodes are numbered parents first, left before right. Node k sends x to the left if x[feature] <= low: nodes[k] = (feature, 256 low +
    high, left, right), low < high the values in the node on both sides of its cut; gains[k] = SL / WL + SR / WR - S / W, S the sum of the classes'
    squared weights and W the weight, of the sides and of the node: W times the decrease of Gini's impurity. The mixed leaf v has rows[first:last],
    (first, last) = spans[v]. summary = (nodes, mixed leaves, reference of the root, depth). A node draws features, without repetition, by the
    words of purpose 0 that follow each other in the tree, until max_features were drawn and one of them varied, or a cut separates the classes;
    of equal cuts the lowest of the feature drawn first wins. It ends as summary[0] = -1 once stop[0] is not 0. What lies behind the numbers in
    summary, and classes, carried, scratch, stack, sums, drawn and block, which are workspace, is unspecified; block has room for block_rows rows,
    see `layout.block_stride`.""",
    params="tree max_features max_depth min_samples_split min_samples_leaf min_weight_leaf min_decrease block_rows",
    types=_FOREST,
)
JOBS.add(
    "forest_proba",
    "p[B,C]",
    "x[B,I] nodes[M,3] thresholds[M] roots[T] values[V,C]",
    """p = mean over the trees of the distribution in the leaf that a row arrives at: 1 for class c, or values[v]. nodes[k] = (feature, left,
    right); a row goes to the left if scale x[feature] <= thresholds[k].""",
    params="scale",
    types=_FOREST,
)
