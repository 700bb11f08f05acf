r"""The warm-up of QDE on the host: an imaginary-time solve, and what follows from its outcome.

1. Descents from a few starts, then the Gaussian solve (`qdesampler.solvers.gaussian.solve`).
2. A usable trial is refined and measured (`refine.py`). Where it is not clear, local moves get a step size.
3. Where there is no usable trial, or the chains that walk through its candidates contradict it, local moves
   are adapted (`qdesampler.kernels.adaptation.local`), and a trial is fitted to their draws.
4. The measured times of both kinds of moves set their proportions.

It depends on the target, the settings and the starts alone: all random numbers come from a fixed seed. So
chains that run one after another, and runs on equal data, may share its result.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qdesampler.infer.qde.copies import without_turns
from qdesampler.infer.qde.host_coordinates import HostCoordinates
from qdesampler.infer.qde.proportions import LocalMoves, Mixed, burn_in, moves_of_a_draw, proportions
from qdesampler.infer.qde.starts import FEWEST_STARTS, SEED, run_descents
from qdesampler.kernels.adaptation.local import LocalAdaptation, adapt_locally, tune_step_size
from qdesampler.kernels.adaptation.walk import START_LENGTH, LocalSettings
from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.kernels.mcmc.trajectory import gaussian_step_size
from qdesampler.numerics.host_trial import HostTrial, fit_skew, host_trial, log_trial_rows
from qdesampler.numerics.numpy_metric import HostMetric, to_whitened_gradient_rows, whiten_rows
from qdesampler.numerics.trial import tail_degrees
from qdesampler.solvers.gaussian.descents import Descent
from qdesampler.solvers.gaussian.host_step import Gaussian, gaussian_step
from qdesampler.solvers.gaussian.refine import DEFENSIVE, GOOD, Refined, measure, refine, refinement_size
from qdesampler.solvers.gaussian.search import Outcome, SolveSettings
from qdesampler.solvers.gaussian.solve import GaussianSolve, Step, solve_gaussian

__all__ = ["OUTCOMES", "SMALLEST_SOLVE", "Prepared", "WarmupSettings", "prepare", "unadapted"]

# Outcomes in words; a state holds their indices.
OUTCOMES = ("not tried", *(str(outcome) for outcome in Outcome))

SMALLEST_SOLVE = 40  # iterations of warm-up below which no solve is tried
_DENSE_AT_LAST = 1024  # dimensions up to which a low-rank trial may become dense: a step takes a second there
_LOCAL_ITERATIONS = 350  # of each chain that adapts local moves, at most
_TUNING = 20  # iterations that tune the step size beside a trial
_CAUTION = 0.8  # step size that is not tuned, relative to the one that a Gaussian allows
_LEAST_ACCEPTANCE = 0.1  # of a refined trial, predicted or seen by one chain; below, it is given up
_BROKEN_PROMISE = 4.0  # seen over predicted autocorrelation time from which it is given up: hard.md, banana
_UNEVEN = 0.8  # acceptance of one chain over the mean, below which it is given up: hard.md, banana
_ENOUGH_UNEVEN = 192  # candidates from which chains may be compared with one another
_LATEST = 256  # draws of local moves at which a trial fitted to them is judged
_SHORT_FRACTION = 0.15  # of trajectories with shorter steps without a trial: ucbadmit, else held for 76 draws
_TOO_LOW = 1e4  # nats below the end of its descent from which a start is not returned to
_FAR, _FAR_OFFSET = 4, 30  # squared whitened distance `4 dim + 30` beyond which an end is outside the trial
_STEEP = 10  # squared whitened slope, more than the `dim` of a draw, of an end that is at no such mode
_MATTERS = 10  # nats: an end lower than the highest by more than `dim + 10` does not count
_ALONE = 0.5  # acceptance below which a trial is given up if descents ended elsewhere: seasonal-global-trend
_COMPARED = 3  # points at which the density is compared with itself a turn away
_COLLAPSED = 0.05  # of the step size that a Gaussian allows, below which local moves hardly move
_STARTS = 8  # points that chains are started from
_ESCAPED = 1e12  # a coordinate beyond this has run away


class WarmupSettings(NamedTuple):
    """What the warm-up depends on besides the target and its starts.

    Attributes:
        num_warmup: iterations that the user allows.
        solve: whether to solve.
        local: how local moves are adapted.
    """

    num_warmup: int
    solve: bool
    local: LocalSettings


class Prepared(NamedTuple):
    """All that the warm-up has found, in NumPy.

    Attributes:
        trial: candidates of global moves; its metric is that of local moves.
        step_size: whitened units.
        length: mean trajectory length, whitened units.
        probability: of a global move.
        candidates: of one global move.
        moves: of one iteration.
        short_fraction: of the trajectories, those with shorter steps.
        centredness: of each coordinate, shape `(dim,)`.
        outcome: index into `OUTCOMES`.
        acceptance: of the trial.
        outliers: descents that ended far outside the trial, perhaps in other modes.
        at_floor: whether no step size reached the acceptance that was aimed at, or only a collapsed one.
        edges: fraction of trajectories that met an edge or a jump of the density while moves were adapted.
        burn_in: iterations in which chains leave their starts.
        starts: raveled sites from which chains may start, shape `(n, dim)`.
        log_densities: of the starts, in the coordinates of the model as written.
        scores: likewise.
        num_evals: evaluations of everything.
    """

    trial: HostTrial
    step_size: float
    length: float
    probability: float
    candidates: int
    moves: int
    short_fraction: float
    centredness: np.ndarray
    outcome: int
    acceptance: float
    outliers: int
    at_floor: bool
    edges: float
    burn_in: int
    starts: np.ndarray
    log_densities: np.ndarray
    scores: np.ndarray
    num_evals: int


def prepare(
    coordinates: HostCoordinates,
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
    if settings.solve and settings.num_warmup >= SMALLEST_SOLVE:
        report("descents")
        descents = run_descents(coordinates, starts)
        solve = _solve(coordinates, descents, settings, rng, report)
        outcome = OUTCOMES.index(str(solve.outcome))
        if solve.outcome in (Outcome.SOLVED, Outcome.MIDDLING):
            report(f"refinement of the trial, {coordinates.evaluator.num_evals} evaluations")
            mixed = _refined(coordinates, solve, settings, rng)
            if mixed is None:
                outcome = OUTCOMES.index(str(Outcome.HOPELESS))
            elif not coordinates.can_recentre:  # else the descents ended in other coordinates
                outliers = _count_outliers(coordinates, descents, mixed)
                if outliers and mixed.acceptance < _ALONE:
                    # A poor trial of one end does not cover the others; local moves may connect them.
                    mixed, outcome = None, OUTCOMES.index(str(Outcome.HOPELESS))
    if mixed is None:
        report(f"adaptation of local moves, {coordinates.evaluator.num_evals} evaluations")
        mixed = _local(coordinates, starts, descents, metric, settings, rng)
        if outcome and np.max(np.abs(mixed.starts.positions), initial=0.0) > _ESCAPED:
            outcome = OUTCOMES.index(str(Outcome.UNBOUNDED))
    probability, candidates = proportions(mixed)
    sites, values, scores = mixed.starts
    if coordinates.can_recentre:
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
        short_fraction=_SHORT_FRACTION if mixed.acceptance < _LEAST_ACCEPTANCE else 0.0,
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
    )


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


def _solve(
    coordinates: HostCoordinates,
    descents: list[Descent],
    settings: WarmupSettings,
    rng: np.random.Generator,
    report: Callable[[str], None],
) -> GaussianSolve:
    def watch(step: Step) -> None:
        rate, spent = step.certificate.acceptance, coordinates.evaluator.num_evals
        report(f"solve: step {step.number}, acceptance {rate:.2f}, {spent} evaluations")

    dim, blocks = coordinates.dim, _blocks(settings, coordinates.dim)
    rank = min(settings.local.rank, dim) if blocks is None else dim if blocks else 0
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
        ),
        rng,
        report=watch,
        recentre=coordinates.recentre if coordinates.can_recentre else None,
    )


def _blocks(settings: WarmupSettings, dim: int) -> tuple[tuple[int, ...], ...] | None:
    """Blocks of a dense factor; None if all coordinates are one, which is cheaper."""
    blocks = settings.local.blocks
    return None if len(blocks) == 1 and len(blocks[0]) == dim else blocks


def _refined(
    coordinates: HostCoordinates, solve: GaussianSolve, settings: WarmupSettings, rng: np.random.Generator
) -> Mixed | None:
    """The refined trial and the step size of local moves beside it; None if it has to be given up."""
    found = refine(
        coordinates.evaluate,
        solve,
        _blocks(settings, coordinates.dim) or None,
        rng,
        coordinates.evaluator.dtype,
    )
    if _is_missed(found):
        return None
    acceptance = found.certificate.acceptance
    seen = found.observed_time
    starts = _resampled(found, rng)
    step = _CAUTION * gaussian_step_size(coordinates.dim)
    length = settings.local.length or START_LENGTH
    clear = acceptance >= GOOD and solve.outcome is Outcome.SOLVED and not found.heavy_tails
    if clear or not settings.local.adapt_step_size:
        local = LocalMoves(step if settings.local.adapt_step_size else settings.local.step_size, length)
        return Mixed(found.trial, found.candidates.log_weights, seen, acceptance, local, starts)
    chains = Chains(*(part[:FEWEST_STARTS] for part in starts))
    iterations = min(_TUNING, settings.num_warmup)
    tuned = tune_step_size(
        coordinates, chains, found.trial.metric, iterations, settings.local._replace(step_size=step), rng
    )
    # Trajectories go where candidates do not, and a chain is held there as long as its weight says.
    held = _time_at(found, tuned.draws, coordinates)
    if held > _BROKEN_PROMISE * max(found.certificate.time, seen):
        return None
    local = LocalMoves(tuned.step_size, tuned.length, tuned.cost, tuned.at_floor, tuned.edges)
    weights, tails = found.candidates.log_weights, found.heavy_tails
    return Mixed(found.trial, weights, max(seen, held), acceptance, local, starts, tails)


def _is_missed(found: Refined) -> bool:
    """Whether the candidates, or the chains among them, say that the trial has missed the place."""
    acceptance, accepted = found.certificate.acceptance, found.accepted
    mean, least = float(np.mean(accepted)), float(np.min(accepted))
    uneven = least < _UNEVEN * mean and mean < GOOD and len(found.candidates.points) >= _ENOUGH_UNEVEN
    broken = found.observed_time > _BROKEN_PROMISE * found.certificate.time
    return acceptance < _LEAST_ACCEPTANCE or least < _LEAST_ACCEPTANCE or broken or uneven


def _time_at(found: Refined, points: np.ndarray, coordinates: HostCoordinates) -> float:
    """Autocorrelation time `2 / alpha - 1` of global moves, from the mean rate of chains at these points."""
    values, _ = coordinates.evaluate(points)
    weights = values - log_trial_rows(found.trial, points)
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


def _local(
    coordinates: HostCoordinates,
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
        if values[chain] < descent.log_density - _TOO_LOW and np.max(np.abs(descent.position)) < _ESCAPED:
            points[chain], values[chain], scores[chain] = descent.position, descent.log_density, descent.score
    chains = Chains(points, values, scores)
    local = settings.local
    iterations = min(settings.num_warmup, _LOCAL_ITERATIONS)
    found = adapt_locally(coordinates, chains, metric, iterations, local, rng)
    moves = LocalMoves(found.step_size, found.length, found.cost, found.at_floor, found.edges)
    end = found.chains
    if not settings.solve or settings.num_warmup < SMALLEST_SOLVE or len(found.draws) < 2 * coordinates.dim:
        return Mixed(host_trial(np.mean(found.draws, 0), found.metric), None, np.inf, 0.0, moves, end)
    measured = _trial_of_draws(coordinates, found, settings, rng)
    seen = _time_at(measured, found.draws[-_LATEST:], coordinates)
    acceptance = measured.certificate.acceptance
    # The metric of the trial is that of the local moves: it must be the one that they were adapted to.
    return Mixed(measured.trial, measured.candidates.log_weights, seen, acceptance, moves, end)


def _trial_of_draws(
    coordinates: HostCoordinates, found: LocalAdaptation, settings: WarmupSettings, rng: np.random.Generator
) -> Refined:
    """A trial with the metric of the local moves and the centre and skew of their draws, measured."""
    draws, scores = found.draws, found.scores
    blank = Gaussian(np.mean(draws, 0), found.metric)
    if found.metric.basis.shape[1] in (0, coordinates.dim):
        step = gaussian_step(
            blank, draws, scores, np.ones(len(draws)), blocks=_blocks(settings, coordinates.dim) or None
        )
        blank = blank._replace(centre=step.centre)
    trial = fit_skew(host_trial(*blank, DEFENSIVE), draws, np.ones(len(draws)))
    return measure(
        coordinates.evaluate, trial, rng, refinement_size(coordinates.dim), coordinates.evaluator.dtype
    )


def _count_outliers(coordinates: HostCoordinates, descents: list[Descent], mixed: Mixed) -> int:
    """Descents that ended outside the trial's bulk, high enough for their mode to matter.

    An end with a steep slope, in units of the trial's widths, is that of a narrower mode or of none. Where it
    is lower than draws of the trial besides, it has no mass.
    """
    trial, dim = mixed.trial, coordinates.dim
    heights = np.array([descent.log_density for descent in descents])
    ends = np.stack([descent.position for descent in descents])
    known = [part[:_COMPARED] for part in mixed.starts[:2]]
    ends = without_turns(coordinates.evaluate, ends, trial, *known)
    squares = np.sum(whiten_rows(trial.metric, ends - trial.centre) ** 2, 1)
    far = squares > _FAR * dim + _FAR_OFFSET
    slopes = np.stack([descent.score for descent in descents])
    steep = np.sum(to_whitened_gradient_rows(trial.metric, slopes) ** 2, 1) > dim + _STEEP
    far &= ~(steep & (heights < np.max(mixed.starts.log_densities, initial=-np.inf)))
    return int(
        np.sum(far & (heights > np.max(heights[np.isfinite(heights)], initial=-np.inf) - dim - _MATTERS))
    )
