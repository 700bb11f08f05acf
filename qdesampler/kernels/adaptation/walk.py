"""Chains that are moved while local moves are adapted, and what they depend on."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from qdesampler.kernels.adaptation.jump_efficiency import JumpRecord
from qdesampler.kernels.adaptation.step_size import StepSizeSearch
from qdesampler.kernels.mcmc.host_trajectories import Chains, HostDynamics, Trajectories, run_trajectories
from qdesampler.kernels.mcmc.integrators import Integrator
from qdesampler.kernels.mcmc.trajectory import JITTER, gaussian_step_size
from qdesampler.numerics.numpy_metric import HostMetric, whiten_rows

__all__ = ["HAS_EDGES", "START_LENGTH", "Coordinates", "LocalSettings", "Walk"]

START_LENGTH = 1.7  # whitened units: close to a quarter period of a whitened Gaussian
# Fractions of trajectories that meet an edge or a jump of the density. From the first, the density has edges:
# scores do not show its widths, because it does not vanish there and the mean of the scores is not 0. Below,
# they count as rejected. From the last, the step size is to blame, as where the density overflows.
HAS_EDGES, _OVERFLOW = 0.1, 0.9
_MOST_AT_EDGE = 0.3  # at edges, the fraction above which trajectories are shortened: short steps do not help
_SHORTENING = 0.1  # of the logarithm of the length, a move
_OLD, _NEW = 0.9, 0.1  # weights of the running mean of each chain's acceptance
_LEAST_MEAN = 1e-3  # smaller mean acceptances of a chain count as this one
_LEAST_STEP = 1e-4  # of the step size of a Gaussian: smaller ones could only stand still


class Coordinates(Protocol):
    """The coordinates of the moves, in which the target is evaluated and which may be re-centred."""

    def evaluate(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities, shape `(n,)`, and scores, shape `(n, dim)`, at points of shape `(n, dim)`."""
        ...

    def recentre(self, points: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Callable | None:
        """Change the coordinates to suit weighted points; returns the map of old points to new ones.

        None if nothing changed.
        """
        ...


class LocalSettings(NamedTuple):
    """What local moves are adapted to, and how.

    Attributes:
        step_size: first step size, whitened units.
        length: mean trajectory length, whitened units; None: it is searched for.
        target_accept_prob: acceptance of end points that the step size aims at.
        most_steps: of a trajectory.
        adapt_step_size: whether the step size is adapted.
        adapt_metric: whether the metric is adapted.
        search_step_size: whether to double or halve the step size at every restart before averaging.
        regularize: whether metrics of few draws have a floor.
        blocks: index groups that may be correlated.
        rank: most directions of one block.
        force_blocks: whether the blocks are the user's, so that no gain test applies.
        dynamics: how velocities are drawn and kicked.
        integrator: the splitting of a step.
    """

    step_size: float
    length: float | None
    target_accept_prob: float
    most_steps: int
    adapt_step_size: bool
    adapt_metric: bool
    search_step_size: bool
    regularize: bool
    blocks: tuple[tuple[int, ...], ...]
    rank: int
    force_blocks: bool
    dynamics: HostDynamics
    integrator: Integrator

    @property
    def directions(self) -> int:
        """Directions of a metric with room for all blocks."""
        return sum(min(self.rank, len(block)) for block in self.blocks)


class Walk:
    """Chains that are moved and learned from."""

    def __init__(
        self, coordinates: Coordinates, chains: Chains, metric: HostMetric, settings: LocalSettings, rng: Any
    ):
        self.coordinates, self.chains, self.metric = coordinates, chains, metric
        self.settings, self.rng = settings, rng
        self.length: float = START_LENGTH if settings.length is None else settings.length
        self.search: StepSizeSearch = self._step_search(settings.step_size)
        self.mean_accept = np.full(len(chains.positions), settings.target_accept_prob)
        self.held: float | None = None
        self.moves: int = 0
        self.num_evals: int = 0
        self.met_edge: list[float] = []
        self.searched = False
        self.window_edges: float = 0.0

    def _step_search(self, step_size: float) -> StepSizeSearch:
        settings: LocalSettings = self.settings
        return StepSizeSearch(
            step_size, settings.target_accept_prob, double_or_halve=settings.search_step_size
        )

    @property
    def floor(self) -> float:
        """The smallest step size that is tried."""
        return _LEAST_STEP * gaussian_step_size(self.metric.scale.size)

    @property
    def step_size(self) -> float:
        """The step size to use now: the one that is held, if there is one."""
        if not self.settings.adapt_step_size:
            return self.settings.step_size
        return self._bounded(self.search.step_size if self.held is None else self.held)

    @property
    def average_step_size(self) -> float:
        """The step size to freeze."""
        if self.held is not None:
            return self.held
        return (
            self._bounded(self.search.average) if self.settings.adapt_step_size else self.settings.step_size
        )

    def _bounded(self, step_size: float) -> float:
        longest = self.length if self.settings.length is None and self.length < START_LENGTH else np.inf
        return max(min(step_size, longest), self.floor)

    @property
    def edges(self) -> float:
        """Fraction of the trajectories since the last restart that met an edge of the density."""
        return float(np.mean(self.met_edge)) if self.met_edge else 0.0

    @property
    def has_edges(self) -> bool:
        """Whether many trajectories meet an edge, now or in a window before."""
        return max(self.edges, self.window_edges) > HAS_EDGES

    def restart(self, step_size: float) -> None:
        """Search for the step size anew."""
        self.met_edge = []
        if self.settings.adapt_step_size:
            self.search = self._step_search(step_size)

    def random_steps(self, most: int) -> int:
        """A number of steps that varies about the mean length."""
        factor = 1 - JITTER + 2 * JITTER * self.rng.random()
        return int(np.clip(np.floor(self.length * factor / self.step_size + self.rng.random()), 1, most))

    def look(self, steps: int, record: JumpRecord, centre: np.ndarray, pool: Chains) -> None:
        """One trajectory from as many points of the pool as there are chains, recorded; no chain moves."""
        rows = self.rng.integers(len(pool.positions), size=len(self.chains.positions))
        starts = Chains(*(part[rows] for part in pool))
        path = self._trajectories(starts, steps)
        offsets = whiten_rows(self.metric, starts.positions - centre)
        record.add(offsets, path.displacements, path.accept_probs)

    def _trajectories(self, starts: Chains, steps: int) -> Trajectories:
        path = run_trajectories(
            self.coordinates.evaluate,
            starts,
            self.metric,
            self.step_size,
            steps,
            self.rng,
            self.settings.dynamics,
            self.settings.integrator,
        )
        self.moves += 1
        self.num_evals += path.num_evals
        self.met_edge.append(float(np.mean(path.at_edge)))
        return path

    def move(self, steps: int) -> None:
        """One trajectory of every chain, accepted or rejected at a point that does not depend on it."""
        s = self.settings
        before = self.chains
        path = self._trajectories(before, steps)
        at_edges = self.has_edges and self.edges < _OVERFLOW
        if s.length is None and not self.searched and at_edges:
            self.length *= float(np.exp(_SHORTENING * (_MOST_AT_EDGE - self.met_edge[-1])))
            self.length = min(self.length, START_LENGTH)
        accept_prob = path.accept_probs[-1]
        taken = self.rng.random(len(accept_prob)) < accept_prob
        self.chains: Chains = Chains(
            np.where(taken[:, None], path.ends.positions, before.positions),
            np.where(taken, path.ends.log_densities, before.log_densities),
            np.where(taken[:, None], path.ends.scores, before.scores),
        )
        if s.adapt_step_size and self.held is None:
            # No step size keeps a trajectory from an edge.
            inside = ~path.at_edge if at_edges else np.full(len(accept_prob), True)
            recent = _OLD * self.mean_accept + _NEW * accept_prob
            self.mean_accept = np.where(inside, recent, self.mean_accept)
            # The mean acceptance, lowered when the chains' recent averages differ: a stuck chain counts.
            floor = np.maximum(self.mean_accept, _LEAST_MEAN)
            imbalance = 1 / (np.mean(1 / floor) * np.mean(floor))
            if np.any(inside):
                self.search.update(float(np.mean(accept_prob[inside]) * imbalance))
