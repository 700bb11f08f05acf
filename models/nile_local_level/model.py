"""The Nile at Aswan: a state-space model, a level that walks at random and is measured with noise."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """Flow in 10^10 cubic metres, so that levels are near 10."""
    return {"y": data["flow"] / 100}


def model(y):
    """A random walk of levels, non-centred: its steps are the sampled sites.

    Args:
        y: the flow of each year, shape ``(years,)``; None draws a hundred from the prior predictive.
    """
    years = 100 if y is None else len(y)
    sigma_level = numpyro.sample("sigma_level", dist.HalfNormal(1))
    sigma_flow = numpyro.sample("sigma_flow", dist.HalfNormal(2))
    start = numpyro.sample("start", dist.Normal(0, 1))
    with numpyro.plate("step", years - 1):
        steps = numpyro.sample("steps", dist.Normal(0, 1))
    walk = jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps)])
    level = numpyro.deterministic("level", 10 + 3 * start + sigma_level * walk)
    with numpyro.plate("year", years):
        numpyro.sample("y", dist.Normal(level, sigma_flow), obs=y)
