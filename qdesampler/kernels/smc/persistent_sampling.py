r"""Persistent sampling: particles carried along a path with bounded weights, so that they fill the modes.

From exact draws of the reference the particles are reweighted, resampled and moved from one stage to the
next. No stage is thrown away. All particles so far are one sample from the mixture of the stages, and for the
density at `beta` they carry the weight

    w_b(x) = pi_b(x) / sum_r (1 / t) pi_r(x) / Z_r,        Z_b = mean of w_b,

over the `t` stages so far, which the latest stage in the mixture keeps bounded (Karamanis and Seljak 2025,
"Persistent sampling: enhancing the efficiency of sequential Monte Carlo", Statistics and Computing 35,
equations 14 to 17). The next `beta` is the largest at which the effective sample size is still `least_ess` of
one population. The stored particles serve for any other `beta`, and for any other path with the same target:
draws, metric, barrier, evidence.

Several populations run side by side with the same betas, metrics and step sizes. Each is resampled within
itself and has its own normalisers, so that the spread of these is the error of the evidence.
"""

from typing import NamedTuple

import numpy as np

from qdesampler.kernels.mcmc.trajectory import gaussian_step_size
from qdesampler.kernels.references.path import TemperingPath, combine
from qdesampler.kernels.references.reference import DENSE_DIMENSIONS, Reference, draws
from qdesampler.kernels.smc.local_steps import log_scales
from qdesampler.kernels.smc.particles import (
    Evaluate,
    Particles,
    Rung,
    concatenate,
    evaluated,
    move,
    rung_density,
)
from qdesampler.numerics.fisher_fit import choose_metric
from qdesampler.numerics.log_sums import log_mean, log_sum
from qdesampler.numerics.numpy_metric import identity, to_whitened_gradient_rows

__all__ = [
    "Annealed",
    "ParticleSettings",
    "anneal",
    "fit_rung",
    "num_steps_for",
    "resample",
]

TRAJECTORY_LENGTH = 1.5  # whitened units: about a quarter of the period of a Gaussian
_BISECTIONS = 30  # halvings of the interval that holds the next beta
# Standard deviation of the logarithms of the local factors of step sizes, above which steps follow the score
# (results/evidence.md: funnel-10 has 0.6, the others at most 0.45).
_STIFFNESS_VARIES = 0.5
_SHORTEST, _LONGEST = 1e-6, 2.0  # bounds of step sizes, whitened units


class ParticleSettings(NamedTuple):
    """Sizes of a run.

    Attributes:
        num_particles: particles of one population.
        moves: trajectories of each particle at each stage.
        stages: stages that a run may have; it stays unfinished if they do not suffice.
        least_ess: effective sample size of the next stage over `num_particles`.
        max_steps: leapfrog steps that a trajectory may have.
        target_accept_prob: acceptance probability that the step size aims at.
        populations: independent populations.
        local_steps: whether steps may follow the score, see `fit_rung`.
    """

    num_particles: int = 256
    moves: int = 2
    stages: int = 64
    least_ess: float = 0.8
    max_steps: int = 16
    target_accept_prob: float = 0.8
    populations: int = 4
    local_steps: bool = True


class Annealed(NamedTuple):
    """All particles of all stages so far; `points` of each population, stage after stage.

    Attributes:
        particles: rows ordered by population, then stage, `populations * points` of them.
        log_mixture: log density of the mixture of stages at each point: the denominator of the weights,
            shape `(populations, points)`.
        betas: position on the path of each stage, shape `(stages,)`.
        log_normalisers: `log Z` of each stage, shape `(stages, populations)`.
        step_size: the last one, whitened units.
        accept_prob: mean acceptance probability of the last stage.
    """

    particles: Particles
    log_mixture: np.ndarray
    betas: np.ndarray
    log_normalisers: np.ndarray
    step_size: float
    accept_prob: float

    @property
    def arrived(self) -> bool:
        """Whether the target was reached."""
        return bool(self.betas[-1] >= 1)

    def log_weights(self, log_density: np.ndarray) -> np.ndarray:
        """Log weights (equation 15) for an unnormalised density given at all points, both of one shape.

        Their log mean over a population is the density's log normaliser. Shape `(populations, points)`.
        """
        weights = log_density.reshape(self.log_mixture.shape) - self.log_mixture
        return np.where(np.isnan(weights), -np.inf, weights)

    def weights_on(self, coefficients: np.ndarray, log_q: np.ndarray | None = None) -> np.ndarray:
        """Log weights on a rung, whose reference may be another than the particles started from."""
        particles = self.particles
        log_q = particles.log_q if log_q is None else log_q
        return self.log_weights(combine(coefficients, log_q, particles.log_p))

    @property
    def target_log_weights(self) -> np.ndarray:
        """Log weights under the target."""
        return self.log_weights(self.particles.log_p)

    @property
    def log_evidence(self) -> np.ndarray:
        """`log Z` of the target by each population, shape `(populations,)`."""
        return log_mean(self.target_log_weights)


def resample(rng: np.random.Generator, log_weights: np.ndarray, count: int) -> np.ndarray:
    """Systematic resampling (Kitagawa 1996): `count` indices in proportion to the weights.

    Where no weight is finite all have the same.
    """
    largest = np.max(log_weights)
    shares = np.exp(log_weights - largest) if np.isfinite(largest) else np.ones(len(log_weights))
    at = (np.arange(count) + rng.random()) / count
    chosen = np.searchsorted(np.cumsum(shares) / np.sum(shares), at)
    return np.minimum(chosen, len(log_weights) - 1)


def fit_rung(
    particles: Particles, coefficients: np.ndarray, step_size: float, *, local_steps: bool = True
) -> Rung:
    """A rung, its metric of the kind that a test of its gain prefers, from equally weighted draws.

    Step sizes follow the score where its size varies by much, as in a funnel.
    """
    dim = particles.positions.shape[1]
    rank = dim if dim <= DENSE_DIMENSIONS else 0
    _, scores = rung_density(particles, coefficients)
    sound = np.all(np.isfinite(scores), 1)
    blocks = (tuple(range(dim)),) if rank else ()
    # Rows that are judged are every second one, so that each population fits and judges.
    rows = np.flatnonzero(sound)
    rows = np.concatenate([rows[::2], rows[1::2]])
    points, scores = particles.positions[rows], scores[rows]
    blank = identity(dim, rank)
    metric = choose_metric(points, scores, blank, blocks, rank, force=False, regularize=False)
    logs = log_scales(to_whitened_gradient_rows(metric, scores))
    varies = local_steps and len(logs) > 0 and float(np.std(logs)) > _STIFFNESS_VARIES
    return Rung(coefficients, metric, step_size, float(np.exp(np.mean(logs))) if varies else 0.0)


def num_steps_for(step_size: float, local_scale: float, max_steps: int) -> int:
    """Steps of a trajectory of `TRAJECTORY_LENGTH`, computed from the typical step."""
    typical = step_size * (local_scale or 1.0)
    return int(np.clip(np.ceil(TRAJECTORY_LENGTH / typical), 1, max_steps))


class _Run:
    """The state between two stages: everything has the axes `(populations, stages * num_particles)`."""

    def __init__(self, first: Particles, settings: ParticleSettings):
        self.settings = settings
        self.stages = [first]
        self.betas = [0.0]
        self.log_normalisers = [np.zeros(settings.populations)]
        self.log_q = first.log_q.reshape(settings.populations, -1)
        self.log_p = first.log_p.reshape(settings.populations, -1)
        self.log_sum = self.log_q.copy()  # of the densities of all stages so far, at every point
        self.step_size = min(1.0, gaussian_step_size(first.positions.shape[1]))
        self.accept_prob = 0.0

    def weights(self, coefficients: np.ndarray) -> np.ndarray:
        """Log weights of all points for a rung, shape `(populations, points)`."""
        weights = combine(coefficients, self.log_q, self.log_p) - (self.log_sum - np.log(len(self.stages)))
        return np.where(np.isnan(weights), -np.inf, weights)

    def next_beta(self, path: TemperingPath) -> float:
        """The largest `beta` whose effective sample size (equation 17) suffices."""

        def suffices(beta: float) -> bool:
            weights = self.weights(path.coefficients(np.asarray(beta)))
            with np.errstate(invalid="ignore"):
                sizes = np.exp(2 * log_sum(weights, 1) - log_sum(2 * weights, 1))
            return bool(np.mean(sizes) >= self.settings.least_ess * self.settings.num_particles)

        if suffices(1.0):
            return 1.0
        low, high = self.betas[-1], 1.0
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if suffices(middle) else (low, middle)
        # If no step has that effective sample size, take the smallest one that the bisection resolves.
        return low if low > self.betas[-1] else high

    def chosen(self, rng: np.random.Generator, weights: np.ndarray) -> Particles:
        """One population's worth of particles for each population."""
        n = self.settings.num_particles
        parts = []
        for population, row in enumerate(weights):
            index = resample(rng, row, n)
            stage, within = index // n, population * n + index % n
            part = self.stages[0][within]
            for number in np.unique(stage):
                at = stage == number
                for old, new in zip(tuple(part), tuple(self.stages[number]), strict=True):
                    old[at] = new[within[at]]
            parts.append(part)
        return concatenate(parts)

    def add(self, particles: Particles, beta: float, log_normaliser: np.ndarray, path: TemperingPath) -> None:
        """One stage more."""
        self.betas.append(beta)
        self.log_normalisers.append(log_normaliser)
        self.stages.append(particles)
        number = self.settings.populations
        new_q, new_p = (part.reshape(number, -1) for part in (particles.log_q, particles.log_p))
        rungs = path.coefficients(np.asarray(self.betas))
        old = combine(rungs[-1], self.log_q, self.log_p) - log_normaliser[:, None]
        at_new = [
            combine(rung, new_q, new_p) - log_z[:, None]
            for rung, log_z in zip(rungs, self.log_normalisers, strict=True)
        ]
        self.log_sum = np.concatenate(
            [np.logaddexp(self.log_sum, np.where(np.isnan(old), -np.inf, old)), log_sum(np.stack(at_new), 0)],
            1,
        )
        self.log_q = np.concatenate([self.log_q, new_q], 1)
        self.log_p = np.concatenate([self.log_p, new_p], 1)

    def finished(self) -> Annealed:
        """The particles by population, then stage."""
        number, n = self.settings.populations, self.settings.num_particles
        order = np.arange(len(self.stages) * number * n).reshape(len(self.stages), number, n).swapaxes(0, 1)
        return Annealed(
            concatenate(self.stages)[order.reshape(-1)],
            self.log_sum - np.log(len(self.stages)),
            np.asarray(self.betas),
            np.stack(self.log_normalisers),
            self.step_size,
            self.accept_prob,
        )


def anneal(
    rng: np.random.Generator,
    evaluate: Evaluate,
    reference: Reference,
    path: TemperingPath,
    settings: ParticleSettings,
) -> Annealed:
    """Carry populations from the reference to the target.

    Args:
        rng: all random numbers.
        evaluate: the target.
        reference: where the populations start.
        path: from there to the target.
        settings: sizes.

    Returns:
        All particles; `arrived` says whether the stages sufficed. Where no particle of a population saw a
        finite density, its normalisers are `-inf` from the first stage on.
    """
    total = settings.populations * settings.num_particles
    run = _Run(evaluated(draws(reference, rng, total), evaluate, reference), settings)
    while run.betas[-1] < 1 and len(run.stages) < settings.stages:
        beta = run.next_beta(path)
        coefficients = path.coefficients(np.asarray(beta))
        weights = run.weights(coefficients)
        particles = run.chosen(rng, weights)
        rung = fit_rung(particles, coefficients, run.step_size, local_steps=settings.local_steps)
        for _ in range(settings.moves):
            rung = rung._replace(step_size=run.step_size)
            steps = num_steps_for(run.step_size, rung.local_scale, settings.max_steps)
            particles, probs = move(rng, particles, [rung], steps, evaluate, reference)
            run.accept_prob = float(np.mean(probs))
            # Stochastic approximation on the logarithm, large enough to halve the step size in one move.
            scaled = run.step_size * np.exp(run.accept_prob - settings.target_accept_prob)
            run.step_size = float(np.clip(scaled, _SHORTEST, _LONGEST))
        run.add(particles, beta, log_mean(weights), path)
    return run.finished()
