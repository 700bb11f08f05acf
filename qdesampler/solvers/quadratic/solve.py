r"""The quadratic solve on the host: a triangular map, and candidates that improve and certify it.

It begins with candidates of a Gaussian that is too poor. The map is fitted to them; then it draws candidates
of its own, is fitted to all of these, and so on. Candidates are weighted as draws of the mixture of the
trials that drew them (Cornuet, Marin, Mira and Robert 2012), and tempered, because steps by scores need no
exact weights. They certify the trial that drew them, and the certificate decides when to stop.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from qdesampler.numerics.host_trial import HostTrial, draw_rows, host_trial, log_trial_rows
from qdesampler.numerics.numpy_metric import identity, to_position_rows
from qdesampler.numerics.skew_fit import fit_skew
from qdesampler.numerics.triangular_map import TriangularMap, pull_back, push_forward, to_map
from qdesampler.solvers.gaussian.certificate import Candidates, Certificate, certify, tempered_weights
from qdesampler.solvers.gaussian.descents import Evaluate
from qdesampler.solvers.gaussian.host_step import Gaussian, gaussian_step
from qdesampler.solvers.gaussian.refine import refinement_size
from qdesampler.solvers.quadratic.elimination import eliminate
from qdesampler.solvers.quadratic.fit import (
    BY_MOMENTS,
    BY_SCORES,
    fit_steps,
    misfit,
    more_steps,
    plain_map,
)
from qdesampler.solvers.quadratic.sample import Sample

__all__ = [
    "DEFENSIVE",
    "FIRST_ROUNDS",
    "Quadratic",
    "choose_map",
    "log_rows",
    "plain_base",
    "round_size",
    "solve_quadratic",
    "weighted_sample",
]

DEFENSIVE = 0.1  # fraction of candidates with far tails
FIRST_ROUNDS = 2  # rounds' worth of candidates that the Gaussian draws
_FEWEST_CANDIDATES = 96  # of a round
_ROUNDS, _PATIENCE = 10, 2  # of candidates, at most; and how many may bring nothing
_BETTER = 1.1  # acceptance over the best so far that is better
_CERTAIN = 0.8  # acceptance from which no further round is needed
_STEPS = 4  # of each round
_REMEMBERED = 6  # batches of candidates that a fit uses
# Fraction of the candidates that must count in a fit. With .3 a map of stochastic-volatility has too few
# terms (acceptance .08 for .33), with .7 one of Rosenbrock's density goes where it has no mass (.31 for .46).
_EFFECTIVE = 0.5
_UNTEMPERED = 1.01  # effective points over that fraction, from which weights are not tempered
_GAIN = 0.2  # of the logarithm of the misfit, by which a map must be better than a Gaussian
_FEWEST = 16  # effective points for a fit
_MOST_POINTS = 1500  # of a fit; of more, every second or third is taken
_DENSE_UP_TO = 300  # dimensions up to which a dense factor is tried


class Quadratic(NamedTuple):
    """A second trial: `x` is made by `law` from `v`, which has the law `base`.

    Attributes:
        law: the triangular map.
        base: standard normal, but for skew, widths and far tails.
        certificate: of this trial, from candidates that it has not been fitted to.
    """

    law: TriangularMap
    base: HostTrial
    certificate: Certificate


def round_size(dim: int) -> int:
    """Candidates of a round."""
    return max(_FEWEST_CANDIDATES, refinement_size(dim))


def log_rows(law: TriangularMap, base: HostTrial, points: np.ndarray) -> np.ndarray:
    """`log q` of rows, shape `(n,)`, normalised."""
    v, change = to_map(law, points)
    return log_trial_rows(base, v) - change - np.sum(np.log(np.diag(law.factor)))


def weighted_sample(candidates: Candidates) -> Sample:
    """Candidates with tempered weights; those without density are left out."""
    finite = candidates.is_finite
    points, scores, log_weights, _ = (part[finite] for part in candidates)
    weights = tempered_weights(log_weights, _EFFECTIVE * len(points)) if len(points) else log_weights
    return _sample(points, scores, weights)


def _sample(points: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Sample:
    effective = float(np.sum(weights) ** 2 / np.sum(weights**2)) if len(weights) else 0.0
    return Sample(points, scores, weights, effective)


def _part(sample: Sample, keep: np.ndarray) -> Sample:
    return _sample(sample.points[keep], sample.scores[keep], sample.weights[keep])


def plain_base(dim: int) -> HostTrial:
    """Standard normal coordinates, but for far tails."""
    return host_trial(np.zeros(dim), identity(dim, 0), DEFENSIVE)


def base_of(law: TriangularMap, sample: Sample) -> HostTrial:
    """The law of `v(x)`: standard, but for skew and width where the weights are those of the target.

    Tempered weights are not: their points are wider, by the same factor in all coordinates.
    """
    base = plain_base(law.centre.size)
    if sample.effective < _UNTEMPERED * _EFFECTIVE * len(sample.points):
        return base
    v, _ = to_map(law, sample.points)
    return fit_skew(base, v, pull_back(law, v, sample.scores), sample.weights)


def _covariance(sample: Sample) -> np.ndarray | None:
    """From points and scores; None where the points are too few or the dimensions too many."""
    dim, share = sample.points.shape[1], sample.share
    if not 2 <= dim <= min(_DENSE_UP_TO, sample.effective):
        return None
    scale = np.sqrt(share @ (sample.points - share @ sample.points) ** 2)
    blank = Gaussian(share @ sample.points, identity(dim, dim)._replace(scale=scale))
    metric = gaussian_step(blank, sample.points, sample.scores, sample.weights).metric
    factor = to_position_rows(metric, np.eye(dim))
    return factor.T @ factor


def _fits(sample: Sample) -> list[list[TriangularMap]]:
    """All fits of a sample, each the maps after every step; none where it is singular.

    By elimination, after a Gaussian of independent coordinates; and by steps from the Gaussian of all
    covariances, which are known without a term for each.
    """

    def eliminated() -> list[TriangularMap]:
        share = sample.share
        variance = share @ (sample.points - share @ sample.points) ** 2
        return [plain_map(sample, np.diag(variance)), eliminate(sample)]

    def stepped(by_moments: int) -> list[TriangularMap]:
        covariance = _covariance(sample)
        return (
            []
            if covariance is None
            else fit_steps(sample, plain_map(sample, covariance), by_moments=by_moments)
        )

    fits = []
    for fit in (eliminated, partial(stepped, BY_MOMENTS), partial(stepped, 0)):
        try:
            fits.append(fit())
        except np.linalg.LinAlgError:
            fits.append([])
    return fits


def choose_map(sample: Sample) -> TriangularMap | None:
    """The best of a few fits by points that they have not seen; None if none is better than a Gaussian.

    Half of the points fit and the others judge, in turn. Fits differ by their factor and number of steps.
    """
    if sample.effective < _FEWEST or sample.points.shape[1] < 2:
        return None
    judgements = []
    for seen in (np.arange(len(sample.points)) // 4 % 2 == half for half in (0, 1)):
        part, other = (_part(sample, keep) for keep in (seen, ~seen))
        judged = [[-misfit(other, law) for law in laws] for laws in _fits(part)]
        judgements.append(judged)
    mean = np.full((len(judgements[0]), 1 + BY_MOMENTS + BY_SCORES), -np.inf)
    for kind, both in enumerate(zip(*judgements, strict=False)):
        number = min(map(len, both))
        mean[kind, :number] = np.mean([row[:number] for row in both], 0)
    mean = np.where(np.isfinite(mean), mean, -np.inf)
    kind, steps = np.unravel_index(np.argmax(mean), mean.shape)
    laws = _fits(sample)[int(kind)]
    if steps == 0 or not laws or not mean[kind, steps] > np.max(mean[:, 0]) + _GAIN:
        return None
    law = laws[min(int(steps), len(laws) - 1)]
    bends = law.shift_terms[:, 2] != law.centre.size  # the others are linear, as a Gaussian is
    return law if np.any(bends) or len(law.width_slopes) else None


class _Search:
    """Trials and their candidates."""

    def __init__(self, evaluate: Evaluate, law: TriangularMap, base: HostTrial, count: int, precision):
        self.evaluate, self.law, self.base = evaluate, law, base
        self.count, self.precision = count, precision
        self.trials: list[Quadratic] = []
        self.batches: list[Candidates] = []

    def look(self, rng: np.random.Generator) -> Quadratic:
        """Draw candidates and certify the trial."""
        new, _ = push_forward(self.law, draw_rows(self.base, rng, self.count))
        new = new.astype(self.precision).astype(float)
        values, scores = self.evaluate(new)
        sound = np.isfinite(values) & np.all(np.isfinite(scores), 1) & np.all(np.isfinite(new), 1)
        weights = np.where(sound, values - log_rows(self.law, self.base, new), -np.inf)
        scores = np.where(sound[:, None], scores, 0.0)
        self.batches.append(Candidates(new, scores, weights, np.full(self.count, np.nan)))
        self.trials.append(Quadratic(self.law, self.base, certify(self.batches[-1])))
        self.trials, self.batches = self.trials[-_REMEMBERED:], self.batches[-_REMEMBERED:]
        return self.trials[-1]

    def known(self) -> Sample | None:
        """The candidates so far, weighted as draws of the mixture of all trials; None if too few."""
        drawn_by = np.repeat(np.arange(len(self.trials)), self.count)
        points, scores, weights, _ = (np.concatenate(parts) for parts in zip(*self.batches, strict=True))
        finite = np.isfinite(weights)
        drawn_by, points, scores, weights = drawn_by[finite], points[finite], scores[finite], weights[finite]
        if len(points) < _FEWEST:
            return None
        laws = np.stack([log_rows(trial.law, trial.base, points) for trial in self.trials])
        weights = weights + laws[drawn_by, np.arange(len(points))] - logsumexp(laws, axis=0)
        weights = tempered_weights(weights, _EFFECTIVE * len(points))
        return _sample(points, scores, weights)

    def improve(self, others: Sample | None) -> None:
        """Steps from the present map, by the candidates so far and other points."""
        known = self.known()
        if known is not None:
            known = _thinned(known if others is None else _joined(others, known))
            try:
                self.law = more_steps(known, self.law, _STEPS)
            except np.linalg.LinAlgError:  # the candidates show nothing more
                return
            self.base = base_of(self.law, known)


def solve_quadratic(
    evaluate: Evaluate,
    sample: Sample,
    rng: np.random.Generator,
    count: int,
    precision: np.typing.DTypeLike,
    promising: float = 0.0,
) -> Quadratic | None:
    """Fit the second trial; None if the points show neither bends nor funnels.

    Args:
        evaluate: the target.
        sample: the points to begin with.
        rng: draws the candidates.
        count: candidates of a round.
        precision: type that the points are rounded to.
        promising: acceptance of the first fit below which there are no more rounds.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # far points have no density
        sample = _thinned(sample)
        law = choose_map(sample)
        if law is None:
            return None
        search = _Search(evaluate, law, base_of(law, sample), count, precision)
        best, unchanged = search.look(rng), 0
        for number in range(_ROUNDS):
            acceptance = best.certificate.acceptance
            if acceptance >= _CERTAIN or acceptance < promising or unchanged > _PATIENCE:
                break
            search.improve(sample if number < _PATIENCE else None)
            trial, unchanged = search.look(rng), unchanged + 1
            if trial.certificate.acceptance > _BETTER * best.certificate.acceptance:
                best, unchanged = trial, 0
    return best


def _thinned(sample: Sample) -> Sample:
    keep = slice(None, None, max(-(-len(sample.points) // _MOST_POINTS), 1))
    return sample._replace(
        points=sample.points[keep], scores=sample.scores[keep], weights=sample.weights[keep]
    )


def _joined(first: Sample, second: Sample) -> Sample:
    """Both, each with the weight of its effective points."""
    return Sample(
        np.concatenate([first.points, second.points]),
        np.concatenate([first.scores, second.scores]),
        np.concatenate([each.share * each.effective for each in (first, second)]),
        first.effective + second.effective,
    )
