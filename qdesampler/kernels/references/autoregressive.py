r"""An autoregressive Gaussian, whose widths depend on the position: the ground state of a funnel.

The coordinates are standardised and ordered so that those which predict the widths of others come first:

    q(y) = prod_i N(y_i; a_i + sum_j<i B_ij y_j, exp(c_i + sum_j<i D_ij t(y_j))^2),    t(y) = y within +-4.

For `D = 0` this is any Gaussian; apart from the bound `t` it contains Neal's funnel. Draws and densities cost
no evaluation. It is an affine autoregressive flow of one layer (Kingma et al. 2016), fitted by least squares
and Fisher scoring instead of gradient descent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.numerics.metric import smallest_scale

__all__ = [
    "WIDER",
    "Autoregressive",
    "blank_autoregressive",
    "autoregressive_distance",
    "autoregressive_draw",
    "autoregressive_log_density",
    "fit_autoregressive",
]

_ROUNDS, _SCORINGS = 4, 3  # rounds of the fit (scales, then means), steps of Fisher scoring in each round
_RIDGE = 1.0  # prior precision of the slopes, standardised units
_SMALL = 1e-3  # added to residuals before their first logarithm, standardised units
_MEAN_LOG = 0.635  # -E log|z| of a standard normal z
_LARGEST_RESIDUAL = 9.0  # squared standardised residual above which a step of scoring clips it
_BOUND = 4.0  # standard deviations at which `t` bounds a coordinate
# Factor on the width of a coordinate that predicts the widths of others: particles are too few in its tails
# (results/evidence.md: funnel-10, where 1.4 costs a rung).
WIDER = 1.2
_SIGNIFICANT = 4.0  # standard errors from 0 below which a slope is set to 0


class Autoregressive(NamedTuple):
    """The parameters above; `columns` is `dim`, or 0 if all slopes are zero.

    `centre` and `scale` are in the order of `x`, all parameters of the density in the order of `y`.

    Attributes:
        order: index in `x` of the `i`-th coordinate of `y`, shape `(dim,)`.
        centre: means that standardise `x`, shape `(dim,)`.
        scale: standard deviations that standardise `x`, shape `(dim,)`.
        means: `a`, shape `(dim,)`.
        slopes: `B`, strictly lower triangular, shape `(dim, columns)`.
        log_widths: `c`, shape `(dim,)`.
        log_slopes: `D`, strictly lower triangular, shape `(dim, columns)`.
    """

    order: jax.Array
    centre: jax.Array
    scale: jax.Array
    means: jax.Array
    slopes: jax.Array
    log_widths: jax.Array
    log_slopes: jax.Array


def blank_autoregressive(centre: jax.Array, scale: jax.Array, columns: int) -> Autoregressive:
    """A Gaussian of independent coordinates, its slopes zero."""
    dim, dtype = centre.size, centre.dtype
    zeros, none = jnp.zeros((dim,), dtype), jnp.zeros((dim, columns), dtype)
    return Autoregressive(jnp.arange(dim), centre, scale, zeros, none, zeros, none)


def _bounded(y: jax.Array) -> jax.Array:
    return jnp.clip(y, -_BOUND, _BOUND)


def _standardised(law: Autoregressive, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Residuals in standard deviations, and log widths, both in the order of `y`."""
    y = ((x - law.centre) / law.scale)[law.order]
    before = y[: law.slopes.shape[1]]
    log_width = law.log_widths + law.log_slopes @ _bounded(before)
    return (y - law.means - law.slopes @ before) * jnp.exp(-log_width), log_width


def autoregressive_distance(law: Autoregressive, x: jax.Array) -> jax.Array:
    """Squared distance of `x` from the conditional means, in the widths at `x`."""
    return jnp.sum(_standardised(law, x)[0] ** 2)


def autoregressive_log_density(law: Autoregressive, x: jax.Array) -> jax.Array:
    """`log q(x)`, a scalar."""
    z, log_width = _standardised(law, x)
    constant = 0.5 * x.size * jnp.log(2 * jnp.asarray(jnp.pi, x.dtype))
    return -0.5 * jnp.sum(z**2) - jnp.sum(log_width) - jnp.sum(jnp.log(law.scale)) - constant


def autoregressive_draw(law: Autoregressive, noise: jax.Array) -> jax.Array:
    """The draw that standard normal `noise`, shape `(dim,)`, makes."""
    columns = law.slopes.shape[1]

    def add_coordinate(i, y):
        before = y[:columns]
        log_width = law.log_widths[i] + law.log_slopes[i] @ _bounded(before)
        return y.at[i].set(law.means[i] + law.slopes[i] @ before + jnp.exp(log_width) * noise[i])

    y = jax.lax.fori_loop(0, noise.size, add_coordinate, jnp.zeros_like(noise))
    return law.centre + law.scale * jnp.zeros_like(y).at[law.order].set(y)


def _order(y: jax.Array) -> jax.Array:
    """Coordinates by their squared correlation with the log sizes of the others, the largest first."""
    size = jnp.log(jnp.abs(y) + _SMALL)
    size = (size - jnp.mean(size, 0)) / (jnp.std(size, 0) + 1e-6)
    squared = (y.T @ size / y.shape[0]) ** 2
    return jnp.argsort(-jnp.sum(squared - jnp.diag(jnp.diagonal(squared)), 1))


def fit_autoregressive(draws: jax.Array) -> Autoregressive:
    """Fit to draws, shape `(n, dim)`, by maximum likelihood with a ridge on the slopes."""
    n, dim = draws.shape
    centre = jnp.mean(draws, 0)
    scale = jnp.maximum(jnp.std(draws, 0), smallest_scale(centre))
    y = (draws - centre) / scale
    order = _order(y)
    y = y[:, order]
    ones = jnp.ones((n, 1), y.dtype)
    features, bounded = jnp.concatenate([ones, y], 1), jnp.concatenate([ones, _bounded(y)], 1)
    before = jnp.tril(jnp.ones((dim, dim), bool), -1)
    used = jnp.concatenate([jnp.ones((dim, 1), bool), before], 1)  # row i: features that coordinate i has
    ridge = _RIDGE * jnp.eye(dim + 1, dtype=y.dtype).at[0, 0].set(1e-6)
    constant = jnp.arange(dim + 1) == 0
    gram, gram_bounded = features.T @ features, bounded.T @ bounded
    least = _SIGNIFICANT / jnp.sqrt(2 * jnp.diagonal(gram_bounded))

    def solve(gram, right, used):
        both = used[:, None] & used[None, :]
        gram = jnp.where(both, gram + ridge, jnp.eye(dim + 1, dtype=y.dtype))
        return jnp.linalg.solve(gram, jnp.where(used, right, 0))

    def fit(target, used):
        def alternate(carry, _):
            slopes, log_slopes = carry
            significant = used & ((jnp.abs(log_slopes) > least) | constant)
            log_slopes = jnp.where(significant, log_slopes, 0)
            residual = target - features @ slopes

            def scoring(_, log_slopes):
                squared = jnp.minimum((residual * jnp.exp(-bounded @ log_slopes)) ** 2, _LARGEST_RESIDUAL)
                return log_slopes + solve(
                    2 * gram_bounded, bounded.T @ (squared - 1) - ridge @ log_slopes, significant
                )

            log_slopes = jax.lax.fori_loop(0, _SCORINGS, scoring, log_slopes)
            weights = jnp.exp(-2 * bounded @ log_slopes)
            weighted = (features.T * weights) @ features
            right = features.T @ (weights * target)
            slopes = solve(weighted, right, used)
            far = jnp.abs(slopes) * jnp.sqrt(jnp.diagonal(weighted)) > _SIGNIFICANT
            return (solve(weighted, right, used & (far | constant)), log_slopes), None

        slopes = solve(gram, features.T @ target, used)
        log_sizes = jnp.log(jnp.abs(target - features @ slopes) + _SMALL) + _MEAN_LOG
        init = (slopes, solve(gram_bounded, bounded.T @ log_sizes, used))
        return jax.lax.scan(alternate, init, None, length=_ROUNDS)[0]

    slopes, log_slopes = jax.vmap(fit, in_axes=(1, 0))(y, used)
    predicts_widths = jnp.any(log_slopes[:, 1:] != 0, axis=0)
    log_widths = log_slopes[:, 0] + jnp.where(predicts_widths, jnp.log(WIDER), 0)
    return Autoregressive(order, centre, scale, slopes[:, 0], slopes[:, 1:], log_widths, log_slopes[:, 1:])
