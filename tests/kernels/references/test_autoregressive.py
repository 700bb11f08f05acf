"""The autoregressive Gaussian: normalised, drawn from exactly, and fitted to funnels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.autoregressive import (
    WIDER,
    autoregressive_distance,
    autoregressive_draw,
    autoregressive_log_density,
    blank_autoregressive,
    fit_autoregressive,
)

DIM = 5


def funnel(x):
    leaves = jnp.sum(-0.5 * x[:-1] ** 2 * jnp.exp(-x[-1]) - 0.5 * x[-1])
    return -0.5 * (x[-1] / 2) ** 2 - jnp.log(2.0) + leaves - 0.5 * DIM * jnp.log(2 * jnp.pi)


def funnel_draws(key, n):
    """Neal's funnel with its neck's coordinate last, so that the order has to be found."""
    noise = jax.random.normal(key, (n, DIM))
    neck = 2 * noise[:, -1:]
    return jnp.concatenate([jnp.exp(neck / 2) * noise[:, :-1], neck], 1)


@pytest.fixture(scope="module")
def fitted():
    return jax.jit(fit_autoregressive)(funnel_draws(jax.random.key(0), 2048))


def divergence(law, log_density, draws):
    """`E_p log p/q`."""
    return float(jnp.mean(jax.vmap(lambda x: log_density(x) - autoregressive_log_density(law, x))(draws)))


def test_its_density_is_that_of_its_draws(fitted):
    """By the change of variables: `log q(x) = log N(z) - log |det dx/dz|`."""
    noise = jax.random.normal(jax.random.key(1), (DIM,))
    x = autoregressive_draw(fitted, noise)
    jacobian = jax.jacfwd(lambda z: autoregressive_draw(fitted, z))(noise)
    normal = -0.5 * jnp.sum(noise**2) - 0.5 * DIM * jnp.log(2 * jnp.pi)
    expected = normal - jnp.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(autoregressive_log_density(fitted, x), expected, rtol=1e-4)
    np.testing.assert_allclose(autoregressive_distance(fitted, x), jnp.sum(noise**2), rtol=1e-4)


def test_it_fits_a_funnel_whose_neck_comes_last(fitted):
    assert int(fitted.order[0]) == DIM - 1
    mean = divergence(fitted, funnel, funnel_draws(jax.random.key(2), 4000))
    # A neck drawn wider by w costs log w - (1 - 1/w^2) / 2; the rest is the fit's.
    assert 0 <= mean - (np.log(WIDER) - 0.5 * (1 - WIDER**-2)) < 0.03
    # A Gaussian, which is what one without slopes is, does not.
    draws = funnel_draws(jax.random.key(0), 2048)
    gaussian = blank_autoregressive(jnp.mean(draws, 0), jnp.std(draws, 0), DIM)
    assert divergence(gaussian, funnel, funnel_draws(jax.random.key(2), 4000)) > 1


def test_on_a_gaussian_no_width_depends_on_anything():
    factor = jnp.tril(jnp.ones((DIM, DIM))) + jnp.eye(DIM)
    draws = jax.random.normal(jax.random.key(3), (2048, DIM)) @ factor.T
    law = jax.jit(fit_autoregressive)(draws)
    assert np.all(np.asarray(law.log_slopes) == 0)
    constant = -0.5 * DIM * jnp.log(2 * jnp.pi) - jnp.sum(jnp.log(jnp.diagonal(factor)))

    def log_density(x):
        return constant - 0.5 * jnp.sum(jnp.linalg.solve(factor, x) ** 2)

    fresh = jax.random.normal(jax.random.key(4), (4000, DIM)) @ factor.T
    assert 0 <= divergence(law, log_density, fresh) < 0.02


def test_a_reference_draws_from_it_and_counts_its_distances(fitted):
    prior = references.gaussian_reference(jnp.zeros(DIM), jnp.full(DIM, 10.0), 3)
    only = references.with_log_weights(prior, jnp.full(5, -jnp.inf).at[-1].set(0))._replace(
        autoregressive=fitted
    )
    both = references.add_component(only, 2, prior.means[0], prior.whiteners[0], jnp.asarray(0.3))
    np.testing.assert_allclose(jax.nn.logsumexp(references.log_weights_of(both)), 0, atol=1e-6)
    draws = jax.vmap(lambda key: references.draw(both, key))(jax.random.split(jax.random.key(5), 4000))
    # E_q 1 = int q: what one part of the mixture is of the whole, by draws of all of it
    parts = jax.vmap(lambda x: autoregressive_log_density(fitted, x) - references.log_density(both, x))(draws)
    mean, error = float(jnp.mean(jnp.exp(parts))), float(jnp.std(jnp.exp(parts))) / np.sqrt(4000)
    assert error < 0.02
    assert abs(mean - 1) < 4 * error
    x = draws[0]
    np.testing.assert_allclose(references.squared_distances(only, x)[-1], autoregressive_distance(fitted, x))
    assert np.all(np.isinf(references.squared_distances(only, x)[:-1]))
