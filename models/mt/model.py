"""Capture and recapture: the size of a closed population whose capture probability varies by occasion."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


class AugmentedCapture(dist.Distribution):
    """The captures of a row that is an animal with probability ``omega``, and otherwise is never caught.

    ``p(y) = omega prod_t p_t^y_t (1 - p_t)^(1 - y_t) + (1 - omega) [y = 0]``, y of shape ``(occasions,)``.
    """

    arg_constraints = {
        "omega": constraints.unit_interval,
        "p": constraints.independent(constraints.unit_interval, 1),
    }

    def __init__(self, omega, p, *, validate_args=None):
        self.omega, self.p = omega, p
        super().__init__(jnp.shape(omega), jnp.shape(p)[-1:], validate_args=validate_args)

    @property
    def support(self):
        """Vectors of 0 and 1."""
        return constraints.independent(constraints.boolean, 1)

    def sample(self, key: jax.Array, sample_shape=()):
        """Draw membership, then captures; shape ``sample_shape + batch_shape + (occasions,)``."""
        key_real, key_caught = jax.random.split(key)
        shape = self.shape(sample_shape)
        real = jax.random.bernoulli(key_real, self.omega, shape[:-1])
        return (real[..., None] & jax.random.bernoulli(key_caught, self.p, shape)).astype(int)

    def log_prob(self, value):
        """Log density of rows of captures, shape ``(..., occasions)``."""
        caught = value @ jnp.log(self.p) + (1 - value) @ jnp.log1p(-self.p) + jnp.log(self.omega)
        never = jnp.logaddexp(caught, jnp.log1p(-self.omega))
        return jnp.where(value.any(-1), caught, never)


def model(y):
    """Rows of animals seen, and of zeros that are unseen animals or no animals.

    Args:
        y: 1 where the row's animal was caught on the occasion, else 0, shape ``(rows, occasions)``.
    """
    omega = numpyro.sample("omega", dist.Uniform(0, 1))
    with numpyro.plate("occasion", y.shape[1]):
        p = numpyro.sample("p", dist.Uniform(0, 1))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", AugmentedCapture(omega, p), obs=y)
