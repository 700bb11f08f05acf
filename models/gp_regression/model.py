"""Gaussian process regression: the posterior of its hyperparameters, with the function integrated out."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(x, y):
    """Observations of a Gaussian process with a squared exponential kernel.

    Args:
        x: inputs, shape ``(points,)``.
        y: observations, shape ``(points,)``; None draws from the prior predictive.
    """
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    distance = (x[:, None] - x) / rho
    covariance = alpha**2 * jnp.exp(-0.5 * distance**2) + sigma * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(0, covariance), obs=y)
