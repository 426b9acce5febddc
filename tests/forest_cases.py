"""Operands of the forest's jobs."""

from __future__ import annotations

import numpy as np

from fastmnist.kernels.cpu.layout import block_stride

DEFAULTS = {
    "tree": 0,
    "max_features": 3,
    "max_depth": np.inf,
    "min_samples_split": 2,
    "min_samples_leaf": 1,
    "min_weight_leaf": 0,
    "min_decrease": 0,
    "block_rows": 64,
}


def tree_operands(
    X: np.ndarray, labels: np.ndarray, weights: np.ndarray, n_classes: int, *, seed: int = 0, block_rows: int = 64
) -> dict[str, np.ndarray]:
    """Operands of `grow_tree` by name, in the contract's order; outputs and workspace are full of a signal."""
    n, n_features = X.shape
    signal = -77
    return {
        "nodes": np.full((n, 4), signal, np.int32),
        "gains": np.full(n, np.nan),
        "spans": np.full((n, 2), signal, np.int32),
        "rows": np.full(n, signal, np.int32),
        "summary": np.full(4, signal, np.int64),
        "classes": np.full(n, signal, np.int32),
        "carried": np.full((2, n), np.nan),
        "scratch": np.full((4, n), signal, np.int64),
        "stack": np.full((n, 4), signal, np.int64),
        "sums": np.full((2, n_classes), np.nan),
        "drawn": np.full(n_features, signal, np.int32),
        "block": np.full(n_features * block_stride(block_rows), 201, np.uint8),
        "source": np.ascontiguousarray(X),
        "columns": np.ascontiguousarray(X.T),
        "labels": labels.astype(np.int32),
        "weights": weights.astype(np.float64),
        "key": np.array([seed, seed + 1], np.uint32),
        "stop": np.zeros(1, np.int64),
    }


def grown(operands: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `grow_tree` determines of its outputs."""
    n_nodes, n_mixed = (max(int(k), 0) for k in operands["summary"][:2])
    n_rows = int((operands["weights"] > 0).sum())
    return {
        "summary": operands["summary"].copy(),
        "nodes": operands["nodes"][:n_nodes].copy(),
        "gains": operands["gains"][:n_nodes].copy(),
        "spans": operands["spans"][:n_mixed].copy(),
        "rows": operands["rows"][:n_rows].copy(),
    }
