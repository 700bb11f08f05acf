"""The second trial of the warm-up: a triangular map, where the Gaussian of the solve is too poor.

It is fitted to candidates of that Gaussian. They show only the place where they are: a map may fit the neck
of a funnel perfectly, while most of the mass is in the mouth. So it is used at once only if its candidates
are nearly as often taken as those of a perfect map, and chains that move by it stay where they are.
Beside a Gaussian that is usable itself nearly all candidates have to be taken, and far tails be no lighter
than the target's.
"""

import numpy as np

from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.global_moves import beside_local_moves, time_at
from qdesampler.infer.qde.prepared import WarmupSettings
from qdesampler.infer.qde.proportions import Mixed, proportions
from qdesampler.infer.qde.starts import FEWEST_STARTS, SEED
from qdesampler.kernels.mcmc.host_mixture import HostMixture, Iterations, Schedule, walk
from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.numerics.host_trial import HostTrial, draw_rows, host_trial, log_trial_rows
from qdesampler.numerics.numpy_metric import identity
from qdesampler.solvers.gaussian.certificate import Candidates, certify
from qdesampler.solvers.gaussian.refine import draw_and_weigh, look_at_tails, measure
from qdesampler.solvers.quadratic.solve import (
    DEFENSIVE,
    FIRST_ROUNDS,
    Quadratic,
    round_size,
    solve_quadratic,
    weighted_sample,
)

__all__ = ["second_trial"]

_MOST_DIMENSIONS = 40  # of a fit, which takes 3 s in 32 (brownian-32)
_PROMISING = 0.8  # acceptance of the first fit, below which no model came to a good one
# Acceptance from which it is used beside a usable Gaussian. At .81 a chain of baseball_bradley_terry left its
# candidates for a hundred draws, in one run of three (62 effective draws of 4,000); a Gaussian of .68 beside
# local moves had 2,000.
_LEAST = 0.9
# The same beside a Gaussian of less than `_POOR`, over the acceptance of a perfect map. With .73 a run of
# brownian-32 of two had an error of 4.8 standard errors and a hundred divergences.
_POOR, _LEAST_BESIDE_POOR = 0.5, 0.85
_CLEAR = 0.93  # the same, from which local moves hardly matter
_STAYING = 40  # iterations in which chains have to stay among the candidates
_HELD = 2.0  # seen over predicted autocorrelation time from which they have left
_JUDGED = 512  # points that show what a perfect map would have


def second_trial(
    coordinates: RowCoordinates,
    gaussian: HostTrial,
    linear: Mixed | None,
    settings: WarmupSettings,
    rng: np.random.Generator,
) -> Mixed | None:
    """The second trial beside local moves in its coordinates; None if it is no better or not to be believed.

    Args:
        coordinates: where the target is evaluated; they get the map if it is used.
        gaussian: the trial of the solve.
        linear: the same beside local moves; None where it is not usable.
        settings: of the warm-up.
        rng: all random numbers.
    """
    dim, precision = coordinates.dim, coordinates.evaluator.dtype
    if dim > _MOST_DIMENSIONS:
        return None
    count, is_poor = round_size(dim), linear is None or linear.acceptance < _POOR
    drawn = draw_and_weigh(coordinates.evaluate, gaussian, rng, FIRST_ROUNDS * count, precision)
    second = solve_quadratic(coordinates.evaluate, weighted_sample(drawn), rng, count, precision, _PROMISING)
    return None if second is None else _tested(coordinates, second, settings, rng, is_poor=is_poor)


def _tested(
    coordinates: RowCoordinates,
    second: Quadratic,
    settings: WarmupSettings,
    rng: np.random.Generator,
    *,
    is_poor: bool,
) -> Mixed | None:
    """The second trial beside local moves, where nearly all of its candidates are taken."""
    dim, precision = coordinates.dim, coordinates.evaluator.dtype
    count, perfect = round_size(dim), _perfect(dim)
    least = _LEAST_BESIDE_POOR * perfect if is_poor else _LEAST
    if second.certificate.acceptance < least:
        return None
    coordinates.law = second.law
    found = look_at_tails(
        coordinates.evaluate, measure(coordinates.evaluate, second.base, rng, count, precision), precision
    )
    acceptance = found.certificate.acceptance
    if acceptance >= least and (is_poor or not found.heavy_tails):
        mixed = beside_local_moves(coordinates, found, settings, rng, clear=acceptance >= _CLEAR * perfect)
        if mixed is not None:
            chains = Chains(*(part[:FEWEST_STARTS] for part in mixed.starts))
            made = _made_moves(coordinates, mixed, chains, settings, rng)
            late = slice(_STAYING // 2, None)
            seen = time_at(found, made.positions[late].reshape(-1, dim), made.log_densities[late].ravel())
            if seen <= _HELD * max(found.certificate.time, found.observed_time):
                return mixed
    coordinates.law = None
    return None


def _made_moves(
    coordinates: RowCoordinates,
    mixed: Mixed,
    chains: Chains,
    settings: WarmupSettings,
    rng: np.random.Generator,
) -> Iterations:
    """Iterations of a few chains by the mixture as it would be frozen, one move each."""
    probability, candidates = proportions(mixed)
    mixture = HostMixture(
        mixed.trial,
        mixed.local.step_size,
        mixed.local.length,
        probability,
        candidates,
        1,
        settings.local.most_steps,
        settings.local.dynamics,
        settings.local.integrator,
    )
    seed = int(rng.integers(2**31))
    schedule = Schedule(
        0, _STAYING, lambda _: True, lambda index, move: np.random.default_rng([SEED, seed, index, move])
    )
    return walk(coordinates.evaluate, coordinates.evaluator.rounded, chains, mixture, schedule)


def _perfect(dim: int) -> float:
    """Acceptance that candidates would have if the map were exact: far tails cost some in many dimensions."""
    base = host_trial(np.zeros(dim), identity(dim, 0), DEFENSIVE)
    points = draw_rows(base, np.random.default_rng(SEED), _JUDGED)
    weights = -0.5 * np.sum(points**2, 1) - log_trial_rows(base, points)
    return certify(Candidates(points, -points, weights, np.zeros(_JUDGED))).acceptance
