r"""A reference fitted to particles that have reached the target, and judged by particles held out.

Candidates are the prior reference, one Gaussian (by scores and by moments), mixtures of two sizes, a product
of one-dimensional mixtures, and a triangular map that bends and funnels. The one of largest mean `log q` over
held-out draws is fitted again to all draws. Modes that descents found and particles missed become Gaussians
of their own, and the prior reference keeps a small weight.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from qdesampler.infer.annealed.mode_search import (
    descend_from,
    starts_from_low_weights,
    starts_of_descents,
)
from qdesampler.kernels.references.laws import AxisMixtures
from qdesampler.kernels.references.mixture_fit import (
    fit_by_scores,
    fit_mixture,
    fit_product,
    refit_by_scores,
)
from qdesampler.kernels.references.reference import (
    DENSE_DIMENSIONS,
    Reference,
    add_gaussian,
    log_densities,
    log_density,
    of_law,
    squared_radius,
)
from qdesampler.kernels.smc.particles import Particles
from qdesampler.kernels.smc.persistent_sampling import Annealed, resample
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.numerics.log_sums import log_mean
from qdesampler.numerics.triangular_map import TriangularMap, to_map
from qdesampler.solvers.quadratic.fit import BY_MOMENTS, Sample, fit_steps, plain_map

__all__ = ["KINDS", "MAX_UNCOVERED", "FittedReference", "fit_reference", "with_prior"]

# Kinds of references; a state holds the number.
KINDS = {"prior": 0, "product": -1, "map": -2, "trial": -3}
MAX_UNCOVERED = 0.1  # fraction of held-out particles that a fitted reference may leave uncovered
_MAP_DIMENSIONS = 32  # dimensions up to which a triangular map is tried
# Factor on the width of a coordinate that predicts the widths of others (results/evidence.md: funnel-10).
_WIDER = 1.2
# Nats a draw that a map may be worse than a mixture, because it holds where no particle has been
# (results/evidence.md: funnel-10).
_MAP_BONUS = 0.5
_MAP_DRAWS = 1024  # that it is fitted to, at most
_FEW, _MEDIUM, _MANY = 4, 16, 64  # Gaussians of a mixture: in many dimensions, in any, in few dimensions
_MANY_DIMENSIONS = 16  # dimensions up to which mixtures of `_MANY` Gaussians are tried
_LOW_WEIGHT_PARTICLES = 4096  # particles of any weight among which further starts of descents are chosen
_DRAWS = 8  # particles that a fit uses, over the size of a population
PRIOR_WEIGHT = 0.05  # weight of the prior reference in a fitted one
_SURPRISE = 3.0  # nats of `log p/q` at a held-out draw that the reference did not expect
COVERAGE = 6.0  # standard deviations of a Gaussian's squared distance within which it covers a particle


class FittedReference(NamedTuple):
    """A reference and how it came about.

    Attributes:
        reference: the mixture.
        kind: number of Gaussians chosen, or one of `KINDS`.
        uncovered: fraction of held-out particles that no part covers.
        missed_mass: Laplace mass of modes that descents found and particles missed, over the target's mass.
        surprising: fraction of the draws of one population at which `log p/q` is above `_SURPRISE`, before
            `q` has seen that population. Where populations lose modes they lose different ones.
    """

    reference: Reference
    kind: int
    uncovered: float
    missed_mass: float = 0.0
    surprising: float = 0.0

    @property
    def covers(self) -> bool:
        """Whether a reference was found that covers the particles."""
        return self.kind != 0 and self.uncovered <= MAX_UNCOVERED


Candidate = Callable[[Particles], Reference | None]


def fit_reference(
    rng: np.random.Generator,
    annealed: Annealed,
    prior: Reference,
    evaluate: Evaluator,
    last: FittedReference | None = None,
    *,
    search_modes: bool = True,
    without: tuple[str, ...] = (),
) -> FittedReference:
    """Fit a reference to populations of particles that have reached the target.

    Args:
        rng: all random numbers.
        annealed: the particles.
        prior: the prior reference.
        evaluate: the target.
        last: what the particles started from, which is a candidate as well; None for the prior reference.
        search_modes: search for missed modes by descents.
        without: candidates left out, of "mixture", "refit", "product", "map".
    """
    dim = prior.means.shape[1]
    log_weights = annealed.target_log_weights
    equal = log_weights - log_mean(log_weights)[:, None]  # each population with the same total weight
    populations = len(equal)
    count = _DRAWS * equal.shape[1] // len(annealed.betas)
    owner = np.repeat(np.arange(populations), equal.shape[1])

    def drawn(rows: np.ndarray) -> Particles:
        flat = np.where(rows, equal.reshape(-1), -np.inf)
        return annealed.particles[rng.permutation(resample(rng, flat, count))]

    judging, fitting, every = drawn(owner == 0), drawn(owner != 0), drawn(owner >= 0)
    candidates = _candidates(rng, dim, without)
    if last is not None and last.kind != 0:
        candidates.append((last.kind, lambda _: last.reference))
    found = _judged(candidates, fitting, judging)
    at_least = float(np.mean(log_density(prior, judging.positions)))
    best, kind = prior, 0
    if found is not None and found.value > at_least:
        best, kind = found.reference, found.kind
    covered = float(np.mean(_is_covered(best, judging.positions)))
    log_z = float(log_mean(annealed.log_evidence))
    ratios = judging.log_p - log_density(best, judging.positions) - log_z
    surprising = float(np.mean(ratios > _SURPRISE)) if kind != 0 else 0.0
    if found is not None and kind != 0:
        best = found.fit(every) or best
    search = None
    if search_modes and dim <= DENSE_DIMENSIONS:
        some = annealed.particles[rng.permutation(len(annealed.particles.log_p))[:_LOW_WEIGHT_PARTICLES]]
        low = starts_from_low_weights(with_prior(best, prior), some, log_z)
        starts = np.concatenate([starts_of_descents(annealed, every.positions), low])
        search = descend_from(starts, annealed, log_z, every.positions, evaluate)
        for mode, mass in search.missed:
            best = add_gaussian(best, mode.position, _as_whitener(mode.whitener, prior), mass)
    stays = last is not None and best is last.reference
    if (kind != 0 or (search is not None and search.missed)) and not stays:
        best = with_prior(best, prior)
    missed = 0.0 if search is None else search.missed_mass
    return FittedReference(best, kind, 1 - covered, missed, surprising)


class _Judged(NamedTuple):
    """A candidate, and its mean `log q` over held-out draws."""

    kind: int
    fit: Candidate
    reference: Reference
    value: float


def _judged(
    candidates: list[tuple[int, Candidate]], fitting: Particles, judging: Particles
) -> _Judged | None:
    """The candidate of largest `log q` over the held-out draws; None if none could be fitted.

    A map may be worse than a mixture by `_MAP_BONUS`, because it holds where no particle has been.
    """
    judged = []
    for kind, fit in candidates:
        reference = fit(fitting)
        if reference is not None:
            value = float(np.mean(log_density(reference, judging.positions)))
            if np.isfinite(value):
                judged.append(_Judged(kind, fit, reference, value))
    if not judged:
        return None
    best = max(judged, key=lambda one: one.value)
    maps = [one for one in judged if one.kind == KINDS["map"]]
    if maps and best.kind not in (1, KINDS["map"]):
        bent = max(maps, key=lambda one: one.value)
        best = bent if bent.value > best.value - _MAP_BONUS else best
    return best


def _as_whitener(whitener: np.ndarray | None, prior: Reference) -> np.ndarray:
    assert whitener is not None
    return whitener if prior.whiteners.ndim == 3 else np.diag(whitener)


def with_prior(reference: Reference, prior: Reference) -> Reference:
    """The same mixture with the prior reference of a small weight."""
    return add_gaussian(reference, prior.means[0], prior.whiteners[0], PRIOR_WEIGHT)


def _candidates(rng: np.random.Generator, dim: int, without: tuple[str, ...]) -> list[tuple[int, Candidate]]:
    """The kinds of references that are tried, by their numbers."""
    sizes = (_MEDIUM, _MANY) if dim <= _MANY_DIMENSIONS else (_FEW, _MEDIUM)
    found: list[tuple[int, Candidate]] = [
        (1, lambda draws: fit_by_scores(draws.positions, draws.scores_p)),
        (1, lambda draws: fit_mixture(rng, draws.positions, 1)),
    ]
    if "mixture" not in without:
        found += [(size, partial(_fit_mixture, rng, size, by_scores=False)) for size in sizes]
        if "refit" not in without:
            found += [(size, partial(_fit_mixture, rng, size, by_scores=True)) for size in sizes]
    if "product" not in without:
        found.append((KINDS["product"], lambda draws: of_law(fit_product(rng, draws.positions), dim)))
    if dim <= _MAP_DIMENSIONS and "map" not in without:
        for by_scores in (False, True):
            found.append((KINDS["map"], partial(_fit_map, by_scores=by_scores)))
    return found


def _fit_mixture(
    rng: np.random.Generator, size: int, draws: Particles, *, by_scores: bool
) -> Reference | None:
    """A mixture of Gaussians, by the draws alone or by their scores as well."""
    mixture = fit_mixture(rng, draws.positions, size)
    return refit_by_scores(mixture, draws.positions, draws.scores_p) if by_scores else mixture


def _fit_map(draws: Particles, *, by_scores: bool) -> Reference | None:
    """A triangular map fitted to equally weighted draws with their scores; None if it has no terms.

    Coordinates that predict the widths of others are drawn wider, because particles are too few in their
    tails.
    """
    sound = np.all(np.isfinite(draws.scores_p), 1)
    points, scores = draws.positions[sound][:_MAP_DRAWS], draws.scores_p[sound][:_MAP_DRAWS]
    dim = points.shape[1]
    distinct = len(np.unique(points[:, 0]))
    if dim < 2 or distinct < 2 * dim:
        return None
    sample = Sample(points, scores, np.ones(len(points)), float(distinct))
    try:
        # Steps that lead away are left out.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            laws = fit_steps(sample, plain_map(sample, np.cov(points.T)))
    except np.linalg.LinAlgError:
        return None
    law = laws[-1] if by_scores else laws[min(BY_MOMENTS, len(laws) - 1)]
    if not (len(law.shift_slopes) or len(law.width_slopes)):
        return None
    log_widths = np.array(law.log_widths, float)
    log_widths[np.unique(law.width_terms[:, 1])] += np.log(_WIDER)
    return of_law(law._replace(log_widths=log_widths), dim)


def _is_covered(reference: Reference, points: np.ndarray) -> np.ndarray:
    """Which points are within `squared_radius(dim, COVERAGE)` of some part, shape `(n,)`.

    For a product the distance to the nearest component of every axis counts, for a map that of its normal
    coordinates.
    """
    dim = points.shape[1]
    squares = np.full(len(points), np.inf)
    if len(reference.means):
        peak = log_densities(reference._replace(law=None), reference.means)
        heights = np.diagonal(peak)
        gaussians = log_densities(reference._replace(law=None), points)
        squares = np.min(2 * (heights - gaussians), 1)
    law = reference.law
    if isinstance(law, TriangularMap):
        squares = np.minimum(squares, np.sum(to_map(law, points)[0] ** 2, 1))
    elif isinstance(law, AxisMixtures):
        offsets = (points[:, :, None] - law.means) / law.scales
        squares = np.minimum(squares, np.sum(np.min(offsets**2, 2), 1))
    return squares < squared_radius(dim, COVERAGE)
