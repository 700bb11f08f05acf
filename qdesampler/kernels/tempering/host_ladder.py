r"""The warm-up of a ladder on the host: rounds that place its rungs and tune its step sizes.

It moves a few chains of its own, by the iteration of `ladder.py` in NumPy. There are four rounds that double
in length. At the end of each of the first three the rungs are placed anew, so that all pairs have the same
rejection rate. The last round tunes the step sizes of the final rungs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from qdesampler.kernels.adaptation.step_size import StepSizeSearch
from qdesampler.kernels.references.path import TemperingPath, work
from qdesampler.kernels.references.reference import Reference, draws
from qdesampler.kernels.smc.particles import (
    Evaluate,
    Particles,
    Rung,
    concatenate,
    evaluated,
    move,
    on_reference,
)
from qdesampler.kernels.smc.persistent_sampling import Annealed, fit_rung, num_steps_for, resample
from qdesampler.kernels.tempering.schedule import (
    HIGH_ACCEPTANCE,
    acceptance_rate,
    log_normalisers_at,
    place_rungs,
)
from qdesampler.numerics.numpy_metric import HostMetric

__all__ = ["STARTS", "LadderSettings", "TunedLadder", "tune_ladder"]

STARTS = 32  # states of the whole ladder from which chains may start
_CHAINS = 4  # that tune
_ROUNDS = (8, 4, 2, 1)  # a round ends at the number of iterations divided by each of these
_LEAST_TERM = 1e-6  # smallest mean of a bridge term before its logarithm
# In a ladder of two rungs: acceptance of swaps above which trajectories have a single step
# (results/evidence.md: arK of "One mode").
_SINGLE_STEP_ACCEPTANCE = 0.85
# In a ladder of two rungs that swap often: iterations from one trajectory to the next; between them the draws
# of the reference move the target's replica (results/evidence.md: arK of "One mode").
_MOVE_EVERY = 4
_MOST_STEPS = 4  # steps of a trajectory between two swaps (results/evidence.md: "Steps between swaps")


class LadderSettings(NamedTuple):
    """How a ladder is tuned.

    Attributes:
        iterations: of each tuning chain.
        max_steps: most steps of a trajectory.
        target_accept_prob: acceptance probability that step sizes aim at.
        metric: of all rungs; None: each is fitted to the particles.
    """

    iterations: int
    max_steps: int
    target_accept_prob: float
    metric: HostMetric | None = None


class TunedLadder(NamedTuple):
    """All that is frozen, and where chains may start.

    Attributes:
        betas: position of each rung on the path, shape `(rungs,)`.
        above: the rungs above the reference.
        centres: the bridges' constants `C`, about `log Z_k+1 / Z_k`, shape `(rungs - 1,)`.
        num_steps: leapfrog steps of every trajectory.
        move_every: iterations from one trajectory to the next.
        starts: replicas, row `rung * STARTS + start`.
        rejections: mean rejection of each pair in the last round, shape `(rungs - 1,)`.
    """

    betas: np.ndarray
    above: list[Rung]
    centres: np.ndarray
    num_steps: int
    move_every: int
    starts: Particles
    rejections: np.ndarray


def trajectory_steps(step_sizes: Sequence[float], max_steps: int, swap_rate: float) -> tuple[int, int]:
    """`num_steps` and `move_every` of a ladder.

    Two rungs that swap often need few trajectories: most of the target's draws come from the reference.

    Args:
        step_sizes: those above the reference.
        max_steps: most steps of a trajectory.
        swap_rate: mean acceptance probability of swaps.
    """
    typical = float(np.exp(np.mean(np.log(step_sizes))))
    steps = num_steps_for(typical, 0.0, min(max_steps, _MOST_STEPS))
    if len(step_sizes) > 1:
        return steps, 1
    single = swap_rate >= _SINGLE_STEP_ACCEPTANCE
    return 1 if single else steps, _MOVE_EVERY if swap_rate >= HIGH_ACCEPTANCE else 1


class _Tuning:
    """The ladder while it is tuned; replicas are in rows `rung * _CHAINS + chain`."""

    def __init__(self, rng, annealed, reference, path, betas, evaluate, settings, swap_rate):
        self.rng, self.annealed, self.reference, self.path = rng, annealed, reference, path
        self.evaluate, self.settings = evaluate, settings
        self.log_q = on_reference(annealed.particles, reference).log_q
        self.step_sizes = [annealed.step_size] * (len(betas) - 1)
        self.place(betas)
        log_z = log_normalisers_at(annealed, self.log_q, path, betas)
        with np.errstate(invalid="ignore"):
            centres = np.diff(log_z)
        self.centres = np.where(np.isfinite(centres), centres, 0.0)
        self.replicas = self.drawn(_CHAINS)
        self.steps = trajectory_steps(self.step_sizes, settings.max_steps, swap_rate)

    def place(self, betas: np.ndarray) -> None:
        """Put the rungs at `betas` and fit their metrics to reweighted particles."""
        self.betas = betas
        self.coefficients = self.path.coefficients(betas)
        self.above = []
        for rung, step in zip(self.coefficients[1:], self.step_sizes, strict=True):
            if self.settings.metric is not None:
                self.above.append(Rung(rung, self.settings.metric, step))
                continue
            particles = on_reference(self.chosen(rung, _metric_draws(self.annealed)), self.reference)
            self.above.append(fit_rung(particles, rung, step, local_steps=False))

    def chosen(self, coefficients: np.ndarray, count: int) -> Particles:
        """Particles of a rung."""
        weights = self.annealed.weights_on(coefficients, self.log_q).reshape(-1)
        return self.annealed.particles[self.rng.permutation(resample(self.rng, weights, count))]

    def drawn(self, count: int) -> Particles:
        """Replicas of all rungs from particles, `count` of each."""
        parts = [self.chosen(rung, count) for rung in self.coefficients]
        return on_reference(concatenate(parts), self.reference)

    def sweep(self, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        """One iteration of all chains: mean terms of every pair, and acceptance of every rung's trajectories.

        The terms are rejections and the two terms of the bridge, shape `(3, rungs - 1)`. Trajectories are
        made in every iteration, because they are what is tuned.
        """
        fresh = draws(self.reference, self.rng, _CHAINS)
        first = evaluated(fresh, self.evaluate, self.reference)
        rungs = [r._replace(step_size=s) for r, s in zip(self.above, self.step_sizes, strict=True)]
        rest = self.replicas[slice(_CHAINS, None)]
        rest, probs = move(self.rng, rest, rungs, self.steps[0], self.evaluate, self.reference)
        self.replicas = concatenate([first, rest])
        return self.swap(iteration), probs.reshape(len(self.above), _CHAINS).mean(1)

    def swap(self, iteration: int) -> np.ndarray:
        """Swap every second pair of neighbours; returns the terms of all."""
        rungs = len(self.betas)
        log_q, log_p = (part.reshape(rungs, _CHAINS) for part in (self.replicas.log_q, self.replicas.log_p))
        lower, upper = self.coefficients[:-1, None, :], self.coefficients[1:, None, :]
        up = work(lower, upper, log_q[:-1], log_p[:-1])
        down = work(lower, upper, log_q[1:], log_p[1:])
        probs = np.stack([np.diagonal(acceptance_rate(*pair)) for pair in zip(up, down, strict=True)])
        parity = iteration % 2 if rungs > 2 else 0
        tried = (np.arange(rungs - 1) % 2 == parity)[:, None]
        swapped = tried & (self.rng.random(probs.shape) < probs)
        source = np.repeat(np.arange(rungs)[:, None], _CHAINS, 1)
        source[:-1] += swapped
        source[1:] -= swapped
        self.replicas = self.replicas[(source * _CHAINS + np.arange(_CHAINS)).reshape(-1)]
        centres = self.centres[:, None]
        with np.errstate(invalid="ignore"):
            terms = np.stack([1 - probs, expit(up - centres), expit(centres - down)])
        return np.mean(np.where(np.isnan(terms), 0.0, terms), axis=2)

    def end_round(self, terms: np.ndarray, step_sizes: list[float], *, last: bool) -> None:
        """Renew constants, step sizes and numbers of steps; place the rungs anew unless it was the last."""
        rejections, up, down = terms
        betas = self.betas if last else place_rungs(self.betas, rejections, len(self.betas))
        ratio = np.log(np.maximum(up, _LEAST_TERM) / np.maximum(down, _LEAST_TERM))
        log_z = np.concatenate([[0.0], np.cumsum(self.centres + ratio)])
        self.centres = np.diff(np.interp(betas, self.betas, log_z))
        self.step_sizes = step_sizes
        self.steps = trajectory_steps(step_sizes, self.settings.max_steps, 1 - float(np.mean(rejections)))
        if last:
            self.above = [r._replace(step_size=s) for r, s in zip(self.above, step_sizes, strict=True)]
        else:
            self.place(betas)


def _metric_draws(annealed: Annealed) -> int:
    """Draws that a metric is fitted to: as many as all populations have particles at a stage."""
    return annealed.log_mixture.size // len(annealed.betas)


def tune_ladder(
    rng: np.random.Generator,
    annealed: Annealed,
    reference: Reference,
    path: TemperingPath,
    betas: np.ndarray,
    evaluate: Evaluate,
    settings: LadderSettings,
    swap_rate: float,
) -> TunedLadder:
    """Tune a ladder that begins with rungs at `betas`.

    Args:
        rng: all random numbers.
        annealed: particles of the target.
        reference: density of the lowest rung.
        path: from it to the target.
        betas: shape `(rungs,)`.
        evaluate: the target.
        settings: see `LadderSettings`.
        swap_rate: expected mean acceptance of swaps.
    """
    tuning = _Tuning(rng, annealed, reference, path, betas, evaluate, settings, swap_rate)
    ends = sorted({max(settings.iterations // part, 1) for part in _ROUNDS})
    first = 0
    for end in ends:
        searches = [StepSizeSearch(step, settings.target_accept_prob) for step in tuning.step_sizes]
        total = np.zeros((3, len(betas) - 1))
        for iteration in range(first, end):
            terms, probs = tuning.sweep(iteration)
            total += terms
            for search, prob in zip(searches, probs, strict=True):
                search.update(float(prob))
            tuning.step_sizes = [search.step_size for search in searches]
        steps = [search.average for search in searches]
        tuning.end_round(total / max(end - first, 1), steps, last=end == ends[-1])
        first = end
    return TunedLadder(
        tuning.betas,
        tuning.above,
        tuning.centres,
        *tuning.steps,
        starts=_starts(tuning),
        rejections=total[0] / max(ends[-1] - (ends[-2] if len(ends) > 1 else 0), 1),
    )


def _starts(tuning: _Tuning) -> Particles:
    """The states of the tuning chains, and particles for more chains than these."""
    rungs = len(tuning.betas)
    more = tuning.drawn(STARTS - _CHAINS)
    own = np.arange(rungs * _CHAINS).reshape(rungs, _CHAINS)
    others = rungs * _CHAINS + np.arange(rungs * (STARTS - _CHAINS)).reshape(rungs, -1)
    rows = np.concatenate([own, others], 1).reshape(-1)
    return concatenate([tuning.replicas, more])[rows]
