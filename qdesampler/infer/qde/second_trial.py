"""The second trial of the warm-up: a triangular map, where the Gaussian of the solve is too poor.

It is fitted to candidates of that Gaussian, and then of its own. They show only the place where they are: a
map may fit the neck of a funnel perfectly, while most of the mass is in the mouth. So it is used only if its
candidates are nearly always taken, its far tails are no lighter than the target's, and chains that move by
it stay where its candidates are.
"""

import numpy as np

from qdesampler.infer.qde.global_moves import beside_local_moves, time_at
from qdesampler.infer.qde.prepared import WarmupSettings
from qdesampler.infer.qde.proportions import Mixed, moves_of_a_draw, proportions
from qdesampler.infer.qde.row_coordinates import RowCoordinates
from qdesampler.infer.qde.starts import FEWEST_STARTS, SEED
from qdesampler.kernels.mcmc.host_mixture import HostMixture, Iterations, Schedule, walk
from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.numerics.host_trial import HostTrial
from qdesampler.solvers.gaussian.refine import draw_and_weigh, look_at_tails, measure
from qdesampler.solvers.quadratic.solve import FIRST_ROUNDS, round_size, solve_quadratic, weighted_sample

__all__ = ["second_trial"]

_MOST_DIMENSIONS = 20  # a fit takes a second in 45 (glmm_poisson), and none was good enough in more than 20
_PROMISING = 0.8  # acceptance of the first fit, below which no model came to a good one
# Acceptance from which it is used. At .81 a chain of baseball_bradley_terry left its candidates for a hundred
# draws, in one run of three (62 effective draws of 4,000); a Gaussian of .68 beside local moves had 2,000.
_LEAST = 0.9
_STAYING = 40  # iterations in which chains have to stay among the candidates
_HELD = 2.0  # seen over predicted autocorrelation time from which they have left


def second_trial(
    coordinates: RowCoordinates,
    gaussian: HostTrial,
    settings: WarmupSettings,
    rng: np.random.Generator,
) -> Mixed | None:
    """The second trial beside local moves in its coordinates; None if it is no better or not to be believed.

    Args:
        coordinates: where the target is evaluated; they get the map if it is used.
        gaussian: the trial of the solve.
        settings: of the warm-up.
        rng: all random numbers.
    """
    dim, precision = coordinates.dim, coordinates.evaluator.dtype
    if dim > _MOST_DIMENSIONS:
        return None
    count = round_size(dim)
    drawn = draw_and_weigh(coordinates.evaluate, gaussian, rng, FIRST_ROUNDS * count, precision)
    second = solve_quadratic(coordinates.evaluate, weighted_sample(drawn), rng, count, precision, _PROMISING)
    if second is None or second.certificate.acceptance < _LEAST:
        return None
    coordinates.law = second.law
    found = look_at_tails(
        coordinates.evaluate, measure(coordinates.evaluate, second.base, rng, count, precision), precision
    )
    if found.certificate.acceptance >= _LEAST and not found.heavy_tails:
        mixed = beside_local_moves(coordinates, found, settings, rng, clear=True)
        if mixed is not None:
            made = _walked(coordinates, mixed, settings)
            late = slice(_STAYING // 2, None)
            seen = time_at(found, made.positions[late].reshape(-1, dim), made.log_densities[late].ravel())
            if seen <= _HELD * max(found.certificate.time, found.observed_time):
                return mixed
    coordinates.law = None
    return None


def _walked(coordinates: RowCoordinates, mixed: Mixed, settings: WarmupSettings) -> Iterations:
    """Iterations of a few chains by the mixture as it would be frozen."""
    probability, candidates = proportions(mixed)
    mixture = HostMixture(
        mixed.trial,
        mixed.local.step_size,
        mixed.local.length,
        probability,
        candidates,
        moves_of_a_draw(mixed, probability, candidates),
        settings.local.most_steps,
        settings.local.dynamics,
        settings.local.integrator,
    )
    chains = Chains(*(part[:FEWEST_STARTS] for part in mixed.starts))
    schedule = Schedule(
        0, _STAYING, lambda _: True, lambda index, move: np.random.default_rng([SEED, index, move])
    )
    return walk(coordinates.evaluate, coordinates.evaluator.rounded, chains, mixture, schedule)
