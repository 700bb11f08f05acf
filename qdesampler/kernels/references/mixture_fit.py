r"""Mixtures of Gaussians, and products of one-dimensional mixtures, fitted to draws."""

import jax
import jax.numpy as jnp

from qdesampler.kernels.references.reference import (
    AXIS_BUMPS,
    DENSE_DIMENSIONS,
    AxisMixtures,
    Reference,
    broad,
    gaussian_log_densities,
)

__all__ = ["fit_mixture", "fit_product"]

_SWEEPS = 25
_OWN_SIZE = 2.0  # coordinates' worth of draws that say: as wide as the others


def fit_mixture(key: jax.Array, points: jax.Array, components: int) -> Reference:
    r"""A mixture of `components` Gaussians fitted to draws by expectation-maximisation.

    Covariances are shrunk towards the pooled scatter `W` within clusters (its diagonal), in the cluster's own
    size `c_k`: `S_k = (n_k C_k + nu c_k W) / (n_k + nu)` with `nu = dim + 2` (the mode under an inverse
    Wishart law) and `c_k` about `tr(W^-1 C_k) / dim`, so that the narrow end of a funnel stays narrow. Half
    of the seeds are spread out (k-means++, Arthur and Vassilvitskii 2007), half are plain draws.

    Args:
        key: JAX key of the seeds.
        points: draws, shape `(n, dim)`.
        components: how many.
    """
    n, dim = points.shape
    dtype = points.dtype
    centre = jnp.mean(points, 0)
    tiny = 1e-6 * (1 + jnp.abs(centre))
    scale = jnp.maximum(jnp.std(points, 0), tiny)
    y = (points - centre) / scale
    blank = broad(jnp.zeros(dim), jnp.ones(dim), components)

    def seed(carry, inputs):
        distance, _ = carry
        key, far = inputs
        logits = jnp.where(far, jnp.log(distance + 1e-12), 0)
        chosen = y[jax.random.categorical(key, logits)]
        return (jnp.minimum(distance, jnp.sum((y - chosen) ** 2, 1)), chosen), chosen

    first = (jnp.full((n,), 1e12, dtype), y[0])
    spread = jnp.arange(components) % 2 == 1
    _, seeds = jax.lax.scan(seed, first, (jax.random.split(key, components), spread))
    nearest = jnp.argmin(jnp.sum((y[:, None] - seeds) ** 2, 2), 1)
    shares = jax.nn.one_hot(nearest, components, dtype=dtype)
    prior = dim + 2.0

    def maximise(shares):
        counts = jnp.sum(shares, 0)
        means = shares.T @ y / jnp.maximum(counts, 1e-3)[:, None]
        second = shares.T @ y**2 / jnp.maximum(counts, 1e-3)[:, None]
        variances = jnp.maximum(second - means**2, 0)
        within = jnp.maximum(counts @ variances / n, 1e-6)
        spread = counts * jnp.sum(variances / within, 1)
        size = (spread + _OWN_SIZE) / (counts * dim + _OWN_SIZE)
        if dim <= DENSE_DIMENSIONS:

            def covariance(share, mean, count, size):
                offset = (y - mean) * jnp.sqrt(share)[:, None]
                return (offset.T @ offset + prior * size * jnp.diag(within)) / (count + prior)

            matrices = jax.vmap(covariance, in_axes=(1, 0, 0, 0))(shares, means, counts, size)
            factors = jnp.linalg.cholesky(matrices)
            eye = jnp.broadcast_to(jnp.eye(dim, dtype=dtype), factors.shape)
            whiteners = jax.scipy.linalg.solve_triangular(factors, eye, lower=True)
        else:
            weight = (counts / (counts + prior))[:, None]
            whiteners = 1 / jnp.sqrt(weight * variances + (1 - weight) * size[:, None] * within)
        log_weights = jnp.log((counts + 1e-3) / jnp.sum(counts + 1e-3))
        return blank._replace(log_weights=log_weights, means=means, whiteners=whiteners)

    def sweep(_, shares):
        mixture = maximise(shares)
        logits = jax.vmap(lambda x: mixture.log_weights + gaussian_log_densities(mixture, x))(y)
        return jax.nn.softmax(logits)

    mixture = maximise(jax.lax.fori_loop(0, _SWEEPS, sweep, shares))
    # From standardised coordinates back to those of the target.
    whiteners = mixture.whiteners * (1 / scale)
    return mixture._replace(means=centre + scale * mixture.means, whiteners=whiteners)


def fit_product(key: jax.Array, points: jax.Array) -> AxisMixtures:
    """A mixture of `AXIS_BUMPS` Gaussians on each axis, fitted to draws of shape `(n, dim)`."""
    fits = jax.vmap(lambda column: fit_mixture(key, column[:, None], AXIS_BUMPS), in_axes=1)(points)
    return AxisMixtures(fits.log_weights, fits.means[..., 0], 1 / fits.whiteners[..., 0, 0])
