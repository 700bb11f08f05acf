r"""Paths from a reference to the target, as objects.

Every path is linear in a few *features* of a position, among them the log densities of reference and target,

    log pi_b(x) = sum_j c_j(b) phi_j(x),      pi_0 normalised and easy to draw,   pi_1 of evidence Z,

with `b` (`beta`) from 0 to 1. Everything that a ladder needs of two rungs is therefore the *work* `W = sum_j
(c_j' - c_j) phi_j`: the acceptance of a swap of `x` (lower) and `x'` (upper) is `min(1, exp(W(x) - W(x')))`,
and `log Z'/Z = log E[e^W]` over the lower rung. The first feature is `log q`, the second `log p`. Along the
geometric path `W = (b' - b) V` with `V = log p - log q`.
"""

import dataclasses
import warnings
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

    def coefficients(self, beta: jax.Array) -> jax.Array:
        """`c(beta)`, shape `(features,)`, for a scalar `beta` between 0 and 1."""
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
    """`(log q, log p)` and their gradients; a NaN of `log p` counts as zero density."""
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
        """An exact draw from the reference."""
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
    """`pi_b = q^(1-b) p^b`."""

    def coefficients(self, beta: jax.Array) -> jax.Array:
        """`(1 - beta, beta)`."""
        return jnp.stack([1 - beta, beta])


@dataclasses.dataclass(frozen=True)
class DiffusionPath(_PointPath):
    """The outer loop of the quantum dynamic equation: `pi = exp(-U / D)`, `D` lowered from `start` to 1.

    While `beta` is below `reference_fraction` the path leads geometrically from the reference to
    `exp(-U / start)`; from there on `D` falls geometrically. `exp(-U / start)` has to be normalisable.

    Attributes:
        start: the largest `D`, above 1.
        reference_fraction: the part of the path that leaves the reference, between 0 and 1.
        leg: the old name of `reference_fraction`; deprecated.

    Raises:
        ValueError: for a number out of its range.
    """

    start: float = 10.0
    reference_fraction: float = 0.3
    leg: dataclasses.InitVar[float | None] = None

    def __post_init__(self, leg: float | None):
        if leg is not None:
            warnings.warn(
                "The argument leg of DiffusionPath is now called reference_fraction.",
                DeprecationWarning,
                stacklevel=3,
            )
            object.__setattr__(self, "reference_fraction", leg)
        if not 1 < self.start < float("inf"):
            raise ValueError(f"start is {self.start}; expected a finite number above 1.")
        if not 0 < self.reference_fraction < 1:
            raise ValueError(
                f"reference_fraction is {self.reference_fraction}; expected a number between 0 and 1."
            )

    def coefficients(self, beta: jax.Array) -> jax.Array:
        """`(1 - beta/f, beta/(f D0))` for `beta` below `f = reference_fraction`, then `(0, 1/D)`."""
        first = jnp.minimum(beta / self.reference_fraction, 1)
        rest = jnp.maximum((beta - self.reference_fraction) / (1 - self.reference_fraction), 0)
        lowered = jnp.where(rest < 1, self.start ** (rest - 1), 1.0)
        return jnp.stack([1 - first, jnp.where(beta < self.reference_fraction, first / self.start, lowered)])


def combine(coefficients: jax.Array, features: jax.Array) -> jax.Array:
    """`sum_j c_j phi_j`, where a coefficient of zero removes its feature even if that is infinite."""
    unused = coefficients == 0
    return jnp.sum(jnp.where(unused, 0, coefficients * jnp.where(unused, 0, features)))


def work(lower: jax.Array, upper: jax.Array, features: jax.Array) -> jax.Array:
    """`W = sum_j (c_j' - c_j) phi_j` between two rungs given by their coefficients."""
    return combine(upper - lower, features)
