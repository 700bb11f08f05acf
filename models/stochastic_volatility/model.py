"""Stochastic volatility: returns whose log variance is an autoregression of order one, non-centred."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax


def model(y):
    """Two hundred returns; the innovations of the log variance are the sampled sites.

    Args:
        y: returns in percent, shape ``(days,)``; None draws two hundred from the prior predictive.
    """
    days = 200 if y is None else len(y)
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    persistence = numpyro.sample("persistence", dist.Beta(20, 1.5))
    phi = jnp.asarray(numpyro.deterministic("phi", 2 * persistence - 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    with numpyro.plate("innovation", days):
        z = jnp.asarray(numpyro.sample("z", dist.Normal(0, 1)))
    start = z[0] / jnp.sqrt(1 - phi**2)

    def step(state, innovation):
        state = phi * state + innovation
        return state, state

    rest = lax.scan(step, start, z[1:])[1]
    h = numpyro.deterministic("h", mu + sigma * jnp.append(start, rest))
    with numpyro.plate("day", days):
        numpyro.sample("y", dist.Normal(0, jnp.exp(h / 2)), obs=y)
