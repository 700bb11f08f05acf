r"""The warm-up of QDE on the host: an imaginary-time solve, and what follows from its outcome.

1. Descents from a few starts, then the Gaussian solve (`qdesampler.solvers.gaussian.solve`).
2. A usable trial is refined and measured (`refine.py`). Where its acceptance is below .5, products of scales
   and standard sites are looked for (`qdesampler.numerics.scaling_symmetry`), then coordinates that are
   Gaussian given a few others (`qdesampler.numerics.conditional_gaussian`), and the solve is repeated in the
   coordinates of what is found first. Where a trial is not clear, local moves get a step size.
3. Else, below .7, a second trial is fitted that bends and funnels (`second_trial.py`): a triangular map, in
   whose coordinates all moves are made from then on. Where there is no usable trial, or the chains that walk
   through its candidates contradict it, local moves are adapted (`qdesampler.kernels.adaptation.local`).
4. The measured times of both kinds of moves set their proportions.

It depends on the target, the settings and the starts alone: all random numbers come from a fixed seed. So
chains that run one after another, and runs on equal data, may share its result.
"""

from collections.abc import Callable
from copy import deepcopy

import numpy as np

from qdesampler.infer.qde.coordinates.maps import into_map
from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.copies import equal_modes, without_turns
from qdesampler.infer.qde.local_moves import adapted_moves
from qdesampler.infer.qde.prepared import Prepared, WarmupSettings
from qdesampler.infer.qde.proportions import Mixed, burn_in, moves_of_a_draw, proportions
from qdesampler.infer.qde.second_trial import second_trial
from qdesampler.infer.qde.starts import ESCAPED, SEED, run_descents
from qdesampler.infer.qde.structures import in_other_coordinates
from qdesampler.infer.qde.trials import beside, highest, refined, solve
from qdesampler.kernels.adaptation.walk import START_LENGTH
from qdesampler.kernels.mcmc.trajectory import gaussian_step_size
from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import HostMetric, to_whitened_gradient_rows, whiten_rows
from qdesampler.solvers.gaussian.descents import Descent
from qdesampler.solvers.gaussian.refine import CLEAR, GOOD
from qdesampler.solvers.gaussian.search import Outcome
from qdesampler.solvers.gaussian.solve import GaussianSolve

__all__ = ["OUTCOMES", "prepare", "unadapted"]

# Outcomes in words; a state holds their indices.
OUTCOMES = ("not tried", *(str(outcome) for outcome in Outcome))

# Of trajectories with shorter steps, without a trial or beside a map that is not good: else a chain of
# ucbadmit was held for 76 draws, and one of gp-counts-13 in the narrow end of its ridge (ESS 57 for 6,000).
_SHORT_FRACTION = 0.15
_NARROW = 0.25  # acceptance of a trial below which there are such; without, ucbadmit had 282 effective draws
_FAR, _FAR_OFFSET = 4, 30  # squared whitened distance `4 dim + 30` beyond which an end is outside the trial
_STEEP = 10  # squared whitened slope, more than the `dim` of a draw, of an end that is at no such mode
_MATTERS = 10  # nats: an end lower than the highest by more than `dim + 10` does not count
_ALONE = 0.5  # acceptance below which a trial is given up if descents ended elsewhere: seasonal-global-trend
_COMPARED = 3  # points at which the density is compared with itself a turn away
_COLLAPSED = 0.05  # of the step size that a Gaussian allows, below which local moves hardly move


def prepare(
    coordinates: RowCoordinates,
    starts: np.ndarray,
    metric: HostMetric,
    settings: WarmupSettings,
    report: Callable[[str], None] | None = None,
) -> Prepared:
    """The warm-up.

    Args:
        coordinates: where the target is evaluated; its centredness is changed.
        starts: raveled sites with a finite density, shape `(n, dim)`.
        metric: the first metric of local moves, with room for their blocks.
        settings: see `WarmupSettings`.
        report: called with a few words on what is done and how far it is.
    """
    report = report or _silent
    rng = np.random.default_rng(SEED)
    outcome, outliers, mixed, descents = 0, 0, None, []
    if settings.may_solve:
        report("descents")
        descents = run_descents(coordinates, starts)
        descents, solve, mixed = _solved(coordinates, descents, starts, settings, rng, report)
        outcome = OUTCOMES.index(str(solve.outcome))
        if mixed is None:
            gone = solve.outcome is Outcome.UNBOUNDED
            outcome = OUTCOMES.index(str(Outcome.UNBOUNDED if gone else Outcome.HOPELESS))
        else:
            bends = coordinates.law is not None and not coordinates.has_structure
            outcome = OUTCOMES.index(str(Outcome.MIDDLING if bends else solve.outcome))
            if not coordinates.can_recentre:  # else the descents ended in other coordinates
                outliers = _count_outliers(coordinates, descents, mixed)
                if outliers and mixed.acceptance < _ALONE and coordinates.law is None:
                    # A poor trial of one end does not cover the others; local moves may connect them.
                    mixed, outcome = None, OUTCOMES.index(str(Outcome.HOPELESS))
    if mixed is None:
        copies = 0
        if descents:
            starts, descents, copies = _at_one_copy(coordinates, starts, descents)
        report(f"adaptation of local moves, {coordinates.evaluator.num_evals} evaluations")
        mixed = adapted_moves(coordinates, starts, descents, metric, settings, rng)
        outliers = max(outliers, copies)
        if outcome and np.max(np.abs(mixed.starts.positions), initial=0.0) > ESCAPED:
            outcome = OUTCOMES.index(str(Outcome.UNBOUNDED))
    probability, candidates = proportions(mixed)
    worst = _NARROW if coordinates.law is None else GOOD
    sites, values, scores = mixed.starts
    if coordinates.can_recentre or coordinates.law is not None:
        sites = coordinates.to_sites(coordinates.evaluator.rounded(sites))
        values, scores = coordinates.evaluate_sites(sites)
    sound = np.isfinite(values) & np.all(np.isfinite(scores), 1)
    if not np.any(sound):
        sites, sound = starts, np.ones(len(starts), bool)
        values, scores = coordinates.evaluate_sites(sites)
    return Prepared(
        trial=mixed.trial,
        step_size=mixed.local.step_size,
        length=mixed.local.length,
        probability=probability,
        candidates=candidates,
        moves=moves_of_a_draw(mixed, probability, candidates),
        short_fraction=_SHORT_FRACTION if mixed.acceptance < worst else 0.0,
        centredness=coordinates.centredness,
        outcome=outcome,
        acceptance=mixed.acceptance,
        outliers=outliers,
        at_floor=mixed.local.at_floor or _is_collapsed(mixed.local.step_size, coordinates.dim, settings),
        edges=mixed.local.edges,
        burn_in=burn_in(mixed, probability, candidates),
        starts=sites[sound],
        log_densities=values[sound],
        scores=scores[sound],
        num_evals=coordinates.evaluator.num_evals,
        law=coordinates.law,
    )


def _at_one_copy(
    coordinates: RowCoordinates, starts: np.ndarray, descents: list[Descent]
) -> tuple[np.ndarray, list[Descent], int]:
    """Starts and descents of local moves, and the number of other copies of the mode that descents ended at.

    Where there are copies all chains start at one, because no metric suits several.
    """
    coordinates.reset()  # to the coordinates of the descents
    best, copies = equal_modes(coordinates.evaluate, descents)
    if not copies or not np.max(np.abs(best.position)) < ESCAPED:
        return starts, descents, 0
    number = len(starts)
    return np.repeat(coordinates.to_sites(best.position[None]), number, 0), [best] * number, copies


def unadapted(metric: HostMetric, settings: WarmupSettings) -> Prepared:
    """What is given, where nothing is to be adapted; nothing is evaluated."""
    dim, local = metric.scale.size, settings.local
    return Prepared(
        trial=host_trial(np.zeros(dim), metric),
        step_size=local.step_size,
        length=local.length or START_LENGTH,
        probability=0.0,
        candidates=1,
        moves=1,
        short_fraction=0.0,
        centredness=np.ones(dim),
        outcome=0,
        acceptance=0.0,
        outliers=0,
        at_floor=False,
        edges=0.0,
        burn_in=settings.num_warmup,
        starts=np.zeros((0, dim)),
        log_densities=np.zeros(0),
        scores=np.zeros((0, dim)),
        num_evals=0,
    )


def _is_collapsed(step_size: float, dim: int, settings: WarmupSettings) -> bool:
    """Whether the adapted step size is far below that of a Gaussian with this metric.

    Smooth densities that the metric does not fit need a quarter of it, edges and jumps far less.
    """
    return settings.local.adapt_step_size and step_size < _COLLAPSED * gaussian_step_size(dim)


def _silent(words: str) -> None:
    """Say nothing."""


def _solved(
    coordinates: RowCoordinates,
    descents: list[Descent],
    starts: np.ndarray,
    settings: WarmupSettings,
    rng: np.random.Generator,
    report: Callable[[str], None],
) -> tuple[list[Descent], GaussianSolve, Mixed | None]:
    """Descents and solve that count, and the best trial beside local moves; None if none is usable."""
    place = coordinates.to_sites(highest(descents).position[None])[0]
    solved = solve(coordinates, descents, settings, rng, report)
    found, trial = refined(coordinates, solved, settings, rng, report)
    is_last = solved.outcome is Outcome.UNBOUNDED or settings.local.force_blocks
    if not is_last and (found is None or found.certificate.acceptance < CLEAR):
        better = in_other_coordinates(coordinates, place, found, starts, settings, report)
        if better is not None:
            return better
    mixed = beside(coordinates, solved, found, settings, rng)
    if is_last or (mixed is not None and mixed.acceptance >= GOOD):
        return descents, solved, mixed
    report(f"second trial, {coordinates.evaluator.num_evals} evaluations")
    # A copy of the generator: an attempt that comes to nothing changes nothing but the count.
    second = second_trial(coordinates, trial, mixed, settings, deepcopy(rng))
    return descents, solved, second or mixed


def _count_outliers(coordinates: RowCoordinates, descents: list[Descent], mixed: Mixed) -> int:
    """Descents that ended outside the trial's bulk, high enough for their mode to matter.

    An end with a steep slope, in units of the trial's widths, is that of a narrower mode or of none. Where it
    is lower than draws of the trial besides, it has no mass.
    """
    trial, dim = mixed.trial, coordinates.dim
    heights = np.array([descent.log_density for descent in descents])
    ends = np.stack([descent.position for descent in descents])
    slopes = np.stack([descent.score for descent in descents])
    if coordinates.law is not None and coordinates.conditional is None:
        ends, change, slopes = into_map(coordinates.law, ends, slopes)
        heights = heights + change
    known = [part[:_COMPARED] for part in mixed.starts[:2]]
    ends = without_turns(coordinates.evaluate, ends, trial, *known)
    squares = np.sum(whiten_rows(trial.metric, ends - trial.centre) ** 2, 1)
    far = squares > _FAR * dim + _FAR_OFFSET
    steep = np.sum(to_whitened_gradient_rows(trial.metric, slopes) ** 2, 1) > dim + _STEEP
    far &= ~(steep & (heights < np.max(mixed.starts.log_densities, initial=-np.inf)))
    return int(
        np.sum(far & (heights > np.max(heights[np.isfinite(heights)], initial=-np.inf) - dim - _MATTERS))
    )
