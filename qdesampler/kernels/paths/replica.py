"""One replica of a ladder: its place on a rung, and the trajectory that moves it there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.mcmc.integrators import DYNAMICS, INTEGRATORS
from qdesampler.kernels.mcmc.local_step_size import SPREAD, log_scale, step_log_ratio
from qdesampler.kernels.mcmc.trajectory import (
    Scheme,
    after_evaluation,
    finish_path,
    next_position,
    start_path,
)
from qdesampler.kernels.paths.path import TemperingPath, combine
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.types import ValueAndScore

JITTER = 0.4  # relative spread of the step size, which breaks periodic orbits


_CANONICAL, _LEAPFROG = DYNAMICS["canonical"], INTEGRATORS["leapfrog"]


class Replica(NamedTuple):
    """A position of one rung with everything that any rung needs of it.

    Attributes:
        position: shape `(size,)`.
        log_density: of its rung, `sum_j c_j phi_j`.
        score: its gradient, shape `(size,)`.
        features: `phi`, shape `(features,)`: `log q`, `log p` (`-inf` where there is no density), ...
        feature_scores: their gradients, shape `(features, size)`.
    """

    position: jax.Array
    log_density: jax.Array
    score: jax.Array
    features: jax.Array
    feature_scores: jax.Array


def at_rung(replica: Replica, coefficients: jax.Array) -> Replica:
    """The same position on a rung with these coefficients."""
    weights = coefficients[:, None]
    score = jnp.sum(jnp.where(weights == 0, 0, weights * replica.feature_scores), axis=0)
    return replica._replace(log_density=combine(coefficients, replica.features), score=score)


def place(
    position: jax.Array,
    evaluate: ValueAndScore,
    reference: Reference,
    path: TemperingPath,
    coefficients: jax.Array,
) -> Replica:
    """ValueAndScore a position (`path.slices` evaluations) and put it on a rung."""
    features, scores = path.features(position, evaluate, reference)
    return at_rung(Replica(position, features[0], scores[0], features, scores), coefficients)


def explore(
    key: jax.Array,
    replica: Replica,
    evaluate: ValueAndScore,
    reference: Reference,
    path: TemperingPath,
    coefficients: jax.Array,
    metric: Metric,
    step_size: jax.Array,
    num_steps: jax.Array,
    local_scale: jax.Array,
    log_ratio: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] = step_log_ratio,
) -> tuple[Replica, Any]:
    """One trajectory of `num_steps` steps on the density of a rung, accepted or rejected as a whole.

    Where `local_scale` is 0 the step size is multiplied by a random factor on `[1 - JITTER, 1 + JITTER]`,
    whatever the position; else by one that follows the score there
    (`qdesampler.kernels.mcmc.local_step_size`). Exact for any metric, step size and number of steps that do
    not depend on the position.

    Returns:
        The replica and the trajectory's information; `num_steps * path.slices` evaluations were made.
    """
    key_velocity, key_step, key_accept, key_local = jax.random.split(key, 4)
    dtype = replica.position.dtype
    velocity = _CANONICAL.refresh(jax.random.normal(key_velocity, replica.position.shape, dtype))
    unit = jax.random.uniform(key_step, (), dtype)
    is_local = local_scale > 0
    here = log_scale(metric, replica.score)
    log_factor = here + SPREAD * jax.random.normal(key_local, (), dtype)
    factor = jnp.where(is_local, jnp.exp(log_factor), 1 - JITTER + 2 * JITTER * unit)
    scheme = Scheme(metric, step_size * factor, num_steps, _CANONICAL, _LEAPFROG)
    kinetic = _CANONICAL.kinetic(velocity)

    def step(i, orbit):
        point: Any = place(next_position(scheme, orbit, i), evaluate, reference, path, coefficients)
        return after_evaluation(scheme, orbit, i, point)

    state: Any = replica  # has the fields of a TrajectoryState, and more that travel with them
    orbit = jax.lax.fori_loop(0, num_steps, step, start_path(scheme, state, velocity))
    ratio = jnp.where(is_local, log_ratio(log_factor, log_scale(metric, orbit.here.score), here), 0)
    unit = jax.random.uniform(key_accept, (), dtype)
    kept: Any
    kept, info = finish_path(unit, state, orbit, kinetic, num_steps, num_steps, ratio)
    return kept, info
