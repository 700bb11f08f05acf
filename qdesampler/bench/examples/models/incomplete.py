"""Data of which a part is missing, censored or cut off."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES"]


def continuous_imputation() -> Example:
    """`bayesian_imputation.ipynb`: who survives a shipwreck, a fifth of the ages missing and sampled.

    200 made-up passengers; the spread of the ages is positive here, where the original leaves it a sign.
    """
    rng = generator(891)
    n, titles = 200, 5
    fields = {
        "title": rng.integers(0, titles, n),
        "pclass": rng.integers(0, 3, n),
        "sex": rng.integers(0, 2, n),
    }
    age = np.array([0.2, 0.1, -0.3, -1.2, 0.8])[fields["title"]] + 0.7 * rng.standard_normal(n)
    missing = np.flatnonzero(rng.random(n) < 0.2)
    logits = 0.8 - 0.6 * fields["pclass"] + 1.2 * fields["sex"] - 0.4 * age
    survived = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(int)

    def model(age, title, pclass, sex, survived):
        def effects(name, levels):
            return latent(name, dist.Normal(0, 1), levels)

        mu = effects("age_mu", titles)
        sigma = latent("age_sigma", dist.HalfNormal(1), titles)
        found = latent("age_impute", dist.ImproperUniform(dist.constraints.real_vector, (), missing.shape))
        age = jnp.asarray(age).at[missing].set(found)
        numpyro.sample("age", dist.Normal(mu[title], sigma[title]).to_event(1), obs=age)
        a, slope = latent("a", dist.Normal(0, 1)), latent("b_age", dist.Normal(0, 1))
        logits = a + slope * age + effects("b_title", titles)[title] + effects("b_pclass", 3)[pclass]
        logits = logits + effects("b_sex", 2)[sex]
        numpyro.sample("survived", dist.Bernoulli(logits=logits).to_event(1), obs=survived)

    age[missing] = 0.0
    return example("imputation-continuous", model, {"age": age, "survived": survived, **fields})


def _binary_predictor() -> dict[str, np.ndarray]:
    rng = generator(252)
    n = 200
    b = (rng.random(n) < 0.5).astype(float)
    a = (rng.random(n) < 1 / (1 + np.exp(0.3 - 0.8 * b))).astype(float)
    y = a + 0.5 * b + 0.7 * rng.standard_normal(n)
    seen = rng.random(n) < np.where(a > 0, 0.9, 0.6)
    return {"a": np.where(seen, a, 0.0), "b": b, "y": y, "seen": seen}


def _regression_with_missing(a, b, y, seen, log_seen=(0.0, 0.0)):
    """Sum out the missing values of a binary predictor; `log_seen` of whether one of 0 or 1 is seen."""
    mu, slope = latent("mu_A", dist.Normal(0, 2.5)), latent("b_B_A", dist.Normal(0, 2.5))
    b_a, b_b = latent("b_A", dist.Normal(0, 2.5)), latent("b_B", dist.Normal(0, 2.5))
    s = latent("s_Y", dist.HalfCauchy(2.5))
    law = dist.Bernoulli(logits=mu + slope * b)
    joint = [
        law.log_prob(jnp.full(len(b), value))
        + dist.Normal(b_a * value + b_b * b, s).log_prob(y)
        + log_seen[value]
        for value in (0, 1)
    ]
    known = jnp.where(a > 0, joint[1], joint[0])
    numpyro.factor("observed", jnp.sum(jnp.where(seen, known, jnp.logaddexp(*joint))))


def discrete_imputation() -> Example:
    """`discrete_imputation.ipynb`: a binary predictor, partly missing at random, summed out."""
    return example("imputation-discrete", _regression_with_missing, _binary_predictor())


def discrete_missing_not_at_random() -> Example:
    """`discrete_imputation.ipynb`, last model: whether the value is seen depends on the value."""

    def model(a, b, y, seen):
        p = latent("p_Aobs", dist.Beta(1, 1), 2)
        chances = [jnp.where(seen, jnp.log(p[value]), jnp.log1p(-p[value])) for value in (0, 1)]
        _regression_with_missing(a, b, y, seen, chances)

    return example("imputation-discrete-informative", model, _binary_predictor())


def _cut_off(rng, loc, scale, high, n):
    draws = loc + scale * rng.standard_normal(20 * n)
    return draws[draws < high][:n]


def truncated_normal() -> Example:
    """`truncated_distributions.ipynb`: 200 normal values below a known bound."""
    x = _cut_off(generator(200), 0.4, 0.9, 1.2, 200)

    def model(x):
        loc, scale = latent("loc", dist.Normal()), latent("scale", dist.LogNormal())
        numpyro.sample("x", dist.TruncatedNormal(loc, scale, high=1.2).expand([200]).to_event(1), obs=x)

    return example("truncated-normal", model, {"x": x})


def truncation_unknown() -> Example:
    """`truncated_distributions.ipynb`: the bound is unknown, and lies above the largest value."""
    x = _cut_off(generator(201), 0.4, 0.9, 1.2, 200)

    def model(x):
        loc, scale = latent("loc", dist.Normal()), latent("scale", dist.LogNormal())
        delta = latent("delta", dist.HalfNormal())
        high = jnp.max(x) + delta
        log_mass = norm.logcdf((high - loc) / scale)
        numpyro.factor("x", jnp.sum(norm.logpdf(x, loc, scale)) - len(x) * log_mass)

    return example("truncation-unknown", model, {"x": x})


def folded_student() -> Example:
    """`truncated_distributions.ipynb`: absolute values of Student variables; the sign of `loc` is lost.

    Both signs have the same likelihood and prior: draws are judged by |loc|.
    """
    rng = generator(500)
    x = np.abs(1.2 + 0.8 * rng.standard_t(3.0, 500))

    def model(x):
        df = latent("df", dist.Gamma(6.0, 2.0))
        loc, scale = latent("loc", dist.Normal()), latent("scale", dist.LogNormal())
        law = dist.StudentT(df, loc, scale)
        numpyro.factor("x", jnp.sum(jnp.logaddexp(law.log_prob(x), law.log_prob(-x))))

    def summary(draws):
        return {
            "loc": np.abs(draws["loc"]),
            "log_scale": np.log(draws["scale"]),
            "log_df": np.log(draws["df"]),
        }

    return example("folded-student", model, {"x": x}, summary=summary)


def truncated_poisson() -> Example:
    """`truncated_distributions.ipynb`: counts at or above an unknown bound, which is summed out."""
    rng = generator(300)
    draws = rng.poisson(3.2, 4000)
    x = draws[draws >= 2][:300]

    def model(x):
        rate = latent("rate", dist.LogNormal(1, 1))
        law = dist.Poisson(rate)
        below = jnp.cumsum(jnp.exp(law.log_prob(jnp.arange(4))))  # P(X <= 0), ..., P(X <= 3)
        log_mass = jnp.log1p(-jnp.concatenate([jnp.zeros(1), below]))  # P(X >= low), low = 0, ..., 4
        possible = jnp.arange(5) <= jnp.min(x)
        by_bound = jnp.where(possible, -len(x) * log_mass, -jnp.inf)
        numpyro.factor("x", jnp.sum(law.log_prob(x)) + logsumexp(by_bound))

    return example("truncated-poisson", model, {"x": x})


def survival() -> Example:
    """Censored survival times, in the manner of NumPyro's `RightCensoredDistribution`: a Weibull regression.

    120 made-up patients, three covariates, a third censored.
    """
    rng = generator(120)
    x = rng.standard_normal((120, 3))
    time = np.exp(1.0 + x @ np.array([0.5, -0.3, 0.0])) * rng.weibull(1.4, 120)
    end = rng.uniform(1.0, 8.0, 120)

    def model(x, time, censored):
        a = latent("intercept", dist.Normal(0, 3))
        beta = latent("beta", dist.Normal(0, 1), 3)
        shape = latent("shape", dist.HalfNormal(2))
        log_ratio = shape * (jnp.log(time) - a - x @ beta)
        log_hazard = jnp.log(shape) + log_ratio - jnp.log(time)
        numpyro.factor("time", jnp.sum(jnp.where(censored, 0.0, log_hazard) - jnp.exp(log_ratio)))

    return example("survival-weibull", model, {"x": x, "time": np.minimum(time, end), "censored": time > end})


EXAMPLES: dict[str, Builder] = {
    "imputation-continuous": continuous_imputation,
    "imputation-discrete": discrete_imputation,
    "imputation-discrete-informative": discrete_missing_not_at_random,
    "truncated-normal": truncated_normal,
    "truncation-unknown": truncation_unknown,
    "folded-student": folded_student,
    "truncated-poisson": truncated_poisson,
    "survival-weibull": survival,
}
