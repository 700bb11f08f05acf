r"""Persistent sampling: particles carried along a path with bounded weights, so that they fill the modes.

From exact draws of the reference the particles are reweighted, resampled and moved from one stage to the
next. No stage is thrown away. All particles so far are one sample from the mixture of the stages, and for the
density at `beta` they carry the weight

    w_b(x) = pi_b(x) / sum_r (1 / t) pi_r(x) / Z_r,        Z_b = mean of w_b,

over the `t` stages so far, which the latest stage in the mixture keeps bounded (Karamanis and Seljak 2025,
"Persistent sampling: enhancing the efficiency of sequential Monte Carlo", Statistics and Computing 35,
equations 14 to 17). The next `beta` is the largest at which the effective sample size is still `least_ess` of
one population. The stored particles serve for any other `beta`, and for any other path with the same target:
draws, metric, barrier, evidence.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.mcmc.trajectory import gaussian_step_size
from qdesampler.kernels.paths.path import TemperingPath, combine
from qdesampler.kernels.paths.replica import Replica, Rung, explore, make_replica, retarget
from qdesampler.kernels.paths.rung_metric import choose_metric, num_steps_for
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.importance_weights import resample
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "ParticleSettings",
    "Particles",
    "log_evidence",
    "log_mean_weight",
    "log_weights",
    "run_persistent_sampling",
    "target_log_weights",
]

_BISECTIONS = 30  # halvings of the interval that holds the next beta


class ParticleSettings(NamedTuple):
    """Sizes of a run; all static.

    Attributes:
        num_particles: particles of one population.
        moves: trajectories of each particle at each stage.
        stages: stages that a run may have; it stays unfinished if they do not suffice.
        least_ess: effective sample size of the next stage over `num_particles`.
        max_steps: leapfrog steps that a trajectory may have.
        target_accept_prob: acceptance probability that the step size aims at.
    """

    num_particles: int = 256
    moves: int = 2
    stages: int = 64
    least_ess: float = 0.8
    max_steps: int = 16
    target_accept_prob: float = 0.8


class Particles(NamedTuple):
    """A finished run: `stages * num_particles` points; those of stages that were not reached have no weight.

    Attributes:
        replicas: every particle of every stage, leading axis `stages * num_particles`.
        betas: position on the path of each stage, shape `(stages,)`.
        log_normalisers: `log Z` of each stage, shape `(stages,)`.
        num_stages: how many stages were reached.
        log_mixture: log density of the mixture of stages at each point: the denominator of the weights.
        step_size: the last one, whitened units.
        num_evals: evaluations spent.
        accept_prob: mean acceptance probability of the last stage.
    """

    replicas: Replica
    betas: jax.Array
    log_normalisers: jax.Array
    num_stages: jax.Array
    log_mixture: jax.Array
    step_size: jax.Array
    num_evals: jax.Array
    accept_prob: jax.Array

    @property
    def finished(self) -> jax.Array:
        """Whether the target was reached."""
        return self.betas[self.num_stages - 1] >= 1


class _Carry(NamedTuple):
    """State between two stages: see `Particles`; `stored` has the axes `(stages, num_particles)`."""

    key: jax.Array
    stored: Replica
    betas: jax.Array
    log_normalisers: jax.Array
    num_stages: jax.Array
    step_size: jax.Array
    num_evals: jax.Array
    accept_prob: jax.Array


class _Moved(NamedTuple):
    """State between two moves of one stage."""

    population: Replica
    step_size: jax.Array
    num_evals: jax.Array
    accept_prob: jax.Array


def _stage_densities(features, coefficients, log_normalisers, num_stages):
    """`log pi_r(x) - log Z_r` of every position under every stage, `-inf` for stages not reached."""
    reached = jnp.arange(log_normalisers.size) < num_stages

    def stage(rung, log_z, is_reached):
        value = jax.vmap(lambda phi: combine(rung, phi))(features) - log_z
        return jnp.where(is_reached, value, -jnp.inf)

    return jax.vmap(stage)(coefficients, log_normalisers, reached)


def _log_mixture(features, path, betas, log_normalisers, num_stages) -> jax.Array:
    """Log of the mixture of stages at every position: the denominator of equation 15."""
    coefficients = jax.vmap(path.coefficients)(betas)
    densities = _stage_densities(features, coefficients, log_normalisers, num_stages)
    return jax.nn.logsumexp(densities, axis=0) - jnp.log(num_stages)


def log_weights(particles: Particles, log_density: jax.Array) -> jax.Array:
    """Log weights (equation 15) of all points for an unnormalised density given there, shape `(points,)`.

    Their log mean over the points of the stages reached is the density's log normaliser.
    """
    points = particles.log_mixture.size
    per_stage = points // particles.betas.size
    in_use = jnp.arange(points) < particles.num_stages * per_stage
    weights = jnp.where(in_use, log_density - particles.log_mixture, -jnp.inf)
    return jnp.where(jnp.isnan(weights), -jnp.inf, weights)


def target_log_weights(particles: Particles, path: TemperingPath) -> jax.Array:
    """Log weights of all points for the end of the path."""
    end = path.coefficients(jnp.ones((), particles.log_mixture.dtype))
    return log_weights(particles, jax.vmap(lambda phi: combine(end, phi))(particles.replicas.features))


def log_mean_weight(log_weights: jax.Array, count: jax.Array | int) -> jax.Array:
    """`log Z` (equation 16): log mean of the weights of `count` points."""
    return jax.nn.logsumexp(log_weights) - jnp.log(count)


def log_evidence(particles: Particles, path: TemperingPath) -> jax.Array:
    """`log Z` of the target by one population, a scalar."""
    per_stage = particles.log_mixture.size // particles.betas.size
    return log_mean_weight(target_log_weights(particles, path), particles.num_stages * per_stage)


def run_persistent_sampling(
    key: jax.Array,
    evaluate: ValueAndScore,
    reference: Reference,
    path: TemperingPath,
    settings: ParticleSettings,
) -> Particles:
    """Carry one population from the reference to the target.

    Args:
        key: JAX key.
        evaluate: `x -> (log p, grad log p)`.
        reference: where the population starts.
        path: from there to the target.
        settings: sizes.
    """
    n, stages = settings.num_particles, settings.stages
    dtype = jnp.result_type(float)
    key_draw, key_run = jax.random.split(key)
    lowest = path.coefficients(jnp.zeros((), dtype))

    def draw(key):
        return make_replica(path.draw(reference, key), evaluate, reference, path, lowest)

    first = jax.vmap(draw)(jax.random.split(key_draw, n))

    def with_stages(leaf):
        return jnp.zeros((stages, *leaf.shape), leaf.dtype).at[0].set(leaf)

    def cond(carry):
        return (carry.betas[carry.num_stages - 1] < 1) & (carry.num_stages < stages)

    init = _Carry(
        key=key_run,
        stored=jax.tree.map(with_stages, first),
        betas=jnp.zeros((stages,), dtype),
        log_normalisers=jnp.zeros((stages,), dtype),
        num_stages=jnp.ones((), int),
        step_size=jnp.asarray(min(1.0, gaussian_step_size(first.position.shape[1])), dtype),
        num_evals=jnp.asarray(n * path.slices, int),
        accept_prob=jnp.zeros((), dtype),
    )
    result = jax.lax.while_loop(
        cond, lambda carry: _next_stage(carry, evaluate, reference, path, settings), init
    )
    points = _flat(result.stored)
    log_mixture = _log_mixture(points.features, path, result.betas, result.log_normalisers, result.num_stages)
    return Particles(
        points,
        result.betas,
        result.log_normalisers,
        result.num_stages,
        log_mixture,
        result.step_size,
        result.num_evals,
        result.accept_prob,
    )


def _flat(stored: Replica) -> Replica:
    """All particles on one axis, stage after stage."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), stored)


def _next_stage(
    carry: _Carry,
    evaluate: ValueAndScore,
    reference: Reference,
    path: TemperingPath,
    settings: ParticleSettings,
) -> _Carry:
    """Choose the next `beta`, resample one population for it and move that."""
    n, num_stages = settings.num_particles, carry.num_stages
    key, key_resample, key_moves = jax.random.split(carry.key, 3)
    points = _flat(carry.stored)
    beta, weights = _next_beta(carry, points, path, settings)
    log_normaliser = log_mean_weight(weights, num_stages * n)
    chosen = resample(key_resample, weights, n)
    coefficients = path.coefficients(beta)
    population = jax.vmap(lambda replica: retarget(replica, coefficients))(
        jax.tree.map(lambda leaf: leaf[chosen], points)
    )
    metric, local_scale = choose_metric(population)

    def move(i, moved):
        steps = num_steps_for(moved.step_size, local_scale, settings.max_steps)
        keys = jax.random.split(jax.random.fold_in(key_moves, i), n)
        rung = Rung(coefficients, metric, moved.step_size, local_scale)
        population, info = jax.vmap(
            lambda key, replica: explore(key, replica, evaluate, reference, path, rung, steps)
        )(keys, moved.population)
        rate = jnp.mean(info.accept_prob)
        # Stochastic approximation on the logarithm, large enough to halve the step size in one move.
        step_size = moved.step_size * jnp.exp(rate - settings.target_accept_prob)
        num_evals = moved.num_evals + n * steps * path.slices
        return _Moved(population, jnp.clip(step_size, 1e-6, 2.0), num_evals, rate)

    init = _Moved(population, carry.step_size, carry.num_evals, jnp.zeros((), carry.betas.dtype))
    moved = jax.lax.fori_loop(0, settings.moves, move, init)
    return _Carry(
        key=key,
        stored=jax.tree.map(lambda all_, new: all_.at[num_stages].set(new), carry.stored, moved.population),
        betas=carry.betas.at[num_stages].set(beta),
        log_normalisers=carry.log_normalisers.at[num_stages].set(log_normaliser),
        num_stages=num_stages + 1,
        step_size=moved.step_size,
        num_evals=moved.num_evals,
        accept_prob=moved.accept_prob,
    )


def _next_beta(
    carry: _Carry, points: Replica, path: TemperingPath, settings: ParticleSettings
) -> tuple[jax.Array, jax.Array]:
    """The largest `beta` whose effective sample size (equation 17) suffices, and the log weights there."""
    n, num_stages = settings.num_particles, carry.num_stages
    log_mixture = _log_mixture(points.features, path, carry.betas, carry.log_normalisers, num_stages)
    in_use = jnp.arange(settings.stages * n) < num_stages * n

    def weigh(beta):
        rung = path.coefficients(beta)
        log_pi = jax.vmap(lambda phi: combine(rung, phi))(points.features)
        weights = jnp.where(in_use, log_pi - log_mixture, -jnp.inf)
        return jnp.where(jnp.isnan(weights), -jnp.inf, weights)

    def suffices(beta):
        weights = weigh(beta)
        ess = jnp.exp(2 * jax.nn.logsumexp(weights) - jax.nn.logsumexp(2 * weights))
        return ess >= settings.least_ess * n

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        good = suffices(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    now = carry.betas[num_stages - 1]
    one = jnp.ones((), carry.betas.dtype)
    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (now, one))
    # If no step has that effective sample size, take the smallest one that the bisection resolves.
    beta = jnp.where(suffices(one), one, jnp.where(low > now, low, high))
    return beta, weigh(beta)
