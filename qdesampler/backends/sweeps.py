r"""Sweeps over the spins of many reads at once: coloured for sparse problems, in blocks for dense ones.

States lie as `(blocks, size, reads)`. In a sparse problem a block is one colour of the graph: no two of its
spins are coupled, so all of them move together. In a dense problem a block is a sequence of spins that move
one after another; their fields come from one matrix product for each block,

    f = h + J[block, :] s,        then, spin after spin,        f += J[block, i] (s_i' - s_i),

which is the sequential sweep, but with most of its work in matrix products. Either way a sweep is a
product of updates of single spins in a fixed order, and `reverse=True` is the same product backwards. Where
every update is reversible with respect to a law, the backward sweep is the time reversal of the forward one.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.backends.problem import IsingProblem
from qdesampler.validation import is_traced

__all__ = ["SweepPlan", "color_graph", "from_blocks", "plan_sweeps", "sweep_spins", "to_blocks"]

_BLOCK = 32  # spins of a dense block: fewer make small products, with more the sequential part dominates
_UNROLLED = 8  # colours up to which the loop over them is unrolled

Decide = Callable[[jax.Array, jax.Array, Any], jax.Array]


class SweepPlan(NamedTuple):
    """In which order and with which neighbours spins move; a pytree.

    Attributes:
        h: fields by block, shape `(blocks, size)`; 0 where a block is padded.
        couplings: sparse: of each spin to its neighbours, `(blocks, size, degree)`; dense: `(blocks, size,
            n')` with `n' = blocks size`.
        neighbours: sparse: where the neighbours lie in the flattened blocks, `(blocks, size, degree)`; dense:
            None.
        order: which spin lies where, `(blocks size,)`; `n` where a block is padded.
        position: where each spin lies, shape `(n,)`.
    """

    h: jax.Array
    couplings: jax.Array
    neighbours: jax.Array | None
    order: jax.Array
    position: jax.Array


def color_graph(n: int, edges: np.ndarray) -> np.ndarray:
    """Return a colour for every vertex, no edge within one colour; the better of two greedy orders.

    Breadth first finds two colours where two suffice; by falling degree is better on irregular graphs.
    """
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for i, j in edges.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    breadth, seen = [], np.zeros(n, bool)
    for root in range(n):
        queue = deque([] if seen[root] else [root])
        seen[root] = True
        while queue:
            vertex = queue.popleft()
            breadth.append(vertex)
            for other in neighbours[vertex]:
                if not seen[other]:
                    seen[other] = True
                    queue.append(other)
    best = None
    for order in (breadth, sorted(range(n), key=lambda v: -len(neighbours[v]))):
        colors = np.full(n, -1)
        for vertex in order:
            taken = {colors[other] for other in neighbours[vertex]}
            colors[vertex] = next(c for c in range(n + 1) if c not in taken)
        if best is None or colors.max() < best.max():
            best = colors
    return best if best is not None else np.zeros(0, int)


def plan_sweeps(problem: IsingProblem) -> SweepPlan:
    """Return the plan of a problem: coloured if it has an edge list with few enough entries, else dense.

    Edges that are traced cannot be coloured: such a problem is swept as a dense one.
    """
    if problem.edges is not None and not is_traced(problem.edges):
        plan = _colored_plan(problem, np.asarray(problem.edges))
        if plan is not None:
            return plan
    problem = problem.dense()
    n = problem.num_variables
    size = min(_BLOCK, n)
    blocks = -(-n // size)
    extra = blocks * size - n
    J = jnp.pad(problem.J, (0, extra)).reshape(blocks, size, -1)
    order = np.minimum(np.arange(blocks * size), n)
    return SweepPlan(
        jnp.pad(problem.h, (0, extra)).reshape(blocks, size), J, None, jnp.asarray(order), jnp.arange(n)
    )


def _colored_plan(problem: IsingProblem, edges: np.ndarray) -> SweepPlan | None:
    n = problem.num_variables
    colors = color_graph(n, edges)
    counts = np.bincount(colors)
    size, blocks = counts.max(), counts.size
    ends = np.concatenate([edges, edges[:, ::-1]])
    degrees = np.bincount(ends[:, 0], minlength=n)
    degree = max(int(degrees.max()), 1)
    if blocks * size * degree > n * max(n // 2, 4):
        return None
    by_color = np.argsort(colors, kind="stable")
    starts = np.cumsum(counts) - counts
    position = np.empty(n, int)
    position[by_color] = (
        np.arange(n) - np.repeat(starts, counts) + size * np.repeat(np.arange(blocks), counts)
    )
    order = np.full(blocks * size, n)
    order[position] = np.arange(n)
    rows = np.argsort(ends[:, 0], kind="stable")
    slot = np.arange(rows.size) - np.repeat(np.cumsum(degrees) - degrees, degrees)
    where = (position[ends[rows, 0]], slot)
    neighbours = np.zeros((blocks * size, degree), np.int32)
    edge = np.full((blocks * size, degree), len(edges))
    neighbours[where] = position[ends[rows, 1]]
    edge[where] = rows % max(len(edges), 1)
    shape = (int(blocks), int(size))
    h = jnp.append(problem.h, 0)[order].reshape(shape)
    couplings = jnp.append(problem.J, 0)[edge].reshape(*shape, degree)
    where = jnp.asarray(neighbours.reshape(*shape, degree))
    return SweepPlan(h, couplings, where, jnp.asarray(order), jnp.asarray(position))


def to_blocks(plan: SweepPlan, states: jax.Array) -> jax.Array:
    """Return states `(reads, n)` as `(blocks, size, reads)`, floating point."""
    columns = jnp.concatenate([states.T, jnp.ones((1, states.shape[0]), states.dtype)])
    return columns[plan.order].reshape(*plan.h.shape, -1).astype(plan.h.dtype)


def from_blocks(plan: SweepPlan, spins: jax.Array) -> jax.Array:
    """Return `(blocks, size, reads)` as int8 states `(reads, n)`."""
    return spins.reshape(-1, spins.shape[-1])[plan.position].T.astype(jnp.int8)


def sweep_spins(
    plan: SweepPlan, spins: jax.Array, noise: Any, decide: Decide, *, reverse: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Return the spins after one sweep, and how much the energy of every read changed, shape `(reads,)`.

    Args:
        plan: from `plan_sweeps`.
        spins: shape `(blocks, size, reads)`.
        noise: random numbers for `decide`, a pytree with leading axes `(blocks, size)`.
        decide: maps spins `(..., reads)`, their fields `dE/ds` and their noise to new spins; it may use no
            other spin of the same read, but its leading axes may be absent.
        reverse: run through all spins backwards.
    """
    blocks = plan.h.shape[0]
    update = _dense_block if plan.neighbours is None else _colored_block

    def body(step, carry):
        spins, change = carry
        block = blocks - 1 - step if reverse else step
        near = None if plan.neighbours is None else plan.neighbours[block]
        drawn = jax.tree.map(lambda a: a[block], noise)
        new, gain = update(
            plan.h[block], plan.couplings[block], near, spins[block], drawn, spins, block, decide, reverse
        )
        return spins.at[block].set(new), change + gain

    start = (spins, jnp.zeros(spins.shape[-1], spins.dtype))
    unroll = plan.neighbours is not None and blocks <= _UNROLLED
    return jax.lax.fori_loop(0, blocks, body, start, unroll=unroll)


def _colored_block(h, couplings, neighbours, own, noise, spins, block, decide, reverse):
    del block, reverse
    flat = spins.reshape(-1, spins.shape[-1])
    field = h[:, None] + sum(
        couplings[:, k, None] * flat[neighbours[:, k]] for k in range(couplings.shape[1])
    )
    new = decide(own, field, noise)
    return new, jnp.sum((new - own) * field, 0)


def _dense_block(h, couplings, neighbours, own, noise, spins, block, decide, reverse):
    del neighbours
    flat = spins.reshape(-1, spins.shape[-1])
    size = h.size
    fields = h[:, None] + jnp.dot(couplings, flat, precision=jax.lax.Precision.HIGHEST)
    within = jax.lax.dynamic_slice_in_dim(couplings, block * size, size, 1)

    def body(step, carry):
        own, fields, change = carry
        i = size - 1 - step if reverse else step
        new = decide(own[i], fields[i], jax.tree.map(lambda a: a[i], noise))
        shift = new - own[i]
        change = change + shift * fields[i]
        return own.at[i].set(new), fields + within[:, i, None] * shift, change

    own, _, change = jax.lax.fori_loop(0, size, body, (own, fields, jnp.zeros_like(own[0])))
    return own, change
