"""Pharmacokinetics: one compartment with first-order absorption and Michaelis-Menten elimination, an ODE."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax

FIRST, POWER, LATER = 32, 4, 8


def prepare(data):
    """Lay out the steps of the solver: `LATER` equal ones between measurements, `FIRST` graded ones before.

    At the start the elimination saturates within a time of order K_m: the steps before the first measurement
    begin at ``(j / FIRST)^POWER`` of its time.
    """
    times = data["times"]
    graded = times[0] * (np.arange(FIRST) / FIRST) ** POWER
    between = [np.linspace(a, b, LATER, endpoint=False) for a, b in zip(times[:-1], times[1:], strict=True)]
    edges = np.concatenate([graded, *between, times[-1:]])
    return {
        "intake": data["D"] / data["V"],
        "volume": data["V"],
        "start": edges[:-1],
        "step": np.diff(edges),
        "C_hat": data["C_hat"],
    }


def solve(k_a, K_m, V_m, intake, volume, start, step):
    """Concentrations at the end of every step, shape ``(steps,)``, from C = 0 at time 0.

    ``dC/dt = intake k_a exp(-k_a t) - (V_m / volume) C / (K_m + C)`` by the Runge-Kutta method of order 4 for
    what is eliminated; what is absorbed is known in closed form. Where elimination is so fast that the method
    is unstable, a concentration can fall below 0: it is eliminated as 0 is, so that it stays bounded.
    """
    present = intake * jnp.exp(-k_a * start)
    half, whole = -present * jnp.expm1(-0.5 * k_a * step), -present * jnp.expm1(-k_a * step)

    def eliminated(c):
        c = jnp.maximum(c, 0.0)
        return V_m / volume * c / (K_m + c)

    def advance(c, now):
        half, whole, h = now
        rate_1 = eliminated(c)
        rate_2 = eliminated(c + half - 0.5 * h * rate_1)
        rate_3 = eliminated(c + half - 0.5 * h * rate_2)
        rate_4 = eliminated(c + whole - h * rate_3)
        c = c + whole - h / 6 * (rate_1 + 2 * rate_2 + 2 * rate_3 + rate_4)
        return c, c

    return lax.scan(advance, jnp.zeros_like(half[0]), (half, whole, jnp.asarray(step, half.dtype)))[1]


def model(intake, volume, start, step, C_hat):
    """Concentrations measured with log-normal errors.

    Args:
        intake: dose over volume.
        volume: volume of the compartment.
        start: time at which each step of the solver begins, shape ``(steps,)``.
        step: length of each step, shape ``(steps,)``.
        C_hat: concentration measured at the end of step `FIRST` and of every `LATER`-th one after it, shape
            ``(measurements,)``.
    """
    k_a = numpyro.sample("k_a", dist.HalfCauchy(1))
    K_m = numpyro.sample("K_m", dist.HalfCauchy(1))
    V_m = numpyro.sample("V_m", dist.HalfCauchy(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(1))
    C = solve(k_a, K_m, V_m, intake, volume, start, step)[FIRST - 1 :: LATER]
    median = jnp.maximum(C, jnp.finfo(C.dtype).tiny)
    with numpyro.plate("measurement", len(C_hat)):
        numpyro.sample("C_hat", dist.LogNormal(jnp.log(median), sigma), obs=C_hat)
