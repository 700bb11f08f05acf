"""The metric of a rung, chosen by a test of its gain, and the number of steps of its trajectories."""

import jax
import jax.numpy as jnp

from qdesampler.kernels.mcmc.local_step_size import log_scale
from qdesampler.kernels.paths.replica import Replica
from qdesampler.numerics.metric import Metric, fisher_loss, fit_metric, identity_metric

DENSE_DIMENSIONS = 64


LENGTH = 1.5  # of a trajectory in whitened units: about a quarter period of a Gaussian


_LINEAR = 0.8  # share of the score that is linear in the position, below which steps follow the place


def choose_metric(replicas: Replica) -> tuple[Metric, jax.Array]:
    """The metric of a rung behind a gain test, and how long its steps are that follow the place.

    Every other draw fits; the rest judges which kind of metric (identity, diagonal or dense) leaves the least
    Fisher divergence, and how much of the scores is linear in the position: about all of it where one metric
    serves everywhere, next to nothing in a funnel, where steps follow the place.

    Args:
        replicas: equally weighted draws of the rung, on it, leading axis `n`.

    Returns:
        The metric, and the geometric mean of the steps' local factors
        (`qdesampler.kernels.mcmc.local_step_size`), or 0 where one step size serves.
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

    # Fitted to every other draw, to be judged, and to all, to be used: one program for both.
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


def steps_for(step_size: jax.Array, local_scale: jax.Array, max_steps: int) -> jax.Array:
    """Steps of a trajectory of `LENGTH`, by the typical step."""
    typical = step_size * jnp.where(local_scale > 0, local_scale, 1)
    return jnp.clip(jnp.ceil(LENGTH / typical), 1, max_steps).astype(int)


def _linearity(positions: jax.Array, scores: jax.Array) -> jax.Array:
    """Share of the scores' variance, mean over coordinates, that half of the draws predict in the others."""
    n, dim = positions.shape
    x = (positions - jnp.mean(positions, 0)) / (jnp.std(positions, 0) + 1e-12)
    y = (scores - jnp.mean(scores, 0)) / (jnp.std(scores, 0) + 1e-12)
    x, y = x[: 2 * (n // 2)], y[: 2 * (n // 2)]
    gram = x[::2].T @ x[::2] + 1e-3 * n * jnp.eye(dim, dtype=x.dtype)
    slopes = jnp.linalg.solve(gram, x[::2].T @ y[::2])
    left = jnp.sum((y[1::2] - x[1::2] @ slopes) ** 2, 0) / (jnp.sum(y[1::2] ** 2, 0) + 1e-12)
    return jnp.mean(jnp.clip(1 - left, 0, 1))
