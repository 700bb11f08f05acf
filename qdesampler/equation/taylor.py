"""Taylor orders 0, 1, 2 of an objective, and the closed imaginary-time kernels they have.

Over a short time the objective may be replaced by its expansion about a point `x0`,

    zeta(x) ~ zeta0 + g . u + u^T A u / 2,      u = x - x0,

and `exp(-H tau)` with `H = -D lap + zeta` then has a closed kernel `K(x, y; tau)`, always Gaussian in `x`.
Along an eigenvector of `A` with curvature `a` and slope `g`, and with `v = y - x0`, `omega^2 = 2 D a`,
`theta = omega tau` and `s = theta^2`:

    log K = log(f / (4 pi D tau)) / 2 - [f (u - v)^2 + s k (u^2 + v^2)] / (4 D tau)
            - g k (u + v) tau + D g^2 c tau^3,

with `f, k, c` from `qdesampler.equation.oscillator_functions`; the value adds `-zeta0 tau`. This one formula,
analytic in `a`, is

* order 0, the **heat kernel**: `N(y, 2 D tau)`: diffusion, as in a diffusion model's noising process;
* order 1, **constant force**: `N(y - D tau^2 g, 2 D tau)`: a step of gradient descent at the rate `D tau^2`;
* order 2, the **harmonic oscillator** (Mehler's kernel): about `y = x0` the mean moves by
  `-g (1 - sech theta) / a`, which is the gradient step while `theta` is small and **Newton's step** `-A^-1 g`
  once `theta` is large, with a variance that settles at `sqrt(2 D / a)`.

It is not normalised: `int K dx = exp(log_mass)` is the factor of the weight of a walker at `y`.

Curvature of any sign is allowed. Zero is the limit above. On a hill (`a < 0`) `theta` is imaginary, the
kernel is finite for `|theta| < pi` only (at and past that caustic `K = inf`), and its mass, hence the
Gaussian step, for `|theta| < pi / 2` only: `H` is unbounded below, and `exp(-H tau)` diverges however the
hill is treated. `TaylorExpansion.longest_step` gives that limit.

References:
    Wang and Maimaitiniyazi, arXiv:2407.19890 (2024): the iterative process as Taylor orders of the objective.
    Mehler, J. reine angew. Math. 66 (1866) 161; Feynman and Hibbs, "Quantum Mechanics and Path Integrals"
    (1965), chapter 3, at imaginary time.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.equation import oscillator_functions
from qdesampler.equation.laplacian import ScalarFunction
from qdesampler.validation import (
    as_float_array,
    as_point,
    as_positive_scalar,
    check_scalar_function,
    is_traced,
)

_ORDERS = (0, 1, 2)  # Taylor orders: heat kernel, constant force, harmonic oscillator


class GaussianStep(NamedTuple):
    """A kernel as a law of the new point: `K(x, y; tau) = exp(log_mass) N(x; mean, covariance)`.

    Attributes:
        mean: shape `(dim,)`.
        variances: along each direction, shape `(dim,)`.
        directions: orthonormal columns, shape `(dim, dim)`, or `None` for the coordinate axes.
        log_mass: log of `int K dx`, a scalar.
    """

    mean: jax.Array
    variances: jax.Array
    directions: jax.Array | None
    log_mass: jax.Array

    @property
    def covariance(self) -> jax.Array:
        """Covariance matrix, shape `(dim, dim)`."""
        if self.directions is None:
            return jnp.diag(self.variances)
        return (self.directions * self.variances) @ self.directions.T

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw points of shape `shape + (dim,)` from the normalised kernel."""
        noise = jax.random.normal(key, (*shape, *self.mean.shape), self.mean.dtype) * jnp.sqrt(self.variances)
        return self.mean + (noise if self.directions is None else noise @ self.directions.T)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TaylorExpansion:
    """`zeta0 + g . u + u^T A u / 2` with `u = x - x0`, the matrix `A` by its eigenvalues and eigenvectors.

    Build one with `expand`. It is a JAX pytree.

    Attributes:
        center: `x0`, shape `(dim,)`.
        value: `zeta0`, a scalar.
        slope: `g` along each direction, shape `(dim,)`; zero at order 0.
        curvature: eigenvalues of `A` in ascending order, shape `(dim,)`; zero at orders 0 and 1.
        directions: eigenvectors of `A` as columns, shape `(dim, dim)`, or `None` for the coordinate axes.
    """

    center: jax.Array
    value: jax.Array
    slope: jax.Array
    curvature: jax.Array
    directions: jax.Array | None

    def objective(self, x: ArrayLike) -> jax.Array:
        """Return the expansion's value at one point of shape `(dim,)`, a scalar.

        Raises:
            ValueError: `x` has another shape than the center.
        """
        u = self._along("x", x)
        return self.value + self.slope @ u + self.curvature @ u**2 / 2

    def log_kernel(self, x: ArrayLike, y: ArrayLike, tau: ArrayLike, diffusion: ArrayLike) -> jax.Array:
        """Return `log K(x, y; tau)` of `exp(-H tau)` from `y` to `x`, a scalar, symmetric in `x` and `y`.

        It is `inf` when `tau` reaches the caustic `pi / sqrt(2 D |a|)` of a hill.

        Args:
            x: end point, shape `(dim,)`.
            y: start point, shape `(dim,)`.
            tau: imaginary time, positive.
            diffusion: `D > 0`.

        Raises:
            TypeError: `tau` or `diffusion` is not a real number.
            ValueError: a point has another shape than the center; `tau` or `diffusion` is not positive and
                finite.
        """
        tau, diffusion = as_positive_scalar("tau", tau), as_positive_scalar("diffusion", diffusion)
        u, v = self._along("x", x), self._along("y", y)
        s = 2 * diffusion * self.curvature * tau**2
        diverges = jnp.any(s <= -(math.pi**2))
        s = jnp.where(diverges, 0, s)
        log_f, k, c = oscillator_functions.log_f(s), oscillator_functions.k(s), oscillator_functions.c(s)
        exponent = (
            (log_f - jnp.log(4 * math.pi * diffusion * tau)) / 2
            - (jnp.exp(log_f) * (u - v) ** 2 + s * k * (u**2 + v**2)) / (4 * diffusion * tau)
            - self.slope * k * tau * (u + v)
            + diffusion * self.slope**2 * c * tau**3
        )
        return jnp.where(diverges, jnp.inf, jnp.sum(exponent) - self.value * tau)

    def log_mass(self, y: ArrayLike, tau: ArrayLike, diffusion: ArrayLike) -> jax.Array:
        """Return `log int K(x, y; tau) dx`, a scalar: `inf` from `longest_step` on.

        Raises:
            TypeError: `tau` or `diffusion` is not a real number.
            ValueError: `y` has another shape than the center; `tau` or `diffusion` is not positive and
                finite.
        """
        tau, diffusion = as_positive_scalar("tau", tau), as_positive_scalar("diffusion", diffusion)
        return self._log_mass(self._along("y", y), tau, diffusion)

    def step(self, y: ArrayLike, tau: ArrayLike, diffusion: ArrayLike) -> GaussianStep:
        """Return the kernel from `y` as a Gaussian law of the new point, with its mass.

        Along each direction, with `t = tanh(theta) / theta`,

            mean = x0 + v sech(theta) - 2 D g k t tau^2,      variance = 2 D tau t,
            log mass = log(sech theta) / 2 - (zeta0 + t (g v + a v^2 / 2)) tau + D g^2 tau^3 (1 - t) / s.

        Raises:
            TypeError: `tau` or `diffusion` is not a real number.
            ValueError: `y` has another shape than the center; `tau` or `diffusion` is not positive and
                finite; a hill makes the mass infinite. Under `jit` this last error cannot be raised:
                `log_mass` is then `inf`, mean and variances are NaN.
        """
        tau, diffusion = as_positive_scalar("tau", tau), as_positive_scalar("diffusion", diffusion)
        v = self._along("y", y)
        log_mass = self._log_mass(v, tau, diffusion)
        s = 2 * diffusion * self.curvature * tau**2
        outside = jnp.any(4 * s <= -(math.pi**2))
        if not is_traced(outside) and bool(outside):
            raise ValueError(
                f"tau={tau} is too long for a concave direction (curvature {float(self.curvature[0]):.4g}), "
                f"the mass is finite only below tau = {float(self.longest_step(diffusion)):.6g}. "
                "Take a shorter step or a lower order."
            )
        k, t = oscillator_functions.k(s), 2 * oscillator_functions.k(4 * s)
        shrink = jnp.exp(oscillator_functions.log_f(s)) * t
        mean = v * shrink - 2 * diffusion * tau**2 * self.slope * k * t
        variances = 2 * diffusion * tau * t
        mean, variances = (jnp.where(outside, jnp.nan, value) for value in (mean, variances))
        moved = mean if self.directions is None else self.directions @ mean
        return GaussianStep(self.center + moved, variances, self.directions, log_mass)

    def longest_step(self, diffusion: ArrayLike) -> jax.Array:
        """Return the supremum of `tau` with a finite mass: `inf` without a hill.

        It is `pi / (2 sqrt(2 D |a|))`, with `a` the most negative curvature.

        Raises:
            TypeError: `diffusion` is not a real number.
            ValueError: `diffusion` is not positive and finite.
        """
        diffusion = as_positive_scalar("diffusion", diffusion)
        steepest = jnp.maximum(-jnp.min(self.curvature), 0)
        return math.pi / (2 * jnp.sqrt(2 * diffusion * steepest))

    def _along(self, name: str, x: ArrayLike) -> jax.Array:
        offset = as_point(name, x, self.center.shape[0]) - self.center
        return offset if self.directions is None else self.directions.T @ offset

    def _log_mass(self, v: jax.Array, tau: float | jax.Array, diffusion: float | jax.Array) -> jax.Array:
        s = 2 * diffusion * self.curvature * tau**2
        diverges = jnp.any(4 * s <= -(math.pi**2))
        s = jnp.where(diverges, 0, s)
        t = 2 * oscillator_functions.k(4 * s)
        log_sech = oscillator_functions.log_f(s) + jnp.log(t)
        exponent = (
            log_sech / 2
            - t * (self.slope * v + self.curvature * v**2 / 2) * tau
            + 4 * diffusion * self.slope**2 * oscillator_functions.c(4 * s) * tau**3
        )
        return jnp.where(diverges, jnp.inf, jnp.sum(exponent) - self.value * tau)


def as_center(objective: ScalarFunction, center: ArrayLike, order: int) -> jax.Array:
    """Check the arguments of `expand`, without computing, and return the point as a floating-point array.

    Raises:
        TypeError: `objective` is no function or returns no real number.
        ValueError: `order` is not 0, 1 or 2; `center` is no vector; `objective` returns an array.
    """
    if order not in _ORDERS:
        raise ValueError(f"order must be 0, 1 or 2 (these have a closed kernel), got {order!r}.")
    center = as_float_array(center)
    if center.ndim != 1 or center.size == 0:
        raise ValueError(f"center must be one point of shape (dim,), got shape {center.shape}.")
    check_scalar_function("objective", objective, center.shape[0])
    return center


def expand(objective: ScalarFunction, center: ArrayLike, order: int) -> TaylorExpansion:
    """Return the Taylor expansion of an objective about a point, to order 0, 1 or 2.

    Order 2 forms the Hessian (`dim` Hessian-vector products) and its eigenvectors. Values are exact under
    `jit` and `vmap`; derivatives with respect to what the Hessian depends on are not defined where two
    eigenvalues coincide.

    Args:
        objective: `zeta`, a function of one point of shape `(dim,)`, returning a scalar.
        center: the point, shape `(dim,)`.
        order: 0, 1 or 2.

    Raises:
        TypeError: `objective` is no function or returns no real number.
        ValueError: `order` is not 0, 1 or 2; `center` is no vector; `objective` returns an array.
    """
    center = as_center(objective, center, order)
    flat = jnp.zeros_like(center)
    if order == 0:
        return TaylorExpansion(center, jnp.asarray(objective(center), center.dtype), flat, flat, None)
    value, gradient = jax.value_and_grad(objective)(center)
    if order == 1:
        return TaylorExpansion(center, value, gradient, flat, None)
    curvature, directions = jnp.linalg.eigh(jax.hessian(objective)(center))
    return TaylorExpansion(center, value, directions.T @ gradient, curvature, directions)
