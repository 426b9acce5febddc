"""`fastmnist evaluate MODEL`: how good a saved model is, in numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from fastmnist.commands.judging import judged_options
from fastmnist.commands.options import WholeNumber, json_option
from fastmnist.console import emit_json, output

if TYPE_CHECKING:
    from fastmnist.commands.judging import Judged
    from fastmnist.evaluation import Evaluation


@click.command()
@judged_options
@click.option("--top", type=WholeNumber(min=0), default=5, show_default=True, help="Confusions and mistakes to name.")
@json_option
def evaluate(judged: Callable[[], Judged], top: int, as_json: bool) -> None:
    """Judge a saved model: report of each class, most frequent confusions, calibration, surest mistakes."""
    found = judged()
    if as_json:
        emit_json({"model": found.name, **found.evaluation.as_dict(top)})
        return
    output().print(found.evaluation.report.as_table())
    click.echo("\n".join(_lines(found.evaluation, top)))


def _lines(evaluation: Evaluation, top: int) -> list[str]:
    """What the table does not say."""
    lines = [
        f"accuracy {evaluation.accuracy:.4f}: {len(evaluation.wrong):,} of {len(evaluation.true):,} samples are wrong"
    ]
    confusions = evaluation.report.top_confusions(top)
    if confusions:
        named = (f"{c.true} as {c.predicted} ({c.count:g}, {c.share:.1%} of {c.true})" for c in confusions)
        lines.append(f"most frequent: {', '.join(named)}")
    assert evaluation.calibration is not None  # all models that can be saved give probabilities
    lines.append(
        f"calibration: expected error {evaluation.calibration.expected_error:.4f}, largest {evaluation.calibration.maximum_error:.4f}"
    )
    mistakes = evaluation.worst_mistakes(top)
    if mistakes:
        named = (f"sample {m.index}, {m.true} as {m.predicted} ({m.confidence:.1%})" for m in mistakes)
        lines.append(f"surest mistakes: {'; '.join(named)}")
    return lines
