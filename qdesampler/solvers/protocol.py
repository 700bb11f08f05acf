"""The result of an imaginary-time solver, and the single entry to all solvers.

`exp(-H tau)` damps every state but the lowest, so every solver of this room answers the same question: which
positive function `psi`, with `integral psi^2 = 1`, has the least energy `<psi|H|psi>`? The answer is a
`GroundState`: numbers (energy, error, gap) and a *wavefunction* component. Only that defines how `log psi`
is stored and how draws of `psi^2` are made. A new solver brings

* a frozen configuration object with a method `solve(hamiltonian, key)` (the protocol `Solver`), and
* a pytree with `dim`, `support`, `log_psi(x)` and `sample(key)` (the protocol `Wavefunction`).

Nothing else has to change.
"""

import dataclasses
import math
import operator
from collections.abc import Mapping
from html import escape
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.validation import as_point, check_key, is_traced

__all__ = ["GroundState", "Solver", "Wavefunction", "ground_state"]


# Draws made at once; more are made in turns, to limit memory.
_DRAWS_AT_ONCE = 16384


class Wavefunction(Protocol):
    """A positive state `psi` with `integral psi^2 dx = 1`, as a JAX pytree; methods are for one point."""

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        ...

    @property
    def support(self) -> tuple[jax.Array, jax.Array] | None:
        """Corners, shape `(dim,)` each, of the box outside which `psi` is 0; `None`: all space."""
        ...

    def log_psi(self, x: jax.Array) -> jax.Array:
        """Return `log psi(x)`, a scalar, at one point of shape `(dim,)`; differentiable twice."""
        ...

    def sample(self, key: jax.Array) -> jax.Array:
        """Return one exact draw from `psi^2`, shape `(dim,)`."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GroundState:
    """The lowest state of `H = -D lap + V`: immutable, a JAX pytree, may cross `jit` and `vmap`.

    Attributes:
        energy: lowest eigenvalue `E_0`, a scalar, in the units of `V`.
        energy_error: estimate of `|energy - E_0|`, discretisation, truncation and rounding together.
        gap: `E_1 - E_0 > 0`, the slowest relaxation rate in imaginary time (for a Boltzmann Hamiltonian, of
            Langevin dynamics with diffusion `D`); `None` if the solver does not compute it.
        levels: lowest eigenvalues, ascending, shape `(states,)`; `None` if the solver computes only one.
        level_errors: their errors, same shape.
        diffusion: `D`.
        wavefunction: the component that stores `psi`.
        diagnostics: named numbers about the solve; each solver documents its own.
    """

    energy: jax.Array
    energy_error: jax.Array
    gap: jax.Array | None
    levels: jax.Array | None
    level_errors: jax.Array | None
    diffusion: float | jax.Array
    wavefunction: Wavefunction
    diagnostics: Mapping[str, Any]

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.wavefunction.dim

    @property
    def support(self) -> tuple[jax.Array, jax.Array] | None:
        """Lower and upper corner of the box outside which `psi` is 0, or `None` for the whole space."""
        return self.wavefunction.support

    def log_psi(self, x: ArrayLike) -> jax.Array:
        """Return `log psi(x)`, a scalar, at one point of shape `(dim,)`; `integral psi^2 = 1`.

        Raises:
            ValueError: `x` has another shape than `(dim,)`.
        """
        return self.wavefunction.log_psi(as_point("x", x, self.dim))

    def log_prob(self, x: ArrayLike) -> jax.Array:
        """Return the log density `log p(x) = 2 log psi(x)`, a scalar, at one point of shape `(dim,)`.

        Raises:
            ValueError: `x` has another shape than `(dim,)`.
        """
        return 2 * self.log_psi(x)

    def drift(self, x: ArrayLike) -> jax.Array:
        """Return `b(x) = 2 D grad log psi(x)`, shape `(dim,)`.

        Langevin dynamics `dx = b dtau + sqrt(2 D) dW` leaves `psi^2` invariant and relaxes at the rate `gap`.

        Raises:
            ValueError: `x` has another shape than `(dim,)`.
        """
        return 2 * self.diffusion * jax.grad(self.wavefunction.log_psi)(as_point("x", x, self.dim))

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Return independent draws from `psi^2`, shape `shape + (dim,)`.

        Args:
            key: JAX random key.
            shape: sample shape.

        Raises:
            TypeError: `shape` is not a tuple of integers.
            ValueError: `shape` holds a negative number.
        """
        try:
            shape = tuple(operator.index(n) for n in shape)
        except TypeError as error:
            raise TypeError(f"shape must be a tuple of integers, such as (1000,), got {shape!r}.") from error
        if any(n < 0 for n in shape):
            raise ValueError(f"shape must hold no negative number, got {shape}.")
        count = math.prod(shape)
        if count == 0:
            return jnp.zeros((*shape, self.dim), jnp.result_type(float))
        turns = -(-count // _DRAWS_AT_ONCE)
        keys = jax.random.split(key, (turns, -(-count // turns)))  # equal turns: one program for all
        draws = _draw(self.wavefunction, keys).reshape(-1, self.dim)
        return draws[:count].reshape(*shape, self.dim)

    def _repr_html_(self) -> str | None:
        """The numbers as a table for notebooks; None for traced or batched states, which `repr` shows."""
        if is_traced(self.energy) or jnp.ndim(self.energy) != 0:
            return None
        digits = min(10, int(jnp.finfo(self.energy.dtype).precision) + 1)  # no digits of rounding
        rows = {
            "energy": f"{float(self.energy):.{digits}g} \N{PLUS-MINUS SIGN} {float(self.energy_error):.1g}",
            "gap": None if self.gap is None else f"{float(self.gap):.{digits}g}",
            "levels": None
            if self.levels is None
            else ", ".join(f"{float(e):.{digits}g}" for e in self.levels),
            "diffusion": f"{float(self.diffusion):g}",
            "coordinates": str(self.dim),
            "wavefunction": type(self.wavefunction).__name__,
        }
        left = 'style="text-align: left"'
        cells = "".join(
            f"<tr><th {left}>{label}</th><td {left}>{escape(text)}</td></tr>"
            for label, text in rows.items()
            if text is not None
        )
        return f"<table><caption>GroundState</caption><tbody>{cells}</tbody></table>"


@jax.jit
def _draw(wavefunction: Wavefunction, keys: jax.Array) -> jax.Array:
    return jax.lax.map(jax.vmap(wavefunction.sample), keys)


@runtime_checkable
class Solver(Protocol):
    """A frozen configuration object that finds ground states."""

    def solve(self, hamiltonian: Hamiltonian, key: jax.Array | None) -> GroundState:
        """Return the ground state; deterministic solvers ignore `key`, stochastic ones refuse `None`."""
        ...


def ground_state(hamiltonian: Hamiltonian, solver: Solver, *, key: jax.Array | None = None) -> GroundState:
    """Return the lowest state of `H = -D lap + V` as found by `solver`.

    Args:
        hamiltonian: what to solve.
        solver: how to solve it, such as `SpectralGrid(bounds=(-8.0, 8.0), points=256)`.
        key: JAX random key, for solvers that draw random numbers.

    Returns:
        The state: its energy in the units of `V`, its error, and the gap if the solver computes it.

    Raises:
        TypeError: `solver` is not a solver, `hamiltonian` no `Hamiltonian`, or `key` no key.
        FloatingPointError: the solver came back with an energy that is not finite.
    """
    if not isinstance(hamiltonian, Hamiltonian):
        raise TypeError(
            f"hamiltonian must be a Hamiltonian, got {type(hamiltonian).__name__}; build one with "
            "Hamiltonian.from_log_density or Hamiltonian.from_objective."
        )
    if isinstance(solver, type) or not isinstance(solver, Solver):
        raise TypeError(
            f"solver must be an object with a method solve(hamiltonian, key), got {solver!r}; "
            "for example SpectralGrid(bounds=(-8.0, 8.0), points=256)."
        )
    if key is not None:
        check_key("key", key)
    state = solver.solve(hamiltonian, key)
    if not is_traced(state.energy) and not bool(jnp.isfinite(state.energy)):
        raise FloatingPointError(
            f"{type(solver).__name__} returned the energy {state.energy}; check that the potential is finite "
            "and bounded below where the state lives."
        )
    return state


class NoGroundStateError(ValueError):
    """No normalisable ground state was found; the message says why and what to do."""
