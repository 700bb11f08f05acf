"""The metric of a rung, chosen by a test of its gain, and the number of steps of its trajectories."""

import jax
import jax.numpy as jnp

from qdesampler.kernels.mcmc.local_step_size import log_scale
from qdesampler.kernels.paths.replica import Replica
from qdesampler.kernels.references.reference import DENSE_DIMENSIONS
from qdesampler.numerics.metric import Metric, fisher_loss, fit_metric, identity_metric

__all__ = ["TRAJECTORY_LENGTH", "choose_metric", "num_steps_for"]

TRAJECTORY_LENGTH = 1.5  # whitened units: about a quarter of the period of a Gaussian
# Part of the scores' variance that is linear in the position, below which step sizes follow the score
# (results/evidence.md: funnel-10).
_LINEAR = 0.8


def choose_metric(replicas: Replica) -> tuple[Metric, jax.Array]:
    """The metric of a rung, and the typical factor of step sizes that follow the score.

    Every other draw fits a metric of each kind (identity, diagonal, dense). The remaining draws judge which
    kind leaves the least Fisher divergence, and which part of the scores is linear in the position: nearly
    all of it if one metric serves everywhere, hardly any in a funnel, where step sizes have to follow the
    score.

    Args:
        replicas: equally weighted draws of the rung, on it, leading axis `n`.

    Returns:
        The metric, and the geometric mean of the steps' local factors
        (`qdesampler.kernels.mcmc.local_step_size`), or 0 if one step size serves everywhere.
    """
    n, dim = replicas.position.shape
    scores = replicas.score
    usable = jnp.all(jnp.isfinite(scores), 1).astype(scores.dtype)
    rank = dim if dim <= DENSE_DIMENSIONS else 0
    previous = identity_metric(dim, rank)
    blocks = (tuple(range(dim)),)
    even = jnp.arange(n) % 2 == 0

    def fit(weights):
        return fit_metric(replicas.position, scores, weights, previous, blocks, rank)

    # One program for both: a fit to every other draw, which is judged, and one to all, which is used.
    fits = jax.vmap(fit)(jnp.stack([even * usable, usable]))
    kinds = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fits)
    losses = jax.vmap(lambda kind: fisher_loss(kind, replicas.position, scores, ~even * usable))(
        jax.tree.map(lambda leaf: leaf[:, 0], kinds)
    )
    best = jnp.argmin(losses)
    chosen = jax.tree.map(lambda leaf: leaf[best, 1], kinds)
    sound = jnp.all(jnp.isfinite(chosen.scale) & (chosen.scale > 0))
    metric = jax.tree.map(lambda c, p: jnp.where(sound, c, p), chosen, previous)
    if dim > DENSE_DIMENSIONS:
        return metric, jnp.zeros((), scores.dtype)
    scores = jnp.where(usable[:, None] > 0, scores, 0)
    linear = _linearity(replicas.position, scores)
    typical = jnp.exp(jnp.mean(jax.vmap(lambda score: log_scale(metric, score))(scores)))
    return metric, jnp.where(linear < _LINEAR, typical, 0)


def num_steps_for(step_size: jax.Array, local_scale: jax.Array, max_steps: int) -> jax.Array:
    """Steps of a trajectory of `TRAJECTORY_LENGTH`, computed from the typical step."""
    typical = step_size * jnp.where(local_scale > 0, local_scale, 1)
    return jnp.clip(jnp.ceil(TRAJECTORY_LENGTH / typical), 1, max_steps).astype(int)


def _linearity(positions: jax.Array, scores: jax.Array) -> jax.Array:
    """Held-out R squared of a linear fit of the scores to every other draw, mean over coordinates."""
    n, dim = positions.shape
    x = (positions - jnp.mean(positions, 0)) / (jnp.std(positions, 0) + 1e-12)
    y = (scores - jnp.mean(scores, 0)) / (jnp.std(scores, 0) + 1e-12)
    x, y = x[: 2 * (n // 2)], y[: 2 * (n // 2)]
    gram = x[::2].T @ x[::2] + 1e-3 * n * jnp.eye(dim, dtype=x.dtype)
    slopes = jnp.linalg.solve(gram, x[::2].T @ y[::2])
    left = jnp.sum((y[1::2] - x[1::2] @ slopes) ** 2, 0) / (jnp.sum(y[1::2] ** 2, 0) + 1e-12)
    return jnp.mean(jnp.clip(1 - left, 0, 1))
