r"""Sums over the kept iterations of a ladder, from which the evidence and its error follow.

For each pair of neighbours with work `W` and a constant `C` frozen in warm-up, the bridge

    log Z'/Z = C + log E[sigma(W - C)] - log E'[sigma(C - W)],      sigma(t) = 1 / (1 + e^-t),

is Bennett's (1976). It is consistent for any `C` and has the least variance if `C` is the answer; its terms
are bounded. The stepping stones `log E[e^W]` (upwards) and `-log E'[e^-W]` (downwards) lie below and above it
in expectation. Sums are kept in `BATCHES` consecutive batches. When these are full, neighbours are merged and
batches grow twice as long, so that the memory is constant and a run can be continued.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["BATCHES", "KeptSums", "add_iteration", "empty_sums"]

BATCHES = 32  # batches of consecutive iterations; the error of the evidence needs 8 or more


class KeptSums(NamedTuple):
    """Sums over kept iterations; `pairs = rungs - 1`.

    Attributes:
        counts: iterations in each batch, shape `(BATCHES,)`.
        length: iterations that a full batch has.
        bridge: sums of `sigma(W - C)` and `sigma(C - W')`, shape `(BATCHES, 2, pairs)`.
        stones: log sums of `e^W` and `e^-W'`, shape `(BATCHES, 2, pairs)`.
        rejections: sum of swap rejection probabilities, shape `(pairs,)`.
        work: sums of `W' - C` and of its square over the upper rung, shape `(2, pairs)`.
        upward: visits of each rung by replicas that were at the reference last, shape `(rungs,)`.
        settled: visits of each rung by replicas that have been at either end, shape `(rungs,)`.
        round_trips: number of ways from the reference to the target and back.
    """

    counts: jax.Array
    length: jax.Array
    bridge: jax.Array
    stones: jax.Array
    rejections: jax.Array
    work: jax.Array
    upward: jax.Array
    settled: jax.Array
    round_trips: jax.Array


def empty_sums(rungs: int) -> KeptSums:
    """Nothing kept yet."""
    dtype, pairs = jnp.result_type(float), rungs - 1
    return KeptSums(
        counts=jnp.zeros((BATCHES,), int),
        length=jnp.ones((), int),
        bridge=jnp.zeros((BATCHES, 2, pairs), dtype),
        stones=jnp.full((BATCHES, 2, pairs), -jnp.inf, dtype),
        rejections=jnp.zeros((pairs,), dtype),
        work=jnp.zeros((2, pairs), dtype),
        upward=jnp.zeros((rungs,), int),
        settled=jnp.zeros((rungs,), int),
        round_trips=jnp.zeros((), int),
    )


def _merge(sums: KeptSums) -> KeptSums:
    """Merge neighbouring batches into one; the second half of the batches becomes empty."""
    half = BATCHES // 2

    def pairwise(leaf, combine, blank):
        joined = combine(leaf[0::2], leaf[1::2])
        return jnp.full_like(leaf, blank).at[:half].set(joined)

    return sums._replace(
        counts=pairwise(sums.counts, jnp.add, 0),
        length=sums.length * 2,
        bridge=pairwise(sums.bridge, jnp.add, 0),
        stones=pairwise(sums.stones, jnp.logaddexp, -jnp.inf),
    )


def add_iteration(
    sums: KeptSums,
    centres: jax.Array,
    accept_prob: jax.Array,
    work_up: jax.Array,
    work_down: jax.Array,
    directions: jax.Array,
    round_trips: jax.Array,
) -> KeptSums:
    """Add one kept iteration.

    Args:
        sums: those of the iterations before.
        centres: `C` of each pair.
        accept_prob: acceptance probability of each pair's swap.
        work_up: `W` at the lower replica of each pair.
        work_down: `W` at the upper replica.
        directions: for the replica on each rung, 1 if it was at the reference last, -1 if at the target, 0 if
            it has been at neither.
        round_trips: round trips completed in this iteration.
    """
    full = jnp.all(sums.counts >= sums.length)
    sums = jax.tree.map(lambda a, b: jnp.where(full, a, b), _merge(sums), sums)
    batch = jnp.argmax(sums.counts < sums.length)
    bridge = jnp.stack([jax.nn.sigmoid(work_up - centres), jax.nn.sigmoid(centres - work_down)])
    stones = jnp.stack([work_up, -work_down])
    excess = jnp.where(jnp.isfinite(work_down), work_down - centres, 0)
    return sums._replace(
        counts=sums.counts.at[batch].add(1),
        bridge=sums.bridge.at[batch].add(bridge),
        stones=sums.stones.at[batch].set(jnp.logaddexp(sums.stones[batch], stones)),
        rejections=sums.rejections + 1 - accept_prob,
        work=sums.work + jnp.stack([excess, excess**2]),
        upward=sums.upward + (directions == 1),
        settled=sums.settled + (directions != 0),
        round_trips=sums.round_trips + round_trips,
    )
