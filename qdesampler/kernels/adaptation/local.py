"""Adaptation of local moves on the host: metric, trajectory length and step size, from several chains.

Where the trial of the solve is poor, the draws are trajectories, and what they need is learned from a few
chains of their own, whatever the number of chains that are drawn: growing windows of draws fit the metric,
then whole trajectories show which length is cheapest, then the step size settles.
"""

from typing import NamedTuple

import numpy as np

from qdesampler.kernels.adaptation.jump_efficiency import BestLength, JumpRecord
from qdesampler.kernels.adaptation.walk import HAS_EDGES, START_LENGTH, Coordinates, LocalSettings, Walk
from qdesampler.kernels.mcmc.host_trajectories import Chains, joined
from qdesampler.kernels.mcmc.trajectory import JITTER, gaussian_step_size
from qdesampler.numerics.fisher_fit import choose_metric, gaussian_scores
from qdesampler.numerics.numpy_metric import HostMetric, whiten_rows

__all__ = ["LocalAdaptation", "adapt_locally", "tune_step_size"]

_FIRST_WINDOW, _WINDOW_GROWTH = 10, 1.5  # iterations of the first window, and by how much the next is longer
_EARLY_WINDOWS = 30  # iterations during which trajectories are as short as they are before a metric is known
_EARLY_STEPS, _WINDOW_STEPS = 8, 32  # longest trajectories in the first windows and in the others
_WINDOWS, _WINDOWS_AND_SEARCH = 0.7, 0.85  # fraction of the iterations at which each part ends
_SHORTEST_SEARCH = 60  # iterations below which no length is searched for
_LONGEST_RECORD = 512  # steps of the trajectories that search for a length, at most
_LARGER, _RECORDS = 4, 8  # step sizes larger by this factor are tried, and trajectories of each chain for one


class LocalAdaptation(NamedTuple):
    """The result.

    Attributes:
        metric: of the trajectories.
        step_size: to freeze, whitened units.
        length: mean trajectory length, whitened units.
        cost: evaluations per effective draw of the slowest coordinates; infinite if it was not measured.
        chains: where the chains have come to.
        draws: the latest draws of all chains, shape `(n, dim)`.
        scores: `grad log p` there; of the Gaussian with their covariance where the density has edges.
        num_evals: evaluations, all chains together.
        at_floor: whether no step size reached the acceptance that was aimed at.
        edges: fraction of the latest trajectories that met an edge or a jump of the density.
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
    edges: float


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


def _fit_window(walk: Walk, window: list[Chains], *, recentre: bool) -> tuple[np.ndarray, np.ndarray]:
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
    draws, scores = draws[sound], scores[sound]
    if walk.moves > _EARLY_WINDOWS:  # before, chains may come from where the density overflows
        walk.window_edges = max(walk.window_edges, walk.edges)
    if walk.edges > HAS_EDGES:
        scores = gaussian_scores(draws)
    walk.metric = choose_metric(
        draws,
        scores,
        walk.metric,
        settings.blocks,
        settings.rank,
        force=settings.force_blocks,
        regularize=settings.regularize,
    )
    walk.restart(gaussian_step_size(draws.shape[1]))
    return draws, scores


def _search_length(walk: Walk, iterations: int, pool: Chains) -> BestLength | None:
    """Whole trajectories that show which length is cheapest; longer ones if the longest is.

    They start at random points of the pool, draws of all chains: the few places where the chains are now may
    all be in the wide part of a funnel. They are made with one step size, so that numbers of steps are
    lengths. Where that is much smaller than a Gaussian's, larger ones are tried as well: at jumps of the
    density no step size has a high acceptance, and long steps that are often rejected are the cheapest.
    """
    most_steps = min(walk.settings.most_steps, _LONGEST_RECORD)
    walk.held, walk.searched = walk.average_step_size, True
    most = int(np.clip(np.ceil(2 * START_LENGTH / walk.step_size), 2, most_steps))
    best, record = None, _blank_record(walk, pool)
    left = iterations
    while left > 0:
        number = max(left // 2, min(left, 8))
        best = _recorded(walk, record, most, number, pool)
        left -= number
        if best is None or not best.is_longest or most == most_steps:
            break
        most = min(2 * most, most_steps)
    walk.held, step = None, walk.held
    if best is None:
        return None
    walk.length = best.steps * step
    return _larger_steps(walk, step, best, pool) if walk.settings.adapt_step_size else best


def _larger_steps(walk: Walk, step_size: float, best: BestLength, pool: Chains) -> BestLength:
    """The best of the step sizes from a Gaussian's down to that which was adapted, by measured efficiency.

    It is held from now on if it is larger, or if there are edges, from which adaptation leads away again.
    """
    larger, kept = gaussian_step_size(pool.positions.shape[1]), None
    while larger > step_size * (1 if walk.has_edges else _LARGER):
        walk.held = larger
        most = int(np.clip(np.ceil(2 * START_LENGTH / larger), 2, _LONGEST_RECORD))
        other = _recorded(walk, _blank_record(walk, pool), most, _RECORDS, pool)
        if other is not None and other.cost < best.cost:
            best, kept = other, larger
            walk.length = best.steps * larger
        elif kept is not None or most > _WINDOW_STEPS:
            break
        larger /= _LARGER
    walk.held = step_size if kept is None and walk.has_edges else kept
    return best


def _blank_record(walk: Walk, pool: Chains) -> JumpRecord:
    offsets = whiten_rows(walk.metric, pool.positions - np.mean(pool.positions, 0))
    return JumpRecord(offsets, walk.settings.integrator.stages)


def _recorded(walk: Walk, record: JumpRecord, most: int, number: int, pool: Chains) -> BestLength | None:
    """The cheapest length, with trajectories of `most` steps from points of the pool added to the record."""
    centre = np.mean(pool.positions, 0)
    for _ in range(number):
        walk.look(most, record, centre, pool)
    return record.best(JITTER)


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
    walk = Walk(coordinates, chains, metric, settings, rng)
    searching = settings.length is None and iterations >= _SHORTEST_SEARCH
    windows_end = int(iterations * (_WINDOWS if searching else _WINDOWS_AND_SEARCH))
    ends = _window_ends(windows_end) if settings.adapt_metric else []
    draws, scores = chains.positions, chains.scores
    window: list[Chains] = []
    pool = chains
    for iteration in range(windows_end):
        early = iteration < _EARLY_WINDOWS
        most = min(settings.most_steps, _EARLY_STEPS if early else _WINDOW_STEPS)
        walk.move(walk.random_steps(most))
        window.append(walk.chains)
        if iteration + 1 in ends:
            draws, scores = _fit_window(walk, window, recentre=iteration + 1 != ends[-1])
            pool, window = joined(window), []
    best = None
    if searching:
        # The step size must fit the new metric before trajectories are recorded with it.
        settling = max(1, (iterations - windows_end) // 4)
        for _ in range(settling):
            walk.move(walk.random_steps(min(settings.most_steps, _WINDOW_STEPS)))
        search_end = int(iterations * _WINDOWS_AND_SEARCH)
        best = _search_length(walk, search_end - windows_end, joined([pool, *window]))
        walk.restart(walk.average_step_size)
    for _ in range(iterations - walk.moves):
        walk.move(walk.random_steps(settings.most_steps))
        window.append(walk.chains)
    if window:
        draws = np.concatenate([draws, *(chains.positions for chains in window)])
        scores = np.concatenate([scores, *(chains.scores for chains in window)])
    if walk.has_edges:
        scores = gaussian_scores(draws)
    final = walk.average_step_size if iterations else settings.step_size
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
        max(walk.edges, walk.window_edges),
    )


def _is_at_floor(walk: Walk) -> bool:
    """Whether no step size reaches the acceptance that is aimed at."""
    return walk.settings.adapt_step_size and walk.average_step_size <= 2 * walk.floor


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
    walk = Walk(coordinates, chains, metric, settings, rng)
    starts = [chains]
    for _ in range(max(iterations // 2, 1)):
        walk.move(walk.random_steps(min(settings.most_steps, _WINDOW_STEPS)))
        starts.append(walk.chains)
    best = None
    if settings.length is None and _is_at_floor(walk):  # a longer trajectory would only be dearer
        walk.length = walk.average_step_size
    elif settings.length is None:
        best = _search_length(walk, iterations - iterations // 2, joined(starts))
    step = walk.average_step_size  # that of the length which was found
    draws = joined(starts).positions
    return LocalAdaptation(
        walk.metric,
        step,
        walk.length,
        np.inf if best is None else best.cost,
        walk.chains,
        draws,
        np.zeros_like(draws),
        walk.num_evals,
        _is_at_floor(walk),
        walk.edges,
    )
