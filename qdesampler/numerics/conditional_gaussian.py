r"""Conditionally Gaussian coordinates, found from scores, and the map in which they are independent.

Given a few others `t` (logarithms of scales, mostly), many coordinates `x` of a hierarchical model are
Gaussian: their score is affine, `-(Q(t) x - b(t))`. Two sources of information, a prior and data, each with a
scale of its own, give

    Q(t) = exp(-2 g(t)) Q_1 + exp(-2 h(t)) Q_2 ,         g, h linear.

In the generalized eigenvectors `U` of `Q_1` and `Q_2`, `x = U y`, every `Q(t)` is diagonal (Golub and Van
Loan 2013, section 8.7). So given `t` the `y_k` are independent, and their precisions and means are

    lambda_k = a_k exp(-2 g) + b_k exp(-2 h),
    m_k = (1 - f_k) m_1k + f_k m_2k,                  f_k = b_k exp(-2 h) / lambda_k ,

the rows of a triangular map (`qdesampler.numerics.triangular_map`). Under it the target is the product of the
marginal law of `t` and independent standard normal coordinates: a funnel's neck and mouth are the same to it.

It takes points that differ in one coordinate to see which scores are affine in which, and `n + 1` points at
each of a few `t` for `Q` and `b`. If the target is only near to this form, the map is a trial still.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import least_squares

from qdesampler.numerics.triangular_map import TriangularMap, affine_map

__all__ = ["find_conditional_gaussian", "holds_at", "scales_of"]

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_STEP = 1.0  # of the differences: an affine score is so at any distance, any other at a small one too
_BENT = 0.1  # second over first difference of a score above which it is not affine
_MOST_SCALES = 4  # coordinates that are not Gaussian, at most
_MOST = 200  # Gaussian coordinates, at most
_FAR = 2.0  # distance of the `t` from the first, standard deviations, and at least as many nats
_CHECKS = 2  # random points at each `t` at which the affine score has to hold
_UNIT = 30.0  # nats of a `t` that are one unit of the map, whose growth levels off at six
_MISFIT = 0.3  # root mean square error of a log precision from which the form does not hold
_MISSED = 0.5  # the same of a mean, in standard deviations
_NEARLY_ALL = 0.9  # fraction of the candidates of a trial at which the form has to hold
_FLAT = 1e-3  # exponents, and standard deviations of a fraction, that count as 0


class _Conditional(NamedTuple):
    """The law of `x` at one `t`: `Q`, and the mean."""

    precision: np.ndarray
    mean: np.ndarray


def find_conditional_gaussian(
    evaluate: Evaluate, place: np.ndarray, widths: np.ndarray, rng: np.random.Generator
) -> TriangularMap | None:
    """The map; None if too few coordinates are Gaussian given the others, or in another way.

    Args:
        evaluate: rows of points, shape `(n, dim)`, to log densities and scores.
        place: a point where the density is finite, shape `(dim,)`.
        widths: standard deviations where they are known, else 0, shape `(dim,)`; the `t` are twice as far.
        rng: chooses the `t`.
    """
    if len(place) > _MOST + _MOST_SCALES:
        return None
    with np.errstate(all="ignore"):
        is_gaussian, lengths = _gaussian_coordinates(evaluate, place)
        scales, field = np.flatnonzero(~is_gaussian), np.flatnonzero(is_gaussian)
        if not 0 < len(scales) <= _MOST_SCALES or not 0 < len(field) <= _MOST:
            return None
        steps = _FAR * np.maximum(widths[scales], 1.0) * _places(len(scales), rng)
        laws = [_conditional(evaluate, place, scales, field, lengths, step, rng) for step in steps]
        known = [(step, law) for step, law in zip(steps, laws, strict=True) if law is not None]
        if len(known) < 2 + 2 * len(scales):
            return None
        return _as_map(place, scales, field, np.stack([step for step, _ in known]), [law for _, law in known])


def holds_at(law: TriangularMap, v: np.ndarray, scores: np.ndarray) -> bool:
    """Whether the coordinates of the map are standard normal given the `t`, at nearly all of some points.

    There `v + d log p / dv` is 0. Points of a trial show `t` that were not looked at: of a banana the density
    is Gaussian given the long coordinate, but with a mean that no two sources have.

    Args:
        law: of `find_conditional_gaussian`.
        v: in its coordinates, shape `(n, dim)`.
        scores: of the log density there.
    """
    rest = np.sqrt(np.mean((v + scores)[:, len(scales_of(law)) :] ** 2, 1))
    return bool(np.mean(rest < _MISSED) >= _NEARLY_ALL)


def scales_of(law: TriangularMap) -> tuple[int, ...]:
    """The coordinates of the map, its first, that are no Gaussian ones."""
    return tuple(range(int(law.width_terms[0, 0])))


def _gaussian_coordinates(evaluate: Evaluate, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which coordinates are jointly Gaussian given the others, and their conditional widths."""
    dim = len(place)
    axes = _STEP * np.eye(dim)
    _, scores = evaluate(np.concatenate([place + axes, place - axes, place[None]]))
    up, down, here = scores[:dim], scores[dim:-1], scores[-1]
    lengths = 1 / np.sqrt(-np.diag(up - down) / (2 * _STEP))
    # By rows the coordinate that moves, by columns the score: the change of its slope on the way, over the
    # slopes of both by themselves.
    bends = np.abs(up + down - 2 * here) / _STEP * lengths * lengths[:, None]
    bad = ~(bends <= _BENT)
    good = np.isfinite(lengths) & np.isfinite(here)
    while True:
        faults = np.where(good, np.sum(bad[:, good], 1) + np.sum(bad[good], 0), 0)
        worst = int(np.argmax(faults))
        if not faults[worst]:
            return good, lengths
        good[worst] = False


def _places(number: int, rng: np.random.Generator) -> np.ndarray:
    """Displacements of `t`: none, along the axes, and two corners; shape `(3 + 2 number, number)`."""
    axes = np.eye(number)
    corner = rng.choice([-0.5, 0.5], number)
    return np.concatenate([np.zeros((1, number)), axes, -axes, corner[None], -corner[None]])


def _conditional(
    evaluate: Evaluate,
    place: np.ndarray,
    scales: np.ndarray,
    field: np.ndarray,
    lengths: np.ndarray,
    step: np.ndarray,
    rng: np.random.Generator,
) -> _Conditional | None:
    """The Gaussian at one `t`; None if the score is not affine there."""
    origin = place.copy()
    origin[scales] += step
    number, ruler = len(field), lengths[field]
    points = np.repeat(origin[None], 1 + number + _CHECKS, 0)
    moves = np.concatenate([np.zeros((1, number)), np.eye(number), rng.standard_normal((_CHECKS, number))])
    points[:, field] += moves * ruler
    _, scores = evaluate(points)
    pulls = scores[:, field] * ruler
    if not np.all(np.isfinite(pulls)):
        return None
    precision = pulls[0] - pulls[1 : 1 + number]
    precision = 0.5 * (precision + precision.T)
    expected = pulls[0] - moves[-_CHECKS:] @ precision
    spread = np.sqrt(np.diag(precision))
    if not np.max(np.abs(pulls[-_CHECKS:] - expected) / spread) < _BENT * np.max(np.abs(expected) / spread):
        return None
    try:
        np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        return None
    mean = origin[field] + ruler * np.linalg.solve(precision, pulls[0])
    return _Conditional(precision / ruler / ruler[:, None], mean)


def _as_map(
    place: np.ndarray, scales: np.ndarray, field: np.ndarray, t: np.ndarray, laws: list[_Conditional]
) -> TriangularMap | None:
    """The map that fits the Gaussians at all `t`; None if none does."""
    first = laws[0].precision
    # Any two of the matrices have the same eigenvectors, and so has a sum of all with different weights.
    mixed = sum(np.log1p(i) * law.precision / np.trace(law.precision) for i, law in enumerate(laws))
    _, vectors = eigh(mixed, first)
    turned = np.stack([vectors.T @ law.precision @ vectors for law in laws])
    precisions = np.einsum("mkk->mk", turned)
    if not np.all(precisions > 0):
        return None
    fit = _two_sources(t, np.log(precisions))
    means = np.stack([np.linalg.solve(vectors, law.mean) for law in laws])
    origin, leaps, missed = _two_means(fit.fraction, means, precisions)
    normal = turned / np.sqrt(precisions[:, :, None] * precisions[:, None])
    across = np.sqrt(np.max(np.mean(normal**2, 0).sum(1) - 1))
    if not (fit.misfit < _MISFIT and missed < _MISSED and across < _MISSED):
        return None
    dim, number, rank = len(place), len(field), len(scales)
    order = np.concatenate([scales, field])
    factor, inverse = np.eye(dim), np.eye(dim)
    factor[:rank, :rank], inverse[:rank, :rank] = _UNIT * np.eye(rank), np.eye(rank) / _UNIT
    factor[rank:, rank:], inverse[rank:, rank:] = vectors, np.linalg.inv(vectors)
    row, of = (part.ravel() for part in np.meshgrid(rank + np.arange(number), np.arange(rank), indexing="ij"))
    terms = np.stack([row, of], 1)
    zeros = np.zeros(rank)
    return affine_map(np.where(np.isin(np.arange(dim), scales), place, 0.0), order, factor, inverse)._replace(
        shifts=np.concatenate([zeros, origin]),
        log_widths=np.concatenate([zeros, -0.5 * fit.log_size]),
        width_terms=terms,
        width_slopes=np.tile(_UNIT * fit.data, number),
        prior_terms=terms,
        prior_slopes=np.tile(_UNIT * fit.prior, number),
        centredness=np.concatenate([np.ones(rank), fit.centredness]),
        data_shifts=np.concatenate([zeros, leaps]),
        depth=np.asarray(2),
    )


class _Sources(NamedTuple):
    """`lambda = exp(log_size) [(1 - c) exp(-2 g) + c exp(-2 h)]`, with `g = t . prior` and `h = t . data`."""

    prior: np.ndarray
    data: np.ndarray
    log_size: np.ndarray
    centredness: np.ndarray
    fraction: np.ndarray
    misfit: float


def _two_sources(t: np.ndarray, logs: np.ndarray) -> _Sources:
    """The fit of log precisions, shape `(places, n)`: exponents by Gauss-Newton, sizes in closed form."""
    rank = t.shape[1]
    slopes = np.linalg.lstsq(np.column_stack([t, np.ones(len(t))]), logs, rcond=None)[0][:-1].T / -2
    apart = np.sum((slopes[:, None] - slopes[None]) ** 2, 2)
    start = np.concatenate(slopes[list(np.unravel_index(np.argmax(apart), apart.shape))])

    def fitted(exponents):
        parts = np.exp(-2 * t @ exponents.reshape(2, rank).T)  # of both sources, shape (places, 2)
        sizes = _sizes(parts, logs)
        return parts, sizes, np.log(parts @ sizes) - logs

    found = least_squares(lambda exponents: fitted(exponents)[2].ravel(), start).x
    parts, sizes, rest = fitted(found)
    prior, data = found.reshape(2, rank)
    total = np.sum(sizes, 0)
    return _Sources(
        prior=np.where(np.abs(prior) > _FLAT, prior, 0.0),
        data=np.where(np.abs(data) > _FLAT, data, 0.0),
        log_size=np.log(total),
        centredness=sizes[1] / total,
        fraction=parts[:, [1]] * sizes[1] / (parts @ sizes),
        misfit=float(np.sqrt(np.mean(rest**2))),
    )


def _sizes(parts: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Non-negative `a`, `b` of each row by least squares of relative errors, shape `(2, n)`."""
    first, second = (parts[:, [j]] * np.exp(-logs) for j in (0, 1))
    aa, ab, bb = np.sum(first**2, 0), np.sum(first * second, 0), np.sum(second**2, 0)
    ra, rb = np.sum(first, 0), np.sum(second, 0)
    det = aa * bb - ab**2
    a, b = (ra * bb - rb * ab) / det, (rb * aa - ra * ab) / det
    alone = np.stack([ra / aa, rb / bb])
    error = np.stack([np.sum((first * alone[0] - 1) ** 2, 0), np.sum((second * alone[1] - 1) ** 2, 0)])
    both = (a >= 0) & (b >= 0) & (det > 1e-9 * aa * bb)
    one = np.argmin(error, 0)
    return np.where(both, np.stack([a, b]), np.where(np.arange(2)[:, None] == one, alone, 0.0))


def _two_means(
    fraction: np.ndarray, means: np.ndarray, precisions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """`m = m_1 + f l` of each row, and the root mean square error in standard deviations."""
    share = precisions / np.sum(precisions, 0)
    f = fraction - np.sum(share * fraction, 0)
    m = means - np.sum(share * means, 0)
    variance = np.sum(share * f**2, 0)
    leaps = np.where(variance > _FLAT**2, np.sum(share * f * m, 0) / np.maximum(variance, _FLAT**2), 0.0)
    origin = np.sum(share * (means - leaps * fraction), 0)
    missed = (origin + leaps * fraction - means) ** 2 * precisions
    return origin, leaps, float(np.sqrt(np.mean(missed)))
