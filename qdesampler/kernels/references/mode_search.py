r"""Descents (`D -> 0`) that look for what walkers overlooked, and tell whether there is one mode alone.

Behind a first-order transition (a narrow spike in a wide slab) no thermal path finds a mode that carries most
of the mass; the descent of `U` does. And where populations lost a mode on their way, walkers of early stages
still stand on its flank. What a mode weighs is Laplace's approximation at its top.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.reference import Reference, lower_whitener
from qdesampler.numerics.lbfgs import descend
from qdesampler.numerics.types import ValueAndScore

__all__ = ["PEAKS", "Descended", "descend_from", "starts_of_descents", "starts_where_thin"]

_DESCENTS, _MOST_POPULATIONS = 4, 4  # of each population, and of its beginnings; of at most so many
_MEMORY, _MOST_EVALUATIONS = 16, 201
_LEAST_SHARE, _MOST_SHARE = 0.02, 0.9
_SEEN = 0.25  # of its predicted mass that walkers must show for a mode to count as seen
_NOTHING = 1e-3  # of the mass of the highest mode, below which another does not matter
_WIDER = 5.0  # nats in each dimension by which what is no Gaussian peak may be wider than one
_THIN_STARTS = 8  # descents from where walkers point to a top that the reference does not have
PEAKS = 4  # overlooked modes that become components at once
_RADIUS = 3.0  # of the squared distance from a top, in its own standard deviations


class Descended(NamedTuple):
    """What descents found.

    Attributes:
        means: tops of the modes with most unseen mass, most first, shape `(PEAKS, dim)`; the first is the
            highest top where all were seen or there is one.
        whiteners: lower triangular `P` with `P'P` the curvature there, shape `(PEAKS, dim, dim)`.
        shares: of the mass, by Laplace, of those that walkers had not seen; else 0, shape `(PEAKS,)`.
        alone: whether every descent ended at that top, or where next to nothing is.
        num_evals: evaluations spent.
    """

    means: jax.Array
    whiteners: jax.Array
    shares: jax.Array
    alone: jax.Array
    num_evals: jax.Array

    @property
    def share(self) -> jax.Array:
        """Of all unseen modes together, as components that are added one after the other share it."""
        return 1 - jnp.prod(1 - self.shares)


def starts_of_descents(points: jax.Array, draws: jax.Array) -> jax.Array:
    """Where descents begin: half at draws of the target, half where populations began.

    The latter see every basin that is broad enough, also one that a small population lost on its way.
    """
    few = min(points.shape[0], _MOST_POPULATIONS)
    first = points[:few, :_DESCENTS].reshape(-1, points.shape[-1])
    return jnp.concatenate([draws[: _DESCENTS * few], first])


def starts_where_thin(
    reference: Reference,
    points: jax.Array,
    log_densities: jax.Array,
    scores: jax.Array,
    log_z: jax.Array,
) -> jax.Array:
    r"""Walkers whose score points to a top where the reference is thinnest, shape `(starts, dim)`.

    A walker on the flank of a mode that its population lost weighs nothing, but its score `a` tells where the
    top is, and how high, if the mode is as narrow as a Gaussian of the reference, `S = (P'P)^-1`:

        m = x + S a,    log p(m) = log p(x) + a'Sa / 2.

    The Gaussian of least rise counts for each walker. The one of largest `log p(m) / q(m)` is chosen; with
    that Gaussian in `q` the next one is.

    Args:
        reference: a mixture; those of its Gaussians that have no weight are left out.
        points: of walkers, of any weight, shape `(points, dim)`.
        log_densities: `log p` there, unnormalised.
        scores: `grad log p` there.
        log_z: log evidence.
    """
    used = references.log_weights_of(reference)[: reference.means.shape[0]] > -jnp.inf
    sound = jnp.isfinite(log_densities) & jnp.all(jnp.isfinite(scores), 1)
    scores = jnp.where(sound[:, None], scores, 0)

    def halfway(whitener):
        return jax.scipy.linalg.solve_triangular(whitener, scores.T, trans=1, lower=True).T

    def rise(whitener):
        return 0.5 * jnp.sum(halfway(whitener) ** 2, 1)

    rises = jnp.where(used[:, None], jax.lax.map(rise, reference.whiteners), jnp.inf)
    nearest = jnp.argmin(rises, 0)

    def top_of(x, score, k):
        half = jax.scipy.linalg.solve_triangular(reference.whiteners[k], score, trans=1, lower=True)
        return x + jax.scipy.linalg.solve_triangular(reference.whiteners[k], half, lower=True)

    tops = jax.vmap(top_of)(points, scores, nearest)
    heights = jnp.where(sound, log_densities + jnp.min(rises, 0) - log_z, -jnp.inf)

    def choose(log_q, _):
        thinness = heights - log_q
        worst = jnp.argmax(jnp.where(jnp.isfinite(thinness), thinness, -jnp.inf))
        offset = (tops - tops[worst]) @ reference.whiteners[nearest[worst]].T
        return jnp.logaddexp(log_q, heights[worst] - 0.5 * jnp.sum(offset**2, 1)), points[worst]

    log_q = jax.vmap(lambda x: references.log_density(reference, x))(tops)
    return jax.lax.scan(choose, log_q, None, length=_THIN_STARTS)[1]


def descend_from(
    starts: jax.Array,
    points: jax.Array,
    weights: jax.Array,
    log_z: jax.Array,
    spread: jax.Array,
    evaluate: ValueAndScore,
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
    radius = dim + _RADIUS * jnp.sqrt(2.0 * dim)

    def distances(mean, factor, places):
        return jnp.sum(((places - mean) / scale @ factor) ** 2, 1)

    def seen(mean, factor):
        return jnp.sum(jnp.where(distances(mean, factor, points) < radius, probability, 0))

    hidden = jax.vmap(seen)(means, factors) < _SEEN * shares
    hidden &= shares > _LEAST_SHARE

    def choose(left, _):
        best = jnp.argmax(jnp.where(left, masses, -jnp.inf))
        share = jnp.where(jnp.any(left), jnp.minimum(shares[best], _MOST_SHARE), 0)
        again = distances(means[best], factors[best], means) < radius
        return left & ~again & (jnp.arange(masses.size) != best), (best, share)

    _, (chosen, unseen) = jax.lax.scan(choose, hidden, None, length=PEAKS)
    highest = jnp.argmax(jnp.where(masses > -jnp.inf, tops, -jnp.inf))
    sound = masses[highest] > -jnp.inf
    most = jnp.where(masses > -jnp.inf, masses, tops - tops[highest] + masses[highest] + _WIDER * dim)
    nothing = most < masses[highest] + jnp.log(_NOTHING)
    near = distances(means[highest], factors[highest], means) < radius
    alone = sound & jnp.all(near | nothing)
    chosen = chosen.at[0].set(jnp.where((unseen[0] > 0) & ~alone, chosen[0], highest))
    known = (unseen > 0) | ((jnp.arange(PEAKS) == 0) & sound)
    squares = jax.vmap(lambda factor: factor @ factor.T)(factors[chosen])
    precisions = jnp.where(known[:, None, None], squares, jnp.eye(dim, dtype=points.dtype))
    return Descended(
        jnp.where(known[:, None], means[chosen], 0),
        jax.vmap(lower_whitener)(precisions) / scale,
        unseen,
        alone,
        jnp.sum(evals),
    )
