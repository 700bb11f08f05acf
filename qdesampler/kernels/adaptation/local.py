"""Adaptation of local moves on the host: metric, trajectory length and step size, from several chains.

Where the trial of the solve is poor, the draws are trajectories, and what they need is learned from a few
chains of their own, whatever the number of chains that are drawn: growing windows of draws fit the metric,
then whole trajectories show which length is cheapest, then the step size settles.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from qdesampler.kernels.adaptation.jump_efficiency import BestLength, JumpRecord
from qdesampler.kernels.adaptation.step_size import StepSizeSearch
from qdesampler.kernels.mcmc.host_trajectories import Chains, HostDynamics, run_trajectories
from qdesampler.kernels.mcmc.integrators import Integrator
from qdesampler.kernels.mcmc.trajectory import JITTER, gaussian_step_size
from qdesampler.numerics.fisher_fit import choose_metric
from qdesampler.numerics.numpy_metric import HostMetric, whiten_rows

__all__ = ["Coordinates", "LocalAdaptation", "LocalSettings", "adapt_locally", "tune_step_size"]

START_LENGTH = 1.7  # whitened units: close to a quarter period of a whitened Gaussian
_FIRST_WINDOW, _WINDOW_GROWTH = 10, 1.5  # iterations of the first window, and by how much the next is longer
_EARLY_WINDOWS = 30  # iterations during which trajectories are as short as they are before a metric is known
_EARLY_STEPS, _WINDOW_STEPS = 8, 32  # longest trajectories in the first windows and in the others
_WINDOWS, _WINDOWS_AND_SEARCH = 0.7, 0.85  # fraction of the iterations at which each part ends
_SHORTEST_SEARCH = 60  # iterations below which no length is searched for
_LONGEST_RECORD = 512  # steps of the trajectories that search for a length, at most
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


class LocalAdaptation(NamedTuple):
    """The result.

    Attributes:
        metric: of the trajectories.
        step_size: to freeze, whitened units.
        length: mean trajectory length, whitened units.
        cost: evaluations per effective draw of the slowest coordinates; infinite if it was not measured.
        chains: where the chains have come to.
        draws: the latest draws of all chains, shape `(n, dim)`.
        scores: `grad log p` there.
        num_evals: evaluations, all chains together.
        at_floor: whether no step size reached the acceptance that was aimed at.
    """

    metric: HostMetric
    step_size: float
    length: float
    cost: float
    chains: Chains
    draws: np.ndarray
    scores: np.ndarray
    num_evals: int
    at_floor: bool


class _Walk:
    """Chains that are moved and learned from."""

    def __init__(
        self, coordinates: Coordinates, chains: Chains, metric: HostMetric, settings: LocalSettings, rng
    ):
        self.coordinates, self.chains, self.metric = coordinates, chains, metric
        self.settings, self.rng = settings, rng
        self.length = START_LENGTH if settings.length is None else settings.length
        self.search = self._step_search(settings.step_size)
        self.mean_accept = np.full(len(chains.positions), settings.target_accept_prob)
        self.held: float | None = None
        self.moves = self.num_evals = 0

    def _step_search(self, step_size: float) -> StepSizeSearch:
        settings = self.settings
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
        return max(self.search.step_size if self.held is None else self.held, self.floor)

    def restart(self, step_size: float) -> None:
        """Search for the step size anew."""
        if self.settings.adapt_step_size:
            self.search = self._step_search(step_size)

    def random_steps(self, most: int) -> int:
        """A number of steps that varies about the mean length."""
        factor = 1 - JITTER + 2 * JITTER * self.rng.random()
        return int(np.clip(np.floor(self.length * factor / self.step_size + self.rng.random()), 1, most))

    def move(self, steps: int, record: JumpRecord | None = None, centre: np.ndarray | None = None) -> None:
        """One trajectory of every chain, accepted or rejected at a point that does not depend on it."""
        s = self.settings
        before = self.chains
        path = run_trajectories(
            self.coordinates.evaluate,
            before,
            self.metric,
            self.step_size,
            steps,
            self.rng,
            s.dynamics,
            s.integrator,
        )
        self.moves += 1
        self.num_evals += path.num_evals
        accept_prob = path.accept_probs[-1]
        taken = self.rng.random(len(accept_prob)) < accept_prob
        self.chains = Chains(
            np.where(taken[:, None], path.ends.positions, before.positions),
            np.where(taken, path.ends.log_densities, before.log_densities),
            np.where(taken[:, None], path.ends.scores, before.scores),
        )
        if record is not None:
            record.add(
                whiten_rows(self.metric, before.positions - centre), path.displacements, path.accept_probs
            )
        if s.adapt_step_size and self.held is None:
            self.mean_accept = _OLD * self.mean_accept + _NEW * accept_prob
            # The mean acceptance, lowered when the chains' recent averages differ: a stuck chain counts.
            floor = np.maximum(self.mean_accept, _LEAST_MEAN)
            imbalance = 1 / (np.mean(1 / floor) * np.mean(floor))
            self.search.update(float(np.mean(accept_prob) * imbalance))


def _window_ends(windows_end: int) -> list[int]:
    """Where each window ends: every one longer than the last by half; the last takes what is left."""
    ends, start, size = [], 0, float(_FIRST_WINDOW)
    if windows_end < 2 * _FIRST_WINDOW:
        return ends
    while start < windows_end:
        end = start + int(size)
        if end + int(size * _WINDOW_GROWTH) > windows_end:
            end = windows_end
        ends.append(end)
        start, size = end, size * _WINDOW_GROWTH
    return ends


def _fit_window(walk: _Walk, window: list[Chains], *, recentre: bool) -> tuple[np.ndarray, np.ndarray]:
    """Fit the metric to the draws of a window, in coordinates that suit them; returns draws and scores."""
    settings = walk.settings
    draws = np.concatenate([chains.positions for chains in window])
    scores = np.concatenate([chains.scores for chains in window])
    if recentre:
        follow = walk.coordinates.recentre(draws, scores, np.ones(len(draws)))
        if follow is not None:
            draws = follow(draws)
            values, scores = walk.coordinates.evaluate(draws)
            walk.num_evals += len(draws)
            latest = len(walk.chains.positions)
            walk.chains = Chains(draws[-latest:], values[-latest:], scores[-latest:])
    sound = np.all(np.isfinite(draws), 1) & np.all(np.isfinite(scores), 1)
    walk.metric = choose_metric(
        draws[sound],
        scores[sound],
        walk.metric,
        settings.blocks,
        settings.rank,
        force=settings.force_blocks,
        regularize=settings.regularize,
    )
    walk.restart(gaussian_step_size(draws.shape[1]))
    return draws[sound], scores[sound]


def _search_length(walk: _Walk, iterations: int, centre: np.ndarray) -> BestLength | None:
    """Whole trajectories that show which length is cheapest; longer ones if the longest is.

    They are made with one step size, so that numbers of steps are lengths.
    """
    most_steps = min(walk.settings.most_steps, _LONGEST_RECORD)
    walk.held = walk.search.average
    most = int(np.clip(np.ceil(2 * START_LENGTH / walk.step_size), 2, most_steps))
    best = None
    left = iterations
    while left > 0:
        record = JumpRecord(most, centre.size, walk.settings.integrator.stages)
        number = max(left // 2, min(left, 8))
        for _ in range(number):
            walk.move(most, record, centre)
        left -= number
        best = record.best(JITTER)
        if best is None or not best.is_longest or most == most_steps:
            break
        most = min(2 * most, most_steps)
    if best is not None:
        walk.length = best.steps * walk.step_size
    walk.held = None
    return best


def adapt_locally(
    coordinates: Coordinates,
    chains: Chains,
    metric: HostMetric,
    iterations: int,
    settings: LocalSettings,
    rng: np.random.Generator,
) -> LocalAdaptation:
    """Learn metric, length and step size from `iterations` trajectories of every chain.

    Args:
        coordinates: where the target is evaluated.
        chains: where the chains begin, evaluated.
        metric: the first metric, with room for all blocks.
        iterations: of every chain.
        settings: see `LocalSettings`.
        rng: all random numbers.
    """
    walk = _Walk(coordinates, chains, metric, settings, rng)
    searching = settings.length is None and iterations >= _SHORTEST_SEARCH
    windows_end = int(iterations * (_WINDOWS if searching else _WINDOWS_AND_SEARCH))
    ends = _window_ends(windows_end) if settings.adapt_metric else []
    draws, scores = chains.positions, chains.scores
    window: list[Chains] = []
    for iteration in range(windows_end):
        early = iteration < _EARLY_WINDOWS
        most = min(settings.most_steps, _EARLY_STEPS if early else _WINDOW_STEPS)
        walk.move(walk.random_steps(most))
        window.append(walk.chains)
        if iteration + 1 in ends:
            draws, scores = _fit_window(walk, window, recentre=iteration + 1 != ends[-1])
            window = []
    best = None
    if searching:
        # The step size must fit the new metric before trajectories are recorded with it.
        settling = max(1, (iterations - windows_end) // 4)
        for _ in range(settling):
            walk.move(walk.random_steps(min(settings.most_steps, _WINDOW_STEPS)))
        search_end = int(iterations * _WINDOWS_AND_SEARCH)
        best = _search_length(walk, search_end - windows_end, np.mean(draws, 0))
        step = walk.search.average if settings.adapt_step_size else settings.step_size
        walk.restart(max(step, walk.floor))
    for _ in range(iterations - walk.moves):
        walk.move(walk.random_steps(settings.most_steps))
        window.append(walk.chains)
    if window:
        draws = np.concatenate([draws, *(chains.positions for chains in window)])
        scores = np.concatenate([scores, *(chains.scores for chains in window)])
    final = (
        max(walk.search.average, walk.floor)
        if settings.adapt_step_size and iterations
        else settings.step_size
    )
    return LocalAdaptation(
        walk.metric,
        final,
        walk.length,
        np.inf if best is None else best.cost,
        walk.chains,
        draws,
        scores,
        walk.num_evals,
        settings.adapt_step_size and final <= 2 * walk.floor,
    )


def tune_step_size(
    coordinates: Coordinates,
    chains: Chains,
    metric: HostMetric,
    iterations: int,
    settings: LocalSettings,
    rng: np.random.Generator,
) -> LocalAdaptation:
    """Step size and length for a metric that is known; arguments as in `adapt_locally`.

    Half of the iterations tune the step size, the others show which length is cheapest.
    """
    walk = _Walk(coordinates, chains, metric, settings, rng)
    starts = [chains.positions]
    for _ in range(max(iterations // 2, 1)):
        walk.move(walk.random_steps(min(settings.most_steps, _WINDOW_STEPS)))
        starts.append(walk.chains.positions)
    best = None
    step = max(walk.search.average, walk.floor) if settings.adapt_step_size else settings.step_size
    if settings.length is None:
        best = _search_length(walk, iterations - iterations // 2, np.mean(np.concatenate(starts), 0))
    draws = np.concatenate([*starts, walk.chains.positions])
    return LocalAdaptation(
        walk.metric,
        step,
        walk.length,
        np.inf if best is None else best.cost,
        walk.chains,
        draws,
        np.zeros_like(draws),
        walk.num_evals,
        settings.adapt_step_size and step <= 2 * walk.floor,
    )
