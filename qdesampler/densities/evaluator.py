"""Evaluations in unconstrained space, where the sampler moves: transforms, their Jacobians, differences."""

import numpy as np

from qdesampler.densities.calls import Calls
from qdesampler.densities.parameters import Space

__all__ = ["SpaceEvaluator"]

# Of a forward difference, relative to 1 + |u|: the square root of the precision of a double. Its error is
# about this times the curvature, which a trajectory bears: whatever its forces are, its end is accepted by
# the density itself.
DIFFERENCE = float(np.sqrt(np.finfo(float).eps))


class SpaceEvaluator:
    """A `qdesampler.infer.qde.coordinates.rows.RowEvaluator` of the user's function.

    Attributes:
        dim: unconstrained coordinates.
        dtype: float64.
        step: length of a difference, relative to `1 + |u|`.
    """

    def __init__(self, calls: Calls, space: Space, step: float = DIFFERENCE):
        self.dim: int = space.dim
        self.dtype: np.dtype = np.dtype(float)
        self.calls: Calls = calls
        self.space: Space = space
        self.step: float = step

    @property
    def num_evals(self) -> int:
        """Points that were evaluated; those of differences count too."""
        return self.calls.num_evals

    @property
    def score_cost(self) -> float:
        """Evaluations of a log density with its score, where one of a log density alone counts 1."""
        return 1.0 if self.calls.has_scores is not False else 1.0 + self.dim

    def rounded(self, points: np.ndarray) -> np.ndarray:
        """The points: the target sees them as they are."""
        return points

    def log_densities(self, points: np.ndarray) -> np.ndarray:
        """Log densities at points of shape `(n, dim)`; -inf outside the support."""
        return self._values(points)[0]

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities, shape `(n,)`, and scores, shape `(n, dim)`.

        Raises:
            EvaluationError, BudgetError: as `Calls`.
        """
        if self.calls.has_scores is not False:
            values, inside, outer = self._values(points)
            if outer is not None or not np.any(inside):
                scores = np.full(points.shape, np.nan)
                if outer is not None:
                    scores[inside] = self.space.pull_back(points[inside], outer)
                return values, scores
            return values, self._slopes(points, values)
        count, shifted = len(points), self._shifted(points, 1)
        values = self._values(np.concatenate([points, shifted]))[0]
        return values[:count], self._slopes(points, values[:count], values[count:])

    def _values(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Log densities, where the support is, and the user's scores there."""
        with np.errstate(all="ignore"):
            columns, change, inside = self.space.constrain(points)
        inside = np.asarray(inside) & np.all(np.isfinite(points), 1)
        values = np.full(len(points), -np.inf)
        if not np.any(inside):
            return values, inside, None
        found, scores = self.calls(columns[inside])
        values[inside] = found + change[inside]
        return values, inside, scores

    def _shifted(self, points: np.ndarray, sign: int) -> np.ndarray:
        """Every point moved along every coordinate, shape `(n dim, dim)`."""
        moved = np.repeat(points[:, None], self.dim, 1)
        index = np.arange(self.dim)
        moved[:, index, index] = points + sign * self.step * (1 + np.abs(points))
        return moved.reshape(-1, self.dim)

    def _slopes(self, points: np.ndarray, values: np.ndarray, ahead: np.ndarray | None = None) -> np.ndarray:
        """Scores by differences forwards, or backwards where the density ends ahead."""
        if not len(points):
            return np.zeros(points.shape)
        moved = self._shifted(points, 1)
        if ahead is None:
            ahead = self._values(moved)[0]
        with np.errstate(invalid="ignore"):
            scores = _quotients(points, values, moved, ahead, self.dim)
        ended = ~np.isfinite(scores) & np.isfinite(values)[:, None]
        if np.any(ended):
            behind = self._shifted(points, -1)
            found = np.full(ended.size, np.nan)
            found[ended.ravel()] = self._values(behind[ended.ravel()])[0]
            with np.errstate(invalid="ignore"):
                scores = np.where(ended, _quotients(points, values, behind, found, self.dim), scores)
        return scores


def _quotients(points, values, moved, found, dim) -> np.ndarray:
    index = np.arange(dim)
    lengths = moved.reshape(-1, dim, dim)[:, index, index] - points
    return (found.reshape(-1, dim) - values[:, None]) / lengths
