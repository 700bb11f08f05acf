r"""The trial density on the host: the law of `trial.py`, drawn and evaluated in NumPy, in float64.

    x = mu + L y,        y = shift + width sinh(arcsinh u + skew),

`u` a Student-t vector with `degrees` degrees of freedom, or with far tails in a small fraction of the draws.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from qdesampler.numerics.numpy_metric import HostMetric, log_determinant, to_position_rows, whiten_rows
from qdesampler.numerics.trial import FAR_TAIL, FAR_WIDTH, tail_degrees

__all__ = ["HostTrial", "draw_rows", "host_trial", "log_trial_rows"]


class HostTrial(NamedTuple):
    """A trial density; the fields are those of `trial.Trial`, as NumPy arrays."""

    centre: np.ndarray
    metric: HostMetric
    shift: np.ndarray
    width: np.ndarray
    skew: np.ndarray
    defensive_weight: float


def host_trial(centre: np.ndarray, metric: HostMetric, defensive_weight: float = 0.0) -> HostTrial:
    """The trial without skew."""
    dim = centre.size
    return HostTrial(centre, metric, np.zeros(dim), np.ones(dim), np.zeros(dim), defensive_weight)


def draw_rows(trial: HostTrial, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws, shape `(count, dim)`."""
    dim = trial.centre.size
    degrees = tail_degrees(dim)
    noise = rng.standard_normal((count, dim))
    far = rng.random(count) < trial.defensive_weight
    near_root = np.sqrt(degrees / rng.chisquare(degrees, count))
    far_root = FAR_WIDTH * np.sqrt(FAR_TAIL / rng.chisquare(FAR_TAIL, count))
    u = noise * np.where(far, far_root, near_root)[:, None]
    skewed = u * np.cosh(trial.skew) + np.sqrt(1 + u**2) * np.sinh(trial.skew)
    return trial.centre + to_position_rows(trial.metric, trial.shift + trial.width * skewed)


def log_student(squares: np.ndarray, dim: int, degrees: float, width: float = 1.0) -> np.ndarray:
    """Log density of `width` times a Student-t vector at squared lengths, same shape."""
    constant = gammaln(0.5 * (degrees + dim)) - gammaln(0.5 * degrees) - 0.5 * dim * np.log(degrees * np.pi)
    return constant - dim * np.log(width) - 0.5 * (degrees + dim) * np.log1p(squares / (degrees * width**2))


def log_trial_rows(trial: HostTrial, points: np.ndarray) -> np.ndarray:
    """`log q` of each row, shape `(n,)`, normalised."""
    dim = trial.centre.size
    y = whiten_rows(trial.metric, points - trial.centre)
    t = (y - trial.shift) / trial.width
    up, across = np.sinh(trial.skew), np.cosh(trial.skew)
    u = np.where(trial.skew == 0, t, t * across - np.sqrt(1 + t**2) * up)
    stretched = 0.5 * np.log1p(u**2) - 0.5 * np.log1p(t**2) - np.log(trial.width)
    squares = np.sum(u**2, 1)
    near = log_student(squares, dim, tail_degrees(dim))
    if trial.defensive_weight > 0:
        far = log_student(squares, dim, FAR_TAIL, FAR_WIDTH)
        weight = trial.defensive_weight
        near = np.logaddexp(np.log1p(-weight) + near, np.log(weight) + far)
    return near + np.sum(stretched, 1) - log_determinant(trial.metric)
