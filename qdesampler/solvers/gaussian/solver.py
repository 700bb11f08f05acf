r"""The Gaussian trial state of least energy, in any dimension: `GaussianTrial`."""

import dataclasses
import warnings
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.metric import DENSE_UP_TO
from qdesampler.solvers.gaussian.boltzmann import Settings, solve_boltzmann
from qdesampler.solvers.gaussian.objective import solve_objective
from qdesampler.solvers.gaussian.starts import descend
from qdesampler.solvers.protocol import GroundState
from qdesampler.validation import as_positive_int, as_positive_scalar, is_traced

__all__ = ["GaussianTrial", "GaussianTrialWarning"]

_LOW_RANK = 32  # directions of a low-rank factor, beyond `DENSE_UP_TO` dimensions
_TOLERANCE = {"boltzmann": 0.3, "objective": 1e-3}


class GaussianTrialWarning(UserWarning):
    """The Gaussian answers, but did not settle, or part of it lies where the target is not finite."""


@dataclasses.dataclass(frozen=True)
class GaussianTrial:
    r"""Solver for any dimension: the Gaussian `psi = sqrt(N(mu, Sigma))` of least energy.

    *Boltzmann Hamiltonians.* Descents of `-log p` (imaginary time at `D -> 0`) from several points; around
    each distinct end a local Gaussian, of which the one with the largest mass is kept, as told by its
    evidence lower bound `E_q[log p - log q]`, whatever its height; then rounds of candidates drawn from the
    trial and the closed-form step

        Sigma Cov(a) Sigma = Cov(x),    mu = mean x + Sigma mean a,    a = grad log p(x),

    in the coordinates that the trial whitens, until it stands still. The step minimises the energy over the
    points at hand, which are weighted by as much of `p / q` as leaves half of them effective (with a low-rank
    factor all alike). It is exact on a Gaussian. Elsewhere its fixed point balances score and
    width under `q`, near the least energy but not exactly there,
    for the points move with the trial and lean towards `p`. The energy reported is

        E[q] = (D/4) E_q |grad log q - grad log p|^2 >= 0 = E_0,

    so it is itself the distance to the exact energy, and `energy_error = energy + its standard error`. All
    numbers come from draws that the trial has not seen. What a heavy tail holds beyond them is not seen
    either.

    *Objective Hamiltonians.* The time-dependent variational principle, see `gaussian_objective`; the harmonic
    state of lowest energy among the ends of the descents is where it starts. Expectations are Gauss-Hermite
    sums up to three dimensions and over fixed antithetic draws beyond. The energy is an upper bound of
    `E_0` (up to the error of those sums); `energy_error` is the root of the variance of the local energy
    plus sampling error: some level lies that close (Weinstein), the ground level where the state is nearer
    to it than to any other. Each evaluation of the curvature takes `dim` Hessian-vector products, so it is
    meant for up to some hundred dimensions (diagonal: a thousand).

    The solve runs once, on the host; it cannot run under `jit`. `gap` is `None`: a Gaussian knows no second
    level. It works in float32 at condition numbers of about 1e8 if `log_p` does.

    Diagnostics: `evaluations` (gradients, Hessian-vector products one each), `rounds`, `converged`.
    Boltzmann: `energy_standard_error`; `kinetic_energy`, `(D/4) tr Sigma^-1`, the scale to judge it by;
    `acceptance` and `independence_time`, as a proposal of independence Metropolis, and
    `evidence_lower_bound` (of `log integral p`) with its `_error`; `modes`, shape `(modes, dim)`, and
    `mode_log_masses`; `change`, what the last round moved in whitened units; `finite_share` of the
    candidates, and `wild_rounds`, in which most were not finite and the widths were halved. Objectives:
    `energy_spread`, the root of the variance of the local energy, and `imbalance`, how far force and virial
    are from balance in any direction.

    Attributes:
        kind: `"dense"`, `"diagonal"`, or `"low-rank"`: diagonal times a correction of `rank` directions
            (Boltzmann only where `rank < dim`).
        rank: directions of a low-rank factor; `None`: all up to 128 dimensions, 32 beyond.
        start: where the first descent starts and the others around it, shape `(dim,)`; `None`: around the
            origin.
        descents: number of descents.
        rounds: most rounds (for objectives, of up to ten steps each).
        candidates: points of a round; `None`: `max(16, 2 dim)`.
        tolerance: how far a round may still move, root mean square distance in units of the trial's widths
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

    def __post_init__(self):
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
            GaussianTrialWarning: the rounds ended before the trial stood still, or part of its draws lies
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
            centre = jnp.asarray(self.start, jnp.result_type(float))
        settings = Settings(
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
        ends = descend(hamiltonian, key_descents, centre, self.descents)
        method = solve_objective if objective else solve_boltzmann
        psi, found = method(hamiltonian, key_rounds, ends, settings)
        _warn_where_needed(found, settings)
        energy = found.pop("energy")
        error = found.pop("energy_error") if objective else energy + found["energy_standard_error"]
        return GroundState(energy, error, None, None, None, hamiltonian.diffusion, psi, found)

    def _rank(self, dim: int) -> int:
        if self.kind == "diagonal":
            return 0
        if self.kind == "dense":
            return dim
        return min(dim, self.rank or (dim if dim <= DENSE_UP_TO else _LOW_RANK))


def _warn_where_needed(found: dict[str, Any], settings: Settings) -> None:
    if not found["converged"]:
        name = "change" if "change" in found else "imbalance"
        warnings.warn(
            f"the Gaussian did not settle in {found['rounds']} rounds: {name} {found[name]:.3g}, tolerance "
            f"{settings.tolerance:g}. Take more rounds or candidates; a target far from a Gaussian may need "
            "other coordinates.",
            GaussianTrialWarning,
            stacklevel=4,
        )
    share = float(found.get("finite_share", 1.0))
    if share < 1:
        warnings.warn(
            f"log density or gradient is not finite at {1 - share:.1%} of the trial's draws; they are left "
            "out of the energy and count as rejected. Check log_p there.",
            GaussianTrialWarning,
            stacklevel=4,
        )
