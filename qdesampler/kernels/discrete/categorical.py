r"""The imaginary-time step for sites of any numbers of states, and permutations that keep their counts.

The transverse field of a site with `q` states drives it to any other state alike. With the potential
linearised at `x`, `d_ic = f(x with site i at c) - f(x)`, the step is independent over sites,

    P(x_i -> c) ~ 1 if c = x_i, else tanh(tau) exp(d_ic / 2),

which for `q = 2` is the step on bits (`qdesampler.kernels.discrete.informed`); `taylor_order` 0 leaves
out `d`. Metropolis makes both exact.

**Fixed counts.** A permutation of the sites keeps the number of sites in each state, for bits the Hamming
weight. Of two pool rows `a`, `b` the sites where they differ are paired at random; the product of these
transpositions is its own inverse and is drawn without looking at `x`, so it may be proposed as it is; its
factors commute, so that `K` groups of them generate an orbit of `2^K` positions on which `pi` is drawn from
exactly, as in `qdesampler.kernels.discrete.masks`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.kernels.discrete.masks import check_local_share, check_pool, gibbs_outcomes
from qdesampler.kernels.discrete.outcomes import (
    DiscreteInfo,
    DiscreteState,
    LogDensity,
    Outcomes,
    choose,
    finite_or_low,
    metropolis_outcomes,
)

__all__ = [
    "imaginary_time_states_move",
    "imaginary_time_states_outcomes",
    "permutation_move",
    "permutation_outcomes",
    "pool_transpositions",
    "site_transpositions",
    "state_differences",
    "state_log_probs",
]

_LARGE = 1e4  # as in discrete_local: a certain change, without inf - inf


def state_differences(
    position: jax.Array, value: jax.Array, log_density: LogDensity, num_states: tuple[int, ...]
) -> jax.Array:
    """Return `d_ic = f(x with site i at state c) - f(x)`, shape `(n, max q)`; -inf beyond a site's states.

    `sum_i (q_i - 1)` evaluations count; the current states are evaluated with the rest, which keeps the shape
    fixed, and those beyond a site's own are never looked at.
    """
    sizes = np.asarray(num_states)
    most, n = int(sizes.max()), sizes.size
    sites, states = np.nonzero(np.arange(most) < sizes[:, None])
    neighbours = jnp.broadcast_to(position, (sites.size, n))
    neighbours = neighbours.at[np.arange(sites.size), sites].set(states.astype(position.dtype))
    found = finite_or_low(jax.vmap(log_density)(neighbours)) - value
    table = jnp.full((n, most), -jnp.inf, found.dtype).at[sites, states].set(found)
    return table.at[np.arange(n), position.astype(jnp.int32)].set(0.0)


def state_log_probs(position: jax.Array, differences: jax.Array, tau: ArrayLike) -> jax.Array:
    """Return the log probabilities of every site's next state, `(n, max q)`, from `state_differences`."""
    tilt = jnp.where(jnp.isnan(differences), 0.0, differences) / 2
    n, most = tilt.shape
    here = jnp.arange(most) == position[:, None]
    logits = jnp.where(tilt == -jnp.inf, -jnp.inf, jnp.clip(tilt, -_LARGE, _LARGE))
    logits = jnp.where(here, 0.0, logits + jnp.log(jnp.tanh(jnp.asarray(tau, tilt.dtype))))
    return jax.nn.log_softmax(logits, -1)


def _log_probs(position, value, log_density, num_states, tau, taylor_order):
    if taylor_order == 1:
        return state_log_probs(position, state_differences(position, value, log_density, num_states), tau)
    sizes = np.asarray(num_states)
    allowed = np.arange(sizes.max()) < sizes[:, None]
    return state_log_probs(position, jnp.where(allowed, 0.0, -jnp.inf), tau)


def imaginary_time_states_outcomes(
    state: DiscreteState,
    log_density: LogDensity,
    proposal: jax.Array,
    log_probs: jax.Array,
    num_states: tuple[int, ...],
    tau: ArrayLike,
    taylor_order: int,
) -> Outcomes:
    """Metropolis for a proposal drawn with the log probabilities `log_probs` at `x`."""
    value = log_density(proposal)
    back = _log_probs(proposal, value, log_density, num_states, tau, taylor_order)
    sites = np.arange(proposal.size)
    there, here = proposal.astype(jnp.int32), state.position.astype(jnp.int32)
    correction = jnp.sum(back[sites, here]) - jnp.sum(log_probs[sites, there])
    return metropolis_outcomes(state, proposal, value, correction)


def imaginary_time_states_move(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    num_states: tuple[int, ...],
    *,
    tau: ArrayLike = 0.2,
    taylor_order: int = 1,
) -> tuple[DiscreteState, DiscreteInfo]:
    """Make one step of imaginary time on sites of `num_states` states, with Metropolis.

    Evaluations: 1 for order 0; for order 1 `2 sum_i q_i + 1`, the current states evaluated with their
    neighbours.

    Args:
        key: JAX key.
        state: where the chain is.
        log_density: `f` of one position.
        num_states: `q_i` of each site.
        tau: the step, positive.
        taylor_order: 0 or 1.

    Raises:
        ValueError: another order, or a length of `num_states` that is not the position's.
    """
    if taylor_order not in (0, 1):
        raise ValueError(f"taylor_order must be 0 or 1, got {taylor_order}; for 2 use surrogate_move.")
    if len(num_states) != state.position.size:
        raise ValueError(f"num_states must name {state.position.size} sites, got {len(num_states)}.")
    key_states, key_choose = jax.random.split(key)
    log_probs = _log_probs(state.position, state.log_density, log_density, num_states, tau, taylor_order)
    proposal = jax.random.categorical(key_states, log_probs, axis=-1).astype(state.position.dtype)
    outcomes = imaginary_time_states_outcomes(
        state, log_density, proposal, log_probs, num_states, tau, taylor_order
    )
    return choose(key_choose, outcomes, 1 if taylor_order == 0 else 2 * sum(num_states) + 1)


def pool_transpositions(key: jax.Array, pool: jax.Array, num_groups: int) -> jax.Array:
    """Return `num_groups` commuting involutions `(K, n)`: pairs of sites where two pool rows differ.

    A row of the result maps each site to the one it changes places with. Each pair belongs to one group,
    drawn at random.
    """
    key_rows, key_order, key_group = jax.random.split(key, 3)
    first, second = jax.random.randint(key_rows, (2,), 0, pool.shape[0])
    n = pool.shape[1]
    differ = pool[first] != pool[second]
    # the differing sites first, in random order: neighbours in this order are paired
    order = jnp.argsort(jax.random.uniform(key_order, (n,)) + (1 - differ))
    return _pairs(
        order, jnp.sum(differ) // 2, jax.random.randint(key_group, (n // 2,), 0, num_groups), num_groups
    )


def site_transpositions(key: jax.Array, n: int, num_groups: int) -> jax.Array:
    """Return `num_groups` disjoint transpositions of sites drawn at random, `(K, n)`; fewer if `n < 2 K`."""
    order = jax.random.permutation(key, n)
    count = min(num_groups, n // 2)
    return _pairs(order, jnp.asarray(count), jnp.arange(n // 2), num_groups)


def _pairs(order: jax.Array, count: jax.Array, groups: jax.Array, num_groups: int) -> jax.Array:
    """Involutions from the first `2 count` sites of `order`, pair `p` in group `groups[p]`."""
    half = order.shape[0] // 2
    one, other = order[0 : 2 * half : 2], order[1 : 2 * half : 2]
    identity = jnp.arange(order.shape[0])

    def group(k):
        used = (jnp.arange(half) < count) & (groups == k)
        return identity.at[one].set(jnp.where(used, other, one)).at[other].set(jnp.where(used, one, other))

    return jax.vmap(group)(jnp.arange(num_groups))


def permutation_outcomes(state: DiscreteState, log_density: LogDensity, involutions: jax.Array) -> Outcomes:
    """The law `pi` on the orbit under commuting involutions `(K, n)`; `2^K - 1` evaluations."""
    positions = state.position[None]
    for involution in involutions:
        positions = jnp.concatenate([positions, positions[:, involution]])
    return gibbs_outcomes(state, log_density, positions)


def permutation_move(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    pool: jax.Array,
    *,
    num_masks: int = 2,
    local_share: float = 0.5,
) -> tuple[DiscreteState, DiscreteInfo]:
    """Gibbs on an orbit of permutations, which keep how many sites are in each state.

    `2^num_masks - 1` evaluations.

    Args:
        key: JAX key.
        state: where the chain is.
        log_density: `f` of one position.
        pool: reads, shape `(R, n)`, of any law, independent of the current state; they need not have the
            counts that are kept.
        num_masks: `K`, groups of transpositions; at most 12.
        local_share: probability of single transpositions of random sites instead, above 0.

    Raises:
        ValueError: a pool of another shape, or a number out of range.
    """
    check_pool(pool, state)
    if not 1 <= num_masks <= 12:
        raise ValueError(f"num_masks must be from 1 to 12, got {num_masks}.")
    check_local_share(local_share)
    key_kind, key_pool, key_site, key_choose = jax.random.split(key, 4)
    local = jax.random.uniform(key_kind) < local_share
    single = site_transpositions(key_site, state.position.size, num_masks)
    involutions = jnp.where(local, single, pool_transpositions(key_pool, pool, num_masks))
    outcomes = permutation_outcomes(state, log_density, involutions)
    return choose(key_choose, outcomes, 2**num_masks - 1)
