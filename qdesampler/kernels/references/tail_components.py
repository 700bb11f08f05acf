r"""Components where particles show that a reference is too low: local ground states, one at a time.

A replica stays long where `p/q` is large, because draws of the reference seldom come there. So the particle
of largest `log p/q` gets a component of its own: the Gaussian that shares the score and the curvature of `log
p` there (its harmonic ground state),

    H = -grad grad log p(x),    m = x + H^-1 grad log p(x).

Then all weights are fitted anew (expectation-maximisation), and the search goes on with the new `q`. This is
incremental mixture importance sampling (Raftery and Bao 2010), except that their components have the scatter
of neighbouring draws. Eigenvalues of `H` that are not positive are replaced by their absolute value, and none
may be wider than a few standard deviations of the particles.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.metric import smallest_scale
from qdesampler.numerics.second_derivatives import score_jacobian
from qdesampler.numerics.types import ValueAndScore

__all__ = ["MAX_TAIL_COMPONENTS", "cover_tails"]

MAX_TAIL_COMPONENTS = 16  # components that one fit may add (results/evidence.md: spike-and-slab-8)
_LEAST_LOG_RATIO = 1.5  # nats of log p/q above which a particle gets a component
_WIDEST = 3.0  # standard deviations of the particles that a component may have in any direction
_FARTHEST = 2.0  # standard deviations from particle to mean, at most, times the root of the dimension
_FIRST_WEIGHT, _SWEEPS = 0.02, 5  # weight of a new component, sweeps over all weights that follow


class _Carry(NamedTuple):
    """State of the search.

    Attributes:
        reference: so far.
        densities: log density of every draw under every part, shape `(draws, parts)`.
        tried: draws that got a component, shape `(draws,)`.
        used: number of components added.
        log_ratios: `log p/q` of every draw, `-inf` for those tried, shape `(draws,)`.
        num_evals: evaluations spent.
    """

    reference: Reference
    densities: jax.Array
    tried: jax.Array
    used: jax.Array
    log_ratios: jax.Array
    num_evals: jax.Array


def cover_tails(
    reference: Reference,
    slot: int,
    draws: jax.Array,
    log_densities: jax.Array,
    log_z: jax.Array,
    evaluate: ValueAndScore,
) -> tuple[Reference, jax.Array]:
    """Fill up to `MAX_TAIL_COMPONENTS` slots of `reference`, the draw of largest `log p/q` first.

    Args:
        reference: with these slots unused.
        slot: the first of them.
        draws: draws of the target, shape `(draws, dim)`.
        log_densities: `log p` there, unnormalised.
        log_z: log evidence.
        evaluate: `x -> (log p, grad log p)`.

    Returns:
        The reference, and evaluations spent: `1 + dim` a component (more where curvature takes differences).
    """
    scale = jnp.std(draws, 0) + smallest_scale(jnp.mean(draws, 0))
    targets = jnp.where(jnp.isnan(log_densities), -jnp.inf, log_densities - log_z)

    def cond(carry):
        return (carry.used < MAX_TAIL_COMPONENTS) & (jnp.max(carry.log_ratios) > _LEAST_LOG_RATIO)

    def add(carry):
        worst, at = jnp.argmax(carry.log_ratios), slot + carry.used
        mean, whitener, spent = _local_gaussian(draws[worst], evaluate, scale)
        wider = references.add_component(carry.reference, at, mean, whitener, jnp.asarray(_FIRST_WEIGHT))
        column = jax.vmap(lambda x: references.gaussian_log_densities(wider, x)[at])(draws)
        new = carry.densities.at[:, at].set(column)
        sound = jnp.all(jnp.isfinite(column))
        reference = jax.tree.map(lambda a, b: jnp.where(sound, a, b), wider, carry.reference)
        densities = jnp.where(sound, new, carry.densities)
        weights = _fit_weights(references.log_weights_of(reference), densities)
        # Each draw gets at most one component, so that the search ends whatever a component does.
        tried = carry.tried.at[worst].set(True)
        return _Carry(
            references.with_log_weights(reference, weights),
            densities,
            tried,
            carry.used + 1,
            jnp.where(tried, -jnp.inf, targets - _log_mixture(weights, densities)),
            carry.num_evals + spent,
        )

    densities = jax.vmap(lambda x: references.log_densities(reference, x))(draws)
    tried = jnp.zeros((draws.shape[0],), bool)
    log_ratios = targets - _log_mixture(references.log_weights_of(reference), densities)
    init = _Carry(reference, densities, tried, jnp.zeros((), int), log_ratios, jnp.zeros((), int))
    result = jax.lax.while_loop(cond, add, init)
    return result.reference, result.num_evals


def _local_gaussian(
    x: jax.Array, evaluate: ValueAndScore, scale: jax.Array
) -> tuple[jax.Array, jax.Array, int]:
    """Mean and whitener of the Gaussian that has the score and curvature of `log p` at `x`; evaluations."""

    def scaled_score(y):
        return evaluate(y * scale)[1] * scale

    score = scaled_score(x / scale)
    slope, spent = score_jacobian(scaled_score, x / scale)
    values, vectors = jnp.linalg.eigh(-slope)
    values = jnp.maximum(jnp.abs(values), 1 / _WIDEST**2)
    along = vectors.T @ score
    offset = along / values
    distance = jnp.sqrt(jnp.sum(offset * along))
    offset *= jnp.minimum(1, _FARTHEST * jnp.sqrt(x.size) / jnp.maximum(distance, 1e-6))
    precision = (vectors * values) @ vectors.T
    return x + scale * (vectors @ offset), references.lower_whitener(precision) / scale, 1 + spent


def _log_mixture(log_weights: jax.Array, densities: jax.Array) -> jax.Array:
    """`log q` of every draw, shape `(draws,)`."""
    return jax.nn.logsumexp(log_weights + densities, axis=1)


def _fit_weights(log_weights: jax.Array, densities: jax.Array) -> jax.Array:
    """Log weights after `_SWEEPS` iterations of expectation-maximisation, the parts kept as they are."""

    def sweep(_, log_weights):
        memberships = jax.nn.log_softmax(log_weights + densities, axis=1)
        return jax.nn.logsumexp(memberships, axis=0) - jnp.log(densities.shape[0])

    return jax.lax.fori_loop(0, _SWEEPS, sweep, log_weights)
