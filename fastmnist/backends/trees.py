"""Forests as data: what is asked for, a tree as it was grown, and all trees in one table as predictions read it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TreeRules:
    """When a node is split, and what it looks at.

    Attributes
    ----------
    max_features : int
        Features that a node draws.
    max_depth : float
        Of leaves; infinite for no limit.
    min_samples_split, min_samples_leaf : int
        Distinct rows in a node that is split, and on each side of its cut.
    min_weight_fraction_leaf : float
        Least weight on each side of a cut, as a part of the tree's.
    min_impurity_decrease : float
        Least decrease of Gini's impurity, weighted with the node's part of the tree's weight.
    """

    max_features: int
    max_depth: float = np.inf
    min_samples_split: int = 2
    min_samples_leaf: int = 1
    min_weight_fraction_leaf: float = 0.0
    min_impurity_decrease: float = 0.0


@dataclass(frozen=True)
class ForestPlan:
    """What to grow.

    Attributes
    ----------
    n_trees, n_classes : int
    key : ndarray of shape (2,), uint32
        Of all random numbers.
    n_draws : int or None
        Rows drawn for each tree, with replacement; None: every tree has all rows.
    rules : TreeRules
    """

    n_trees: int
    n_classes: int
    key: np.ndarray
    n_draws: int | None
    rules: TreeRules


@dataclass(frozen=True, eq=False)
class Tree:
    """A tree as `grow_tree` leaves it.

    Attributes
    ----------
    nodes : ndarray of shape (n, 4), int32
        Feature, 256 low + high, references of the left and the right child.
    gains : ndarray of shape (n,)
        Weight times decrease of impurity.
    distributions : ndarray of shape (n_mixed, n_classes)
        Of the leaves that have several classes; each sums to 1.
    root, depth : int
    """

    nodes: np.ndarray
    gains: np.ndarray
    distributions: np.ndarray
    root: int
    depth: int


@dataclass(frozen=True, eq=False)
class Forest:
    """All trees in one table, see `forest_proba`.

    Attributes
    ----------
    nodes : ndarray of shape (n_nodes, 3), int32
        Feature, left, right. A reference >= 0 is a node; ~c is a leaf of class c, ~(n_classes + v) one with distribution v.
    thresholds : ndarray of shape (n_nodes,), float32
        A row whose feature is not larger goes to the left.
    roots : ndarray of shape (n_trees,), int32
    distributions : ndarray of shape (n_mixed, n_classes)
    """

    nodes: np.ndarray
    thresholds: np.ndarray
    roots: np.ndarray
    distributions: np.ndarray

    def require_sound(self, n_features: int, n_classes: int) -> None:
        """Make sure that compiled code can follow the references: it does not look where they lead.

        Raises
        ------
        ValueError
            A type or shape is wrong, or a reference leads out of the tables or backwards.
        """
        n, n_mixed = len(self.nodes), len(self.distributions)
        expected = {
            "nodes": (self.nodes, (n, 3), np.int32),
            "thresholds": (self.thresholds, (n,), np.float32),
            "roots": (self.roots, (len(self.roots),), np.int32),
            "distributions": (self.distributions, (n_mixed, n_classes), np.float64),
        }
        for name, (array, shape, dtype) in expected.items():
            if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
                raise ValueError(
                    f"{name} of a forest must be {np.dtype(dtype)} of shape {shape}; got {array.dtype} {array.shape}"
                )
        feature, children = self.nodes[:, 0], self.nodes[:, 1:]
        references = np.concatenate([children.ravel(), self.roots])
        in_range = (references >= -(n_classes + n_mixed)) & (references < n)
        descending = (children < 0) | (children > np.arange(n)[:, np.newaxis])
        known = (feature >= 0) & (feature < n_features)
        if not (len(self.roots) and in_range.all() and descending.all() and known.all()):
            raise ValueError("the nodes of a forest refer to features or nodes that are not there")
