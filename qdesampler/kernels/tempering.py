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

from qdesampler.kernels import tempering_reference as references
from qdesampler.kernels.integrators import DYNAMICS, INTEGRATORS
from qdesampler.kernels.tempering_path import TemperingPath, tempered, work
from qdesampler.kernels.tempering_reference import Reference
from qdesampler.kernels.trajectory import Scheme, after_evaluation, finish_path, next_position, start_path
from qdesampler.solvers.metric import Metric

__all__ = ["Replica", "SwapInfo", "at_powers", "explore", "place", "swap", "swap_log_ratio", "sweep"]

JITTER = 0.4  # relative spread of the step size, which breaks periodic orbits
_CANONICAL, _LEAPFROG = DYNAMICS["canonical"], INTEGRATORS["leapfrog"]

Evaluate = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class Replica(NamedTuple):
    """A point of one rung with everything that any rung needs of it.

    Attributes:
        position: shape `(dim,)`.
        log_density: of its rung, `a log q + b log p`.
        score: its gradient, shape `(dim,)`.
        log_target: `log p`, `-inf` where there is no density.
        target_score: `grad log p`.
        log_reference: `log q`.
        reference_score: `grad log q`.
    """

    position: jax.Array
    log_density: jax.Array
    score: jax.Array
    log_target: jax.Array
    target_score: jax.Array
    log_reference: jax.Array
    reference_score: jax.Array


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


def at_powers(replica: Replica, powers: tuple[jax.Array, jax.Array]) -> Replica:
    """The same point on a rung with these powers."""
    a, b = powers
    score = jnp.where(b == 0, 0, b * replica.target_score) + jnp.where(a == 0, 0, a * replica.reference_score)
    log_density = tempered(powers, replica.log_reference, replica.log_target)
    return replica._replace(log_density=log_density, score=score)


def place(position: jax.Array, evaluate: Evaluate, reference: Reference, powers: tuple) -> Replica:
    """Evaluate a point (one evaluation) and put it on a rung."""
    log_target, target_score = evaluate(position)
    log_target = jnp.where(jnp.isnan(log_target), -jnp.inf, log_target)
    log_reference, reference_score = references.value_and_score(reference, position)
    blank = jnp.zeros_like(log_target)
    replica = Replica(position, blank, target_score, log_target, target_score, log_reference, reference_score)
    return at_powers(replica, powers)


def explore(
    key: jax.Array,
    replica: Replica,
    evaluate: Evaluate,
    reference: Reference,
    powers: tuple[jax.Array, jax.Array],
    metric: Metric,
    step_size: jax.Array,
    num_steps: jax.Array,
) -> tuple[Replica, Any]:
    """One trajectory of `num_steps` steps on the density of a rung, accepted or rejected as a whole.

    Exact for any metric, step size and number of steps that do not depend on the position; the step size is
    multiplied by a random factor on `[1 - JITTER, 1 + JITTER]`.

    Returns:
        The replica and the trajectory's information; `num_steps` evaluations were made.
    """
    key_velocity, key_step, key_accept = jax.random.split(key, 3)
    dtype = replica.position.dtype
    velocity = _CANONICAL.refresh(jax.random.normal(key_velocity, replica.position.shape, dtype))
    factor = jax.random.uniform(key_step, (), dtype, 1 - JITTER, 1 + JITTER)
    scheme = Scheme(metric, step_size * factor, num_steps, _CANONICAL, _LEAPFROG)
    kinetic = _CANONICAL.kinetic(velocity)

    def step(i, path):
        here: Any = place(next_position(scheme, path, i), evaluate, reference, powers)
        return after_evaluation(scheme, path, i, here)

    state: Any = replica  # has the fields of a TrajectoryState, and more that travel with them
    path = jax.lax.fori_loop(0, num_steps, step, start_path(scheme, state, velocity))
    unit = jax.random.uniform(key_accept, (), dtype)
    kept: Any
    kept, info = finish_path(unit, state, path, kinetic, num_steps, num_steps)
    return kept, info


def swap_log_ratio(work_up: jax.Array, work_down: jax.Array) -> jax.Array:
    """`log` of the ratio of joint densities after and before a swap: `W(x_k) - W(x_k+1)`; -inf for NaN."""
    ratio = work_up - work_down
    return jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)


def swap(
    key: jax.Array,
    replicas: Replica,
    powers: tuple[jax.Array, jax.Array],
    parity: jax.Array,
    log_ratio: Callable[[jax.Array, jax.Array], jax.Array] = swap_log_ratio,
) -> tuple[Replica, jax.Array, SwapInfo]:
    """Swap the neighbours `(k, k+1)` with `k % 2 == parity`.

    Args:
        key: JAX key.
        replicas: one a rung, leading axis `rungs`.
        powers: `(a, b)` of every rung, each of shape `(rungs,)`.
        parity: 0 for even pairs, 1 for odd ones.
        log_ratio: of the swap's acceptance.

    Returns:
        The replicas, the rung where each came from, and what was seen.
    """
    rungs = powers[0].size
    lower, upper = (powers[0][:-1], powers[1][:-1]), (powers[0][1:], powers[1][1:])
    work_up = work(lower, upper, replicas.log_reference[:-1], replicas.log_target[:-1])
    work_down = work(lower, upper, replicas.log_reference[1:], replicas.log_target[1:])
    accept_prob = jnp.exp(jnp.minimum(log_ratio(work_up, work_down), 0))
    pairs = jnp.arange(rungs - 1)
    tried = pairs % 2 == parity
    swapped = tried & (jax.random.uniform(key, (rungs - 1,), accept_prob.dtype) < accept_prob)
    source = jnp.arange(rungs)
    source = source.at[:-1].add(swapped.astype(int)).at[1:].add(-swapped.astype(int))
    replicas = jax.tree.map(lambda leaf: leaf[source], replicas)
    return jax.vmap(at_powers)(replicas, powers), source, SwapInfo(accept_prob, swapped, work_up, work_down)


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
        parity: of the pairs that swap.
        log_ratio: of the swap's acceptance.

    Returns:
        Replicas, the rung each came from, what the swaps saw, and the trajectories' information (rungs above
        the lowest). `(rungs - 1) * num_steps + 1` evaluations are made.
    """
    key_draw, key_moves, key_swap = jax.random.split(key, 3)
    powers = jax.vmap(path.coefficients)(fractions)
    fresh = place(references.draw(reference, key_draw), evaluate, reference, (powers[0][0], powers[1][0]))
    rungs = fractions.size

    def move(key, replica, a, b, metric, step_size):
        return explore(key, replica, evaluate, reference, (a, b), metric, step_size, num_steps)

    above = jax.tree.map(lambda leaf: leaf[1:], (replicas, *powers, metrics, step_sizes))
    moved, info = jax.vmap(move)(jax.random.split(key_moves, rungs - 1), *above)
    replicas = jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), fresh, moved)
    replicas, source, seen = swap(key_swap, replicas, powers, parity, log_ratio)
    return replicas, source, seen, info
