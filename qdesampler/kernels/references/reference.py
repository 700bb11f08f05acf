r"""References: the normalised densities that a ladder starts from.

A reference can be drawn from exactly, so that the lowest rung forgets everything at every iteration. Its log
density and score cost no evaluation of the target. The prior reference is a single Gaussian that knows
nothing of the target. A fitted reference is one of these, fitted to particles: a mixture of Gaussians; a
product of one-dimensional mixtures (`k^dim` modes from `k dim` components, as in Hartree's product states);
or an autoregressive Gaussian whose widths depend on the position (funnels). It keeps the prior reference as
one more component, which covers what no particle has visited.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.references.autoregressive import (
    Autoregressive,
    autoregressive_distance,
    autoregressive_draw,
    autoregressive_log_density,
    blank_autoregressive,
)

__all__ = [
    "AUTOREGRESSIVE_DIMENSIONS",
    "AUTOREGRESSIVE_PART",
    "DENSE_DIMENSIONS",
    "PRIOR_SLOT",
    "PRODUCT_PART",
    "AxisMixtures",
    "Reference",
    "add_component",
    "draw",
    "gaussian_log_densities",
    "gaussian_reference",
    "log_densities",
    "log_density",
    "log_weights_of",
    "lower_whitener",
    "squared_distances",
    "squared_radius",
    "value_and_score",
    "with_log_weights",
]

DENSE_DIMENSIONS = 64  # dimensions up to which covariances and metrics of AnnealedQDE are full, not diagonal
AUTOREGRESSIVE_DIMENSIONS = 32  # dimensions up to which an autoregressive Gaussian is fitted
AXIS_COMPONENTS = 6  # Gaussians on each axis of the product
PRIOR_SLOT = -1  # index of the prior reference among the Gaussians, counted from the end
# Indices of the product and of the autoregressive Gaussian in `log_weights_of`, counted from the end.
PRODUCT_PART, AUTOREGRESSIVE_PART = -2, -1


class AxisMixtures(NamedTuple):
    """`prod_i sum_k w_ik N(x_i; m_ik, s_ik^2)`: one mixture on each axis, each normalised.

    Attributes:
        log_weights: shape `(dim, AXIS_COMPONENTS)`.
        means: shape `(dim, AXIS_COMPONENTS)`.
        scales: standard deviations, shape `(dim, AXIS_COMPONENTS)`.
    """

    log_weights: jax.Array
    means: jax.Array
    scales: jax.Array


class Reference(NamedTuple):
    """`q(x) = sum_k w_k N(x; m_k, (P_k' P_k)^-1) + w prod_i r_i(x_i) + w' c(x)`, normalised.

    Attributes:
        log_weights: shape `(components,)`, `-inf` for unused components.
        means: shape `(components, dim)`.
        whiteners: lower triangular `P_k`, shape `(components, dim, dim)`, or their diagonals,
            shape `(components, dim)`.
        product_log_weight: `log w` of the product, `-inf` if it is unused.
        product: the `r_i`.
        autoregressive_log_weight: `log w'` of the autoregressive Gaussian, `-inf` if it is unused.
        autoregressive: `c`.
    """

    log_weights: jax.Array
    means: jax.Array
    whiteners: jax.Array
    product_log_weight: jax.Array
    product: AxisMixtures
    autoregressive_log_weight: jax.Array
    autoregressive: Autoregressive


def _is_dense(whiteners: jax.Array) -> bool:
    return whiteners.ndim == 3


def gaussian_reference(centre: jax.Array, scale: jax.Array, components: int) -> Reference:
    """One Gaussian of standard deviations `scale`, shape `(dim,)`, in the first of `components` slots."""
    dtype, dim = jnp.result_type(float), centre.size
    scale = jnp.broadcast_to(jnp.asarray(scale, dtype), (dim,))
    centre = jnp.asarray(centre, dtype)
    whitener = jnp.diag(1 / scale) if dim <= DENSE_DIMENSIONS else 1 / scale
    product = AxisMixtures(
        jnp.full((dim, AXIS_COMPONENTS), -jnp.log(jnp.asarray(AXIS_COMPONENTS, dtype))),
        jnp.broadcast_to(centre[:, None], (dim, AXIS_COMPONENTS)),
        jnp.broadcast_to(scale[:, None], (dim, AXIS_COMPONENTS)),
    )
    return Reference(
        jnp.full((components,), -jnp.inf, dtype).at[0].set(0),
        jnp.broadcast_to(centre, (components, dim)),
        jnp.broadcast_to(whitener, (components, *whitener.shape)),
        jnp.asarray(-jnp.inf, dtype),
        product,
        jnp.asarray(-jnp.inf, dtype),
        blank_autoregressive(centre, scale, dim if dim <= AUTOREGRESSIVE_DIMENSIONS else 0),
    )


def squared_distances(reference: Reference, x: jax.Array) -> jax.Array:
    """Squared distance of `x` from every part, in that part's standard deviations; infinite for unused parts.

    For a Gaussian `|P_k (x - m_k)|^2`; for the product the sum over axes of the squared distance to the
    nearest component; for the autoregressive Gaussian measured in its widths at `x`. Shape `(components +
    2,)`.
    """
    gaussians = jnp.where(reference.log_weights > -jnp.inf, _distances(reference, x), jnp.inf)
    offsets = (x[:, None] - reference.product.means) / reference.product.scales
    product = jnp.sum(jnp.min(offsets**2, axis=1))
    product = jnp.where(reference.product_log_weight > -jnp.inf, product, jnp.inf)
    autoregressive = jnp.where(
        reference.autoregressive_log_weight > -jnp.inf,
        autoregressive_distance(reference.autoregressive, x),
        jnp.inf,
    )
    return jnp.concatenate([gaussians, product[None], autoregressive[None]])


def squared_radius(dim: int, deviations: float) -> jax.Array:
    """`dim + k sqrt(2 dim)`: mean and `k` standard deviations of a Gaussian draw's squared distance."""
    return dim + deviations * jnp.sqrt(2.0 * dim)


def _distances(reference: Reference, x: jax.Array) -> jax.Array:
    offset = x - reference.means
    if _is_dense(reference.whiteners):
        return jnp.sum(jnp.einsum("kij,kj->ki", reference.whiteners, offset) ** 2, 1)
    return jnp.sum((reference.whiteners * offset) ** 2, 1)


def gaussian_log_densities(reference: Reference, x: jax.Array) -> jax.Array:
    """`log N(x; m_k, (P_k' P_k)^-1)` of every Gaussian, shape `(components,)`."""
    whiteners = reference.whiteners
    diagonal = jnp.diagonal(whiteners, axis1=1, axis2=2) if _is_dense(whiteners) else whiteners
    constant = 0.5 * x.size * jnp.log(2 * jnp.asarray(jnp.pi, x.dtype))
    return jnp.sum(jnp.log(diagonal), 1) - 0.5 * _distances(reference, x) - constant


def _product_log_density(product: AxisMixtures, x: jax.Array) -> jax.Array:
    z = (x[:, None] - product.means) / product.scales
    constant = 0.5 * jnp.log(2 * jnp.asarray(jnp.pi, x.dtype))
    densities = product.log_weights - 0.5 * z**2 - jnp.log(product.scales) - constant
    return jnp.sum(jax.nn.logsumexp(densities, axis=1))


def log_density(reference: Reference, x: jax.Array) -> jax.Array:
    """`log q(x)`, a scalar."""
    return jax.nn.logsumexp(log_weights_of(reference) + log_densities(reference, x))


def log_weights_of(reference: Reference) -> jax.Array:
    """Log weights of all parts, shape `(components + 2,)`: the Gaussians, the product, the autoregressive."""
    rest = jnp.stack([reference.product_log_weight, reference.autoregressive_log_weight])
    return jnp.concatenate([reference.log_weights, rest])


def with_log_weights(reference: Reference, log_weights: jax.Array) -> Reference:
    """The same parts with other weights, in the order of `log_weights_of`."""
    return reference._replace(
        log_weights=log_weights[:PRODUCT_PART],
        product_log_weight=log_weights[PRODUCT_PART],
        autoregressive_log_weight=log_weights[AUTOREGRESSIVE_PART],
    )


def log_densities(reference: Reference, x: jax.Array) -> jax.Array:
    """Log density of `x` under each part, each normalised; shape `(components + 2,)`."""
    rest = [
        _product_log_density(reference.product, x),
        autoregressive_log_density(reference.autoregressive, x),
    ]
    return jnp.concatenate([gaussian_log_densities(reference, x), jnp.stack(rest)])


def lower_whitener(precision: jax.Array) -> jax.Array:
    """The lower triangular `P` with `P'P` the given precision: its reversed Cholesky factor."""
    return jnp.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1].T


def value_and_score(reference: Reference, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(log q(x), grad log q(x))`."""
    return jax.value_and_grad(lambda y: log_density(reference, y))(x)


def draw(reference: Reference, key: jax.Array) -> jax.Array:
    """One exact draw, shape `(dim,)`."""
    key_component, key_axes, key_noise = jax.random.split(key, 3)
    k = jax.random.categorical(key_component, log_weights_of(reference))
    noise = jax.random.normal(key_noise, reference.means.shape[1:], reference.means.dtype)
    last = reference.log_weights.size - 1
    whitener, mean = reference.whiteners[jnp.minimum(k, last)], reference.means[jnp.minimum(k, last)]
    if _is_dense(reference.whiteners):
        gaussian = mean + jax.scipy.linalg.solve_triangular(whitener, noise, lower=True)
    else:
        gaussian = mean + noise / whitener
    product = reference.product
    chosen = jax.random.categorical(key_axes, product.log_weights, axis=1)[:, None]
    means, scales = (jnp.take_along_axis(leaf, chosen, 1)[:, 0] for leaf in (product.means, product.scales))
    rest = jnp.where(
        k == last + 1, means + scales * noise, autoregressive_draw(reference.autoregressive, noise)
    )
    return jnp.where(k > last, rest, gaussian)


def add_component(
    reference: Reference, slot: int, mean: jax.Array, whitener: jax.Array, weight: jax.Array
) -> Reference:
    """The same mixture with a Gaussian of weight `weight` in slot number `slot`.

    The other parts keep their proportions. A weight of zero leaves the slot unused.
    """
    others = log_weights_of(reference).at[slot].set(-jnp.inf)
    others = others - jax.nn.logsumexp(others) + jnp.log1p(-weight)
    log_weight = jnp.where(weight > 0, jnp.log(jnp.where(weight > 0, weight, 1)), -jnp.inf)
    reference = reference._replace(
        means=reference.means.at[slot].set(mean), whiteners=reference.whiteners.at[slot].set(whitener)
    )
    return with_log_weights(reference, others.at[slot].set(log_weight))
