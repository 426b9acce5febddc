"""Recipes are run: system by system, seed by seed; each fit is kept as soon as it is done."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastmnist import estimators
from fastmnist.evaluation import classification_report
from fastmnist.recipes import pictures
from fastmnist.recipes.recipe import Recipe, System
from fastmnist.recipes.results import RecipeResult, Run, results_file
from fastmnist.recipes.splits import Split, split_for
from fastmnist.system_info import system_info
from fastmnist.training.history import EpochRecord, OnEpoch
from fastmnist.version import __version__

STEPS_TOGETHER = 200  # the sources average the loss of so many steps
MANY_EPOCHS = 100  # histories of more (iterations) are not kept for each seed
DIGITS = range(10)
TOLD_PARTS = (
    5  # of the iterations of gradient descent: after each the costs are told, and after 1, 10, 100, ... iterations
)


@dataclass(frozen=True)
class Options:
    """How much to run.

    Attributes
    ----------
    seeds : int
    quick : bool
        The first 500 rows, two epochs, one seed: to see that everything works, not how good it is.
    out : Path or None
        Folder for results, pictures and page; None: nothing is kept.
    fresh : bool
        Run again what `out` has already.
    """

    seeds: int = 5
    quick: bool = False
    out: Path | None = None
    fresh: bool = False


QUICK_ROWS, QUICK_OTHER_ROWS = 500, 200
# The most that --quick lets a parameter be.
_QUICK = {"max_iter": 2, "n_estimators": 5}


def reproduce(
    recipe: Recipe,
    options: Options,
    say: Callable[[str], None] = lambda message: None,
) -> RecipeResult:
    """Run a recipe, or what is missing of it.

    Parameters
    ----------
    recipe : Recipe
    options : Options
    say : callable
        Called with a sentence after each fit, and with the cost of each digit as gradient descent runs.

    Returns
    -------
    RecipeResult
        Incomplete if Ctrl-C arrived: the fits that were completed are in it, and in the folder.

    Raises
    ------
    OSError
        Results can't be written.
    """
    if options.quick:
        recipe = _quick(recipe)
    n_seeds = options.seeds if recipe.random and not options.quick else 1
    result = _begun(recipe, n_seeds, options)
    if result.complete:
        say(f"{recipe.name}: kept from {result.date}; --fresh runs it again")
        return result
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the sources stopped after so many epochs, so do we
            if recipe.choose and not result.chosen:
                _choose(recipe, result, options, say)
                _keep(result, options)
            for seed, system in itertools.product(range(n_seeds), recipe.systems):
                if all(run.seed != seed for run in result.of(system.name)):
                    result.runs.append(_fit(recipe, system, seed, result.chosen, options, say))
                    _keep(result, options)
                    say(_told(recipe, system, result))
    except KeyboardInterrupt:
        say(f"{recipe.name}: interrupted; {len(result.runs)} complete fits are kept")
        return result
    if options.out is not None:
        pictures.draw_results(recipe, result, options.out)
    result.complete = True
    _keep(result, options)
    return result


def _quick(recipe: Recipe) -> Recipe:
    systems = tuple(
        replace(
            system, parameters={k: min(v, _QUICK.get(k, v)) if k in _QUICK else v for k, v in system.parameters.items()}
        )
        for system in recipe.systems
    )
    return replace(recipe, systems=systems)


def _begun(recipe: Recipe, n_seeds: int, options: Options) -> RecipeResult:
    """What the folder has of the same settings, or nothing yet."""
    about = system_info()
    asked = (recipe.split, recipe.systems, dict(recipe.choose), n_seeds, options.quick)
    settings = hashlib.sha256(repr(asked).encode()).hexdigest()[:16]
    if options.out is not None:
        path = results_file(options.out, recipe.name)
        if path.exists() and not options.fresh:
            found = RecipeResult.load(path)
            if found.settings == settings:
                return found
            if found.runs:
                raise ValueError(
                    f"{path} has results of other settings (seeds, --quick, or a recipe that has changed). Name another folder with --out, "
                    "or replace them with --fresh."
                )
    machine = f"{about['cpu']['name']}, {about['threads']['default']} threads"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    return RecipeResult(recipe.name, settings, options.quick, machine, __version__, today)


def _keep(result: RecipeResult, options: Options) -> None:
    if options.out is not None:
        result.save(results_file(options.out, result.recipe))


# --- one fit ----------------------------------------------------------------------------------------------------------


def _split(recipe: Recipe, seed: int, options: Options) -> Split:
    split = split_for(recipe.split, seed)
    return split.first(QUICK_ROWS, QUICK_OTHER_ROWS) if options.quick else split


def _estimator(system: System, parameters: dict[str, Any]) -> Any:
    return getattr(estimators, system.model)(**{**system.parameters, **parameters})


def _fit(
    recipe: Recipe, system: System, seed: int, chosen: dict[str, Any], options: Options, say: Callable[[str], None]
) -> Run:
    split = _split(recipe, seed, options)
    (X, y), (X_test, y_test) = split.train, split.test
    model = _estimator(system, {**chosen, "random_state": seed})
    validation = {}
    if split.validation is not None:
        validation["validation_data"] = (split.validation[0], system.labels(split.validation[1]))
    model.set_on_epoch(_telling_costs(f"{_name(recipe, system)}, seed {seed}", system, say))
    model.fit(X, system.labels(y), **validation)
    model.set_on_epoch(None)
    if getattr(model, "interrupted_", False):
        raise KeyboardInterrupt
    report = classification_report(system.labels(y_test), model.predict(X_test))
    wants_train = recipe.train_report or any(line.metric == "train_accuracy" for line in system.lines)
    train_report = classification_report(system.labels(y), model.predict(X)) if wants_train else None
    history = getattr(model, "history_", {})
    unit, epochs = _work(model)
    run = Run(
        system.name,
        seed,
        measure(model, system, report, train_report, X_test, y_test),
        model.fit_seconds_,
        epochs,
        unit,
        model.backend_,
        len(X),
        len(X_test),
        history if epochs <= MANY_EPOCHS else {},
        report.as_dict(),
        train_report.as_dict() if recipe.train_report and train_report is not None else None,
        report.confusion.tolist(),
        _extra(model) if seed == 0 else {},
    )
    if options.out is not None and seed == 0:
        pictures.draw_model(recipe, system, model, split, options.out)
    return run


def _work(model: Any) -> tuple[str, int]:
    """What a fit counts, and how many."""
    if hasattr(model, "n_estimators"):
        return "tree", model.n_estimators
    return "iteration" if model.solver in ("lbfgs", "gd") else "epoch", int(np.max(model.n_iter_))


def _extra(model: Any) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if hasattr(model, "step_losses_"):
        losses = model.step_losses_
        starts = range(0, len(losses), STEPS_TOGETHER)
        extra["mean_loss_of_200_steps"] = [float(losses[i : i + STEPS_TOGETHER].mean()) for i in starts]
    if hasattr(model, "loss_curve_by_class_"):
        curves = model.loss_curve_by_class_
        every = max(1, len(curves) // 50)
        extra["cost_by_class"] = {"iterations": list(range(0, len(curves), every)), "costs": curves[::every].T.tolist()}
    if hasattr(model, "coefs_"):
        extra["largest_weights"] = [float(np.abs(w).max()) for w in model.coefs_]
    return extra


def measure(
    model: Any, system: System, report: Any, train_report: Any, X_test: np.ndarray, y_test: np.ndarray
) -> dict[str, float]:
    """The numbers of a run, between 0 and 1.

    "accuracy", "precision", "recall", "f1" (means of the classes), "largest_share" (of the most frequent prediction); "train_accuracy" if there
    is a report on the training part; "binary_<digit>" and "binary_mean" (of "this digit or not") of one-vs-rest models of all the digits.
    """
    precision, recall, f1 = report.averages()["macro avg"]
    metrics = {
        "accuracy": report.accuracy,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "largest_share": float(report.confusion.sum(axis=0).max() / report.confusion.sum()),
    }
    if train_report is not None:
        metrics["train_accuracy"] = train_report.accuracy
    if system.model == "OneVsRestLogisticRegression" and system.digit is None:
        says_yes = model.decision_function(X_test) > 0
        right = {k: float(np.mean(says_yes[:, k] == (y_test == k))) for k in DIGITS}
        metrics |= {f"binary_{k}": value for k, value in right.items()}
        metrics["binary_mean"] = float(np.mean(list(right.values())))
    return metrics


# --- parameters that were not published -------------------------------------------------------------------------------


def _choose(recipe: Recipe, result: RecipeResult, options: Options, say: Callable[[str], None]) -> None:
    """Let the last 10 % of the training part decide; the test part is not looked at. The first system decides for all."""
    system = recipe.systems[0]
    split = _split(recipe, 0, options).holding_out(0.1)
    for values in itertools.product(*recipe.choose.values()):
        parameters = dict(zip(recipe.choose, values, strict=True))
        model = _estimator(system, parameters)
        model.set_on_epoch(_telling_costs(f"{recipe.name}: {_words(parameters)}", system, say))
        model.fit(*split.train, validation_data=split.validation)
        if model.interrupted_:
            raise KeyboardInterrupt
        scores = np.array(model.history_["val_accuracy"])
        best = int(scores.argmax())  # the first of equals
        found = {**parameters, "max_iter": best + 1, "validation_accuracy": float(scores[best])}
        result.chosen_from.append(found)
        say(
            f"{recipe.name}: {_words(parameters)}: {scores[best]:.2%} on the validation part after {best + 1} iterations"
        )
    best_of_all = max(result.chosen_from, key=lambda found: found["validation_accuracy"])
    result.chosen = {name: value for name, value in best_of_all.items() if name != "validation_accuracy"}


def _words(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in parameters.items())


def _name(recipe: Recipe, system: System) -> str:
    return f"{recipe.name}{f' ({system.name})' if system.name else ''}"


def _telling_costs(name: str, system: System, say: Callable[[str], None]) -> OnEpoch:
    """A listener that tells the cost of each digit now and then; the descent has them anyway, so it costs nothing but the lines."""

    def on_epoch(record: EpochRecord) -> None:
        if record.losses is None:
            return
        done, last = record.epoch, record.n_epochs
        if done in (1, 10, 100, 1000) or done * TOLD_PARTS // last > (done - 1) * TOLD_PARTS // last:
            digits = DIGITS if system.digit is None else (system.digit,)
            costs = ", ".join(f"{k}: {cost:.4f}" for k, cost in zip(digits, record.losses, strict=True))
            say(f"{name}, iteration {done} of {last}, cost of each digit: {costs}")

    return on_epoch


def _told(recipe: Recipe, system: System, result: RecipeResult) -> str:
    """What there is to tell of the run that was added last."""
    run = result.runs[-1]
    told = f"{_name(recipe, system)}, seed {run.seed}: {run.metrics['accuracy']:.2%} in {run.fit_seconds:.1f} s"
    digits = [f"{k}: {run.metrics[f'binary_{k}']:.2%}" for k in DIGITS if f"binary_{k}" in run.metrics]
    return f"{told}; {', '.join(digits)}" if digits else told
