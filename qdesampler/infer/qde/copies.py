"""Copies of a mode by whole turns of an angle: the same posterior, not another mode of it.

A circular site that is sampled on the line, as by NumPyro's `CircularReparam`, has a density that repeats
every `2 pi`. Descents may end in different copies.
"""

import numpy as np

from qdesampler.numerics.host_trial import HostTrial
from qdesampler.numerics.numpy_metric import to_position_rows
from qdesampler.solvers.gaussian.descents import Evaluate

__all__ = ["without_turns"]

_TURN = 2 * np.pi
_NEAR = 4.0  # standard deviations of the trial within which a displacement is a whole number of turns
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
