r"""Swaps of a ladder: neighbours exchange their replicas.

The even pairs are tried in one iteration and the odd ones in the next (Okabe et al. 2001), with

    min(1, exp(W(x_k) - W(x_k+1))),      W the work between the two rungs,

which leaves the product of all rungs invariant. With a deterministic alternation replicas flow ballistically;
with a random choice of the pairs they would diffuse (Syed, Bouchard-Cote, Deligiannidis and Doucet 2022).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.references.path import work

__all__ = ["Replicas", "SwapInfo", "swap", "swap_log_ratio"]


class Replicas(NamedTuple):
    """One replica a rung, the reference's first, the target's last.

    Attributes:
        positions: shape `(rungs, dim)`.
        log_q: of the reference, shape `(rungs,)`.
        scores_q: its scores, shape `(rungs, dim)`; zeros in a ladder of two rungs, which needs none.
        log_p: of the target, shape `(rungs,)`.
        scores_p: its scores, shape `(rungs, dim)`.
    """

    positions: jax.Array
    log_q: jax.Array
    scores_q: jax.Array
    log_p: jax.Array
    scores_p: jax.Array


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
    units: jax.Array,
    replicas: Replicas,
    coefficients: jax.Array,
    parity: jax.Array,
    log_ratio: Callable[[jax.Array, jax.Array], jax.Array] = swap_log_ratio,
) -> tuple[Replicas, jax.Array, SwapInfo]:
    """Swap the neighbours `(k, k+1)` with `k % 2 == parity`.

    Args:
        units: uniform draws on (0, 1), shape `(rungs - 1,)`.
        replicas: one a rung.
        coefficients: those of every rung, shape `(rungs, 2)`.
        parity: 0 for even pairs, 1 for odd ones.
        log_ratio: log ratio of the joint densities, for the acceptance.

    Returns:
        The replicas, the rung that each came from, and the swaps' information.
    """
    rungs = coefficients.shape[0]
    lower, upper = coefficients[:-1], coefficients[1:]
    work_up = work(lower, upper, replicas.log_q[:-1], replicas.log_p[:-1])
    work_down = work(lower, upper, replicas.log_q[1:], replicas.log_p[1:])
    accept_prob = jnp.exp(jnp.minimum(log_ratio(work_up, work_down), 0))
    tried = jnp.arange(rungs - 1) % 2 == parity
    swapped = tried & (units < accept_prob)
    shift = swapped.astype(int)
    source = jnp.arange(rungs) + jnp.pad(shift, (0, 1)) - jnp.pad(shift, (1, 0))
    replicas = jax.tree.map(lambda leaf: leaf[source], replicas)
    return replicas, source, SwapInfo(accept_prob, swapped, work_up, work_down)
