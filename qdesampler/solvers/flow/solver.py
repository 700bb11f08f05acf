r"""The normalising-flow trial state: `FlowTrial`."""

import dataclasses
import warnings

import jax

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.solvers.flow.boltzmann import FlowSettings, solve_boltzmann
from qdesampler.solvers.flow.network import network
from qdesampler.solvers.flow.objective import solve_objective
from qdesampler.solvers.flow.start import gaussian_start
from qdesampler.solvers.flow.wavefunction import FlowWavefunction
from qdesampler.solvers.gaussian.solver import GaussianTrial
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction
from qdesampler.solvers.protocol import GroundState
from qdesampler.validation import as_positive_int, as_positive_scalar, is_traced

__all__ = ["FlowTrial", "FlowTrialWarning"]


class FlowTrialWarning(UserWarning):
    """The flow answers, but part of its draws lies where the target is not finite."""


@dataclasses.dataclass(frozen=True, eq=False)
class FlowTrial:
    r"""Solver for posteriors that no Gaussian fits: `psi = sqrt(q)`, `q` a Gaussian bent by a trained map.

    It needs the optional extra `flow`. If `GaussianTrial` does well, a flow is not worth its time; on funnels
    and curved ridges an independence proposal needs one.

    *Boltzmann Hamiltonians.* In rounds: draws of the present flow are scored (`log p` and its gradient, one
    evaluation each) and stored; the flow is trained on all stored points, on the energy in the coordinates of
    its base (`qdesampler.solvers.flow.boltzmann`), with no further evaluation. The fresh draws of each round
    measure the flow that drew them before it is trained on them; the flow with the highest evidence lower
    bound is kept. The energy reported is `E[q] = (D/4) E_q |grad log q - grad log p|^2 >= 0 = E_0`, with
    `energy_error` = energy + its standard error, as for the Gaussian. It can be large although the flow is
    good: in the neck of a funnel a small misfit has a large gradient. Judge a proposal by its acceptance. The
    tails of `q` are those of a bent Gaussian: they do not bound the target far out in directions without
    draws.

    *Objective Hamiltonians.* The energy `E_q[(D/4) |grad log q|^2 + zeta]` itself, by reparametrised
    gradients, see `qdesampler.solvers.flow.objective`; `energy_error` as for `GaussianTrial`.

    The solve runs on the host, once, and cannot run under `jit`; `gap` is `None`. Draws are exact draws of
    `q`; `log_psi` has derivatives of every order.

    Diagnostics: `evaluations` of this solve in total; `start_evaluations`, those that found the start (they
    are not in `evaluations` if the start is a `GroundState`); `rounds`; `converged`; `history`, a mapping of
    arrays: `evaluations` and the estimates from held-out draws after each round. Boltzmann: those of
    `GaussianTrial` (`energy_standard_error`, `acceptance`, `independence_time`, `evidence_lower_bound` and
    its `_error`, `finite_share`), `best_round` (0 is the Gaussian start), `gaussian_acceptance`, the
    acceptance of the start on the same draws, and `pays`: whether the flow accepts at
    least 1.2 times as often. Objectives: `energy_spread`, `energy_standard_error`.

    Attributes:
        start: a ground state of `GaussianTrial`, which the flow whitens by and starts at; a `GaussianTrial`
            to be solved first; `None`: a Gaussian found by rounds of scored draws that begin at `N(0, I)`
            (`qdesampler.solvers.flow.start`); if these find none, and for objectives, by `GaussianTrial()`.
        layers: coupling layers, in pairs.
        width: hidden units of the network of each.
        evaluations: largest number of evaluations for training; up to 2048 more measure the result.
        rounds: rounds of draws and training.
        steps: steps of Adam in a round (Boltzmann).
        batch: points of a step.
        rate: learning rate.
        acceptance: acceptance at which training ends (Boltzmann).

    Raises:
        TypeError, ValueError: an argument is not of these kinds; the message names it.
    """

    start: GroundState | GaussianTrial | None = None
    layers: int = 6
    width: int = 32
    evaluations: int = 8192
    rounds: int = 8
    steps: int = 300
    batch: int = 256
    rate: float = 3e-3
    acceptance: float = 0.9

    def __post_init__(self) -> None:
        for name in ("layers", "width", "evaluations", "rounds", "steps", "batch"):
            as_positive_int(name, getattr(self, name))
        as_positive_scalar("rate", self.rate)
        if as_positive_scalar("acceptance", self.acceptance) > 1:
            raise ValueError(f"acceptance must be at most 1, got {self.acceptance}.")
        if self.evaluations < 128 * self.rounds:
            raise ValueError(
                f"evaluations must be at least 128 a round, {128 * self.rounds} for {self.rounds} rounds, "
                f"got {self.evaluations}."
            )
        if not (self.start is None or isinstance(self.start, GroundState | GaussianTrial)):
            raise TypeError(
                "start must be a ground state found by GaussianTrial, a GaussianTrial or None, got "
                f"{self.start!r}."
            )
        if isinstance(self.start, GroundState):
            _as_gaussian(self.start)

    def solve(self, hamiltonian: Hamiltonian, key: jax.Array | None = None) -> GroundState:
        """Return the trained flow; `key` draws start, network and points.

        Warns:
            FlowTrialWarning: part of the draws lies where log density or gradient is not finite.

        Raises:
            ModuleNotFoundError: the extra `flow` is not installed.
            NoGroundStateError: no normalisable state: the target is flat, improper, unbounded or not finite.
                (A `ValueError`.)
            ValueError: `key` is `None`; `start` has another dimension; the solve is traced.
        """
        if key is None:
            raise ValueError("FlowTrial draws random numbers: give a key, such as key=jax.random.key(0).")
        if is_traced(hamiltonian.diffusion) or is_traced(key):
            raise ValueError("FlowTrial solves on the host: call it outside of jit, vmap and grad.")
        key_start, key_network, key_train = jax.random.split(key, 3)
        numbers, form = network(key_network, hamiltonian.dim, self.layers, self.width)
        gaussian, given, spent = self._gaussian(hamiltonian, key_start)
        settings = FlowSettings(
            self.evaluations, self.rounds, self.steps, self.batch, float(self.rate), float(self.acceptance)
        )
        objective = hamiltonian.kind == "objective"
        method = solve_objective if objective else solve_boltzmann
        psi, found = method(hamiltonian, key_train, FlowWavefunction(gaussian, numbers, form), settings)
        found["evaluations"] += spent
        found["start_evaluations"] = given
        energy = found.pop("energy")
        error = found.pop("energy_error") if objective else energy + found["energy_standard_error"]
        finite_fraction = float(found.get("finite_share", 1.0))
        if finite_fraction < 1:
            warnings.warn(
                f"log density or gradient is not finite at {1 - finite_fraction:.1%} of the flow's draws; "
                "they are left out of the energy and count as rejected. Check log_p there.",
                FlowTrialWarning,
                stacklevel=3,
            )
        return GroundState(energy, error, None, None, None, hamiltonian.diffusion, psi, found)

    def _gaussian(self, hamiltonian: Hamiltonian, key: jax.Array) -> tuple[GaussianWavefunction, int, int]:
        """The start, the evaluations that found it, and how many of these were made now."""
        start, spent = self.start, 0
        if isinstance(start, GroundState):
            if start.dim != hamiltonian.dim:
                raise ValueError(
                    f"start is a state of {start.dim} coordinates, the Hamiltonian has {hamiltonian.dim}."
                )
            return _as_gaussian(start), int(start.diagnostics.get("evaluations", 0)), 0
        key_rounds, key_descents = jax.random.split(key)
        if start is None and hamiltonian.kind == "boltzmann":
            psi, spent = gaussian_start(hamiltonian, key_rounds)
            if psi is not None:
                return psi, spent, spent
        solved = (GaussianTrial() if start is None else start).solve(hamiltonian, key_descents)
        spent += int(solved.diagnostics["evaluations"])
        return _as_gaussian(solved), spent, spent


def _as_gaussian(state: GroundState) -> GaussianWavefunction:
    psi = state.wavefunction
    if not isinstance(psi, GaussianWavefunction):
        raise TypeError(
            f"start must be a ground state found by GaussianTrial, got a state with a {type(psi).__name__}."
        )
    return psi
