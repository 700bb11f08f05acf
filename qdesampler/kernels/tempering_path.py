r"""Paths from a reference to the target, as objects.

Every path here is linear in the two log densities,

    log pi_s(x) = a(s) log q(x) + b(s) log p(x) + const,      (a, b)(0) = (1, 0),   (a, b)(1) = (0, 1),

so that everything a ladder needs of two rungs is the *work* `W = (a' - a) log q + (b' - b) log p`: the
acceptance of a swap of `x` (lower) and `x'` (upper) is `min(1, exp(W(x) - W(x')))`, and `log Z'/Z = log
E[e^W]` over the lower rung. Along the geometric path `W = (b' - b) V` with `V = log p - log q`.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

__all__ = ["PATHS", "DiffusionPath", "GeometricPath", "TemperingPath", "tempered", "work"]


class TemperingPath(Protocol):
    """What a ladder asks of a path."""

    def coefficients(self, fraction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`(a, b)`: the powers of the reference and of the target at `fraction` of the way."""
        ...


@dataclasses.dataclass(frozen=True)
class GeometricPath:
    """`pi_s = q^(1-s) p^s`."""

    def coefficients(self, fraction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`(1 - s, s)`."""
        return 1 - fraction, fraction


@dataclasses.dataclass(frozen=True)
class DiffusionPath:
    """The outer loop of the quantum dynamic equation: `pi = exp(-U / D)`, `D` lowered from `start` to 1.

    The first `leg` of the way leads geometrically from the reference to `exp(-U / start)`, the rest lowers
    `D` geometrically. `exp(-U / start)` has to be normalisable.

    Attributes:
        start: the largest `D`, above 1.
        leg: share of the way spent on the first leg, between 0 and 1.

    Raises:
        ValueError: for a number out of its range.
    """

    start: float = 10.0
    leg: float = 0.3

    def __post_init__(self):
        if not 1 < self.start < float("inf"):
            raise ValueError(f"start is {self.start}; expected a finite number above 1.")
        if not 0 < self.leg < 1:
            raise ValueError(f"leg is {self.leg}; expected a number between 0 and 1.")

    def coefficients(self, fraction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`(1 - s/leg, s/(leg D0))` on the first leg, then `(0, 1/D)`."""
        first = jnp.minimum(fraction / self.leg, 1)
        rest = jnp.maximum((fraction - self.leg) / (1 - self.leg), 0)
        lowered = jnp.where(rest < 1, self.start ** (rest - 1), 1.0)
        return 1 - first, jnp.where(fraction < self.leg, first / self.start, lowered)


PATHS = {"geometric": GeometricPath(), "diffusion": DiffusionPath()}


def _times(power: jax.Array, log_value: jax.Array) -> jax.Array:
    """`power * log_value`, zero for a power of zero even where the density vanishes."""
    return jnp.where(power == 0, 0, power * jnp.where(power == 0, 0, log_value))


def tempered(powers: tuple[jax.Array, jax.Array], log_q: jax.Array, log_p: jax.Array) -> jax.Array:
    """`a log q + b log p`."""
    return _times(powers[0], log_q) + _times(powers[1], log_p)


def work(lower: tuple, upper: tuple, log_q: jax.Array, log_p: jax.Array) -> jax.Array:
    """`W = (a' - a) log q + (b' - b) log p` between two rungs given by their powers."""
    return tempered((upper[0] - lower[0], upper[1] - lower[1]), log_q, log_p)
