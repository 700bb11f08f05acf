"""Brownlee's stack loss: a regression that outliers shall not decide, with Student-t noise."""

import numpyro
import numpyro.distributions as dist


def prepare(data):
    """Predictors with mean 0 and standard deviation 1 (divisor 21)."""
    X = data["predictors"]
    return {"X": (X - X.mean(0)) / X.std(0), "y": data["loss"]}


def model(X, y):
    """A linear regression whose noise has unknown degrees of freedom.

    Args:
        X: standardised predictors, shape ``(days, predictors)``.
        y: loss of ammonia, shape ``(days,)``; None draws from the prior predictive.
    """
    alpha = numpyro.sample("alpha", dist.Normal(17, 10))
    with numpyro.plate("predictor", X.shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0, 10))
    sigma = numpyro.sample("sigma", dist.HalfNormal(5))
    nu = numpyro.sample("nu", dist.Gamma(2, 0.1))
    with numpyro.plate("day", X.shape[0]):
        numpyro.sample("y", dist.StudentT(nu, alpha + X @ beta, sigma), obs=y)
