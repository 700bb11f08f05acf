"""The Gaussian solve in the coordinates in use, its refinement, and the result beside local moves."""

from collections.abc import Callable

import numpy as np

from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.global_moves import beside_local_moves, is_missed
from qdesampler.infer.qde.prepared import WarmupSettings
from qdesampler.infer.qde.proportions import Mixed
from qdesampler.infer.qde.starts import ESCAPED
from qdesampler.numerics.host_trial import HostTrial, host_trial
from qdesampler.numerics.markov_field import MarkovField, find_field
from qdesampler.numerics.trial import tail_degrees
from qdesampler.solvers.gaussian.descents import Descent
from qdesampler.solvers.gaussian.refine import DEFENSIVE, GOOD, Refined, refine
from qdesampler.solvers.gaussian.search import Outcome, SolveSettings
from qdesampler.solvers.gaussian.solve import GaussianSolve, Step, solve_gaussian

__all__ = ["beside", "highest", "refined", "solve"]

_DENSE_AT_LAST = 1024  # dimensions up to which a low-rank trial may become dense: a step takes a second there
# Dimensions from which a sparse graph is looked for. With fewer a dense fit needs as few points and is
# steadier: glmm_poisson (45 dimensions) had an acceptance of .1 as a Markov field and .58 without.
_LEAST_FIELD = 60


def solve(
    coordinates: RowCoordinates,
    descents: list[Descent],
    settings: WarmupSettings,
    rng: np.random.Generator,
    report: Callable[[str], None],
) -> GaussianSolve:
    """The Gaussian solve, with a Markov field where the density has a sparse graph."""

    def watch(step: Step) -> None:
        rate, spent = step.certificate.acceptance, coordinates.evaluator.num_evals
        report(f"solve: step {step.number}, acceptance {rate:.2f}, {spent} evaluations")

    dim, blocks = coordinates.dim, settings.blocks(coordinates.dim)
    rank = min(settings.local.rank, dim) if blocks is None else dim if blocks else 0
    field = _field(coordinates, descents) if blocks is None else None
    rank = rank if field is None else dim
    return solve_gaussian(
        coordinates.evaluate,
        descents,
        SolveSettings(
            rank=rank,
            degrees=float(tail_degrees(dim)),
            precision=coordinates.evaluator.dtype,
            blocks=blocks or None,
            widths=coordinates.widths,
            dense_up_to=_DENSE_AT_LAST,
            field=field,
        ),
        rng,
        report=watch,
        recentre=coordinates.recentre if coordinates.can_recentre else None,
    )


def _field(coordinates: RowCoordinates, descents: list[Descent]) -> MarkovField | None:
    """The Markov field about the highest end of the descents, where many coordinates have few neighbours."""
    best = highest(descents)
    place = best.position
    if not _LEAST_FIELD <= coordinates.dim <= _DENSE_AT_LAST or not np.max(np.abs(place)) < ESCAPED:
        return None
    precision = float(np.finfo(coordinates.evaluator.dtype).eps)
    lengths = coordinates.evaluator.rounded(place + np.cbrt(precision) * (1 + np.abs(place))) - place
    return find_field(coordinates.evaluate, place, best.score, lengths)


def refined(
    coordinates: RowCoordinates,
    solved: GaussianSolve,
    settings: WarmupSettings,
    rng: np.random.Generator,
    report: Callable[[str], None],
) -> tuple[Refined | None, HostTrial]:
    """The refined trial with its measurement, or None if it is not usable; and the trial alone."""
    if solved.outcome not in (Outcome.SOLVED, Outcome.MIDDLING):
        return None, host_trial(*solved.trial, DEFENSIVE)
    report(f"refinement of the trial, {coordinates.evaluator.num_evals} evaluations")
    blocks, precision = settings.blocks(coordinates.dim) or None, coordinates.evaluator.dtype
    found = refine(coordinates.evaluate, solved, blocks, rng, precision)
    return None if is_missed(found) else found, found.trial


def beside(
    coordinates: RowCoordinates,
    solved: GaussianSolve,
    found: Refined | None,
    settings: WarmupSettings,
    rng: np.random.Generator,
) -> Mixed | None:
    """The refined trial beside local moves; None if it is not usable."""
    if found is None:
        return None
    clear = found.certificate.acceptance >= GOOD and solved.outcome is Outcome.SOLVED
    return beside_local_moves(coordinates, found, settings, rng, clear=clear)


def highest(descents: list[Descent]) -> Descent:
    """The descent that ended highest."""
    return max(descents, key=lambda d: d.log_density if np.isfinite(d.log_density) else -np.inf)
