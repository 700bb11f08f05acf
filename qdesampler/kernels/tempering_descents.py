r"""Descents (`D -> 0`) that look for what walkers overlooked, and tell whether there is one mode alone.

Behind a first-order transition (a narrow spike in a wide slab) no thermal path finds a mode that carries most
of the mass; the descent of `U` does. What a mode weighs is Laplace's approximation at its top.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.tempering_path import Evaluate
from qdesampler.kernels.tempering_reference import lower_whitener
from qdesampler.solvers.descent import descend

__all__ = ["Descended", "descend_from", "starts_of_descents"]

_DESCENTS, _MOST_POPULATIONS = 4, 4  # of each population, and of its beginnings; of at most so many
_MEMORY, _MOST_EVALUATIONS = 16, 201
_LEAST_SHARE, _MOST_SHARE = 0.02, 0.9
_SEEN = 0.25  # of its predicted mass that walkers must show for a mode to count as seen
_NOTHING = 1e-3  # of the mass of the highest mode, below which another does not matter
_WIDER = 5.0  # nats in each dimension by which what is no Gaussian peak may be wider than one
_RADIUS = 3.0  # of the squared distance from a top, in its own standard deviations


class Descended(NamedTuple):
    """What descents found.

    Attributes:
        mean: top of the mode with most unseen mass, or the highest where all were seen or there is one.
        whitener: lower triangular `P` with `P'P` the curvature there.
        share: of the mass, by Laplace, if walkers had not seen it; else 0.
        alone: whether every descent ended at that top, or where next to nothing is.
        num_evals: evaluations spent.
    """

    mean: jax.Array
    whitener: jax.Array
    share: jax.Array
    alone: jax.Array
    num_evals: jax.Array


def starts_of_descents(points: jax.Array, draws: jax.Array) -> jax.Array:
    """Where descents begin: half at draws of the target, half where populations began.

    The latter see every basin that is broad enough, also one that a small population lost on its way.
    """
    few = min(points.shape[0], _MOST_POPULATIONS)
    first = points[:few, :_DESCENTS].reshape(-1, points.shape[-1])
    return jnp.concatenate([draws[: _DESCENTS * few], first])


def descend_from(
    starts: jax.Array,
    points: jax.Array,
    weights: jax.Array,
    log_z: jax.Array,
    spread: jax.Array,
    evaluate: Evaluate,
) -> Descended:
    """Descend from every start and compare the ends with what walkers saw.

    Args:
        starts: shape `(descents, dim)`.
        points: of the walkers, shape `(points, dim)`.
        weights: their log weights under the target.
        log_z: log evidence of the walkers.
        spread: draws whose standard deviations scale the coordinates.
        evaluate: `x -> (log p, grad log p)`.
    """
    dim = starts.shape[1]
    scale = jnp.maximum(jnp.std(spread, 0), 1e-6 * (1 + jnp.abs(jnp.mean(spread, 0))))

    def scaled(y):
        value, score = evaluate(y * scale)
        return value, score * scale

    def end_of(x):
        descent, spent = descend(x / scale, scaled, min(_MEMORY, dim + 2), _MOST_EVALUATIONS)
        curvature = jax.jacfwd(lambda y: -scaled(y)[1])(descent.position)
        curvature = 0.5 * (curvature + curvature.T)
        factor = jnp.linalg.cholesky(curvature)  # H = F F', NaN unless positive definite
        diagonal = jnp.diagonal(factor)
        log_mass = (
            descent.log_density
            + 0.5 * dim * jnp.log(2 * jnp.pi)
            - jnp.sum(jnp.log(diagonal))
            + jnp.sum(jnp.log(scale))
        )
        sound = jnp.isfinite(log_mass) & descent.arrived & jnp.all(jnp.isfinite(factor))
        # Flatter than the walkers' own spread in some direction: no Gaussian peak.
        sound &= jnp.min(jnp.where(jnp.isnan(diagonal), 0, diagonal)) > 0.1
        return (
            descent.position * scale,
            factor,
            jnp.where(sound, log_mass, -jnp.inf),
            spent + dim,
            descent.log_density,
        )

    means, factors, masses, evals, tops = jax.vmap(end_of)(starts)
    shares = jax.nn.sigmoid(masses - log_z)
    probability = jax.nn.softmax(weights)

    def distances(mean, factor, places):
        return jnp.sum(((places - mean) / scale @ factor) ** 2, 1)

    def seen(mean, factor):
        near = distances(mean, factor, points) < dim + _RADIUS * jnp.sqrt(2.0 * dim)
        return jnp.sum(jnp.where(near, probability, 0))

    hidden = jax.vmap(seen)(means, factors) < _SEEN * shares
    hidden &= shares > _LEAST_SHARE
    highest = jnp.argmax(jnp.where(masses > -jnp.inf, tops, -jnp.inf))
    sound = masses[highest] > -jnp.inf
    most = jnp.where(masses > -jnp.inf, masses, tops - tops[highest] + masses[highest] + _WIDER * dim)
    nothing = most < masses[highest] + jnp.log(_NOTHING)
    near = distances(means[highest], factors[highest], means) < dim + _RADIUS * jnp.sqrt(2.0 * dim)
    alone = sound & jnp.all(near | nothing)
    unseen = jnp.argmax(jnp.where(hidden, masses, -jnp.inf))
    best = jnp.where(jnp.any(hidden) & ~alone, unseen, highest)
    precision = jnp.where(sound, factors[best] @ factors[best].T, jnp.eye(dim, dtype=points.dtype))
    share = jnp.where(jnp.any(hidden), jnp.minimum(shares[unseen], _MOST_SHARE), 0)
    mean = jnp.where(sound, means[best], 0)
    return Descended(mean, lower_whitener(precision) / scale, share, alone, jnp.sum(evals))
