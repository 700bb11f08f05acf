r"""Gaussians, mixtures of Gaussians, and products of one-dimensional mixtures, fitted to draws."""

import jax
import jax.numpy as jnp

from qdesampler.kernels.references.reference import (
    AXIS_COMPONENTS,
    DENSE_DIMENSIONS,
    AxisMixtures,
    Reference,
    gaussian_log_densities,
    gaussian_reference,
)
from qdesampler.numerics.metric import dense_matrix, fit_metric, identity_metric, smallest_scale

__all__ = ["fit_by_scores", "fit_mixture", "fit_product"]

_SWEEPS = 25  # iterations of expectation-maximisation
_SIZE_PRIOR = 2.0  # pseudo-count of coordinates that pulls the size of a cluster towards 1


def fit_by_scores(draws: jax.Array, scores: jax.Array) -> Reference:
    """The Gaussian of least Fisher divergence, `m = mean x + S mean a`, for which few draws suffice.

    Args:
        draws: shape `(n, dim)`.
        scores: `a = grad log p` at the draws; those that are not finite are left out.
    """
    dim = draws.shape[1]
    dense = dim <= DENSE_DIMENSIONS
    rank = dim if dense else 0
    usable = jnp.all(jnp.isfinite(scores), 1).astype(draws.dtype)
    kinds = fit_metric(draws, scores, usable, identity_metric(dim, rank), (tuple(range(dim)),), rank)
    covariance = dense_matrix(kinds[2]) if dense else kinds[2].scale ** 2
    total = jnp.maximum(jnp.sum(usable), 1)
    slope = usable @ jnp.where(usable[:, None] > 0, scores, 0) / total
    mean = usable @ draws / total + (covariance @ slope if dense else covariance * slope)
    if not dense:
        whitener = 1 / jnp.sqrt(covariance)
    else:
        factor = jnp.linalg.cholesky(covariance)
        whitener = jax.scipy.linalg.solve_triangular(factor, jnp.eye(dim, dtype=draws.dtype), lower=True)
    return gaussian_reference(mean, jnp.ones((dim,)), 1)._replace(whiteners=whitener[None])


def fit_mixture(key: jax.Array, points: jax.Array, components: int) -> Reference:
    r"""A mixture of `components` Gaussians fitted to draws by expectation-maximisation.

    The covariance of a cluster is shrunk towards the diagonal of the pooled scatter `W` within clusters,
    scaled to the cluster's own size `c_k`: `S_k = (n_k C_k + nu c_k W) / (n_k + nu)` with `nu = dim + 2` (the
    mode under an inverse Wishart law) and `c_k` about `tr(W^-1 C_k) / dim`. Therefore the narrow end of a
    funnel stays narrow. Half of the seeds are spread out (k-means++, Arthur and Vassilvitskii 2007), half are
    draws.

    Args:
        key: JAX key of the seeds.
        points: draws, shape `(n, dim)`.
        components: number of Gaussians.
    """
    n, dim = points.shape
    dtype = points.dtype
    centre = jnp.mean(points, 0)
    tiny = smallest_scale(centre)
    scale = jnp.maximum(jnp.std(points, 0), tiny)
    y = (points - centre) / scale
    blank = gaussian_reference(jnp.zeros(dim), jnp.ones(dim), components)

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
    memberships = jax.nn.one_hot(nearest, components, dtype=dtype)
    prior = dim + 2.0

    def maximise(memberships):
        counts = jnp.sum(memberships, 0)
        means = memberships.T @ y / jnp.maximum(counts, 1e-3)[:, None]
        second = memberships.T @ y**2 / jnp.maximum(counts, 1e-3)[:, None]
        variances = jnp.maximum(second - means**2, 0)
        within = jnp.maximum(counts @ variances / n, 1e-6)
        spread = counts * jnp.sum(variances / within, 1)
        size = (spread + _SIZE_PRIOR) / (counts * dim + _SIZE_PRIOR)
        if dim <= DENSE_DIMENSIONS:

            def covariance(membership, mean, count, size):
                offset = (y - mean) * jnp.sqrt(membership)[:, None]
                return (offset.T @ offset + prior * size * jnp.diag(within)) / (count + prior)

            matrices = jax.vmap(covariance, in_axes=(1, 0, 0, 0))(memberships, means, counts, size)
            factors = jnp.linalg.cholesky(matrices)
            eye = jnp.broadcast_to(jnp.eye(dim, dtype=dtype), factors.shape)
            whiteners = jax.scipy.linalg.solve_triangular(factors, eye, lower=True)
        else:
            weight = (counts / (counts + prior))[:, None]
            whiteners = 1 / jnp.sqrt(weight * variances + (1 - weight) * size[:, None] * within)
        log_weights = jnp.log((counts + 1e-3) / jnp.sum(counts + 1e-3))
        return blank._replace(log_weights=log_weights, means=means, whiteners=whiteners)

    def sweep(_, memberships):
        mixture = maximise(memberships)
        logits = jax.vmap(lambda x: mixture.log_weights + gaussian_log_densities(mixture, x))(y)
        return jax.nn.softmax(logits)

    mixture = maximise(jax.lax.fori_loop(0, _SWEEPS, sweep, memberships))
    # From standardised coordinates back to those of the target.
    whiteners = mixture.whiteners * (1 / scale)
    return mixture._replace(means=centre + scale * mixture.means, whiteners=whiteners)


def fit_product(key: jax.Array, points: jax.Array) -> AxisMixtures:
    """A mixture of `AXIS_COMPONENTS` Gaussians on each axis, fitted to draws of shape `(n, dim)`."""
    fits = jax.vmap(lambda column: fit_mixture(key, column[:, None], AXIS_COMPONENTS), in_axes=1)(points)
    return AxisMixtures(fits.log_weights, fits.means[..., 0], 1 / fits.whiteners[..., 0, 0])
