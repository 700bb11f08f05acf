r"""Normalised laws that a reference may contain besides Gaussians: density, score and draws.

* `AxisMixtures`: a product of one-dimensional mixtures, `k^dim` modes from `k dim` components, as in
  Hartree's product states;
* `TriangularMap`: a standard Gaussian pushed through a map that bends and funnels;
* `Trial` or `HostTrial`: the trial of the Gaussian solve, with its skew and its tails.

Densities take rows, shape `(n, dim)`, of NumPy on the host or of JAX on the device. Draws on the host take a
generator, those on the device signed uniform numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.numerics.host_trial import HostTrial, draw_rows, log_trial_rows
from qdesampler.numerics.log_sums import log_sum
from qdesampler.numerics.metric import to_position
from qdesampler.numerics.random_variates import to_normal, to_unit
from qdesampler.numerics.trial import Trial, log_trial, noise_size, whitened_candidate
from qdesampler.numerics.triangular_map import TriangularMap, from_map, push_forward, to_map

__all__ = [
    "AxisMixtures",
    "Law",
    "draw_of_law",
    "draws_of_law",
    "has_score",
    "law_log_density",
    "law_noise_size",
    "law_score",
]

_HALF_LOG_TWO_PI = 0.5 * float(np.log(2 * np.pi))


class AxisMixtures(NamedTuple):
    """`prod_i sum_k w_ik N(x_i; m_ik, s_ik^2)`: one mixture on each axis, each normalised.

    Attributes:
        log_weights: shape `(dim, components)`.
        means: shape `(dim, components)`.
        scales: standard deviations, shape `(dim, components)`.
    """

    log_weights: Any
    means: Any
    scales: Any


Law = AxisMixtures | TriangularMap | Trial | HostTrial


def _terms_of_axes(law: AxisMixtures, x):
    """Offsets in standard deviations and log densities of all components, shape `(n, dim, components)`."""
    xp = np if isinstance(x, np.ndarray) else jnp
    z = (x[:, :, None] - law.means) / law.scales
    return z, law.log_weights - 0.5 * z**2 - xp.log(law.scales) - _HALF_LOG_TWO_PI


def law_log_density(law: Law, x: Any) -> Any:
    """`log q(x)` of every row, shape `(n,)`."""
    on_host = isinstance(x, np.ndarray)
    if isinstance(law, AxisMixtures):
        terms = _terms_of_axes(law, x)[1]
        return log_sum(terms, 2).sum(1)
    if isinstance(law, HostTrial):
        return log_trial_rows(law, x)
    if isinstance(law, Trial):
        return jax.vmap(lambda point: log_trial(law, point))(x)
    xp = np if on_host else jnp
    v, change = to_map(law, x) if on_host else jax.vmap(lambda point: to_map(law, point))(x)
    constant = x.shape[1] * _HALF_LOG_TWO_PI + xp.sum(xp.log(xp.diagonal(law.factor)))
    return -0.5 * xp.sum(v**2, 1) - change - constant


def has_score(law: Law) -> bool:
    """Whether the score of the law is known; that of a trial is not, nor needed on a ladder of two rungs."""
    return isinstance(law, AxisMixtures | TriangularMap)


def law_score(law: Law, x: Any) -> Any:
    """`grad log q(x)` of every row, shape `(n, dim)`.

    Raises:
        TypeError: the law has none, see `has_score`.
    """
    on_host = isinstance(x, np.ndarray)
    xp = np if on_host else jnp
    if isinstance(law, AxisMixtures):
        z, terms = _terms_of_axes(law, x)
        shares = xp.exp(terms - xp.max(terms, axis=2, keepdims=True))
        shares = shares / xp.sum(shares, axis=2, keepdims=True)
        return xp.sum(-shares * z / law.scales, 2)
    if not isinstance(law, TriangularMap):
        raise TypeError(f"The score of a {type(law).__name__} is not known.")
    if on_host:
        v, _ = to_map(law, x)
        return from_map(law, v, -v)

    def one(point):
        v, _ = to_map(law, point)
        return from_map(law, v, -v)

    return jax.vmap(one)(x)


def draws_of_law(law: Law, rng: np.random.Generator, count: int) -> np.ndarray:
    """Exact draws on the host, shape `(count, dim)`."""
    if isinstance(law, HostTrial):
        return draw_rows(law, rng, count)
    if isinstance(law, AxisMixtures):
        chosen = np.argmax(law.log_weights + rng.gumbel(size=(count, *law.means.shape)), axis=2)[:, :, None]
        means, scales = (
            np.take_along_axis(np.broadcast_to(part, (count, *part.shape)), chosen, 2)[:, :, 0]
            for part in (law.means, law.scales)
        )
        return means + scales * rng.standard_normal(means.shape)
    assert isinstance(law, TriangularMap)
    return push_forward(law, rng.standard_normal((count, law.centre.size)))[0]


def law_noise_size(law: Law) -> int:
    """How many signed uniform numbers `draw_of_law` takes."""
    if isinstance(law, Trial | HostTrial):
        return noise_size(law.centre.size)
    return 2 * law.means.shape[0] if isinstance(law, AxisMixtures) else law.centre.size


def draw_of_law(law: Law, noise: jax.Array) -> jax.Array:
    """The draw that signed uniform numbers make on the device, shape `(dim,)`."""
    if isinstance(law, Trial):
        return law.centre + to_position(law.metric, whitened_candidate(noise, law)[0])
    if isinstance(law, AxisMixtures):
        dim = law.means.shape[0]
        bounds = jnp.cumsum(jnp.exp(law.log_weights), axis=1)
        above = to_unit(noise[dim:])[:, None] * bounds[:, -1:] > bounds[:, :-1]
        chosen = jnp.sum(above, axis=1, keepdims=True)
        means, scales = (jnp.take_along_axis(part, chosen, 1)[:, 0] for part in (law.means, law.scales))
        return means + scales * to_normal(noise[:dim])
    assert isinstance(law, TriangularMap)
    return push_forward(law, to_normal(noise))[0]
