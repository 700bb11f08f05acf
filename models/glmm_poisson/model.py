"""Falcon counts: a cubic trend on the log scale with centred year effects."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from numpyro.distributions import constraints


class PoissonLogRate(dist.Distribution):
    """Poisson by the logarithm of its rate: where the rate underflows, log p and its gradient stay finite."""

    arg_constraints = {"log_rate": constraints.real}

    def __init__(self, log_rate, *, validate_args=None):
        self.log_rate = log_rate
        super().__init__(batch_shape=jnp.shape(log_rate), validate_args=validate_args)

    @property
    def support(self):
        """Counts from 0."""
        return constraints.nonnegative_integer

    def sample(self, key: jax.Array, sample_shape=()):
        """Draw counts, shape ``sample_shape + batch_shape``."""
        return jax.random.poisson(key, jnp.exp(self.log_rate), self.shape(sample_shape))

    def log_prob(self, value):
        """``value log_rate - exp(log_rate) - log(value!)``."""
        return value * self.log_rate - jnp.exp(self.log_rate) - gammaln(value + 1.0)


def model(C, year):
    """Counts of a year from a cubic in time plus an effect of the year, ``eps ~ N(0, sigma)``.

    Args:
        C: counts, shape ``(years,)``.
        year: the year, standardised, shape ``(years,)``.
    """
    alpha = numpyro.sample("alpha", dist.Uniform(-20, 20))
    beta1 = numpyro.sample("beta1", dist.Uniform(-10, 10))
    beta2 = numpyro.sample("beta2", dist.Uniform(-10, 10))
    beta3 = numpyro.sample("beta3", dist.Uniform(-10, 10))
    sigma = numpyro.sample("sigma", dist.Uniform(0, 5))
    trend = alpha + year * (beta1 + year * (beta2 + year * beta3))
    with numpyro.plate("time", len(year)):
        eps = numpyro.sample("eps", dist.Normal(0, sigma))
        numpyro.sample("C", PoissonLogRate(trend + eps), obs=C)
