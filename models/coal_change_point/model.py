"""Coal mine disasters: a Poisson rate that changes in a year that is summed out."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(disasters):
    """Counts with the rate ``early`` up to the change and ``late`` after it.

    Args:
        disasters: disasters of each year, shape ``(years,)``.
    """
    years = len(disasters)
    early = numpyro.sample("early", dist.Exponential(0.5))
    late = numpyro.sample("late", dist.Exponential(0.5))
    log_early = jnp.cumsum(dist.Poisson(early).log_prob(disasters))
    log_late = jnp.cumsum(dist.Poisson(late).log_prob(disasters))
    log_p = (log_early + log_late[-1] - log_late)[:-1]  # the change after year 1, ..., years - 1
    numpyro.factor("disasters", jax.nn.logsumexp(log_p) - jnp.log(years - 1.0))
