r"""Permutations of sites, which keep the number of sites in each state (for bits the Hamming weight).

The sites where two pool rows differ are paired at random. The product of these transpositions is its own
inverse and is drawn without regard to `x`, so it is a symmetric proposal. Its factors commute, so that `K`
groups of them generate an orbit of `2^K` positions, on which `pi` is drawn from exactly, as in
`qdesampler.kernels.discrete.masks`.
"""

import jax
import jax.numpy as jnp

from qdesampler.kernels.discrete.masks import check_local_share, check_pool, gibbs_outcomes, pool_or_site
from qdesampler.kernels.discrete.outcomes import (
    DiscreteInfo,
    DiscreteState,
    LogDensity,
    Outcomes,
    choose,
)

__all__ = ["permutation_move", "permutation_outcomes", "pool_transpositions", "site_transpositions"]


def pool_transpositions(key: jax.Array, pool: jax.Array, num_groups: int) -> jax.Array:
    """Return `num_groups` commuting involutions `(K, n)`: pairs of sites where two pool rows differ.

    A row of the result maps each site to the one that it changes places with. Each pair belongs to one
    random group.
    """
    key_rows, key_order, key_group = jax.random.split(key, 3)
    first, second = jax.random.randint(key_rows, (2,), 0, pool.shape[0])
    n = pool.shape[1]
    differ = pool[first] != pool[second]
    # The differing sites come first, in random order; neighbours in this order are paired.
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
    *keys, key_choose = jax.random.split(key, 4)
    involutions = pool_or_site(
        keys,
        local_share,
        from_pool=lambda key: pool_transpositions(key, pool, num_masks),
        from_site=lambda key: site_transpositions(key, state.position.size, num_masks),
    )
    outcomes = permutation_outcomes(state, log_density, involutions)
    return choose(key_choose, outcomes, 2**num_masks - 1)
