"""Hierarchies and random effects in 100 to 400 dimensions: the group "hierarchies".

They have the forms of NumPyro's `bayesian_hierarchical_linear_regression.ipynb`, `baseball.py` and
`mortality.py`, at the sizes that such models have in use.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES"]


def centred() -> Example:
    """A level and a slope for each of 100 groups of 12 observations, centred. 205 dimensions."""
    rng = generator(1200)
    group, x = np.repeat(np.arange(100), 12), rng.standard_normal(1200)
    level, slope = 1.0 + 0.8 * rng.standard_normal(100), -0.5 + 0.4 * rng.standard_normal(100)
    y = level[group] + slope[group] * x + 0.7 * rng.standard_normal(1200)

    def model(group, x, y):
        effects = []
        for part in ("level", "slope"):
            mean = latent(f"mu_{part}", dist.Normal(0, 5))
            spread = latent(f"sigma_{part}", dist.HalfNormal(2))
            with numpyro.plate(f"groups of {part}", 100):
                effects.append(latent(part, dist.Normal(mean, spread)))
        sigma = latent("sigma", dist.HalfNormal(2))
        mean = effects[0][group] + effects[1][group] * x
        numpyro.sample("y", dist.Normal(mean, sigma).to_event(1), obs=y)

    return example("hierarchy-centred", model, {"group": group, "x": x, "y": y}, group="hierarchies")


def not_centred() -> Example:
    """Logits of 300 units about a regression on covariates, few trials each, not centred. 306 dimensions."""
    rng = generator(300)
    x = rng.standard_normal((300, 4))
    logits = -0.5 + x @ np.array([0.6, -0.4, 0.2, 0.0]) + 0.7 * rng.standard_normal(300)
    trials = rng.integers(3, 15, 300)
    wins = rng.binomial(trials, 1 / (1 + np.exp(-logits)))

    def model(x, trials, wins):
        a = latent("intercept", dist.Normal(0, 2))
        beta = latent("beta", dist.Normal(0, 1), 4)
        tau = latent("tau", dist.HalfNormal(1))
        standard = latent("standard", dist.Normal(0, 1), 300)
        logits = a + x @ beta + tau * standard
        numpyro.sample("wins", dist.Binomial(trials, logits=logits).to_event(1), obs=wins)

    data = {"x": x, "trials": trials, "wins": wins}
    return example("hierarchy-reparametrised", model, data, group="hierarchies")


def crossed() -> Example:
    """Counts by 80 persons and 50 items, both with random effects, not nested. 134 dimensions."""
    rng = generator(1500)
    person, item = rng.integers(0, 80, 1500), rng.integers(0, 50, 1500)
    treated = rng.integers(0, 2, 1500).astype(float)
    by_person, by_item = 0.5 * rng.standard_normal(80), 0.8 * rng.standard_normal(50)
    y = rng.poisson(np.exp(0.8 + 0.3 * treated + by_person[person] + by_item[item]))

    def model(person, item, treated, y):
        a = latent("intercept", dist.Normal(0, 2))
        b = latent("treatment", dist.Normal(0, 1))
        effects = []
        for part, number in (("person", 80), ("item", 50)):
            spread = latent(f"sigma_{part}", dist.HalfNormal(1))
            with numpyro.plate(f"{part}s", number):
                effects.append(latent(part, dist.Normal(0, spread)))
        log_rate = a + b * treated + effects[0][person] + effects[1][item]
        numpyro.sample("y", dist.Poisson(jnp.exp(jnp.clip(log_rate, -30.0, 30.0))).to_event(1), obs=y)

    data = {"person": person, "item": item, "treated": treated, "y": y}
    return example("hierarchy-crossed", model, data, group="hierarchies")


EXAMPLES: dict[str, Builder] = {
    "hierarchy-centred": centred,
    "hierarchy-reparametrised": not_centred,
    "hierarchy-crossed": crossed,
}
