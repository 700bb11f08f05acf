"""The Nile at Aswan: a state-space model, a level that walks at random and is measured with noise."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions import constraints

FIRST_MEAN, FIRST_VARIANCE = 10.0, 9.0  # of the first level


class LocalLevel(dist.Distribution):
    """Measurements of a random walk, the walk integrated out.

        level_1 ~ N(10, 3),   level_(t+1) ~ N(level_t, step),   y_t ~ N(level_t, noise)

    with standard deviations after the comma.

    Args:
        step: standard deviation of a step of the level.
        noise: standard deviation of a measurement.
        years: number of measurements.
    """

    def __init__(self, step, noise, years: int, *, validate_args=None):
        self.step, self.noise = step, noise
        super().__init__(event_shape=(years,), validate_args=validate_args)

    @property
    def support(self):
        """Real vectors."""
        return constraints.real_vector

    def sample(self, key: jax.Array, sample_shape=()):
        """Draw the walk, then its measurements, shape ``sample_shape + (years,)``."""
        shape = self.shape(sample_shape)
        key_walk, key_noise = jax.random.split(key)
        moves = jax.random.normal(key_walk, shape)
        scale = jnp.full(shape[-1], self.step).at[0].set(FIRST_VARIANCE**0.5)
        walk = FIRST_MEAN + jnp.cumsum(scale * moves, axis=-1)
        return walk + self.noise * jax.random.normal(key_noise, shape)

    def log_prob(self, value):
        """Log density of ``value``, shape ``(years,)``: the sum over the filter's predictions."""
        *_, predicted, variance = self.filtered(value)
        return jnp.sum(dist.Normal(predicted, jnp.sqrt(variance + self.noise**2)).log_prob(value))

    def filtered(self, y):
        """Kalman's filter.

        Returns:
            Means and variances of each level given the measurements up to its year, and before its year;
            shape ``(years,)`` each.
        """

        def update(before, measured):
            mean, variance = before
            gain = variance / (variance + self.noise**2)
            now = mean + gain * (measured - mean), variance * (1 - gain)
            return (now[0], now[1] + self.step**2), (*now, mean, variance)

        start = jnp.full((), FIRST_MEAN, jnp.result_type(float)), jnp.full((), FIRST_VARIANCE)
        return lax.scan(update, start, y)[1]

    def levels(self, y, z):
        """Draw the walk given the measurements from standard normal ``z``, shape ``(years,)``, backwards.

        Given the level after it a level is normal again, with the share ``variance / (variance + step^2)``
        of the difference added to its filtered mean.
        """
        mean, variance, *_ = self.filtered(y)
        last = mean[-1] + jnp.sqrt(variance[-1]) * z[-1]

        def earlier(later, now):
            mean, variance, z = now
            share = variance / (variance + self.step**2)
            level = mean + share * (later - mean) + jnp.sqrt(share) * self.step * z
            return level, level

        rest = lax.scan(earlier, last, (mean[:-1], variance[:-1], z[:-1]), reverse=True)[1]
        return jnp.append(rest, last)


def prepare(data):
    """Flow in 10^10 cubic metres, so that levels are near 10."""
    return {"y": data["flow"] / 100}


def model(y):
    """Two scales with the levels integrated out; these follow from independent normal sites.

    Args:
        y: the flow of each year, shape ``(years,)``; None draws a hundred from the prior predictive.
    """
    years = 100 if y is None else len(y)
    sigma_level = numpyro.sample("sigma_level", dist.HalfNormal(1))
    sigma_flow = numpyro.sample("sigma_flow", dist.HalfNormal(2))
    law = LocalLevel(sigma_level, sigma_flow, years)
    y = numpyro.sample("y", law, obs=y)
    with numpyro.plate("year", years):
        z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.deterministic("level", law.levels(y, z))
