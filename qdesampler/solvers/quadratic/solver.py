r"""The trial state that bends and funnels, of Taylor order 2: `QuadraticTrial`."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import HostMetric
from qdesampler.numerics.triangular_map import to_device
from qdesampler.solvers.gaussian.boltzmann import Candidates, certify
from qdesampler.solvers.gaussian.refine import draw_and_weigh
from qdesampler.solvers.gaussian.solver import GaussianTrial
from qdesampler.solvers.gaussian.starts import log_weight, make_evaluator
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction
from qdesampler.solvers.protocol import GroundState
from qdesampler.solvers.quadratic.solve import (
    DEFENSIVE,
    FIRST_ROUNDS,
    round_size,
    solve_quadratic,
    weighted_sample,
)
from qdesampler.solvers.quadratic.wavefunction import QuadraticWavefunction
from qdesampler.validation import as_positive_int, is_traced

__all__ = ["QuadraticTrial", "QuadraticTrialWarning"]

_WIDER = 1.5  # factor on the Gaussian's widths for the first candidates, which show bends where they are wide
_CERTIFIED = 512  # draws that the reported numbers are estimated from


class QuadraticTrialWarning(UserWarning):
    """The answer is the Gaussian's, or part of its draws lies where the target is not finite."""


@dataclasses.dataclass(frozen=True)
class QuadraticTrial:
    r"""Solver for bent and funnelled posteriors: a Gaussian whose means and widths follow the place.

    `psi = sqrt(q)`, and `q` is the law of `x = c + P^T F w`, with the ordered, whitened coordinates

        w_k = m_k(w_<k) + exp(s_k(w_<k)) v_k,        v_k ~ N(0, 1) (skewed where candidates are),

    `m_k` quadratic and `s_k` linear in bounded terms. It is the trial of Taylor order 2. It begins with the
    candidates of `gaussian` and is fitted, without training and with no derivative but `grad log p`, by
    closed steps (`qdesampler.solvers.quadratic.fit`) to candidates of its own, until these are accepted
    or nothing more is gained. The energy reported is `E[q] = (D/4) E_q |grad log q - grad log p|^2 >= 0 =
    E_0`, with `energy_error` = energy + its standard error, as for the Gaussian: in the neck of a funnel
    a small misfit has a large gradient. Judge a proposal by its acceptance. As all trials that are fitted
    to their own candidates it may describe one place perfectly and miss others, which
    `evidence_lower_bound` shows between trials.

    The solve runs on the host, once, and cannot run under `jit`; `gap` is `None`. Draws are exact draws of
    `q`.

    Diagnostics: `evaluations` of everything; `terms`, the number of terms of shifts and of log widths, 0
    where the candidates show neither bends nor funnels; `gaussian_acceptance`; and those of
    `GaussianTrial`: `energy_standard_error`, `acceptance`, `independence_time`, `evidence_lower_bound`
    and its `_error`, `finite_share`.

    Attributes:
        gaussian: the solver whose Gaussian it starts from.
        candidates: points of a round; `None`: `max(96, min(3 dim, 300))`.

    Raises:
        TypeError, ValueError: an argument is not of these kinds; the message names it.
    """

    gaussian: GaussianTrial = GaussianTrial()
    candidates: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.gaussian, GaussianTrial):
            raise TypeError(f"gaussian must be a GaussianTrial, got {self.gaussian!r}.")
        if self.candidates is not None and as_positive_int("candidates", self.candidates) < 32:
            raise ValueError(f"candidates must be at least 32, got {self.candidates}.")

    def solve(self, hamiltonian: Hamiltonian, key: jax.Array | None = None) -> GroundState:
        """Return the quadratic trial; `key` draws starts and candidates.

        Warns:
            QuadraticTrialWarning: no term was found, so that the answer is a Gaussian; or part of the draws
                lies where log density or gradient is not finite.

        Raises:
            NoGroundStateError: no normalisable state: the target is flat, improper or unbounded. (A
                `ValueError`.)
            ValueError: `key` is `None`; an objective Hamiltonian; the solve is traced.
        """
        if hamiltonian.kind != "boltzmann":
            raise ValueError(
                "QuadraticTrial is for Boltzmann Hamiltonians (Hamiltonian.from_log_density), got one of an "
                "objective; take GaussianTrial or FlowTrial."
            )
        if key is None:
            raise ValueError(
                "QuadraticTrial draws random numbers: give a key, such as key=jax.random.key(0)."
            )
        if is_traced(hamiltonian.diffusion) or is_traced(key):
            raise ValueError("QuadraticTrial solves on the host: call it outside of jit, vmap and grad.")
        key_gaussian, key_rounds, key_last = jax.random.split(key, 3)
        first = self.gaussian.solve(hamiltonian, key_gaussian)
        psi = first.wavefunction
        assert isinstance(psi, GaussianWavefunction)
        evaluate = make_evaluator(hamiltonian)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key_rounds)))
        count = self.candidates or round_size(hamiltonian.dim)
        metric = HostMetric(*(np.asarray(part, float) for part in psi.metric))
        metric = metric._replace(scale=_WIDER * metric.scale)
        trial = host_trial(np.asarray(psi.centre, float), metric, DEFENSIVE)
        drawn = draw_and_weigh(evaluate, trial, rng, FIRST_ROUNDS * count, evaluate.dtype)
        second = solve_quadratic(evaluate, weighted_sample(drawn), rng, count, evaluate.dtype)
        spent = int(first.diagnostics["evaluations"]) + evaluate.num_evals
        accepted = first.diagnostics["acceptance"]
        if second is None or second.certificate.acceptance <= float(accepted):
            warnings.warn(
                "QuadraticTrial found neither bends nor funnels that a Gaussian lacks; the state is that of "
                "GaussianTrial.",
                QuadraticTrialWarning,
                stacklevel=3,
            )
            return dataclasses.replace(
                first,
                diagnostics={
                    **first.diagnostics,
                    "terms": 0,
                    "gaussian_acceptance": accepted,
                    "evaluations": spent,
                },
            )
        dtype = jnp.result_type(float)
        base = second.base
        state = QuadraticWavefunction(
            to_device(second.law), *(jnp.asarray(part, dtype) for part in (base.shift, base.width, base.skew))
        )
        found = certify(_draw(hamiltonian, state, key_last, _CERTIFIED))
        energy = found.pop("energy")
        terms = len(second.law.shift_slopes) + len(second.law.width_slopes)
        finite_fraction = float(found["finite_share"])
        if finite_fraction < 1:
            warnings.warn(
                f"log density or gradient is not finite at {1 - finite_fraction:.1%} of the trial's draws; "
                "they are left out of the energy and count as rejected. Check log_p there.",
                QuadraticTrialWarning,
                stacklevel=3,
            )
        return GroundState(
            energy,
            energy + found["energy_standard_error"],
            None,
            None,
            None,
            hamiltonian.diffusion,
            state,
            {**found, "evaluations": spent + _CERTIFIED, "terms": terms, "gaussian_acceptance": accepted},
        )


def _draw(hamiltonian: Hamiltonian, psi: QuadraticWavefunction, key: jax.Array, count: int) -> Candidates:
    """Draws of the state with their weights and energies."""

    def one(key):
        x = psi.sample(key)
        value, score = jax.value_and_grad(lambda x: log_weight(hamiltonian, x))(x)
        log_psi, slope = jax.value_and_grad(psi.log_psi)(x)
        sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(score))
        difference = jnp.where(sound, 2 * slope - score, 0)
        weight = jnp.where(sound, value - 2 * log_psi, -jnp.inf)
        return Candidates(x, score, weight, 0.25 * hamiltonian.diffusion * difference @ difference)

    return jax.jit(jax.vmap(one))(jax.random.split(key, count))
