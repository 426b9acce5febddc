"""From samples that alternated to a ratio with its quantiles, and a verdict; or to the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jobs import OURS, Job
from records import FAILED, Record
from scipy.stats import wilcoxon

SIGNIFICANCE = 0.05
SAME_WITHIN = 0.05  # ratios whose quantiles lie within 5 % of 1 make no difference to anybody
LOSS_TOLERANCE, ACCURACY_TOLERANCE, OBJECTIVE_SLACK = 0.03, 0.003, 1e-4


@dataclass(frozen=True)
class Comparison:
    """Peer's seconds / our seconds, paired by round.

    Attributes
    ----------
    ours, theirs : float
        Medians of the seconds.
    ratio, low, high : float
        Median and 20 % and 80 % quantiles of the rounds' ratios; above 1: fastmnist is faster.
    rounds : int
    verdict : str
        FASTER, SAME, SLOWER or UNCLEAR.
    """

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    rounds: int
    verdict: str


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Samples of the same rounds, in seconds.

    The verdict: SAME if the quantiles of the ratio lie within 5 % of 1; else FASTER or SLOWER if Wilcoxon's signed-rank test of the
    logarithms of the ratios (two-sided, 5 %; it takes six rounds to get there) says that their middle is not 0; else UNCLEAR.
    """
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    ratios = b / a
    low, middle, high = (float(q) for q in np.quantile(ratios, [0.2, 0.5, 0.8]))
    return Comparison(
        float(np.median(a)), float(np.median(b)), middle, low, high, len(a), _verdict(ratios, low, middle, high)
    )


def _verdict(ratios: np.ndarray, low: float, middle: float, high: float) -> str:
    if low >= 1 - SAME_WITHIN and high <= 1 + SAME_WITHIN:
        return "SAME"
    if not (wilcoxon(np.log(ratios)).pvalue <= SIGNIFICANCE):
        return "UNCLEAR"
    return "FASTER" if middle > 1 else "SLOWER"


@dataclass(frozen=True)
class Outcome:
    """All that a table says of a job and a peer.

    Attributes
    ----------
    problem : str
        Why there is no number; empty if there is.
    comparisons : dict
        By column of the job; empty with a problem.
    losses, accuracies : tuple of two floats or None
        Means over the rounds, ours and the peer's.
    peer : Record
        The peer's last record: its settings and versions.
    ours : Record or None
        Our last record.
    """

    problem: str
    comparisons: dict[str, Comparison]
    losses: tuple[float, float] | None
    accuracies: tuple[float, float] | None
    peer: Record
    ours: Record | None


def judge(job: Job, records: Sequence[Record]) -> Outcome:
    """The outcome of one run of one pair."""
    failed = [record for record in records if record.round == FAILED]
    ours = [record for record in records if record.provider == OURS and record.round != FAILED]
    theirs = [record for record in records if record.provider != OURS and record.round != FAILED]
    if failed:
        return Outcome(failed[-1].note, {}, None, None, (theirs or failed)[-1], ours[-1] if ours else None)
    losses, accuracies = _means("loss", ours, theirs), _means("accuracy", ours, theirs)
    problem = disagreement(job.loss_rule, losses, accuracies)
    comparisons = {}
    if not problem:
        for column in job.columns:
            comparisons[column] = compare(*([getattr(r, column) for r in side] for side in (ours, theirs)))
    return Outcome(problem, comparisons, losses, accuracies, theirs[-1], ours[-1])


def _means(name: str, ours: Sequence[Record], theirs: Sequence[Record]) -> tuple[float, float] | None:
    sides = [[getattr(record, name) for record in side] for side in (ours, theirs)]
    if any(value is None for side in sides for value in side):
        return None
    return float(np.mean(sides[0])), float(np.mean(sides[1]))


def disagreement(loss_rule: str, losses: tuple[float, float] | None, accuracies: tuple[float, float] | None) -> str:
    """Why two providers have not done the same job; empty when they have. NaN agrees with nothing."""
    if loss_rule != "none":
        if losses is None or not all(map(math.isfinite, losses)):
            return "a training loss is missing"
        ours, theirs = losses
        if loss_rule == "close" and not (abs(ours - theirs) <= LOSS_TOLERANCE * max(ours, theirs)):
            return f"training losses {ours:.4f} and {theirs:.4f} differ by more than 3 %"
        if loss_rule == "at most" and not (ours <= theirs * (1 + OBJECTIVE_SLACK)):
            return f"our objective {ours:.6f} is above the peer's {theirs:.6f} by more than 1e-4 of it"
    if accuracies is not None and not (abs(accuracies[0] - accuracies[1]) <= ACCURACY_TOLERANCE):
        return f"test accuracies {accuracies[0]:.4f} and {accuracies[1]:.4f} differ by more than 0.3 points"
    return ""
