"""Influenza in a boarding school: the SIR equations, observed with overdispersed noise."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

STEPS = 8  # of Runge and Kutta's method, a day


def infected(pupils, rate, recovery, days):
    """The infected at the end of each day, from one at the start, by Runge and Kutta's method."""

    def slope(state):
        infections = rate * state[0] * state[1] / pupils
        return jnp.stack([-infections, infections - recovery * state[1]])

    def step(state, _):
        h = 1.0 / STEPS
        k1 = slope(state)
        k2 = slope(state + 0.5 * h * k1)
        k3 = slope(state + 0.5 * h * k2)
        k4 = slope(state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return state, state[1]

    start = jnp.array([pupils - 1.0, 1.0])
    return jax.lax.scan(step, start, length=days * STEPS)[1][STEPS - 1 :: STEPS]


def model(pupils, in_bed):
    """Pupils in bed each day, negative binomial around the solution of the equations.

    Args:
        pupils: how many there are.
        in_bed: shape ``(days,)``.
    """
    rate = numpyro.sample("rate", dist.LogNormal(0.5, 0.5))
    recovery = numpyro.sample("recovery", dist.LogNormal(-0.7, 0.5))
    overdispersion = numpyro.sample("overdispersion", dist.Exponential(5))
    mean = infected(pupils, rate, recovery, len(in_bed))
    with numpyro.plate("day", len(in_bed)):
        numpyro.sample("in_bed", dist.NegativeBinomial2(mean, 1 / overdispersion), obs=in_bed)
