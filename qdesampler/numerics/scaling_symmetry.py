r"""Coordinates that a likelihood sees only as products with scales, found from scores.

A hierarchy that is written "non-centred" has sites `z_j ~ Normal(0, w_j)` with a prior of their own, and
the rest of the density depends on products like `s z_j` of a scale `s = exp(x)` only. Then it does not
change with

    x_k -> x_k + t,        z_j -> z_j exp(-C_jk t),

so that, where `f_k` is the part of `log p` which does not depend on `z`,

    d log p / d x_k = d f_k / d x_k + sum_j C_jk z_j (d log p / d z_j + z_j / w_j^2) .

At points that differ only in `z` this is a linear regression, and its solution has whole or half numbers:
`C = 1` for a scale, `1/2` for a variance, more than one column for products of scales. Jitter and single
precision may break the symmetry a little; numbers are rounded as far as the prediction hardly changes. With
`C` known the model can be centred as much as its data ask for:

    y_j = z_j (1 - c_j + c_j exp(2 h_j))^(1/2),        h_j = sum_k C_jk (x_k - m_k),        0 <= c_j <= 1.

`c = 0` leaves the model unchanged, `c = 1` gives its centred form. Between them it is the one at scales where
data inform a site less than its prior and the other where they inform it more: with the information
`c / (1 - c)` at the scales `m`, in units of the prior's, the width of a Gaussian `y_j` does not depend on
the scales at all. (A power `exp(c_j h_j)` has the same slope there; Papaspiliopoulos, Roberts and Skold 2007,
section 4.) If the regression were wrong, `y` would still be coordinates, only no better ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qdesampler.numerics.centredness import centredness_of_draws
from qdesampler.numerics.triangular_map import TriangularMap, affine_map

__all__ = ["ScalingSymmetry", "centred_map", "find_scaling_symmetry", "suitable_centredness"]

_SPARE = 1.3  # points of the regression over its unknowns
# Points at another place that the solution must predict, drawn from the prior of the `z_j`, and as many
# nearer to 0 with the other coordinates moved. From afar, and about effects of mean 0, a mean and a scale
# look like a product (irt_2pl, hierarchical-lines).
_CHECKS, _NEARER, _MOVED = 8, 0.3, 1.0
_SNAP, _WHOLE = 0.05, 2.0  # distance to a multiple of a half that is rounding; exponents are at most so large
# Error of the prediction over the spread of what is predicted, and of one exponent over the same. It is .04
# for gp-counts-13, whose jitter and float32 break the symmetry a little: without it that takes 30 thousand
# evaluations for 8.
_MISS = 0.1
_MOST = 500  # coordinates with priors of their own beyond which the regression is too expensive


class ScalingSymmetry(NamedTuple):
    """Which coordinates are scaled by which.

    Attributes:
        scaled: indices of the `z_j`, shape `(n,)`.
        scales: indices of the `x_k`, shape `(m,)`.
        exponents: `C`, shape `(n, m)`.
        widths: `w_j`, shape `(n,)`.
    """

    scaled: np.ndarray
    scales: np.ndarray
    exponents: np.ndarray
    widths: np.ndarray


def find_scaling_symmetry(
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    widths: np.ndarray,
    places: np.ndarray,
    rng: np.random.Generator,
) -> tuple[ScalingSymmetry, np.ndarray] | None:
    """The symmetry, and the centredness that suits the first place; None if there is none.

    Args:
        evaluate: rows of points, shape `(n, dim)`, to log densities and scores.
        widths: `w_j` of the coordinates with a normal prior of their own, 0 of all others, shape `(dim,)`.
        places: two points that give the other coordinates, shape `(2, dim)`.
        rng: draws the `z_j`.
    """
    scaled, others = np.flatnonzero(widths > 0), np.flatnonzero(widths == 0)
    if not 0 < len(scaled) <= _MOST or not len(others):
        return None
    number = int(_SPARE * (len(scaled) + 1)) + 4
    points = np.repeat(places[[0, 1, 1]], [number, _CHECKS, _CHECKS], 0)
    noise = rng.standard_normal((len(points), len(scaled)))
    noise[-_CHECKS:] *= _NEARER
    points[-_CHECKS:] += _MOVED
    points[:, scaled] = widths[scaled] * noise
    _, scores = evaluate(points)
    if not np.all(np.isfinite(scores)):
        return None
    z = points[:, scaled]
    terms = z * (scores[:, scaled] + z / widths[scaled] ** 2)
    first = slice(None, number)
    columns, response = (_centred(part[first]) for part in (terms, scores[:, others]))
    size, spread = (np.sqrt(np.mean(part**2, 0)) for part in (columns, response))
    size = np.where(size > 0, size, 1.0)
    found = np.linalg.lstsq(columns / size, response, rcond=None)[0] / size[:, None]
    snapped = np.round(2 * found) / 2
    rounding = np.maximum(_SNAP, _MISS * spread / size[:, None])
    holds = np.all((np.abs(found - snapped) < rounding) & (np.abs(snapped) <= _WHOLE), 0)
    for check in (slice(number, -_CHECKS), slice(-_CHECKS, None)):
        response = _centred(scores[check][:, others])
        missed = response - _centred(terms[check]) @ snapped
        holds &= np.sqrt(np.mean(missed**2, 0)) < _MISS * np.sqrt(np.mean(response**2, 0))
    holds &= np.any(snapped != 0, 0)
    rows = np.any(snapped[:, holds] != 0, 1)
    if not np.any(rows):
        return None
    symmetry = ScalingSymmetry(scaled[rows], others[holds], snapped[rows][:, holds], widths[scaled[rows]])
    suits = suitable_centredness(symmetry, points[first], scores[first], np.ones(number), places[0])
    return symmetry, np.clip(np.nan_to_num(suits), 0.0, 1.0)


def _centred(x: np.ndarray) -> np.ndarray:
    return x - np.mean(x, 0)


def centred_map(
    symmetry: ScalingSymmetry, centredness: np.ndarray, centre: np.ndarray, spread: np.ndarray
) -> TriangularMap:
    """The map from `y` to the point, as `qdesampler.numerics.triangular_map` has it.

    Args:
        symmetry: what is scaled by what.
        centredness: `c_j`, shape `(n,)`.
        centre: `m`, shape `(dim,)`; only the entries of the scales are used.
        spread: shape `(dim,)`, the same; `h` levels off at six times as much.
    """
    dim = len(centre)
    rest = np.setdiff1d(np.arange(dim), symmetry.scaled)
    order = np.concatenate([rest, symmetry.scaled])
    place = np.empty(dim, int)
    place[order] = np.arange(dim)
    is_scale = np.isin(np.arange(dim), symmetry.scales)
    width = np.where(is_scale, spread, 1.0)[order]
    row, column = np.nonzero(symmetry.exponents)
    of = symmetry.scales[column]
    slopes = -symmetry.exponents[row, column] * spread[of]
    levels = np.ones(dim)
    levels[place[symmetry.scaled]] = centredness
    offset = np.where(is_scale, centre, 0.0)
    return affine_map(offset, order, np.diag(width), np.diag(1 / width))._replace(
        width_terms=np.stack([place[symmetry.scaled[row]], place[of]], 1),
        width_slopes=slopes,
        centredness=levels,
        depth=np.asarray(2),
    )


def suitable_centredness(
    symmetry: ScalingSymmetry, points: np.ndarray, scores: np.ndarray, weights: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """`c_j` that makes the width of `y_j` independent of its scales, shape `(n,)`.

    It is that of `qdesampler.numerics.centredness` for a site `u_j = z_j exp(h_j)` at the scale `w_j`.

    Args:
        symmetry: what is scaled by what.
        points: in the coordinates `z`, `x`, shape `(n, dim)`.
        scores: of the log density there.
        weights: non-negative, shape `(n,)`.
        centre: `m`, shape `(dim,)`.
    """
    z = points[:, symmetry.scaled]
    growth = (points[:, symmetry.scales] - centre[symmetry.scales]) @ symmetry.exponents.T
    with np.errstate(all="ignore"):
        scale = np.exp(growth)
        u, rest = z * scale, (scores[:, symmetry.scaled] + z / symmetry.widths**2) / scale
    return centredness_of_draws(u, rest, np.broadcast_to(symmetry.widths, u.shape), weights)
