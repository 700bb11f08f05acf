"""Mixtures of round Gaussians in three dimensions, as targets of a search."""

import jax
import jax.numpy as jnp

__all__ = ["DIM", "mixture"]

DIM = 3


def _normal(x, mean, scale, weight):
    distance = jnp.sum(((x - mean) / scale) ** 2)
    return jnp.log(weight) - 0.5 * distance - DIM * (jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi))


def mixture(*parts):
    """`x -> (log p, grad log p)` of Gaussians `(mean of every coordinate, scale, weight)`."""
    return jax.value_and_grad(lambda x: jax.nn.logsumexp(jnp.stack([_normal(x, *part) for part in parts])))
