r"""The refinement of a solved trial: tails and skew from many candidates, then an honest measurement.

The trial of the solve is a Gaussian. Candidates from a wider law show where the target is skewed or has
tails; the trial follows them (`numerics/host_trial.py`). Candidates of the refined trial, none of which it
has been fitted to, then measure it: by their weights, and by a few chains that walk through them.
"""

from typing import NamedTuple

import numpy as np

from qdesampler.numerics.host_trial import HostTrial, draw_rows, fit_skew, host_trial, log_trial_rows
from qdesampler.solvers.gaussian.certificate import (
    Candidates,
    Certificate,
    certify,
    tempered_weights,
)
from qdesampler.solvers.gaussian.descents import Evaluate
from qdesampler.solvers.gaussian.host_step import Gaussian, gaussian_step
from qdesampler.solvers.gaussian.search import Recentre

__all__ = ["CLEAR", "GOOD", "Refined", "measure", "refine", "refinement_size"]

CLEAR = 0.8  # acceptance from which local moves hardly matter
GOOD = 0.7  # acceptance from which the trial of the solve is measured as it is
_SKEW_VISIBLE = 0.25  # acceptance from which the weights of candidates show the skew of the posterior
_DEFENSIVE, _DEFENSIVE_GOOD = 0.1, 0.02  # fraction of candidates with far tails; of a good trial
_FEWEST, _MOST = 48, 300  # candidates of a refinement's fit
_CHAINS = 4  # that walk through the candidates which measure a trial


class Refined(NamedTuple):
    """A trial and what its candidates say of it.

    Attributes:
        trial: the density.
        candidates: those that measured it.
        certificate: from their weights.
        accepted: acceptance seen by each of the chains that walked through them, shape `(chains,)`.
        ends: index of the candidate at which each chain ended.
        num_evals: evaluations.
    """

    trial: HostTrial
    candidates: Candidates
    certificate: Certificate
    accepted: np.ndarray
    ends: np.ndarray
    num_evals: int

    @property
    def observed_time(self) -> float:
        """Autocorrelation time that the chains had: mean of `2 / alpha - 1`.

        The acceptance of each chain is shrunk towards the certificate's, as by one candidate more.
        """
        number = len(self.candidates.log_weights) / len(self.accepted)
        alpha = (self.accepted * number + self.certificate.acceptance) / (number + 1)
        return float(np.mean(2 / np.maximum(alpha, 1e-6) - 1))


def refinement_size(dim: int) -> int:
    """Candidates of a refinement's fit, and as many for its measurement."""
    return int(np.clip(3 * dim, _FEWEST, _MOST))


def _draw(
    evaluate: Evaluate, trial: HostTrial, rng: np.random.Generator, count: int, precision
) -> Candidates:
    points = draw_rows(trial, rng, count).astype(precision).astype(float)
    values, scores = evaluate(points)
    sound = np.isfinite(values) & np.all(np.isfinite(scores), 1)
    weights = np.where(sound, np.where(sound, values, 0.0) - log_trial_rows(trial, points), -np.inf)
    return Candidates(points, np.where(sound[:, None], scores, 0.0), weights, np.where(sound, 0.0, np.nan))


def measure(
    evaluate: Evaluate, trial: HostTrial, rng: np.random.Generator, count: int, precision: np.typing.DTypeLike
) -> Refined:
    """Draw candidates from a trial that has not seen them, and let chains walk through them.

    Each chain accepts its first candidate, and then as independence Metropolis does.
    """
    candidates = _draw(evaluate, trial, rng, count, precision)
    accepted, ends = [], []
    for walk in np.array_split(np.arange(count), _CHAINS):
        here, probs = walk[0], [1.0 if candidates.is_finite[walk[0]] else 0.0]
        for index in walk[1:]:
            gain = candidates.log_weights[index] - candidates.log_weights[here]
            probs.append(float(np.exp(min(gain, 0.0))) if candidates.is_finite[index] else 0.0)
            if rng.random() < probs[-1] or not candidates.is_finite[here]:
                here = index
        accepted.append(np.mean(probs))
        ends.append(here)
    return Refined(trial, candidates, certify(candidates), np.asarray(accepted), np.asarray(ends), count)


def refine(
    evaluate: Evaluate,
    trial: Gaussian,
    acceptance: float,
    blocks: tuple[tuple[int, ...], ...] | None,
    rng: np.random.Generator,
    precision: np.typing.DTypeLike,
    recentre: Recentre | None = None,
) -> Refined:
    """Fit the trial once more, to many candidates, and measure the result; keep the better of both.

    A trial that is good is measured as it is.

    Args:
        evaluate: the target.
        trial: the Gaussian of the solve.
        acceptance: its acceptance.
        blocks: index groups that may be correlated; None: all coordinates are one.
        rng: draws the candidates.
        precision: type that the points are rounded to.
        recentre: changes the coordinates, see `search.Recentre`.
    """
    count = refinement_size(trial.centre.size)
    if acceptance >= GOOD:
        return measure(evaluate, host_trial(*trial, _DEFENSIVE_GOOD), rng, count, precision)
    unrefined = measure(evaluate, host_trial(*trial, _DEFENSIVE), rng, count, precision)
    first = unrefined.candidates
    finite = first.is_finite
    points, scores, log_weights = first.points[finite], first.scores[finite], first.log_weights[finite]
    number = len(points)
    if number < 4:
        return unrefined
    weights = tempered_weights(log_weights, float(max(0.5 * number, min(number, trial.centre.size + 2))))
    spent = count
    follow = None if recentre is None else recentre(points, scores, weights)
    if follow is not None:
        points = follow(points)
        values, scores = evaluate(points)
        spent += number
        sound = np.isfinite(values) & np.all(np.isfinite(scores), 1) & np.all(np.isfinite(points), 1)
        points, scores, weights = points[sound], scores[sound], weights[sound]
    refined = host_trial(*gaussian_step(trial, points, scores, weights, blocks=blocks), _DEFENSIVE)
    if acceptance >= _SKEW_VISIBLE:
        refined = fit_skew(refined, points, weights)
    measured = measure(evaluate, refined, rng, count, precision)
    # In other coordinates the former trial is another density: it cannot be taken back.
    better = follow is not None or measured.certificate.time <= unrefined.certificate.time
    return (measured if better else unrefined)._replace(num_evals=spent + count)
