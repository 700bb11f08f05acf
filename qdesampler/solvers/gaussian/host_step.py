r"""One closed-form step of imaginary time for a Gaussian, on the host: NumPy in float64.

Points `x = mu + L y` with scores `a = grad log p(x)` are seen in the coordinates that the trial whitens, as
`y` and `L^T a`. The Gaussian of least energy (Fisher divergence) over weighted points solves

    Sigma Cov(a) Sigma = Cov(x),        mu = mean x + Sigma mean a :

`Sigma` is the geometric mean of `Cov(x)` and `Cov(a)^-1`, exact on a Gaussian from `dim + 1` points
(Seyboldt, Carlson and Carpenter 2026; Bhatia 2007, chapter 4, for the matrix mean). It is computed from
factors, never from products, so that condition numbers are not squared.

A low-rank factor is not closed under this step, and candidates of a Gaussian do not show by themselves where
`p` is wider than they are. Its directions are those of the residual `L^T a + y`, which vanishes where the
trial is right: the leading ones, by subspace iteration, join those already there; the diagonal is fitted
outside their span and the rest inside it. Directions that do not lower the energy of points to which they
were not fitted are noise: then the factor is a diagonal.
"""

from typing import NamedTuple

import numpy as np

from qdesampler.numerics.fisher_fit import (
    GAIN_TEST,
    centred_rows,
    dense_factor,
    diagonal_ratio,
    fisher_energy,
    leading_directions,
)
from qdesampler.numerics.markov_field import Elimination, sparse_factor
from qdesampler.numerics.numpy_metric import (
    HostMetric,
    canonical,
    identity,
    to_position_rows,
    to_whitened_gradient_rows,
    whiten_rows,
)

__all__ = ["Gaussian", "gaussian_step", "secant_gaussian"]

GROWTH = 1e3  # of a width whose scores say nothing, so that a flat direction is seen to run away
_FEWEST_TESTED = 16  # points on which kinds of factors are compared
_TINY = float(np.finfo(float).tiny)


class Gaussian(NamedTuple):
    """`N(centre, L L^T)`, the trial on the host.

    Attributes:
        centre: shape `(dim,)`.
        metric: the factor `L`.
    """

    centre: np.ndarray
    metric: HostMetric


def _fit_low_rank(
    metric: HostMetric, y: np.ndarray, a: np.ndarray, *, few: bool, fallback: float
) -> HostMetric:
    """The low-rank factor of least energy from centred rows in the coordinates that `metric` whitens."""
    dim, rank = metric.basis.shape
    middle = metric._replace(scale=np.ones(dim))  # L without its diagonal
    found = to_position_rows(middle, leading_directions(y + a, rank).T).T
    found = found / np.maximum(np.linalg.norm(found, axis=0), _TINY)
    frame = np.linalg.qr(np.concatenate([metric.basis, found], 1))[0]
    x, a = to_position_rows(middle, y), _to_gradient_rows(middle, a)
    scale = np.ones(dim)
    if frame.shape[1] < dim:
        scale = diagonal_ratio(x - (x @ frame) @ frame.T, a - (a @ frame) @ frame.T, fallback)
        frame = np.linalg.qr(frame / scale[:, None])[0]
    factor = dense_factor((x / scale) @ frame, (a * scale) @ frame, few=few, fallback=fallback)
    inside = canonical(factor, np.ones(frame.shape[1]))
    strongest = np.argsort(-np.abs(np.log(inside.stretch)))[:rank]
    return HostMetric(metric.scale * scale, frame @ inside.basis[:, strongest], inside.stretch[strongest])


def _fit_diagonal(metric: HostMetric, y: np.ndarray, a: np.ndarray, fallback: float) -> HostMetric:
    """The diagonal factor of least energy from the same rows; it forgets the directions."""
    middle = metric._replace(scale=np.ones(metric.scale.size))
    scale = diagonal_ratio(to_position_rows(middle, y), _to_gradient_rows(middle, a), fallback)
    blank = identity(*metric.basis.shape)
    return blank._replace(scale=metric.scale * scale)


def _needs_directions(metric: HostMetric, y: np.ndarray, a: np.ndarray, fallback: float) -> bool:
    """Whether a low-rank factor beats a diagonal one on rows that neither has been fitted to."""
    train, test = (y[::2], a[::2]), (y[1::2], a[1::2])
    if len(test[0]) < _FEWEST_TESTED:
        return True
    x, scores = to_position_rows(metric, test[0]), _to_gradient_rows(metric, test[1]) / metric.scale
    diagonal = _fit_diagonal(metric, *train, fallback)
    low_rank = _fit_low_rank(metric, *train, few=len(train[0]) < 2 * y.shape[1], fallback=fallback)
    loss, general = (fisher_energy(kind, x, scores) for kind in (diagonal, low_rank))
    return general / GAIN_TEST[2] < loss / GAIN_TEST[1]


def _to_gradient_rows(middle: HostMetric, rows: np.ndarray) -> np.ndarray:
    """`L^-T g` of each row for a factor of unit scale: whitened gradients back in its coordinates."""
    return rows + ((rows @ middle.basis) * (1 / middle.stretch - 1)) @ middle.basis.T


def gaussian_step(
    trial: Gaussian,
    points: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
    fallback: float = GROWTH,
    blocks: tuple[tuple[int, ...], ...] | None = None,
    *,
    rank: int | None = None,
    elimination: Elimination | None = None,
    test_directions: bool = True,
) -> Gaussian:
    """The Gaussian of least energy over weighted points.

    Args:
        trial: the present one, in whose coordinates the points are seen.
        points: shape `(n, dim)`, finite.
        scores: `grad log p` there, finite.
        weights: positive, shape `(n,)`.
        fallback: growth of a width whose scores say nothing; the default lets a flat direction run away.
        blocks: index groups that may be correlated, for a dense factor; None: all coordinates are one.
        rank: directions of its factor, that of the trial or `dim`; None: that of the trial.
        elimination: of the graph of a Markov field, whose covariance is fitted; None: any covariance.
        test_directions: whether a low-rank factor has to beat a diagonal one.
    """
    if elimination is not None:
        return _markov_step(trial, points, scores, weights, elimination, fallback)
    dim = trial.centre.size
    rank = trial.metric.basis.shape[1] if rank is None else rank
    y = whiten_rows(trial.metric, points - trial.centre)
    a = to_whitened_gradient_rows(trial.metric, scores)
    few = len(points) < 2 * dim
    share = weights / np.sum(weights)
    x_rows, a_rows = centred_rows(y, weights), centred_rows(a, weights)
    if rank == 0:
        ratio = diagonal_ratio(x_rows, a_rows, fallback)
        centre = share @ y + ratio**2 * (share @ a)
        metric = trial.metric._replace(scale=trial.metric.scale * ratio)
        return Gaussian(trial.centre + trial.metric.scale * centre, metric)
    if rank == dim:
        if blocks is None:
            factor = dense_factor(x_rows, a_rows, few=few, fallback=fallback)
        else:
            factor = np.diag(diagonal_ratio(x_rows, a_rows, fallback))
            for block in map(list, blocks):
                part = dense_factor(x_rows[:, block], a_rows[:, block], few=few, fallback=fallback)
                factor[np.ix_(block, block)] = part
        centre = share @ y + factor @ (factor.T @ (share @ a))
        metric = canonical(to_position_rows(trial.metric, factor.T).T)
        return Gaussian(trial.centre + to_position_rows(trial.metric, centre[None])[0], metric)
    if test_directions and not _needs_directions(trial.metric, x_rows, a_rows, fallback):
        metric = _fit_diagonal(trial.metric, x_rows, a_rows, fallback)
    else:
        metric = _fit_low_rank(trial.metric, x_rows, a_rows, few=few, fallback=fallback)
    pull = to_position_rows(metric, to_whitened_gradient_rows(metric, (share @ scores)[None]))[0]
    return Gaussian(share @ points + pull, metric)


def _markov_step(
    trial: Gaussian,
    points: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
    elimination: Elimination,
    fallback: float,
) -> Gaussian:
    """The step of a Markov field, in the units of the trial's widths: whitened, its graph would be lost."""
    scale = trial.metric.scale
    y, a = (points - trial.centre) / scale, scores * scale
    x_rows, a_rows = centred_rows(y, weights), centred_rows(a, weights)
    factor = sparse_factor(elimination, x_rows, a_rows, fallback=fallback)
    share = weights / np.sum(weights)
    centre = share @ y + factor @ (factor.T @ (share @ a))
    return Gaussian(trial.centre + scale * centre, canonical(scale[:, None] * factor))


def secant_gaussian(
    centre: np.ndarray,
    steps: np.ndarray,
    bends: np.ndarray,
    rank: int,
    blocks: tuple[tuple[int, ...], ...] | None = None,
    elimination: Elimination | None = None,
) -> Gaussian:
    """The Gaussian about `centre` whose curvature fits secants of unit energy, shape `(pairs, dim)`.

    On a Gaussian of precision `A` every pair obeys `bend = A step`, so both signs of each pair serve as draws
    of zero mean with their scores. Directions that no pair has seen keep unit width.
    """
    dim = centre.size
    blank = Gaussian(np.zeros(dim), identity(dim, rank))
    if not len(steps):
        return blank._replace(centre=centre)
    points, scores = np.concatenate([steps, -steps]), np.concatenate([-bends, bends])
    fitted = gaussian_step(
        blank,
        points,
        scores,
        np.ones(len(points)),
        1.0,
        blocks,
        elimination=elimination,
        test_directions=False,
    )
    return fitted._replace(centre=centre)
