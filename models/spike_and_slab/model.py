"""Choice of predictors: a spike and a slab, with the coefficients integrated out."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(X, y):
    """Which predictors take part, given that those that do have coefficients N(0, 1).

    Args:
        X: predictors, shape ``(points, predictors)``.
        y: shape ``(points,)``, with noise of standard deviation 1.
    """
    with numpyro.plate("predictor", X.shape[1]):
        included = numpyro.sample("included", dist.Bernoulli(0.3))
    covariance = jnp.eye(X.shape[0]) + (X * included) @ X.T
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(X.shape[0]), covariance), obs=y)
