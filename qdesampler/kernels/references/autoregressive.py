r"""An autoregressive Gaussian, whose widths depend on the place: the ground state of a funnel.

One coordinate after another, standardised and in an order in which those come first that tell how wide the
others are,

    q(y) = prod_i N(y_i; a_i + sum_j<i B_ij y_j, exp(c_i + sum_j<i D_ij t(y_j))^2),    t(y) = y within +-4,

which is any Gaussian for `D = 0`, and Neal's funnel but for `t`. Draws and densities cost no evaluation. It
is an affine autoregressive flow of one layer (Kingma et al. 2016), fitted by least squares, not by gradients.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "WIDER",
    "Autoregressive",
    "blank_autoregressive",
    "autoregressive_distance",
    "autoregressive_draw",
    "autoregressive_log_density",
    "fit_autoregressive",
]

_ROUNDS, _SCORINGS = 4, 3  # of the fit: means and scales in turn, steps of Fisher scoring in each
_RIDGE = 1.0  # prior precision of slopes in standardised units
_SMALL = 1e-3  # least residual whose logarithm begins the fit, standardised
_MEAN_LOG = 0.635  # -E log|z| of a standard normal z
_MOST_EXCESS = 9.0  # squared standardised residual that one step of scoring believes
_FARTHEST = 4.0  # standard deviations from where on a coordinate does not change the widths of others
WIDER = 1.2  # times its width gets a coordinate that tells others' widths: in its tails walkers are too few
_SURE = 4.0  # standard errors that a slope has to be away from 0


class Autoregressive(NamedTuple):
    """The parameters above; `columns` is `dim`, or 0 where widths and means depend on nothing.

    Attributes:
        order: coordinate that comes `i`-th, shape `(dim,)`.
        centre: of each coordinate, likewise (in the order of `x`).
        scale: of each coordinate, likewise.
        means: `a`, shape `(dim,)`, in that order from here on.
        slopes: `B`, strictly lower triangular, shape `(dim, columns)`.
        log_widths: `c`, shape `(dim,)`.
        log_slopes: `D`, shape `(dim, columns)`.
    """

    order: jax.Array
    centre: jax.Array
    scale: jax.Array
    means: jax.Array
    slopes: jax.Array
    log_widths: jax.Array
    log_slopes: jax.Array


def blank_autoregressive(centre: jax.Array, scale: jax.Array, columns: int) -> Autoregressive:
    """A Gaussian of independent coordinates, with room for slopes."""
    dim, dtype = centre.size, centre.dtype
    zeros, none = jnp.zeros((dim,), dtype), jnp.zeros((dim, columns), dtype)
    return Autoregressive(jnp.arange(dim), centre, scale, zeros, none, zeros, none)


def _bounded(y: jax.Array) -> jax.Array:
    return jnp.clip(y, -_FARTHEST, _FARTHEST)


def _standardised(law: Autoregressive, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Residuals in standard deviations, and log widths, both in its own order."""
    y = ((x - law.centre) / law.scale)[law.order]
    before = y[: law.slopes.shape[1]]
    log_width = law.log_widths + law.log_slopes @ _bounded(before)
    return (y - law.means - law.slopes @ before) * jnp.exp(-log_width), log_width


def autoregressive_distance(law: Autoregressive, x: jax.Array) -> jax.Array:
    """Squared distance of `x` from the centre, in standard deviations of the place."""
    return jnp.sum(_standardised(law, x)[0] ** 2)


def autoregressive_log_density(law: Autoregressive, x: jax.Array) -> jax.Array:
    """`log q(x)`, a scalar."""
    z, log_width = _standardised(law, x)
    constant = 0.5 * x.size * jnp.log(2 * jnp.asarray(jnp.pi, x.dtype))
    return -0.5 * jnp.sum(z**2) - jnp.sum(log_width) - jnp.sum(jnp.log(law.scale)) - constant


def autoregressive_draw(law: Autoregressive, noise: jax.Array) -> jax.Array:
    """The draw that standard normal `noise`, shape `(dim,)`, makes."""
    columns = law.slopes.shape[1]

    def place(i, y):
        before = y[:columns]
        log_width = law.log_widths[i] + law.log_slopes[i] @ _bounded(before)
        return y.at[i].set(law.means[i] + law.slopes[i] @ before + jnp.exp(log_width) * noise[i])

    y = jax.lax.fori_loop(0, noise.size, place, jnp.zeros_like(noise))
    return law.centre + law.scale * jnp.zeros_like(y).at[law.order].set(y)


def _order(y: jax.Array) -> jax.Array:
    """First the coordinates that tell most about the sizes of the others."""
    size = jnp.log(jnp.abs(y) + _SMALL)
    size = (size - jnp.mean(size, 0)) / (jnp.std(size, 0) + 1e-6)
    told = (y.T @ size / y.shape[0]) ** 2
    return jnp.argsort(-jnp.sum(told - jnp.diag(jnp.diagonal(told)), 1))


def fit_autoregressive(draws: jax.Array) -> Autoregressive:
    """Fitted to draws, shape `(n, dim)`, by maximum likelihood with a ridge on the slopes."""
    n, dim = draws.shape
    centre = jnp.mean(draws, 0)
    scale = jnp.maximum(jnp.std(draws, 0), 1e-6 * (1 + jnp.abs(centre)))
    y = (draws - centre) / scale
    order = _order(y)
    y = y[:, order]
    ones = jnp.ones((n, 1), y.dtype)
    features, bounded = jnp.concatenate([ones, y], 1), jnp.concatenate([ones, _bounded(y)], 1)
    before = jnp.tril(jnp.ones((dim, dim), bool), -1)
    used = jnp.concatenate([jnp.ones((dim, 1), bool), before], 1)  # of the features, for each coordinate
    ridge = _RIDGE * jnp.eye(dim + 1, dtype=y.dtype).at[0, 0].set(1e-6)
    constant = jnp.arange(dim + 1) == 0
    gram, gram_bounded = features.T @ features, bounded.T @ bounded
    least = _SURE / jnp.sqrt(2 * jnp.diagonal(gram_bounded))

    def solve(gram, right, used):
        both = used[:, None] & used[None, :]
        gram = jnp.where(both, gram + ridge, jnp.eye(dim + 1, dtype=y.dtype))
        return jnp.linalg.solve(gram, jnp.where(used, right, 0))

    def fit(target, used):
        def alternate(carry, _):
            slopes, log_slopes = carry
            sure = used & ((jnp.abs(log_slopes) > least) | constant)
            log_slopes = jnp.where(sure, log_slopes, 0)
            residual = target - features @ slopes

            def scoring(_, log_slopes):
                squared = jnp.minimum((residual * jnp.exp(-bounded @ log_slopes)) ** 2, _MOST_EXCESS)
                return log_slopes + solve(
                    2 * gram_bounded, bounded.T @ (squared - 1) - ridge @ log_slopes, sure
                )

            log_slopes = jax.lax.fori_loop(0, _SCORINGS, scoring, log_slopes)
            weights = jnp.exp(-2 * bounded @ log_slopes)
            weighted = (features.T * weights) @ features
            right = features.T @ (weights * target)
            slopes = solve(weighted, right, used)
            far = jnp.abs(slopes) * jnp.sqrt(jnp.diagonal(weighted)) > _SURE
            return (solve(weighted, right, used & (far | constant)), log_slopes), None

        slopes = solve(gram, features.T @ target, used)
        begun = jnp.log(jnp.abs(target - features @ slopes) + _SMALL) + _MEAN_LOG
        first = (slopes, solve(gram_bounded, bounded.T @ begun, used))
        return jax.lax.scan(alternate, first, None, length=_ROUNDS)[0]

    slopes, log_slopes = jax.vmap(fit, in_axes=(1, 0))(y, used)
    tells = jnp.any(log_slopes[:, 1:] != 0, axis=0)
    log_widths = log_slopes[:, 0] + jnp.where(tells, jnp.log(WIDER), 0)
    return Autoregressive(order, centre, scale, slopes[:, 0], slopes[:, 1:], log_widths, log_slopes[:, 1:])
