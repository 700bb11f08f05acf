"""The metric on the host: the factor of `metric.py`, applied to rows of NumPy arrays in float64.

    L = diag(scale) (I + Q diag(stretch - 1) Q^T),        Sigma = L L^T

A row is a point, so `x = L y` reads `positions = whitened L^T` for arrays of shape `(n, dim)`.
"""

from typing import NamedTuple

import numpy as np

__all__ = [
    "BY_SINGULAR_VALUES_UP_TO",
    "HostMetric",
    "canonical",
    "identity",
    "log_determinant",
    "to_position_rows",
    "to_whitened_gradient_rows",
    "whiten_rows",
]

BY_SINGULAR_VALUES_UP_TO = (
    128  # dimensions; beyond, matrices are factored by their eigenvalues, which is faster
)
_TINY = float(np.finfo(float).tiny)


class HostMetric(NamedTuple):
    """The factor `L` on the host; the fields are those of `metric.Metric`.

    Attributes:
        scale: shape `(dim,)`, in the units of the position.
        basis: shape `(dim, rank)`, orthonormal columns.
        stretch: shape `(rank,)`, square roots of the eigenvalues of the scaled covariance.
    """

    scale: np.ndarray
    basis: np.ndarray
    stretch: np.ndarray


def identity(dim: int, rank: int) -> HostMetric:
    """`Sigma = I` with room for `rank` directions."""
    return HostMetric(np.ones(dim), np.zeros((dim, rank)), np.ones(rank))


def to_position_rows(metric: HostMetric, rows: np.ndarray) -> np.ndarray:
    """`L y` of each row, shape `(n, dim)`: whitened displacements in the units of the position."""
    along = (rows @ metric.basis) * (metric.stretch - 1)
    return metric.scale * (rows + along @ metric.basis.T)


def to_whitened_gradient_rows(metric: HostMetric, rows: np.ndarray) -> np.ndarray:
    """`L^T g` of each row, shape `(n, dim)`: gradients with respect to the whitened coordinates."""
    scaled = rows * metric.scale
    return scaled + ((scaled @ metric.basis) * (metric.stretch - 1)) @ metric.basis.T


def whiten_rows(metric: HostMetric, rows: np.ndarray) -> np.ndarray:
    """`L^-1 x` of each row, shape `(n, dim)`: displacements in whitened coordinates."""
    scaled = rows / metric.scale
    return scaled + ((scaled @ metric.basis) * (1 / metric.stretch - 1)) @ metric.basis.T


def log_determinant(metric: HostMetric) -> float:
    """`log det L`, for densities."""
    return float(np.sum(np.log(metric.scale)) + np.sum(np.log(metric.stretch)))


def canonical(factor: np.ndarray, scale: np.ndarray | None = None) -> HostMetric:
    """The metric with `Sigma = factor factor^T`, `factor` of shape `(dim, dim)`."""
    scale = np.sqrt(np.sum(factor**2, 1)) if scale is None else scale
    scaled = factor / scale[:, None]
    if len(scaled) > BY_SINGULAR_VALUES_UP_TO:
        squares, basis = np.linalg.eigh(scaled @ scaled.T)
        return HostMetric(scale, basis, np.sqrt(np.maximum(squares, _TINY)))
    basis, stretch, _ = np.linalg.svd(scaled, full_matrices=False)
    return HostMetric(scale, basis, stretch)
