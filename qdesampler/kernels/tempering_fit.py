r"""The reference that walkers leave behind: the mixture of Gaussian ground states, and what they overlooked.

Half of the walkers fit, the other half choose between the broad reference, one Gaussian and a mixture by the
mean `log q`. Descents (`D -> 0`) from walkers then look for a mode that carries more mass, by Laplace's
approximation, than the walkers there show: behind a first-order transition (a narrow spike in a wide slab) no
thermal path finds it. Such a mode becomes a component of the reference. A broad leg stays in the mixture.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels import tempering_reference as references
from qdesampler.kernels.tempering import Evaluate
from qdesampler.kernels.tempering_reference import DENSE_DIMENSIONS, Reference
from qdesampler.kernels.tempering_walkers import Walkers, log_weights, resample
from qdesampler.solvers.descent import advance, next_point, start_descent

__all__ = ["COMPONENTS", "FittedReference", "fit_reference", "with_reference"]

MIXTURE = 16
COMPONENTS = MIXTURE + 2  # and the overlooked mode, and the broad leg
BROAD_SHARE = 0.05
_DESCENTS, _MEMORY, _MOST_STEPS = 8, 16, 200
_LEAST_SHARE, _MOST_SHARE = 0.02, 0.9
COVERAGE = 6.0  # of the squared distance from a Gaussian's centre, in its own standard deviations
_SEEN = 0.25  # of its predicted mass that walkers must show for a mode to count as seen


class FittedReference(NamedTuple):
    """A reference and how it came about.

    Attributes:
        reference: the mixture.
        components: Gaussians chosen: 0 (the broad reference stays), 1 or `MIXTURE`.
        uncovered: share of held-out walkers that lie outside all of them.
        hidden_share: mass, by Laplace, of a mode that descents found and walkers had not; 0 for none.
        num_evals: evaluations spent.
    """

    reference: Reference
    components: jax.Array
    uncovered: jax.Array
    hidden_share: jax.Array
    num_evals: jax.Array


def with_reference(walkers: Walkers, reference: Reference) -> Walkers:
    """The same walkers, seen from another reference (their weights stay what they are)."""
    log_q, score = jax.vmap(lambda x: references.value_and_score(reference, x))(walkers.replicas.position)
    replicas = walkers.replicas._replace(log_reference=log_q, reference_score=score)
    return walkers._replace(replicas=replicas)


def _padded(reference: Reference) -> Reference:
    """With room for `COMPONENTS`."""
    missing = COMPONENTS - reference.log_weights.size
    last = jax.tree.map(lambda leaf: jnp.repeat(leaf[-1:], missing, 0), reference)
    padded = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), reference, last)
    return padded._replace(log_weights=padded.log_weights.at[COMPONENTS - missing :].set(-jnp.inf))


def fit_reference(key: jax.Array, walkers: Walkers, evaluate: Evaluate, wide: Reference) -> FittedReference:
    """Fit a reference to walkers that have reached the target.

    Args:
        key: JAX key.
        walkers: a finished run.
        evaluate: `x -> (log p, grad log p)`.
        wide: the broad reference of that run, with room for `COMPONENTS`.
    """
    key_draws, key_single, key_mixture = jax.random.split(key, 3)
    points = walkers.replicas
    weights = log_weights(walkers, points.log_target)
    per_stage = weights.size // walkers.fractions.size
    even = jnp.arange(weights.size) % 2 == 0

    def half(key, mask):
        return points.position[resample(key, jnp.where(mask, weights, -jnp.inf), 2 * per_stage)]

    keys = jax.random.split(key_draws, 3)
    judging, every = half(keys[0], ~even), half(keys[1], jnp.ones_like(even))
    both = jnp.stack([half(keys[2], even), every])  # to be judged, and to be used: one program for both
    ones = jax.vmap(lambda draws: references.fit_mixture(key_single, draws, 1))(both)
    many = jax.vmap(lambda draws: references.fit_mixture(key_mixture, draws, MIXTURE))(both)
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), wide)
    # Leaves (candidate, half or all, ...).
    candidates = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), twice, jax.vmap(_padded)(ones), jax.vmap(_padded)(many)
    )

    def judge(reference):
        value = jnp.mean(jax.vmap(lambda x: references.log_density(reference, x))(judging))
        return jnp.where(jnp.isfinite(value), value, -jnp.inf), _covered(reference, judging)

    scores, covers = jax.vmap(judge)(jax.tree.map(lambda leaf: leaf[:, 0], candidates))
    best = jnp.argmax(scores)
    covered = covers[best]
    chosen: Reference = jax.tree.map(lambda leaf: leaf[best, 1], candidates)
    sound = jnp.all(jnp.isfinite(chosen.means)) & jnp.all(jnp.isfinite(chosen.whiteners))
    chosen = jax.tree.map(lambda a, b: jnp.where(sound, a, b), chosen, wide)
    components = jnp.where(sound, jnp.asarray([0, 1, MIXTURE])[best], 0)
    share, evals = jnp.zeros(()), jnp.zeros((), int)
    if every.shape[1] <= DENSE_DIMENSIONS:
        mean, whitener, share, evals = _overlooked(walkers, weights, every[:_DESCENTS], every, evaluate)
        chosen = references.add_component(chosen, MIXTURE, mean, whitener, share)
    broad_share = jnp.where(components == 0, 0, BROAD_SHARE)
    keep = (components > 0) | (share > 0)
    broad_share = jnp.where(keep, jnp.maximum(broad_share, BROAD_SHARE), 0)
    chosen = references.add_component(chosen, COMPONENTS - 1, wide.means[0], wide.whiteners[0], broad_share)
    return FittedReference(chosen, components, 1 - covered, share, evals)


def _covered(reference: Reference, points: jax.Array) -> jax.Array:
    """The share of points within `COVERAGE` standard deviations' worth of some component in use."""
    dim = points.shape[1]

    def nearest(x):
        distance = references.squared_distances(reference, x)
        return jnp.min(jnp.where(reference.log_weights > -jnp.inf, distance, jnp.inf))

    return jnp.mean(jax.vmap(nearest)(points) < dim + COVERAGE * jnp.sqrt(2.0 * dim))


def _overlooked(walkers, weights, starts, spread, evaluate):
    """The end of a descent with most unseen mass: mean, whitener, share of the mass, evaluations."""
    dim = starts.shape[1]
    scale = jnp.maximum(jnp.std(spread, 0), 1e-6 * (1 + jnp.abs(jnp.mean(spread, 0))))

    def scaled(y):
        value, score = evaluate(y * scale)
        return value, score * scale

    def begin(x):
        y = x / scale
        return start_descent(y, *scaled(y), min(_MEMORY, dim + 2))

    def going(carry):
        descent, steps = carry
        return ~descent.arrived & (steps < _MOST_STEPS)

    def move(carry):
        descent, steps = carry
        y = next_point(descent)
        return advance(descent, y, *scaled(y)), steps + 1

    def descend(x):
        descent, steps = jax.lax.while_loop(going, move, (begin(x), jnp.zeros((), int)))
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
        return descent.position * scale, factor, jnp.where(sound, log_mass, -jnp.inf), steps + 1 + dim

    means, factors, masses, evals = jax.vmap(descend)(starts)
    log_z = jax.nn.logsumexp(weights) - jnp.log(walkers.used * (weights.size // walkers.fractions.size))
    shares = jax.nn.sigmoid(masses - log_z)
    probability = jax.nn.softmax(weights)

    def seen(mean, factor):
        offset = (walkers.replicas.position - mean) / scale
        distance = jnp.sum((offset @ factor) ** 2, 1)
        return jnp.sum(jnp.where(distance < dim + 3 * jnp.sqrt(2.0 * dim), probability, 0))

    hidden = jax.vmap(seen)(means, factors) < _SEEN * shares
    hidden &= shares > _LEAST_SHARE
    best = jnp.argmax(jnp.where(hidden, shares, -1))
    # A lower triangular P with P'P = F F': the reversed Cholesky factor.
    precision = factors[best] @ factors[best].T
    precision = jnp.where(hidden[best], precision, jnp.eye(dim, dtype=precision.dtype))
    reverse = jnp.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1]
    whitener = reverse.T / scale
    share = jnp.where(hidden[best], jnp.minimum(shares[best], _MOST_SHARE), 0)
    return jnp.where(share > 0, means[best], 0), whitener, share, jnp.sum(evals)
