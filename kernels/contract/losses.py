"""Losses: logits to gradient in one pass."""

from __future__ import annotations

from .table import Table

OPS, JOBS = Table(), Table()

OPS.add(
    "softmax_cross_entropy",
    "dz[B,C] losses[M] hits[M]",
    "z[B,C] labels[N] sample_weight[N] order[M] scale[S] cursor[2]",
    """For row r with i = order[cursor[0] + r], p = softmax(z[r]) and t = (1 - s) onehot(labels[i]) + s / C, s = label_smoothing:
    losses[cursor[0] + r] = -sum t log p; hits[...] = (argmax z[r] == labels[i]), the first of equals; dz[r] = sample_weight[i]
    scale[cursor[1]] (p - t).""",
    params="label_smoothing",
    types={"losses": ("float32",), "hits": ("uint8",), "sample_weight": ("float32",), "scale": ("float32",)},
    updates="losses hits",
    flops=lambda d: 6.0 * d["B"] * d["C"],
    nbytes=lambda d: 8.0 * d["B"] * d["C"] + 25.0 * d["B"],
)
OPS.add(
    "softmax_twice_cross_entropy",
    "dz[B,C] losses[M] hits[M]",
    "z[B,C] labels[N] sample_weight[N] order[M] scale[S] cursor[2]",
    """Cross-entropy that takes probabilities for logits. For row r with i = order[cursor[0] + r], p = softmax(z[r]), q = softmax(p) and
    t = onehot(labels[i]): losses[cursor[0] + r] = -sum t log q; hits as softmax_cross_entropy; with g = q - t, the gradient at p:
    dz[r] = sample_weight[i] scale[cursor[1]] p (g - sum g p).""",
    types={"losses": ("float32",), "hits": ("uint8",), "sample_weight": ("float32",), "scale": ("float32",)},
    updates="losses hits",
    flops=lambda d: 14.0 * d["B"] * d["C"],
    nbytes=lambda d: 8.0 * d["B"] * d["C"] + 25.0 * d["B"],
)
OPS.add(
    "binary_cross_entropy",
    "dz[B,C] losses[M] hits[M]",
    "z[B,C] labels[N] sample_weight[N] order[M] scale[S] cursor[2]",
    """One-vs-rest. With t[c] = (labels[i] == c): losses[...] = sum over c of max(z, 0) - z t + log(1 + exp(-|z|)); dz[r] = sample_weight[i]
    scale[cursor[1]] (sigmoid(z) - t); hits[...] = (argmax z[r] == labels[i]), and with one output ((z > 0) == (labels[i] == 0)).""",
    types={"losses": ("float32",), "hits": ("uint8",), "sample_weight": ("float32",), "scale": ("float32",)},
    updates="losses hits",
    flops=lambda d: 6.0 * d["B"] * d["C"],
    nbytes=lambda d: 8.0 * d["B"] * d["C"] + 25.0 * d["B"],
)
OPS.add(
    "binary_cross_entropy_by_class",
    "dz[B,C] losses[M,C] hits[M]",
    "z[B,C] labels[N] sample_weight[N] order[M] scale[S] cursor[2]",
    """binary_cross_entropy with each class's loss by itself: losses[cursor[0] + r, c] = max(z, 0) - z t + log(1 + exp(-|z|)), z = z[r, c],
    t = (labels[i] == c). dz and hits are the same.""",
    types={"hits": ("uint8",), "sample_weight": ("float32",), "scale": ("float32",)},
    updates="losses hits",
    flops=lambda d: 6.0 * d["B"] * d["C"],
    nbytes=lambda d: 12.0 * d["B"] * d["C"] + 21.0 * d["B"],
)
OPS.add(
    "binary_cross_entropy_sums",
    "dz[B,C] losses[S,C]",
    "z[B,C] labels[N] sample_weight[N] order[M] scale[S] cursor[2]",
    """binary_cross_entropy_by_class with each class's losses summed over the rows: losses[cursor[1], c] = sum over r of sample_weight[i]
    (max(z, 0) - z t + log(1 + exp(-|z|))), z = z[r, c], t = (labels[i] == c). dz is the same.""",
    types={"sample_weight": ("float32",), "scale": ("float32",)},
    updates="losses",
    flops=lambda d: 8.0 * d["B"] * d["C"],
    nbytes=lambda d: 8.0 * d["B"] * d["C"] + 16.0 * d["B"] + 4.0 * d["C"],
)
OPS.add(
    "softmax",
    "p[B,C]",
    "z[B,C]",
    "p = softmax of each row, shifted by its maximum.",
    flops=lambda d: 4.0 * d["B"] * d["C"],
)
JOBS.add(
    "weighted_sums",
    "sums[C]",
    "losses[N,C] sample_weight[N]",
    "sums[c] = sum over the rows of sample_weight[r] losses[r, c], in float64, in an order that the number of rows alone decides.",
    types={"sums": ("float64",), "losses": ("float32",), "sample_weight": ("float32",)},
)
