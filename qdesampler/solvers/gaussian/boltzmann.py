"""The Gaussian of least energy under a Boltzmann Hamiltonian: the solve on the host, then its certificate."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.numerics.importance_weights import independence_time
from qdesampler.numerics.metric import Metric, to_position, to_whitened_gradient
from qdesampler.solvers.gaussian.descents import Descent
from qdesampler.solvers.gaussian.solve import Outcome, SolveSettings, solve_gaussian
from qdesampler.solvers.gaussian.starts import LOST, log_weight
from qdesampler.solvers.gaussian.wavefunction import (
    GaussianWavefunction,
    kinetic_energy,
    log_gaussian,
    precision_factor,
)
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["GaussianSettings", "certify", "check_bounded", "solve_boltzmann"]

_WILD = 1e15  # whitened score beyond which a point is dropped as if it were not finite
_FEWEST_CERTIFIED = 128  # draws that the final numbers are estimated from, at least


class GaussianSettings(NamedTuple):
    """The settings of the rounds, described in `GaussianTrial`."""

    rank: int
    rounds: int
    candidates: int
    tolerance: float


class Candidates(NamedTuple):
    """Draws from a trial, evaluated under the target; a batch has a leading axis.

    Attributes:
        position: shape `(dim,)`.
        score: `grad log p`.
        log_weight: `log p - log q`; `-inf` where density or score is not finite, or the score is wild.
        energy: `(D/4) |grad log q - grad log p|^2`.
    """

    position: jax.Array
    score: jax.Array
    log_weight: jax.Array
    energy: jax.Array


@functools.partial(jax.jit, static_argnames=("count",))
def _draw(hamiltonian: Hamiltonian, psi: GaussianWavefunction, key: jax.Array, count: int) -> Candidates:
    metric = psi.metric

    def one(y):
        x = psi.centre + to_position(metric, y)
        value, score = jax.value_and_grad(lambda x: log_weight(hamiltonian, x))(x)
        whitened = to_whitened_gradient(metric, score)
        sound = jnp.isfinite(value) & (jnp.max(jnp.abs(whitened)) < _WILD)
        difference = precision_factor(metric, jnp.where(sound, whitened + y, 0))
        weight = jnp.where(sound, value - log_gaussian(metric, y), -jnp.inf)
        return Candidates(x, score, weight, 0.25 * hamiltonian.diffusion * difference @ difference)

    return jax.vmap(one)(jax.random.normal(key, (count, psi.dim), psi.centre.dtype))


@jax.jit
def certify(candidates: Candidates) -> dict[str, jax.Array]:
    """Energy, evidence lower bound, acceptance and independence time of the trial that drew `candidates`."""
    finite = jnp.isfinite(candidates.log_weight)
    number = jnp.maximum(jnp.sum(finite), 1)

    def mean(values):
        values = jnp.where(finite, values, 0)
        average = jnp.sum(values) / number
        spread = jnp.sum(jnp.where(finite, values - average, 0) ** 2)
        return average, jnp.sqrt(spread / jnp.maximum(number - 1, 1) / number)

    time, acceptance = independence_time(candidates.log_weight, jnp.ones_like(finite))
    (energy, energy_error), (bound, bound_error) = mean(candidates.energy), mean(candidates.log_weight)
    # If some draws have no density, this is the bound of the trial restricted to the others.
    bound = bound + jnp.log(jnp.mean(finite))
    return {
        "energy": energy,
        "energy_standard_error": energy_error,
        "evidence_lower_bound": bound,
        "evidence_lower_bound_error": bound_error,
        "acceptance": acceptance,
        "independence_time": time,
        "finite_share": jnp.mean(finite),
    }


def check_bounded(psi: GaussianWavefunction, most_width: float = LOST, *, escaped: bool = False) -> None:
    """Refuse a trial that grows without bound.

    Raises:
        NoGroundStateError: the solve saw it escape, a width is above `most_width`, or the ratio of two is too
            large for the arithmetic.
    """
    scale, stretch = np.asarray(psi.metric.scale), np.asarray(psi.metric.stretch)
    widest = float(np.max(scale) * np.max(stretch, initial=1.0))
    ratio = float(np.max(stretch, initial=1.0) / np.min(stretch, initial=1.0))
    most = 0.1 / float(np.finfo(scale.dtype).eps)
    centre = float(np.max(np.abs(np.asarray(psi.centre))))
    if not escaped and widest < most_width and ratio < most and centre < LOST:
        return
    raise NoGroundStateError(
        f"no normalisable ground state: the trial grows without bound (largest width {widest:.3g}, ratio of "
        f"widths {ratio:.3g}, centre at {centre:.3g}). The target is flat in some direction, improper or "
        "unbounded: give every coordinate a proper prior (a confining potential), or, if it is only "
        "ill-conditioned, rescale it or enable jax x64."
    )


def solve_boltzmann(
    hamiltonian: Hamiltonian,
    evaluate: Evaluator,
    descents: list[Descent],
    key: jax.Array,
    settings: GaussianSettings,
) -> tuple[GaussianWavefunction, dict[str, Any]]:
    """The Gaussian of least energy, with its certificate and the number of evaluations.

    Raises:
        NoGroundStateError: the trial grows without bound, or has no point of finite density.
    """
    key_rounds, key_last = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key_rounds)))
    solve = solve_gaussian(
        evaluate,
        descents,
        SolveSettings(
            rank=settings.rank,
            candidates=settings.candidates,
            max_steps=settings.rounds,
            degrees=np.inf,
            good_time=None,
            tolerance=settings.tolerance,
            precision=evaluate.dtype,
        ),
        rng,
    )
    dtype = jnp.result_type(float)
    psi = GaussianWavefunction(
        jnp.asarray(solve.trial.centre, dtype),
        Metric(*(jnp.asarray(part, dtype) for part in solve.trial.metric)),
    )
    check_bounded(psi, escaped=solve.outcome is Outcome.UNBOUNDED)
    count = max(_FEWEST_CERTIFIED, settings.candidates)
    certificate = certify(_draw(hamiltonian, psi, key_last, count))
    if float(certificate["finite_share"]) == 0:
        raise NoGroundStateError(
            f"none of {count} points of the trial has a finite log density and gradient, after "
            f"{solve.wild_steps} rounds whose widths were cut; check log_p for NaN, or give a start inside."
        )
    alone = len(solve.modes) == 1
    masses = [float(certificate["evidence_lower_bound"])] if alone else solve.log_masses
    change = solve.steps[-1].change
    return psi, {
        **certificate,
        "kinetic_energy": kinetic_energy(hamiltonian, psi.metric),
        "evaluations": evaluate.num_evals + count,
        "rounds": len(solve.steps),
        "wild_rounds": solve.wild_steps,
        "change": change,
        "converged": change <= settings.tolerance,
        "modes": jnp.asarray(solve.modes, dtype),
        "mode_log_masses": jnp.asarray(masses, dtype),
    }
