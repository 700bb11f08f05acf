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

from qdesampler.kernels.paths.path import TemperingPath, work
from qdesampler.kernels.paths.replica import Replica, at_rung, explore, place
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.types import ValueAndScore

__all__ = ["SwapInfo", "swap", "swap_log_ratio", "sweep"]


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
    evaluate: ValueAndScore,
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
