"""A horseshoe: twenty predictors of which a few matter, shrunk by a global and by local scales."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

GLOBAL_SCALE = 0.1


def model(X, y):
    """Linear regression with non-centred coefficients.

    Args:
        X: predictors, shape ``(rows, predictors)``.
        y: outcomes, shape ``(rows,)``; None draws them from the prior predictive.
    """
    variance = numpyro.sample("variance", dist.InverseGamma(2, 1))
    tau = numpyro.sample("tau", dist.HalfCauchy(GLOBAL_SCALE))
    numpyro.deterministic("log_tau", jnp.log(tau))
    with numpyro.plate("predictor", X.shape[1]):
        local = numpyro.sample("local", dist.HalfCauchy(1))
        z = numpyro.sample("z", dist.Normal(0, 1))
        beta = numpyro.deterministic("beta", tau * local * z)
    with numpyro.plate("row", len(X)):
        numpyro.sample("y", dist.Normal(X @ beta, jnp.sqrt(variance)), obs=y)
