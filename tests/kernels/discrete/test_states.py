"""Moves on sites of unequal numbers of states, and permutations: enumerated, with a wrong twin."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.discrete.categorical import (
    imaginary_time_states_outcomes,
    state_differences,
    state_log_probs,
)
from qdesampler.kernels.discrete.masks import coset_outcomes, mask_outcomes
from qdesampler.kernels.discrete.outcomes import DiscreteState, metropolis_outcomes
from qdesampler.kernels.discrete.permutations import (
    permutation_outcomes,
    pool_transpositions,
    site_transpositions,
)

BOUND = 1e-10


def target(sizes):
    points = np.array(list(itertools.product(*map(range, sizes))))
    values = 1.5 * np.random.default_rng(0).normal(size=len(points))
    values[3] = -np.inf
    powers = np.append(np.cumprod(sizes[::-1])[::-1][1:], 1)
    table, pi = jnp.asarray(values), np.exp(values)
    return points, powers, pi / pi.sum(), lambda x: table[jnp.sum(x * powers)]


def matrix(outcomes, cases, weights, points, powers, log_density):
    weights = jnp.broadcast_to(weights, (len(points), len(cases)))

    def rows(x, weight):
        def one(case, w):
            found = outcomes(DiscreteState(x, log_density(x)), case)
            return jnp.zeros(len(points)).at[found.positions @ powers].add(w * jnp.exp(found.log_prob))

        return jax.vmap(one)(cases, weight).sum(0)

    return np.asarray(jax.jit(jax.vmap(rows))(jnp.asarray(points), weights))


def test_masks_and_cosets_are_exact_for_unequal_sites(x64):
    sizes = (2, 3, 2)
    points, powers, pi, f = target(sizes)
    masks = jnp.array([[1, 2, 0], [1, 1, 0], [0, 1, 1], [0, 2, 1]])  # each with its negative
    mask = matrix(lambda s, m: mask_outcomes(s, f, m, sizes), masks, 0.25, points, powers, f)
    assert np.abs(pi @ mask - pi).max() < BOUND
    pairs = jnp.stack([masks, masks[::-1]], 1)
    coset = matrix(lambda s, m: coset_outcomes(s, f, m, sizes), pairs, 0.25, points, powers, f)
    assert np.abs(pi @ coset - pi).max() < BOUND


@pytest.mark.parametrize("order", [0, 1])
def test_imaginary_time_is_exact_for_unequal_sites(order, x64):
    sizes = (2, 3, 2)
    points, powers, pi, f = target(sizes)
    allowed = jnp.where(np.arange(3) < np.array(sizes)[:, None], 0.0, -jnp.inf)

    def log_probs(x):
        return state_log_probs(x, state_differences(x, f(x), f, sizes) if order else allowed, 0.4)

    def outcomes(s, y):
        return imaginary_time_states_outcomes(s, f, y, log_probs(s.position), sizes, 0.4, order)

    def forgets(s, y):
        return metropolis_outcomes(s, y, f(y))

    x = jnp.asarray(points)
    inside = pi > 0
    tables = jax.vmap(log_probs)(x)
    weights = jnp.exp(sum(tables[:, i, :][:, x[:, i]] for i in range(3)))
    right = matrix(outcomes, x, weights, points, powers, f)
    assert np.abs((pi @ right - pi)[inside]).max() < BOUND
    if order:
        assert np.abs(pi @ matrix(forgets, x, weights, points, powers, f) - pi).max() > 1e-3


@pytest.mark.parametrize("kind", ["pool", "sites"])
def test_permutations_are_exact_and_keep_counts(kind, x64):
    sizes = (3,) * 4
    points, powers, pi, f = target(sizes)
    pool = jnp.array([[0, 1, 2, 0], [1, 0, 2, 1], [2, 2, 0, 0]])
    keys = jax.random.split(jax.random.key(0), 60)
    draw = {
        "pool": lambda k: pool_transpositions(k, pool, 2),
        "sites": lambda k: site_transpositions(k, 4, 2),
    }
    cases = jax.vmap(draw[kind])(keys)
    assert np.all(np.take_along_axis(np.asarray(cases), np.asarray(cases), -1) == np.arange(4))
    P = matrix(lambda s, m: permutation_outcomes(s, f, m), cases, 1 / 60, points, powers, f)
    assert np.abs(pi @ P - pi).max() < BOUND
    counts = np.sort(points, 1)
    changed = np.any(counts[:, None] != counts, -1)
    assert np.all(P[changed] == 0)
    assert (P.diagonal() < 0.999).sum() > 40
