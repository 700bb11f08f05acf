r"""Reversible, volume-preserving trajectories: two dynamics and their splitting schemes in one code path.

A step composes *kicks* (the velocity changes by the force) and *drifts* (the position moves along the
velocity):

    canonical    kick: v <- v + h g                                      kinetic energy |v|^2 / 2
    isokinetic   kick: u <- rotate(u, g), |u| = 1 (microcanonical)       "kinetic energy" = log-volume of the
        rotation

in whitened coordinates, with the whitened score `g`. Isokinetic velocities are scaled by `sqrt(dim)`, so that
a step size and a trajectory length have the same meaning in both. The acceptance needs only the sum of the
kinetic changes (Robnik, De Luca, Silverstein and Seljak 2023, arXiv:2212.08549; for its exact use Robnik,
Cohn-Gordon and Seljak 2025, arXiv:2503.01707).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["DYNAMICS", "INTEGRATORS", "Dynamics", "Integrator", "canonical", "isokinetic"]


class Integrator(NamedTuple):
    """A palindromic splitting: kicks `b_0, drift a_0, b_1, ..., a_{S-1}, b_S`, each list summing to one.

    Attributes:
        kicks: `S + 1` fractions of the step.
        drifts: `S` fractions of the step; `S` is the number of gradients a step costs.
    """

    kicks: tuple[float, ...]
    drifts: tuple[float, ...]

    @property
    def stages(self) -> int:
        """Gradients per step."""
        return len(self.drifts)


_MN2 = 0.1931833275037836  # minimises the leading error of two-stage splittings (McLachlan 1995)

INTEGRATORS = {
    "leapfrog": Integrator((0.5, 0.5), (1.0,)),
    "mn2": Integrator((_MN2, 1 - 2 * _MN2, _MN2), (0.5, 0.5)),
}


class Dynamics(NamedTuple):
    """How a velocity is drawn and kicked.

    Attributes:
        refresh: `normal draws -> velocity`, both of shape `(dim,)`, exactly from the stationary law.
        kick: `(velocity, force, h) -> (velocity, kinetic energy change)`.
        kinetic: `velocity -> kinetic energy` at the start of a trajectory (zero for dynamics in which it has
            no absolute value).
        smallest_dim: dimension below which the dynamics is undefined.
    """

    refresh: Callable[[jax.Array], jax.Array]
    kick: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    kinetic: Callable[[jax.Array], jax.Array]
    smallest_dim: int


def _canonical_kick(velocity, force, h):
    change = h * jnp.sum(force * (velocity + 0.5 * h * force))
    return velocity + h * force, change


def _sphere(normal: jax.Array) -> jax.Array:
    return normal * jnp.sqrt(normal.size) / jnp.linalg.norm(normal)


def _isokinetic_kick(velocity, force, h):
    dim = velocity.size
    size = jnp.linalg.norm(force)
    unit = force / jnp.where(size > 0, size, 1)
    u = velocity / jnp.sqrt(dim)
    delta = h * size * jnp.sqrt(dim) / (dim - 1)
    cosine = jnp.clip(u @ unit, -1, 1)
    z = jnp.exp(-delta)
    turned = unit * (1 - z) * (1 + z + cosine * (1 - z)) + 2 * z * u
    turned = turned / jnp.linalg.norm(turned)
    change = (dim - 1) * (delta - jnp.log(2.0) + jnp.log(1 + cosine + (1 - cosine) * z**2))
    return jnp.sqrt(dim) * turned, change


canonical: Dynamics = Dynamics(lambda normal: normal, _canonical_kick, lambda v: 0.5 * jnp.sum(v**2), 1)
isokinetic: Dynamics = Dynamics(_sphere, _isokinetic_kick, lambda v: jnp.zeros((), v.dtype), 2)

DYNAMICS = {"canonical": canonical, "isokinetic": isokinetic}
