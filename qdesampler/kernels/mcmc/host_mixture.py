"""The frozen mixture of `mixture.py` on the host: the same law, in NumPy, for all chains at once.

Candidates of global moves do not depend on where the chains are. So those of many iterations are drawn and
evaluated in one batch, and the chains walk through them afterwards; each step of a trajectory is one batch of
the chains. Every iteration has random numbers of its own, so that it does not matter how a run is divided.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qdesampler.kernels.mcmc.host_trajectories import Chains, Evaluate, HostDynamics, run_trajectories
from qdesampler.kernels.mcmc.integrators import Integrator
from qdesampler.kernels.mcmc.mixture import BULK, LEAP
from qdesampler.kernels.mcmc.trajectory import DIVERGENCE_THRESHOLD, JITTER, SHORT_STEP
from qdesampler.numerics.host_trial import HostTrial, draw_rows, log_trial_rows
from qdesampler.numerics.numpy_metric import whiten_rows

__all__ = ["HostMixture", "Iterations", "Schedule", "walk"]


class HostMixture(NamedTuple):
    """The fields of `mixture.Mixture` on the host, and how trajectories are integrated."""

    trial: HostTrial
    step_size: float
    length: float
    probability: float
    candidates: int
    moves: int
    most_steps: int
    dynamics: HostDynamics
    integrator: Integrator
    short_fraction: float = 0.0


class Schedule(NamedTuple):
    """Which iterations are made.

    Attributes:
        first: index of the first.
        count: their number.
        active: `index -> bool`: whether an iteration moves the chains at all.
        generator: `(index, move) -> Generator` of the random numbers of a move of an iteration.
    """

    first: int
    count: int
    active: Callable[[int], bool]
    generator: Callable[[int, int], np.random.Generator]


class Iterations(NamedTuple):
    """What happened in each iteration; shapes begin `(count, chains)`, `num_evals` has `(count,)`.

    The kinetic part of an energy is a draw from its law.
    """

    positions: np.ndarray
    log_densities: np.ndarray
    scores: np.ndarray
    accept_probs: np.ndarray
    energies: np.ndarray
    diverging: np.ndarray
    num_evals: np.ndarray


class _Plan(NamedTuple):
    """A move before it is made: its generator, and of a global move where its candidates are."""

    rng: np.random.Generator
    steps: int
    rows: slice | None
    step_size: float = 0.0


class _Candidates(NamedTuple):
    """The candidates of many moves: points, log weights, and whether each is from the bulk of the trial."""

    points: Chains
    log_weights: np.ndarray
    in_bulk: np.ndarray


def _plan(mixture: HostMixture, schedule: Schedule, chains: int) -> tuple[list[list[_Plan]], np.ndarray]:
    """The moves of every iteration, and the candidates of all of them, shape `(n, dim)`."""
    plans, batches, used = [], [np.zeros((0, mixture.trial.centre.size))], 0
    for index in range(schedule.first, schedule.first + schedule.count):
        plans.append([])
        for move in range(mixture.moves if schedule.active(index) else 0):
            rng = schedule.generator(index, move)
            kind, length, rounding = rng.random(3)
            if kind < mixture.probability:
                number = chains * mixture.candidates
                batches.append(draw_rows(mixture.trial, rng, number))
                plans[-1].append(_Plan(rng, 0, slice(used, used + number)))
                used += number
            else:
                is_short = 1 - kind < mixture.short_fraction * (1 - mixture.probability)
                step_size = mixture.step_size * (SHORT_STEP if is_short else 1)
                mean = mixture.length * (1 - JITTER + 2 * JITTER * length) / step_size
                steps = int(np.clip(np.floor(mean + rounding), 1, mixture.most_steps))
                plans[-1].append(_Plan(rng, steps, None, step_size))
    return plans, np.concatenate(batches)


def walk(
    evaluate: Evaluate,
    rounded: Callable[[np.ndarray], np.ndarray],
    chains: Chains,
    mixture: HostMixture,
    schedule: Schedule,
    *,
    forget: bool = False,
    log_densities: Callable[[np.ndarray], np.ndarray] | None = None,
    kept: Callable[[Chains], tuple[Chains, Chains]] | None = None,
) -> Iterations:
    """Make iterations of all chains.

    A global move needs no scores. Where they are dear, `log_densities` gives the candidates without them:
    the scores of a chain that took a candidate are NaN until a trajectory begins there. A trajectory from
    where the score is not finite is rejected, as one that ends there is.

    Args:
        evaluate: the target.
        rounded: rounds points to the precision in which the target takes them.
        chains: where they are, evaluated.
        mixture: the transition.
        schedule: which iterations.
        forget: whether the first candidate of the first iteration is accepted unconditionally.
        log_densities: the target without scores, `(n, dim)` to `(n,)`, for candidates; None: `evaluate`.
        kept: what is kept of the chains after an iteration, and where they go on from; None: the chains.
    """
    count, dim = chains.positions.shape
    plans, points = _plan(mixture, schedule, count)
    points = rounded(points)
    values, scores = np.zeros(len(points)), np.full(points.shape, np.nan)
    if len(points) and log_densities is None:
        values, scores = evaluate(points)
    elif len(points) and log_densities is not None:
        values = log_densities(points)
    sound = np.isfinite(values)
    if log_densities is None:
        sound &= np.all(np.isfinite(scores), 1)
    weights = np.where(sound, values - log_trial_rows(mixture.trial, points), -np.inf)
    squares = np.sum(whiten_rows(mixture.trial.metric, points - mixture.trial.centre) ** 2, 1)
    candidates = _Candidates(Chains(points, values, scores), weights, squares <= dim + BULK)
    here, held = chains, None  # `held`: log weights where the chains are, once they are known
    shown = here if kept is None else kept(here)[0]
    made = []
    for number, moves in enumerate(plans):
        evals, total, diverging, kinetic = 0, np.zeros(count), np.zeros(count, bool), np.zeros(count)
        for turn, plan in enumerate(moves):
            kinetic = 0.5 * plan.rng.chisquare(dim, count)
            if plan.rows is None:
                if log_densities is not None:
                    here = _with_scores(evaluate, here)
                here, prob, lost = _local(evaluate, rounded, here, mixture, plan)
                held = None
                evals += plan.steps * mixture.integrator.stages
            else:
                if held is None:
                    held = here.log_densities - log_trial_rows(mixture.trial, here.positions)
                    leaving = forget and number == turn == 0
                    held = np.where(np.isnan(held) | leaving, -np.inf, held)
                here, held, prob, lost = _global(here, held, candidates, plan, mixture.candidates)
                evals += mixture.candidates
            diverging = diverging | lost
            total = total + prob
        mean = total / len(moves) if moves else np.ones(count)
        if kept is None:
            shown = here
        elif moves:
            (shown, here), held = kept(here), None
        made.append((*shown, mean, kinetic - here.log_densities, diverging, np.asarray(evals)))
    return Iterations(*(np.stack(column) for column in zip(*made, strict=True)))


def _global(
    here: Chains, held: np.ndarray, candidates: _Candidates, plan: _Plan, number: int
) -> tuple[Chains, np.ndarray, np.ndarray, np.ndarray]:
    """Independence Metropolis; returns the chains, their log weights, mean acceptance, divergences."""
    assert plan.rows is not None
    rows = np.arange(plan.rows.start, plan.rows.stop).reshape(len(held), number)
    units = plan.rng.random(rows.shape)
    total, diverging = np.zeros(len(held)), np.zeros(len(held), bool)
    for turn in range(number):
        row = rows[:, turn]
        points, weights = candidates.points, candidates.log_weights[row]
        with np.errstate(invalid="ignore"):
            gain = weights - held
        prob = np.where(weights > -np.inf, np.exp(np.minimum(gain, 0.0)), 0.0)
        taken = units[:, turn] < prob
        diverging |= (gain < -DIVERGENCE_THRESHOLD) & candidates.in_bulk[row]
        diverging |= (gain > LEAP) & (held > -np.inf)
        here = Chains(
            np.where(taken[:, None], points.positions[row], here.positions),
            np.where(taken, points.log_densities[row], here.log_densities),
            np.where(taken[:, None], points.scores[row], here.scores),
        )
        held = np.where(taken, weights, held)
        total += prob
    return here, held, total / number, diverging


def _with_scores(evaluate: Evaluate, here: Chains) -> Chains:
    """The chains with the scores that are not known yet."""
    missing = np.any(np.isnan(here.scores), 1)
    if not np.any(missing):
        return here
    scores = here.scores.copy()
    scores[missing] = evaluate(here.positions[missing])[1]
    return here._replace(scores=scores)


def _local(
    evaluate: Evaluate,
    rounded: Callable[[np.ndarray], np.ndarray],
    here: Chains,
    mixture: HostMixture,
    plan: _Plan,
) -> tuple[Chains, np.ndarray, np.ndarray]:
    """One trajectory of every chain; returns the chains, acceptance, divergences."""
    path = run_trajectories(
        evaluate,
        here,
        mixture.trial.metric,
        plan.step_size,
        plan.steps,
        plan.rng,
        mixture.dynamics,
        mixture.integrator,
    )
    prob = np.where(np.all(np.isfinite(here.scores), 1), path.accept_probs[-1], 0.0)
    taken = plan.rng.random(len(prob)) < prob
    ends = Chains(rounded(path.ends.positions), path.ends.log_densities, path.ends.scores)
    kept = Chains(
        np.where(taken[:, None], ends.positions, here.positions),
        np.where(taken, ends.log_densities, here.log_densities),
        np.where(taken[:, None], ends.scores, here.scores),
    )
    diverging = prob <= np.exp(-DIVERGENCE_THRESHOLD)
    return kept, prob, diverging
