r"""Components where walkers show that a reference is too thin: local ground states, one at a time.

A replica stays long where `p/q` is large, and there it cannot come back from the reference. So the walker of
largest `log p/q` gets a component of its own: the Gaussian that shares the score and the curvature of `log p`
there (its harmonic ground state),

    H = -grad grad log p(x),    m = x + H^-1 grad log p(x),

all weights are fitted anew (expectation-maximisation), and the search goes on with the new `q` (in the manner
of incremental mixture importance sampling, Raftery and Bao 2010, whose components are neighbours' scatter
instead). Where `H` is not positive its eigenvalues are replaced by their size, and none may be wider than a
few standard deviations of the walkers.
"""

import jax
import jax.numpy as jnp

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.types import ValueAndScore

__all__ = ["TAILS", "cover_tails"]

TAILS = 16  # components, at most
_THIN = 1.5  # nats of log p/q from where a walker is worth a component
_WIDEST = 3.0  # standard deviations of the walkers in any direction
_FARTHEST = 2.0  # standard deviations that a mean may lie from its walker, times the root of the dimension
_FIRST_SHARE, _SWEEPS = 0.02, 5  # of a new component, before so many sweeps over all weights


def cover_tails(
    reference: Reference,
    slot: int,
    draws: jax.Array,
    log_densities: jax.Array,
    log_z: jax.Array,
    evaluate: ValueAndScore,
) -> tuple[Reference, jax.Array]:
    """Fill `TAILS` components of `reference` from `slot` on, the worst covered draw first.

    Args:
        reference: with these components unused.
        slot: the first of them.
        draws: of the target, shape `(draws, dim)`.
        log_densities: `log p` there, unnormalised.
        log_z: log evidence.
        evaluate: `x -> (log p, grad log p)`.

    Returns:
        The reference, and evaluations spent: `1 + dim` a component.
    """
    dim = draws.shape[1]
    scale = jnp.std(draws, 0) + 1e-6 * (1 + jnp.abs(jnp.mean(draws, 0)))
    targets = jnp.where(jnp.isnan(log_densities), -jnp.inf, log_densities - log_z)

    def local_gaussian(x):
        def scaled_score(y):
            return evaluate(y * scale)[1] * scale

        score = scaled_score(x / scale)
        curvature = -jax.jacfwd(scaled_score)(x / scale)
        values, vectors = jnp.linalg.eigh(0.5 * (curvature + curvature.T))
        values = jnp.maximum(jnp.abs(values), 1 / _WIDEST**2)
        along = vectors.T @ score
        offset = along / values
        distance = jnp.sqrt(jnp.sum(offset * along))
        offset *= jnp.minimum(1, _FARTHEST * jnp.sqrt(dim) / jnp.maximum(distance, 1e-6))
        precision = (vectors * values) @ vectors.T
        return x + scale * (vectors @ offset), references.lower_whitener(precision) / scale

    def going(carry):
        _, _, _, used, thinness = carry
        return (used < TAILS) & (jnp.max(thinness) > _THIN)

    def add(carry):
        reference, table, tried, used, thinness = carry
        worst, at = jnp.argmax(thinness), slot + used
        mean, whitener = local_gaussian(draws[worst])
        wider = references.add_component(reference, at, mean, whitener, jnp.asarray(_FIRST_SHARE))
        column = jax.vmap(lambda x: references.gaussian_log_densities(wider, x)[at])(draws)
        new = table.at[:, at].set(column)
        sound = jnp.all(jnp.isfinite(column))
        reference = jax.tree.map(lambda a, b: jnp.where(sound, a, b), wider, reference)
        table = jnp.where(sound, new, table)
        weights = weighed(references.log_weights_of(reference), table)
        # A walker is tried once, so that the search ends whatever its component does.
        tried = tried.at[worst].set(True)
        return (
            references.with_log_weights(reference, weights),
            table,
            tried,
            used + 1,
            jnp.where(tried, -jnp.inf, targets - mixed(weights, table)),
        )

    def mixed(weights, table):
        return jax.nn.logsumexp(weights + table, axis=1)

    def weighed(weights, table):
        def sweep(_, weights):
            shares = jax.nn.log_softmax(weights + table, axis=1)
            return jax.nn.logsumexp(shares, axis=0) - jnp.log(draws.shape[0])

        return jax.lax.fori_loop(0, _SWEEPS, sweep, weights)

    table = jax.vmap(lambda x: references.log_densities(reference, x))(draws)
    tried = jnp.zeros((draws.shape[0],), bool)
    thinness = targets - mixed(references.log_weights_of(reference), table)
    begun = (reference, table, tried, jnp.zeros((), int), thinness)
    reference, _, _, used, _ = jax.lax.while_loop(going, add, begun)
    return reference, used * (1 + dim)
