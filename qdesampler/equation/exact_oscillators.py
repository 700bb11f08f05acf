"""Closed forms of Gaussian systems: the harmonic oscillator and the Ornstein-Uhlenbeck process.

They have the same spectrum up to a constant: `H_OU = H_harmonic - E0` with the stiffness
`K = D Sigma^-2 / 2`, whose frequencies are `omega_i = D / sigma_i^2`.

References:
    Mehler, J. reine angew. Math. 66 (1866) 161; Uhlenbeck and Ornstein, Phys. Rev. 36 (1930) 823.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.equation.exact import ExactSystem
from qdesampler.validation import as_point, as_positive_int, as_positive_scalar


@dataclasses.dataclass(frozen=True, eq=False)
class HarmonicOscillator(ExactSystem):
    """`V = x^T K x / 2`, with frequencies `omega_i = sqrt(2 D kappa_i)` along the eigenvectors of `K`.

    `psi0 = exp(-sum_i omega_i u_i^2 / (4 D))` up to normalisation, `u = Q^T x`.

    Attributes:
        stiffness: `K`, symmetric positive definite, shape `(dim, dim)`; a number or a vector is taken as
            diagonal.
        diffusion: `D > 0`.

    Raises:
        TypeError: an argument is not real.
        ValueError: `stiffness` is not symmetric positive definite; `diffusion` is not positive and finite.
    """

    stiffness: ArrayLike
    diffusion: float | jax.Array = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "stiffness", _as_positive_definite("stiffness", self.stiffness))
        object.__setattr__(self, "diffusion", as_positive_scalar("diffusion", self.diffusion))

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return np.shape(self.stiffness)[0]

    def frequencies(self) -> jax.Array:
        """Return `omega_i = sqrt(2 D kappa_i)` in ascending order, shape `(dim,)`."""
        return jnp.sqrt(2 * self.diffusion * jnp.linalg.eigvalsh(self.stiffness))

    def potential(self, x: ArrayLike) -> jax.Array:
        """Return `V(x)`, a scalar, at one point of shape `(dim,)`."""
        x = as_point("x", x, self.dim)
        return x @ jnp.asarray(self.stiffness, x.dtype) @ x / 2

    def energies(self, count: int) -> jax.Array:
        """Return the `count` lowest energies `sum_i omega_i (n_i + 1/2)`, with multiplicity."""
        frequencies = self.frequencies()
        return _sums_of_quanta(frequencies, count) + jnp.sum(frequencies) / 2

    def log_ground_state(self, x: ArrayLike) -> jax.Array:
        """Return `log psi0(x)`, a scalar, at one point of shape `(dim,)`."""
        u, rate = self._modes(x)
        return jnp.sum(jnp.log(rate / math.pi) / 4 - rate * u**2 / 2)

    def state(self, numbers: tuple[int, ...], x: ArrayLike) -> jax.Array:
        """Return the normalised eigenstate with `n_i` quanta in mode `i`, a product of Hermite functions.

        Modes are in the order of `frequencies`. With `xi = sqrt(omega / 2D) u`, the functions follow from
        `h_{n+1} = sqrt(2 / (n+1)) xi h_n - sqrt(n / (n+1)) h_{n-1}`.

        Raises:
            ValueError: `numbers` has not `dim` entries, or one is negative; `x` has another shape than
                `(dim,)`.
        """
        if len(numbers) != self.dim or min(numbers) < 0:
            raise ValueError(f"numbers must hold {self.dim} quantum numbers from 0 on, got {numbers}.")
        u, rate = self._modes(x)
        product = jnp.ones((), u.dtype)
        for mode, number in enumerate(numbers):
            xi = jnp.sqrt(rate[mode]) * u[mode]
            below, here = jnp.zeros_like(xi), (rate[mode] / math.pi) ** 0.25 * jnp.exp(-(xi**2) / 2)
            for n in range(number):
                below, here = here, math.sqrt(2 / (n + 1)) * xi * here - math.sqrt(n / (n + 1)) * below
            product = product * here
        return product

    def log_kernel(self, x: ArrayLike, y: ArrayLike, tau: ArrayLike) -> jax.Array:
        """Return Mehler's kernel `log K(x, y; tau)`, a scalar. Per mode, with `r = omega / 2D`.

            log K = log(r / (2 pi sinh(omega tau))) / 2 - r ((u^2 + v^2) cosh(omega tau) - 2 u v) / (2
            sinh(omega tau)).

        Raises:
            TypeError: `tau` is not a real number.
            ValueError: `tau` is not positive and finite; a point has another shape than `(dim,)`.
        """
        (u, rate), (v, _) = self._modes(x), self._modes(y)
        theta = 2 * self.diffusion * rate * as_positive_scalar("tau", tau)
        log_sinh = theta + jnp.log1p(-jnp.exp(-2 * theta)) - math.log(2)  # no overflow at long times
        quadratic = (u**2 + v**2) / jnp.tanh(theta) - 2 * u * v * jnp.exp(-log_sinh)
        return jnp.sum((jnp.log(rate / (2 * math.pi)) - log_sinh - rate * quadratic) / 2)

    def _modes(self, x: ArrayLike) -> tuple[jax.Array, jax.Array]:
        x = as_point("x", x, self.dim)
        curvature, directions = jnp.linalg.eigh(jnp.asarray(self.stiffness, x.dtype))
        return directions.T @ x, jnp.sqrt(curvature / (2 * self.diffusion))


@dataclasses.dataclass(frozen=True, eq=False)
class OrnsteinUhlenbeck(ExactSystem):
    """The Boltzmann Hamiltonian of `p = N(0, Sigma)`: `V = D (x^T Sigma^-2 x / 4 - tr(Sigma^-1) / 2)`.

    Its imaginary time is the process `dx = -D Sigma^-1 x dtau + sqrt(2 D) dW`; `psi0 = sqrt(p)`, with energy
    0.

    Attributes:
        covariance: `Sigma`, symmetric positive definite, shape `(dim, dim)`; a number or a vector of
            variances is taken as diagonal.
        diffusion: `D > 0`.

    Raises:
        TypeError: an argument is not real.
        ValueError: `covariance` is not symmetric positive definite; `diffusion` is not positive and finite.
    """

    covariance: ArrayLike
    diffusion: float | jax.Array = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "covariance", _as_positive_definite("covariance", self.covariance))
        object.__setattr__(self, "diffusion", as_positive_scalar("diffusion", self.diffusion))

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return np.shape(self.covariance)[0]

    def potential(self, x: ArrayLike) -> jax.Array:
        """Return `V(x)`, a scalar, at one point of shape `(dim,)`."""
        u, variance = self._modes(x)
        return self.diffusion * jnp.sum(u**2 / (4 * variance**2) - 1 / (2 * variance))

    def energies(self, count: int) -> jax.Array:
        """Return the `count` lowest energies `D sum_i n_i / sigma_i^2`, with multiplicity."""
        return _sums_of_quanta(self.diffusion / jnp.linalg.eigvalsh(self.covariance)[::-1], count)

    def log_density(self, x: ArrayLike) -> jax.Array:
        """Return the normalised `log p(x)`, a scalar, at one point of shape `(dim,)`."""
        u, variance = self._modes(x)
        return -jnp.sum(u**2 / variance + jnp.log(2 * math.pi * variance)) / 2

    def log_ground_state(self, x: ArrayLike) -> jax.Array:
        """Return `log psi0(x) = log p(x) / 2`, a scalar, at one point of shape `(dim,)`."""
        return self.log_density(x) / 2

    def log_transition(self, x: ArrayLike, y: ArrayLike, tau: ArrayLike) -> jax.Array:
        """Return the log density of the process at `x`, a time `tau` after it was at `y`, a scalar. Per mode.

            N(exp(-D tau / sigma^2) v, sigma^2 (1 - exp(-2 D tau / sigma^2))).

        Raises:
            TypeError: `tau` is not a real number.
            ValueError: `tau` is not positive and finite; a point has another shape than `(dim,)`.
        """
        (u, variance), (v, _) = self._modes(x), self._modes(y)
        decay = self.diffusion * as_positive_scalar("tau", tau) / variance
        spread = -variance * jnp.expm1(-2 * decay)
        return -jnp.sum((u - jnp.exp(-decay) * v) ** 2 / spread + jnp.log(2 * math.pi * spread)) / 2

    def log_kernel(self, x: ArrayLike, y: ArrayLike, tau: ArrayLike) -> jax.Array:
        """Return `log K(x, y; tau)` of `exp(-H tau)`, a scalar.

        It is the transition density times `psi0(y) / psi0(x)`.

        Raises:
            TypeError: `tau` is not a real number.
            ValueError: `tau` is not positive and finite; a point has another shape than `(dim,)`.
        """
        return self.log_transition(x, y, tau) + self.log_ground_state(y) - self.log_ground_state(x)

    def _modes(self, x: ArrayLike) -> tuple[jax.Array, jax.Array]:
        x = as_point("x", x, self.dim)
        variance, directions = jnp.linalg.eigh(jnp.asarray(self.covariance, x.dtype))
        return directions.T @ x, variance


def _as_positive_definite(name: str, matrix: ArrayLike) -> np.ndarray:
    """Return a symmetric positive definite matrix; a number or a vector is taken as diagonal."""
    given = np.asarray(matrix, dtype=float)
    full = np.diag(given) if given.ndim == 1 else np.atleast_2d(given)
    if full.ndim != 2 or full.shape[0] != full.shape[1] or full.size == 0:
        raise ValueError(f"{name} must be a number, a vector or a square matrix, got shape {given.shape}.")
    if not np.all(np.isfinite(full)) or not np.allclose(full, full.T, rtol=0, atol=1e-6 * np.abs(full).max()):
        raise ValueError(f"{name} must be finite and symmetric, got {given}.")
    smallest = np.linalg.eigvalsh(full)[0]
    if smallest <= 0:
        raise ValueError(f"{name} must be positive definite, got a smallest eigenvalue of {smallest:.6g}.")
    return (full + full.T) / 2


def _sums_of_quanta(quanta: jax.Array, count: int) -> jax.Array:
    """Return the `count` smallest of all sums `sum_i n_i quanta_i` with `n_i = 0, 1, ...`, ascending."""
    count = as_positive_int("count", count)
    levels = jnp.zeros(1, quanta.dtype)
    for quantum in quanta:
        levels = jnp.sort((levels[:, None] + quantum * jnp.arange(count)).ravel())[:count]
    return levels
