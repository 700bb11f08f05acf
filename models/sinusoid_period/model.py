"""A sinusoid of unknown frequency, seen at twelve nearly regular times: several modes by aliasing."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(time, y):
    """``a cos(2 pi f t) + b sin(2 pi f t)`` with normal noise.

    Args:
        time: shape ``(points,)``.
        y: the values there, shape ``(points,)``; None draws from the prior predictive.
    """
    frequency = numpyro.sample("frequency", dist.Uniform(0.05, 0.95))
    a = numpyro.sample("a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    angle = 2 * jnp.pi * frequency * time
    with numpyro.plate("point", len(time)):
        numpyro.sample("y", dist.Normal(a * jnp.cos(angle) + b * jnp.sin(angle), sigma), obs=y)
