"""Newcomb's speed of light: a normal law with its conjugate prior, known in closed form."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(y):
    """Measurements from a normal law of unknown mean and variance.

    Args:
        y: passage times as deviations from 24,800 ns, shape ``(measurements,)``; None draws from the prior
            predictive, 66 of them.
    """
    variance = numpyro.sample("variance", dist.InverseGamma(3, 200))
    mean = numpyro.sample("mean", dist.Normal(25, jnp.sqrt(variance / 0.1)))
    with numpyro.plate("measurement", 66 if y is None else len(y)):
        numpyro.sample("y", dist.Normal(mean, jnp.sqrt(variance)), obs=y)
