"""Differential equations: predators and prey, integrated by a fixed step.

    du/dt = (alpha - beta v) u,   dv/dt = (delta u - gamma) v

The originals use an adaptive solver; here classical Runge & Kutta steps on the logarithms, so that every
evaluation does the same work and populations stay positive.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import init_to_sample

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES"]

STEPS = 6  # Runge & Kutta steps a unit of time: an error below 1e-3 for these rates
RATES = np.array(
    [0.55, 0.028, 0.8, 0.024]
)  # alpha, beta, gamma, delta of the made-up data, about lynx and hare


def _log_slope(w, theta):
    alpha, beta, gamma, delta = theta[0], theta[1], theta[2], theta[3]
    # Far from the posterior a population may explode within a step; its size is then cut, its gradient kept.
    u, v = jnp.exp(jnp.clip(w[0], -20.0, 10.0)), jnp.exp(jnp.clip(w[1], -20.0, 10.0))
    return jnp.stack([alpha - beta * v, delta * u - gamma])


def _log_populations(log_start, theta, length):
    """Logarithms of both populations at times 0, 1, ..., `(length, 2)`."""
    h = 1 / STEPS

    def step(w, _):
        k1 = _log_slope(w, theta)
        k2 = _log_slope(w + h / 2 * k1, theta)
        k3 = _log_slope(w + h / 2 * k2, theta)
        k4 = _log_slope(w + h * k3, theta)
        w = jnp.clip(w + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), -20.0, 20.0)
        return w, w

    _, path = jax.lax.scan(step, log_start, None, length=(length - 1) * STEPS)
    return jnp.concatenate([log_start[None], path[STEPS - 1 :: STEPS]])


def _observed(rng, start, length, noise=0.2):
    path = np.asarray(_log_populations(jnp.log(jnp.asarray(start)), jnp.asarray(RATES), length))
    return path + noise * rng.standard_normal(path.shape)


def predator_prey() -> Example:
    """`ode.py`: one series of 21 years, log-normal errors, positive rates."""
    log_y = _observed(generator(21), [33.0, 6.0], 21)

    def model(log_y):
        start = latent("z_init", dist.LogNormal(jnp.log(10.0), 1), 2)
        theta = latent(
            "theta",
            dist.TruncatedNormal(
                loc=jnp.array([1.0, 0.05, 1.0, 0.05]), scale=jnp.array([0.5, 0.05, 0.5, 0.05]), low=0.0
            ).to_event(1),
        )
        sigma = latent("sigma", dist.LogNormal(-1, 1), 2)
        numpyro.sample("y", dist.Normal(_log_populations(jnp.log(start), theta, 21), sigma), obs=log_y)

    return example("ode-predator-prey", model, {"log_y": log_y})


def several_series() -> Example:
    """`lotka_volterra_multiple.ipynb`: three series of common rates, a fifth of the values missing."""
    rng = generator(3)
    starts = [[33.0, 6.0], [20.0, 20.0], [50.0, 10.0]]
    log_y = np.stack([_observed(rng, start, 12) for start in starts])
    seen = rng.random(log_y.shape) > 0.2
    first = log_y[:, 0].copy()

    def model(log_y, seen, first):
        start = latent("z_init", dist.LogNormal(first, 1.0).to_event(2))
        theta = latent(
            "theta",
            dist.TruncatedNormal(
                loc=jnp.array([1.0, 0.05, 1.0, 0.05]), scale=jnp.array([0.2, 0.01, 0.2, 0.01]), low=0.0
            ).to_event(1),
        )
        sigma = latent("sigma", dist.LogNormal(-1, 1), 2)
        paths = jax.vmap(lambda w: _log_populations(w, theta, 12))(jnp.log(start))
        numpyro.sample("y", dist.Normal(paths, sigma).mask(seen), obs=log_y)

    data = {"log_y": np.where(seen, log_y, 0.0), "seen": seen, "first": first}
    return example("ode-several-series", model, data, init_strategy=init_to_sample)


EXAMPLES: dict[str, Builder] = {"ode-predator-prey": predator_prey, "ode-several-series": several_series}
