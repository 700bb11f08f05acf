"""Particles on the host: evaluated points of target and reference, and their trajectories on a path.

The points of several rungs are moved side by side, so that each leapfrog step asks for one batch of
evaluations. On each rung a trajectory is Hamiltonian, with the rung's metric and step size, and its end is
accepted or rejected as a whole.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qdesampler.kernels.mcmc.trajectory import JITTER
from qdesampler.kernels.references.path import combine
from qdesampler.kernels.references.reference import (
    Reference,
    log_density,
    scores_are_known,
    value_and_score,
)
from qdesampler.kernels.smc.local_steps import LOG_STEP_SD, log_scales, step_log_ratios
from qdesampler.numerics.numpy_metric import HostMetric, to_position_rows, to_whitened_gradient_rows

__all__ = ["Evaluate", "Particles", "Rung", "concatenate", "evaluated", "move"]
__all__ += ["on_reference", "rung_density"]

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Points of shape `(n, dim)` to their log densities, shape `(n,)`, and scores, shape `(n, dim)`."""


class Particles(NamedTuple):
    """Points with the log densities and scores of reference and target.

    Attributes:
        positions: shape `(n, dim)`.
        log_q: of the reference, shape `(n,)`.
        scores_q: its scores, shape `(n, dim)`; NaN where the reference has none.
        log_p: of the target, `-inf` where it is not a number.
        scores_p: its scores.
    """

    positions: np.ndarray
    log_q: np.ndarray
    scores_q: np.ndarray
    log_p: np.ndarray
    scores_p: np.ndarray

    def __getitem__(self, rows: Any) -> "Particles":
        """Some of the rows."""
        return Particles(*(part[rows] for part in tuple(self)))


class Rung(NamedTuple):
    """A density of the path, and how trajectories move on it.

    Attributes:
        coefficients: `(c_q, c_p)`.
        metric: the coordinates that trajectories run in.
        step_size: whitened units.
        local_scale: 0 for one step size everywhere; else the typical factor of steps that follow the score
            (`local_steps.py`).
    """

    coefficients: np.ndarray
    metric: HostMetric
    step_size: float
    local_scale: float = 0.0


def concatenate(parts: list[Particles]) -> Particles:
    """Particles one after another."""
    return Particles(*(np.concatenate(columns) for columns in zip(*map(tuple, parts), strict=True)))


def on_reference(particles: Particles, reference: Reference) -> Particles:
    """The same points with another reference."""
    if scores_are_known(reference):
        values, scores = value_and_score(reference, particles.positions)
    else:
        values = log_density(reference, particles.positions)
        scores = np.full_like(particles.positions, np.nan)
    return particles._replace(log_q=values, scores_q=scores)


def evaluated(positions: np.ndarray, evaluate: Evaluate, reference: Reference) -> Particles:
    """Evaluate target and reference; one evaluation a point."""
    values, scores = evaluate(positions)
    values = np.where(np.isnan(values), -np.inf, values)
    return on_reference(Particles(positions, values, scores, values, scores), reference)


def rung_density(particles: Particles, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density and score on a rung of rows with these coefficients, shape `(n, 2)` or `(2,)`."""
    coefficients = np.broadcast_to(coefficients, (len(particles.log_q), 2))
    of_q, of_p = coefficients[:, :1], coefficients[:, 1:]
    score = np.where(of_q == 0, 0.0, of_q * particles.scores_q)
    score = score + np.where(of_p == 0, 0.0, of_p * particles.scores_p)
    return combine(coefficients, particles.log_q, particles.log_p), score


def move(
    rng: np.random.Generator,
    particles: Particles,
    rungs: list[Rung],
    num_steps: int,
    evaluate: Evaluate,
    reference: Reference,
) -> tuple[Particles, np.ndarray]:
    """One trajectory of every particle, accepted or rejected at its end.

    Step sizes are multiplied by random factors on `[1 - JITTER, 1 + JITTER]` that do not depend on the
    position, because orbits of a fixed length would be periodic; where they follow the score, by factors of
    the law in `local_steps.py`, whose ratio enters the acceptance.

    Args:
        rng: all random numbers.
        particles: as many for each rung, those of the first rung first.
        rungs: where they move.
        num_steps: leapfrog steps of every trajectory.
        evaluate: the target.
        reference: density of the lowest rung.

    Returns:
        The particles, and the acceptance probability of each; `num_steps` evaluations a particle were made.
    """
    n, dim = particles.positions.shape
    parts = np.array_split(np.arange(n), len(rungs))
    coefficients, sizes, is_local = _of_each(rungs, n // len(rungs))
    velocity = rng.standard_normal((n, dim))

    def apply(function, rows):
        return np.concatenate(
            [function(rung.metric, rows[part]) for rung, part in zip(rungs, parts, strict=True)]
        )

    def force(score):
        finite = np.all(np.isfinite(score), 1, keepdims=True)
        return np.where(finite, apply(to_whitened_gradient_rows, np.where(finite, score, 0.0)), 0.0)

    here, (value, score) = particles, rung_density(particles, coefficients)
    scale_here = log_scales(force(score))
    log_factor = scale_here + LOG_STEP_SD * rng.standard_normal(n)
    factor = np.where(is_local, np.exp(log_factor), rng.uniform(1 - JITTER, 1 + JITTER, n))
    steps = (sizes * factor)[:, None]
    start = value - 0.5 * np.sum(velocity**2, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(num_steps):
            velocity = velocity + 0.5 * steps * force(score)
            positions = here.positions + apply(to_position_rows, steps * velocity)
            positions = np.where(np.isfinite(positions), positions, here.positions)
            here = evaluated(positions, evaluate, reference)
            value, score = rung_density(here, coefficients)
            velocity = velocity + 0.5 * steps * force(score)
        gain = value - 0.5 * np.sum(velocity**2, 1) - start
        ratio = step_log_ratios(log_factor, log_scales(force(score)), scale_here)
        gain = gain + np.where(is_local, ratio, 0.0)
    sound = np.isfinite(value) & np.all(np.isfinite(score), 1) & ~np.isnan(gain)
    accept_prob = np.where(sound, np.exp(np.minimum(np.where(sound, gain, -np.inf), 0)), 0.0)
    accepted = rng.random(n) < accept_prob
    return _kept(accepted, here, particles), accept_prob


def _of_each(rungs: list[Rung], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients, step sizes, and whether steps follow the score, of the particles of all rungs."""
    values = (
        [rung.coefficients for rung in rungs],
        [rung.step_size for rung in rungs],
        [rung.local_scale > 0 for rung in rungs],
    )
    coefficients, sizes, is_local = (np.repeat(value, count, 0) for value in values)
    return coefficients, sizes, is_local


def _kept(accepted: np.ndarray, new: Particles, old: Particles) -> Particles:
    """The new particles where they are accepted, the old ones elsewhere."""
    return Particles(
        *(
            np.where(accepted if after.ndim == 1 else accepted[:, None], after, before)
            for after, before in zip(tuple(new), tuple(old), strict=True)
        )
    )
