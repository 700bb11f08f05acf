"""Weighted points with scores, and what fits of a triangular map to them share."""

from typing import Any, NamedTuple

import numpy as np

from qdesampler.numerics.triangular_map import TriangularMap

__all__ = ["Sample", "map_depth"]


class Sample(NamedTuple):
    """Points to fit to.

    Attributes:
        points: shape `(n, dim)`.
        scores: of the target there.
        weights: non-negative, shape `(n,)`.
        effective: how many independent points they are worth.
    """

    points: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    effective: float

    @property
    def share(self) -> np.ndarray:
        """The weights as fractions."""
        return self.weights / np.sum(self.weights)


def map_depth(law: TriangularMap) -> int:
    """Passes after which all coordinates are known."""
    dim = law.centre.size
    level = np.zeros(dim + 1, int)
    before: list[list[Any]] = [[] for _ in range(dim)]
    for k, *others in (*law.shift_terms, *law.width_terms):
        before[k] += [i for i in others if i < dim]
    for k in range(dim):
        level[k] = 1 + max((level[i] for i in before[k]), default=0)
    return int(np.max(level))
