r"""Gaussian Markov random fields: covariances whose precision is sparse, fitted to few points and scores.

Most models of many coordinates are sparse graphs: an effect of one group meets its own data and a few
parameters that all groups share. Where the score of `x_k` does not change with `x_j`, the precision of a
Gaussian has `P_jk = 0`: it is a Markov random field on the graph of the other pairs (Rue and Held 2005,
chapter 2). With the coordinates eliminated one by one, each depends on its neighbours alone,

    x_k | later = m_k + B_k x_pa(k) + sqrt(v_k) noise,

where `pa(k)` are the neighbours that are left when `k` is eliminated. So a fit has as many unknowns in a row
as it has neighbours, and needs that many points rather than one for each dimension. On a Gaussian the score
of `x_k`, with everything eliminated before it integrated out, is

    a_k = -(x_k - m_k - B_k x_pa(k)) / v_k,

a linear regression; afterwards `a_pa <- a_pa + B_k^T a_k` is the score of what is left.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from qdesampler.numerics.fisher_fit import dense_factor, diagonal_ratio

__all__ = ["Elimination", "MarkovField", "eliminate", "find_field", "sparse_factor"]

_RIDGE = 1e-3  # of the unit-scale regressions, relative to the points: it only matters where they are few
_FIRST = 8  # coordinates that show whether the graph may be sparse at all
# Of the dimension: unknowns of a row above which a dense fit needs no more points; hierarchy-crossed has .4.
_SPARSE = 0.5
_TINY = float(np.finfo(float).tiny)


class Elimination(NamedTuple):
    """The order in which the coordinates of a graph are eliminated.

    Attributes:
        order: coordinates eliminated one by one, shape `(n,)`.
        parents: of each, the neighbours that are left then.
        rest: the coordinates left at last, all neighbours of one another.
    """

    order: np.ndarray
    parents: tuple[np.ndarray, ...]
    rest: np.ndarray

    @property
    def width(self) -> int:
        """Most unknowns of one row."""
        return max(len(self.rest), 1 + max((len(row) for row in self.parents), default=0))


class MarkovField(NamedTuple):
    """A graph, and what the curvature at one point is.

    Attributes:
        elimination: order and parents.
        steps: along each coordinate, scaled to unit energy, shape `(n, dim)`.
        bends: minus the change of the score over each step, scaled alike.
    """

    elimination: Elimination
    steps: np.ndarray
    bends: np.ndarray


def find_field(
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    place: np.ndarray,
    score: np.ndarray,
    lengths: np.ndarray,
) -> MarkovField | None:
    """The field about a point, from `dim` evaluations; None after a few where the graph is not sparse.

    Args:
        evaluate: rows of points, shape `(n, dim)`, to log densities and scores.
        place: a point, shape `(dim,)`.
        score: `grad log p` there.
        lengths: of the step along each coordinate, shape `(dim,)`.
    """
    dim = len(place)
    turn = np.random.default_rng(0).permutation(dim)
    changes = np.zeros((dim, dim))
    for part in (turn[:_FIRST], turn[_FIRST:]):
        points = np.repeat(place[None], len(part), 0)
        points[np.arange(len(part)), part] += lengths[part]
        changes[part] = score - evaluate(points)[1]
        if np.median(np.count_nonzero(changes[part], 1)) > _SPARSE * dim:
            return None
    graph = changes != 0  # also where it is not finite
    elimination = eliminate(graph | graph.T)
    if elimination.width > _SPARSE * dim:
        return None
    energies = lengths * np.diag(changes)
    sound = np.all(np.isfinite(changes), 1) & (energies != 0)
    root = np.sqrt(np.abs(energies[sound]))[:, None]
    steps, bends = np.diag(lengths)[sound] / root, changes[sound] / root
    return MarkovField(elimination, steps, np.sign(energies[sound])[:, None] * bends)


def eliminate(graph: np.ndarray) -> Elimination:
    """An order of least degree: of the coordinates left, the one with the fewest neighbours is next."""
    neighbours = [set(np.flatnonzero(row)) - {k} for k, row in enumerate(graph)]
    left = set(range(len(graph)))
    order, parents = [], []
    while left:
        node = min(left, key=lambda k: (len(neighbours[k]), k))
        if len(neighbours[node]) >= len(left) - 1:
            break
        around = neighbours[node]
        for other in around:
            neighbours[other] |= around
            neighbours[other] -= {other, node}
        left.remove(node)
        order.append(node)
        parents.append(np.array(sorted(around), int))
    return Elimination(np.array(order, int), tuple(parents), np.array(sorted(left), int))


def sparse_factor(elimination: Elimination, x: np.ndarray, a: np.ndarray, *, fallback: float) -> np.ndarray:
    """Factor of the covariance of a Markov field from centred rows, shape `(dim, dim)`.

    Args:
        elimination: order and parents.
        x: centred positions, shape `(n, dim)`.
        a: centred scores, same shape.
        fallback: scale of a coordinate whose points or scores do not vary.
    """
    dim = x.shape[1]
    unit = np.sqrt(np.maximum(np.sum(x**2, 0), _TINY))
    x, a = x / unit, a * unit
    inverse = np.zeros((dim, dim))
    for k, row in zip(elimination.order, elimination.parents, strict=True):
        columns = np.concatenate([[k], row])
        inside = x[:, columns]
        gram = inside.T @ inside + _RIDGE / max(len(x), 1) * np.eye(len(columns))
        slopes = np.linalg.solve(gram, -(inside.T @ a[:, k]))
        by = -slopes[1:] / slopes[0] if slopes[0] > _TINY else np.zeros(len(row))
        rest = x[:, k] - x[:, row] @ by
        scale = diagonal_ratio(rest[:, None], a[:, k : k + 1], fallback)[0]
        a[:, row] += a[:, k : k + 1] * by
        inverse[k, row], inverse[k, k] = -by / scale, 1 / scale
    last = elimination.rest
    factor = dense_factor(x[:, last], a[:, last], few=len(x) < 2 * len(last), fallback=fallback)
    order = np.concatenate([elimination.order, last])
    ordered = inverse[np.ix_(order, order)]
    first = len(elimination.order)
    # x = inverse^-1 noise: the coordinates left at last come from their factor, the others by substitution.
    result = np.zeros((dim, dim))
    result[first:, first:] = factor
    upper = ordered[:first, :first]
    result[:first, :first] = solve_triangular(upper, np.eye(first)) if first else upper
    result[:first, first:] = -result[:first, :first] @ ordered[:first, first:] @ factor
    placed = np.empty_like(result)
    placed[order] = result
    return unit[:, None] * placed
