r"""The refinement of a solved trial: tails and skew from many candidates, then an honest measurement.

The trial of the solve is a Gaussian. Candidates from a wider law show where the target is skewed or has
tails; the trial follows them (`numerics/host_trial.py`). Candidates of the refined trial, none of which it
has been fitted to, then measure it: by their weights, and by a few chains that walk through them.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from qdesampler.numerics.host_trial import HostTrial, draw_rows, host_trial, log_trial_rows
from qdesampler.numerics.skew_fit import fit_skew
from qdesampler.solvers.gaussian.certificate import (
    Candidates,
    Certificate,
    certify,
    tempered_weights,
)
from qdesampler.solvers.gaussian.descents import Evaluate
from qdesampler.solvers.gaussian.host_step import gaussian_step
from qdesampler.solvers.gaussian.search import Outcome
from qdesampler.solvers.gaussian.solve import GaussianSolve
from qdesampler.solvers.gaussian.tails import far_log_weights

__all__ = ["CLEAR", "DEFENSIVE", "GOOD", "Refined", "draw_and_weigh", "look_at_tails", "measure", "refine"]
__all__ += ["refinement_size"]

CLEAR = 0.8  # acceptance from which local moves hardly matter
GOOD = 0.7  # acceptance from which the trial of the solve is measured as it is
_SKEW_VISIBLE = 0.25  # acceptance from which the weights of candidates show the skew of the posterior
DEFENSIVE, _DEFENSIVE_GOOD = 0.1, 0.02  # fraction of candidates with far tails; of a good trial
_FEWEST, _MOST = 48, 300  # candidates of a refinement's fit
_ROUNDS = 3  # of the refinement
_EFFECTIVE = 0.3  # fraction of the candidates that must count in a fit
_FEWEST_POINTS = 4  # with density, for a fit
_DOUBTFUL, _MORE = 2.0, 2  # ratio of both times from which more candidates are drawn, and how many more
# Nats by which `log p / q` at a far point may be above that of all candidates. Sound trials of the fourteen
# have at most 0.4, where chains were held it is 1.4 (a log scale) to 2 (hmm_drive).
_HEAVIER = 1.2
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
        heavy_tails: whether the trial of the solve was good but for the tails of the density.
    """

    trial: HostTrial
    candidates: Candidates
    certificate: Certificate
    accepted: np.ndarray
    ends: np.ndarray
    num_evals: int
    heavy_tails: bool = False

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


def draw_and_weigh(
    evaluate: Evaluate, trial: HostTrial, rng: np.random.Generator, count: int, precision: np.typing.DTypeLike
) -> Candidates:
    """Candidates of a trial with their log weights; their energies are not computed.

    Args:
        evaluate: the target.
        trial: what draws them.
        rng: all random numbers.
        count: their number.
        precision: type that the points are rounded to.
    """
    points = draw_rows(trial, rng, count).astype(precision).astype(float)
    values, scores = evaluate(points)
    sound = np.isfinite(values) & np.all(np.isfinite(scores), 1)
    weights = np.where(sound, np.where(sound, values, 0.0) - log_trial_rows(trial, points), -np.inf)
    unknown = np.full(count, np.nan)  # the energy of a skewed law is not computed
    return Candidates(points, np.where(sound[:, None], scores, 0.0), weights, unknown)


def measure(
    evaluate: Evaluate, trial: HostTrial, rng: np.random.Generator, count: int, precision: np.typing.DTypeLike
) -> Refined:
    """Draw candidates from a trial that has not seen them, and let chains walk through them.

    Each chain accepts its first candidate, and then as independence Metropolis does. Where a few weights say
    much less of the trial than the chains do, more candidates are drawn, because so few do not show how rare
    large weights are.
    """
    candidates = draw_and_weigh(evaluate, trial, rng, count, precision)
    found = _walked(trial, candidates, rng)
    if found.certificate.time > _DOUBTFUL * found.observed_time:
        more = draw_and_weigh(evaluate, trial, rng, _MORE * count, precision)
        candidates = Candidates(*(np.concatenate(pair) for pair in zip(candidates, more, strict=True)))
        found = _walked(trial, candidates, rng)
    return found


def look_at_tails(evaluate: Evaluate, found: Refined, precision: np.typing.DTypeLike) -> Refined:
    """The same, with a look at points far along each coordinate (`tails.py`)."""
    far = far_log_weights(evaluate, found.trial, precision)
    heavy = bool(np.max(far) >= np.max(found.candidates.log_weights) + _HEAVIER)
    return found._replace(num_evals=found.num_evals + len(far), heavy_tails=heavy)


def _walked(trial: HostTrial, candidates: Candidates, rng: np.random.Generator) -> Refined:
    """The certificate of candidates, and what chains that walk through them see."""
    count, weights, finite = len(candidates.points), candidates.log_weights, candidates.is_finite
    accepted, ends = [], []
    for walk in np.array_split(np.arange(count), _CHAINS):
        here, probs = walk[0], [1.0 if finite[walk[0]] else 0.0]
        for index in walk[1:]:
            probs.append(float(np.exp(min(weights[index] - weights[here], 0.0))) if finite[index] else 0.0)
            if rng.random() < probs[-1] or not finite[here]:
                here = index
        accepted.append(np.mean(probs))
        ends.append(here)
    return Refined(trial, candidates, certify(candidates), np.asarray(accepted), np.asarray(ends), count)


def refine(
    evaluate: Evaluate,
    solve: GaussianSolve,
    blocks: tuple[tuple[int, ...], ...] | None,
    rng: np.random.Generator,
    precision: np.typing.DTypeLike,
) -> Refined:
    """Fit the trial to many candidates, in a few rounds, and measure the result.

    Each round draws from the trial of the round before and fits to all candidates so far, weighted as draws
    of the mixture of all trials so far (Cornuet, Marin, Mira and Robert 2012, "Adaptive multiple importance
    sampling"): a tail that one trial misses is in the draws of a wider one. A trial that is good is measured
    without a fit, and so is one of more dimensions than a round has candidates: a fit would make it worse.

    Args:
        evaluate: the target.
        solve: the solve.
        blocks: index groups that may be correlated; None: all coordinates are one.
        rng: draws the candidates.
        precision: type that the points are rounded to.
    """
    trial, acceptance = solve.trial, solve.certificate.acceptance
    dim = trial.centre.size
    count = refinement_size(dim)
    spent, heavy_tails = 0, False
    if acceptance >= GOOD and solve.outcome is Outcome.SOLVED:
        found = measure(evaluate, host_trial(*trial, _DEFENSIVE_GOOD), rng, count, precision)
        found = look_at_tails(evaluate, found, precision)
        if not found.heavy_tails:
            return found
        spent, heavy_tails = found.num_evals, True
    trials = [host_trial(*trial, DEFENSIVE)]
    if count < dim and solve.elimination is None:  # item-response-501: .08 after a fit, .45 before
        found = measure(evaluate, trials[0], rng, count, precision)
        return found._replace(num_evals=spent + found.num_evals, heavy_tails=heavy_tails)
    batches: list[Candidates] = []
    for _ in range(_ROUNDS):
        batches.append(draw_and_weigh(evaluate, trials[-1], rng, count, precision))
        finite = [batch.is_finite for batch in batches]
        points, scores, own = (
            np.concatenate([part[keep] for part, keep in zip(column, finite, strict=True)])
            for column in list(zip(*batches, strict=True))[:3]
        )
        if len(points) < _FEWEST_POINTS:
            break
        laws = np.stack([log_trial_rows(each, points) for each in trials])
        drawn_by = np.repeat(np.arange(len(batches)), [np.count_nonzero(keep) for keep in finite])
        log_density = own + laws[drawn_by, np.arange(len(points))]
        log_weights = log_density - logsumexp(laws, axis=0)
        number = len(points)
        weights = tempered_weights(log_weights, float(max(_EFFECTIVE * number, min(number, dim + 2))))
        best = gaussian_step(trial, points, scores, weights, blocks=blocks, elimination=solve.elimination)
        fitted = host_trial(*best, DEFENSIVE)
        trials.append(fit_skew(fitted, points, scores, weights) if acceptance >= _SKEW_VISIBLE else fitted)
    measured = measure(evaluate, trials[-1], rng, count, precision)
    spent += count * len(batches) + measured.num_evals
    return measured._replace(num_evals=spent, heavy_tails=heavy_tails)
