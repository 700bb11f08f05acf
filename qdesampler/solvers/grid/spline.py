"""Quintic splines on a uniform tensor grid: built by SciPy on the host, evaluated by JAX at one point.

With nodes `t = 0 .. N-1` on each axis, in units of the spacing, and the cardinal B-spline `B` of degree five
(support `|t| < 3`),

    s(t) = sum_m c_m B(t - m),       s(i) = the value at node i,

four times continuously differentiable, with error of order `h^6`. The missing conditions are that the first
and the last four intervals carry one polynomial each (not-a-knot), which also serves half a cell beyond the
outermost nodes, as far as the walls.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

__all__ = ["LOWEST_POINTS", "evaluate", "evaluate_with_gradient", "fit", "refinement_matrix"]

# Coefficients per axis beyond the number of nodes: m = -3 .. N + 2.
_EXTRA = 6
# Fewer nodes leave the end conditions of the two sides no room.
LOWEST_POINTS = 8

# Row p: coefficients of f^0 .. f^5 of 120 B(f + 2 - p), the weight of c_(j - 2 + p) at t = j + f, 0 <= f < 1.
_WEIGHTS = (
    (1, -5, 10, -10, 5, -1),
    (26, -50, 20, 20, -20, 5),
    (66, 0, -60, 0, 30, -10),
    (26, 50, 20, -20, -20, 10),
    (1, 5, 10, 10, 5, -5),
    (0, 0, 0, 0, 0, 1),
)


def fit(values: np.ndarray) -> np.ndarray:
    """Return the coefficients of the spline through `values`, each axis longer by six.

    Args:
        values: the values on the nodes, at least `LOWEST_POINTS` an axis.
    """
    for axis in range(values.ndim):
        n = values.shape[axis]
        bands = np.zeros((13, n + _EXTRA))  # bands[6 + row - column, column]
        sixth_difference = (1, -6, 15, -20, 15, -6, 1)
        for row in range(n + _EXTRA):
            if row < 3:
                entries, first = sixth_difference, row
            elif row < n + 3:
                entries, first = (1 / 120, 26 / 120, 66 / 120, 26 / 120, 1 / 120), row - 2
            else:
                entries, first = sixth_difference, row - 6
            for column, entry in enumerate(entries, start=first):
                bands[6 + row - column, column] = entry
        padding = [(3, 3) if i == axis else (0, 0) for i in range(values.ndim)]
        right = np.moveaxis(np.pad(values, padding), axis, 0)
        solved = scipy.linalg.solve_banded((6, 6), bands, right.reshape(n + _EXTRA, -1))
        values = np.moveaxis(solved.reshape(right.shape), 0, axis)
    return values


def refinement_matrix(points: int, derivative: int = 0) -> np.ndarray:
    """Return the matrix that takes coefficients to values at `t = -1/2, 0, 1/2, .. N - 1/2`.

    Args:
        points: `N`.
        derivative: order of the derivative with respect to `t` taken of the values, 0 to 2.

    Returns:
        Shape `(2 N + 1, N + 6)`: walls, nodes and midpoints between nodes.
    """
    matrix = np.zeros((2 * points + 1, points + _EXTRA))
    powers = np.polynomial.polynomial.polyder(np.array(_WEIGHTS).T / 120, derivative)
    for row in range(2 * points + 1):
        interval, half = divmod(row - 1, 2)
        matrix[row, interval + 1 : interval + 7] = np.polynomial.polynomial.polyval(half / 2, powers)
    return matrix


def evaluate(coefficients: jax.Array, t: jax.Array) -> jax.Array:
    """Return `s(t)`, a scalar, at one point of shape `(dim,)` in units of the spacing."""
    block, weights, _ = _local(coefficients, t)
    return _contract(block, weights)


def evaluate_with_gradient(coefficients: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return `s(t)` and its gradient with respect to `t`, shape `(dim,)`."""
    block, weights, slopes = _local(coefficients, t)
    gradient = [
        _contract(block, [slopes[j] if j == i else weights[j] for j in range(t.shape[0])])
        for i in range(t.shape[0])
    ]
    return _contract(block, weights), jnp.stack(gradient)


def _local(coefficients, t):
    """Return the block of coefficients that act at `t`, and their weights and weight slopes on each axis."""
    dim = t.shape[0]
    last = jnp.asarray(coefficients.shape) - _EXTRA - 1
    interval = jnp.clip(jnp.floor(t).astype(int), -1, last)
    fraction = (t - interval)[:, None]
    block = jax.lax.dynamic_slice(coefficients, tuple(interval + 1), (6,) * dim)
    weights, slopes = jnp.zeros((dim, 6), t.dtype), jnp.zeros((dim, 6), t.dtype)
    for coefficient in reversed(jnp.asarray(_WEIGHTS, t.dtype).T / 120):  # Horner: no derivative of 0 ** 0
        slopes = slopes * fraction + weights
        weights = weights * fraction + coefficient
    return block, weights, slopes


def _contract(block: jax.Array, weights: Iterable[jax.Array]) -> jax.Array:
    for weight in weights:
        block = jnp.tensordot(weight, block, axes=(0, 0))
    return block
