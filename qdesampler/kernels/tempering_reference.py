"""References: the normalised densities that a ladder starts from, mixtures of Gaussians.

A reference can be drawn from exactly, so that the lowest rung forgets everything at every iteration, and its
log density and score cost no evaluation of the target. A broad one knows nothing of the target; a fitted one
is the mixture of Gaussian ground states that walkers have found, kept wide by a broad leg: a component that
covers what no walker saw.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "Reference",
    "add_component",
    "broad",
    "draw",
    "fit_mixture",
    "log_density",
    "squared_distances",
    "value_and_score",
]

DENSE_DIMENSIONS = 64  # full covariances up to here, diagonal ones beyond
_SWEEPS = 25


class Reference(NamedTuple):
    """`q(x) = sum_k w_k N(x; m_k, (P_k' P_k)^-1)`, normalised.

    Attributes:
        log_weights: shape `(components,)`, `-inf` for components that are not used.
        means: shape `(components, dim)`.
        whiteners: lower triangular `P_k`, shape `(components, dim, dim)`, or their diagonals,
            shape `(components, dim)`.
    """

    log_weights: jax.Array
    means: jax.Array
    whiteners: jax.Array


def _is_dense(reference: Reference) -> bool:
    return reference.whiteners.ndim == 3


def broad(centre: jax.Array, scale: jax.Array, components: int) -> Reference:
    """One Gaussian of standard deviations `scale`, shape `(dim,)`, with room for `components`."""
    dtype, dim = jnp.result_type(float), centre.size
    inverse = jnp.broadcast_to(1 / jnp.asarray(scale, dtype), (dim,))
    whitener = jnp.diag(inverse) if dim <= DENSE_DIMENSIONS else inverse
    log_weights = jnp.full((components,), -jnp.inf, dtype).at[0].set(0)
    means = jnp.broadcast_to(jnp.asarray(centre, dtype), (components, dim))
    return Reference(log_weights, means, jnp.broadcast_to(whitener, (components, *whitener.shape)))


def squared_distances(reference: Reference, x: jax.Array) -> jax.Array:
    """`|P_k (x - m_k)|^2` to every component, shape `(components,)`."""
    offset = x - reference.means
    if _is_dense(reference):
        return jnp.sum(jnp.einsum("kij,kj->ki", reference.whiteners, offset) ** 2, 1)
    return jnp.sum((reference.whiteners * offset) ** 2, 1)


def _components(reference: Reference, x: jax.Array) -> jax.Array:
    """`log N(x; m_k, .)` of every component, shape `(components,)`."""
    whiteners = reference.whiteners
    diagonal = jnp.diagonal(whiteners, axis1=1, axis2=2) if _is_dense(reference) else whiteners
    constant = 0.5 * x.size * jnp.log(2 * jnp.asarray(jnp.pi, x.dtype))
    return jnp.sum(jnp.log(diagonal), 1) - 0.5 * squared_distances(reference, x) - constant


def log_density(reference: Reference, x: jax.Array) -> jax.Array:
    """`log q(x)`, a scalar."""
    return jax.nn.logsumexp(reference.log_weights + _components(reference, x))


def value_and_score(reference: Reference, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(log q(x), grad log q(x))`."""
    return jax.value_and_grad(lambda y: log_density(reference, y))(x)


def draw(reference: Reference, key: jax.Array) -> jax.Array:
    """One exact draw, shape `(dim,)`."""
    key_component, key_noise = jax.random.split(key)
    k = jax.random.categorical(key_component, reference.log_weights)
    noise = jax.random.normal(key_noise, reference.means.shape[1:], reference.means.dtype)
    whitener = reference.whiteners[k]
    if _is_dense(reference):
        return reference.means[k] + jax.scipy.linalg.solve_triangular(whitener, noise, lower=True)
    return reference.means[k] + noise / whitener


def add_component(
    reference: Reference, slot: int, mean: jax.Array, whitener: jax.Array, share: jax.Array
) -> Reference:
    """The same mixture with a Gaussian of weight `share` in the place of component `slot`.

    The others keep their proportions; a share of zero switches the slot off.
    """
    others = reference.log_weights.at[slot].set(-jnp.inf)
    others = others - jax.nn.logsumexp(others) + jnp.log1p(-share)
    return Reference(
        others.at[slot].set(jnp.where(share > 0, jnp.log(jnp.where(share > 0, share, 1)), -jnp.inf)),
        reference.means.at[slot].set(mean),
        reference.whiteners.at[slot].set(whitener),
    )


def fit_mixture(key: jax.Array, points: jax.Array, components: int) -> Reference:
    r"""A mixture of `components` Gaussians fitted to draws by expectation-maximisation.

    Covariances are shrunk towards the diagonal of the pooled scatter within clusters, `S_k = (n_k C_k + nu W)
    / (n_k + nu)` with `nu = dim + 2` (the mode under an inverse Wishart law), and seeds are spread out
    (k-means++, Arthur and Vassilvitskii 2007).

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

    def seed(carry, key):
        distance, _ = carry
        chosen = y[jax.random.categorical(key, jnp.log(distance + 1e-12))]
        return (jnp.minimum(distance, jnp.sum((y - chosen) ** 2, 1)), chosen), chosen

    first = (jnp.full((n,), 1e12, dtype), y[0])
    _, seeds = jax.lax.scan(seed, first, jax.random.split(key, components))
    nearest = jnp.argmin(jnp.sum((y[:, None] - seeds) ** 2, 2), 1)
    shares = jax.nn.one_hot(nearest, components, dtype=dtype)
    prior = dim + 2.0

    def maximise(shares):
        counts = jnp.sum(shares, 0)
        means = shares.T @ y / jnp.maximum(counts, 1e-3)[:, None]
        second = shares.T @ y**2 / jnp.maximum(counts, 1e-3)[:, None]
        within = jnp.maximum(counts @ jnp.maximum(second - means**2, 0) / n, 1e-6)
        weight = (counts / (counts + prior))[:, None]
        if dim <= DENSE_DIMENSIONS:

            def covariance(share, mean, count):
                offset = (y - mean) * jnp.sqrt(share)[:, None]
                return (offset.T @ offset + prior * jnp.diag(within)) / (count + prior)

            matrices = jax.vmap(covariance, in_axes=(1, 0, 0))(shares, means, counts)
            factors = jnp.linalg.cholesky(matrices)
            eye = jnp.broadcast_to(jnp.eye(dim, dtype=dtype), factors.shape)
            whiteners = jax.scipy.linalg.solve_triangular(factors, eye, lower=True)
        else:
            variance = weight * jnp.maximum(second - means**2, 0) + (1 - weight) * within
            whiteners = 1 / jnp.sqrt(variance)
        log_weights = jnp.log((counts + 1e-3) / jnp.sum(counts + 1e-3))
        return Reference(log_weights, means, whiteners)

    def sweep(_, shares):
        mixture = maximise(shares)
        logits = jax.vmap(lambda x: mixture.log_weights + _components(mixture, x))(y)
        return jax.nn.softmax(logits)

    mixture = maximise(jax.lax.fori_loop(0, _SWEEPS, sweep, shares))
    # From standardised coordinates back to those of the target.
    inverse = 1 / scale
    return Reference(mixture.log_weights, centre + scale * mixture.means, mixture.whiteners * inverse)
