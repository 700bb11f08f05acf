r"""The betas of a ladder: equal steps of the communication barrier.

The rejection rates of neighbours add up, along any fine enough ladder, to the same barrier `Lambda = sum_k
r_k`. The flow of replicas is fastest if all pairs have the same rejection rate, and a round trip then takes
about `2 + 2 sum r / (1 - r)` iterations (Syed, Bouchard-Cote, Deligiannidis and Doucet 2022). About
`2 Lambda` rungs make the most round trips for an evaluation.
"""

import jax
import jax.numpy as jnp

from qdesampler.kernels.paths.path import TemperingPath, combine, work
from qdesampler.kernels.paths.replica import make_replica
from qdesampler.kernels.references.reference import Reference
from qdesampler.kernels.smc.persistent_sampling import Particles, log_weights, target_log_weights
from qdesampler.numerics.importance_weights import resample
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "HIGH_ACCEPTANCE",
    "log_normalisers_at",
    "num_rungs_for",
    "place_rungs",
    "predicted_rejections",
    "probe_betas",
    "reference_acceptance",
]

PROBES = 40  # betas at which rejection rates are predicted
_DRAWS = 128  # draws of each beta that predict a rejection rate
_FIRST_PROBE = 1e-4  # smallest beta above 0 of the geometric half of the probes
# Acceptance of draws of the reference at the target from which on two rungs suffice, trajectories need not
# run at every iteration, and a pilot may end the search (results/evidence.md: conjugate-normal-4 and "One
# mode").
HIGH_ACCEPTANCE = 0.7


def probe_betas(betas: jax.Array, num_stages: jax.Array) -> jax.Array:
    """Betas to measure a barrier at, shape `(PROBES,)`, dense where the particles went slowly."""
    stages = betas.size
    at = jnp.linspace(0, 1, PROBES) * (num_stages - 1)
    reached = jnp.arange(stages) < num_stages
    by_stage = jnp.interp(at, jnp.arange(stages), jnp.where(reached, betas, 1.0))
    geometric = jnp.concatenate([jnp.zeros(1), jnp.geomspace(_FIRST_PROBE, 1.0, PROBES - 1)])
    return jnp.sort(jnp.concatenate([by_stage[::2], geometric[1::2]])).at[0].set(0).at[-1].set(1)


def predicted_rejections(
    key: jax.Array, particles: Particles, path: TemperingPath, betas: jax.Array
) -> jax.Array:
    """Rejection rate of a swap between each two neighbours of `betas`, from reweighted particles.

    `particles` may have `log q` of another reference than the one they started from.
    """
    coefficients = jax.vmap(path.coefficients)(betas)
    features = particles.replicas.features

    def draws(key, rung):
        weights = log_weights(particles, jax.vmap(lambda phi: combine(rung, phi))(features))
        return resample(key, weights, _DRAWS)

    chosen = jax.vmap(draws)(jax.random.split(key, betas.size), coefficients)
    at = features[chosen]  # (betas, draws, features)

    def rejection(lower, upper, here, above):
        up = jax.vmap(lambda phi: work(lower, upper, phi))(here)
        down = jax.vmap(lambda phi: work(lower, upper, phi))(above)
        return 1 - jnp.mean(jnp.exp(jnp.minimum(up[:, None] - down[None, :], 0)))

    rates = jax.vmap(rejection)(coefficients[:-1], coefficients[1:], at[:-1], at[1:])
    return jnp.where(jnp.isnan(rates), 1, rates)


def reference_acceptance(
    key: jax.Array,
    particles: Particles,
    evaluate: ValueAndScore,
    reference: Reference,
    path: TemperingPath,
    draws: int,
) -> jax.Array:
    """How often fresh draws of the reference would replace the target's replica in a ladder of two rungs.

    One over the mean time between two replacements: the harmonic mean over the target of `E_q min(1, exp(W(y)
    - W(x)))`. Positions that hardly accept any draw (tails where `p/q` is large) therefore count for as long
    as replicas stay there. The particles represent the target and have `log q` of `reference`; `draws *
    path.slices` evaluations.
    """
    key_fresh, key_particles = jax.random.split(key)
    ends = jax.vmap(path.coefficients)(jnp.array([0.0, 1.0], particles.log_mixture.dtype))

    def fresh(key):
        return make_replica(path.draw(reference, key), evaluate, reference, path, ends[0]).features

    def across(phi):
        return work(ends[0], ends[1], phi)

    up = jax.vmap(across)(jax.vmap(fresh)(jax.random.split(key_fresh, draws)))
    chosen = resample(key_particles, target_log_weights(particles, path), 2 * _DRAWS)
    down = jax.vmap(across)(particles.replicas.features[chosen])
    ratio = jnp.minimum(up[:, None] - down[None, :], 0)
    accepted = jnp.mean(jnp.exp(jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)), axis=0)
    return 1 / jnp.mean(1 / jnp.maximum(accepted, 0.1 / draws))


def log_normalisers_at(particles: Particles, path: TemperingPath, betas: jax.Array) -> jax.Array:
    """`log Z_b / Z_0` at each of `betas`, from reweighted particles."""
    features = particles.replicas.features

    def log_z(beta):
        rung = path.coefficients(beta)
        return jax.nn.logsumexp(log_weights(particles, jax.vmap(lambda phi: combine(rung, phi))(features)))

    values = jax.vmap(log_z)(betas)
    return values - values[0]


def place_rungs(betas: jax.Array, rejections: jax.Array, rungs: int) -> jax.Array:
    """`rungs` betas between which all pairs have the same rejection rate.

    Inverts the piecewise linear interpolant of the cumulative rejections, shape `(betas - 1,)`; a small rate
    is added to each so that the interpolant increases strictly.
    """
    rates = jnp.where(jnp.isfinite(rejections), rejections, 1) + 1e-3
    barrier = jnp.concatenate([jnp.zeros(1, rates.dtype), jnp.cumsum(rates)])
    at = jnp.linspace(0, 1, rungs) * barrier[-1]
    return jnp.interp(at, barrier, betas).at[0].set(0).at[-1].set(1)


def num_rungs_for(barrier: float, max_rungs: int) -> int:
    """About `2 Lambda + 1` rungs, at least 3 and at most `max_rungs`."""
    return int(min(max(3, round(2 * barrier) + 2), max_rungs))
