"""A measured trial beside local moves, and whether it can be used at all."""

import numpy as np

from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.prepared import WarmupSettings
from qdesampler.infer.qde.proportions import LocalMoves, Mixed
from qdesampler.infer.qde.starts import FEWEST_STARTS
from qdesampler.kernels.adaptation.local import tune_step_size
from qdesampler.kernels.adaptation.walk import HAS_EDGES, START_LENGTH
from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.kernels.mcmc.trajectory import gaussian_step_size
from qdesampler.numerics.host_trial import log_trial_rows
from qdesampler.solvers.gaussian.refine import GOOD, Refined

__all__ = ["CAUTION", "TUNING", "beside_local_moves", "is_missed", "time_at"]

TUNING = 20  # iterations that tune the step size beside a trial
CAUTION = 0.8  # step size that is not tuned, relative to the one that a Gaussian allows
_LEAST_ACCEPTANCE = 0.1  # of a refined trial, predicted or seen by one chain; below, it is given up
_BROKEN_PROMISE = 4.0  # seen over predicted autocorrelation time from which it is given up: hard.md, banana
# Acceptance of one chain over the mean, below which it is given up: hard.md, banana. Chance has .6 among four
# chains of 75 candidates (item-response-501, hierarchy-reparametrised in scaled coordinates), and .48 is none
# (brownian-32).
_UNEVEN = 0.5
_ENOUGH_UNEVEN = 192  # candidates from which chains may be compared with one another
# Step size, relative to the one that a Gaussian allows, below which trajectories hardly move from the
# candidates: these were in a corner of baseball-partially-pooled (R-hat 1.07). At edges every step size is
# small; a trial that is accepted as often as not is kept there.
_COLLAPSED, _EVEN = 0.05, 0.5
_STARTS = 8  # points that chains are started from


def beside_local_moves(
    coordinates: RowCoordinates,
    found: Refined,
    settings: WarmupSettings,
    rng: np.random.Generator,
    *,
    clear: bool,
) -> Mixed | None:
    """The trial and the step size of local moves beside it; None if these contradict it.

    Args:
        coordinates: in which the trial was measured.
        found: the trial.
        settings: of the warm-up.
        rng: all random numbers.
        clear: whether local moves hardly matter, so that their step size is not tuned.
    """
    seen, acceptance = found.observed_time, found.certificate.acceptance
    starts = _resampled(found, rng)
    cost = coordinates.evaluator.score_cost
    step = CAUTION * gaussian_step_size(coordinates.dim)
    if (clear and not found.heavy_tails) or not settings.local.adapt_step_size:
        local = LocalMoves(
            step if settings.local.adapt_step_size else settings.local.step_size,
            settings.local.length or START_LENGTH,
        )
        return Mixed(
            found.trial, found.candidates.log_weights, seen, acceptance, local, starts, score_cost=cost
        )
    chains = Chains(*(part[:FEWEST_STARTS] for part in starts))
    iterations = min(TUNING, settings.num_warmup)
    tuned = tune_step_size(
        coordinates, chains, found.trial.metric, iterations, settings.local._replace(step_size=step), rng
    )
    has_collapsed = tuned.step_size < _COLLAPSED * gaussian_step_size(coordinates.dim)
    if has_collapsed and (acceptance < _EVEN or tuned.edges <= HAS_EDGES):
        return None
    # Trajectories go where candidates do not, and a chain is held there as long as its weight says.
    held = time_at(found, tuned.draws, coordinates.evaluate(tuned.draws)[0])
    if held > _BROKEN_PROMISE * max(found.certificate.time, seen):
        return None
    local = LocalMoves(tuned.step_size, tuned.length, tuned.cost, tuned.at_floor, tuned.edges)
    weights, tails = found.candidates.log_weights, found.heavy_tails
    return Mixed(found.trial, weights, max(seen, held), acceptance, local, starts, tails, cost)


def is_missed(found: Refined) -> bool:
    """Whether the candidates, or the chains among them, say that the trial has missed the place."""
    acceptance, accepted = found.certificate.acceptance, found.accepted
    mean, least = float(np.mean(accepted)), float(np.min(accepted))
    uneven = least < _UNEVEN * mean and mean < GOOD and len(found.candidates.points) >= _ENOUGH_UNEVEN
    broken = found.observed_time > _BROKEN_PROMISE * found.certificate.time
    return acceptance < _LEAST_ACCEPTANCE or least < _LEAST_ACCEPTANCE or broken or uneven


def time_at(found: Refined, points: np.ndarray, log_densities: np.ndarray) -> float:
    """Autocorrelation time `2 / alpha - 1` of global moves, from the mean rate of chains at these points."""
    weights = log_densities - log_trial_rows(found.trial, points)
    others = found.candidates.log_weights
    rates = np.mean(np.exp(np.minimum(others[None, :] - weights[np.isfinite(weights), None], 0)), 1)
    return float(2 / max(np.mean(rates), 1e-6) - 1) if len(rates) else np.inf


def _resampled(found: Refined, rng: np.random.Generator) -> Chains:
    """Points of the posterior as far as the candidates show it, the ends of the chains first."""
    points, scores, weights, _ = found.candidates
    share = np.exp(weights - np.max(weights))
    chosen = rng.choice(len(weights), _STARTS, p=share / np.sum(share))
    index = np.concatenate([found.ends, chosen])[:_STARTS]
    index = index[np.isfinite(weights[index])]
    values = weights[index] + log_trial_rows(found.trial, points[index])
    return Chains(points[index], values, scores[index])
