r"""Metrics of least Fisher divergence from points and their scores, on the host: NumPy in float64.

Over points `x` with scores `a = grad log p(x)`, the Gaussian of least energy `mean |L^T a + L^-1 (x - mu)|^2`
solves `Sigma Cov(a) Sigma = Cov(x)`: `Sigma` is the geometric mean of `Cov(x)` and `Cov(a)^-1`, exact on a
Gaussian from `dim + 1` points (Seyboldt, Carlson and Carpenter 2026; Bhatia 2007, chapter 4, for the matrix
mean). It is computed from factors, so that condition numbers are not squared; in many dimensions from
products, which take a quarter of the time.
"""

import numpy as np

from qdesampler.numerics.numpy_metric import (
    BY_SINGULAR_VALUES_UP_TO,
    HostMetric,
    canonical,
    to_whitened_gradient_rows,
    whiten_rows,
)

__all__ = [
    "GAIN_TEST",
    "centred_rows",
    "choose_metric",
    "dense_factor",
    "diagonal_ratio",
    "fisher_energy",
    "gaussian_scores",
    "leading_directions",
]

_FEW_FLOOR = 1e-5  # added to scaled covariances while the points are fewer than twice the dimension
_FLOOR = 10 * float(np.finfo(float).eps) ** 2  # added otherwise: it only keeps the arithmetic finite
_PRODUCT_FLOOR = 1e-12  # added to covariances of unit scale that are factored as products
_ENOUGH_FOR_COVARIANCE = 4  # draws for each dimension from which a covariance is not noise
_TURNS = 3  # of the subspace iteration
_TINY = float(np.finfo(float).tiny)
_LARGEST = 1e150  # of positions and scores that a fit looks at: squares of larger ones overflow
# Factors by which the losses of the identity, the diagonal and the correlated metric are divided before they
# are compared: the more general metric must be better by this much.
GAIN_TEST = (1.0, 0.95, 0.85)


def centred_rows(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows minus their weighted mean, times the root of their weight: `rows^T rows` is the covariance."""
    weights = weights / max(float(np.sum(weights)), _TINY)
    return (rows - weights @ rows) * np.sqrt(weights)[:, None]


def diagonal_ratio(x: np.ndarray, a: np.ndarray, fallback: float | np.ndarray) -> np.ndarray:
    """`(Var x_i / Var a_i)^(1/4)` of centred rows, of least energy; `fallback` where one is 0."""
    var_x, var_a = np.sum(x**2, 0), np.sum(a**2, 0)
    usable = (var_x > 0) & (var_a > 0)
    ratio = np.divide(var_x, var_a, out=np.ones_like(var_x), where=usable)
    return np.where(usable, ratio**0.25, fallback)


def dense_factor(x: np.ndarray, a: np.ndarray, *, few: bool, fallback: float) -> np.ndarray:
    """Factor of the covariance of least energy from centred rows, shape `(dim, dim)`.

    With `x = U S V^T` and `R = V sqrt(S^2 + floor)` the geometric mean is `R (R^T C_a R)^(-1/2) R^T`, and
    `a R` has the singular values of the root.

    Args:
        x: centred positions, shape `(n, dim)`.
        a: centred scores, same shape.
        few: whether a floor stands for what so few points do not show.
        fallback: scale of a coordinate whose points or scores do not vary.
    """
    scale = diagonal_ratio(x, a, fallback)
    floor = _FEW_FLOOR if few else _FLOOR
    if x.shape[1] > BY_SINGULAR_VALUES_UP_TO:
        return scale[:, None] * _factor_by_eigenvalues(x / scale, a * scale, floor)
    root = np.sqrt(floor) * np.eye(x.shape[1])
    _, widths, axes = np.linalg.svd(np.concatenate([x / scale, root]), full_matrices=False)
    factor = axes.T * widths
    _, levels, turned = np.linalg.svd(np.concatenate([a * scale, root]) @ factor, full_matrices=False)
    return scale[:, None] * ((factor @ turned.T) / np.sqrt(np.maximum(levels, _TINY)))


def _factor_by_eigenvalues(x: np.ndarray, a: np.ndarray, floor: float) -> np.ndarray:
    """The same factor from products: four times as fast, and exact to half as many digits."""
    floor = max(floor, _PRODUCT_FLOOR)
    eye = np.eye(x.shape[1])
    factor = np.linalg.cholesky(x.T @ x + floor * eye)
    squares, turned = np.linalg.eigh(factor.T @ (a.T @ a + floor * eye) @ factor)
    return (factor @ turned) / np.maximum(squares, _TINY) ** 0.25


def gaussian_scores(draws: np.ndarray) -> np.ndarray:
    """Scores at the draws of the Gaussian with their mean and covariance, same shape `(n, dim)`.

    A fit to draws with these scores is one to the draws alone. The covariance is diagonal where the draws are
    fewer than four times the dimension.
    """
    x = centred_rows(draws, np.ones(len(draws)))
    scale = np.maximum(np.sqrt(np.sum(x**2, 0)), _TINY)
    rows = (draws - np.mean(draws, 0)) / scale
    if len(draws) < _ENOUGH_FOR_COVARIANCE * draws.shape[1]:
        return -rows / scale
    correlation = (x / scale).T @ (x / scale) + _FEW_FLOOR * np.eye(draws.shape[1])
    return -np.linalg.solve(correlation, rows.T).T / scale


def leading_directions(rows: np.ndarray, count: int) -> np.ndarray:
    """Leading right singular vectors of `rows`, shape `(dim, count)`, by subspace iteration."""
    rows = rows / max(float(np.max(np.abs(rows))), _TINY)  # squares of stiff directions stay in range
    frame = np.random.default_rng(0).standard_normal((rows.shape[1], count))
    for _ in range(_TURNS):
        frame = np.linalg.qr(rows.T @ (rows @ frame))[0]
    return frame


def _correlated(
    scale: np.ndarray,
    x: np.ndarray,
    a: np.ndarray,
    blocks: tuple[tuple[int, ...], ...],
    rank: int,
    *,
    regularize: bool,
) -> HostMetric:
    """The metric that is correlated within the blocks, from centred rows in the units of `scale`.

    A coordinate whose draws or scores do not vary keeps its scale: as part of a block it would run away.
    """
    columns: list[np.ndarray] = [np.zeros((scale.size, 0))]
    stretches: list[np.ndarray] = [np.ones(0)]
    varies = np.any(x != 0, 0) & np.any(a != 0, 0)
    for block in blocks:
        index = np.asarray(block)[varies[list(block)]]
        few = regularize and len(x) < 2 * index.size
        if rank < index.size:
            # The directions are those in which the diagonal is wrong.
            frame = leading_directions(x[:, index] + a[:, index], rank)
        else:
            frame = np.eye(index.size)
        factor = dense_factor(x[:, index] @ frame, a[:, index] @ frame, few=few, fallback=1.0)
        inside = canonical(factor, np.ones(len(factor)))
        column = np.zeros((scale.size, len(inside.stretch)))
        column[index] = frame @ inside.basis
        columns.append(column)
        stretches.append(inside.stretch)
    return HostMetric(scale, np.concatenate(columns, 1), np.concatenate(stretches))


def _kinds(draws, scores, previous, blocks, rank, *, regularize) -> list[HostMetric]:
    """Metrics of three kinds: a multiple of the identity, a diagonal, and correlated blocks."""
    weights = np.ones(len(draws))
    x, a = centred_rows(draws, weights), centred_rows(scores, weights)
    blank = (np.zeros_like(previous.basis), np.ones_like(previous.stretch))
    squares, slopes = float(np.sum(x**2)), float(np.sum(a**2))
    common = (squares / slopes) ** 0.25 if squares > 0 and slopes > 0 else np.nan
    scale = diagonal_ratio(x, a, previous.scale)
    kinds = [HostMetric(np.full(scale.size, common), *blank), HostMetric(scale, *blank)]
    if blocks:
        kinds.append(_correlated(scale, x / scale, a * scale, blocks, rank, regularize=regularize))
    return kinds


def fisher_energy(metric: HostMetric, draws: np.ndarray, scores: np.ndarray) -> float:
    """`mean |L^T (a - abar) + L^-1 (x - xbar)|^2 / dim`; infinite if it is not finite."""
    x, a = draws - np.mean(draws, 0), scores - np.mean(scores, 0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        loss = float(np.mean((to_whitened_gradient_rows(metric, a) + whiten_rows(metric, x)) ** 2))
    return loss if np.isfinite(loss) else np.inf


def choose_metric(
    draws: np.ndarray,
    scores: np.ndarray,
    previous: HostMetric,
    blocks: tuple[tuple[int, ...], ...],
    rank: int,
    *,
    force: bool,
    regularize: bool,
) -> HostMetric:
    """The kind of metric that a gain test prefers, fitted to all draws of a chain or of several.

    Each kind is fitted to the earlier half of the draws and judged on the later half.

    Args:
        draws: positions in the order in which they were drawn, shape `(n, dim)`, finite.
        scores: `grad log p` there, finite.
        previous: kept if the draws determine no metric; its basis has room for all blocks.
        blocks: index groups that may be correlated; empty for a diagonal metric.
        rank: most directions of one block.
        force: take the blocks without a test.
        regularize: add a floor while the draws are few.
    """
    usable = np.all(np.abs(draws) < _LARGEST, 1) & np.all(np.abs(scores) < _LARGEST, 1)
    draws, scores = draws[usable], scores[usable]
    if len(draws) < 4:
        return previous
    half = len(draws) // 2
    options = {"regularize": regularize}
    trained = _kinds(draws[:half], scores[:half], previous, blocks, rank, **options)
    losses = [
        fisher_energy(kind, draws[half:], scores[half:]) / gain
        for kind, gain in zip(trained, GAIN_TEST, strict=False)
    ]
    kinds = _kinds(draws, scores, previous, blocks, rank, **options)
    choice = 2 if force and blocks and np.isfinite(losses[2]) else int(np.argmin(losses))
    if not np.isfinite(losses[choice]):
        return previous
    chosen = kinds[choice]
    sound = np.all(np.isfinite(chosen.scale) & (chosen.scale > 0)) and np.all(np.isfinite(chosen.basis))
    return _with_room(chosen, previous.stretch.size) if sound else previous


def _with_room(metric: HostMetric, rank: int) -> HostMetric:
    """The metric with columns of zeros up to a given rank."""
    missing = rank - metric.stretch.size
    if missing <= 0:
        return metric
    dim = metric.scale.size
    return HostMetric(
        metric.scale,
        np.concatenate([metric.basis, np.zeros((dim, missing))], 1),
        np.concatenate([metric.stretch, np.ones(missing)]),
    )
