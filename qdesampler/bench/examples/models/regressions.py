"""Regressions: linear, logistic, ordinal, of counts."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints, transforms

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES"]


def _logistic(name: str, points: int, dim: int, seed: int, correlated: bool, **settings) -> Example:
    """`coefs ~ N(0, 1)`, a Bernoulli outcome; correlated features share 10 factors."""
    rng = generator(seed)
    x = rng.standard_normal((points, dim))
    if correlated:
        x = 0.5 * x + rng.standard_normal((points, 10)) @ rng.standard_normal((10, dim)) / 4
    x = np.column_stack([x / x.std(axis=0), np.ones(points)])
    y = (rng.random(points) < 1 / (1 + np.exp(-x @ (0.5 * rng.standard_normal(dim + 1))))).astype(int)

    def model(x, y):
        coefs = latent("coefs", dist.Normal(0, 1), dim + 1)
        numpyro.sample("obs", dist.Bernoulli(logits=x @ coefs).to_event(1), obs=y)

    return example(name, model, {"x": x, "y": y}, **settings)


def covtype() -> Example:
    """`covtype.py` on 1000 made-up points instead of 581 012: 54 correlated features and a constant."""
    return _logistic("covtype", 1000, 54, 55, correlated=True)


def logistic() -> Example:
    """`logistic_regression.ipynb`: three features, 2000 points, 500 iterations of warm-up, 500 draws."""
    return _logistic("logistic", 2000, 3, 3, correlated=False, warmup=500, draws=500)


def higgs_like() -> Example:
    """`hmcecs.py` without its subsampling: 28 independent features, 2000 points."""
    return _logistic("logistic-28", 2000, 28, 28, correlated=False)


def proportions() -> Example:
    """`proportion_test.py`: who buys after a sales call, 4000 customers instead of 100 000."""
    rng = generator(4000)
    called, female = np.repeat([1.0, 0.0], [2054, 1946]), rng.integers(0, 2, 4000)
    x = np.column_stack([np.ones(4000), called, female])
    bought = (rng.random(4000) < np.where(called > 0, 0.084, 0.061)).astype(int)

    def model(x, bought):
        prior = dist.MultivariateNormal(jnp.zeros(3), scale_tril=jnp.eye(3))
        numpyro.sample("obs", dist.Bernoulli(logits=x @ latent("beta", prior)).to_event(1), obs=bought)

    return example("proportion-test", model, {"x": x, "bought": bought}, warmup=1500, draws=500)


def zero_inflated_poisson() -> Example:
    """`zero_inflated_poisson.py`: the gate and the log rate are both linear in the features."""
    rng = generator(250)
    x = np.column_stack([np.ones(250), rng.standard_normal((250, 3))])
    gate = 1 / (1 + np.exp(-x @ np.array([-0.5, 0.8, 0.0, -0.4])))
    y = np.where(rng.random(250) < gate, 0, rng.poisson(np.exp(x @ np.array([0.8, 0.3, -0.4, 0.0]))))

    def model(x, y):
        b1, b2 = (latent(b, dist.Normal(0, 1), 4) for b in ("b1", "b2"))
        rate = jnp.exp(jnp.clip(x @ b2, -30.0, 30.0))
        law = dist.ZeroInflatedPoisson(gate=jnp.clip(1 / (1 + jnp.exp(-x @ b1)), 1e-6, 1 - 1e-6), rate=rate)
        numpyro.sample("y", law.to_event(1), obs=y)

    return example("zero-inflated-poisson", model, {"x": x, "y": y}, draws=2000)


def _divorce() -> dict[str, np.ndarray]:
    """50 states: marriages and ages, both standardised, and the divorces that depend on the latter."""
    rng = generator(50)
    age = rng.standard_normal(50)
    marriage = -0.7 * age + 0.7 * rng.standard_normal(50)
    divorce = -0.6 * age + 0.7 * rng.standard_normal(50)
    return {"marriage": marriage, "age": age, "divorce": divorce}


def _divorce_mean(marriage, age):
    a = latent("a", dist.Normal(0.0, 0.2))
    b_m, b_a = latent("bM", dist.Normal(0.0, 0.5)), latent("bA", dist.Normal(0.0, 0.5))
    return a + b_m * marriage + b_a * age, latent("sigma", dist.Exponential(1.0))


def divorce() -> Example:
    """`bayesian_regression.ipynb`: two predictors."""

    def model(marriage, age, divorce):
        mean, sigma = _divorce_mean(marriage, age)
        numpyro.sample("obs", dist.Normal(mean, sigma).to_event(1), obs=divorce)

    return example("divorce", model, _divorce(), draws=2000)


def divorce_measured() -> Example:
    """`bayesian_regression.ipynb`, last model: the outcome is itself measured with known errors."""
    data = _divorce()
    errors = generator(51).uniform(0.2, 1.0, 50)

    def model(marriage, age, divorce, errors):
        mean, sigma = _divorce_mean(marriage, age)
        rate = latent("divorce_rate", dist.Normal(mean, sigma).to_event(1))
        numpyro.sample("obs", dist.Normal(rate, errors).to_event(1), obs=divorce)

    return example("divorce-measured", model, {**data, "errors": errors}, draws=3000)


def cuped() -> Example:
    """`bayesian_cuped.ipynb`: a treatment's effect after an earlier covariate is taken out."""
    rng = generator(500)
    before, treated = rng.standard_normal(500), (np.arange(500) % 2).astype(float)
    after = 0.5 + 0.8 * before + 0.3 * treated + 0.6 * rng.standard_normal(500)

    def model(after, treated, before):
        def line(part, slope):
            return (
                latent(f"intercept_{part}", dist.Normal(0, 2)),
                latent(slope, dist.Normal(0, 3)),
                latent(f"sigma_{part}", dist.HalfCauchy(2)),
            )

        a, theta, sigma = line("target", "theta")
        numpyro.sample("after", dist.Normal(a + theta * before, sigma).to_event(1), obs=after)
        a, beta, sigma = line("cuped", "beta")
        rest = after - theta * (before - jnp.mean(before))
        numpyro.factor("rest", jnp.sum(dist.Normal(a + beta * treated, sigma).log_prob(rest)))

    return example("cuped", model, {"after": after, "treated": treated, "before": before}, draws=2000)


def line() -> Example:
    """`other_samplers.ipynb`: a straight line of positive slope."""
    rng = generator(100)
    x = rng.standard_normal(100)

    def model(x, y):
        a, b = latent("a", dist.Normal(0, 2)), latent("b", dist.HalfNormal(2))
        numpyro.sample("y", dist.Normal(a + b * x, latent("sigma", dist.Exponential(1.0))), obs=y)

    return example("line", model, {"x": x, "y": 1 + 2 * x + 0.5 * rng.standard_normal(100)})


def _ordinal(name: str, cut_points) -> Example:
    """`cut_points()` samples two ordered ones; 50 outcomes of three classes."""
    rng = generator(53)
    x = rng.standard_normal(50)
    y = np.digitize(1.5 * x + rng.logistic(size=50), [-0.5, 1.0])

    def model(x, y):
        slope = latent("b_X_eta", dist.Normal(0, 5))
        numpyro.sample("Y", dist.OrderedLogistic(x * slope, cut_points()).to_event(1), obs=y)

    return example(name, model, {"x": x, "y": y}, warmup=250, draws=750)


def ordinal() -> Example:
    """`ordinal_regression.ipynb`, model 1: cut points under an improper flat prior."""
    flat = dist.ImproperUniform(constraints.ordered_vector, (), (2,))
    return _ordinal("ordinal", lambda: latent("c_y", flat))


def ordinal_ordered() -> Example:
    """`ordinal_regression.ipynb`, model 3: cut points from a transformed normal law."""

    def cut_points():
        law = dist.TransformedDistribution(dist.Normal(0, 1).expand([2]), transforms.OrderedTransform())
        return latent("c_y", law)

    return _ordinal("ordinal-ordered", cut_points)


def ordinal_dirichlet() -> Example:
    """`ordinal_regression.ipynb`, model 4: cut points from Dirichlet class probabilities."""

    def cut_points():
        p = latent("p", dist.Dirichlet(jnp.ones(3)))
        return transforms.SimplexToOrderedTransform(0.0)(p)

    return _ordinal("ordinal-dirichlet", cut_points)


EXAMPLES: dict[str, Builder] = {
    "covtype": covtype,
    "logistic": logistic,
    "logistic-28": higgs_like,
    "proportion-test": proportions,
    "zero-inflated-poisson": zero_inflated_poisson,
    "divorce": divorce,
    "divorce-measured": divorce_measured,
    "cuped": cuped,
    "line": line,
    "ordinal": ordinal,
    "ordinal-ordered": ordinal_ordered,
    "ordinal-dirichlet": ordinal_dirichlet,
}
