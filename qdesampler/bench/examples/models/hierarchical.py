"""Hierarchical models and random effects of the originals' sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES"]


def _batters() -> dict[str, np.ndarray]:
    """18 players with 45 at bats each."""
    rng = generator(18)
    return {"hits": rng.binomial(45, rng.beta(30, 80, 18))}


def baseball_fully_pooled() -> Example:
    """`baseball.py`: one success probability for all players."""

    def model(hits):
        phi = latent("phi", dist.Uniform(0, 1))
        numpyro.sample("obs", dist.Binomial(45, probs=phi).expand([18]).to_event(1), obs=hits)

    return example("baseball-fully-pooled", model, _batters(), warmup=1500, draws=3000)


def baseball_not_pooled() -> Example:
    """`baseball.py`: an independent probability for each player."""

    def model(hits):
        with numpyro.plate("player", 18):
            phi = latent("phi", dist.Uniform(0, 1))
            numpyro.sample("obs", dist.Binomial(45, probs=phi), obs=hits)

    return example("baseball-not-pooled", model, _batters(), warmup=1500, draws=3000)


def baseball_partially_pooled() -> Example:
    """`baseball.py`: `phi_i ~ Beta(m kappa, (1 - m) kappa)`, `kappa ~ Pareto(1, 1.5)`."""

    def model(hits):
        m = latent("m", dist.Uniform(0, 1))
        kappa = latent("kappa", dist.Pareto(1.0, 1.5))
        with numpyro.plate("player", 18):
            phi = latent("phi", dist.Beta(m * kappa, (1 - m) * kappa))
            numpyro.sample("obs", dist.Binomial(45, probs=phi), obs=hits)

    return example("baseball-partially-pooled", model, _batters(), warmup=1500, draws=3000)


def baseball_logit() -> Example:
    """`baseball.py`: logits about a common mean, centred."""

    def model(hits):
        loc = latent("loc", dist.Normal(-1, 1))
        scale = latent("scale", dist.HalfCauchy(1))
        with numpyro.plate("player", 18):
            alpha = latent("alpha", dist.Normal(loc, scale))
            numpyro.sample("obs", dist.Binomial(45, logits=alpha), obs=hits)

    return example("baseball-logit", model, _batters(), warmup=1500, draws=3000)


def admissions() -> Example:
    """`ucbadmit.py`: intercepts and slopes of six departments, correlated, not centred."""
    rng = generator(6)
    dept, male = np.repeat(np.arange(6), 2), np.tile([1, 0], 6)
    applications = rng.integers(25, 800, 12)
    level = np.array([0.7, 0.6, -0.5, -0.6, -1.1, -2.6])
    admit = rng.binomial(applications, 1 / (1 + np.exp(-level[dept] + 0.1 * male)))

    def model(dept, male, applications, admit):
        mean = latent("v_mu", dist.Normal(0, jnp.array([4.0, 1.0])).to_event(1))
        sigma = latent("sigma", dist.HalfNormal(jnp.ones(2)).to_event(1))
        root = sigma[:, None] * latent("L_Rho", dist.LKJCholesky(2, concentration=2.0))
        v = mean + latent("z", dist.Normal(0, 1), 6, 2) @ root.T
        logits = v[dept, 0] + v[dept, 1] * male
        numpyro.sample("admit", dist.Binomial(applications, logits=logits).to_event(1), obs=admit)

    data = {"dept": dept, "male": male, "applications": applications, "admit": admit}
    return example("ucbadmit", model, data, warmup=500, draws=2000)


def _patients() -> dict[str, np.ndarray]:
    """40 patients with five visits each, in units of 100 ml and of 10 weeks."""
    rng = generator(40)
    patient = np.repeat(np.arange(40), 5)
    weeks = np.tile([0.0, 1.0, 2.0, 3.5, 5.0], 40) + 0.2 * rng.standard_normal(200)
    status = rng.integers(0, 3, 40)
    level = np.array([27.0, 25.0, 29.0])[status] + 6 * rng.standard_normal(40)
    slope = -0.4 + 0.3 * rng.standard_normal(40)
    y = level[patient] + slope[patient] * weeks + 1.5 * rng.standard_normal(200)
    return {"patient": patient, "weeks": weeks, "status": status, "y": y}


def _lines():
    """Hyperparameters of the lines: means and scales of levels and slopes, and the noise."""
    means = (
        latent("mu_level", dist.Normal(0.0, 30.0)),
        latent("mu_slope", dist.Normal(0.0, 3.0)),
    )
    scales = (
        latent("sigma_level", dist.HalfNormal(10.0)),
        latent("sigma_slope", dist.HalfNormal(3.0)),
    )
    return means, scales, latent("sigma", dist.HalfNormal(10.0))


def linear_regression() -> Example:
    """`bayesian_hierarchical_linear_regression.ipynb`: a line for each patient, centred."""

    def model(patient, weeks, status, y):
        means, scales, sigma = _lines()
        with numpyro.plate("patients", 40):
            level = latent("level", dist.Normal(means[0], scales[0]))
            slope = latent("slope", dist.Normal(means[1], scales[1]))
        numpyro.sample("obs", dist.Normal(level[patient] + slope[patient] * weeks, sigma).to_event(1), obs=y)

    return example("hierarchical-lines", model, _patients(), warmup=2000, draws=2000)


def linear_regression_by_status() -> Example:
    """`bayesian_hierarchical_linear_regression.ipynb`: patients within smoking status, not centred."""

    def model(patient, weeks, status, y):
        means, scales, sigma = _lines()
        values = []
        for part, mean, scale in zip(("level", "slope"), means, scales, strict=True):
            by_status = latent(f"{part}_status", dist.Normal(0, 1), 3)
            by_patient = latent(f"{part}_patient", dist.Normal(0, 1), 40)
            values.append(mean + scale * (by_status[status] + by_patient))
        level, slope = values
        numpyro.sample("obs", dist.Normal(level[patient] + slope[patient] * weeks, sigma).to_event(1), obs=y)

    return example("hierarchical-lines-status", model, _patients(), warmup=2000, draws=2000)


def mortality() -> Example:
    """`mortality.py`: deaths by age, area and year; areas within regions, random walks over ages and years.

    8 ages, 12 areas in 4 regions, 6 years, not centred, 42 dimensions.
    """
    rng = generator(576)
    ages, areas, years = 8, 12, 6
    age, area, year = (a.ravel() for a in np.indices((ages, areas, years)))
    region = np.arange(areas) % 4
    rate = -6 + 0.6 * np.arange(ages)[age] + (0.2 * rng.standard_normal(areas))[area] - 0.03 * year
    population = rng.integers(200, 3000, age.size)
    deaths = rng.binomial(population, 1 / (1 + np.exp(-rate)))

    def standard(name, length):
        return latent(name, dist.Normal(0, 1), length)

    def model(age, area, year, population, deaths):
        names = ("alpha_s1", "alpha_s2", "alpha_age", "beta_age", "pi")
        sigma = {name: latent(f"sigma_{name}", dist.HalfNormal(1.0)) for name in names}
        by_region = sigma["alpha_s1"] * standard("alpha_s1", 4)
        by_area = by_region[region] + sigma["alpha_s2"] * standard("alpha_s2", areas)
        first = jnp.arange(ages) == 0  # the walks start anywhere
        by_age, trend = (
            jnp.cumsum(jnp.where(first, 10.0, sigma[name]) * standard(name, ages))
            for name in ("alpha_age", "beta_age")
        )
        by_year = jnp.concatenate([jnp.zeros(1), jnp.cumsum(sigma["pi"] * standard("pi", years - 1))])
        logits = by_age[age] + trend[age] * year + by_area[area] + by_year[year]
        numpyro.sample("deaths", dist.Binomial(population, logits=logits).to_event(1), obs=deaths)

    data = {"age": age, "area": area, "year": year, "population": population, "deaths": deaths}
    return example("mortality", model, data, warmup=500, draws=500)


def stacking() -> Example:
    """`bayesian_hierarchical_stacking.ipynb`: weights of four models that depend on eight features."""
    rng = generator(300)
    discrete, continuous, models = 4, 4, 4
    x = np.column_stack(
        [np.eye(discrete)[rng.integers(0, discrete, 300)], rng.standard_normal((300, continuous))]
    )
    best = (x @ rng.standard_normal((8, models))).argmax(axis=1)
    scores = -0.7 + 0.4 * rng.standard_normal((300, models)) + 0.8 * np.eye(models)[best]

    def model(x, scores):
        with numpyro.plate("models", models - 1, dim=-2):
            mean = latent("mu", dist.Normal(0, 1.0))
            sigma = latent("sigma", dist.HalfNormal(0.5))
            with numpyro.plate("discrete", discrete, dim=-1):
                tau = latent("tau", dist.Normal(0, 1))
            with numpyro.plate("continuous", continuous, dim=-1):
                slope = latent("beta_con", dist.Normal(0, 1))
        beta = jnp.hstack([mean + sigma * tau, slope])
        weights = jax.nn.log_softmax(jnp.hstack([x @ beta.T, jnp.zeros((300, 1))]), axis=1)
        numpyro.factor("scores", jnp.sum(logsumexp(scores + weights, axis=1)))

    return example("hierarchical-stacking", model, {"x": x, "scores": scores})


def _schools(name: str, centred: bool) -> Example:
    """Eight made-up schools: effects seen with known errors."""
    rng = generator(8)
    sigma = rng.uniform(9, 18, 8)
    y = 8 + 4 * rng.standard_normal(8) + sigma * rng.standard_normal(8)

    def model(y, sigma):
        mu = latent("mu", dist.Normal(0, 5))
        tau = latent("tau", dist.HalfCauchy(5))
        with numpyro.plate("school", 8):
            if centred:
                theta = latent("theta", dist.Normal(mu, tau))
            else:
                theta = mu + tau * latent("theta_standard", dist.Normal(0, 1))
            numpyro.sample("obs", dist.Normal(theta, sigma), obs=y)

    return example(name, model, {"y": y, "sigma": sigma})


def schools_centred() -> Example:
    """NumPyro's front page, centred: the case for `variationally_inferred_parameterization.ipynb`."""
    return _schools("schools-centred", centred=True)


def schools_not_centred() -> Example:
    """The model of NumPyro's front page, reparametrised."""
    return _schools("schools-reparametrised", centred=False)


EXAMPLES: dict[str, Builder] = {
    "baseball-fully-pooled": baseball_fully_pooled,
    "baseball-not-pooled": baseball_not_pooled,
    "baseball-partially-pooled": baseball_partially_pooled,
    "baseball-logit": baseball_logit,
    "ucbadmit": admissions,
    "hierarchical-lines": linear_regression,
    "hierarchical-lines-status": linear_regression_by_status,
    "mortality": mortality,
    "hierarchical-stacking": stacking,
    "schools-centred": schools_centred,
    "schools-reparametrised": schools_not_centred,
}
