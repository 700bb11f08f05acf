r"""The quadratic state `psi = sqrt(q)`: a standard normal law, bent and funnelled by a map."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from qdesampler.numerics.triangular_map import TriangularMap, push_forward, to_map

__all__ = ["QuadraticWavefunction"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class QuadraticWavefunction:
    r"""`psi = sqrt(q)` with `q` the law of `x`, made of standard normal `u`.

        v = shift + width sinh(arcsinh u + skew),        x = T(v), a triangular map.

    Attributes:
        law: `T` (`qdesampler.numerics.triangular_map`).
        shift: shape `(dim,)`.
        width: shape `(dim,)`.
        skew: shape `(dim,)`; zero with `shift = 0` and `width = 1` where `v = u`.
    """

    law: TriangularMap
    shift: jax.Array
    width: jax.Array
    skew: jax.Array

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.shift.shape[-1]

    @property
    def support(self) -> None:
        """All space."""
        return None

    def log_psi(self, x: jax.Array) -> jax.Array:
        """Return `log psi(x) = log q(x) / 2`, a scalar, at one point of shape `(dim,)`."""
        v, change = to_map(self.law, x)
        t = (v - self.shift) / self.width
        u = t * jnp.cosh(self.skew) - jnp.sqrt(1 + t**2) * jnp.sinh(self.skew)
        stretched = 0.5 * (jnp.log1p(u**2) - jnp.log1p(t**2)) - jnp.log(self.width)
        normal = -0.5 * (u @ u + u.size * math.log(2 * math.pi))
        volume = change + jnp.sum(jnp.log(jnp.diagonal(self.law.factor)))
        return 0.5 * (normal + jnp.sum(stretched) - volume)

    def sample(self, key: jax.Array) -> jax.Array:
        """Return one exact draw from `psi^2 = q`, shape `(dim,)`."""
        u = jax.random.normal(key, self.shift.shape, self.shift.dtype)
        skewed = u * jnp.cosh(self.skew) + jnp.sqrt(1 + u**2) * jnp.sinh(self.skew)
        return push_forward(self.law, self.shift + self.width * skewed)[0]
