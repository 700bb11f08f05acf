r"""The coordinates of the moves on the host, where the solve changes them.

A location-scale site `z ~ loc + scale * noise` is moved as `y = c loc + scale^(c - 1) (z - loc)` with a
centredness `c` between 0 (standardised) and 1 (as the model is written). How much data inform a site decides
which `c` makes it independent of its scale (Papaspiliopoulos, Roberts and Skold 2007): with the slope of the
score of the rest, `score_z + (z - loc) / scale^2`, on `z` as the information `-slope`,

    c = mean of  i / (1 + i),        i = -slope * scale^2 .

Last of all, a triangular map may be put on top, in whose coordinates the target is rounder
(`qdesampler.numerics.triangular_map`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import jax
import numpy as np

from qdesampler.infer.qde.coordinates.device import MoveCoordinates
from qdesampler.infer.qde.coordinates.rows import CHANGE, NEAR, RowCoordinates
from qdesampler.numerics.centredness import centredness_of_draws
from qdesampler.numerics.evaluator import Evaluator

__all__ = ["HostCoordinates"]

_PARENT_WIDTH = 1.6  # least width of candidates of scales, in units of the trial's, while it is solved for
_BATCH = 64  # points that the sites are computed for together


class HostCoordinates(RowCoordinates):
    """Batches of points in the coordinates of the moves, and the centredness of these.

    Attributes:
        centredness: of each coordinate, shape `(dim,)`; 1 is the model as written.
        law: the triangular map on top of them, or None.
    """

    evaluator: Evaluator

    def __init__(
        self,
        coordinates: MoveCoordinates,
        prototype: Any,
        standard_widths: Callable[..., dict[str, np.ndarray]] | None = None,
    ):
        """Begin with standardised sites, so that descents meet no funnel.

        Args:
            coordinates: for one point, on the device.
            prototype: position of one chain, a pytree.
            standard_widths: `standard_widths` of the target; None: no coordinate has such a prior.
        """
        self._coordinates = coordinates
        centering = coordinates.centering
        dim = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(prototype))  # they may be tracers
        super().__init__(Evaluator(self._value_and_score, dim, context=(np.ones(dim),)))
        self._marked = self._parents = np.zeros(dim, bool)
        self._standard_widths = standard_widths
        if centering is not None:
            self._marked = centering.mask(prototype)
            self._parents = centering.mask(prototype, centering.parents)
        self._locate = jax.jit(jax.vmap(coordinates.locate, in_axes=(0, None)))
        self.centredness: np.ndarray = np.where(self._marked, 0.0, 1.0)

    def _value_and_score(self, point, centredness):
        return self._coordinates.value_and_score(centredness)(point)

    @property
    def can_recentre(self) -> bool:
        """Whether any site can be re-centred."""
        return self.conditional is None and (self._has_sites or super().can_recentre)

    @property
    def widths(self) -> np.ndarray | None:
        """Least width of each coordinate's candidates during the solve: scales of sites have long tails."""
        return np.where(self._parents, _PARENT_WIDTH, 1.0) if self._has_sites else None

    @property
    def _has_sites(self) -> bool:
        """Whether the model has location-scale sites whose scale is another site."""
        return bool(np.any(self._marked))

    def standard_widths(self) -> np.ndarray:
        """Width of each coordinate's normal prior around 0, if it has one that nothing changes; else 0."""
        prototype = self._coordinates.prototype
        known = {} if self._standard_widths is None else self._standard_widths(*self._coordinates.arguments)
        if not known:
            return super().standard_widths()
        zeros = {name: np.zeros(np.shape(leaf)) for name, leaf in prototype.items()}
        return np.concatenate([np.ravel((zeros | known)[name]) for name in sorted(zeros)])

    def _evaluate_moved(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._evaluate(points, self.centredness)

    def evaluate_sites(self, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities and scores of the model as written, at sites of shape `(n, dim)`."""
        return self._evaluate(sites, np.ones(self.dim))

    def _evaluate(self, points, centredness):
        self.evaluator.context = (centredness.astype(self.evaluator.dtype),)
        return self.evaluator(points)

    def _located(self, points: np.ndarray, centredness: np.ndarray) -> list[np.ndarray]:
        """Sites, locations and scales of points, each of shape `(n, dim)`."""
        dtype = self.evaluator.dtype
        rows = []
        for first in range(0, len(points), _BATCH):
            chunk = points[first : first + _BATCH]
            padded = np.concatenate([chunk, np.repeat(chunk[-1:], _BATCH - len(chunk), 0)]).astype(dtype)
            found = self._locate(padded, centredness.astype(dtype))
            rows.append([np.asarray(part, float)[: len(chunk)] for part in found])
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def to_sites(self, points: np.ndarray) -> np.ndarray:
        """Raveled sites of the model as written, at points of the moves."""
        points = super().to_sites(points)
        return self._located(points, self.centredness)[0] if self._has_sites else points

    def from_sites(self, sites: np.ndarray) -> np.ndarray:
        """Points of the moves at raveled sites."""
        if self._has_sites:
            sites, loc, scale = self._located(sites, np.ones(self.dim))
            sites = self._moved(sites, loc, scale, self.centredness)
        return super().from_sites(sites)

    def descent_starts(self, sites: np.ndarray) -> np.ndarray:
        """Starts near the centre of standardised sites: raveled sites are taken for standardised ones."""
        return np.where(self._marked, NEAR * sites, sites)

    def _moved(self, sites, loc, scale, centredness):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            moved = centredness * loc + scale ** (centredness - 1) * (sites - loc)
        return np.where(self._marked, moved, sites)

    def reset(self) -> Self:
        """Standardise all sites again, without a map; returns itself. What was evaluated stays counted."""
        super().reset()
        self.centredness = np.where(self._marked & (self.conditional is None), 0.0, 1.0)
        return self

    def restart(self) -> Self:
        """Begin again for another run: `reset`, and count from zero; returns itself."""
        self.evaluator.num_evals, self.symmetry, self.conditional = 0, None, None
        return self.reset()

    def _recentre_sites(self, points: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Callable | None:
        """Take the centredness that suits weighted points, unless it hardly differs; see `recentre`."""
        if not self._has_sites:
            return None
        old = self.centredness
        sites, loc, scale = self._located(points, old)
        with np.errstate(all="ignore"):
            rest = scores * scale ** (old - 1) + (sites - loc) / scale**2
        new = centredness_of_draws(sites, rest, scale, weights)
        new = np.where(self._marked & np.isfinite(new), np.clip(new, 0.0, 1.0), old)
        if np.max(np.abs(new - old)) < CHANGE:
            return None
        self.centredness = new
        return partial(self._follow, old=old, new=new)

    def _follow(self, points: np.ndarray, *, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        sites, loc, scale = self._located(points, old)
        return self._moved(sites, loc, scale, new)
