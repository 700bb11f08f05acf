r"""Trajectory length by measured efficiency: a search over a grid of lengths.

For every length of the grid the jumps of the chains give the lag-one autocorrelation of each whitened
coordinate and of its square, `rho = 1 - E (f(x') - f(x))^2 / (2 Var f)`, and from it an autocorrelation time
`tau = (1 + rho) / (1 - rho)`. The cost of an effective draw is `evaluations per draw * tau`, with a high
power mean of `tau` over coordinates so that the slowest ones count. The search tries the current best length
and its two neighbours in turn and moves to the cheapest. (The jump statistic is that of Pasarica and Gelman
2010, its ratio to the cost that of Hoffman, Radul and Sountsov 2021.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "LENGTH_GRID",
    "LengthSearch",
    "best_length",
    "next_index",
    "record_jumps",
    "search_cost",
    "start_length_search",
]

LENGTH_GRID = tuple(0.5 * 1.5**k for k in range(14))  # whitened units, 0.5 to 97
START_INDEX = 3  # of the grid: 1.7, close to a quarter period of a whitened Gaussian
_POWER = 4.0  # of the mean of the autocorrelation times over coordinates
_OVERHEAD = 2.0  # evaluations that the rest of a draw costs: refreshing, storing, summarising
_ENOUGH = 24.0  # jumps of a length from which its cost is used
_GAIN = 0.9  # cost of a neighbouring length, relative to the present one, below which the search moves
_LEAST_RHO, _MOST_RHO = -0.9, 0.999  # bounds of the lag-one autocorrelation


class LengthSearch(NamedTuple):
    """Sums over the jumps made with each length of the grid; `J` lengths.

    Attributes:
        centre: index of the best length so far.
        turn: jumps are made with `centre - 1`, `centre`, `centre + 1` in turn.
        jumps: number of jumps by length, shape `(J,)`.
        evals: evaluations by length, shape `(J,)`.
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
    dtype, size = jnp.result_type(float), len(LENGTH_GRID)
    zeros = jnp.zeros((size,), dtype)
    index = jnp.zeros((), int)
    return LengthSearch(
        index + START_INDEX, index, zeros, zeros, jnp.zeros((2, size, dim), dtype), jnp.zeros((3, dim), dtype)
    )


def next_index(search: LengthSearch) -> jax.Array:
    """Index of the length to try now."""
    return jnp.clip(search.centre + search.turn - 1, 0, len(LENGTH_GRID) - 1)


def _costs(search: LengthSearch) -> jax.Array:
    """Evaluations per effective draw by length; `inf` for a length with too few jumps."""
    total = jnp.maximum(jnp.sum(search.jumps), 1)
    mean, second, fourth = search.moments / total
    variance = jnp.stack([second - mean**2, fourth - second**2])
    variance = jnp.where(variance > 0, variance, jnp.inf)
    rho = 1 - search.squared / (2 * jnp.maximum(search.jumps, 1)[:, None] * variance[:, None, :])
    rho = jnp.clip(jnp.where(jnp.isfinite(rho), rho, 1), _LEAST_RHO, _MOST_RHO)
    tau = (1 + rho) / (1 - rho)
    slow = jnp.mean(tau**_POWER, axis=(0, 2)) ** (1 / _POWER)
    cost = slow * (_OVERHEAD + search.evals / jnp.maximum(search.jumps, 1))
    return jnp.where((search.jumps >= _ENOUGH) & jnp.isfinite(cost), cost, jnp.inf)


def record_jumps(search: LengthSearch, before: jax.Array, after: jax.Array, evals: jax.Array) -> LengthSearch:
    """Count one jump of every chain with the length `next_index`; move the centre to a cheaper neighbour.

    Args:
        search: the search.
        before: whitened positions, shape `(chains, dim)`.
        after: whitened positions after the move, same shape.
        evals: evaluations that each chain spent, shape `(chains,)`.
    """
    j = next_index(search)
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
    near = jnp.abs(jnp.arange(len(LENGTH_GRID)) - here) <= 1
    best = jnp.argmin(jnp.where(near, costs, jnp.inf))
    return jnp.where(costs[best] < _GAIN * costs[here], best, here).astype(here.dtype)


def best_length(search: LengthSearch) -> jax.Array:
    """The cheapest length found."""
    return jnp.asarray(LENGTH_GRID, jnp.result_type(float))[search.centre]


def search_cost(search: LengthSearch) -> jax.Array:
    """Evaluations per effective draw at the cheapest length, overhead included; `inf` before it is known."""
    return _costs(search)[search.centre]
