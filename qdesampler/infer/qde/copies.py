"""Copies of a mode: the same posterior, not another mode of it.

A circular site that is sampled on the line, as by NumPyro's `CircularReparam`, has a density that repeats
every `2 pi`, and one with labels that can be exchanged repeats for each of their orders. Descents may end in
different copies.
"""

import numpy as np

from qdesampler.numerics.host_trial import HostTrial
from qdesampler.numerics.numpy_metric import to_position_rows
from qdesampler.solvers.gaussian.descents import Descent, Evaluate

__all__ = ["equal_modes", "without_turns"]

_TURN = 2 * np.pi
_NEAR = 4.0  # standard deviations of the trial within which a displacement is a whole number of turns
_LEVEL = 0.5  # nats by which ends at equal modes differ: up to .1 is left to gain at each
_BARRIER = 10.0  # nats by which the density falls between different modes
# Coordinates below which chains may travel between equal modes: the two of gaussian-shells are no copies.
_TRAVELLED = 20
_SAME = 1e-3  # nats, relative to 1 + |log density|, by which the density may change over a period


def without_turns(
    evaluate: Evaluate, ends: np.ndarray, trial: HostTrial, points: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Ends moved back by whole turns in those coordinates in which the density has the period `2 pi`.

    Only coordinates that differ from the trial's centre by about a turn or more are examined, each by one
    evaluation at every point.

    Args:
        evaluate: the target.
        ends: ends of descents, shape `(n, dim)`.
        trial: where the mode is that was found.
        points: a few points of finite density, shape `(m, dim)`.
        values: their log densities, shape `(m,)`.
    """
    dim = trial.centre.size
    widths = np.sqrt(np.sum(to_position_rows(trial.metric, np.eye(dim)) ** 2, 0))
    offsets = ends - trial.centre
    with np.errstate(invalid="ignore"):
        turns = np.round(offsets / _TURN)
        turns = np.where(np.abs(offsets - _TURN * turns) < _NEAR * widths, turns, 0.0)
    turns = np.where(np.isfinite(turns), turns, 0.0)
    for i in np.flatnonzero(np.any(turns != 0, 0)):
        moved = points.copy()
        moved[:, i] += _TURN
        again, _ = evaluate(moved)
        if not np.all(np.abs(again - values) <= _SAME * (1 + np.abs(values))):
            turns[:, i] = 0
    return ends - _TURN * turns


def equal_modes(evaluate: Evaluate, descents: list[Descent]) -> tuple[Descent, int]:
    """The descent with the highest end, and how many others ended at other modes of the same height.

    Args:
        evaluate: the target, in the coordinates of the descents.
        descents: those that have ended.
    """
    heights = np.array([descent.log_density for descent in descents])
    heights = np.where(np.isfinite(heights), heights, -np.inf)
    best = descents[int(np.argmax(heights))]
    level = [d for d, height in zip(descents, heights, strict=True) if height > best.log_density - _LEVEL]
    level = [descent for descent in level if descent is not best]
    if not level or best.position.size < _TRAVELLED:
        return best, 0
    between, _ = evaluate(np.stack([0.5 * (best.position + descent.position) for descent in level]))
    return best, int(np.sum(~(between > best.log_density - _BARRIER)))
