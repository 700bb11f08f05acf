"""The coordinates of the moves on the host: those of the sites, or of a triangular map on top of them.

Nothing here knows how a density is computed: an evaluator takes rows of points and returns log densities and
scores, from a compiled program or from a user's own function.
"""

from collections.abc import Callable
from typing import Protocol, Self

import numpy as np

from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.numerics.triangular_map import (
    TriangularMap,
    from_map,
    pull_back,
    push_forward,
    to_map,
    value_and_score_in_map,
)

__all__ = ["RowCoordinates", "RowEvaluator"]


class RowEvaluator(Protocol):
    """What evaluates a density at rows of points: `qdesampler.numerics.evaluator.Evaluator`, or another.

    Attributes:
        dim: number of coordinates.
        dtype: type in which the target sees points.
    """

    dim: int
    dtype: np.dtype

    @property
    def score_cost(self) -> float:
        """Evaluations of a log density with its score, where one of a log density alone counts 1."""
        ...

    @property
    def num_evals(self) -> int:
        """Points evaluated so far."""
        ...

    def rounded(self, points: np.ndarray) -> np.ndarray:
        """Points as the target sees them, in float64."""
        ...

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities, shape `(n,)`, and scores, shape `(n, dim)`, at points of shape `(n, dim)`."""
        ...


class RowCoordinates:
    """Batches of points in the coordinates of the moves.

    Attributes:
        dim: number of coordinates.
        evaluator: of the target, at raveled sites.
        law: the triangular map on top of the sites, or None.
    """

    evaluator: RowEvaluator

    def __init__(self, evaluator: RowEvaluator):
        self.dim: int = evaluator.dim
        self.evaluator = evaluator
        self.law: TriangularMap | None = None
        self.centredness: np.ndarray = np.ones(self.dim)

    @property
    def can_recentre(self) -> bool:
        """Whether any site can be re-centred."""
        return False

    @property
    def widths(self) -> np.ndarray | None:
        """Least width of each coordinate's candidates during the solve; None: no bounds."""
        return None

    def evaluate(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities and scores at points of the moves, shapes `(n,)` and `(n, dim)`."""
        if self.law is None:
            return self._evaluate_moved(points)
        with np.errstate(all="ignore"):  # what has run away is not finite
            return value_and_score_in_map(self.law, points, self._evaluate_moved)

    def _evaluate_moved(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`evaluate` without the triangular map."""
        return self.evaluate_sites(points)

    def evaluate_sites(self, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities and scores of the model as written, at sites of shape `(n, dim)`."""
        return self.evaluator(sites)

    def to_sites(self, points: np.ndarray) -> np.ndarray:
        """Raveled sites of the model as written, at points of the moves."""
        return points if self.law is None else push_forward(self.law, points)[0]

    def from_sites(self, sites: np.ndarray) -> np.ndarray:
        """Points of the moves at raveled sites."""
        return sites if self.law is None else to_map(self.law, sites)[0]

    def inside(self, sites: Chains) -> Chains:
        """Evaluated points of the moves at evaluated sites; nothing is evaluated anew."""
        if self.law is None:
            return sites
        points, change = to_map(self.law, sites.positions)
        return Chains(points, sites.log_densities + change, pull_back(self.law, points, sites.scores))

    def outside(self, points: Chains) -> Chains:
        """The inverse of `inside`."""
        if self.law is None:
            return points
        sites, change = push_forward(self.law, points.positions)
        scores = from_map(self.law, points.positions, points.scores)
        return Chains(sites, points.log_densities - change, scores)

    def descent_starts(self, sites: np.ndarray) -> np.ndarray:
        """Points of the moves from which descents start."""
        return sites

    def reset(self) -> Self:
        """Leave the triangular map; returns itself."""
        self.law = None
        return self

    def recentre(self, points: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Callable | None:
        """Take coordinates that suit weighted points; None if nothing changed."""
        return None
