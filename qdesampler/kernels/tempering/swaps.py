r"""Non-reversible tempering: one iteration of a ladder of replicas.

Every rung moves its replica: the lowest draws a new one from the reference, the others make a trajectory.
Then neighbours swap, the even pairs in one iteration and the odd ones in the next (Okabe et al. 2001), with

    min(1, exp(W(x_k) - W(x_k+1))),      W the work between the two rungs,

which leaves the product of all rungs invariant. With a deterministic alternation replicas flow ballistically;
with a random choice of the pairs they would diffuse (Syed, Bouchard-Cote, Deligiannidis and Doucet 2022).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.paths.path import TemperingPath, work
from qdesampler.kernels.paths.replica import Replica, Rung, explore, make_replica, retarget
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.types import ValueAndScore

__all__ = ["SwapInfo", "Tempering", "swap", "swap_log_ratio", "sweep"]


class Tempering(NamedTuple):
    """What is fixed during one iteration; `rungs` from the reference to the target.

    Attributes:
        reference: density of the lowest rung.
        path: from the reference to the target.
        betas: position of each rung on the path, from 0 to 1, shape `(rungs,)`.
        metrics: metric of each rung, leading axis `rungs`.
        step_sizes: step size of each rung, whitened units, shape `(rungs,)`.
        local_scales: see `Rung`, shape `(rungs,)`.
        num_steps: leapfrog steps of every trajectory, a scalar.
    """

    reference: Reference
    path: TemperingPath
    betas: jax.Array
    metrics: Metric
    step_sizes: jax.Array
    local_scales: jax.Array
    num_steps: jax.Array


class SwapInfo(NamedTuple):
    """The swaps of one iteration; all arrays have the shape `(rungs - 1,)`, one entry a pair.

    Attributes:
        accept_prob: acceptance probability, also of pairs that were not tried in this iteration.
        swapped: whether the pair swapped.
        work_up: `W` of each pair at the replica of its lower rung.
        work_down: `W` at the replica of its upper rung.
    """

    accept_prob: jax.Array
    swapped: jax.Array
    work_up: jax.Array
    work_down: jax.Array


def swap_log_ratio(work_up: jax.Array, work_down: jax.Array) -> jax.Array:
    """Log ratio of the joint densities after and before a swap: `W(x_k) - W(x_k+1)`; -inf for NaN."""
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
        coefficients: those of every rung, shape `(rungs, features)`.
        parity: 0 for even pairs, 1 for odd ones.
        log_ratio: log ratio of the joint densities, for the acceptance.

    Returns:
        The replicas, the rung that each came from, and the swaps' information.
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
        jax.vmap(retarget)(replicas, coefficients),
        source,
        SwapInfo(accept_prob, swapped, work_up, work_down),
    )


def sweep(
    key: jax.Array,
    replicas: Replica,
    evaluate: ValueAndScore,
    tempering: Tempering,
    parity: jax.Array,
    log_ratio: Callable[[jax.Array, jax.Array], jax.Array] = swap_log_ratio,
) -> tuple[Replica, jax.Array, SwapInfo, Any]:
    """One iteration of the ladder: explore on every rung, then swap.

    Args:
        key: JAX key.
        replicas: leading axis `rungs`, the reference first and the target last.
        evaluate: `x -> (log p, grad log p)`.
        tempering: the rungs.
        parity: parity of the pairs that swap.
        log_ratio: log ratio of the joint densities, for the swap's acceptance.

    Returns:
        Replicas, the rung that each came from, the swaps' information, and the trajectories' information
        (rungs above the lowest). `((rungs - 1) * num_steps + 1) * path.slices` evaluations are made.
    """
    reference, path = tempering.reference, tempering.path
    key_draw, key_moves, key_swap = jax.random.split(key, 3)
    coefficients = jax.vmap(path.coefficients)(tempering.betas)
    fresh = make_replica(path.draw(reference, key_draw), evaluate, reference, path, coefficients[0])
    rungs = Rung(coefficients, tempering.metrics, tempering.step_sizes, tempering.local_scales)

    def move(key, replica, rung):
        return explore(key, replica, evaluate, reference, path, rung, tempering.num_steps)

    above, rungs_above = jax.tree.map(lambda leaf: leaf[1:], (replicas, rungs))
    keys = jax.random.split(key_moves, tempering.betas.size - 1)
    moved, info = jax.vmap(move)(keys, above, rungs_above)
    replicas = jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), fresh, moved)
    replicas, source, swaps = swap(key_swap, replicas, coefficients, parity, log_ratio)
    return replicas, source, swaps, info
