r"""The fit of a triangular map to weighted points and their scores, by closed-form steps.

With `v(x)` from the map and `g = grad_v log p`, the score that the target has in its coordinates, every
function `f` of the coordinates before `k` has, by partial integration,

    E_p [g_k f] = 0,        E_p [(1 + g_k v_k) f] = 0 .

So at the map whose coordinates are independent standard normal variates both of the following are zero, and a
Newton step makes them so, with `f` the derivative of the shift or of the log width by a slope:

    by moments (maximum likelihood):    E [v_k exp(-s_k) f],              E [(v_k^2 - 1) f],
    by scores:                          E [(v_k + g_k) exp(-s_k) f],      E [v_k (v_k + g_k) f] .

The second pair has far less noise, because `v + g` is zero at every single point where the map is exact; for
the same reason it needs no exact weights of the points. It is what `mu = mean x + Sigma mean a` is to the
mean. The first needs no map to begin with. Both are done in turn: first by moments, then by scores.

Which terms a coordinate has is decided by tests: those that are correlated with what is left, beyond chance.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from qdesampler.numerics.triangular_map import (
    TriangularMap,
    affine_map,
    bounded,
    pull_back,
    shifts_and_log_widths,
    to_map,
)
from qdesampler.solvers.quadratic.sample import Sample, map_depth

__all__ = ["coordinate_order", "fit_steps", "misfit", "more_steps", "plain_map"]

BY_MOMENTS, BY_SCORES = 3, 6  # steps of a fit
_SIGNIFICANT = 4.0  # standard errors of a correlation that is no chance
_KEPT = 3.0  # standard errors of a slope from which it is kept
_MOST_TERMS = 20  # of a shift, and as many of a log width
_MOST_PARENTS = 40  # coordinates whose products with one another are tried
_RIDGE, _FLAT = 1.0, 1e-9  # points' worth of information that a slope is zero; that a constant is
_CLIPPED = 4.0  # what is left of a coordinate counts as this much at most, standard deviations
_LEAST_SQUARE, _LARGEST_SQUARE = 0.1, 9.0  # bounds of its square
_DIVERGED = 0.5  # of the misfit above the least so far, from which steps lead away
_EXACT = 1e-4  # misfit below which a map is exact
_SMALL = 1e-3  # added to distances before their logarithm, standardised units


class _Features(NamedTuple):
    """What shifts and log widths are made of, at all points.

    Attributes:
        pairs: of each candidate of a term of a shift, shape `(candidates, 2)`; `dim` stands for 1.
        products: their values, shape `(n, candidates)`.
        bounded: the candidates of terms of a log width, shape `(n, dim)`.
    """

    pairs: np.ndarray
    products: np.ndarray
    bounded: np.ndarray


def _correlations(left: np.ndarray, right: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Weighted correlations of the columns of both, shape `(left, right)`."""

    def standard(columns):
        columns = columns - share @ columns
        deviation = np.sqrt(share @ columns**2)
        return columns / np.where(deviation > 0, deviation, np.inf)

    return (standard(left) * share[:, None]).T @ standard(right)


def coordinate_order(z: np.ndarray, g: np.ndarray, share: np.ndarray, effective: float) -> np.ndarray:
    """Coordinates by how well they predict the widths and means of others, the best predictors first.

    A sum of squares of the largest of `corr(z_i, log |z_j|)` and `corr(z_i^2, z_j)`, and of what says the
    same by scores, `corr(z_i, z_j (z_j + g_j))` and `corr(z_i^2, z_j + g_j)`, where significant.

    Args:
        z: standardised points, shape `(n, dim)`.
        g: scores of the target in their units.
        share: their weights, as fractions.
        effective: how many independent points they are worth.
    """
    widths = np.abs(_correlations(z, np.log(np.abs(z) + _SMALL), share))
    larger = np.maximum(widths, np.abs(_correlations(z**2, z, share)))
    sums = np.clip(z + g, -_CLIPPED, _CLIPPED)
    larger = np.maximum(larger, np.abs(_correlations(z**2, sums, share)))
    larger = np.maximum(larger, np.abs(_correlations(z, np.clip(z * sums, -_CLIPPED, _CLIPPED), share)))
    np.fill_diagonal(larger, 0.0)
    larger = np.where(larger > _SIGNIFICANT / np.sqrt(effective), larger, 0.0)
    return np.argsort(-np.sum(larger**2, 1), kind="stable")


def plain_map(sample: Sample, covariance: np.ndarray) -> TriangularMap:
    """The map without terms: the Gaussian with the mean of the points and this covariance, in their order."""
    share = sample.share
    centre = share @ sample.points
    scale = np.sqrt(np.diag(covariance))
    order = coordinate_order((sample.points - centre) / scale, sample.scores * scale, share, sample.effective)
    dim = len(order)
    factor = np.linalg.cholesky(covariance[np.ix_(order, order)])
    inverse = solve_triangular(factor, np.eye(dim), lower=True)
    return affine_map(centre, order, factor, inverse)


def misfit(sample: Sample, law: TriangularMap) -> float:
    """Median of `log |v + g|^2` a dimension; where the map is exact, that of the least that matters."""
    v, _ = to_map(law, sample.points)
    squares = np.mean((v + pull_back(law, v, sample.scores)) ** 2, 1)
    return float(np.median(np.log(np.where(np.isfinite(squares), squares, np.inf) + _EXACT)))


def fit_steps(sample: Sample, law: TriangularMap, *, by_moments: int = BY_MOMENTS) -> list[TriangularMap]:
    """The maps after each step by moments and by scores, `law` first; by scores until they diverge."""
    features = _features(sample, law)
    laws = [law]
    for _ in range(by_moments):
        laws.append(_step(sample, laws[-1], features, by_scores=False))
    return laws + _score_steps(sample, laws[-1], features, BY_SCORES)


def more_steps(sample: Sample, law: TriangularMap, number: int) -> TriangularMap:
    """The map after further steps by scores, until they diverge."""
    return [law, *_score_steps(sample, law, _features(sample, law), number)][-1]


def _score_steps(
    sample: Sample, law: TriangularMap, features: "_Features", number: int
) -> list[TriangularMap]:
    laws, least = [], misfit(sample, law)
    for _ in range(number):
        law = _step(sample, law, features, by_scores=True)
        now = misfit(sample, law)
        if not now < least + _DIVERGED:
            break
        laws.append(law)
        least = min(least, now)
    return laws


def _features(sample: Sample, law: TriangularMap) -> _Features:
    w = (sample.points - law.centre)[:, law.order] @ law.inverse.T
    dim = w.shape[1]
    parents = min(dim, _MOST_PARENTS)
    pairs = [(i, dim) for i in range(dim)]
    pairs += [(i, j) for i in range(parents) for j in range(i + 1)]
    pairs += [(i, i) for i in range(parents, dim)]
    first, second = np.array(pairs).T
    full = np.concatenate([w, np.ones((len(w), 1))], 1)
    return _Features(np.array(pairs), full[:, first] * full[:, second], np.asarray(bounded(w)))


class _Rest(NamedTuple):
    """What is left of the shifts or of the log widths, and minus its derivative by them, each `(n, dim)`.

    Far points count less (Huber 1964): where the rest is above `_CLIPPED` both are divided by the excess.
    """

    rest: np.ndarray
    curvature: np.ndarray


def _robust(rest: np.ndarray, curvature: np.ndarray) -> _Rest:
    rest = np.where(np.isfinite(rest), rest, 0.0)
    factor = np.minimum(1.0, _CLIPPED / np.maximum(np.abs(rest), _CLIPPED))
    return _Rest(rest * factor, curvature * factor)


def _left_of_shifts(sample: Sample, law: TriangularMap, *, by_scores: bool) -> _Rest:
    v, _ = to_map(law, sample.points)
    if not by_scores:
        return _Rest(v, np.ones_like(v))
    return _robust(v + pull_back(law, v, sample.scores), np.ones_like(v))


def _left_of_log_widths(sample: Sample, law: TriangularMap, *, by_scores: bool) -> _Rest:
    """The product `v g` does not depend on the width of its coordinate, so only `v^2` has a derivative."""
    v, _ = to_map(law, sample.points)
    if not by_scores:
        return _Rest(np.minimum(v**2, _LARGEST_SQUARE) - 1, np.full_like(v, 2.0))
    return _robust(v * (v + pull_back(law, v, sample.scores)), 2 * np.maximum(v**2, _LEAST_SQUARE))


def _step(sample: Sample, law: TriangularMap, features: _Features, *, by_scores: bool) -> TriangularMap:
    """A Newton step of all shifts, and one of all log widths."""
    law = _shift_step(sample, law, features, by_scores=by_scores)
    return _width_step(sample, law, features, by_scores=by_scores)


def _shift_step(sample: Sample, law: TriangularMap, features: _Features, *, by_scores: bool):
    share, dim = sample.share, law.centre.size
    highest = np.max(np.where(features.pairs == dim, -1, features.pairs), 1)
    rest, curvature = _left_of_shifts(sample, law, by_scores=by_scores)
    w = (sample.points - law.centre)[:, law.order] @ law.inverse.T
    narrowing = np.exp(-shifts_and_log_widths(law, w)[1])
    seen = _seen(features.products, narrowing, rest, share)
    place = {tuple(pair): column for column, pair in enumerate(features.pairs)}
    shifts, terms, slopes = law.shifts.copy(), [], []
    for k in range(dim):
        mine = law.shift_terms[:, 0] == k
        present = [place[tuple(pair)] for pair in law.shift_terms[mine, 1:]]
        columns = present + _added(seen[:, k], highest < k, present, sample.effective)
        old = np.r_[law.shifts[k], law.shift_slopes[mine], np.zeros(len(columns) - len(present))]
        matrix = np.concatenate([np.ones((len(share), 1)), features.products[:, columns]], 1)
        known = (rest[:, k], curvature[:, k], share, sample.effective)
        kept, new = _newton(matrix * narrowing[:, [k]], old, *known)
        shifts[k] = new[0]
        terms += [(k, *features.pairs[columns[i - 1]]) for i in kept[1:]]
        slopes += list(new[1:])
    law = law._replace(
        shifts=shifts, shift_terms=np.array(terms, int).reshape(-1, 3), shift_slopes=np.array(slopes)
    )
    return law._replace(depth=map_depth(law))


def _width_step(sample: Sample, law: TriangularMap, features: _Features, *, by_scores: bool):
    share, dim = sample.share, law.centre.size
    rest, curvature = _left_of_log_widths(sample, law, by_scores=by_scores)
    seen = _seen(features.bounded, np.ones_like(rest), rest, share)
    log_widths, terms, slopes = law.log_widths.copy(), [], []
    for k in range(dim):
        mine = law.width_terms[:, 0] == k
        present = list(law.width_terms[mine, 1])
        columns = present + _added(seen[:, k], np.arange(dim) < k, present, sample.effective)
        old = np.r_[law.log_widths[k], law.width_slopes[mine], np.zeros(len(columns) - len(present))]
        matrix = np.concatenate([np.ones((len(share), 1)), features.bounded[:, columns]], 1)
        kept, new = _newton(matrix, old, rest[:, k], curvature[:, k], share, sample.effective)
        log_widths[k] = new[0]
        terms += [(k, columns[i - 1]) for i in kept[1:]]
        slopes += list(new[1:])
    law = law._replace(
        log_widths=log_widths, width_terms=np.array(terms, int).reshape(-1, 2), width_slopes=np.array(slopes)
    )
    return law._replace(depth=map_depth(law))


def _seen(columns: np.ndarray, factors: np.ndarray, rest: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Sizes of the correlations of `columns * factors_k` with `rest_k`, shape `(columns, dim)`."""
    weighted = factors * share[:, None]
    mean = columns.T @ weighted
    variance = (columns**2).T @ (weighted * factors) - mean**2
    centred = rest - share @ rest
    deviation = np.sqrt(share @ centred**2)
    cross = columns.T @ (weighted * centred)
    usable = variance > 1e-12
    return (
        np.abs(cross)
        / np.where(usable, np.sqrt(np.where(usable, variance, 1.0)), np.inf)
        / np.where(deviation > 0, deviation, np.inf)
    )


def _added(seen: np.ndarray, allowed: np.ndarray, present: list[int], effective: float) -> list[int]:
    """Columns that become terms: the most correlated of those beyond chance."""
    seen = np.where(allowed & (seen > _SIGNIFICANT / np.sqrt(effective)), seen, 0.0)
    seen[present] = 0.0
    best = np.argsort(-seen)[: _MOST_TERMS - len(present)]
    return [int(column) for column in best if seen[column] > 0]


def _newton(
    matrix: np.ndarray,
    slopes: np.ndarray,
    rest: np.ndarray,
    curvature: np.ndarray,
    share: np.ndarray,
    effective: float,
) -> tuple[list[int], np.ndarray]:
    """The slopes after a Newton step; those that could be chance leave, and the others are fitted again.

    Args:
        matrix: derivatives of a shift or log width by its slopes at all points, the constant first.
        slopes: before the step.
        rest: what they have to explain, shape `(n,)`.
        curvature: minus its derivative by the shift or log width.
        share: weights of the points.
        effective: how many independent points they are worth.
    """
    kept = list(range(len(slopes)))
    weighted = matrix * (effective * share)[:, None]
    gram, pull = matrix.T @ (weighted * curvature[:, None]), weighted.T @ rest
    pull = pull + gram @ slopes  # as if the slopes had been zero
    gram = gram + np.diag(np.r_[_FLAT, np.full(len(slopes) - 1, _RIDGE)])
    inverse = np.linalg.inv(gram)
    new = inverse @ pull
    left = rest - curvature * (matrix @ (new - slopes))
    noise = share @ left**2 / (share @ curvature)
    strong = np.abs(new) > _KEPT * np.sqrt(noise * np.diag(inverse))
    strong[0] = True
    if not np.all(strong):
        kept = [int(i) for i in np.flatnonzero(strong)]
        new = np.linalg.solve(gram[np.ix_(kept, kept)], pull[kept])
    return kept, new
