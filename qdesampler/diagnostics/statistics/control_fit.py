"""Least-squares fit of control variates, fold by fold, in pieces that fit into memory."""

from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from qdesampler.diagnostics.statistics.array_statistics import in_threads, mcse_mean

__all__ = [
    "DRAWS_A_FEATURE",
    "MOST_FEATURES",
    "Points",
    "affordable_orders",
    "estimate",
    "features",
    "mcse",
    "whitened_points",
]

DRAWS_A_FEATURE = 4  # effective draws for each coefficient
_ROWS_A_FEATURE = 40  # most draws for each coefficient in a fit; more draws hardly improve it
_RIDGE = 1e-8  # ridge, in units of the mean square of the features
MOST_FEATURES = 4000  # features of an order
_NUMBERS = 4_000_000  # numbers of features in memory at a time
_LARGE = 100_000_000  # features of all draws from which single precision is enough
_COLUMNS = 64_000_000  # numbers of functions in memory at a time


class Points(NamedTuple):
    """Flat draws and scores, and the linear map that whitens them.

    Attributes:
        positions: draws, shape `(n, dim)`.
        scores: `grad log p` at the positions, same shape.
        centre: mean of the positions.
        into: matrix for which `x = (position - centre) @ into` has unit covariance.
        back: matrix for which `a = score @ back` is the score in these coordinates.
        fold: number of the fold of each draw, shape `(n,)`.
    """

    positions: np.ndarray
    scores: np.ndarray
    centre: np.ndarray
    into: np.ndarray
    back: np.ndarray
    fold: np.ndarray

    def at(self, rows: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whitened positions and scores of some draws."""
        return (self.positions[rows] - self.centre) @ self.into, self.scores[rows] @ self.back


def whitened_points(
    positions: np.ndarray, scores: np.ndarray, fold: np.ndarray, *, whiten: bool = True
) -> Points:
    """Whiten draws and scores, shapes `(n, dim)`; without `whiten` the map is empty, as no order needs it."""
    centre, dim = positions.mean(0), positions.shape[1]
    if not whiten:
        return Points(positions, scores, centre, np.eye(0), np.eye(0), fold)
    covariance = np.zeros((dim, dim))
    for rows in _pieces(len(positions), dim):
        part = positions[rows] - centre
        covariance += part.T @ part
    values, vectors = np.linalg.eigh(covariance / len(positions))
    root = np.sqrt(np.maximum(values, 1e-12 * max(values[-1], 1e-300)))
    return Points(positions, scores, centre, vectors / root, vectors * root, fold)


def affordable_orders(dim: int, order: int, effective: float) -> list[float]:
    """Orders whose coefficients this many effective draws can determine; 1.5 is the diagonal of order 2."""
    most = min(effective / DRAWS_A_FEATURE, MOST_FEATURES)
    wanted = {0: [], 1: [1.0], 2: [1.0, 1.5, 2.0] if dim > 1 else [1.0, 2.0]}[order]
    return [k for k in wanted if _count(k, dim) <= most]


def _count(order: float, dim: int) -> int:
    return {1.0: dim, 1.5: 2 * dim, 2.0: dim + dim * (dim + 1) // 2}[order]


def features(order: float, x: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Control variates of an order at whitened positions and scores, shape `(n, features)`."""
    dim = x.shape[1]
    x, a = np.ascontiguousarray(x.T), np.ascontiguousarray(a.T)
    out = np.empty(
        (_count(order, dim), x.shape[1]), x.dtype
    )  # features are the leading axis in memory, so that each is written in one piece
    out[:dim] = a
    if order > 1:
        np.multiply(x, a, out=out[dim : 2 * dim])
        out[dim : 2 * dim] *= 2
        out[dim : 2 * dim] += 2
    if order == 2:
        start = 2 * dim
        for i in range(dim - 1):
            part = out[start : start + dim - 1 - i]
            np.multiply(x[i], a[i + 1 :], out=part)
            part += a[i] * x[i + 1 :]
            start += len(part)
    return out.T


def _pieces(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _NUMBERS // width)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


class _Sums(NamedTuple):
    """Sums over the draws of one fold: their number, the sum of the features, and of their products."""

    count: int
    total: np.ndarray
    gram: np.ndarray


class _Order:
    """Features of one order, with the parts of the normal equations that all functions share."""

    def __init__(self, points: Points, order: float):
        self.points, self.order = points, order
        self.width = _count(order, points.positions.shape[1])
        used = np.arange(0, len(points.fold), max(1, len(points.fold) // (_ROWS_A_FEATURE * self.width)))
        self.rows = {int(k): used[points.fold[used] == k] for k in np.unique(points.fold)}
        self.sums = {k: self._sums(rows) for k, rows in self.rows.items()}

    def at(self, rows: slice | np.ndarray) -> np.ndarray:
        return features(self.order, *self.points.at(rows))

    def _sums(self, rows: np.ndarray) -> _Sums:
        total, gram = np.zeros(self.width), np.zeros((self.width, self.width))
        for piece in _pieces(len(rows), self.width):
            c = self.at(rows[piece])
            total += c.sum(0)
            gram += c.T @ c
        return _Sums(len(rows), total, gram)

    def residuals(self, columns: np.ndarray) -> np.ndarray:
        """`f - beta . c`, each fold with the coefficients of the others, shape `(n, functions)`."""
        centre = columns.mean(0)
        cross = {k: np.zeros((self.width, columns.shape[1])) for k in self.rows}
        totals = {}
        for k, rows in self.rows.items():
            totals[k] = (columns[rows] - centre).sum(0)
            for piece in _pieces(len(rows), self.width):
                cross[k] += self.at(rows[piece]).T @ (columns[rows[piece]] - centre)
        betas = np.zeros((max(self.rows) + 1, self.width, columns.shape[1]))
        for k in self.rows:
            others = [j for j in self.rows if j != k]
            count = sum(self.sums[j].count for j in others)
            total = np.sum([self.sums[j].total for j in others], axis=0)
            gram = np.sum([self.sums[j].gram for j in others], axis=0) - np.outer(total, total) / count
            sums = np.sum([totals[j] for j in others], axis=0)
            moments = np.sum([cross[j] for j in others], axis=0) - np.outer(total, sums) / count
            gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / self.width + 1e-300
            betas[k] = np.linalg.solve(gram, moments)
        out = columns.copy()
        fold = self.points.fold
        # Single precision is enough for very many draws that have no more, as their mean averages rounding.
        short = jnp.result_type(float) == np.float32 and len(fold) * self.width > _LARGE
        dtype = np.dtype(np.float32 if short else np.float64)
        betas = betas.astype(dtype)

        def subtract(piece: slice) -> None:
            x, a = self.points.at(piece)
            c, folds = features(self.order, x.astype(dtype), a.astype(dtype)), fold[piece]
            if np.all(folds == folds[0]):
                out[piece] -= c @ betas[folds[0]]
                return
            for k in np.unique(folds):
                out[piece][folds == k] -= c[folds == k] @ betas[k]

        for _ in in_threads(subtract, _pieces(len(fold), self.width)):
            pass
        return out


def estimate(
    functions: list[np.ndarray], points: Points, orders: list[float], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Means of functions of the draws, plain and with control variates.

    Args:
        functions: values of the functions at the draws, each of shape `(n, k)`.
        points: the draws.
        orders: orders to try.
        shape: number of chains and number of draws, with product `n`.

    Returns:
        One row for each scalar function, in order: mean, its error, plain mean, its error, gain; and the
        chosen orders.
    """
    prepared = [_Order(points, order) for order in orders]
    owners = [(i, j) for i, values in enumerate(functions) for j in range(values.shape[1])]
    step = max(1, _COLUMNS // len(points.fold))
    tables, taken = [], []
    for start in range(0, len(owners), step):
        group = owners[start : start + step]
        columns = np.stack([np.asarray(functions[i][:, j], np.float64) for i, j in group], axis=1)
        table, order = _best(columns, prepared, shape)
        tables.append(table)
        taken.append(order)
    return np.concatenate(tables), np.concatenate(taken)


def _best(
    columns: np.ndarray, prepared: list[_Order], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """For every column, the order with the smallest error on draws outside its fit."""
    plain, plain_mcse = columns.mean(0), mcse(columns, shape)
    # The rounding errors of draws and scores limit the accuracy of the means.
    rounding = np.finfo(jnp.result_type(float)).eps * np.sqrt(np.einsum("ij,ij->j", columns, columns))
    rounding /= np.sqrt(len(columns))
    best, best_mcse, orders = plain.copy(), plain_mcse.copy(), np.zeros(len(plain))
    for candidate in prepared:
        residual = candidate.residuals(columns)
        error = np.hypot(mcse(residual, shape), rounding)
        better = error < best_mcse
        best = np.where(better, residual.mean(0), best)
        best_mcse = np.where(better, error, best_mcse)
        orders = np.where(better, candidate.order, orders)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(best_mcse > 0, (plain_mcse / best_mcse) ** 2, np.where(plain_mcse > 0, np.inf, 1.0))
    return np.stack([best, best_mcse, plain, plain_mcse, gain], 1), orders


def mcse(columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Standard error of the mean of every column, including autocorrelation.

    The residuals of a good fit are large only at few extreme draws, so their variance is itself uncertain.
    Its relative error, `sqrt((kurtosis - 1) / draws)`, is added to it.
    """
    n, count = columns.shape
    step = max(1, _NUMBERS // (4 * n))
    parts = (columns[:, start : start + step].T for start in range(0, count, step))
    return np.concatenate(list(in_threads(lambda part: _mcse(np.ascontiguousarray(part), shape), parts)))


def _mcse(x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The same for the rows of an array of shape `(functions, n)`."""
    out = np.zeros(len(x))
    varies = np.ptp(x, axis=1) > 1e-12 * np.max(np.abs(x), axis=1)
    x = x[varies]
    if len(x):
        error = mcse_mean(x.reshape(len(x), *shape))
        squares = (x - x.mean(1, keepdims=True)) ** 2
        kurtosis = (squares**2).mean(1) / squares.mean(1) ** 2
        out[varies] = error * np.sqrt(1 + np.sqrt(np.maximum(kurtosis - 1, 0) / x.shape[1]))
    return out
