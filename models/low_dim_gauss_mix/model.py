"""A mixture of two normals whose means are ordered, so that the labels cannot switch."""

import math

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


class OrderedNormal(dist.Distribution):
    """Sorted values of ``size`` independent draws of N(0, scale).

    The density is ``size! prod_k N(x_k; 0, scale)`` on ``x_1 < ... < x_size``: that of independent normals
    restricted to the ordered region, where it has ``size!`` times less volume to fill.
    """

    arg_constraints = {"scale": constraints.positive}
    pytree_data_fields = ("scale",)

    def __init__(self, scale, size, *, validate_args=None):
        self.scale = scale
        super().__init__(batch_shape=jnp.shape(scale), event_shape=(size,), validate_args=validate_args)

    @property
    def support(self):
        """Vectors in increasing order."""
        return constraints.ordered_vector

    def sample(self, key: jax.Array, sample_shape=()):
        """Draw by sorting; shape ``sample_shape + batch_shape + (size,)``."""
        noise = jax.random.normal(key, self.shape(sample_shape))
        return jnp.sort(noise * jnp.expand_dims(self.scale, -1), axis=-1)

    def log_prob(self, value):
        """Log density of ``value``, shape ``(..., size)``; its order is the support's business."""
        independent = dist.Normal(0, jnp.expand_dims(self.scale, -1)).log_prob(value)
        return independent.sum(-1) + math.lgamma(self.event_shape[0] + 1)


def model(y):
    """Points from two normal components, with the component of each point summed out.

    Args:
        y: the points, shape ``(points,)``.
    """
    mu = numpyro.sample("mu", OrderedNormal(2.0, 2))
    with numpyro.plate("component", 2):
        sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    theta = numpyro.sample("theta", dist.Beta(5, 5))
    weights = dist.Categorical(probs=jnp.stack([theta, 1 - theta]))
    with numpyro.plate("point", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)
