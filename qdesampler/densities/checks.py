"""Checks of a user's function before it is sampled: the same twice, row by row, with a true gradient.

A wrong gradient does not spoil the draws, because moves are accepted by the density alone, but it spoils the
solve and every trajectory. So it is compared with differences first, at the points where the warm-up begins.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np

from qdesampler.densities.cache import EvaluationCache
from qdesampler.densities.calls import Calls
from qdesampler.densities.errors import EvaluationError, EvaluationWarning
from qdesampler.densities.evaluator import SpaceEvaluator
from qdesampler.driver.checkpoint import CheckpointError

__all__ = ["check_gradient", "check_repeats", "check_same_density", "listening"]

_SAME = 1e-6  # relative to 1 + |log p|: more is no rounding, of single precision on a GPU either
# Lengths of central differences relative to 1 + |u|, and how much the gradient may differ from each, relative
# to the larger. The longer ones are for functions in single precision, or with an adaptive solver inside.
_LENGTHS = ((1e-5, 1e-3), (1e-3, 1e-3), (1e-2, 1e-2))
_ROUNDING = 64  # units of rounding of a log density that a difference may be off
_MOST_DIRECTIONS = 16  # that are compared: all coordinates, or mixtures of them where there are more
_SHOWN = 6  # coordinates that a message shows


@contextmanager
def listening() -> Iterator[None]:
    """Warn if something is printed meanwhile; it is not shown."""
    heard = io.StringIO()
    with redirect_stdout(heard):
        yield
    if heard.getvalue():
        first = heard.getvalue().strip().splitlines()[:1]
        warnings.warn(
            f"The function prints to stdout ({first[0][:60] if first else 'empty lines'!r}). It is called "
            "many times, perhaps on workers, where the text is lost: take the print out.",
            EvaluationWarning,
            stacklevel=3,
        )


def _differs(first: float, second: float) -> bool:
    if np.isnan(first) or np.isnan(second) or np.isinf(first) or np.isinf(second):
        return not np.array_equal(first, second, equal_nan=True)
    return abs(first - second) > _SAME * (1 + max(abs(first), abs(second)))


def check_repeats(calls: Calls, point: np.ndarray) -> None:
    """Whether a point has the same log density again and by itself: one evaluation.

    Args:
        calls: of the function.
        point: one that was evaluated, among others; shape `(columns,)`.

    Raises:
        EvaluationError: it has not.
    """
    before = calls(point[None])[0][0]
    alone = calls.again(point[None])[0][0]
    if not _differs(before, alone):
        return
    if _differs(alone, calls.again(point[None])[0][0]):
        raise EvaluationError(
            f"The function is not deterministic: at the point {point} the log density is {before:.10g}, then "
            f"{alone:.10g}. Fix the seeds of random numbers in it, or sample them as parameters."
        )
    raise EvaluationError(
        f"The function mixes the rows of a batch: at the point {point} the log density is {before:.10g} "
        f"among other points and {alone:.10g} alone. Sum over the data of each row by itself (axis=1), or "
        "say chunk_size=1."
    )


def check_same_density(calls: Calls, cache: EvaluationCache) -> None:
    """Whether the function is still that of the checkpoint: one evaluation.

    Raises:
        CheckpointError: it is not.
    """
    known = cache.first()
    if known is None:
        return
    point, before = known
    now = calls.again(point[None])[0][0]
    if _differs(before, now):
        raise CheckpointError(
            f"The checkpoint is of another density: at {point} it has {before:.10g}, the function "
            f"{now:.10g}. Did the data change? Name another file, or delete this one."
        )


def check_gradient(evaluator: SpaceEvaluator, starts: np.ndarray) -> None:
    """Compare scores with central differences, two evaluations for each of at most 16 directions.

    Args:
        evaluator: of a function with scores.
        starts: unconstrained points of finite density, shape `(n, dim)`; directions take them in turn.

    Raises:
        EvaluationError: they differ.
    """
    dim = evaluator.dim
    if dim <= _MOST_DIRECTIONS:
        directions = np.eye(dim)
    else:
        directions = np.random.default_rng(0).choice([-1.0, 1.0], (_MOST_DIRECTIONS, dim))
    wrong, _, _ = _compare(evaluator, starts, directions)
    if not np.any(wrong):
        return
    points = starts[np.flatnonzero(wrong)[:1] % len(starts)]
    wrong, given, found = _compare(evaluator, points, np.eye(dim))
    index = np.flatnonzero(wrong)
    if not index.size:  # too small to be seen along a single coordinate, beside the others
        index = np.arange(dim)
    rows = [
        f"{evaluator.space.labels[i]}: {given[i]:.6g}, by differences {found[i]:.6g}" for i in index[:_SHOWN]
    ]
    more = f"; and {index.size - _SHOWN} more" if index.size > _SHOWN else ""
    raise EvaluationError(
        f"The scores are not the gradient of the log density, at {index.size} of {dim} coordinates: "
        f"{'; '.join(rows)}{more}. {_guess(given[index], found[index])}"
        f"The unconstrained point is {points[0]}. Correct the scores, or return log densities alone."
    )


def _guess(given: np.ndarray, found: np.ndarray) -> str:
    """What may be wrong."""
    with np.errstate(all="ignore"):
        ratios = given / found
        same = np.all(np.abs(ratios / ratios[0] - 1) < 1e-2)
    if np.all(np.abs(ratios + 1) < 1e-2):
        return "They have the opposite sign: expected grad log p, not that of the energy. "
    if same and ratios.size > 1 and ratios[0] != 0:
        return f"All are {ratios[0]:.4g} times what they should be. "
    if np.allclose(np.sort(given), np.sort(found), rtol=1e-2) and given.size > 1:
        return "They are in another order. "
    return ""


def _compare(
    evaluator: SpaceEvaluator, starts: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which slopes along the directions are wrong; the slopes given, and by the first finite difference."""
    count = len(directions)
    rows = np.arange(count) % len(starts)
    values, scores = evaluator(starts)
    points, slopes = starts[rows], np.sum(scores[rows] * directions, 1)
    wrong, shown = np.isfinite(slopes), np.full(count, np.nan)
    for length, most in _LENGTHS:
        todo = np.flatnonzero(wrong)
        if not todo.size:
            break
        h = length * (1 + np.max(np.abs(points[todo]) * (directions[todo] != 0), 1))
        steps = h[:, None] * directions[todo]
        ends = evaluator.log_densities(np.concatenate([points[todo] + steps, points[todo] - steps]))
        with np.errstate(invalid="ignore"):
            found = (ends[: todo.size] - ends[todo.size :]) / (2 * h)
        given = slopes[todo]
        rounding = _ROUNDING * np.finfo(float).eps * (1 + np.abs(values[rows[todo]])) / h
        scale = np.maximum(np.abs(given), np.abs(found))
        off = ~(np.abs(given - found) <= most * scale + rounding)
        wrong[todo] = off & np.isfinite(found)
        shown[todo] = np.where(np.isnan(shown[todo]), found, shown[todo])
    return wrong, slopes, shown
