r"""The pilot: where one certified trial is all there is, it is the reference.

The solve of QDE (`qdesampler.solvers.gaussian`) begins at draws of the prior reference. If its trial is good
and nothing says that the target has more than it, the ladder needs two rungs only. What could say so:

* descents from further draws of the prior reference, or from candidates of the trial, that end elsewhere;
* an end inside the trial that is higher than the trial allows (a spike in a slab);
* mass in shells around the trial (a slab around a spike). At the squared distance `r^2` it is about

      log mean p(x) + log |Sigma|^(1/2) + log V(r),       V(r) the volume of the ball of radius r,

  the mean over directions in the trial's coordinates, and has to be negligible against the evidence.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from qdesampler.infer.annealed.mode_search import CLOSE, WIDER, distinct_modes
from qdesampler.infer.annealed.reference_fit import KINDS, with_prior
from qdesampler.kernels.references.reference import Reference, draws, of_law, squared_radius
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.numerics.host_trial import HostTrial, log_trial_rows
from qdesampler.numerics.log_sums import log_mean
from qdesampler.numerics.numpy_metric import (
    log_determinant,
    to_position_rows,
    to_whitened_gradient_rows,
    whiten_rows,
)
from qdesampler.numerics.trial import tail_degrees
from qdesampler.solvers.gaussian.descents import Descent, descend
from qdesampler.solvers.gaussian.refine import Refined, refine
from qdesampler.solvers.gaussian.search import Outcome, SolveSettings
from qdesampler.solvers.gaussian.solve import solve_gaussian

__all__ = ["PilotReference", "solve_single_mode"]

_LEAST_ACCEPTANCE = 0.2  # of a trial, by its candidates, below which it is poor
_STARTS, _FURTHER = 4, 8  # descents of the solve, and from further draws of the prior reference
_INSIDE = 16  # descents from candidates of the trial
_BATCHES = 200  # evaluations of one descent
_LOW_RANK = 64  # directions of the factor of a trial in many dimensions
_DENSE = 128  # dimensions up to which it is dense from the beginning
_TRIES = 16  # batches of draws among which starts of finite density are looked for
# Standard deviations of the squared length of a draw: where shells begin, and beyond which the end of a
# descent is outside the trial.
_FIRST_SHELL, _FAR_END = 6.0, 3.0
_SHELLS, _DIRECTIONS = 8, 8  # shells, and points in each
_OWN = 1.0  # nats above the trial up to which a shell is its own tail
_NEGLIGIBLE = -4.6  # nats: a hundredth of the evidence, above which the mass in a shell matters
# Nats by which `log p - log q` at an end inside the trial may exceed the log evidence, and the largest of the
# candidates'.
_PEAK, _HIGHER = 3.0, 1.5


class PilotReference(NamedTuple):
    """A reference for the only mode.

    Attributes:
        reference: the trial, and the prior reference of a small weight.
        kind: one of `KINDS`.
    """

    reference: Reference
    kind: int


def solve_single_mode(
    evaluate: Evaluator, prior: Reference, rng: np.random.Generator
) -> PilotReference | None:
    """Solve from draws of the prior reference; None if the trial is poor, or perhaps not all there is.

    Args:
        evaluate: the target.
        prior: the prior reference.
        rng: all random numbers.
    """
    descents = _descents(evaluate, prior, rng, _STARTS)
    if not descents:
        return None
    dim = evaluate.dim
    settings = SolveSettings(
        rank=dim if dim <= _DENSE else _LOW_RANK, degrees=float(tail_degrees(dim)), precision=evaluate.dtype
    )
    solve = solve_gaussian(evaluate, descents, settings, rng)
    if solve.outcome not in (Outcome.SOLVED, Outcome.MIDDLING) or len(solve.modes) > 1:
        return None
    found = refine(evaluate, solve, None, rng, evaluate.dtype)
    if found.certificate.acceptance < _LEAST_ACCEPTANCE:
        return None
    further = _descents(evaluate, prior, rng, _FURTHER)
    inside = _descents_from_candidates(evaluate, found)
    if not _holds(evaluate, found, [*descents, *further, *inside]):
        return None
    if _mass_in_shells(evaluate, found, prior, rng) > _NEGLIGIBLE:
        return None
    return PilotReference(with_prior(of_law(found.trial, dim), prior), KINDS["trial"])


def _descents(evaluate: Evaluator, prior: Reference, rng: np.random.Generator, count: int) -> list[Descent]:
    """Descents from draws of the prior reference, run to their ends; fewer where the density ends."""
    found: list[Descent] = []
    precision = float(np.finfo(evaluate.dtype).eps)
    for _ in range(_TRIES):
        points = evaluate.rounded(draws(prior, rng, count - len(found)))
        values, scores = evaluate(points)
        sound = np.isfinite(values) & np.all(np.isfinite(scores), 1)
        starts = zip(points[sound], values[sound], scores[sound], strict=True)
        found += [Descent(*start, precision, CLOSE) for start in starts]
        if len(found) == count:
            break
    descend(evaluate, found, max(_BATCHES, 2 * evaluate.dim), evaluate.rounded)
    return [end for end in found if np.isfinite(end.log_density)]


def _descents_from_candidates(evaluate: Evaluator, found: Refined) -> list[Descent]:
    """Descents from candidates of the trial, in its coordinates."""
    trial, weights = found.trial, found.candidates.log_weights
    points, scores = (part[np.isfinite(weights)][:_INSIDE] for part in found.candidates[:2])
    values = weights[np.isfinite(weights)][:_INSIDE] + log_trial_rows(trial, points)

    def to_points(y):
        return trial.centre + to_position_rows(trial.metric, y)

    def in_trial(y):
        values, scores = evaluate(to_points(y))
        return values, to_whitened_gradient_rows(trial.metric, scores)

    def rounded(y):
        return whiten_rows(trial.metric, evaluate.rounded(to_points(y)) - trial.centre)

    whitened = whiten_rows(trial.metric, points - trial.centre)
    slopes = to_whitened_gradient_rows(trial.metric, scores)
    precision = float(np.finfo(evaluate.dtype).eps)
    inside = [Descent(*start, precision, CLOSE) for start in zip(whitened, values, slopes, strict=True)]
    descend(in_trial, inside, _BATCHES, rounded)
    for end in inside:  # back to the coordinates of the target
        end.position = to_points(end.position[None])[0]
    return inside


def _holds(evaluate: Evaluator, found: Refined, descents: list[Descent]) -> bool:
    """Whether all ends are inside the trial and no higher than it allows, or else at negligible mass."""
    trial, log_z = found.trial, found.certificate.log_mass
    ends = np.stack([end.position for end in descents])
    values = np.array([end.log_density for end in descents])
    most = max(_PEAK, float(np.max(found.candidates.log_weights)) - log_z + _HIGHER)
    strange = _squares(trial, ends) > squared_radius(ends.shape[1], _FAR_END)
    strange |= values - log_trial_rows(trial, ends) - log_z > most
    # Ends so far below the highest one inside that no width would give them mass do not matter.
    strange &= values > np.max(values[~strange], initial=-np.inf) + _NEGLIGIBLE - WIDER * ends.shape[1]
    order = np.argsort(-values)
    scale = trial.metric.scale * np.max(trial.metric.stretch, initial=1.0)
    modes = distinct_modes(ends[order[strange[order]]], evaluate, scale)
    return all(mode.whitener is not None and mode.log_mass - log_z < _NEGLIGIBLE for mode in modes)


def _mass_in_shells(evaluate: Evaluator, found: Refined, prior: Reference, rng: np.random.Generator) -> float:
    """Log of the largest part of the evidence in a shell, from the bulk of the trial to where the prior is.

    Shells in which the target is no higher than the trial are the trial's own tail; they do not count.
    """
    trial = found.trial
    dim = trial.centre.size
    first = squared_radius(dim, _FIRST_SHELL)
    last = max(float(np.median(_squares(trial, draws(prior, rng, _DIRECTIONS)))), 4 * first)
    squares = np.geomspace(first, last, _SHELLS)
    directions = rng.standard_normal((_SHELLS * _DIRECTIONS, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    y = trial.shift + trial.width * directions * np.sqrt(np.repeat(squares, _DIRECTIONS))[:, None]
    points = trial.centre + to_position_rows(trial.metric, y)
    values = evaluate(points)[0] - found.certificate.log_mass
    values = np.where(np.isfinite(values), values, -np.inf).reshape(_SHELLS, _DIRECTIONS)
    own = log_mean(log_trial_rows(trial, points).reshape(_SHELLS, _DIRECTIONS))
    volume = log_determinant(trial.metric) + float(np.sum(np.log(trial.width)))
    volume = volume + 0.5 * dim * np.log(np.pi * squares) - gammaln(0.5 * dim + 1)
    mean = log_mean(values)
    return float(np.max(np.where(mean > own + _OWN, mean + volume, -np.inf)))


def _squares(trial: HostTrial, points: np.ndarray) -> np.ndarray:
    """Squared distances from the trial's centre in its widths."""
    y = (whiten_rows(trial.metric, points - trial.centre) - trial.shift) / trial.width
    return np.sum(y**2, 1)
