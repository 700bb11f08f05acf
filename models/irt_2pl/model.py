"""Two-parameter logistic item response model: hierarchical abilities, difficulties and discriminations."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(y):
    """Whether each person got each item right.

    Args:
        y: 1 where the person got the item right, else 0, shape ``(items, persons)``.
    """
    items, persons = y.shape
    sigma_theta = numpyro.sample("sigma_theta", dist.HalfCauchy(2))
    with numpyro.plate("person", persons):
        theta = numpyro.sample("theta", dist.Normal(0, sigma_theta))
    sigma_a = numpyro.sample("sigma_a", dist.HalfCauchy(2))
    mu_b = numpyro.sample("mu_b", dist.Normal(0, 5))
    sigma_b = numpyro.sample("sigma_b", dist.HalfCauchy(2))
    with numpyro.plate("item", items):
        a = numpyro.sample("a", dist.LogNormal(0, sigma_a))
        b = numpyro.sample("b", dist.Normal(mu_b, sigma_b))
    logits = jnp.expand_dims(a, 1) * (theta - jnp.expand_dims(b, 1))
    with numpyro.plate("items", items, dim=-2), numpyro.plate("persons", persons, dim=-1):
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)
