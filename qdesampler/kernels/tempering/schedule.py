r"""Where the rungs stand: equal steps of the communication barrier.

The rejection rates of neighbours add up, along any fine enough ladder, to the same barrier `Lambda = sum_k
r_k`; the flow of replicas is fastest when each pair bears an equal share, and a round trip then takes about
`2 + 2 sum r / (1 - r)` iterations (Syed, Bouchard-Cote, Deligiannidis and Doucet 2022). About `2 Lambda`
rungs make the most round trips for an evaluation.
"""

import jax
import jax.numpy as jnp

from qdesampler.kernels.paths.path import TemperingPath, combine, work
from qdesampler.kernels.paths.replica import place
from qdesampler.kernels.references.reference import Reference
from qdesampler.kernels.smc.persistent_sampling import Walkers, log_weights, target_log_weights
from qdesampler.numerics.importance_weights import resample
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "direct_acceptance",
    "equal_shares",
    "log_normalisers_at",
    "predicted_rejections",
    "probe_fractions",
    "rungs_for",
]

PROBES = 40
_DRAWS = 128
_NEAREST = 1e-4  # fraction of the first probe


def probe_fractions(fractions: jax.Array, used: jax.Array) -> jax.Array:
    """Fractions to measure a barrier at, shape `(PROBES,)`, dense where the walkers went slowly."""
    stages = fractions.size
    at = jnp.linspace(0, 1, PROBES) * (used - 1)
    walked = jnp.interp(at, jnp.arange(stages), jnp.where(jnp.arange(stages) < used, fractions, 1.0))
    spread = jnp.concatenate([jnp.zeros(1), jnp.geomspace(_NEAREST, 1.0, PROBES - 1)])
    return jnp.sort(jnp.concatenate([walked[::2], spread[1::2]])).at[0].set(0).at[-1].set(1)


def predicted_rejections(
    key: jax.Array, walkers: Walkers, path: TemperingPath, fractions: jax.Array
) -> jax.Array:
    """Rejection rate of a swap between each two neighbours of `fractions`, from reweighted walkers.

    `walkers` may be seen from another reference than the one they were carried from.
    """
    coefficients = jax.vmap(path.coefficients)(fractions)
    features = walkers.replicas.features

    def draws(key, rung):
        weights = log_weights(walkers, jax.vmap(lambda phi: combine(rung, phi))(features))
        return resample(key, weights, _DRAWS)

    chosen = jax.vmap(draws)(jax.random.split(key, fractions.size), coefficients)
    at = features[chosen]  # (fractions, draws, features)

    def rejection(lower, upper, here, above):
        up = jax.vmap(lambda phi: work(lower, upper, phi))(here)
        down = jax.vmap(lambda phi: work(lower, upper, phi))(above)
        return 1 - jnp.mean(jnp.exp(jnp.minimum(up[:, None] - down[None, :], 0)))

    rates = jax.vmap(rejection)(coefficients[:-1], coefficients[1:], at[:-1], at[1:])
    return jnp.where(jnp.isnan(rates), 1, rates)


def direct_acceptance(
    key: jax.Array,
    walkers: Walkers,
    evaluate: ValueAndScore,
    reference: Reference,
    path: TemperingPath,
    draws: int,
) -> jax.Array:
    """How often fresh draws of the reference would replace the target's replica in a ladder of two rungs.

    One over the mean time between two: the harmonic mean over the target of `E_q min(1, exp(W(y) - W(x)))`,
    so that places which hardly accept any (tails where `p/q` is large) count for as long as replicas stay
    there. The walkers stand for the target, and are seen from `reference`; `draws * path.slices` evaluations.
    """
    key_fresh, key_walkers = jax.random.split(key)
    ends = jax.vmap(path.coefficients)(jnp.array([0.0, 1.0], walkers.log_mixture.dtype))

    def fresh(key):
        return place(path.draw(reference, key), evaluate, reference, path, ends[0]).features

    def across(phi):
        return work(ends[0], ends[1], phi)

    up = jax.vmap(across)(jax.vmap(fresh)(jax.random.split(key_fresh, draws)))
    chosen = resample(key_walkers, target_log_weights(walkers, path), 2 * _DRAWS)
    down = jax.vmap(across)(walkers.replicas.features[chosen])
    ratio = jnp.minimum(up[:, None] - down[None, :], 0)
    accepted = jnp.mean(jnp.exp(jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)), axis=0)
    return 1 / jnp.mean(1 / jnp.maximum(accepted, 0.1 / draws))


def log_normalisers_at(walkers: Walkers, path: TemperingPath, fractions: jax.Array) -> jax.Array:
    """`log Z_s / Z_0` at each of `fractions`, from reweighted walkers."""
    features = walkers.replicas.features

    def log_z(fraction):
        rung = path.coefficients(fraction)
        return jax.nn.logsumexp(log_weights(walkers, jax.vmap(lambda phi: combine(rung, phi))(features)))

    values = jax.vmap(log_z)(fractions)
    return values - values[0]


def equal_shares(fractions: jax.Array, rejections: jax.Array, rungs: int) -> jax.Array:
    """`rungs` fractions between which each pair bears an equal share of the barrier.

    Inverts the piecewise linear interpolant of the cumulative rejections; a little is added everywhere, so
    that it increases strictly.
    """
    rates = jnp.where(jnp.isfinite(rejections), rejections, 1) + 1e-3
    barrier = jnp.concatenate([jnp.zeros(1, rates.dtype), jnp.cumsum(rates)])
    at = jnp.linspace(0, 1, rungs) * barrier[-1]
    return jnp.interp(at, barrier, fractions).at[0].set(0).at[-1].set(1)


def rungs_for(barrier: float, most: int) -> int:
    """About `2 Lambda + 1` rungs, at least 3 and at most `most`."""
    return int(min(max(3, round(2 * barrier) + 2), most))
