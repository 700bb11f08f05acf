"""Fitted mixtures and products are normalised, drawn from exactly, and keep narrow clusters narrow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.mixture_fit import fit_mixture, fit_product


def test_a_fitted_mixture_is_normalised_and_is_drawn_from_exactly():
    key = jax.random.key(3)
    points = jnp.concatenate(
        [jax.random.normal(key, (300, 2)) * 0.5 + 3, jax.random.normal(key, (100, 2)) - 3]
    )
    mixture = fit_mixture(jax.random.key(4), points, 2)
    axis = jnp.linspace(-12, 12, 301)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = np.exp(np.asarray(jax.vmap(lambda x: references.log_density(mixture, x))(grid)))
    np.testing.assert_allclose(density.sum() * float(axis[1] - axis[0]) ** 2, 1, atol=2e-3)
    draws = jax.vmap(lambda k: references.draw(mixture, k))(jax.random.split(jax.random.key(5), 8000))
    share = float(jnp.mean(draws[:, 0] > 0))
    assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 8000) + 0.01
    np.testing.assert_allclose(jnp.mean(draws, 0), np.asarray(density @ grid / density.sum()), atol=0.2)


def test_a_fitted_product_is_normalised_drawn_from_exactly_and_holds_every_combination_of_modes():
    signs = np.random.default_rng(6).choice([-1.0, 1.0], (600, 3), p=[0.3, 0.7])
    points = jnp.asarray(2 * signs + 0.3 * np.random.default_rng(7).normal(size=signs.shape), float)
    wide = references.gaussian_reference(jnp.zeros(3), jnp.ones(3), 2)
    off = jnp.full(2, -jnp.inf)
    product = fit_product(jax.random.key(0), points)
    reference = wide._replace(log_weights=off, product_log_weight=jnp.zeros(()), product=product)
    axis = jnp.linspace(-4, 4, 81)
    grid = jnp.stack(jnp.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    density = np.exp(np.asarray(jax.vmap(lambda x: references.log_density(reference, x))(grid)))
    np.testing.assert_allclose(density.sum() * 0.1**3, 1, atol=2e-2)
    draws = jax.vmap(lambda k: references.draw(reference, k))(jax.random.split(jax.random.key(1), 4000))
    octants = np.asarray(draws > 0) @ np.array([1, 2, 4])
    expected = np.prod(np.where(np.array([[i >> k & 1 for k in range(3)] for i in range(8)]), 0.7, 0.3), 1)
    np.testing.assert_allclose(np.bincount(octants, minlength=8) / 4000, expected, atol=0.06)
    # A Gaussian beside it keeps the whole normalised.
    both = references.add_component(reference, 1, jnp.zeros(3), jnp.eye(3), jnp.asarray(0.25))
    weights = jnp.append(both.log_weights, both.product_log_weight)
    np.testing.assert_allclose(jax.nn.logsumexp(weights), 0, atol=1e-6)


@pytest.mark.slow
def test_narrow_clusters_stay_narrow_beside_wide_ones():
    rng = np.random.default_rng(9)
    narrow, wide = 0.02 * rng.normal(size=(200, 6)), 5 + rng.normal(size=(200, 6))
    mixture = fit_mixture(jax.random.key(0), jnp.asarray(np.concatenate([narrow, wide]), float), 16)
    at = references.log_density(mixture, jnp.full(6, 0.01))
    truth = np.log(0.5) - 6 * np.log(0.02 * np.sqrt(2 * np.pi)) - 0.5 * 6 * 0.25
    assert abs(float(at) - truth) < 2
