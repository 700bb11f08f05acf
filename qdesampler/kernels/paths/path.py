r"""Paths from a reference to the target, as objects.

Every path is linear in a few *features* of a position, among them the log densities of reference and target,

    log pi_s(x) = sum_j c_j(s) phi_j(x),      pi_0 normalised and easy to draw,   pi_1 of evidence Z,

so that everything a ladder needs of two rungs is the *work* `W = sum_j (c_j' - c_j) phi_j`: the acceptance of
a swap of `x` (lower) and `x'` (upper) is `min(1, exp(W(x) - W(x')))`, and `log Z'/Z = log E[e^W]` over the
lower rung. The first feature is `log q`, the second `log p`. Along the geometric path `W = (b' - b) V` with
`V = log p - log q`.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.reference import Reference
from qdesampler.numerics.types import ValueAndScore

__all__ = ["DiffusionPath", "GeometricPath", "TemperingPath", "combine", "two_features", "work"]


class TemperingPath(Protocol):
    """What a ladder asks of a path.

    Attributes:
        slices: points of the target that one position holds, each an evaluation.
    """

    @property
    def slices(self) -> int:
        """Points of the target in one position."""
        ...

    def coefficients(self, fraction: jax.Array) -> jax.Array:
        """`c(s)` at `fraction` of the way, shape `(features,)`."""
        ...

    def draw(self, reference: Reference, key: jax.Array) -> jax.Array:
        """An exact draw from `pi_0`: a position."""
        ...

    def features(
        self, position: jax.Array, evaluate: ValueAndScore, reference: Reference
    ) -> tuple[jax.Array, jax.Array]:
        """`phi(x)`, shape `(features,)`, and its gradients, one a row; `slices` evaluations."""
        ...

    def log_reference(self, position: jax.Array, reference: Reference) -> tuple[jax.Array, jax.Array]:
        """`phi_0 = log q` and its gradient: what changes with the reference."""
        ...

    def point(self, position: jax.Array, dim: int) -> jax.Array:
        """The point of the target at a position, shape `(dim,)`."""
        ...


def two_features(position: jax.Array, evaluate: ValueAndScore, reference: Reference) -> tuple:
    """`(log q, log p)` and their gradients; NaN counts as no density."""
    log_target, target_score = evaluate(position)
    log_target = jnp.where(jnp.isnan(log_target), -jnp.inf, log_target)
    log_reference, reference_score = references.value_and_score(reference, position)
    return jnp.stack([log_reference, log_target]), jnp.stack([reference_score, target_score])


class _PointPath:
    """A path over single points."""

    @property
    def slices(self) -> int:
        """One."""
        return 1

    def draw(self, reference: Reference, key: jax.Array) -> jax.Array:
        """From the reference."""
        return references.draw(reference, key)

    def features(self, position: jax.Array, evaluate: ValueAndScore, reference: Reference) -> tuple:
        """See `two_features`."""
        return two_features(position, evaluate, reference)

    def log_reference(self, position: jax.Array, reference: Reference) -> tuple[jax.Array, jax.Array]:
        """`log q` and its gradient."""
        return references.value_and_score(reference, position)

    def point(self, position: jax.Array, dim: int) -> jax.Array:
        """The position itself."""
        return position[:dim]


@dataclasses.dataclass(frozen=True)
class GeometricPath(_PointPath):
    """`pi_s = q^(1-s) p^s`."""

    def coefficients(self, fraction: jax.Array) -> jax.Array:
        """`(1 - s, s)`."""
        return jnp.stack([1 - fraction, fraction])


@dataclasses.dataclass(frozen=True)
class DiffusionPath(_PointPath):
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

    def coefficients(self, fraction: jax.Array) -> jax.Array:
        """`(1 - s/leg, s/(leg D0))` on the first leg, then `(0, 1/D)`."""
        first = jnp.minimum(fraction / self.leg, 1)
        rest = jnp.maximum((fraction - self.leg) / (1 - self.leg), 0)
        lowered = jnp.where(rest < 1, self.start ** (rest - 1), 1.0)
        return jnp.stack([1 - first, jnp.where(fraction < self.leg, first / self.start, lowered)])


def combine(coefficients: jax.Array, features: jax.Array) -> jax.Array:
    """`sum_j c_j phi_j`, where a coefficient of zero silences even an infinite feature."""
    silent = coefficients == 0
    return jnp.sum(jnp.where(silent, 0, coefficients * jnp.where(silent, 0, features)))


def work(lower: jax.Array, upper: jax.Array, features: jax.Array) -> jax.Array:
    """`W = sum_j (c_j' - c_j) phi_j` between two rungs given by their coefficients."""
    return combine(upper - lower, features)
