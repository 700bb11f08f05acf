"""Calls of the user's function: checked, counted, remembered, within a budget, here or on workers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qdesampler.densities.cache import EvaluationCache
from qdesampler.densities.errors import BudgetError, EvaluationError
from qdesampler.densities.workers import Outcome, Workers, attempt

__all__ = ["Calls", "CallSettings", "checked_result"]


class CallSettings(NamedTuple):
    """How the user's function is called.

    Attributes:
        chunk_size: points of a call; None: all that are asked for together.
        max_evals: points that may be evaluated, those that a checkpoint knows included; None: no limit.
        reject_failures: whether an exception means a density of zero; otherwise it ends the run.
    """

    chunk_size: int | None
    max_evals: int | None
    reject_failures: bool


class Calls:
    """Points of the user's space, shape `(n, columns)`, to log densities and scores.

    Attributes:
        num_evals: points evaluated, those of earlier calls that the checkpoint knows included.
        made: those that were evaluated here.
        failures: exceptions that were taken for a density of zero.
        undefined: points at which the log density was NaN or +inf.
        has_scores: whether the function returns scores; None before the first call.
        watch: called with `num_evals` and `made` after every call.
    """

    workers: Workers | None

    def __init__(
        self,
        evaluate: Callable,
        columns: int,
        settings: CallSettings,
        cache: EvaluationCache | None = None,
        workers: Workers | None = None,
    ):
        self._evaluate, self._columns, self._settings = evaluate, columns, settings
        self._cache, self.workers = cache, workers
        self.num_evals: int = 0 if cache is None else cache.loaded
        self.made: int = 0
        self.failures: int = 0
        self.undefined: int = 0
        self.worst: np.ndarray | None = None
        self.error: str = ""
        self.has_scores: bool | None = None
        self.watch: Callable[[int, int], None] = lambda total, made: None

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Log densities, shape `(n,)`, and scores, shape `(n, columns)`, None if the function has none.

        Raises:
            EvaluationError: the function raised, or returned what is no log density.
            BudgetError: the budget does not allow these evaluations; none of them was made.
        """
        first: dict[bytes, int] = {}
        rows = [first.setdefault(point.tobytes(), row) for row, point in enumerate(points)]
        if len(first) == len(points):
            return self._distinct(points)
        places = {row: place for place, row in enumerate(first.values())}
        back = [places[row] for row in rows]
        values, scores = self._distinct(points[list(places)])
        return values[back], None if scores is None else scores[back]

    def _distinct(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """`__call__` for points that all differ."""
        values, scores = np.full(len(points), np.nan), np.full((len(points), self._columns), np.nan)
        chunks = []
        size = self._settings.chunk_size or max(len(points), 1)
        for first in range(0, len(points), size):
            rows = np.arange(first, min(first + size, len(points)))
            unknown = np.array([self._recall(int(row), points, values, scores) for row in rows])
            if np.any(unknown):
                chunks.append(rows[unknown])
        asked = sum(map(len, chunks))
        most = self._settings.max_evals
        if most is not None and self.num_evals + asked > most:
            raise BudgetError(
                f"{asked} more evaluations are needed, {self.num_evals} of max_evals={most} are used up."
            )

        def done(index: int, outcome: Outcome) -> None:
            rows = chunks[index]
            found, slopes = self._taken(points[rows], outcome)
            self.num_evals += len(rows)
            self.made += len(rows)
            values[rows] = found
            if slopes is not None:
                scores[rows] = slopes
            if self._cache is not None:
                self._cache.add(points[rows], found, slopes)
            self.watch(self.num_evals, self.made)

        self._run([points[rows].copy() for rows in chunks], done)
        return values, scores if self.has_scores else None

    def again(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Evaluate points without looking whether they are known; they count."""
        values, scores = self._taken(points, attempt(self._evaluate, points.copy()))
        self.num_evals += len(points)
        self.made += len(points)
        return values, scores

    def _recall(self, row: int, points, values, scores) -> bool:
        """Fill in a known point; whether it is unknown."""
        known = None if self._cache is None else self._cache.find(points[row])
        if known is None:
            return True
        values[row] = known[0]
        if self.has_scores is None:
            self.has_scores = known[1] is not None
        if known[1] is not None:
            scores[row] = known[1]
        return False

    def _run(self, chunks: list[np.ndarray], done: Callable[[int, Outcome], None]) -> None:
        if self.workers is not None:
            self.workers.run(chunks, done)
            return
        for index, chunk in enumerate(chunks):
            done(index, attempt(self._evaluate, chunk))

    def _taken(self, points: np.ndarray, outcome: Outcome) -> tuple[np.ndarray, np.ndarray | None]:
        """The log densities and scores of an outcome."""
        if outcome.error:
            return self._failed(points, outcome.error)
        values, scores = checked_result(outcome.result, len(points), self._columns)
        if self.has_scores is None:
            self.has_scores = scores is not None
        if self.has_scores != (scores is not None):
            raise EvaluationError(
                "The function returns scores for some points and none for others; expected one or the other."
            )
        bad = np.isnan(values) | (values == np.inf)
        if np.any(bad):
            self.undefined += int(np.sum(bad))
            self.worst = points[bad][0].copy()
        return values, scores

    def _failed(self, points: np.ndarray, error: str) -> tuple[np.ndarray, np.ndarray | None]:
        if not self._settings.reject_failures:
            raise EvaluationError(
                f"The function raised an exception at the point {points[0]}"
                f"{f' or one of the {len(points) - 1} others of the call' if len(points) > 1 else ''}. If it "
                "cannot be evaluated in a part of space, where the density is to count as zero, say "
                f"failures='reject'. The exception was:\n{error}"
            )
        if len(points) > 1:  # which of them it was
            parts = [self._taken(row[None], attempt(self._evaluate, row[None].copy())) for row in points]
            values = np.concatenate([part[0] for part in parts])
            slopes = [np.full((1, self._columns), np.nan) if part[1] is None else part[1] for part in parts]
            return values, np.concatenate(slopes) if self.has_scores else None
        self.failures += 1
        self.error = self.error or error.strip().splitlines()[-1]
        scores = np.full((1, self._columns), np.nan) if self.has_scores else None
        return np.full(1, -np.inf), scores


def checked_result(result: Any, count: int, columns: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The log densities and scores that a function returned for `count` points.

    Raises:
        EvaluationError: they have other shapes or types.
    """
    wanted = f"log densities of shape ({count},), or these and scores of shape ({count}, {columns})"
    values, scores = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if isinstance(result, tuple) and len(result) != 2:
        raise EvaluationError(f"The function returned a tuple of {len(result)}; expected {wanted}.")
    values = _numbers(values, "log densities", wanted)
    if values.shape != (count,):
        raise EvaluationError(
            f"The function returned log densities of shape {values.shape} for points of shape ({count}, "
            f"{columns}); expected {wanted}. A function of one point is wrapped by "
            "`lambda points: np.array([f(point) for point in points])`."
        )
    if scores is None:
        return values, None
    scores = _numbers(scores, "scores", wanted)
    if scores.shape != (count, columns):
        raise EvaluationError(
            f"The function returned scores of shape {scores.shape} for points of shape ({count}, {columns}); "
            f"expected {wanted}."
        )
    return values, scores


def _numbers(value: Any, what: str, wanted: str) -> np.ndarray:
    """A copy in float64."""
    try:
        array = np.asarray(value)
    except Exception as error:  # a ragged list, a tensor on another device
        raise EvaluationError(f"The {what} cannot be made an array: {error}. Expected {wanted}.") from error
    if array.dtype.kind not in "fiu":
        raise EvaluationError(
            f"The {what} are {array.dtype} of type {type(value).__name__}; expected real numbers: {wanted}."
        )
    return np.array(array, float)
