"""The coordinates of the moves on the host: those of the sites, or of a triangular map on top of them.

Nothing here knows how a density is computed: an evaluator takes rows of points and returns log densities and
scores, from a compiled program or from a user's own function.
"""

from collections.abc import Callable
from typing import Protocol, Self

import numpy as np

from qdesampler.infer.qde.coordinates.maps import (
    CoordinateMap,
    into_map,
    out_of_map,
    push_forward,
    to_map,
    value_and_score_in_map,
)
from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.numerics.scaling_symmetry import ScalingSymmetry, centred_map, suitable_centredness

__all__ = ["CHANGE", "NEAR", "RowCoordinates", "RowEvaluator"]

# Of the starts of standardised sites. From far starts the likelihood of hierarchy-centred and -reparametrised
# drove the scales to exp(-13), where descents ended 300 to 600 nats below those from here.
NEAR = 0.1
CHANGE = 0.05  # centredness: smaller changes are not worth evaluating points again


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
        symmetry: the scaling symmetry that `recentre` uses, by such a map, or None.
        conditional: the map of a conditionally Gaussian target, which `recentre` does not change, or None.
    """

    evaluator: RowEvaluator

    def __init__(self, evaluator: RowEvaluator):
        self.dim: int = evaluator.dim
        self.evaluator = evaluator
        self.law: CoordinateMap | None = None
        self.symmetry: ScalingSymmetry | None = None
        self.conditional: CoordinateMap | None = None
        self._scaled = np.zeros(0)  # centredness of what the symmetry scales
        self._first: tuple[np.ndarray, np.ndarray] | None = None  # the same, and a place, to begin with
        self.centredness: np.ndarray = np.ones(self.dim)

    @property
    def can_recentre(self) -> bool:
        """Whether any site can be re-centred."""
        return self.symmetry is not None

    @property
    def has_structure(self) -> bool:
        """Whether the map is that of a symmetry or a conditional Gaussian."""
        return self.symmetry is not None or self.conditional is not None

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
        points, change, scores = into_map(self.law, sites.positions, sites.scores)
        return Chains(points, sites.log_densities + change, scores)

    def outside(self, points: Chains) -> Chains:
        """The inverse of `inside`."""
        if self.law is None:
            return points
        sites, change, scores = out_of_map(self.law, points.positions, points.scores)
        return Chains(sites, points.log_densities - change, scores)

    def standard_widths(self) -> np.ndarray:
        """Width of each coordinate's normal prior around 0, if it has one that nothing changes; else 0."""
        return np.zeros(self.dim)

    def descent_starts(self, sites: np.ndarray) -> np.ndarray:
        """Points of the moves from which descents start."""
        return sites

    def use_symmetry(self, symmetry: ScalingSymmetry, centredness: np.ndarray, place: np.ndarray) -> None:
        """Begin again in the coordinates of a scaling symmetry.

        Args:
            symmetry: what is scaled by what.
            centredness: of the scaled coordinates, to begin with.
            place: a point, shape `(dim,)`, at whose scales the two parametrisations agree.
        """
        self.symmetry, self._first = symmetry, (centredness, place)
        self.reset()

    def use_conditional(self, law: CoordinateMap) -> None:
        """Begin again in the coordinates of a map of the model as written."""
        self.conditional = law
        self.reset()

    def leave_structure(self) -> None:
        """Begin again without symmetry and map."""
        self.symmetry = self.conditional = None
        self.reset()

    def reset(self) -> Self:
        """Leave the triangular map, but for that of a structure, to begin with; returns itself."""
        self.law = self.conditional
        if self.symmetry is not None and self._first is not None:
            self._scaled, place = self._first
            self.law = centred_map(self.symmetry, self._scaled, place, np.ones(self.dim))
        return self

    def recentre(self, points: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Callable | None:
        """Take the coordinates that suit weighted points, unless they hardly differ.

        Args:
            points: shape `(n, dim)`, in the coordinates in use.
            scores: of the log density in these coordinates.
            weights: non-negative, shape `(n,)`.

        Returns:
            The map of points into the new coordinates; None if nothing changed.
        """
        if len(points) < 2:
            return None
        if self.symmetry is None:
            return None if self.law is not None else self._recentre_sites(points, scores, weights)
        old = self.law
        assert old is not None
        sites, _, scores = out_of_map(old, points, scores)
        follow = self._recentre_sites(sites, scores, weights)
        sound = np.all(np.isfinite(sites), 1)
        share = np.where(sound, weights, 0.0) / max(np.sum(weights[sound]), np.finfo(float).tiny)
        finite = np.where(sound[:, None], sites, 0.0)
        centre = share @ finite
        spread = np.sqrt(np.maximum(share @ (finite - centre) ** 2, 1.0))  # of logarithms of scales
        new = suitable_centredness(self.symmetry, sites, scores, weights, centre)
        new = np.where(np.isfinite(new), np.clip(new, 0.0, 1.0), self._scaled)
        if follow is None and np.max(np.abs(new - self._scaled)) < CHANGE:
            return None
        self._scaled = new
        self.law = law = centred_map(self.symmetry, new, centre, spread)
        return lambda rows: to_map(law, (follow or _same)(push_forward(old, rows)[0]))[0]

    def _recentre_sites(self, points: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Callable | None:
        """`recentre` below the triangular map."""
        return None


def _same(rows: np.ndarray) -> np.ndarray:
    return rows
