"""Surrogates against the truth over all positions: equal where it is quadratic, and found out where not."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.backends.encoding import StateEncoding
from qdesampler.backends.surrogate import (
    extension_error,
    finite_difference_surrogate,
    taylor_surrogate,
    third_difference,
)
from qdesampler.backends.surrogate_fit import least_squares_surrogate, pseudo_likelihood_surrogate

SITES = StateEncoding((2, 3, 4, 2))
ALL = jnp.array(list(itertools.product(*map(range, SITES.num_states))), jnp.int32)


@pytest.fixture
def pairwise(x64):
    rng = np.random.default_rng(0)
    sizes = SITES.num_states
    tables = {(i, j): jnp.asarray(rng.normal(size=(sizes[i], sizes[j]))) for i in range(4) for j in range(i)}
    return lambda x: sum(table[x[i], x[j]] for (i, j), table in tables.items())


def test_the_code_goes_there_and_back():
    bits = SITES.encode(ALL)
    assert np.array_equal(SITES.decode(bits), ALL)
    assert np.all(SITES.is_position(bits))
    every = jnp.array(list(itertools.product(range(2), repeat=SITES.num_bits)))
    assert int(SITES.is_position(every).sum()) == len(ALL)
    with pytest.raises(ValueError, match="at least 2 states"):
        StateEncoding((2, 1))


def test_finite_differences_and_least_squares_are_exact_for_pairwise_laws(pairwise):
    truth = jax.vmap(pairwise)(ALL)
    found = finite_difference_surrogate(pairwise, jnp.array([1, 2, 3, 0]), SITES)
    assert found.num_evals == 1 + SITES.num_bits + len(SITES.pairs[0])
    np.testing.assert_allclose(found.log_density(SITES, ALL), truth, atol=1e-12)
    fitted = least_squares_surrogate(ALL, truth, SITES, ridge=1e-12)
    np.testing.assert_allclose(fitted.log_density(SITES, ALL), truth, atol=1e-7)
    # positions win over bits that stand for none
    every = jnp.array(list(itertools.product(range(2), repeat=SITES.num_bits)))
    best = jnp.argmin(found.problem.energies(2 * every - 1))
    assert SITES.is_position(every[best])


def test_third_differences_tell_quadratic_from_cubic(pairwise):
    key, start = jax.random.key(0), ALL[3]
    assert third_difference(pairwise, start, SITES, key=key) < 100
    cubic = lambda x: pairwise(x) + 0.1 * x[0] * x[1] * x[2]  # noqa: E731
    assert third_difference(cubic, start, SITES, key=key, trials=40) > 1e6
    nowhere = lambda x: jnp.where(x[0] == 0, -jnp.inf, 0.0)  # noqa: E731
    assert third_difference(nowhere, start, SITES, key=key) == jnp.inf


def test_pseudo_likelihood_recovers_the_law_of_the_draws(pairwise):
    log_p = jax.nn.log_softmax(jax.vmap(pairwise)(ALL))
    draws = ALL[jax.random.categorical(jax.random.key(0), log_p, shape=(20_000,))]
    found = pseudo_likelihood_surrogate(draws, SITES, ridge=1e-3, num_steps=400)
    q = jax.nn.softmax(found.log_density(SITES, ALL))
    assert 0.5 * jnp.abs(q - jnp.exp(log_p)).sum() < 0.06
    assert 0.5 * jnp.abs(1 / len(ALL) - jnp.exp(log_p)).sum() > 0.3


def test_taylor_is_exact_for_quadratics_and_extensions_that_lie_are_found(x64):
    bits = StateEncoding((2,) * 5)
    A = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)))
    anchor, key = jnp.array([1, 0, 1, 1, 0]), jax.random.key(0)
    every = jnp.array(list(itertools.product(range(2), repeat=5)))
    quadratic = lambda x: x @ A @ x  # noqa: E731
    found = taylor_surrogate(quadratic, anchor, bits)
    np.testing.assert_allclose(found.log_density(bits, every), jax.vmap(quadratic)(every), atol=1e-12)
    assert extension_error(quadratic, anchor, bits, key=key) < 1e-12
    flat = lambda x: jnp.sum(jnp.where(x > 0.5, 2.0, -1.0))  # noqa: E731
    assert extension_error(flat, anchor, bits, key=key) == 1
    with pytest.raises(ValueError, match="sites of two states"):
        taylor_surrogate(quadratic, jnp.zeros(4, int), SITES)
    with pytest.raises(ValueError, match="finite density"):
        finite_difference_surrogate(lambda x: -jnp.inf + 0.0 * x[0], anchor, bits)
    with pytest.raises(ValueError, match="one value each"):
        least_squares_surrogate(every, jnp.zeros(3), bits)
