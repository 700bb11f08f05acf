"""The same posterior in other coordinates, from which the reference was made: the log variances as sites."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def model(y):
    """Centred: `h` has the density of the autoregression, given as a factor."""
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    persistence = numpyro.sample("persistence", dist.Beta(20, 1.5))
    phi = numpyro.deterministic("phi", 2 * persistence - 1)
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    h = jnp.asarray(numpyro.sample("h", dist.ImproperUniform(constraints.real_vector, (), (len(y),))))
    numpyro.factor("start", dist.Normal(mu, sigma / jnp.sqrt(1 - phi**2)).log_prob(h[0]))
    numpyro.factor("steps", dist.Normal(mu + phi * (h[:-1] - mu), sigma).log_prob(h[1:]).sum())
    numpyro.sample("y", dist.Normal(0, jnp.exp(h / 2)), obs=y)
