r"""Markov moves on bits and on sites of `q` states: their common parts.

Every move is a pure function

    move(key, state, log_density, ...) -> (state, info)

of a position in `{0, ..., q-1}^n` and a log density `f = log pi` up to a constant, and leaves `pi` invariant
exactly. It is made of two steps. First something is drawn that fixes a finite set of outcomes and their
probabilities (a mask, a proposal, a set of reads); then one `Outcomes` is chosen. The second step is a
function that the tests enumerate: the transition matrix is the average of its rows.

What a move may assume of an annealer is in `ACCEPTED_LAWS`; `require_law` refuses the rest, with the reason.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.backends.protocol import AnnealingBackend, Law

__all__ = [
    "ACCEPTED_LAWS",
    "DiscreteInfo",
    "DiscreteState",
    "Outcomes",
    "choose",
    "init_discrete",
    "metropolis_outcomes",
    "require_law",
]

LogDensity = Callable[[jax.Array], jax.Array]

_ALL: tuple[Law, ...] = get_args(Law)
ACCEPTED_LAWS: dict[str, tuple[Law, ...]] = {
    "local": _ALL,
    "mask": _ALL,
    "coset": _ALL,
    "independence": ("density",),
    "annealed_importance": ("weighted",),
    "surrogate": ("reversible",),
    "symmetric": ("symmetric",),
}
_REASONS = {
    "independence": "it divides by the probability of each draw, so that must be known",
    "annealed_importance": "it needs weights that make the draws properly weighted",
    "surrogate": "its acceptance is right only for a transition reversible with respect to exp(-beta E)",
    "symmetric": "it accepts with pi(x') / pi(x), which is right only if K(x, x') = K(x', x)",
}


class DiscreteState(NamedTuple):
    """Where a chain is.

    Attributes:
        position: integers `0, ..., q - 1`, shape `(n,)`.
        log_density: `f` there, shape `()`.
    """

    position: jax.Array
    log_density: jax.Array


class DiscreteInfo(NamedTuple):
    """What happened in one move.

    Attributes:
        accept_prob: probability, before it was decided, that the position would change.
        num_evals: evaluations of the log density.
        num_invalid: outcomes whose log density was NaN or +inf; they are never entered.
    """

    accept_prob: jax.Array
    num_evals: jax.Array
    num_invalid: jax.Array


class Outcomes(NamedTuple):
    """A finite law over next positions; the first row is the current one.

    Attributes:
        positions: shape `(K, n)`.
        log_density: `f` of each, shape `(K,)`.
        log_prob: log probability of each, normalised, shape `(K,)`.
        num_invalid: how many had a log density of NaN or +inf, replaced by -inf.
    """

    positions: jax.Array
    log_density: jax.Array
    log_prob: jax.Array
    num_invalid: Any = 0


def init_discrete(position: ArrayLike, log_density: LogDensity) -> DiscreteState:
    """Return the state of a chain at `position`.

    Raises:
        TypeError: `position` does not hold integers.
        ValueError: it is not one point, shape `(n,)`.
    """
    position = jnp.asarray(position)
    if not jnp.issubdtype(position.dtype, jnp.integer):
        raise TypeError(f"a position must hold integers 0 to q - 1, got {position.dtype}.")
    if position.ndim != 1:
        raise ValueError(f"a position must be one point (n,), got shape {position.shape}; batch with vmap.")
    return DiscreteState(position, log_density(position))


def require_law(move: str, backend: AnnealingBackend, *, jittable: bool = True) -> None:
    """Refuse a backend whose draws a move may not use.

    Raises:
        TypeError: not a backend; its law is not accepted; or it cannot be called inside a chain.
        ValueError: there is no such move.
    """
    if move not in ACCEPTED_LAWS:
        raise ValueError(f"no move {move!r}; there are {', '.join(sorted(ACCEPTED_LAWS))}.")
    if not isinstance(backend, AnnealingBackend):
        raise TypeError(f"expected an annealing backend, got {type(backend).__name__}.")
    law, accepted = backend.capabilities.law, ACCEPTED_LAWS[move]
    if law not in accepted:
        raise TypeError(
            f"the {move} move does not take {type(backend).__name__}, whose draws have law {law!r}: "
            f"{_REASONS[move]}. It takes {' or '.join(accepted)}; the mask and coset moves take any."
        )
    if jittable and not backend.capabilities.jittable:
        raise TypeError(
            f"{type(backend).__name__} cannot run inside a chain: fill a pool with build_pool before the run "
            "and use the mask or coset move."
        )


def is_invalid(log_density: jax.Array) -> jax.Array:
    """Whether a log density is NaN or +inf."""
    return jnp.isnan(log_density) | (log_density == jnp.inf)


def finite_or_low(log_density: jax.Array) -> jax.Array:
    """Return -inf for NaN and +inf, which no log density may be: such positions are never entered."""
    return jnp.where(is_invalid(log_density), -jnp.inf, log_density)


def metropolis_outcomes(
    state: DiscreteState, proposal: jax.Array, log_density: jax.Array, log_correction: ArrayLike = 0.0
) -> Outcomes:
    """Accept `proposal` with `min(1, exp(f(x') - f(x) + log_correction))`.

    Args:
        state: where the chain is.
        proposal: `x'`.
        log_density: `f(x')`.
        log_correction: `log q(x | x') - log q(x' | x)`; common terms may be left out of both.
    """
    invalid = jnp.sum(is_invalid(log_density))
    log_density = finite_or_low(log_density)
    log_ratio = log_density - state.log_density + log_correction
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    taken = jnp.minimum(log_ratio, 0.0)
    refused = jnp.log(-jnp.expm1(taken))
    return Outcomes(
        jnp.stack([state.position, proposal.astype(state.position.dtype)]),
        jnp.stack([state.log_density, log_density.astype(state.log_density.dtype)]),
        jnp.stack([refused, taken]),
        invalid,
    )


def choose(key: jax.Array, outcomes: Outcomes, num_evals: Any) -> tuple[DiscreteState, DiscreteInfo]:
    """Draw the next state from `outcomes`."""
    row = jax.random.categorical(key, outcomes.log_prob)
    stays = jnp.all(outcomes.positions == outcomes.positions[0], -1)
    moved = jnp.sum(jnp.where(stays, 0.0, jnp.exp(outcomes.log_prob)))
    state = DiscreteState(outcomes.positions[row], outcomes.log_density[row])
    return state, DiscreteInfo(moved, jnp.asarray(num_evals), jnp.asarray(outcomes.num_invalid))
