"""The length search finds the cheapest length of its grid, whatever end it has to go to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.adaptation.trajectory_length import (
    LENGTH_GRID,
    best_length,
    next_index,
    record_jumps,
    start_length_search,
)

CHAINS, DIM = 4, 5


def search_on(correlation, evals_per_length, rounds=600, seed=0):
    """Jumps of Gaussian coordinates whose lag-one correlation is a known function of the length."""
    grid = jnp.asarray(LENGTH_GRID)

    def body(carry, key):
        search, y = carry
        length = grid[next_index(search)]
        rho = correlation(length)
        new = rho * y + jnp.sqrt(1 - rho**2) * jax.random.normal(key, y.shape)
        evals = jnp.full((CHAINS,), jnp.maximum(1, jnp.round(length * evals_per_length)))
        return (record_jumps(search, y, new, evals), new), None

    key, key_start = jax.random.split(jax.random.key(seed))
    start = (start_length_search(DIM), jax.random.normal(key_start, (CHAINS, DIM)))
    (search, _), _ = jax.jit(lambda: jax.lax.scan(body, start, jax.random.split(key, rounds)))()
    return search


def cheapest(correlation, evals_per_length):
    grid = np.asarray(LENGTH_GRID)
    rho = np.clip(np.asarray(correlation(jnp.asarray(grid))), -0.9, 0.999)
    tau = np.maximum((1 + rho) / (1 - rho), (1 + rho**2) / (1 - rho**2))
    return np.maximum(1, np.round(grid * evals_per_length)) * tau


@pytest.mark.parametrize(
    ("slowness", "evals_per_length"), [(1.0, 3.0), (8.0, 3.0), (0.4, 4.0)], ids=["usual", "long", "short"]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_ends_within_a_fifth_of_the_cheapest(slowness, evals_per_length, seed):
    def correlation(length):
        return jnp.exp(-((length / slowness) ** 2))

    search = search_on(correlation, evals_per_length, seed=seed)
    costs = cheapest(correlation, evals_per_length)
    assert costs[int(search.centre)] < 1.2 * costs.min()
    assert float(best_length(search)) == pytest.approx(LENGTH_GRID[int(search.centre)])


def test_constant_coordinates_do_not_break_the_search():
    search = start_length_search(2)
    still = jnp.zeros((CHAINS, 2))
    for _ in range(30):
        search = record_jumps(search, still, still, jnp.ones(CHAINS))
    assert 0 <= int(search.centre) < len(LENGTH_GRID)
    assert np.isfinite(float(best_length(search)))
