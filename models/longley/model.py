"""Longley's regression: six predictors that are all but one another, known in closed form."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """Predictors and employment with mean 0 and standard deviation 1 (divisor 16)."""
    X, y = data["predictors"], data["employed"]
    return {"X": (X - X.mean(0)) / X.std(0), "y": (y - y.mean()) / y.std()}


def model(X, y):
    """A linear regression with its conjugate prior.

    Args:
        X: standardised predictors, shape ``(years, predictors)``.
        y: standardised employment, shape ``(years,)``; None draws from the prior predictive.
    """
    variance = numpyro.sample("variance", dist.InverseGamma(2, 0.05))
    with numpyro.plate("predictor", X.shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0, 100 * jnp.sqrt(variance)))
    with numpyro.plate("year", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ beta, jnp.sqrt(variance)), obs=y)
