r"""The Gaussian trial state of least energy, in any dimension: `GaussianTrial`."""

import dataclasses
import warnings
from typing import Any, Literal

import jax
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.metric import DENSE_UP_TO
from qdesampler.solvers.gaussian.boltzmann import GaussianSettings, solve_boltzmann
from qdesampler.solvers.gaussian.objective import solve_objective
from qdesampler.solvers.gaussian.starts import make_evaluator, run_descents
from qdesampler.solvers.gaussian.step import LOW_RANK
from qdesampler.solvers.protocol import GroundState
from qdesampler.validation import as_positive_int, as_positive_scalar, is_traced

__all__ = ["GaussianTrial", "GaussianTrialWarning"]

# Boltzmann: root mean square whitened distance of a round; objective: largest imbalance.
_TOLERANCE = {"boltzmann": 0.3, "objective": 1e-3}


class GaussianTrialWarning(UserWarning):
    """The Gaussian answers, but did not settle, or part of it lies where the target is not finite."""


@dataclasses.dataclass(frozen=True)
class GaussianTrial:
    r"""Solver for any dimension: the Gaussian `psi = sqrt(N(mu, Sigma))` of least energy.

    *Boltzmann Hamiltonians.* First, descents of `-log p` (imaginary time at `D -> 0`) from several points. A
    local Gaussian is fitted at each distinct end, and the one with the largest mass is kept, by its evidence
    lower bound `E_q[log p - log q]`, whatever its height. Then follow rounds of candidates drawn from the
    trial and the closed-form step

        Sigma Cov(a) Sigma = Cov(x),    mu = mean x + Sigma mean a,    a = grad log p(x),

    in the coordinates that the trial whitens, until the trial stops moving. The step minimises the energy
    over the candidates, weighted by a power of `p / q` that keeps half of them effective (with a low-rank
    factor by equal weights). It is exact on a Gaussian. On other targets its fixed point balances score and
    width under `q`; it is near the least energy but not exactly there, since the candidates move with the
    trial and their weights favour `p`. The energy reported is

        E[q] = (D/4) E_q |grad log q - grad log p|^2 >= 0 = E_0,

    so it is itself the distance to the exact energy, and `energy_error = energy + its standard error`. All
    reported numbers come from draws that no fit has used. Mass in a heavy tail beyond these draws is missed.

    *Objective Hamiltonians.* The time-dependent variational principle
    (`qdesampler.solvers.gaussian.objective`), started from the harmonic state of lowest energy among the ends
    of the descents. Expectations are Gauss-Hermite sums up to three dimensions, and averages over fixed
    antithetic draws beyond. The energy is an upper bound of `E_0` (up to the error of those sums);
    `energy_error` is the root of the variance of the local energy plus sampling error: some level lies within
    it (Weinstein), the ground level if the state is closer to it than to any other. Each evaluation of the
    curvature takes `dim` Hessian-vector products, so this is meant for some hundred dimensions at most
    (diagonal: a thousand).

    The solve runs once, on the host; it cannot run under `jit`. `gap` is `None`: a Gaussian gives no second
    level. It works in float32 at condition numbers of about 1e8 if `log_p` does.

    Diagnostics: `evaluations` (gradients and Hessian-vector products, one each), `rounds`, `converged`.
    Boltzmann: `energy_standard_error`; `kinetic_energy`, `(D/4) tr Sigma^-1`, the scale to compare it with;
    `acceptance` and `independence_time`, as a proposal of independence Metropolis, and
    `evidence_lower_bound` (of `log integral p`) with its `_error`; `modes`, shape `(modes, dim)`, and
    `mode_log_masses`; `change`, what the last round moved in whitened units; `finite_share` of the
    candidates, and `wild_rounds`, in which most were not finite and the widths were halved. Objectives:
    `energy_spread`, the root of the variance of the local energy, and `imbalance`, the norm of the
    deviations of force and virial from balance.

    Attributes:
        kind: `"dense"`, `"diagonal"`, or `"low-rank"`: diagonal times a correction of `rank` directions
            (Boltzmann only where `rank < dim`).
        rank: directions of a low-rank factor; `None`: all up to 128 dimensions, 32 beyond.
        start: start of the first descent, shape `(dim,)`, the others start around it; `None`: all start
            around the origin.
        descents: number of descents.
        rounds: largest number of rounds (for objectives, of up to ten steps each).
        candidates: points of a round; `None`: `max(16, 2 dim)`.
        tolerance: distance that the last round may move, root mean square in units of the trial's widths
            (objectives: largest imbalance); `None`: 0.3 (objectives: 1e-3).

    Raises:
        TypeError, ValueError: an argument is not of these kinds; the message names it.
    """

    kind: Literal["dense", "diagonal", "low-rank"] = "dense"
    rank: int | None = None
    start: Any = None
    descents: int = 4
    rounds: int = 24
    candidates: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("dense", "diagonal", "low-rank"):
            raise ValueError(f"kind must be 'dense', 'diagonal' or 'low-rank', got {self.kind!r}.")
        if self.rank is not None:
            if self.kind != "low-rank":
                raise ValueError(
                    f"rank = {self.rank!r} goes with kind='low-rank', got kind={self.kind!r}; leave it out."
                )
            as_positive_int("rank", self.rank)
        for name in ("descents", "rounds"):
            as_positive_int(name, getattr(self, name))
        if self.candidates is not None and as_positive_int("candidates", self.candidates) < 4:
            raise ValueError(f"candidates must be at least 4, got {self.candidates}.")
        if self.tolerance is not None:
            as_positive_scalar("tolerance", self.tolerance)
        if self.start is not None:
            start = np.asarray(self.start)
            if start.ndim != 1 or not np.issubdtype(start.dtype, np.number) or not np.isfinite(start).all():
                raise ValueError(f"start must be one finite point of shape (dim,), got {self.start!r}.")
            object.__setattr__(self, "start", tuple(float(x) for x in start))

    def solve(self, hamiltonian: Hamiltonian, key: jax.Array | None = None) -> GroundState:
        """Return the Gaussian of least energy; `key` draws starts and candidates.

        Warns:
            GaussianTrialWarning: the rounds ended before the trial stopped moving, or part of its draws lies
                where log density or gradient is not finite.

        Raises:
            NoGroundStateError: no finite start, or no normalisable state: the target is flat, improper or
                unbounded. (A `ValueError`.)
            ValueError: `key` is `None`; `start` has another shape than `(dim,)`; a low-rank factor for an
                objective.
        """
        dim = hamiltonian.dim
        if key is None:
            raise ValueError("GaussianTrial draws random numbers: give a key, such as key=jax.random.key(0).")
        if is_traced(hamiltonian.diffusion) or is_traced(key):
            raise ValueError("GaussianTrial solves on the host: call it outside of jit, vmap and grad.")
        centre = None
        if self.start is not None:
            if len(self.start) != dim:
                raise ValueError(f"start must have shape ({dim},), got ({len(self.start)},).")
            centre = np.asarray(self.start)
        settings = GaussianSettings(
            self._rank(dim),
            self.rounds,
            max(16, 2 * dim) if self.candidates is None else self.candidates,
            _TOLERANCE[hamiltonian.kind] if self.tolerance is None else float(self.tolerance),
        )
        objective = hamiltonian.kind == "objective"
        if objective and 0 < settings.rank < dim:
            raise ValueError(
                f"a low-rank factor (rank {settings.rank} of dim {dim}) is for Boltzmann Hamiltonians; take "
                "kind='diagonal' or kind='dense' for an objective."
            )
        key_descents, key_rounds = jax.random.split(key)
        evaluate = make_evaluator(hamiltonian)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key_descents)))
        descents = run_descents(hamiltonian, evaluate, rng, centre, self.descents)
        method = solve_objective if objective else solve_boltzmann
        psi, found = method(hamiltonian, evaluate, descents, key_rounds, settings)
        _warn_where_needed(found, settings)
        energy = found.pop("energy")
        error = found.pop("energy_error") if objective else energy + found["energy_standard_error"]
        return GroundState(energy, error, None, None, None, hamiltonian.diffusion, psi, found)

    def _rank(self, dim: int) -> int:
        if self.kind == "diagonal":
            return 0
        if self.kind == "dense":
            return dim
        return min(dim, self.rank or (dim if dim <= DENSE_UP_TO else LOW_RANK))


def _warn_where_needed(found: dict[str, Any], settings: GaussianSettings) -> None:
    if not found["converged"]:
        name = "change" if "change" in found else "imbalance"
        warnings.warn(
            f"the Gaussian did not settle in {found['rounds']} rounds: {name} {found[name]:.3g}, tolerance "
            f"{settings.tolerance:g}. Take more rounds or candidates; a target far from a Gaussian may need "
            "other coordinates.",
            GaussianTrialWarning,
            stacklevel=4,
        )
    finite_fraction = float(found.get("finite_share", 1.0))
    if finite_fraction < 1:
        warnings.warn(
            f"log density or gradient is not finite at {1 - finite_fraction:.1%} of the trial's draws; they "
            "are left out of the energy and count as rejected. Check log_p there.",
            GaussianTrialWarning,
            stacklevel=4,
        )
