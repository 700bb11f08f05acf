"""One replica of a ladder: its densities on a rung, and the trajectory that moves it there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.mcmc.integrators import DYNAMICS, INTEGRATORS
from qdesampler.kernels.mcmc.local_step_size import LOG_STEP_SD, log_scale, step_log_ratio
from qdesampler.kernels.mcmc.trajectory import (
    JITTER,
    Scheme,
    after_evaluation,
    finish_trajectory,
    next_position,
    start_trajectory,
)
from qdesampler.kernels.paths.path import TemperingPath, combine
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.types import ValueAndScore

__all__ = ["Replica", "Rung", "explore", "make_replica", "retarget"]

_CANONICAL, _LEAPFROG = DYNAMICS["canonical"], INTEGRATORS["leapfrog"]


class Replica(NamedTuple):
    """A position on one rung, with everything that any other rung needs to know of it.

    Attributes:
        position: shape `(size,)`.
        log_density: that of its rung, `sum_j c_j phi_j`.
        score: gradient of `log_density`, shape `(size,)`.
        features: `phi`, shape `(features,)`: `log q`, `log p` (`-inf` at zero density), ...
        feature_scores: gradients of the features, shape `(features, size)`.
    """

    position: jax.Array
    log_density: jax.Array
    score: jax.Array
    features: jax.Array
    feature_scores: jax.Array


class Rung(NamedTuple):
    """One rung and how trajectories move on it.

    Attributes:
        coefficients: `c(beta)` of the path, shape `(features,)`.
        metric: the coordinates that trajectories run in.
        step_size: a scalar, whitened units.
        local_scale: 0 for one step size everywhere; else the typical factor of the steps that follow the
            score (`qdesampler.kernels.paths.rung_metric.choose_metric`).
    """

    coefficients: jax.Array
    metric: Metric
    step_size: jax.Array
    local_scale: jax.Array


def retarget(replica: Replica, coefficients: jax.Array) -> Replica:
    """The same position on the rung that has these coefficients."""
    weights = coefficients[:, None]
    score = jnp.sum(jnp.where(weights == 0, 0, weights * replica.feature_scores), axis=0)
    return replica._replace(log_density=combine(coefficients, replica.features), score=score)


def make_replica(
    position: jax.Array,
    evaluate: ValueAndScore,
    reference: Reference,
    path: TemperingPath,
    coefficients: jax.Array,
) -> Replica:
    """Evaluate the features at a position and put it on a rung; `path.slices` evaluations."""
    features, scores = path.features(position, evaluate, reference)
    return retarget(Replica(position, features[0], scores[0], features, scores), coefficients)


def explore(
    key: jax.Array,
    replica: Replica,
    evaluate: ValueAndScore,
    reference: Reference,
    path: TemperingPath,
    rung: Rung,
    num_steps: jax.Array,
    log_ratio: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] = step_log_ratio,
) -> tuple[Replica, Any]:
    """One trajectory of `num_steps` steps on the density of a rung, accepted or rejected as a whole.

    If `rung.local_scale` is 0, the step size is multiplied by a random factor on `[1 - JITTER, 1 + JITTER]`
    that does not depend on the position; else by one that follows the score
    (`qdesampler.kernels.mcmc.local_step_size`), with the ratio of proposals in the acceptance. Exact for any
    metric, step size and number of steps that do not depend on the position.

    Args:
        key: JAX key.
        replica: on the rung.
        evaluate: `x -> (log p, grad log p)`.
        reference: density of the lowest rung.
        path: from the reference to the target.
        rung: where the replica is.
        num_steps: leapfrog steps of the trajectory.
        log_ratio: log ratio of the proposals of steps that follow the score.

    Returns:
        The replica and the trajectory's information; `num_steps * path.slices` evaluations were made.
    """
    key_velocity, key_step, key_accept, key_local = jax.random.split(key, 4)
    dtype = replica.position.dtype
    velocity = _CANONICAL.refresh(jax.random.normal(key_velocity, replica.position.shape, dtype))
    unit = jax.random.uniform(key_step, (), dtype)
    is_local = rung.local_scale > 0
    log_here = log_scale(rung.metric, replica.score)
    log_factor = log_here + LOG_STEP_SD * jax.random.normal(key_local, (), dtype)
    factor = jnp.where(is_local, jnp.exp(log_factor), 1 - JITTER + 2 * JITTER * unit)
    scheme = Scheme(rung.metric, rung.step_size * factor, num_steps, _CANONICAL, _LEAPFROG)
    kinetic = _CANONICAL.kinetic(velocity)

    def step(i, orbit):
        position = next_position(scheme, orbit, i)
        point: Any = make_replica(position, evaluate, reference, path, rung.coefficients)
        return after_evaluation(scheme, orbit, i, point)

    state: Any = replica  # has the fields of a TrajectoryState, and more that travel with them
    orbit = jax.lax.fori_loop(0, num_steps, step, start_trajectory(scheme, state, velocity))
    log_there = log_scale(rung.metric, orbit.here.score)
    ratio = jnp.where(is_local, log_ratio(log_factor, log_there, log_here), 0)
    unit = jax.random.uniform(key_accept, (), dtype)
    kept: Any
    kept, info = finish_trajectory(unit, state, orbit, kinetic, num_steps, num_steps, ratio)
    return kept, info
