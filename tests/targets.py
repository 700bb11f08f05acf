"""Four targets that tests of several rooms share, so that their programs are found in the compilation cache.

Each has its answers by quadrature, in closed form or by enumeration, apart from the eight schools.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

NORMAL_DIM = 3
DOUBLE_WELL_LOG_Z = 10.293479707  # log integral of exp(-double_well), by quadrature
DOUBLE_WELL_LEFT = 0.155692903  # its mass where the first coordinate is negative, by quadrature

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

NUM_BITS = 5
BITS = np.array(list(itertools.product(range(2), repeat=NUM_BITS)))
BIT_TABLE = 1.2 * np.random.default_rng(1).normal(size=2**NUM_BITS)
BIT_TABLE[7] = -np.inf
BIT_LAW = np.exp(BIT_TABLE + BITS @ np.full(NUM_BITS, np.log(0.4 / 0.6)))
BIT_LAW /= BIT_LAW.sum()


def standard_normal(z):
    """Return `|z|^2 / 2` of a vector."""
    return 0.5 * jnp.sum(z**2)


def double_well(z):
    """Return the potential of two wells along the first coordinate, beside a normal second one."""
    x, y = z["x"] if isinstance(z, dict) else z
    return x**4 - 6 * x**2 - x / 2 + y**2 / 2


def schools(count, sigma, y=None):
    """Sample the eight schools without centring, with a deterministic site and a factor."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(5))
    with numpyro.plate("school", count):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * offset)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)
    numpyro.factor("penalty", -1e-3 * mu**2)


def bits(shift=0.0):
    """Sample five bits with a table of log densities: terms of all orders, one position impossible."""
    b = numpyro.sample("b", dist.Bernoulli(0.4).expand([2]).to_event(1))
    with numpyro.plate("sites", NUM_BITS - 2):
        a = numpyro.sample("a", dist.Bernoulli(0.4))
    x = jnp.concatenate([a, b])
    index = jnp.sum(x * 2 ** jnp.arange(NUM_BITS - 1, -1, -1))
    numpyro.factor("table", jnp.asarray(BIT_TABLE)[index] + shift * x[0])
    numpyro.deterministic("total", jnp.sum(x))
