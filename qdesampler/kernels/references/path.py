r"""Paths from a reference to the target.

    log pi_b(x) = c_q(b) log q(x) + c_p(b) log p(x),      pi_0 = q normalised,   pi_1 = p of evidence Z,

with `b` (`beta`) from 0 to 1. Everything that a ladder needs of two rungs is the *work* `W = (c_q' - c_q) log
q + (c_p' - c_p) log p`: the acceptance of a swap of `x` (lower) and `x'` (upper) is `min(1, exp(W(x) -
W(x')))`, and `log Z'/Z = log E[e^W]` over the lower rung. Along the geometric path `W = (b' - b) V` with `V =
log p - log q`.
"""

import dataclasses
import warnings
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

__all__ = ["PATHS", "DiffusionPath", "GeometricPath", "TemperingPath", "combine", "path_named", "work"]


class TemperingPath(Protocol):
    """What a ladder asks of a path."""

    def coefficients(self, betas: np.ndarray) -> np.ndarray:
        """`(c_q, c_p)` of every beta, shape `(n, 2)`."""
        ...


@dataclasses.dataclass(frozen=True)
class GeometricPath:
    """`pi_b = q^(1-b) p^b`."""

    def coefficients(self, betas: np.ndarray) -> np.ndarray:
        """`(1 - beta, beta)`."""
        return np.stack([1 - betas, betas], -1)


@dataclasses.dataclass(frozen=True)
class DiffusionPath:
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

    def coefficients(self, betas: np.ndarray) -> np.ndarray:
        """`(1 - beta/f, beta/(f D0))` for `beta` below `f = reference_fraction`, then `(0, 1/D)`."""
        first = np.minimum(betas / self.reference_fraction, 1)
        rest = np.maximum((betas - self.reference_fraction) / (1 - self.reference_fraction), 0)
        lowered = np.where(rest < 1, self.start ** (rest - 1), 1.0)
        of_target = np.where(betas < self.reference_fraction, first / self.start, lowered)
        return np.stack([1 - first, of_target], -1)


PATHS = {"geometric": GeometricPath(), "diffusion": DiffusionPath()}


def path_named(path: str | TemperingPath) -> TemperingPath:
    """The path of a name, or the path itself.

    Raises:
        ValueError: for an unknown name, or an object without `coefficients`.
    """
    if isinstance(path, str):
        if path == "path-integral":
            raise ValueError(
                "path='path-integral' is gone: its rings of slices took 16 to 420 times the evaluations of "
                f"the geometric path. Expected one of {sorted(PATHS)}, or a path."
            )
        if path not in PATHS:
            raise ValueError(f"path is {path!r}; expected one of {sorted(PATHS)}, or a path.")
        return PATHS[path]
    if not hasattr(path, "coefficients"):
        raise ValueError(f"path is a {type(path).__name__}; expected one of {sorted(PATHS)}, or a path.")
    return path


def combine(coefficients: Any, log_q: Any, log_p: Any) -> Any:
    """`c_q log q + c_p log p`, where a coefficient of zero removes its term even if that is infinite.

    Args:
        coefficients: shape `(..., 2)`, NumPy or JAX.
        log_q: of the points, any shape that broadcasts with `coefficients[..., 0]`.
        log_p: likewise.
    """
    xp = np if isinstance(coefficients, np.ndarray) else jnp
    of_q, of_p = coefficients[..., 0], coefficients[..., 1]
    first = xp.where(of_q == 0, 0.0, of_q * xp.where(of_q == 0, 0.0, log_q))
    return first + xp.where(of_p == 0, 0.0, of_p * xp.where(of_p == 0, 0.0, log_p))


def work(lower: Any, upper: Any, log_q: Any, log_p: Any) -> Any:
    """`W` between two rungs given by their coefficients."""
    return combine(upper - lower, log_q, log_p)
