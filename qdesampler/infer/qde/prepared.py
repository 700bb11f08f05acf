"""What the warm-up depends on, and all that it finds."""

from typing import NamedTuple

import numpy as np

from qdesampler.infer.qde.coordinates.maps import CoordinateMap
from qdesampler.kernels.adaptation.walk import LocalSettings
from qdesampler.numerics.host_trial import HostTrial

__all__ = ["SMALLEST_SOLVE", "Prepared", "WarmupSettings"]

SMALLEST_SOLVE = 40  # iterations of warm-up below which no solve is tried


class WarmupSettings(NamedTuple):
    """What the warm-up depends on besides the target and its starts.

    Attributes:
        num_warmup: iterations that the user allows.
        solve: whether to solve.
        local: how local moves are adapted.
    """

    num_warmup: int
    solve: bool
    local: LocalSettings

    @property
    def may_solve(self) -> bool:
        """Whether there are iterations enough for a solve."""
        return self.solve and self.num_warmup >= SMALLEST_SOLVE

    def blocks(self, dim: int) -> tuple[tuple[int, ...], ...] | None:
        """Blocks of a dense factor; None if all coordinates are one, which is cheaper."""
        blocks = self.local.blocks
        return None if len(blocks) == 1 and len(blocks[0]) == dim else blocks


class Prepared(NamedTuple):
    """All that the warm-up has found, in NumPy.

    Attributes:
        trial: candidates of global moves; its metric is that of local moves.
        step_size: whitened units.
        length: mean trajectory length, whitened units.
        probability: of a global move.
        candidates: of one global move.
        moves: of one iteration.
        short_fraction: of the trajectories, those with shorter steps.
        centredness: of each coordinate, shape `(dim,)`.
        outcome: index into `OUTCOMES`.
        acceptance: of the trial.
        outliers: descents that ended far outside the trial, perhaps in other modes.
        at_floor: whether no step size reached the acceptance that was aimed at, or only a collapsed one.
        edges: fraction of trajectories that met an edge or a jump of the density while moves were adapted.
        burn_in: iterations in which chains leave their starts.
        starts: raveled sites from which chains may start, shape `(n, dim)`.
        log_densities: of the starts, in the coordinates of the model as written.
        scores: likewise.
        num_evals: evaluations of everything.
        law: the triangular map in whose coordinates the moves are, or None.
    """

    trial: HostTrial
    step_size: float
    length: float
    probability: float
    candidates: int
    moves: int
    short_fraction: float
    centredness: np.ndarray
    outcome: int
    acceptance: float
    outliers: int
    at_floor: bool
    edges: float
    burn_in: int
    starts: np.ndarray
    log_densities: np.ndarray
    scores: np.ndarray
    num_evals: int
    law: CoordinateMap | None = None
