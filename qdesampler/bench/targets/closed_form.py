"""Targets with moments in closed form, as NumPyro models beside the folders of `models/`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from qdesampler.infer import ModelCase

__all__ = [
    "TARGETS",
    "banana",
    "closed_form",
    "gaussian_moments",
    "moments",
    "rotated_gaussian",
    "standard_gaussian",
]

RELATIVE_MCSE = 1e-6  # closed forms in double precision: a standard error far below any run's


def standard_gaussian(dim: int = 20) -> ModelCase:
    """`x ~ N(0, I)` in `dim` dimensions: what a kernel costs where there is nothing to adapt."""

    def model():
        numpyro.sample("x", dist.Normal(0, 1).expand([dim]).to_event(1))

    reference = {f"x[{i + 1}]": gaussian_moments(1.0) for i in range(dim)}
    return closed_form(f"gaussian-{dim}", model, reference)


def rotated_gaussian(
    dim: int = 100, condition: float = 1e4, seed: int = 0, name: str | None = None
) -> ModelCase:
    """`x ~ N(0, R diag(s^2) R')` with a random rotation R: correlations that no diagonal metric removes.

    The variances `s^2` are log-spaced from `condition^(-1/2)` to `condition^(1/2)`. The density is written as
    `-|diag(1/s) R' x|^2 / 2`, which float32 holds to about 1e-5 for condition 1e4; a Cholesky factor of the
    covariance would lose more.
    """
    variances = np.geomspace(condition**-0.5, condition**0.5, dim)
    rotation, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    rotation = rotation * np.sign(np.diag(upper))  # makes the rotation Haar-distributed
    whiten = (rotation / np.sqrt(variances)).T

    def model():
        x = numpyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (dim,)))
        numpyro.factor("log_density", -0.5 * jnp.sum((jnp.asarray(whiten) @ x) ** 2))

    marginal = np.sqrt(rotation**2 @ variances)
    reference = {f"x[{i + 1}]": gaussian_moments(sd) for i, sd in enumerate(marginal)}
    return closed_form(name or f"rotated-gaussian-{dim}", model, reference)


def banana(curvature: float = 0.03, scale: float = 10.0) -> ModelCase:
    """`x1 ~ N(0, s^2)`, `x2 | x1 ~ N(b (x1^2 - s^2), 1)`: curved, so that one metric does not fit everywhere.

    With w standard normal and c = b s^2, x2 = c (w^2 - 1) + e: E x2 = 0, E x2^2 = 2 c^2 + 1 and, from
    E (w^2 - 1)^4 = 60, E x2^4 = 60 c^4 + 12 c^2 + 3.
    """

    def model():
        x1 = numpyro.sample("x1", dist.Normal(0, scale))
        numpyro.sample("x2", dist.Normal(curvature * (x1**2 - scale**2), 1))

    square = (curvature * scale**2) ** 2
    second, fourth = 2 * square + 1, 60 * square**2 + 12 * square + 3
    return closed_form(
        "banana",
        model,
        {
            "x1": gaussian_moments(scale),
            "x2": moments(0.0, math.sqrt(second), second, math.sqrt(fourth - second**2)),
        },
    )


TARGETS: dict[str, Callable[[], ModelCase]] = {
    "gaussian-20": standard_gaussian,
    "rotated-gaussian-100": rotated_gaussian,
    "banana": banana,
}


def closed_form(name: str, model: Callable[[], None], parameters: dict[str, Any]) -> ModelCase:
    """A target without data whose moments are exact."""
    return ModelCase(
        name=name,
        model=model,
        data={},
        reference={"source": "closed form", "parameters": parameters},
        path=Path(__file__),
    )


def gaussian_moments(sd: float) -> dict[str, float]:
    """The reference entry of `N(0, sd^2)`."""
    return moments(0.0, sd, sd**2, math.sqrt(2) * sd**2)


def moments(mean: float, sd: float, mean_sq: float, sd_sq: float) -> dict[str, float]:
    """A reference entry from the exact mean and standard deviation of x and of x^2."""
    return {
        "mean": mean,
        "sd": float(sd),
        "mean_sq": float(mean_sq),
        "sd_sq": float(sd_sq),
        "mcse": float(RELATIVE_MCSE * sd),
        "mcse_sq": float(RELATIVE_MCSE * sd_sq),
        "ess": RELATIVE_MCSE**-2,
    }
