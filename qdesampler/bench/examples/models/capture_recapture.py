"""Cormack, Jolly & Seber models of capture and recapture. All follow NumPyro's `capture_recapture.py`.

100 made-up animals of two sexes, 7 occasions. Whether an animal still lives is summed out by hand: with phi_t
the chance to survive from t - 1 to t and rho to be seen if alive, an animal first seen at f and last at l has

    p = prod_{f < t <= l} phi_t rho^{y_t} (1 - rho)^{1 - y_t} chi_l,
    chi_t = 1 - phi_{t+1} + phi_{t+1} (1 - rho) chi_{t+1},   chi at the end = 1.
"""

from functools import reduce

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import expit, logit
from numpyro.distributions.util import clamp_probs

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES"]

ANIMALS, OCCASIONS = 100, 7  # the dippers of the original are 294, over as many occasions


def _histories() -> dict[str, np.ndarray]:
    rng = generator(100)
    sex = rng.integers(0, 2, ANIMALS)
    first = rng.integers(0, OCCASIONS - 1, ANIMALS)
    survival = 0.55 + 0.1 * rng.standard_normal(OCCASIONS)[None, :] * 0.5 + 0.06 * sex[:, None]
    seen = np.zeros((ANIMALS, OCCASIONS), int)
    for i in range(ANIMALS):
        seen[i, first[i]] = alive = 1
        for t in range(first[i] + 1, OCCASIONS):
            alive = alive and rng.random() < survival[i, t]
            seen[i, t] = alive and rng.random() < 0.85
    last = OCCASIONS - 1 - np.argmax(seen[:, ::-1], axis=1)
    return {"seen": seen, "first": first, "last": last, "sex": sex.astype(float)}


def _factor(survival, rho, seen, first, last):
    """Add the log likelihood; `survival`, `(animals or 1, occasions - 1)`, is that to each later occasion."""
    phi = jnp.broadcast_to(survival, (ANIMALS, OCCASIONS - 1))
    steps = range(OCCASIONS - 2, -1, -1)
    never = [jnp.ones(ANIMALS)]
    reduce(
        lambda done, t: done.append(1 - phi[:, t] + phi[:, t] * (1 - rho) * done[-1]) or done, steps, never
    )
    chi = jnp.stack(never[::-1], axis=1)  # animal, occasion
    time = jnp.arange(1, OCCASIONS)
    within = (time > first[:, None]) & (time <= last[:, None])
    found = jnp.where(seen[:, 1:] == 1, jnp.log(rho), jnp.log1p(-rho))
    log_p = jnp.sum(jnp.where(within, jnp.log(phi) + found, 0.0), axis=1)
    after = jnp.take_along_axis(chi, last[:, None], axis=1)[:, 0]
    numpyro.factor("histories", jnp.sum(log_p + jnp.log(after)))


def _uniform(name, high=1.0):
    return latent(name, dist.Uniform(0.0, high))


def constant() -> Example:
    """`capture_recapture.py`, model 1: one survival and one recapture probability."""

    def model(seen, first, last, sex):
        _factor(_uniform("phi"), _uniform("rho"), seen, first, last)

    return example("cjs-constant", model, _histories())


def by_time() -> Example:
    """`capture_recapture.py`, model 2: a survival probability for each step, all independent."""

    def model(seen, first, last, sex):
        rho = _uniform("rho")
        with numpyro.plate("step", OCCASIONS - 1):
            phi = _uniform("phi")
        _factor(phi[None], rho, seen, first, last)

    return example("cjs-time", model, _histories())


def random_effects() -> Example:
    """`capture_recapture.py`, model 3: the logits of survival vary at random with time, not centred."""

    def model(seen, first, last, sex):
        mean, sigma, rho = _uniform("phi_mean"), _uniform("phi_sigma", 10.0), _uniform("rho")
        with numpyro.plate("step", OCCASIONS - 1):
            standard = latent("standard", dist.Normal(0, 1))
        _factor(expit(logit(mean) + sigma * standard)[None], rho, seen, first, last)

    return example("cjs-random-effects", model, _histories())


def by_sex() -> Example:
    """`capture_recapture.py`, model 4: a survival probability for each sex."""

    def model(seen, first, last, sex):
        male, female, rho = _uniform("phi_male"), _uniform("phi_female"), _uniform("rho")
        _factor((sex * male + (1 - sex) * female)[:, None], rho, seen, first, last)

    return example("cjs-sex", model, _histories())


def by_sex_and_time() -> Example:
    """`capture_recapture.py`, model 5: logits of survival add an effect of sex and one of each step."""

    def model(seen, first, last, sex):
        beta = latent("phi_beta", dist.Normal(0, 10))
        rho = _uniform("rho")
        with numpyro.plate("step", OCCASIONS - 1):
            gamma = latent("phi_gamma", dist.Normal(0, 10))
        _factor(clamp_probs(expit(beta * sex[:, None] + gamma)), rho, seen, first, last)

    return example("cjs-sex-time", model, _histories())


EXAMPLES: dict[str, Builder] = {
    "cjs-constant": constant,
    "cjs-time": by_time,
    "cjs-random-effects": random_effects,
    "cjs-sex": by_sex,
    "cjs-sex-time": by_sex_and_time,
}
