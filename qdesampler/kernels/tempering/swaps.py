r"""Non-reversible tempering: one iteration of a ladder of replicas.

Every rung moves its replica (the lowest draws afresh from the reference, the others make a trajectory), then
neighbours swap: the even pairs in one iteration, the odd ones in the next (Okabe et al. 2001), with

    min(1, exp(W(x_k) - W(x_k+1))),      W the work between the two rungs,

which leaves the product of all rungs invariant. Alternating deterministically makes the flow of replicas
ballistic where a random choice makes it diffuse (Syed, Bouchard-Cote, Deligiannidis and Doucet 2022).
"""

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
from qdesampler.kernels.paths.path import Evaluate, TemperingPath, combine, work
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.metric import Metric

__all__ = ["Replica", "SwapInfo", "at_rung", "explore", "place", "swap", "swap_log_ratio", "sweep"]

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


class SwapInfo(NamedTuple):
    """What the swaps of one iteration saw; `rungs - 1` pairs.

    Attributes:
        accept_prob: of every pair, tried in this iteration or not.
        swapped: pairs that did swap.
        work_up: `W` of each pair at the replica of its lower rung.
        work_down: `W` at the replica of its upper rung.
    """

    accept_prob: jax.Array
    swapped: jax.Array
    work_up: jax.Array
    work_down: jax.Array


def at_rung(replica: Replica, coefficients: jax.Array) -> Replica:
    """The same position on a rung with these coefficients."""
    weights = coefficients[:, None]
    score = jnp.sum(jnp.where(weights == 0, 0, weights * replica.feature_scores), axis=0)
    return replica._replace(log_density=combine(coefficients, replica.features), score=score)


def place(
    position: jax.Array,
    evaluate: Evaluate,
    reference: Reference,
    path: TemperingPath,
    coefficients: jax.Array,
) -> Replica:
    """Evaluate a position (`path.slices` evaluations) and put it on a rung."""
    features, scores = path.features(position, evaluate, reference)
    return at_rung(Replica(position, features[0], scores[0], features, scores), coefficients)


def explore(
    key: jax.Array,
    replica: Replica,
    evaluate: Evaluate,
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
    whatever the position; else by one that follows the score there (`qdesampler.kernels.mcmc.local_step_size`).
    Exact for any metric, step size and number of steps that do not depend on the position.

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


def swap_log_ratio(work_up: jax.Array, work_down: jax.Array) -> jax.Array:
    """`log` of the ratio of joint densities after and before a swap: `W(x_k) - W(x_k+1)`; -inf for NaN."""
    ratio = work_up - work_down
    return jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)


def swap(
    key: jax.Array,
    replicas: Replica,
    coefficients: jax.Array,
    parity: jax.Array,
    log_ratio: Callable[[jax.Array, jax.Array], jax.Array] = swap_log_ratio,
) -> tuple[Replica, jax.Array, SwapInfo]:
    """Swap the neighbours `(k, k+1)` with `k % 2 == parity`.

    Args:
        key: JAX key.
        replicas: one a rung, leading axis `rungs`.
        coefficients: of every rung, shape `(rungs, features)`.
        parity: 0 for even pairs, 1 for odd ones.
        log_ratio: of the swap's acceptance.

    Returns:
        The replicas, the rung where each came from, and what was seen.
    """
    rungs = coefficients.shape[0]
    lower, upper = coefficients[:-1], coefficients[1:]
    work_up = jax.vmap(work)(lower, upper, replicas.features[:-1])
    work_down = jax.vmap(work)(lower, upper, replicas.features[1:])
    accept_prob = jnp.exp(jnp.minimum(log_ratio(work_up, work_down), 0))
    pairs = jnp.arange(rungs - 1)
    tried = pairs % 2 == parity
    swapped = tried & (jax.random.uniform(key, (rungs - 1,), accept_prob.dtype) < accept_prob)
    source = jnp.arange(rungs)
    source = source.at[:-1].add(swapped.astype(int)).at[1:].add(-swapped.astype(int))
    replicas = jax.tree.map(lambda leaf: leaf[source], replicas)
    return (
        jax.vmap(at_rung)(replicas, coefficients),
        source,
        SwapInfo(accept_prob, swapped, work_up, work_down),
    )


def sweep(
    key: jax.Array,
    replicas: Replica,
    evaluate: Evaluate,
    reference: Reference,
    path: TemperingPath,
    fractions: jax.Array,
    metrics: Metric,
    step_sizes: jax.Array,
    num_steps: jax.Array,
    local_scales: jax.Array,
    parity: jax.Array,
    log_ratio: Callable[[jax.Array, jax.Array], jax.Array] = swap_log_ratio,
) -> tuple[Replica, jax.Array, SwapInfo, Any]:
    """One iteration of the ladder: explore on every rung, then swap.

    Args:
        key: JAX key.
        replicas: leading axis `rungs`, the reference first and the target last.
        evaluate: `x -> (log p, grad log p)`.
        reference: the density of the lowest rung.
        path: from the reference to the target.
        fractions: of the path, shape `(rungs,)`, from 0 to 1.
        metrics: one a rung.
        step_sizes: one a rung, whitened units.
        num_steps: of every trajectory.
        local_scales: see `explore`, one a rung.
        parity: of the pairs that swap.
        log_ratio: of the swap's acceptance.

    Returns:
        Replicas, the rung each came from, what the swaps saw, and the trajectories' information (rungs above
        the lowest). `((rungs - 1) * num_steps + 1) * path.slices` evaluations are made.
    """
    key_draw, key_moves, key_swap = jax.random.split(key, 3)
    coefficients = jax.vmap(path.coefficients)(fractions)
    fresh = place(path.draw(reference, key_draw), evaluate, reference, path, coefficients[0])
    rungs = fractions.size

    def move(key, replica, coefficients, metric, step_size, local_scale):
        return explore(
            key, replica, evaluate, reference, path, coefficients, metric, step_size, num_steps, local_scale
        )

    above = jax.tree.map(lambda leaf: leaf[1:], (replicas, coefficients, metrics, step_sizes, local_scales))
    moved, info = jax.vmap(move)(jax.random.split(key_moves, rungs - 1), *above)
    replicas = jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), fresh, moved)
    replicas, source, seen = swap(key_swap, replicas, coefficients, parity, log_ratio)
    return replicas, source, seen, info
