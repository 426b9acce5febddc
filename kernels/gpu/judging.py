"""Launches of judging.cu: no ops of a program, but what keeps probabilities, rows and labels from being downloaded."""

from __future__ import annotations

import numpy as np

from .launch import THREADS, Array, Facts, Launch, integers, spread

MOST_CLASSES = 4096  # as in judging.cu
LABEL_DTYPES = ("uint8", "int32", "int64")  # of labels that are read on the device
TOTALS = 4  # weights, losses, hits, rows that are no finite numbers
SURVEYORS = 256  # blocks that look at a share of the values each
FACTS = 3  # that each of them notes


# Of a single output: above which it says yes.
OF_PROBABILITIES, OF_LOGITS = 0.5, 0.0


def predict_labels(facts: Facts, labels: Array, p: Array, threshold: float) -> list[Launch]:
    """The label of each row of outputs; -1 where they are no finite numbers."""
    rows, columns = p.shape
    return spread(
        facts, "predict_labels_kernel", rows, labels, p, np.float32(threshold), *integers(rows, columns, p.ld)
    )


def judge(
    totals: Array,
    p: Array,
    labels: Array,
    sample_weight: Array | None,
    threshold: float,
    *,
    one_vs_rest: bool,
) -> list[Launch]:
    """Add to `totals` (`TOTALS` doubles) what these rows weigh, cost (of probabilities only) and hit."""
    scalars = (np.float32(threshold), *integers(one_vs_rest, *p.shape, p.ld))
    arguments = (totals, p, labels, sample_weight, *scalars)
    return [Launch("judge_kernel", (1,), (THREADS,), arguments)] if p.shape[0] else []


def survey(parts: Array, x: Array) -> list[Launch]:
    """The range of a contiguous array, uint8 or float32: `SURVEYORS` rows of `FACTS` doubles."""
    arguments = (parts, x, np.int64(_size(x)))
    return [Launch(f"survey_{x.dtype}_kernel", (SURVEYORS,), (THREADS,), arguments)]


def find_classes(facts: Facts, present: Array, y: Array) -> list[Launch]:
    """Mark in `present`, `MOST_CLASSES + 1` zeros, which labels there are."""
    return spread(facts, f"find_classes_{y.dtype}_kernel", _size(y), present, y, np.int64(_size(y)))


def encode_labels(facts: Facts, labels: Array, y: Array, output_of: Array) -> list[Launch]:
    """`labels = output_of[y]`, of a table of `MOST_CLASSES` outputs."""
    return spread(facts, f"encode_labels_{y.dtype}_kernel", _size(y), labels, y, output_of, np.int64(_size(y)))


def _size(array: Array) -> int:
    return int(np.prod(array.shape, dtype=np.int64))
