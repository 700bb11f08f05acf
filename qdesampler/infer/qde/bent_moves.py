"""Moves in the coordinates of a map that is fitted to where a few chains go.

Where the Gaussian of the solve is poor its candidates do not show tails, and where it is missing they show
nothing. Chains do: first in the coordinates as they are, then by the mixture in those of the first map, which
reaches tails that they had missed, and so on. Their points need not be draws of the target, because the map
is fitted to scores. It pays even if many of its candidates are refused: trajectories need fewer steps where
the target is rounder, and take less time to cross it.
"""

from typing import NamedTuple

import numpy as np

from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.global_moves import CAUTION, TUNING, time_at
from qdesampler.infer.qde.prepared import WarmupSettings
from qdesampler.infer.qde.proportions import LocalMoves, Mixed, proportions
from qdesampler.infer.qde.starts import FEWEST_STARTS, SEED
from qdesampler.kernels.adaptation.local import adapt_locally, tune_step_size
from qdesampler.kernels.adaptation.walk import START_LENGTH
from qdesampler.kernels.mcmc.host_mixture import HostMixture, Iterations, Schedule, walk
from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.kernels.mcmc.trajectory import gaussian_step_size
from qdesampler.numerics.numpy_metric import identity
from qdesampler.numerics.triangular_map import TriangularMap
from qdesampler.solvers.gaussian.refine import measure
from qdesampler.solvers.quadratic.elimination import eliminate
from qdesampler.solvers.quadratic.sample import Sample
from qdesampler.solvers.quadratic.solve import choose_map, plain_base, round_size

__all__ = ["bent_moves", "made_moves"]

# Iterations of each chain that looks for the mass, and their longest trajectories. With 70, or with 16 steps,
# the first map of bare-funnel-20 is worse (acceptance .68 for .77).
_PILOT, _PILOT_STEPS = 60, 32
_MAPS, _WALK = 3, 40  # maps at most; iterations of each chain in the coordinates of one
_LATEST = 400  # points that a map is fitted to
_ENOUGH = 0.5  # acceptance from which one more map costs more than it brings
# Acceptance of each chain over that of the candidates, from which chains have not left them: else they have
# found tails for one more map. It is .45 for the first map of brownian-32, .95 for that of bare-funnel-20.
_CONFIRMED = 0.85
_LEAST = 0.25  # acceptance of a map that is used; it has to be above that of the Gaussian besides
# Acceptance of a map in whose coordinates no chains go, and the longest trajectories of those that do: a
# horseshoe of 25 dimensions would spend 110 thousand evaluations.
_HOPELESS, _MOST_STEPS = 0.02, 128
_HELD = 2.0  # seen over predicted autocorrelation time from which chains have left the candidates
_UNEVEN = 0.4  # acceptance of one chain over the mean, below which it is somewhere else


class _Bent(NamedTuple):
    """A map, the moves in its coordinates, and the rate at which each chain accepts candidates."""

    law: TriangularMap
    mixed: Mixed
    rates: np.ndarray

    @property
    def confirmed(self) -> float:
        """Acceptance of the candidates, or of the chain that accepts fewest."""
        return min(self.mixed.acceptance, float(np.min(self.rates)))

    @property
    def is_believed(self) -> bool:
        """Whether every chain stays among the candidates."""
        mean = float(np.mean(self.rates))
        return (
            2 / max(mean, 1e-6) - 1 <= _HELD * (2 / max(self.mixed.acceptance, 1e-6) - 1)
            and float(np.min(self.rates)) >= _UNEVEN * mean
        )


def bent_moves(
    coordinates: RowCoordinates,
    linear: Mixed | None,
    starts: np.ndarray,
    settings: WarmupSettings,
    rng: np.random.Generator,
) -> Mixed | None:
    """Candidates and trajectories in the coordinates of a map; None if there is none or it does not pay.

    Args:
        coordinates: where the target is evaluated; they get the map if it is used.
        linear: the Gaussian of the solve beside local moves; None if it is not usable.
        starts: points of the moves, shape `(n, dim)`, that chains have to come home from.
        settings: of the warm-up.
        rng: all random numbers.
    """
    chains, draws, scores = _first_points(coordinates, linear, starts, settings, rng)
    best = None
    for _ in range(_MAPS):
        # The first chains come from afar: their far points are no tails yet (15 terms too many of
        # bare-funnel-20).
        sample = Sample(draws, scores, np.ones(len(draws)), len(draws), is_drawn=best is not None)
        law = _fitted(sample, again=best is not None)
        if law is None:
            break
        made = _with_map(coordinates, law, chains, settings, rng)
        if made is None:
            break
        bent, chains, points = made
        accepted = bent.mixed.acceptance
        if best is None or bent.confirmed > best.confirmed:
            best = bent
        if accepted >= _ENOUGH and bent.confirmed >= _CONFIRMED * accepted:
            break
        draws, scores = (
            np.concatenate(pair)[-_LATEST:] for pair in ((draws, points[0]), (scores, points[2]))
        )
    least = max(_LEAST, 0.0 if linear is None else linear.acceptance)
    if best is None or best.mixed.acceptance < least or not best.is_believed:
        return None
    coordinates.law = best.law
    return best.mixed


def _fitted(sample: Sample, *, again: bool) -> TriangularMap | None:
    """The map, at first chosen by points held out; None where they show none or no fit is possible."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # far points have no density
        if not again:
            return choose_map(sample)
        try:
            return eliminate(sample)
        except np.linalg.LinAlgError:
            return None


def _first_points(
    coordinates: RowCoordinates,
    linear: Mixed | None,
    starts: np.ndarray,
    settings: WarmupSettings,
    rng: np.random.Generator,
) -> tuple[Chains, np.ndarray, np.ndarray]:
    """Chains, and their latest points with scores, in the coordinates as they are."""
    dim, local = coordinates.dim, settings.local
    points = coordinates.evaluator.rounded(starts[:FEWEST_STARTS])
    chains = Chains(points, *coordinates.evaluate(points))
    if linear is None:
        local = local._replace(
            length=local.length or START_LENGTH, most_steps=min(local.most_steps, _PILOT_STEPS)
        )
        found = adapt_locally(coordinates, chains, identity(dim, local.directions), _PILOT, local, rng)
        chains, points = found.chains, Chains(found.draws, found.draws[:, 0], found.scores)
    else:
        chains, points = _latest(made_moves(coordinates, linear, chains, settings, _PILOT, rng))
    return (chains, *_sound(points))


def _with_map(
    coordinates: RowCoordinates,
    law: TriangularMap,
    chains: Chains,
    settings: WarmupSettings,
    rng: np.random.Generator,
) -> tuple[_Bent, Chains, Chains] | None:
    """The moves in the coordinates of a map, and where chains go by them; None if no candidate is taken.

    Chains and their points are in the coordinates without a map, before and after.
    """
    dim, precision = coordinates.dim, coordinates.evaluator.dtype
    # Without skew beneath the map: a skewed trial has a light tail, where chains are held. With skew seed 1
    # of gp-counts-13 had 61 effective draws of 8,000, without 2,577.
    count, base = round_size(dim), plain_base(dim)
    coordinates.law = law
    found = measure(coordinates.evaluate, base, rng, count, precision)
    if found.certificate.acceptance < _HOPELESS:
        coordinates.law = None
        return None
    local = settings.local._replace(
        step_size=CAUTION * gaussian_step_size(dim), most_steps=min(settings.local.most_steps, _MOST_STEPS)
    )
    tuned = tune_step_size(coordinates, coordinates.inside(chains), base.metric, TUNING, local, rng)
    cost = coordinates.evaluator.score_cost
    mixed = Mixed(
        base,
        found.candidates.log_weights,
        found.observed_time,
        found.certificate.acceptance,
        LocalMoves(tuned.step_size, tuned.length, tuned.cost, tuned.at_floor, tuned.edges),
        tuned.chains,
        score_cost=cost,
    )
    made = made_moves(coordinates, mixed, tuned.chains, settings, _WALK, rng)
    rates = np.array(
        [
            2 / (1 + time_at(found, made.positions[:, chain], made.log_densities[:, chain]))
            for chain in range(made.positions.shape[1])
        ]
    )
    ends, points = _latest(made)
    seen = max(found.observed_time, 2 / max(float(np.mean(rates)), 1e-6) - 1)
    mixed = mixed._replace(seen=seen, starts=ends)
    ends, points = coordinates.outside(ends), coordinates.outside(points)
    coordinates.law = None
    return _Bent(law, mixed, rates), ends, points


def _latest(made: Iterations) -> tuple[Chains, Chains]:
    """Where the chains are at the end, and all of their points."""
    dim = made.positions.shape[-1]
    every = Chains(made.positions.reshape(-1, dim), made.log_densities.ravel(), made.scores.reshape(-1, dim))
    return Chains(made.positions[-1], made.log_densities[-1], made.scores[-1]), every


def _sound(points: Chains) -> tuple[np.ndarray, np.ndarray]:
    keep = np.all(np.isfinite(points.positions), 1) & np.all(np.isfinite(points.scores), 1)
    return points.positions[keep], points.scores[keep]


def made_moves(
    coordinates: RowCoordinates,
    mixed: Mixed,
    chains: Chains,
    settings: WarmupSettings,
    count: int,
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
        0, count, lambda _: True, lambda index, move: np.random.default_rng([SEED, seed, index, move])
    )
    return walk(coordinates.evaluate, coordinates.evaluator.rounded, chains, mixture, schedule)
