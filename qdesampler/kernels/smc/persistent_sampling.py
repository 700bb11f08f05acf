r"""Persistent walkers: a population carried along a path with bounded weights, which fills the modes.

From exact draws of the reference the population is reweighted, resampled and moved from one fraction of the
path to the next. No stage is thrown away: all walkers so far are one sample from the mixture of the stages,
and carry at fraction `s` the weight

    w_s(x) = pi_s(x) / sum_r (n_r / n) pi_r(x) / Z_r,        Z_s = mean of w_s,

which the current stage in the mixture keeps bounded (Karamanis and Seljak 2024, "Persistent sampling"). The
next fraction is the farthest whose effective sample size is still `least_ess` of one population. What is
stored serves any fraction afterwards, and any path with the same target: draws, metric, barrier, evidence.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.paths.path import TemperingPath, combine
from qdesampler.kernels.paths.replica import Replica, at_rung, explore, place
from qdesampler.kernels.paths.rung_metric import choose_metric, steps_for
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.importance_weights import resample
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "Walkers",
    "WalkerSettings",
    "log_weights",
    "run_walkers",
    "target_log_weights",
]

_BISECTIONS = 30


class WalkerSettings(NamedTuple):
    """How walkers are carried; all static.

    Attributes:
        walkers: in one population.
        moves: trajectories of each walker at each stage.
        stages: most stages; the run is unfinished if they do not suffice.
        least_ess: effective sample size that the next fraction keeps, as a share of `walkers`.
        max_steps: most steps of a trajectory.
        target_accept_prob: what the step size aims at.
    """

    walkers: int = 256
    moves: int = 2
    stages: int = 64
    least_ess: float = 0.8
    max_steps: int = 16
    target_accept_prob: float = 0.8


class Walkers(NamedTuple):
    """A finished run: `stages * walkers` points, those of stages that were not reached without weight.

    Attributes:
        replicas: every walker of every stage, leading axis `stages * walkers`.
        fractions: of each stage, shape `(stages,)`.
        log_normalisers: `log Z` of each stage.
        used: how many stages there are.
        log_mixture: log of the mixture density that the weights divide by, at each point.
        step_size: last step size, whitened units.
        num_evals: evaluations spent.
        accept_prob: mean acceptance of the last stage.
    """

    replicas: Replica
    fractions: jax.Array
    log_normalisers: jax.Array
    used: jax.Array
    log_mixture: jax.Array
    step_size: jax.Array
    num_evals: jax.Array
    accept_prob: jax.Array

    @property
    def finished(self) -> jax.Array:
        """Whether the target was reached."""
        return self.fractions[self.used - 1] >= 1


def _stage_densities(features, coefficients, log_normalisers, used):
    """`log pi_r(x) - log Z_r` of every position under every stage, `-inf` for stages not reached."""
    reached = jnp.arange(log_normalisers.size) < used

    def stage(rung, log_z, is_reached):
        value = jax.vmap(lambda phi: combine(rung, phi))(features) - log_z
        return jnp.where(is_reached, value, -jnp.inf)

    return jax.vmap(stage)(coefficients, log_normalisers, reached)


def _log_mixture(features, path, fractions, log_normalisers, used) -> jax.Array:
    coefficients = jax.vmap(path.coefficients)(fractions)
    densities = _stage_densities(features, coefficients, log_normalisers, used)
    return jax.nn.logsumexp(densities, axis=0) - jnp.log(used)


def log_weights(walkers: Walkers, log_density: jax.Array) -> jax.Array:
    """Log weights of all stored points for an unnormalised density given at them, shape `(points,)`.

    Their log mean, over the points in use, is the density's log normaliser.
    """
    points = walkers.log_mixture.size
    per_stage = points // walkers.fractions.size
    in_use = jnp.arange(points) < walkers.used * per_stage
    weights = jnp.where(in_use, log_density - walkers.log_mixture, -jnp.inf)
    return jnp.where(jnp.isnan(weights), -jnp.inf, weights)


def target_log_weights(walkers: Walkers, path: TemperingPath) -> jax.Array:
    """Log weights of all stored positions for the end of the path."""
    end = path.coefficients(jnp.ones((), walkers.log_mixture.dtype))
    return log_weights(walkers, jax.vmap(lambda phi: combine(end, phi))(walkers.replicas.features))


def _mean_in_use(weights: jax.Array, in_use: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(weights) - jnp.log(in_use)


def run_walkers(
    key: jax.Array,
    evaluate: ValueAndScore,
    reference: Reference,
    path: TemperingPath,
    settings: WalkerSettings,
) -> Walkers:
    """Carry one population from the reference to the target.

    Args:
        key: JAX key.
        evaluate: `x -> (log p, grad log p)`.
        reference: where the population starts.
        path: from there to the target.
        settings: sizes.
    """
    n, stages = settings.walkers, settings.stages
    dtype = jnp.result_type(float)
    key_draw, key_run = jax.random.split(key)
    beginning = path.coefficients(jnp.zeros((), dtype))

    def start(key):
        return place(path.draw(reference, key), evaluate, reference, path, beginning)

    first = jax.vmap(start)(jax.random.split(key_draw, n))

    def room(leaf):
        return jnp.zeros((stages, *leaf.shape), leaf.dtype).at[0].set(leaf)

    def flat(stored):
        return jax.tree.map(lambda leaf: leaf.reshape(stages * n, *leaf.shape[2:]), stored)

    def going(carry):
        fractions, used = carry[2], carry[4]
        return (fractions[used - 1] < 1) & (used < stages)

    def stage(carry):
        key, stored, fractions, log_z, used, step_size, evals, _ = carry
        key, key_resample, key_moves = jax.random.split(key, 3)
        points = flat(stored)
        log_mixture = _log_mixture(points.features, path, fractions, log_z, used)
        in_use = jnp.arange(stages * n) < used * n

        def weigh(s):
            rung = path.coefficients(s)
            log_pi = jax.vmap(lambda phi: combine(rung, phi))(points.features)
            weights = jnp.where(in_use, log_pi - log_mixture, -jnp.inf)
            return jnp.where(jnp.isnan(weights), -jnp.inf, weights)

        def enough(s):
            weights = weigh(s)
            ess = jnp.exp(2 * jax.nn.logsumexp(weights) - jax.nn.logsumexp(2 * weights))
            return ess >= settings.least_ess * n

        def halve(_, bounds):
            low, high = bounds
            middle = 0.5 * (low + high)
            good = enough(middle)
            return jnp.where(good, middle, low), jnp.where(good, high, middle)

        now = fractions[used - 1]
        one = jnp.ones((), dtype)
        low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (now, one))
        # Never stand still: where no step keeps the size, take the least one that can be told from none.
        fraction = jnp.where(enough(one), one, jnp.where(low > now, low, high))
        weights = weigh(fraction)
        log_normaliser = _mean_in_use(weights, used * n)
        chosen = resample(key_resample, weights, n)
        rung = path.coefficients(fraction)
        population = jax.vmap(lambda replica: at_rung(replica, rung))(
            jax.tree.map(lambda leaf: leaf[chosen], points)
        )
        metric, local_scale = choose_metric(population)

        def move(i, carry):
            population, step_size, evals, _ = carry
            steps = steps_for(step_size, local_scale, settings.max_steps)
            keys = jax.random.split(jax.random.fold_in(key_moves, i), n)
            population, info = jax.vmap(
                lambda key, replica: explore(
                    key, replica, evaluate, reference, path, rung, metric, step_size, steps, local_scale
                )
            )(keys, population)
            rate = jnp.mean(info.accept_prob)
            # One step of stochastic approximation on the logarithm, bold enough to halve in one move.
            step_size = step_size * jnp.exp(rate - settings.target_accept_prob)
            return population, jnp.clip(step_size, 1e-6, 2.0), evals + n * steps * path.slices, rate

        population, step_size, evals, rate = jax.lax.fori_loop(
            0, settings.moves, move, (population, step_size, evals, jnp.zeros((), dtype))
        )
        stored = jax.tree.map(lambda all_, new: all_.at[used].set(new), stored, population)
        fractions = fractions.at[used].set(fraction)
        return key, stored, fractions, log_z.at[used].set(log_normaliser), used + 1, step_size, evals, rate

    begun = (
        key_run,
        jax.tree.map(room, first),
        jnp.zeros((stages,), dtype),
        jnp.zeros((stages,), dtype),
        jnp.ones((), int),
        jnp.asarray(min(1.0, 1.2 * first.position.shape[1] ** -0.25), dtype),
        jnp.asarray(n * path.slices, int),
        jnp.zeros((), dtype),
    )
    _, stored, fractions, log_z, used, step_size, evals, rate = jax.lax.while_loop(going, stage, begun)
    points = flat(stored)
    log_mixture = _log_mixture(points.features, path, fractions, log_z, used)
    return Walkers(points, fractions, log_z, used, log_mixture, step_size, evals, rate)
