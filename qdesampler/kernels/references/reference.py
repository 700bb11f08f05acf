r"""References: the normalised densities that a ladder starts from.

    q(x) = sum_k w_k N(x; m_k, (P_k' P_k)^-1) + w' r(x)

A reference is drawn from exactly, so that the lowest rung forgets everything at every iteration. Its log
density and score cost no evaluation of the target. The prior reference is a single Gaussian that knows
nothing of the target. A fitted reference is a mixture of Gaussians, or another law `r` (`laws.py`): a product
of one-dimensional mixtures, a triangular map, or the trial of the Gaussian solve. It keeps the prior
reference as one more Gaussian, which covers what no particle has visited.

Rows, shape `(n, dim)`, are arrays of NumPy on the host and of JAX on the device, like the reference itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_triangular

from qdesampler.kernels.references.laws import (
    AxisMixtures,
    Law,
    draw_of_law,
    draws_of_law,
    has_score,
    law_log_density,
    law_noise_size,
    law_score,
)
from qdesampler.numerics.host_trial import HostTrial
from qdesampler.numerics.log_sums import log_sum
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.random_variates import to_normal, to_unit
from qdesampler.numerics.trial import Trial
from qdesampler.numerics.triangular_map import TriangularMap
from qdesampler.numerics.triangular_map import to_device as map_to_device

__all__ = [
    "DENSE_DIMENSIONS",
    "Reference",
    "add_gaussian",
    "draw",
    "draws",
    "gaussian_reference",
    "log_densities",
    "log_density",
    "noise_size",
    "of_law",
    "scores_are_known",
    "squared_radius",
    "to_device",
    "value_and_score",
]

DENSE_DIMENSIONS = 64  # dimensions up to which covariances and metrics of AnnealedQDE are full, not diagonal


class Reference(NamedTuple):
    """The mixture above.

    Attributes:
        log_weights: of the Gaussians and then of `law`, shape `(parts,)`.
        means: `m_k`, shape `(gaussians, dim)`.
        whiteners: lower triangular `P_k`, shape `(gaussians, dim, dim)`, or their diagonals,
            shape `(gaussians, dim)`.
        law: `r`, or None.
    """

    log_weights: Any
    means: Any
    whiteners: Any
    law: Law | None = None


def gaussian_reference(centre: np.ndarray, scale: np.ndarray) -> Reference:
    """One Gaussian of standard deviations `scale`, shape `(dim,)`."""
    centre = np.asarray(centre, float)
    scale = np.broadcast_to(np.asarray(scale, float), centre.shape)
    whitener = np.diag(1 / scale) if centre.size <= DENSE_DIMENSIONS else 1 / scale
    return Reference(np.zeros(1), centre[None], whitener[None])


def of_law(law: Law, dim: int) -> Reference:
    """A law that is no mixture of Gaussians, alone."""
    shape = (0, dim, dim) if dim <= DENSE_DIMENSIONS else (0, dim)
    return Reference(np.zeros(1), np.zeros((0, dim)), np.zeros(shape), law)


def add_gaussian(reference: Reference, mean: np.ndarray, whitener: np.ndarray, weight: float) -> Reference:
    """The same mixture with one more Gaussian, of weight `weight`; the others keep their proportions."""
    log_weights = reference.log_weights + np.log1p(-weight)
    count = len(reference.means)
    return reference._replace(
        log_weights=np.insert(log_weights, count, np.log(weight)),
        means=np.concatenate([reference.means, mean[None]]),
        whiteners=np.concatenate([reference.whiteners, whitener[None]]),
    )


def squared_radius(dim: int, deviations: float) -> float:
    """`dim + k sqrt(2 dim)`: mean and `k` standard deviations of a Gaussian draw's squared distance."""
    return dim + deviations * float(np.sqrt(2.0 * dim))


def _whitened(reference: Reference, x):
    """`P_k (x - m_k)`, shape `(gaussians, n, dim)`."""
    offsets = x[None, :, :] - reference.means[:, None, :]
    if reference.whiteners.ndim == 3:
        return offsets @ reference.whiteners.swapaxes(1, 2)
    return offsets * reference.whiteners[:, None, :]


def _log_gaussians(reference: Reference, whitened):
    """`log N` of every Gaussian, shape `(n, gaussians)`."""
    xp = np if isinstance(whitened, np.ndarray) else jnp
    dense = reference.whiteners.ndim == 3
    diagonal = xp.diagonal(reference.whiteners, axis1=1, axis2=2) if dense else reference.whiteners
    dim = whitened.shape[2]
    constant = xp.sum(xp.log(diagonal), 1) - 0.5 * dim * float(np.log(2 * np.pi))
    return constant - 0.5 * xp.sum(whitened**2, 2).T


def log_densities(reference: Reference, x: Any) -> Any:
    """Log density of every row under each part, each normalised; shape `(n, parts)`."""
    xp = np if isinstance(x, np.ndarray) else jnp
    gaussians = _log_gaussians(reference, _whitened(reference, x))
    if reference.law is None:
        return gaussians
    return xp.concatenate([gaussians, law_log_density(reference.law, x)[:, None]], 1)


def log_density(reference: Reference, x: Any) -> Any:
    """`log q(x)` of every row, shape `(n,)`."""
    return log_sum(reference.log_weights + log_densities(reference, x), 1)


def scores_are_known(reference: Reference) -> bool:
    """Whether `value_and_score` can be asked for."""
    return reference.law is None or has_score(reference.law)


def value_and_score(reference: Reference, x: Any) -> tuple[Any, Any]:
    """`(log q(x), grad log q(x))` of every row, shapes `(n,)` and `(n, dim)`."""
    xp = np if isinstance(x, np.ndarray) else jnp
    whitened = _whitened(reference, x)
    terms = reference.log_weights[: len(reference.means)] + _log_gaussians(reference, whitened)
    if reference.law is not None:
        terms = xp.concatenate(
            [terms, reference.log_weights[-1] + law_log_density(reference.law, x)[:, None]], 1
        )
    value = log_sum(terms, 1)
    shares = xp.exp(terms - value[:, None])
    dense = reference.whiteners.ndim == 3
    slopes = whitened @ reference.whiteners if dense else whitened * reference.whiteners[:, None, :]
    count = len(reference.means)
    score = -xp.sum(shares[:, :count].T[:, :, None] * slopes, 0)
    if reference.law is not None:
        score = score + shares[:, -1:] * law_score(reference.law, x)
    return value, score


def draws(reference: Reference, rng: np.random.Generator, count: int) -> np.ndarray:
    """Exact draws on the host, shape `(count, dim)`."""
    gaussians, dim = reference.means.shape
    parts = len(reference.log_weights)
    chosen = rng.choice(parts, count, p=np.exp(reference.log_weights - log_sum(reference.log_weights)))
    x = np.empty((count, dim))
    for part in np.unique(chosen):
        rows = chosen == part
        number = int(np.sum(rows))
        if part == gaussians:
            assert reference.law is not None
            x[rows] = draws_of_law(reference.law, rng, number)
            continue
        noise = rng.standard_normal((number, dim))
        whitener = reference.whiteners[part]
        offsets = (
            solve_triangular(whitener, noise.T, lower=True).T if whitener.ndim == 2 else noise / whitener
        )
        x[rows] = reference.means[part] + offsets
    return x


def to_device(reference: Reference) -> Reference:
    """Its arrays as those of JAX, in the precision that JAX has."""
    real, law = jnp.result_type(float), reference.law
    if isinstance(law, TriangularMap):
        law = map_to_device(law)
    elif isinstance(law, HostTrial):
        metric = Metric(*(jnp.asarray(part, real) for part in law.metric))
        rest = (law.shift, law.width, law.skew, law.defensive_weight)
        shift, width, skew, weight = (jnp.asarray(part, real) for part in rest)
        law = Trial(jnp.asarray(law.centre, real), metric, shift, width, skew, weight)
    elif isinstance(law, AxisMixtures):
        law = AxisMixtures(*(jnp.asarray(part, real) for part in law))
    log_weights, means, whiteners = (jnp.asarray(part, real) for part in reference[:3])
    return Reference(log_weights, means, whiteners, law)


def noise_size(reference: Reference) -> int:
    """How many signed uniform numbers `draw` takes."""
    return 1 + max(reference.means.shape[1], law_noise_size(reference.law) if reference.law else 0)


def draw(reference: Reference, noise: jax.Array) -> jax.Array:
    """The exact draw that signed uniform numbers make on the device, shape `(dim,)`."""
    gaussians, dim = reference.means.shape
    bounds = jnp.cumsum(jnp.exp(reference.log_weights))
    part = jnp.sum(to_unit(noise[0]) * bounds[-1] > bounds[:-1])
    rest = None
    if reference.law is not None:
        rest = draw_of_law(reference.law, noise[1 : 1 + law_noise_size(reference.law)])
        if gaussians == 0:
            return rest
    k = jnp.minimum(part, gaussians - 1)
    whitener, normal = reference.whiteners[k], to_normal(noise[1 : dim + 1])
    dense = whitener.ndim == 2
    offset = jax.scipy.linalg.solve_triangular(whitener, normal, lower=True) if dense else normal / whitener
    gaussian = reference.means[k] + offset
    return gaussian if rest is None else jnp.where(part == gaussians, rest, gaussian)
