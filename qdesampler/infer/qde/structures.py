r"""Coordinates that suit the structure of a density which no Gaussian suits, and the solve in them.

They are looked for in this order; the first in which there is a better trial are used.

1. Sites that the likelihood sees as products with scales, and is nearly Gaussian in
   (`qdesampler.numerics.laplace_map`).
2. The same, each as much centred as its data ask for (`qdesampler.numerics.scaling_symmetry`).
3. Coordinates that are Gaussian given a few others (`qdesampler.numerics.conditional_gaussian`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qdesampler.infer.qde.coordinates.maps import CoordinateMap
from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.prepared import WarmupSettings
from qdesampler.infer.qde.proportions import Mixed
from qdesampler.infer.qde.starts import SEED, run_descents
from qdesampler.infer.qde.trials import beside, refined, solve
from qdesampler.numerics.conditional_gaussian import find_conditional_gaussian, holds_at, scales_of
from qdesampler.numerics.laplace_map import LaplaceMap, find_laplace_map
from qdesampler.numerics.scaling_symmetry import ScalingSymmetry, find_scaling_symmetry
from qdesampler.solvers.gaussian.descents import Descent
from qdesampler.solvers.gaussian.refine import CLEAR, GOOD, Refined
from qdesampler.solvers.gaussian.solve import GaussianSolve

__all__ = ["POOR", "in_other_coordinates"]

# Acceptance below which centred coordinates and a conditional Gaussian (brownian-32) are looked for, and in
# whose coordinates local moves are adapted from the start. Laplace's map is looked for below `CLEAR`: eight
# schools, not centred, take 2,330 evaluations for 3,600 to 5,100 at an acceptance of .74.
POOR = 0.5
# Fraction of the coordinates that have to be scaled for Laplace's map. In radon_mn_centered a scale seemed to
# divide two of 90, and an attempt took 3,500 evaluations.
_LEAST_SCALED = 0.25


class _Looked(NamedTuple):
    """What is known of the density in the coordinates of the model as written.

    Attributes:
        places: a point where it is high, and a start, shape `(2, dim)`.
        widths: standard deviations of a trial's candidates, 0 without one.
        symmetry: with the centredness that suits the first place.
    """

    places: np.ndarray
    widths: np.ndarray
    symmetry: tuple[ScalingSymmetry, np.ndarray] | None


def in_other_coordinates(
    coordinates: RowCoordinates,
    place: np.ndarray,
    before: Refined | None,
    starts: np.ndarray,
    settings: WarmupSettings,
    report: Callable[[str], None],
) -> tuple[list[Descent], GaussianSolve, Mixed | None] | None:
    """Descents and solve again in coordinates that suit the structure of the density; None if none do.

    Args:
        coordinates: in the coordinates of the solve; they are changed if others are better.
        place: raveled sites at the highest end of a descent.
        before: the trial so far; None if it is not usable.
        starts: raveled sites.
        settings: of the warm-up.
        report: called with a few words.
    """
    acceptance = 0.0 if before is None else before.certificate.acceptance
    if acceptance >= CLEAR:
        return None
    centredness, widths = coordinates.centredness, np.zeros(coordinates.dim)
    if before is not None:
        place = coordinates.to_sites(before.trial.centre[None])[0]
        widths = np.std(coordinates.to_sites(before.candidates.points), 0)
    report(f"scaling symmetry, {coordinates.evaluator.num_evals} evaluations")
    places = np.stack([place, starts[0]])
    rng = np.random.default_rng([SEED, 1])
    widths_of_priors = coordinates.standard_widths()
    symmetry = find_scaling_symmetry(coordinates.evaluate_sites, widths_of_priors, places, rng)
    looked = _Looked(places, widths, symmetry)
    structures = (
        (_use_laplace, CLEAR, np.random.default_rng([SEED, 3])),
        (_use_scaling, POOR, rng),
        (_use_conditional, POOR, np.random.default_rng([SEED, 2])),
    )
    for use, below, rng in structures:
        if acceptance >= below or not use(coordinates, looked, rng):
            continue
        found = _solved_inside(coordinates, place, before, starts, settings, rng, report)
        if found is not None:
            return found
        coordinates.leave_structure()
        coordinates.centredness = centredness
    return None


def _solved_inside(
    coordinates: RowCoordinates,
    place: np.ndarray,
    before: Refined | None,
    starts: np.ndarray,
    settings: WarmupSettings,
    rng: np.random.Generator,
    report: Callable[[str], None],
) -> tuple[list[Descent], GaussianSolve, Mixed | None] | None:
    """Descents and solve in the coordinates in use; None if these are no better than those before."""
    law = coordinates.conditional
    if law is not None:  # all coordinates but the scales are nearly independent
        settings = settings._replace(local=settings.local._replace(blocks=(_dependent(law),)))
    if before is None or law is not None:
        descents = run_descents(coordinates, starts)
    else:
        descents = [_at(coordinates, place)]
    solved = solve(coordinates, descents, settings, rng, report)
    found, _ = refined(coordinates, solved, settings, rng, report)
    acceptance = 0.0 if found is None else found.certificate.acceptance
    is_better = before is None or acceptance > before.certificate.acceptance
    if isinstance(law, LaplaceMap):
        # It has to be in a better class than a trial that is usable itself, because its moves are dearer.
        former = 0.0 if before is None else before.certificate.acceptance
        is_sound = acceptance >= min(bound for bound in (POOR, GOOD, CLEAR) if bound > former)
    else:
        is_sound = law is None or (found is not None and holds_at(law, *found.candidates[:2]))
    mixed = beside(coordinates, solved, found, settings, rng) if is_sound and is_better else None
    if before is None and mixed is not None and mixed.acceptance < POOR:
        mixed = None  # 20 trajectories beside a poor trial found too long a step: products of two scales
    return (descents, solved, mixed) if mixed is not None or (before is None and is_sound) else None


def _dependent(law: CoordinateMap) -> tuple[int, ...]:
    """The coordinates of a map that may depend on one another."""
    return tuple(map(int, law.rest)) if isinstance(law, LaplaceMap) else scales_of(law)


def _at(coordinates: RowCoordinates, place: np.ndarray) -> Descent:
    """A descent that is where it was to arrive: raveled sites in the bulk of a trial."""
    point = coordinates.evaluator.rounded(coordinates.from_sites(place[None]))
    values, scores = coordinates.evaluate(point)
    return Descent(point[0], values[0], scores[0], float(np.finfo(coordinates.evaluator.dtype).eps))


def _use_laplace(coordinates: RowCoordinates, looked: _Looked, rng: np.random.Generator) -> bool:
    """Whether there is a scaling symmetry of few sites; Laplace's approximation is used then."""
    if looked.symmetry is None or len(looked.symmetry[0].scaled) < _LEAST_SCALED * coordinates.dim:
        return False
    widths = coordinates.standard_widths()
    law = find_laplace_map(coordinates.evaluate_sites, widths, looked.symmetry[0], looked.places[0])
    if law is not None:
        coordinates.use_conditional(law)
    return law is not None


def _use_scaling(coordinates: RowCoordinates, looked: _Looked, rng: np.random.Generator) -> bool:
    """Whether there is a scaling symmetry; its coordinates are used then."""
    if looked.symmetry is not None:
        coordinates.use_symmetry(*looked.symmetry, looked.places[0])
    return looked.symmetry is not None


def _use_conditional(coordinates: RowCoordinates, looked: _Looked, rng: np.random.Generator) -> bool:
    """Whether most coordinates are Gaussian given a few; their map is used then."""
    # Without a trial a start: the highest point may be in the neck of a funnel, where nothing is finite.
    place = looked.places[0] if np.any(looked.widths) else looked.places[1]
    law = find_conditional_gaussian(coordinates.evaluate_sites, place, looked.widths, rng)
    if law is not None:
        coordinates.use_conditional(law)
    return law is not None
