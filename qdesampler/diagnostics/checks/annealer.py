r"""The temperature of an annealer's reads, estimated by their pseudo-likelihood.

In draws from `p(s) ~ exp(-beta E(s))` every spin, given the others, has the distribution

    p(s_i | rest) = 1 / (1 + exp(2 beta s_i f_i)),      f_i = h_i + sum_j J_ij s_j,

without a partition function. The `beta` that maximises the sum of the logarithms over spins and reads is
consistent (Besag, The Statistician 24(3), 1975); its error follows from the variation over reads.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit

from qdesampler.backends.problem import IsingProblem, check_problem, check_states
from qdesampler.backends.protocol import AnnealingBackend
from qdesampler.diagnostics.checks.finding import Check, Diagnosis, Finding

__all__ = ["ReadTemperature", "diagnose_backend", "read_temperature"]

_SIGMAS = 5.0  # standard errors by which a temperature may be wrong
_MATERIAL = 0.1  # relative error of a temperature below which it does not matter
_COLDEST = 50.0  # largest beta, in units of the mean field; all spins then point along their fields
_BOLTZMANN = ("reversible", "weighted", "density")  # laws of reads that are Boltzmann distributions


class ReadTemperature(NamedTuple):
    """The inverse temperature of reads.

    Attributes:
        beta: the estimate by pseudo-likelihood, in the problem's units of energy; infinite if every spin of
            every read points along its field.
        standard_error: standard error of `beta`, from the variation over reads.
        different: number of different states among the reads.
        reads: number of reads.
    """

    beta: float
    standard_error: float
    different: int
    reads: int


def read_temperature(problem: IsingProblem, states: ArrayLike) -> ReadTemperature:
    """Estimate the inverse temperature at which `states` are draws of `problem`.

    Args:
        problem: the energy.
        states: reads, -1 and +1, shape `(reads, n)`, at least two.

    Raises:
        TypeError: `problem` is not a problem.
        ValueError: the states have another shape or other entries; there are fewer than two reads; every
            field is zero.
    """
    problem = check_problem(problem).dense()
    count = np.shape(states)[0] if np.ndim(states) == 2 else 0
    if count < 2:
        raise ValueError(f"states must have shape (reads, n) with at least 2 reads, got {np.shape(states)}.")
    spins = np.asarray(check_states("states", states, count, problem.num_variables), float)
    down = spins * (np.asarray(problem.h, float) + spins @ np.asarray(problem.J, float))
    scale = float(np.mean(np.abs(down)))
    if scale == 0:
        raise ValueError("Every field is zero: such reads have no temperature.")
    different = len(np.unique(spins, axis=0))

    def score(beta: float) -> float:
        return float(np.sum(-down * expit(2 * beta * down)))

    low, high = -_COLDEST / scale, _COLDEST / scale
    if score(high) >= 0:
        return ReadTemperature(math.inf, math.nan, different, count)
    if score(low) <= 0:
        return ReadTemperature(-math.inf, math.nan, different, count)
    beta = float(np.asarray(brentq(score, low, high, xtol=1e-10 / scale)))
    chance = expit(2 * beta * down)
    information = float(np.sum(2 * down**2 * chance * (1 - chance)))
    by_read = np.sum(-down * chance, axis=1)
    return ReadTemperature(beta, float(np.sqrt(np.sum(by_read**2)) / information), different, count)


def diagnose_backend(
    backend: AnnealingBackend,
    problem: IsingProblem,
    *,
    key: jax.Array,
    num_reads: int = 1000,
    beta: float = 1.0,
) -> Diagnosis:
    """Draw reads from a backend and check whether they have the requested temperature.

    A wrong temperature of a backend whose law is unknown is a remark, because moves that are exact with any
    reads only lose acceptance. For a backend that claims a Boltzmann law it is grave.

    Args:
        backend: any annealer.
        problem: the energy.
        key: JAX random key.
        num_reads: number of reads.
        beta: the inverse temperature; it is not passed to a device without such a setting.

    Returns:
        The findings, none if the temperature is right, and the rows of the table.

    Raises:
        TypeError, ValueError: as `read_temperature`, and the errors of the backend.
    """
    capabilities = backend.capabilities
    requested = {"beta": beta} if capabilities.beta else {}
    samples = backend.sample(problem, key=key, num_reads=num_reads, **requested)
    found = read_temperature(problem, samples.states)
    off = found.beta - beta
    # Weighted reads may have any temperature, because their weights correct for it.
    weighted = samples.log_weight is not None or samples.log_prob is not None
    right = abs(off) <= _SIGMAS * found.standard_error or abs(off) <= _MATERIAL * beta
    text = (
        f"beta {found.beta:.3g} \N{PLUS-MINUS SIGN} {found.standard_error:.2g} by pseudo-likelihood"
        if math.isfinite(found.beta)
        else "no temperature: every spin points along its field"
    )
    name = type(backend).__name__
    checks = [
        Check("Backend", f"{name}, law {capabilities.law}"),
        Check("Reads", f"{found.reads}, {found.different} different"),
        Check("Backend temperature", text, f"{beta:g}", None if weighted else right),
    ]
    if right or weighted:
        return Diagnosis([], checks)
    warmer = "hotter" if found.beta < beta else "colder"
    finding = Finding(
        "backend_temperature",
        f"The reads of {name} have {text}, where {beta:g} was requested: they are {warmer} than the problem.",
        f"Rescale the problem (or beta) by {beta / found.beta:.3g}, lengthen the schedule, or use moves that "
        "are exact with any reads (mask, coset); never use such reads as Boltzmann draws."
        if math.isfinite(found.beta)
        else "Anneal less deeply, or raise the temperature; never use such reads as Boltzmann draws.",
        grave=capabilities.law in _BOLTZMANN,
    )
    return Diagnosis([finding], checks)
