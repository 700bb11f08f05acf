r"""Posteriors over discrete latents with known marginals.

**Spike and slab**, coefficients and variance integrated out: with inclusion indicators `gamma`, slab
`beta_j ~ Normal(0, slab sigma)` and `sigma^2 ~ InverseGamma(1, 1)`,

    p(y | gamma) ~ |M|^{-1/2} (1 + (y' y - slab^2 b' M^{-1} b) / 2)^{-(1 + N / 2)},
    M = 1 + slab^2 G X' X G,   b = G X' y,   G = diag(gamma).

Its log is not quadratic in `gamma`. Predictors come in blocks of four that are nearly copies of one another,
so that single sites hardly move: one copy has to enter as another leaves.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from qdesampler.backends.exact_enumeration import all_bits

__all__ = [
    "SpikeAndSlab",
    "enumerated_inclusion",
    "spike_and_slab",
    "spike_and_slab_data",
    "spike_and_slab_uncollapsed",
]

BLOCK = 4  # correlated covariates of a block


class SpikeAndSlab(NamedTuple):
    """Data of the model: predictors `(N, p)`, responses `(N,)`, prior inclusion, slab width."""

    x: np.ndarray
    y: np.ndarray
    inclusion: float
    slab: float


def spike_and_slab_data(
    p: int, *, seed: int, correlation: float = 0.98, rows: int = 60, active: int = 3, noise: float = 0.5
) -> SpikeAndSlab:
    """Return standardised predictors in correlated blocks of four, one active in each of the first blocks."""
    rng = np.random.default_rng(seed)
    blocks = -(-p // BLOCK)
    common = np.repeat(rng.normal(size=(rows, blocks)), BLOCK, 1)[:, :p]
    x = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * rng.normal(size=(rows, p))
    x = (x - x.mean(0)) / x.std(0)
    effects = np.zeros(p)
    effects[: BLOCK * min(active, blocks) : BLOCK] = rng.choice([-1.0, 1.0], min(active, blocks))
    y = x @ effects + noise * rng.normal(size=rows)
    return SpikeAndSlab(x.astype(np.float32), (y - y.mean()).astype(np.float32), 0.1, 1.0)


def log_marginal(gamma: ArrayLike, data: SpikeAndSlab) -> jax.Array:
    """Return `log p(y | gamma)` up to a constant."""
    included = jnp.asarray(gamma, jnp.result_type(float))
    rows, p = data.x.shape
    gram = data.slab**2 * (data.x.T @ data.x)
    factor = jnp.linalg.cholesky(jnp.eye(p) + included[:, None] * gram * included)
    moment = data.slab * included * (data.x.T @ data.y)
    half = jax.scipy.linalg.solve_triangular(factor, moment, lower=True)
    residual = data.y @ data.y - half @ half
    return -jnp.sum(jnp.log(jnp.diagonal(factor))) - (1 + rows / 2) * jnp.log1p(residual / 2)


def spike_and_slab(data: SpikeAndSlab):
    """The NumPyro model: the site "gamma" has the shape `(p,)`."""
    with numpyro.plate("predictors", data.x.shape[1]):
        gamma = numpyro.sample("gamma", dist.Bernoulli(data.inclusion))
    numpyro.factor("evidence", log_marginal(gamma, data))


def spike_and_slab_uncollapsed(data: SpikeAndSlab):
    """The same posterior of "gamma", with coefficients and variance as sites, as gradients need them."""
    variance = numpyro.sample("variance", dist.InverseGamma(1.0, 1.0))
    with numpyro.plate("predictors", data.x.shape[1]):
        gamma = numpyro.sample("gamma", dist.Bernoulli(data.inclusion))
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    scale = jnp.sqrt(variance)
    mean = scale * data.slab * (data.x @ (jnp.asarray(gamma) * beta))
    numpyro.sample("y", dist.Normal(mean, scale), obs=data.y)


def enumerated_inclusion(data: SpikeAndSlab) -> np.ndarray:
    """Return the exact inclusion probabilities, shape `(p,)`; `p <= 16`."""
    bits = all_bits(data.x.shape[1])
    odds = float(np.log(data.inclusion) - np.log1p(-data.inclusion))
    values = jax.lax.map(lambda g: log_marginal(g, data) + odds * jnp.sum(g), bits, batch_size=4096)
    return np.asarray(jax.nn.softmax(values) @ bits)
