r"""The betas of a ladder: equal steps of the communication barrier.

The rejection rates of neighbours add up, along any fine enough ladder, to the same barrier `Lambda = sum_k
r_k`. The flow of replicas is fastest if all pairs have the same rejection rate, and a round trip then takes
about `2 + 2 sum r / (1 - r)` iterations (Syed, Bouchard-Cote, Deligiannidis and Doucet 2022). About
`2 Lambda` rungs make the most round trips for an evaluation.
"""

import numpy as np

from qdesampler.kernels.references.path import TemperingPath, work
from qdesampler.kernels.references.reference import Reference, draws, log_density
from qdesampler.kernels.smc.particles import Evaluate
from qdesampler.kernels.smc.persistent_sampling import Annealed, resample
from qdesampler.numerics.log_sums import log_sum

__all__ = [
    "HIGH_ACCEPTANCE",
    "acceptance_rate",
    "log_normalisers_at",
    "num_rungs_for",
    "place_rungs",
    "predicted_rejections",
    "probe_betas",
    "reference_acceptance",
]

PROBES = 40  # betas at which rejection rates are predicted
_DRAWS = 256  # draws of each beta that predict a rejection rate
_FIRST_PROBE = 1e-4  # smallest beta above 0 of the geometric half of the probes
# Acceptance of draws of the reference at the target from which on two rungs suffice, trajectories need not
# run at every iteration, and a pilot may end the search (results/evidence.md: conjugate-normal-4 and "One
# mode").
HIGH_ACCEPTANCE = 0.7


def probe_betas(betas: np.ndarray) -> np.ndarray:
    """Betas to measure a barrier at, shape `(PROBES,)`, dense where the particles went slowly."""
    by_stage = np.interp(np.linspace(0, len(betas) - 1, PROBES), np.arange(len(betas)), betas)
    geometric = np.concatenate([[0.0], np.geomspace(_FIRST_PROBE, 1.0, PROBES - 1)])
    probes = np.sort(np.concatenate([by_stage[::2], geometric[1::2]]))
    probes[0], probes[-1] = 0.0, 1.0
    return probes


def predicted_rejections(
    rng: np.random.Generator,
    annealed: Annealed,
    log_q: np.ndarray,
    path: TemperingPath,
    betas: np.ndarray,
) -> np.ndarray:
    """Rejection rate of a swap between each two neighbours of `betas`, from reweighted particles.

    Args:
        rng: chooses the particles.
        annealed: the particles.
        log_q: of the reference that the ladder starts from, at all particles.
        path: from there to the target.
        betas: shape `(n,)`.
    """
    rungs = path.coefficients(betas)
    chosen = [resample(rng, annealed.weights_on(rung, log_q).reshape(-1), _DRAWS) for rung in rungs]
    log_p, rates = annealed.particles.log_p, []
    for k in range(len(betas) - 1):
        here, above = chosen[k], chosen[k + 1]
        up = work(rungs[k], rungs[k + 1], log_q[here], log_p[here])
        down = work(rungs[k], rungs[k + 1], log_q[above], log_p[above])
        rates.append(1 - float(np.mean(acceptance_rate(up, down))))
    return np.where(np.isnan(rates), 1.0, rates)


def acceptance_rate(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """`min(1, exp(W(x) - W(x')))` of all pairs, shape `(up, down)`; 0 where it is not a number."""
    with np.errstate(invalid="ignore"):
        ratio = up[:, None] - down[None, :]
    return np.exp(np.minimum(np.where(np.isnan(ratio), -np.inf, ratio), 0))


def reference_acceptance(
    rng: np.random.Generator,
    annealed: Annealed,
    evaluate: Evaluate,
    reference: Reference,
    count: int,
) -> float:
    """How often fresh draws of the reference would replace the target's replica in a ladder of two rungs.

    One over the mean time between two replacements: the harmonic mean over the target of `E_q min(1, exp(W(y)
    - W(x)))`. Positions that hardly accept any draw (tails where `p/q` is large) therefore count for as long
    as replicas stay there. `count` evaluations.
    """
    fresh = draws(reference, rng, count)
    up = evaluate(fresh)[0] - log_density(reference, fresh)
    chosen = resample(rng, annealed.target_log_weights.reshape(-1), 2 * _DRAWS)
    particles = annealed.particles[chosen]
    down = particles.log_p - log_density(reference, particles.positions)
    accepted = np.mean(acceptance_rate(np.where(np.isnan(up), -np.inf, up), down), axis=0)
    return float(1 / np.mean(1 / np.maximum(accepted, 0.1 / count)))


def log_normalisers_at(
    annealed: Annealed, log_q: np.ndarray, path: TemperingPath, betas: np.ndarray
) -> np.ndarray:
    """`log Z_b / Z_0` at each of `betas`, from reweighted particles."""
    values = [log_sum(annealed.weights_on(rung, log_q)) for rung in path.coefficients(betas)]
    return np.asarray(values) - values[0]


def place_rungs(betas: np.ndarray, rejections: np.ndarray, rungs: int) -> np.ndarray:
    """`rungs` betas between which all pairs have the same rejection rate.

    Inverts the piecewise linear interpolant of the cumulative rejections, shape `(betas - 1,)`; a small rate
    is added to each so that the interpolant increases strictly.
    """
    rates = np.where(np.isfinite(rejections), rejections, 1) + 1e-3
    barrier = np.concatenate([[0.0], np.cumsum(rates)])
    placed = np.interp(np.linspace(0, barrier[-1], rungs), barrier, betas)
    placed[0], placed[-1] = 0.0, 1.0
    return placed


def num_rungs_for(barrier: float, max_rungs: int) -> int:
    """About `2 Lambda + 1` rungs, at least 3 and at most `max_rungs`."""
    return int(min(max(3, round(2 * barrier) + 2), max_rungs))
