"""Neal's funnel in ten dimensions: a scale that ranges over orders of magnitude, centred on purpose."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model():
    """``v ~ N(0, 3)`` and nine values ``x ~ N(0, exp(v / 2))``; there are no data."""
    v = numpyro.sample("v", dist.Normal(0, 3))
    with numpyro.plate("axis", 9):
        numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)))
