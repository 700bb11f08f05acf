r"""Coordinates that are independent given the scales of a hierarchy, by Laplace's approximation.

Let sites `z_i ~ Normal(0, w_i)` reach the likelihood only as `u_i = z_i exp(E_i . x)`, where `x` are
logarithms of scales (`qdesampler.numerics.scaling_symmetry` finds `E`). Then `u_i` has a prior of known
precision, and where the likelihood is near to a Gaussian one in `u`, with precision `D` and pull `b`,

    u | x ~ Normal(Q(x)^-1 b, Q(x)^-1),         Q(x) = D + diag(exp(-2 E x) / w^2) .

So with the Cholesky factor `Q = L L^T` and `C = L^-T`,

    u = C (C^T b + v),      log |dz/dv| = -sum_i (log L_ii + E_i . x)

has a standard normal `v`, whatever the scales are, however many there are, and however effects are nested or
crossed. What remains is the law of the scales. This is Laplace's approximation of the latent field given its
hyperparameters (Rue, Martino and Chopin 2009, section 3), used as coordinates: if the likelihood is not
Gaussian, a density in `v` is as exact as one in `z`.

The score of `x_k` needs the derivative of `C v`. With `a = C^T g`, `g` the score of `u`, and
`dL = L lower(L^-1 dQ L^-T)`, the diagonal counted half (Murray 2016, arXiv:1602.07527, equation 9),

    g . dC v = -sum_n dQ_nn t_n,        t_n = sum_i C_ni v_i (sum_{j<i} C_nj a_j + C_ni a_i / 2) ,

because `Q` changes on its diagonal only. The functions take one point, shape `(dim,)`, of JAX, or rows
`(n, dim)` of NumPy, and have the names of those of `qdesampler.numerics.triangular_map`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.numerics.scaling_symmetry import ScalingSymmetry

__all__ = [
    "LaplaceMap",
    "find_laplace_map",
    "into_map",
    "out_of_map",
    "push_forward",
    "to_map",
    "value_and_score_in_map",
]

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_MOST = 64  # sites of the field, at most: every evaluation takes a Cholesky factor
# Differences of the likelihood's scores: the first in standard deviations of the prior, the second in those
# given all others.
_FIRST_STEP, _STEP = 0.05, 0.5
_ROWS = 512  # whose matrices are in memory together
_LEAST_INFORMATION = 1e-6  # of the likelihood in any direction, over the prior's; else `Q` may be singular


class LaplaceMap(NamedTuple):
    """The map; all fields are arrays.

    Attributes:
        scales: indices of the `x_k`, shape `(m,)`.
        field: indices of the `z_i`, shape `(n,)`.
        rest: all other indices, those of the scales included.
        back: place of every coordinate in `rest` and then `field`, shape `(dim,)`.
        exponents: `E`, shape `(n, m)`.
        prior: `1 / w^2`, shape `(n,)`.
        data: `D`, shape `(n, n)`.
        pull: `b`, shape `(n,)`.
    """

    scales: Any
    field: Any
    rest: Any
    back: Any
    exponents: Any
    prior: Any
    data: Any
    pull: Any


class _Conditional(NamedTuple):
    """The Gaussian of `u` at given scales."""

    growth: Any  # `E x`
    prior: Any  # precision of the prior
    lower: Any  # `L`
    spread: Any  # `C`
    mean: Any


def find_laplace_map(
    evaluate: Evaluate, widths: np.ndarray, symmetry: ScalingSymmetry, place: np.ndarray
) -> LaplaceMap | None:
    """The map with the likelihood's precision at a place; None if the field is too large or not finite there.

    Args:
        evaluate: rows of points, shape `(n, dim)`, to log densities and scores.
        widths: `w` of the coordinates with a normal prior of their own, 0 of all others, shape `(dim,)`.
        symmetry: what is scaled by what.
        place: a point where the density is high, shape `(dim,)`.
    """
    scales = symmetry.scales
    field = np.setdiff1d(np.flatnonzero(widths > 0), scales)
    if len(field) > _MOST or not np.all(np.isin(symmetry.scaled, field)):
        return None
    exponents = np.zeros((len(field), len(scales)))
    exponents[np.searchsorted(field, symmetry.scaled)] = symmetry.exponents
    with np.errstate(all="ignore"):
        size = np.exp(exponents @ place[scales])
        prior = 1 / widths[field] ** 2
        lengths = _FIRST_STEP * widths[field]
        for _ in range(2):
            pull, data = _likelihood(evaluate, place, field, size, prior, lengths)
            if data is None:
                return None
            lengths = _STEP / np.sqrt(prior + np.diag(data) * size**2)
    rest = np.setdiff1d(np.arange(len(place)), field)
    return LaplaceMap(
        scales=scales,
        field=field,
        rest=rest,
        back=np.argsort(np.concatenate([rest, field])),
        exponents=exponents,
        prior=prior,
        data=data,
        pull=pull + data @ (place[field] * size),
    )


def _likelihood(
    evaluate: Evaluate,
    place: np.ndarray,
    field: np.ndarray,
    size: np.ndarray,
    prior: np.ndarray,
    lengths: np.ndarray,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Score and precision of the likelihood in `u` at the place; no precision where it is not finite."""
    number = len(field)
    points = np.repeat(place[None], 2 * number + 1, 0)
    points[1:, field] += np.concatenate([np.diag(lengths), -np.diag(lengths)])
    _, scores = evaluate(points)
    pulls = (scores[:, field] + points[:, field] * prior) / size
    if not np.all(np.isfinite(pulls)):
        return pulls[0], None
    data = (pulls[1 + number :] - pulls[1 : 1 + number]) / (2 * lengths * size)[:, None]
    # In units of the prior, where the likelihood is no less than flat.
    unit = np.sqrt(prior) / size
    values, vectors = np.linalg.eigh(0.5 * (data + data.T) / unit / unit[:, None])
    data = (vectors * np.maximum(values, _LEAST_INFORMATION)) @ vectors.T * unit * unit[:, None]
    return pulls[0], data


def _conditional(law: LaplaceMap, points) -> _Conditional:
    growth = points[..., law.scales] @ law.exponents.T
    if isinstance(points, np.ndarray):
        with np.errstate(over="ignore"):
            prior = law.prior * np.exp(-2 * growth)
        precision = law.data + prior[..., None] * np.eye(len(law.field))
        lower = _cholesky_rows(precision)
        spread = np.swapaxes(np.linalg.inv(lower), -1, -2)
        up = np.swapaxes(spread, -1, -2) @ law.pull
        return _Conditional(growth, prior, lower, spread, np.einsum("nij,nj->ni", spread, up))
    prior = law.prior * jnp.exp(-2 * growth)
    eye = jnp.eye(len(law.field), dtype=points.dtype)
    lower = jnp.linalg.cholesky(law.data + prior[:, None] * eye, symmetrize_input=False)
    spread = jax.scipy.linalg.solve_triangular(lower, eye, lower=True).T
    return _Conditional(growth, prior, lower, spread, spread @ (law.pull @ spread))


def _cholesky_rows(precision: np.ndarray) -> np.ndarray:
    """Cholesky factors of a stack of matrices, NaN and ones for those that have none."""
    try:
        return np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        if len(precision) == 1:
            return np.full_like(precision, np.nan)
        return np.concatenate([_cholesky_rows(matrix[None]) for matrix in precision])


def _multiply(matrix, vector):
    """Matrices times vectors, of one point or of rows."""
    return (matrix @ vector[..., None])[..., 0]


def _together(law: LaplaceMap, points, values):
    """Points with these values of the field."""
    xp = np if isinstance(points, np.ndarray) else jnp
    return xp.concatenate([points[..., law.rest], values], -1)[..., law.back]


def _log_volume(xp, given: _Conditional):
    diagonal = xp.diagonal(given.lower, axis1=-2, axis2=-1)
    return -xp.sum(xp.log(diagonal), -1) - xp.sum(given.growth, -1)


def _at(law: LaplaceMap, v, given: _Conditional):
    """Sites at `v`, and `u` there."""
    xp = np if isinstance(v, np.ndarray) else jnp
    u = given.mean + _multiply(given.spread, v[..., law.field])
    return _together(law, v, u * xp.exp(-given.growth)), u


def _by_blocks(function: Callable) -> Callable:
    """The same function of rows, of which not too many are in memory."""

    @wraps(function)
    def blocks(law, points, *more):
        if not isinstance(points, np.ndarray) or len(points) <= _ROWS:
            return function(law, points, *more)
        parts = []
        for first in range(0, len(points), _ROWS):
            rows = slice(first, first + _ROWS)
            parts.append(
                function(law, points[rows], *(a[rows] if isinstance(a, np.ndarray) else a for a in more))
            )
        if isinstance(parts[0], tuple):
            return tuple(map(np.concatenate, zip(*parts, strict=True)))
        return np.concatenate(parts)

    return blocks


@_by_blocks
def push_forward(law: LaplaceMap, v: Any) -> tuple[Any, Any]:
    """Sites at `v`, and `log |dz/dv|`."""
    given = _conditional(law, v)
    return _at(law, v, given)[0], _log_volume(np if isinstance(v, np.ndarray) else jnp, given)


@_by_blocks
def to_map(law: LaplaceMap, x: Any) -> tuple[Any, Any]:
    """The inverse of `push_forward`: `v` at sites, and `log |dz/dv|`."""
    given = _conditional(law, x)
    return _from_sites(law, x, given)[0], _log_volume(np if isinstance(x, np.ndarray) else jnp, given)


def _from_sites(law: LaplaceMap, x, given: _Conditional):
    """`v` at sites, and `u` there."""
    xp = np if isinstance(x, np.ndarray) else jnp
    u = x[..., law.field] * xp.exp(given.growth)
    v = xp.sum(given.lower * (u - given.mean)[..., :, None], -2)
    return _together(law, x, v), u


def _through_scales(law: LaplaceMap, v, u, given: _Conditional, score):
    """What a change of the scales does through the field: `score` is that of `u`; by coordinate of `v`."""
    xp = np if isinstance(v, np.ndarray) else jnp
    spread, own = given.spread, v[..., law.field]
    inside = xp.sum(spread * score[..., :, None], -2)  # `a`
    products = spread * inside[..., None, :]
    below = xp.cumsum(products, -1) - 0.5 * products
    t = xp.sum(spread * own[..., None, :] * below, -1)
    variance = xp.sum(spread**2, -1)
    moved = _multiply(spread, inside) * given.mean
    change = (given.prior * (variance + 2 * moved + 2 * t) - score * u - 1) @ law.exponents
    selection = (law.rest[:, None] == law.scales).astype(change.dtype)
    zeros = xp.zeros_like(own)
    return inside, xp.concatenate([change @ selection.T, zeros], -1)[..., law.back]


def _pulled(law: LaplaceMap, v, u, given: _Conditional, score):
    xp = np if isinstance(v, np.ndarray) else jnp
    inside, change = _through_scales(law, v, u, given, score[..., law.field] * xp.exp(-given.growth))
    return _together(law, score, inside) + change


@_by_blocks
def value_and_score_in_map(law: LaplaceMap, v: Any, evaluate: Callable) -> tuple[Any, Any]:
    """`log p(z(v)) + log |dz/dv|` and its score, from `evaluate(z) -> (log p(z), grad log p(z))`."""
    given = _conditional(law, v)  # once for both directions
    sites, u = _at(law, v, given)
    value, score = evaluate(sites)
    change = _log_volume(np if isinstance(v, np.ndarray) else jnp, given)
    return value + change, _pulled(law, v, u, given, score)


def _returned(law: LaplaceMap, v, u, given: _Conditional, score):
    xp = np if isinstance(v, np.ndarray) else jnp
    own = _multiply(given.lower, score[..., law.field])
    _, change = _through_scales(law, v, u, given, own)
    return _together(law, score - change, own * xp.exp(given.growth))


@_by_blocks
def into_map(law: LaplaceMap, x: Any, score: Any) -> tuple[Any, Any, Any]:
    """`to_map`, and the score of `v`, of `log p(z(v)) + log |dz/dv|`, from that of the sites."""
    given = _conditional(law, x)
    v, u = _from_sites(law, x, given)
    change = _log_volume(np if isinstance(x, np.ndarray) else jnp, given)
    return v, change, _pulled(law, v, u, given, score)


@_by_blocks
def out_of_map(law: LaplaceMap, v: Any, score: Any) -> tuple[Any, Any, Any]:
    """`push_forward`, and the score of the sites from that of `v`: the inverse of `into_map`."""
    given = _conditional(law, v)
    x, u = _at(law, v, given)
    change = _log_volume(np if isinstance(v, np.ndarray) else jnp, given)
    return x, change, _returned(law, v, u, given, score)
