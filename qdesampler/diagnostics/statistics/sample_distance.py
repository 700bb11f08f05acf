"""The distance of two sets of draws: the sliced Wasserstein distance.

    SW_2^2(P, Q) = E_theta W_2^2(theta . P, theta . Q),      theta uniform on the unit sphere,

where `W_2` of two distributions on the line is the L2 distance of their quantile functions. The distance of
two finite sets from one distribution is not 0 but about `sqrt(1 / n)`, so a distance has a meaning only in
comparison with that of two such sets.

References:
    Rabin, Peyre, Delon and Bernot, "Wasserstein barycenter and its application to texture mixing" (2011).
"""

import numpy as np
from numpy.typing import ArrayLike

from qdesampler.validation import as_positive_int

__all__ = ["sliced_wasserstein"]


def sliced_wasserstein(x: ArrayLike, y: ArrayLike, *, num_directions: int = 200, seed: int = 0) -> float:
    """Return the sliced Wasserstein distance of order 2 between two sets of points.

    The quantile functions are compared at as many levels as the larger set has points, at the centres of
    intervals of equal probability. The distance has the units of the points; coordinates of different units
    should be scaled first.

    Args:
        x: draws, shape `(n, dim)`.
        y: draws, shape `(m, dim)`.
        num_directions: number of random directions to average over; in one dimension there is only one.
        seed: seed of the directions, so that several distances use the same directions.

    Raises:
        TypeError: `num_directions` is not an integer.
        ValueError: the sets are empty, not two-dimensional, of different dimension or not finite;
            `num_directions` is not positive.
    """
    num_directions = as_positive_int("num_directions", num_directions)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        raise ValueError(
            f"draws must have shapes (n, dim) and (m, dim), none of them 0, got {x.shape} and {y.shape}."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("draws must be finite, got NaN or infinity.")
    directions = np.random.default_rng(seed).normal(size=(x.shape[1], num_directions))
    directions /= np.linalg.norm(directions, axis=0)
    if x.shape[1] == 1:
        directions = np.ones((1, 1))
    count = max(len(x), len(y))
    gaps = _quantiles(x @ directions, count) - _quantiles(y @ directions, count)
    return float(np.sqrt(np.mean(gaps**2)))


def _quantiles(values: np.ndarray, count: int) -> np.ndarray:
    """Return the quantile function of each column at `count` levels, shape `(count, columns)`."""
    ranks = ((np.arange(count) + 0.5) / count * len(values)).astype(int)
    return np.sort(values, axis=0)[ranks]
