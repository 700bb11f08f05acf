"""Local moves that are adapted from the starts, where no trial of the solve is usable."""

import numpy as np

from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.global_moves import time_at
from qdesampler.infer.qde.prepared import WarmupSettings
from qdesampler.infer.qde.proportions import LocalMoves, Mixed
from qdesampler.infer.qde.starts import ESCAPED, FEWEST_STARTS
from qdesampler.kernels.adaptation.local import LocalAdaptation, adapt_locally
from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import HostMetric
from qdesampler.numerics.skew_fit import fit_skew
from qdesampler.solvers.gaussian.descents import Descent
from qdesampler.solvers.gaussian.host_step import Gaussian, gaussian_step
from qdesampler.solvers.gaussian.refine import DEFENSIVE, Refined, measure, refinement_size

__all__ = ["adapted_moves"]

_LOCAL_ITERATIONS = 350  # of each chain that adapts local moves, at most
_LATEST = 256  # draws of local moves at which a trial fitted to them is judged
_TOO_LOW = 1e4  # nats below the end of its descent from which a start is not returned to


def adapted_moves(
    coordinates: RowCoordinates,
    starts: np.ndarray,
    descents: list[Descent],
    metric: HostMetric,
    settings: WarmupSettings,
    rng: np.random.Generator,
) -> Mixed:
    """Local moves adapted from the starts, and a trial fitted to their draws.

    A chain begins at its start, because a descent may have ended in a spike without mass; but no step size
    would work at a start of very low density.
    """
    coordinates.reset()
    points = coordinates.evaluator.rounded(coordinates.from_sites(starts[:FEWEST_STARTS]))
    values, scores = coordinates.evaluate(points)
    for chain, descent in enumerate(descents[: len(points)]):
        if values[chain] < descent.log_density - _TOO_LOW and np.max(np.abs(descent.position)) < ESCAPED:
            points[chain], values[chain], scores[chain] = descent.position, descent.log_density, descent.score
    chains = Chains(points, values, scores)
    local = settings.local
    iterations = min(settings.num_warmup, _LOCAL_ITERATIONS)
    found = adapt_locally(coordinates, chains, metric, iterations, local, rng)
    moves = LocalMoves(found.step_size, found.length, found.cost, found.at_floor, found.edges)
    end, cost = found.chains, coordinates.evaluator.score_cost
    if not settings.may_solve or len(found.draws) < 2 * coordinates.dim:
        blank = host_trial(np.mean(found.draws, 0), found.metric)
        return Mixed(blank, None, np.inf, 0.0, moves, end, score_cost=cost)
    measured = _trial_of_draws(coordinates, found, settings, rng)
    latest = found.draws[-_LATEST:]
    seen = time_at(measured, latest, coordinates.evaluate(latest)[0])
    acceptance = measured.certificate.acceptance
    # The metric of the trial is that of the local moves: it must be the one that they were adapted to.
    return Mixed(
        measured.trial, measured.candidates.log_weights, seen, acceptance, moves, end, score_cost=cost
    )


def _trial_of_draws(
    coordinates: RowCoordinates, found: LocalAdaptation, settings: WarmupSettings, rng: np.random.Generator
) -> Refined:
    """A trial with the metric of the local moves and the centre and skew of their draws, measured."""
    draws, scores = found.draws, found.scores
    blank = Gaussian(np.mean(draws, 0), found.metric)
    if found.metric.basis.shape[1] in (0, coordinates.dim):
        step = gaussian_step(
            blank, draws, scores, np.ones(len(draws)), blocks=settings.blocks(coordinates.dim) or None
        )
        blank = blank._replace(centre=step.centre)
    trial = fit_skew(host_trial(*blank, DEFENSIVE), draws, scores, np.ones(len(draws)))
    return measure(
        coordinates.evaluate, trial, rng, refinement_size(coordinates.dim), coordinates.evaluator.dtype
    )
