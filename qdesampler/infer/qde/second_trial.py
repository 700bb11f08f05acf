"""The second trial of the warm-up: a triangular map, where the Gaussian of the solve is too poor.

It is fitted to candidates of that Gaussian, and where these have missed the mass, to points of a few chains
that look for it. Both show only the place where they are: a map may fit the neck of a funnel perfectly, while
most of the mass is in the mouth. So it is used only if its candidates are nearly as often taken as those of a
perfect map, and chains that move by it stay where its candidates are. Beside a Gaussian that is usable itself
nearly all candidates have to be taken, and far tails be no lighter than the target's.
"""

import numpy as np

from qdesampler.infer.qde.global_moves import LEAST_ACCEPTANCE, beside_local_moves, time_at
from qdesampler.infer.qde.prepared import WarmupSettings
from qdesampler.infer.qde.proportions import Mixed, moves_of_a_draw, proportions
from qdesampler.infer.qde.row_coordinates import RowCoordinates
from qdesampler.infer.qde.starts import FEWEST_STARTS, SEED
from qdesampler.kernels.adaptation.local import adapt_locally
from qdesampler.kernels.adaptation.walk import START_LENGTH
from qdesampler.kernels.mcmc.host_mixture import HostMixture, Iterations, Schedule, walk
from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.numerics.host_trial import HostTrial, draw_rows, host_trial, log_trial_rows
from qdesampler.numerics.numpy_metric import identity
from qdesampler.solvers.gaussian.certificate import Candidates, certify
from qdesampler.solvers.gaussian.refine import draw_and_weigh, look_at_tails, measure
from qdesampler.solvers.quadratic.sample import Sample
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
_PILOTS, _BETTER = 3, 1.1  # at most; and by which factor of the acceptance each has to bring more
_SHOWN = 0.4  # acceptance of the map of a pilot below which another one costs more than it shows
# Iterations of each chain that looks for the mass where the Gaussian has missed it, and their longest
# trajectories. With 70, or with 16 steps, the map of bare-funnel-20 is at the gate of .68, in place of .77.
_PILOT, _PILOT_STEPS = 60, 32


def second_trial(
    coordinates: RowCoordinates,
    gaussian: HostTrial,
    accepted: float,
    starts: np.ndarray,
    settings: WarmupSettings,
    rng: np.random.Generator,
) -> Mixed | None:
    """The second trial beside local moves in its coordinates; None if it is no better or not to be believed.

    Args:
        coordinates: where the target is evaluated; they get the map if it is used.
        gaussian: the trial of the solve.
        accepted: its acceptance; 0 where it is not usable.
        starts: raveled sites of finite density, shape `(n, dim)`.
        settings: of the warm-up.
        rng: all random numbers.
    """
    dim, precision = coordinates.dim, coordinates.evaluator.dtype
    if dim > _MOST_DIMENSIONS:
        return None
    count = round_size(dim)
    drawn = draw_and_weigh(coordinates.evaluate, gaussian, rng, FIRST_ROUNDS * count, precision)
    second = _fitted(coordinates, weighted_sample(drawn), rng)
    is_poor, perfect = accepted < _POOR, _perfect(dim)
    least = _LEAST_BESIDE_POOR * perfect if is_poor else _LEAST
    is_missed = accepted == 0 and (second is None or second.certificate.acceptance < LEAST_ACCEPTANCE)
    if is_missed:  # pilots beside a map of .19 brought one of .23, for a fifth of brownian-32's warm-up
        second = _after_pilots(coordinates, starts, least, settings, rng)
    if second is None or second.certificate.acceptance < least:
        return None
    coordinates.law = second.law
    found = look_at_tails(
        coordinates.evaluate, measure(coordinates.evaluate, second.base, rng, count, precision), precision
    )
    acceptance = found.certificate.acceptance
    if acceptance >= least and (is_poor or not found.heavy_tails):
        mixed = beside_local_moves(coordinates, found, settings, rng, clear=acceptance >= _CLEAR * perfect)
        if mixed is not None:
            made = _walked(coordinates, mixed, settings)
            late = slice(_STAYING // 2, None)
            seen = time_at(found, made.positions[late].reshape(-1, dim), made.log_densities[late].ravel())
            if seen <= _HELD * max(found.certificate.time, found.observed_time):
                return mixed
    coordinates.law = None
    return None


def _fitted(coordinates: RowCoordinates, sample: Sample, rng: np.random.Generator) -> Quadratic | None:
    """A second trial fitted to these points; None if they show neither bends nor funnels."""
    count, precision = round_size(coordinates.dim), coordinates.evaluator.dtype
    return solve_quadratic(coordinates.evaluate, sample, rng, count, precision, _PROMISING)


def _after_pilots(
    coordinates: RowCoordinates,
    starts: np.ndarray,
    enough: float,
    settings: WarmupSettings,
    rng: np.random.Generator,
) -> Quadratic | None:
    """A second trial fitted to points of a few chains that go from the starts to where the mass is.

    A descent may have ended in the neck of a funnel. The points need not be draws of the target, but those of
    trajectories in the coordinates of a first map are nearer to it, so that a second one is better.
    """
    points = coordinates.evaluator.rounded(coordinates.from_sites(starts[:FEWEST_STARTS]))
    chains = Chains(points, *coordinates.evaluate(points))
    local = settings.local._replace(
        length=settings.local.length or START_LENGTH,
        most_steps=min(settings.local.most_steps, _PILOT_STEPS),
    )
    best = None
    for _ in range(_PILOTS):
        coordinates.law = None if best is None else best.law
        blank = identity(coordinates.dim, local.directions)
        found = adapt_locally(coordinates, coordinates.inside(chains), blank, _PILOT, local, rng)
        chains = coordinates.outside(found.chains)
        points, _, scores = coordinates.outside(Chains(found.draws, found.draws[:, 0], found.scores))
        coordinates.law = None
        sound = np.all(np.isfinite(points), 1) & np.all(np.isfinite(scores), 1)
        number = int(np.sum(sound))
        second = _fitted(coordinates, Sample(points[sound], scores[sound], np.ones(number), number), rng)
        if second is None:
            break
        accepted = second.certificate.acceptance
        if best is not None and accepted < _BETTER * best.certificate.acceptance:
            break
        best = second
        if not _SHOWN < accepted < enough:
            break
    return best


def _perfect(dim: int) -> float:
    """Acceptance that candidates would have if the map were exact: far tails cost some in many dimensions."""
    base = host_trial(np.zeros(dim), identity(dim, 0), DEFENSIVE)
    points = draw_rows(base, np.random.default_rng(SEED), _JUDGED)
    weights = -0.5 * np.sum(points**2, 1) - log_trial_rows(base, points)
    return certify(Candidates(points, -points, weights, np.zeros(_JUDGED))).acceptance


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
