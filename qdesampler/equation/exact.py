"""Closed forms: systems whose spectrum and ground state are known, for any diffusion coefficient `D`.

Each is an `ExactSystem` with the same few methods, so that one test covers all of them, and every solver can
be compared with them. `D = 1/2` gives the textbook values in units where `hbar = m = 1`.

| system | potential | lowest energies |
| --- | --- | --- |
| `HarmonicOscillator` | `x^T K x / 2` | `sum_i omega_i (n_i + 1/2)`, `omega_i^2 = 2 D kappa_i` |
| `OrnsteinUhlenbeck` | Boltzmann, `p = N(0, Sigma)` | `D sum_i n_i / sigma_i^2` |
| `Morse` | `A (1 - exp(-a x))^2` | `omega (n + 1/2) - D a^2 (n + 1/2)^2`, `omega = 2 a sqrt(D A)` |
| `Box` | 0 on an interval of length `L` | `D (pi n / L)^2`, `n = 1, 2, ...` |
| `Hydrogen` | `-Z / abs(x)`, three dimensions | `-Z^2 / (4 D n^2)`, `n^2` times each |

References:
    Landau and Lifshitz, "Quantum Mechanics" (1977), sections 22, 23 and 36; Morse, Phys. Rev. 34 (1929) 57.
"""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.validation import as_float_array, as_point, as_positive_int, as_positive_scalar


def log_heat_kernel(x: ArrayLike, y: ArrayLike, tau: ArrayLike, diffusion: ArrayLike) -> jax.Array:
    """Return the log kernel of a free particle, a scalar: the normal density of variance `2 D tau`.

        log K(x, y; tau) = -(dim / 2) log(4 pi D tau) - |x - y|^2 / (4 D tau).

    Args:
        x: end point, shape `(dim,)`.
        y: start point, shape `(dim,)`.
        tau: imaginary time, positive.
        diffusion: `D > 0`.

    Raises:
        TypeError: `tau` or `diffusion` is not a real number.
        ValueError: the points differ in shape or are no vectors; `tau` or `diffusion` is not positive and
            finite.
    """
    y = as_float_array(y)
    if y.ndim != 1:
        raise ValueError(f"y must be one point of shape (dim,), got {y.shape}; batch with jax.vmap.")
    dim = y.size
    spread = 4 * as_positive_scalar("diffusion", diffusion) * as_positive_scalar("tau", tau)
    distance = as_point("x", x, dim) - y
    return -dim / 2 * jnp.log(math.pi * spread) - distance @ distance / spread


class ExactSystem(abc.ABC):
    """A Hamiltonian `-D lap + V` with a known spectrum and ground state."""

    diffusion: float | jax.Array

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Number of coordinates."""

    @abc.abstractmethod
    def potential(self, x: ArrayLike) -> jax.Array:
        """Return `V(x)`, a scalar, at one point of shape `(dim,)`."""

    @abc.abstractmethod
    def energies(self, count: int) -> jax.Array:
        """Return the `count` lowest energies in ascending order, each as often as it is degenerate."""

    @abc.abstractmethod
    def log_ground_state(self, x: ArrayLike) -> jax.Array:
        """Return `log psi0(x)`, a scalar, at one point of shape `(dim,)`; `int psi0^2 dx = 1`."""

    def hamiltonian(self) -> Hamiltonian:
        """Return the Hamiltonian of this system, with its closed-form potential."""
        return Hamiltonian.from_objective(self.potential, dim=self.dim, diffusion=self.diffusion)


@dataclasses.dataclass(frozen=True, eq=False)
class Morse(ExactSystem):
    """`V = A (1 - exp(-a x))^2` on the line: a well that dissociates at the energy `A`.

    With `lambda = sqrt(A / D) / a` and `z = 2 lambda exp(-a x)`, `psi0` is `z^(lambda - 1/2) exp(-z / 2)` up
    to normalisation, and the bound states are `0 <= n < lambda - 1/2`.

    Attributes:
        depth: `A > 0`, an energy.
        width: `a > 0`, an inverse length.
        diffusion: `D > 0`.

    Raises:
        TypeError: an argument is not a real number.
        ValueError: an argument is not positive and finite, or the well holds no bound state (`lambda <=
            1/2`).
    """

    depth: float
    width: float = 1.0
    diffusion: float = 0.5

    def __post_init__(self) -> None:
        for name in ("depth", "width", "diffusion"):
            object.__setattr__(self, name, float(as_positive_scalar(name, getattr(self, name))))
        if self.num_bound_states == 0:
            raise ValueError(
                f"the Morse well holds no bound state: sqrt(depth / diffusion) / width must exceed 1/2, got "
                f"{self._lambda}. Take a deeper or wider well (smaller width), or a smaller diffusion."
            )

    @property
    def dim(self) -> int:
        """Number of coordinates: 1."""
        return 1

    @property
    def num_bound_states(self) -> int:
        """Number of levels below the dissociation energy."""
        return max(math.ceil(self._lambda - 0.5), 0)

    def potential(self, x: ArrayLike) -> jax.Array:
        """Return `V(x)`, a scalar, at one point of shape `(1,)`."""
        return self.depth * jnp.expm1(-self.width * as_point("x", x, 1)[0]) ** 2

    def energies(self, count: int) -> jax.Array:
        """Return the `count` lowest energies `omega (n + 1/2) - D a^2 (n + 1/2)^2`, `omega = 2 a sqrt(D A)`.

        Raises:
            TypeError: `count` is not an integer.
            ValueError: `count < 1`, or the well holds fewer bound states.
        """
        if as_positive_int("count", count) > self.num_bound_states:
            raise ValueError(f"the well holds {self.num_bound_states} bound states, got count = {count}.")
        scaled = self.width * (jnp.arange(count) + 0.5)
        return 2 * math.sqrt(self.diffusion * self.depth) * scaled - self.diffusion * scaled**2

    def log_ground_state(self, x: ArrayLike) -> jax.Array:
        """Return `log psi0(x)`, a scalar, at one point of shape `(1,)`."""
        log_z = math.log(2 * self._lambda) - self.width * as_point("x", x, 1)[0]
        log_norm = (math.log(self.width) - math.lgamma(2 * self._lambda - 1)) / 2
        return log_norm + (self._lambda - 0.5) * log_z - jnp.exp(log_z) / 2

    @property
    def _lambda(self) -> float:
        return math.sqrt(self.depth / self.diffusion) / self.width


@dataclasses.dataclass(frozen=True, eq=False)
class Box(ExactSystem):
    """The infinite well: `V = 0` between `lower` and `upper`, `inf` elsewhere.

    With `u = x - lower` and `L = upper - lower`, the ground state is `sqrt(2 / L) sin(pi u / L)`.

    Attributes:
        lower: left wall.
        upper: right wall.
        diffusion: `D > 0`.

    Raises:
        TypeError: `diffusion` is not a real number.
        ValueError: the walls are not finite and in order, or `diffusion` is not positive and finite.
    """

    lower: float = 0.0
    upper: float = 1.0
    diffusion: float | jax.Array = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper):
            raise ValueError(f"walls must be finite with lower < upper, got {self.lower} and {self.upper}.")
        object.__setattr__(self, "diffusion", as_positive_scalar("diffusion", self.diffusion))

    @property
    def dim(self) -> int:
        """Number of coordinates: 1."""
        return 1

    def potential(self, x: ArrayLike) -> jax.Array:
        """Return `V(x)`, a scalar, at one point of shape `(1,)`."""
        position = as_point("x", x, 1)[0]
        return jnp.where((position > self.lower) & (position < self.upper), 0.0, jnp.inf).astype(
            position.dtype
        )

    def energies(self, count: int) -> jax.Array:
        """Return the `count` lowest energies `D (pi n / L)^2`, `n = 1, 2, ...`."""
        n = jnp.arange(1, as_positive_int("count", count) + 1)
        return self.diffusion * (math.pi * n / (self.upper - self.lower)) ** 2

    def log_ground_state(self, x: ArrayLike) -> jax.Array:
        """Return `log psi0(x)`, a scalar, at one point of shape `(1,)`; `-inf` on the walls and beyond."""
        psi = self.state(0, x)
        return jnp.where(psi > 0, jnp.log(jnp.where(psi > 0, psi, 1)), -jnp.inf)

    def state(self, number: int, x: ArrayLike) -> jax.Array:
        """Return the normalised eigenstate `sqrt(2 / L) sin((number + 1) pi u / L)`; 0 beyond the walls.

        Raises:
            ValueError: `number` is negative; `x` has another shape than `(1,)`.
        """
        if number < 0:
            raise ValueError(f"number must count the states from 0 on, got {number}.")
        position, length = as_point("x", x, 1)[0], self.upper - self.lower
        wave = math.sqrt(2 / length) * jnp.sin((number + 1) * math.pi * (position - self.lower) / length)
        return jnp.where((position > self.lower) & (position < self.upper), wave, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Hydrogen(ExactSystem):
    """`V = -Z / |x|` in three dimensions; `psi0 = exp(-kappa |x|)` up to normalisation, `kappa = Z / (2 D)`.

    Value and derivatives are not defined at the nucleus, `x = 0`.

    Attributes:
        charge: `Z > 0`.
        diffusion: `D > 0`.

    Raises:
        TypeError: an argument is not a real number.
        ValueError: an argument is not positive and finite.
    """

    charge: float | jax.Array = 1.0
    diffusion: float | jax.Array = 0.5

    def __post_init__(self) -> None:
        for name in ("charge", "diffusion"):
            object.__setattr__(self, name, as_positive_scalar(name, getattr(self, name)))

    @property
    def dim(self) -> int:
        """Number of coordinates: 3."""
        return 3

    def potential(self, x: ArrayLike) -> jax.Array:
        """Return `V(x)`, a scalar, at one point of shape `(3,)`."""
        return -self.charge / jnp.linalg.norm(as_point("x", x, 3))

    def energies(self, count: int) -> jax.Array:
        """Return the `count` lowest energies `-Z^2 / (4 D n^2)`, each `n^2` times."""
        numbers = np.arange(1, as_positive_int("count", count) + 1)
        shells = np.repeat(numbers, numbers**2)[:count]
        return -(self.charge**2) / (4 * self.diffusion * jnp.asarray(shells, jnp.result_type(float)) ** 2)

    def log_ground_state(self, x: ArrayLike) -> jax.Array:
        """Return `log psi0(x)`, a scalar, at one point of shape `(3,)`."""
        rate = self.charge / (2 * self.diffusion)
        return 1.5 * jnp.log(rate) - math.log(math.pi) / 2 - rate * jnp.linalg.norm(as_point("x", x, 3))
