r"""Whether the density has tails that a good trial has not: points far along each coordinate.

A few dozen candidates do not show tails that the trial seldom reaches, and a chain that walks out there is
held as long as `p / q` says. So `p / q` is looked at where one coordinate is four standard deviations out and
the others are at their means given it, `mu +- 4 Sigma e_i / sigma_i`.
"""

import numpy as np

from qdesampler.numerics.host_trial import HostTrial, log_trial_rows
from qdesampler.numerics.numpy_metric import to_position_rows, to_whitened_gradient_rows
from qdesampler.solvers.gaussian.descents import Evaluate

__all__ = ["far_log_weights"]

_FAR = 4.0  # standard deviations
_MOST_COORDINATES = 32  # that are looked at, evenly spaced; two evaluations each


def far_log_weights(evaluate: Evaluate, trial: HostTrial, precision: np.typing.DTypeLike) -> np.ndarray:
    """`log p - log q` at far points, shape `(2 min(dim, 32),)`; `-inf` where there is no density."""
    dim = trial.centre.size
    chosen = np.unique(np.linspace(0, dim - 1, min(dim, _MOST_COORDINATES)).astype(int))
    rows = to_position_rows(trial.metric, _transposed_rows(trial, chosen))  # of the covariance
    rows /= np.sqrt(rows[np.arange(len(chosen)), chosen])[:, None]
    points = trial.centre + _FAR * np.concatenate([rows, -rows])
    points = points.astype(precision).astype(float)
    values, scores = evaluate(points)
    sound = np.isfinite(values) & np.all(np.isfinite(scores), 1)
    return np.where(sound, np.where(sound, values, 0.0) - log_trial_rows(trial, points), -np.inf)


def _transposed_rows(trial: HostTrial, chosen: np.ndarray) -> np.ndarray:
    """Rows `L^T e_i` of the chosen coordinates."""
    units = np.zeros((len(chosen), trial.centre.size))
    units[np.arange(len(chosen)), chosen] = 1
    return to_whitened_gradient_rows(trial.metric, units)
