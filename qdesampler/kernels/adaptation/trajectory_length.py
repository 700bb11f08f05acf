r"""Trajectory length by measured efficiency: a search over a ladder of lengths.

For every candidate length the jumps of the chains give the lag-one autocorrelation of each whitened
coordinate and of its square, `rho = 1 - E (f(x') - f(x))^2 / (2 Var f)`, and so an autocorrelation time `tau
= (1 + rho) / (1 - rho)`. The cost of an effective draw is `evaluations per draw * tau`, `tau` taken by a high
power mean over coordinates so that the slowest count. The search tries the current best length and its two
neighbours in turn and follows the cheapest. (The jump statistic is that of Pasarica and Gelman 2010; the
ratio to cost that of Hoffman, Radul and Sountsov 2021.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "LADDER",
    "LengthSearch",
    "best_length",
    "candidate",
    "record_jumps",
    "search_cost",
    "start_length_search",
]

LADDER = tuple(0.5 * 1.5**k for k in range(14))  # whitened units, 0.5 to 97
START = 3  # 1.7, close to a quarter period of a whitened Gaussian
_POWER = 4.0
_OVERHEAD = 2.0  # evaluations that a draw is worth besides its trajectory: refreshing, storing, summarising
_ENOUGH = 24.0  # jumps before a candidate's cost is believed
_GAIN = 0.9  # a longer or shorter length must cost this much less


class LengthSearch(NamedTuple):
    """Sums over the jumps made with each candidate length; `J` candidates.

    Attributes:
        centre: index of the best length so far.
        turn: jumps are made with `centre - 1`, `centre`, `centre + 1` in turn.
        jumps: number of jumps by candidate, shape `(J,)`.
        evals: evaluations spent by candidate, shape `(J,)`.
        squared: sums of squared jumps of the coordinates and of their squares, shape `(2, J, dim)`.
        moments: sums of `y, y^2, y^4` over all points, shape `(3, dim)`.
    """

    centre: jax.Array
    turn: jax.Array
    jumps: jax.Array
    evals: jax.Array
    squared: jax.Array
    moments: jax.Array


def start_length_search(dim: int) -> LengthSearch:
    """An empty search that starts at a quarter period."""
    dtype, size = jnp.result_type(float), len(LADDER)
    zeros = jnp.zeros((size,), dtype)
    index = jnp.zeros((), int)
    return LengthSearch(
        index + START, index, zeros, zeros, jnp.zeros((2, size, dim), dtype), jnp.zeros((3, dim), dtype)
    )


def candidate(search: LengthSearch) -> jax.Array:
    """Index of the length to try now."""
    return jnp.clip(search.centre + search.turn - 1, 0, len(LADDER) - 1)


def _costs(search: LengthSearch) -> jax.Array:
    """Evaluations per effective draw by candidate; `inf` where there is too little to tell."""
    total = jnp.maximum(jnp.sum(search.jumps), 1)
    mean, second, fourth = search.moments / total
    variance = jnp.stack([second - mean**2, fourth - second**2])
    variance = jnp.where(variance > 0, variance, jnp.inf)
    rho = 1 - search.squared / (2 * jnp.maximum(search.jumps, 1)[:, None] * variance[:, None, :])
    rho = jnp.clip(jnp.where(jnp.isfinite(rho), rho, 1), -0.9, 0.999)
    tau = (1 + rho) / (1 - rho)
    slow = jnp.mean(tau**_POWER, axis=(0, 2)) ** (1 / _POWER)
    cost = slow * (_OVERHEAD + search.evals / jnp.maximum(search.jumps, 1))
    return jnp.where((search.jumps >= _ENOUGH) & jnp.isfinite(cost), cost, jnp.inf)


def record_jumps(search: LengthSearch, before: jax.Array, after: jax.Array, evals: jax.Array) -> LengthSearch:
    """Count one jump of every chain, made with `candidate(search)`; move the centre to a cheaper neighbour.

    Args:
        search: the search.
        before: whitened positions, shape `(chains, dim)`.
        after: whitened positions after the move, same shape.
        evals: evaluations that each chain spent, shape `(chains,)`.
    """
    j = candidate(search)
    jump = jnp.stack([after - before, after**2 - before**2])
    sums = jnp.stack([jnp.sum(after, 0), jnp.sum(after**2, 0), jnp.sum(after**4, 0)])
    search = search._replace(
        turn=(search.turn + 1) % 3,
        jumps=search.jumps.at[j].add(before.shape[0]),
        evals=search.evals.at[j].add(jnp.sum(evals).astype(search.evals.dtype)),
        squared=search.squared.at[:, j].add(jnp.sum(jump**2, 1)),
        moments=search.moments + sums,
    )
    return search._replace(centre=_best(search))


def _best(search: LengthSearch) -> jax.Array:
    costs = _costs(search)
    here = search.centre
    near = jnp.abs(jnp.arange(len(LADDER)) - here) <= 1
    best = jnp.argmin(jnp.where(near, costs, jnp.inf))
    return jnp.where(costs[best] < _GAIN * costs[here], best, here).astype(here.dtype)


def best_length(search: LengthSearch) -> jax.Array:
    """The cheapest length found."""
    return jnp.asarray(LADDER, jnp.result_type(float))[search.centre]


def search_cost(search: LengthSearch) -> jax.Array:
    """Evaluations per effective draw at the cheapest length, overhead included; `inf` before it is known."""
    return _costs(search)[search.centre]
