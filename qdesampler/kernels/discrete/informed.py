r"""Informed local moves on bits: the imaginary-time step `e^{tau sum X}`, and flips of one site.

A step of imaginary time splits into the transverse field and the potential. The field alone flips each bit
with the odds `tanh tau`. With the potential linearised at `x`, where `d_i = f(x with bit i flipped) - f(x)`
or its estimate by the gradient, the step is again independent over bits,

    odds of flipping bit i:  tanh(tau) exp(d_i / 2),

and Metropolis makes it exact. `taylor_order` 0 is the free flip; 1 the discrete Langevin proposal (Zhang,
Liu, Liu 2022, with `e^{-1/(2 alpha)} = tanh tau`); 2 leaves the quadratic surrogate to a backend
(`qdesampler.kernels.discrete.annealer_moves.surrogate_move`).

`informed_flip` changes one bit, chosen with weights `g(exp d_i)`, `g(t) = t g(1/t)` (Zanella 2020).

References:
    Zhang, Liu, Liu, "A Langevin-like sampler for discrete distributions", ICML 2022.
    Zanella, "Informed proposals for local MCMC in discrete spaces", J. Amer. Statist. Assoc. 115 (2020) 852.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

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
    "LARGE_LOG_ODDS",
    "flip_differences",
    "flip_logits",
    "imaginary_time_move",
    "imaginary_time_outcomes",
    "informed_flip",
    "informed_outcomes",
    "informed_weights",
]

Differences = Literal["flips", "autodiff"]
Balance = Literal["sqrt", "barker"]
LARGE_LOG_ODDS = 1e4  # a change is certain beyond; kept finite so that inf - inf cannot appear


def flip_differences(
    position: jax.Array, value: jax.Array, log_density: LogDensity, differences: Differences
) -> jax.Array:
    """Return `d_i`, how much `f` rises if bit `i` is flipped, shape `(n,)`.

    "flips" evaluates all `n` neighbours and works for any code; "autodiff" takes one gradient of the
    continuous extension, `(1 - 2 x_i) df/dx_i`, which the log density must have.
    """
    if differences == "flips":
        neighbours = position ^ jnp.eye(position.size, dtype=position.dtype)
        return finite_or_low(jax.vmap(log_density)(neighbours)) - value
    point = position.astype(jnp.result_type(float))
    return (1 - 2 * point) * jax.grad(log_density)(point)


def flip_logits(differences: jax.Array, tau: ArrayLike) -> jax.Array:
    """Return the log odds of flipping each bit in one step of imaginary time `tau`."""
    tilt = jnp.where(jnp.isnan(differences), 0.0, differences) / 2
    return jnp.clip(tilt, -LARGE_LOG_ODDS, LARGE_LOG_ODDS) + jnp.log(jnp.tanh(jnp.asarray(tau, tilt.dtype)))


def _log_mask_prob(logits: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask == 1, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)))


def _logits(position, value, log_density, tau, taylor_order, differences):
    if taylor_order == 0:
        return flip_logits(jnp.zeros(position.size, jnp.result_type(float)), tau)
    return flip_logits(flip_differences(position, value, log_density, differences), tau)


def imaginary_time_outcomes(
    state: DiscreteState,
    log_density: LogDensity,
    mask: jax.Array,
    logits: jax.Array,
    tau: ArrayLike,
    taylor_order: int,
    differences: Differences,
) -> Outcomes:
    """Metropolis for the proposal `x XOR mask`, the mask drawn with `logits` at `x`."""
    proposal = state.position ^ mask.astype(state.position.dtype)
    value = log_density(proposal)
    back = _logits(proposal, value, log_density, tau, taylor_order, differences)
    correction = _log_mask_prob(back, mask) - _log_mask_prob(logits, mask)
    return metropolis_outcomes(state, proposal, value, correction)


def imaginary_time_move(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    *,
    tau: ArrayLike = 0.2,
    taylor_order: Literal[0, 1] = 1,
    differences: Differences = "flips",
) -> tuple[DiscreteState, DiscreteInfo]:
    """Make one step of imaginary time on bits, with Metropolis.

    Evaluations: 1 for order 0; for order 1 `2 n + 1` by flips, 3 by autodiff (two gradients and a value).

    Args:
        key: JAX key.
        state: where the chain is, bits.
        log_density: `f` of one position; of real numbers too, with "autodiff".
        tau: the step, positive; small steps flip few bits.
        taylor_order: 0 or 1; for 2 see `surrogate_move`.
        differences: how order 1 learns about the neighbours.

    Raises:
        ValueError: an order other than 0 and 1, or unknown differences.
    """
    if taylor_order not in (0, 1):
        raise ValueError(f"taylor_order must be 0 or 1, got {taylor_order}; for 2 use surrogate_move.")
    if differences not in ("flips", "autodiff"):
        raise ValueError(f"differences must be 'flips' or 'autodiff', got {differences!r}.")
    key_mask, key_choose = jax.random.split(key)
    logits = _logits(state.position, state.log_density, log_density, tau, taylor_order, differences)
    mask = jax.random.bernoulli(key_mask, jax.nn.sigmoid(logits)).astype(state.position.dtype)
    outcomes = imaginary_time_outcomes(state, log_density, mask, logits, tau, taylor_order, differences)
    spent = 1 if taylor_order == 0 else (2 * state.position.size + 1 if differences == "flips" else 3)
    return choose(key_choose, outcomes, spent)


def informed_weights(differences: jax.Array, balance: Balance) -> jax.Array:
    """Return the log probabilities of choosing each bit, `g(exp d_i)` normalised, shape `(n,)`."""
    d = jnp.where(
        jnp.isnan(differences), -LARGE_LOG_ODDS, jnp.clip(differences, -LARGE_LOG_ODDS, LARGE_LOG_ODDS)
    )
    return jax.nn.log_softmax(d / 2 if balance == "sqrt" else jax.nn.log_sigmoid(d))


def informed_outcomes(
    state: DiscreteState, log_density: LogDensity, site: jax.Array, weights: jax.Array, balance: Balance
) -> Outcomes:
    """Metropolis for flipping `site`, chosen with the log probabilities `weights` at `x`."""
    proposal = state.position.at[site].set(1 - state.position[site])
    value = log_density(proposal)
    back = informed_weights(flip_differences(proposal, value, log_density, "flips"), balance)
    return metropolis_outcomes(state, proposal, value, back[site] - weights[site])


def informed_flip(
    key: jax.Array, state: DiscreteState, log_density: LogDensity, *, balance: Balance = "barker"
) -> tuple[DiscreteState, DiscreteInfo]:
    """Flip one bit, chosen by what its flip would gain; `2 n + 1` evaluations.

    Args:
        key: JAX key.
        state: where the chain is, bits.
        log_density: `f` of one position.
        balance: `g`: "sqrt", `t^(1/2)`, or "barker", `t / (1 + t)`, which does not run to extremes.

    Raises:
        ValueError: an unknown balance.
    """
    if balance not in ("sqrt", "barker"):
        raise ValueError(f"balance must be 'sqrt' or 'barker', got {balance!r}.")
    key_site, key_choose = jax.random.split(key)
    differences = flip_differences(state.position, state.log_density, log_density, "flips")
    weights = informed_weights(differences, balance)
    site = jax.random.categorical(key_site, weights)
    outcomes = informed_outcomes(state, log_density, site, weights, balance)
    return choose(key_choose, outcomes, 2 * state.position.size + 1)
