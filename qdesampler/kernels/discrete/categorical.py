r"""The imaginary-time step for sites of any numbers of states.

The transverse field drives a site with `q` states equally to each of the others. With the potential
linearised at `x`, `d_ic = f(x with site i at c) - f(x)`, the step is independent over sites,

    P(x_i -> c) ~ 1 if c = x_i, else tanh(tau) exp(d_ic / 2),

which for `q = 2` is the step on bits (`qdesampler.kernels.discrete.informed`); `taylor_order` 0 leaves
out `d`. Metropolis makes both exact.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.kernels.discrete.informed import LARGE_LOG_ODDS
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
    "state_differences",
    "state_log_probs",
]


def state_differences(
    position: jax.Array, value: jax.Array, log_density: LogDensity, num_states: tuple[int, ...]
) -> jax.Array:
    """Return `d_ic = f(x with site i at state c) - f(x)`, shape `(n, max q)`; -inf beyond a site's states.

    `sum_i q_i` evaluations: the current states are evaluated with the others, which keeps the shape fixed.
    States beyond a site's own are never evaluated.
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
    logits = jnp.where(tilt == -jnp.inf, -jnp.inf, jnp.clip(tilt, -LARGE_LOG_ODDS, LARGE_LOG_ODDS))
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
