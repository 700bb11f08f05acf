r"""Descents (imaginary time at `D -> 0`) that find the modes which particles missed.

Behind a first-order transition (a narrow spike in a wide slab) no thermal path finds the mode that carries
most of the mass; a descent of `U` does. If a population lost a mode on its way, particles of early stages are
still near that mode, with little weight, and descents start there too. The mass of a mode is Laplace's
approximation at the end of a descent. The descents also say whether the target has one mode only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.reference import Reference, lower_whitener, squared_radius
from qdesampler.numerics.lbfgs import run_descent
from qdesampler.numerics.metric import smallest_scale
from qdesampler.numerics.second_derivatives import score_jacobian
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "LARGE_MISSED_MASS",
    "LEAST_MISSED_MASS",
    "MAX_MISSED_MODES",
    "ModeSearch",
    "descend_from",
    "starts_from_low_weights",
    "starts_of_descents",
]

# Descents from the draws and from the first stage, for each population; populations that count.
_DESCENTS, _MAX_POPULATIONS = 4, 4
_MEMORY, _MAX_EVALUATIONS = 16, 201  # pairs that L-BFGS keeps, evaluations of one descent
LEAST_MISSED_MASS = 0.02  # mass below which a mode that particles missed is ignored
LARGE_MISSED_MASS = 0.2  # mass of missed modes from which their mass in the reference is worth an alarm
_LARGEST_WEIGHT = 0.9  # weight that one missed mode gets at most
_SEEN = 0.25  # part of a mode's Laplace mass that particles must carry there for the mode to count as seen
_NEGLIGIBLE = 1e-3  # of the mass of the highest mode, below which another mode does not matter
_WIDER = 5.0  # nats per dimension by which the log mass at an end that is no mode may exceed Laplace's there
# Descents from particles of low weight (results/evidence.md: "Modes lost").
_LOW_WEIGHT_STARTS = 8
MAX_MISSED_MODES = 4  # missed modes that become components after one search (results/evidence.md: mixture-40)
_RADIUS = 3.0  # standard deviations of a Gaussian's squared distance within which a point belongs to a mode


class ModeSearch(NamedTuple):
    """What the descents found.

    Attributes:
        means: the missed modes, the one of largest mass first, shape `(MAX_MISSED_MODES, dim)`. The first is
            the highest mode if no mode was missed or there is one mode only.
        whiteners: lower triangular `P` with `P'P` the curvature there, shape `(MAX_MISSED_MODES, dim, dim)`.
        missed_masses: Laplace's mass of each missed mode over the mass of the target, 0 for the other rows,
            shape `(MAX_MISSED_MODES,)`.
        unimodal: whether every descent ended in the highest mode or at negligible mass.
        num_evals: evaluations spent.
    """

    means: jax.Array
    whiteners: jax.Array
    missed_masses: jax.Array
    unimodal: jax.Array
    num_evals: jax.Array

    @property
    def missed_mass(self) -> jax.Array:
        """Mass of all missed modes together, if they are added one after another by `add_component`."""
        return 1 - jnp.prod(1 - self.missed_masses)


class _Ends(NamedTuple):
    """Where descents ended, leading axis `descents`.

    Attributes:
        positions: shape `(descents, dim)`.
        factors: Cholesky factors of the curvature in scaled coordinates, NaN unless it is positive definite.
        log_masses: Laplace's approximation, `-inf` for an end that is no mode.
        num_evals: evaluations of each descent.
        log_densities: `log p` at each end.
    """

    positions: jax.Array
    factors: jax.Array
    log_masses: jax.Array
    num_evals: jax.Array
    log_densities: jax.Array


def starts_of_descents(points: jax.Array, draws: jax.Array) -> jax.Array:
    """Starts of descents: draws of the target, then particles of the first stage of every population.

    The latter are in every basin that is wide enough, also in one that a small population lost on its way.
    """
    few = min(points.shape[0], _MAX_POPULATIONS)
    first = points[:few, :_DESCENTS].reshape(-1, points.shape[-1])
    return jnp.concatenate([draws[: _DESCENTS * few], first])


def starts_from_low_weights(
    reference: Reference,
    points: jax.Array,
    log_densities: jax.Array,
    scores: jax.Array,
    log_z: jax.Array,
) -> jax.Array:
    r"""Particles whose score points to a mode that the reference lacks, shape `(starts, dim)`.

    A particle beside a mode that its population lost has hardly any weight. Its score `a` predicts where that
    mode is and how high, if the mode is as narrow as a Gaussian of the reference, `S = (P'P)^-1`:

        m = x + S a,    log p(m) = log p(x) + a'Sa / 2.

    For each particle the Gaussian of least rise is taken. The particle of largest `log p(m) / q(m)` is
    chosen; then a Gaussian at its `m` is added to `q`, and the next particle is chosen.

    Args:
        reference: a mixture; its unused Gaussians are left out.
        points: particles of any weight, shape `(points, dim)`.
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

    def predicted_mode(x, score, k):
        half = jax.scipy.linalg.solve_triangular(reference.whiteners[k], score, trans=1, lower=True)
        return x + jax.scipy.linalg.solve_triangular(reference.whiteners[k], half, lower=True)

    modes = jax.vmap(predicted_mode)(points, scores, nearest)
    heights = jnp.where(sound, log_densities + jnp.min(rises, 0) - log_z, -jnp.inf)

    def choose(log_q, _):
        log_ratio = heights - log_q
        worst = jnp.argmax(jnp.where(jnp.isfinite(log_ratio), log_ratio, -jnp.inf))
        offset = (modes - modes[worst]) @ reference.whiteners[nearest[worst]].T
        return jnp.logaddexp(log_q, heights[worst] - 0.5 * jnp.sum(offset**2, 1)), points[worst]

    log_q = jax.vmap(lambda x: references.log_density(reference, x))(modes)
    return jax.lax.scan(choose, log_q, None, length=_LOW_WEIGHT_STARTS)[1]


def descend_from(
    starts: jax.Array,
    points: jax.Array,
    log_weights: jax.Array,
    log_z: jax.Array,
    spread: jax.Array,
    evaluate: ValueAndScore,
) -> ModeSearch:
    """Descend from every start and compare the ends with what the particles found.

    Args:
        starts: shape `(descents, dim)`.
        points: the particles, shape `(points, dim)`.
        log_weights: log weights of the particles under the target, shape `(points,)`.
        log_z: log evidence by the particles.
        spread: draws whose standard deviations scale the coordinates.
        evaluate: `x -> (log p, grad log p)`.
    """
    dim = starts.shape[1]
    scale = jnp.maximum(jnp.std(spread, 0), smallest_scale(jnp.mean(spread, 0)))
    ends = jax.vmap(lambda x: _end_of_descent(x, evaluate, scale))(starts)
    masses = jax.nn.sigmoid(ends.log_masses - log_z)
    probability = jax.nn.softmax(log_weights)
    radius = squared_radius(dim, _RADIUS)

    def distances(mean, factor, places):
        return jnp.sum(((places - mean) / scale @ factor) ** 2, 1)

    def seen(mean, factor):
        return jnp.sum(jnp.where(distances(mean, factor, points) < radius, probability, 0))

    missed = jax.vmap(seen)(ends.positions, ends.factors) < _SEEN * masses
    missed &= masses > LEAST_MISSED_MASS

    def choose(left, _):
        best = jnp.argmax(jnp.where(left, ends.log_masses, -jnp.inf))
        mass = jnp.where(jnp.any(left), jnp.minimum(masses[best], _LARGEST_WEIGHT), 0)
        same_mode = distances(ends.positions[best], ends.factors[best], ends.positions) < radius
        return left & ~same_mode & (jnp.arange(ends.log_masses.size) != best), (best, mass)

    _, (chosen, missed_masses) = jax.lax.scan(choose, missed, None, length=MAX_MISSED_MODES)
    highest = jnp.argmax(jnp.where(ends.log_masses > -jnp.inf, ends.log_densities, -jnp.inf))
    sound = ends.log_masses[highest] > -jnp.inf
    # An end that is no mode may be up to `_WIDER` nats per dimension wider than the highest mode.
    largest = jnp.where(
        ends.log_masses > -jnp.inf,
        ends.log_masses,
        ends.log_densities - ends.log_densities[highest] + ends.log_masses[highest] + _WIDER * dim,
    )
    negligible = largest < ends.log_masses[highest] + jnp.log(_NEGLIGIBLE)
    near = distances(ends.positions[highest], ends.factors[highest], ends.positions) < radius
    unimodal = sound & jnp.all(near | negligible)
    chosen = chosen.at[0].set(jnp.where((missed_masses[0] > 0) & ~unimodal, chosen[0], highest))
    known = (missed_masses > 0) | ((jnp.arange(MAX_MISSED_MODES) == 0) & sound)
    squares = jax.vmap(lambda factor: factor @ factor.T)(ends.factors[chosen])
    precisions = jnp.where(known[:, None, None], squares, jnp.eye(dim, dtype=points.dtype))
    return ModeSearch(
        means=jnp.where(known[:, None], ends.positions[chosen], 0),
        whiteners=jax.vmap(lower_whitener)(precisions) / scale,
        missed_masses=missed_masses,
        unimodal=unimodal,
        num_evals=jnp.sum(ends.num_evals),
    )


def _end_of_descent(start: jax.Array, evaluate: ValueAndScore, scale: jax.Array) -> _Ends:
    """The end of one descent in coordinates divided by `scale`, and Laplace's approximation there."""
    dim = start.size

    def scaled(y):
        value, score = evaluate(y * scale)
        return value, score * scale

    descent, spent = run_descent(start / scale, scaled, min(_MEMORY, dim + 2), _MAX_EVALUATIONS)
    curvature, of_curvature = score_jacobian(lambda y: -scaled(y)[1], descent.position)
    factor = jnp.linalg.cholesky(curvature)  # H = F F', NaN unless positive definite
    diagonal = jnp.diagonal(factor)
    log_mass = (
        descent.log_density
        + 0.5 * dim * jnp.log(2 * jnp.pi)
        - jnp.sum(jnp.log(diagonal))
        + jnp.sum(jnp.log(scale))
    )
    sound = jnp.isfinite(log_mass) & descent.arrived & jnp.all(jnp.isfinite(factor))
    # Ten times wider than the particles in some direction: no Gaussian fits there.
    sound &= jnp.min(jnp.where(jnp.isnan(diagonal), 0, diagonal)) > 0.1
    return _Ends(
        positions=descent.position * scale,
        factors=factor,
        log_masses=jnp.where(sound, log_mass, -jnp.inf),
        num_evals=spent + of_curvature,
        log_densities=descent.log_density,
    )
