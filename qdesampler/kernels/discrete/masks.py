r"""Masks from a pool of reads: moves that are exact whatever device filled the pool.

With `a`, `b` two reads, `m = a - b mod q` (for bits `a XOR b`) is a collective move whose cost in energy is
low by the device's own account.

* **mask**: propose `x + m`, accept with `min(1, pi(x') / pi(x))`. The proposal is symmetric because `m` and
  `-m` are equally likely and `m` is drawn without regard to `x`.
* **coset**: masks `m_1, ..., m_K` generate a group acting on the states; draw from `pi` on the whole orbit,

      P(x + sum_k c_k m_k) ~ pi(x + sum_k c_k m_k),      c in {0, ..., q-1}^K.

  Gibbs sampling on an orbit leaves `pi` invariant for every fixed set of masks, hence for random ones (Liu
  and Sabatti 2000).

Sites may have different numbers of states: `mod q` is then taken site by site, and the orbit of a mask has as
many terms as the least common multiple of all `q_i`.

Reads may be biased, repeated, cut off or from several devices; the pool may depend on data and warm-up, not
on the current state. Both moves mix in masks of one site: without them they need not be irreducible.

References:
    Liu and Sabatti, "Generalised Gibbs sampler and multigrid Monte Carlo", Biometrika 87 (2000) 353.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.kernels.discrete.outcomes import (
    DiscreteInfo,
    DiscreteState,
    LogDensity,
    Outcomes,
    choose,
    finite_or_low,
    is_invalid,
    metropolis_outcomes,
)

__all__ = [
    "NumStates",
    "coset_evals",
    "coset_move",
    "coset_outcomes",
    "mask_move",
    "mask_outcomes",
    "pool_mask",
    "pool_or_site",
    "site_mask",
]

NumStates = int | tuple[int, ...]  # one number for all sites, or one for each site
_LARGEST_ORBIT = 4096  # positions, all evaluated at once


def orbit_length(num_states: NumStates) -> int:
    """The number of multiples of a mask before it repeats, for any mask."""
    return num_states if isinstance(num_states, int) else math.lcm(*num_states)


def coset_evals(num_masks: int, num_states: NumStates = 2) -> int:
    """The evaluations of one `coset_move`."""
    return orbit_length(num_states) ** num_masks - 1


def _moduli(num_states: NumStates) -> int | np.ndarray:
    return num_states if isinstance(num_states, int) else np.asarray(num_states, np.int32)


def check_local_share(local_share: float) -> None:
    """Refuse a share of local moves outside `(0, 1]`: collective moves alone need not reach all positions."""
    if not 0 < local_share <= 1:
        raise ValueError(f"local_share must be in (0, 1], got {local_share}: masks alone need not reach all.")


def pool_mask(key: jax.Array, pool: jax.Array, num_states: NumStates = 2) -> jax.Array:
    """Return `a - b mod q` for two rows drawn independently, shape `(n,)`."""
    first, second = jax.random.randint(key, (2,), 0, pool.shape[0])
    return jnp.mod(pool[first] - pool[second], _moduli(num_states))


def site_mask(key: jax.Array, n: int, num_states: NumStates = 2) -> jax.Array:
    """Return a mask that shifts one uniformly drawn site by a uniform amount other than 0, shape `(n,)`."""
    key_site, key_shift = jax.random.split(key)
    site = jax.random.randint(key_site, (), 0, n)
    most = num_states if isinstance(num_states, int) else jnp.asarray(_moduli(num_states))[site]
    shift = jax.random.randint(key_shift, (), 1, jnp.maximum(most, 2))
    return jnp.zeros(n, jnp.int32).at[site].set(shift)


def pool_or_site(
    keys: Sequence[jax.Array],
    local_share: float,
    *,
    from_pool: Callable[[jax.Array], jax.Array],
    from_site: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Return `from_site(key)` with probability `local_share`, else `from_pool(key)`, of one shape.

    Args:
        keys: three JAX keys: for the choice, for `from_pool`, for `from_site`.
        local_share: probability of `from_site`.
        from_pool: draws a collective move from a pool.
        from_site: draws a move of single sites.
    """
    key_kind, key_pool, key_site = keys
    local = jax.random.uniform(key_kind) < local_share
    return jnp.where(local, from_site(key_site), from_pool(key_pool))


def _shifted(position: jax.Array, mask: jax.Array, num_states: NumStates) -> jax.Array:
    return jnp.mod(position.astype(jnp.int32) + mask, _moduli(num_states)).astype(position.dtype)


def mask_outcomes(
    state: DiscreteState, log_density: LogDensity, mask: jax.Array, num_states: NumStates = 2
) -> Outcomes:
    """Metropolis with the proposal `x + mask mod q`; the mask must be as likely as its negative."""
    proposal = _shifted(state.position, mask, num_states)
    return metropolis_outcomes(state, proposal, log_density(proposal))


def mask_move(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    pool: jax.Array,
    *,
    local_share: float = 0.5,
    num_states: NumStates = 2,
) -> tuple[DiscreteState, DiscreteInfo]:
    """Propose a difference of two pool rows, or with probability `local_share` a change of one site.

    One evaluation.

    Args:
        key: JAX key.
        state: where the chain is.
        log_density: `f` of one position.
        pool: reads `0, ..., q - 1`, shape `(R, n)`; of any law, independent of the current state.
        local_share: probability of a change of one site, above 0.
        num_states: `q`, or one number for each site.

    Raises:
        ValueError: a pool of another shape, or `local_share` outside `(0, 1]`.
    """
    check_pool(pool, state)
    check_local_share(local_share)
    *keys, key_choose = jax.random.split(key, 4)
    mask = pool_or_site(
        keys,
        local_share,
        from_pool=lambda key: pool_mask(key, pool.astype(jnp.int32), num_states),
        from_site=lambda key: site_mask(key, state.position.size, num_states),
    )
    return choose(key_choose, mask_outcomes(state, log_density, mask, num_states), 1)


def coset_outcomes(
    state: DiscreteState, log_density: LogDensity, masks: jax.Array, num_states: NumStates = 2
) -> Outcomes:
    """The law `pi` on the orbit of the position under masks `(K, n)`; `q^K - 1` evaluations."""
    length = orbit_length(num_states)
    coefficients = np.array(list(itertools.product(range(length), repeat=masks.shape[0])), np.int32)
    shifts = jnp.mod(coefficients @ masks.astype(jnp.int32), _moduli(num_states))
    positions = jax.vmap(lambda shift: _shifted(state.position, shift, num_states))(shifts)
    return gibbs_outcomes(state, log_density, positions)


def gibbs_outcomes(state: DiscreteState, log_density: LogDensity, positions: jax.Array) -> Outcomes:
    """The law `pi` on the orbit of a group: `positions`, shape `(K, n)`, the current one first."""
    found = jax.vmap(log_density)(positions[1:])
    others = finite_or_low(found)
    values = jnp.concatenate([state.log_density[None], others.astype(state.log_density.dtype)])
    # A chain that starts where pi = 0 stays until a position with pi > 0 is among the outcomes.
    nowhere = jnp.all(values == -jnp.inf)
    log_prob = jax.nn.log_softmax(
        jnp.where(nowhere, jnp.where(jnp.arange(values.size) == 0, 0.0, -jnp.inf), values)
    )
    return Outcomes(positions, values, log_prob, jnp.sum(is_invalid(found)))


def coset_move(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    pool: jax.Array,
    *,
    num_masks: int = 2,
    num_states: NumStates = 2,
) -> tuple[DiscreteState, DiscreteInfo]:
    """Gibbs on the orbit of `num_masks - 1` pool masks and one change of a single site.

    `q^num_masks - 1` evaluations, all at once.

    Args:
        key: JAX key.
        state: where the chain is.
        log_density: `f` of one position.
        pool: reads `0, ..., q - 1`, shape `(R, n)`; of any law, independent of the current state.
        num_masks: `K`, at least 1; the last mask has one site.
        num_states: `q`, or one number for each site.

    Raises:
        ValueError: a pool of another shape, `num_masks < 1`, or an orbit of more than 4096 states.
    """
    check_pool(pool, state)
    check_orbit(num_masks, num_states)
    key_choose, *keys = jax.random.split(key, num_masks + 1)
    masks = [pool_mask(each, pool.astype(jnp.int32), num_states) for each in keys[1:]]
    masks.append(site_mask(keys[0], state.position.size, num_states))
    outcomes = coset_outcomes(state, log_density, jnp.stack(masks), num_states)
    return choose(key_choose, outcomes, coset_evals(num_masks, num_states))


def check_orbit(num_masks: int, num_states: NumStates) -> None:
    """Refuse an orbit of more than 4096 positions.

    Raises:
        ValueError: the orbit is larger, or `num_masks < 1`.
    """
    length = orbit_length(num_states)
    if num_masks < 1 or length**num_masks > _LARGEST_ORBIT:
        raise ValueError(
            f"num_masks must be at least 1 and q^num_masks at most {_LARGEST_ORBIT}, got {num_masks} and "
            f"q = {length} (the least common multiple of the sites' numbers of states); fewer masks, or the "
            "mask move, which makes one evaluation."
        )


def check_pool(pool: jax.Array, state: DiscreteState) -> None:
    """Refuse a pool of another shape or type.

    Raises:
        ValueError: the pool is not an array of integers with one column for each site.
    """
    if jnp.ndim(pool) != 2 or pool.shape[0] < 1 or pool.shape[1] != state.position.size:
        raise ValueError(
            f"a pool must hold reads as rows, (R, {state.position.size}), R >= 1, got {jnp.shape(pool)}."
        )
    if not jnp.issubdtype(pool.dtype, jnp.integer):
        raise ValueError(f"a pool must hold integers 0 to q - 1, got {pool.dtype}; see build_pool.")
