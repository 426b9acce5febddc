"""One-vs-rest: an L-BFGS for each output, all in lock-step, so that one pass over the data serves them all.

The outputs of a one-layer network with a binary cross-entropy for each output share no parameter. Each is a problem of its own, with its own
curvature, line search and end; run by itself it would pass over the data once for each evaluation. Here a round collects the points at which
the searches stand, evaluates all of them with one `losses_and_gradient`, and lets each search go on to its next question.

SciPy calls the objective from within its own loop. That loop therefore runs on a thread of its own for each output, which stands still
while it waits for an answer; everything else happens on the caller's thread: evaluations, records, Ctrl-C.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from queue import SimpleQueue

import numpy as np
import scipy.optimize

from fastmnist.backends.base import Parameters
from fastmnist.training.full_batch import Evaluation, Objective, Point, Recorder, SmoothObjective, Solution, scipy_lbfgs
from fastmnist.training.history import OnEpoch
from fastmnist.training.validation import Validation


class _Closed(Exception):
    """Ends a search from within the objective that it calls."""


class _Search:
    """The L-BFGS of one output: it asks for evaluations and is given them.

    Parameters
    ----------
    minimise : callable
        `scipy_lbfgs` with all its settings.
    start : ndarray of shape (n,)

    Attributes
    ----------
    question : ndarray of shape (n,) or None
        Where it wants value and gradient; None: it has ended.
    result : OptimizeResult or None
        SciPy's, once it has ended.
    point : Point or None
        Where the last recorded iteration led; before the first, the start; None before that was evaluated.
    n_iter : int
        Recorded iterations.
    """

    def __init__(self, minimise: Callable[..., scipy.optimize.OptimizeResult], start: np.ndarray) -> None:
        self.question: np.ndarray | None = None
        self.result: scipy.optimize.OptimizeResult | None = None
        self.point: Point | None = None
        self.n_iter = 0
        self._minimise, self._start = minimise, start
        self._steps: deque[Point] = deque()  # iterations that are completed and not yet recorded
        self._error: BaseException | None = None
        self._questions: SimpleQueue[np.ndarray | None] = SimpleQueue()
        self._answers: SimpleQueue[Evaluation | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def _work(self) -> None:
        """What its thread does."""
        try:
            self.result = self._minimise(SmoothObjective(self._ask), self._start, self._steps.append)
        except _Closed:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._questions.put(None)

    def _ask(self, vector: np.ndarray) -> Evaluation:
        """The objective that SciPy sees, on the search's thread."""
        self._questions.put(vector)
        answer = self._answers.get()
        if answer is None:
            raise _Closed
        return answer

    def begin(self) -> None:
        """Run to the first question."""
        self._thread = threading.Thread(target=self._work, name="fastmnist-lbfgs", daemon=True)
        self._thread.start()
        self._wait()

    def answer(self, evaluation: Evaluation) -> None:
        """Give what was asked for, and run to the next question or to the end."""
        if self.point is None:
            assert self.question is not None
            value = evaluation.value
            self.point = Point(self.question.copy(), value, value, evaluation.gradient, evaluation.steepness)
        self._answers.put(evaluation)
        self._wait()

    def _wait(self) -> None:
        self.question = self._questions.get()
        if self._error is not None:
            raise self._error

    @property
    def is_ahead(self) -> bool:
        """Whether there is an iteration to be recorded."""
        return bool(self._steps)

    def advance(self) -> None:
        """Take the next iteration into the record."""
        self.point = self._steps.popleft()
        self.n_iter += 1

    def dismiss(self) -> None:
        """Let its thread end at once, whatever it is doing; a search that has ended is left as it is."""
        self._answers.put(None)

    def join(self) -> None:
        """Wait for the end of its thread."""
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()
        # SciPy leaves cycles behind that refer to the search. Were the thread collected with them, in the midst of a later fit, Python would
        # call back into `threading`, where a Ctrl-C is ignored.
        self._thread = None


def lbfgs_by_output(
    objective: Objective,
    start: Parameters,
    *,
    tol: float,
    max_iter: int,
    options: dict[str, float],
    validation: Validation | None = None,
    on_epoch: OnEpoch | None = None,
) -> Solution:
    """Minimise the objective of each output by itself, each with SciPy's L-BFGS-B.

    Parameters
    ----------
    objective : Objective
        Of a network of one layer with `BinaryCrossEntropy`.
    start : list of ndarray
        `[W (n_features, n_outputs), b (n_outputs,)]`.
    tol, max_iter, options, validation, on_epoch
        As in `full_batch.lbfgs`; for each output.

    Returns
    -------
    Solution
        `loss`, and `loss_curve` after each iteration, are sums over the outputs, those that have ended standing where they are; `n_iter` is
        the largest of `n_iter_by_output`. Interrupted, the parameters are those of the last iteration that all have completed.
    """
    columns = objective.to_vector(start).reshape(-1, objective.executor.spec.n_outputs)
    recorder = Recorder(objective, max_iter, validation, on_epoch)
    solution = recorder.solution
    minimise = partial(scipy_lbfgs, tol=tol, max_iter=max_iter, options=options)
    searches = [_Search(minimise, column) for column in columns.T.copy()]
    try:
        for search in searches:
            search.begin()
        while any(search.question is not None for search in searches):
            _answer_all(objective, searches, columns)
            _record(searches, recorder)
        solution.converged, solution.message = _verdict([search.result for search in searches])
    except KeyboardInterrupt:
        solution.interrupted = True
        solution.message = "interrupted by user"
    finally:
        for search in searches:
            search.dismiss()
        for search in searches:
            search.join()
    solution.n_iter_by_output = [search.n_iter for search in searches]
    points = _points(searches)
    if len(points) < len(searches):
        return recorder.finish_at_start(objective.to_vector(start))
    return recorder.finish(
        _join(p.vector for p in points), sum(p.value for p in points), max(p.steepness for p in points)
    )


def _answer_all(objective: Objective, searches: list[_Search], columns: np.ndarray) -> None:
    """One round: a pass over the data, and every search that has not ended goes on. `columns` has the point of each."""
    running = [k for k, search in enumerate(searches) if search.question is not None]
    for k in running:
        columns[:, k] = searches[k].question
    evaluations = objective.by_output(columns.ravel())
    for k in running:
        searches[k].answer(evaluations[k])


def _record(searches: list[_Search], recorder: Recorder) -> None:
    """Record the iterations that all searches have completed; a line search may keep one of them back while others go on."""
    while any(search.is_ahead for search in searches) and all(s.is_ahead or s.question is None for s in searches):
        for search in searches:
            if search.is_ahead:
                search.advance()
        points = _points(searches)
        recorder.iteration(sum(p.value for p in points), _join(p.vector for p in points))


def _points(searches: list[_Search]) -> list[Point]:
    """Where the searches stand in the record; none before the first round."""
    return [search.point for search in searches if search.point is not None]


def _join(columns: Iterable[np.ndarray]) -> np.ndarray:
    """One vector from those of the outputs, as `Objective.to_vector` orders it."""
    return np.stack(list(columns), axis=1).ravel()


def _verdict(results: list[scipy.optimize.OptimizeResult]) -> tuple[bool, str]:
    """Whether all have converged, and why not."""
    failed = [result for result in results if result.status != 0]
    if not failed:
        return True, str(results[0].message)
    return False, f"{len(failed)} of {len(results)} classes: {failed[0].message}"
