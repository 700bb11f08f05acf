"""Likelihoods: too many zeros, mixtures, censoring, overdispersion, ordered outcomes, few rows."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from tests.support.kinds.kind import Table

LIKELIHOODS = Table()
add = LIKELIHOODS.add
COUNTS = np.array([0, 0, 0, 3, 1, 0, 4, 2], np.int32)
VALUES = np.array([-1.2, 0.3, 2.0, 2.4], np.float32)


# ---- counts ------------------------------------------------------------------------------------------------


@add("Poisson", args=(COUNTS,), expected={"rate": 12 / 9})
def _(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.Poisson(rate).expand(y.shape).to_event(1), obs=y)


@add("zeros inflated", args=(COUNTS,), grid={"gate": (0.0, 1.0), "rate": (0.0, 12.0)})
def _(y):
    gate = numpyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.ZeroInflatedPoisson(gate, rate).expand(y.shape).to_event(1), obs=y)


@add("hurdle", args=(COUNTS,), grid={"gate": (0.0, 1.0), "rate": (0.0, 12.0)})
def _(y):
    gate = numpyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.HurdlePoisson(gate, rate).expand(y.shape).to_event(1), obs=y)


@add("hurdle written by hand", args=(COUNTS,), grid={"rate": (0.0, 12.0)})
def _(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    positive = jnp.where(y > 0, y, 1)
    log_p = dist.Poisson(rate).log_prob(positive) - jnp.log(-jnp.expm1(-rate))
    numpyro.factor("y", jnp.sum(jnp.where(y > 0, log_p, 0.0)))


@add("Gamma-Poisson", args=(COUNTS,), grid={"shape": (0.0, 15.0), "rate": (0.0, 15.0)})
def _(y):
    shape = numpyro.sample("shape", dist.Gamma(4.0, 4.0))
    rate = numpyro.sample("rate", dist.Gamma(4.0, 4.0))
    numpyro.sample("y", dist.GammaPoisson(shape, rate).expand(y.shape).to_event(1), obs=y)


@add("negative binomial", args=(COUNTS,), grid={"mean": (0.0, 12.0), "size": (0.0, 12.0)})
def _(y):
    mean = numpyro.sample("mean", dist.Gamma(2.0, 1.0))
    size = numpyro.sample("size", dist.Gamma(3.0, 3.0))
    numpyro.sample("y", dist.NegativeBinomial2(mean, size).expand(y.shape).to_event(1), obs=y)


@add("beta-binomial", args=(COUNTS,), grid={"a": (0.0, 20.0), "b": (0.0, 20.0)})
def _(y):
    a = numpyro.sample("a", dist.Gamma(3.0, 2.0))
    b = numpyro.sample("b", dist.Gamma(3.0, 2.0))
    numpyro.sample("y", dist.BetaBinomial(a, b, 5).expand(y.shape).to_event(1), obs=y)


@add("Dirichlet-multinomial", grid={"concentration": (0.0, 25.0)})
def _():
    concentration = numpyro.sample("concentration", dist.Gamma(2.0, 1.0))
    law = dist.DirichletMultinomial(concentration * jnp.array([1.0, 2.0, 1.0]), 10)
    numpyro.sample("y", law, obs=jnp.array([[7, 2, 1], [1, 8, 1]]))


@add("multinomial on a simplex", expected={"p": np.array([6.0, 3.0, 2.0]) / 11})
def _():
    p = numpyro.sample("p", dist.Dirichlet(jnp.array([1.0, 1.0, 1.0])))
    numpyro.sample("y", dist.Multinomial(8, p), obs=jnp.array([5, 2, 1]))


@add("few of millions", expected={"count": 3850.0}, of={"count": lambda s: s["p"] * 5e6})
def _():
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    numpyro.sample("y", dist.Binomial(5_000_000 - 2, p), obs=3849.0)


# ---- outcomes of few states --------------------------------------------------------------------------------


@add(
    "ordered logistic",
    args=(np.array([0, 0, 1, 2, 1, 1, 2]),),
    grid={"middle": (-6.0, 6.0), "gap": (0.0, 12.0)},
)
def _(y):
    middle = numpyro.sample("middle", dist.Normal(0.0, 2.0))
    gap = numpyro.sample("gap", dist.Gamma(2.0, 1.0))
    law = dist.OrderedLogistic(0.0, jnp.stack([middle - gap, middle + gap]))
    numpyro.sample("y", law.expand(y.shape).to_event(1), obs=y)


@add("logistic regression", grid={"a": (-6.0, 6.0), "b": (-2.0, 9.0)})
def _():
    x = jnp.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    a = numpyro.sample("a", dist.Normal(0.0, 2.0))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    y = jnp.array([0, 0, 1, 0, 1, 1, 1])
    numpyro.sample("y", dist.Bernoulli(logits=a + b * x).to_event(1), obs=y)


@add("all successes", grid={"a": (-4.0, 16.0)})
def _():
    a = numpyro.sample("a", dist.Normal(0.0, 3.0))
    numpyro.sample("y", dist.BinomialLogits(a, 30), obs=30)


# ---- mixtures and labels -----------------------------------------------------------------------------------


@add(
    "mixture of one family", num_samples=2000, args=(VALUES,), grid={"weight": (0.0, 1.0), "gap": (0.0, 9.0)}
)
def _(y):
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    gap = numpyro.sample("gap", dist.HalfNormal(2.0))
    parts = dist.Normal(jnp.stack([gap, -gap]), 1.0)
    law = dist.MixtureSameFamily(dist.Categorical(jnp.stack([weight, 1 - weight])), parts)
    numpyro.sample("y", law.expand(y.shape).to_event(1), obs=y)


@add("mixture of two families", args=(VALUES,), grid={"weight": (0.0, 1.0), "scale": (0.0, 20.0)})
def _(y):
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.7))
    parts = [dist.Normal(0.0, scale), dist.Laplace(2.0, 0.5)]
    law = dist.MixtureGeneral(dist.Categorical(jnp.stack([weight, 1 - weight])), parts)
    numpyro.sample("y", law.expand(y.shape).to_event(1), obs=y)


@add("a mixture as a prior", expected={"x": 0.7 * 1.0 + 0.3 * 4.0})
def _():
    parts = dist.Normal(jnp.array([1.0, 4.0]), jnp.array([1.0, 1.0]))
    numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.array([0.7, 0.3])), parts))


@add(
    "labels summed by hand", num_samples=2000, args=(VALUES,), grid={"weight": (0.0, 1.0), "gap": (0.0, 9.0)}
)
def by_hand(y):
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    gap = numpyro.sample("gap", dist.HalfNormal(2.0))
    with numpyro.plate("rows", len(y)):
        first = jnp.log(weight) + dist.Normal(gap, 1.0).log_prob(y)
        numpyro.factor("y", jnp.logaddexp(first, jnp.log1p(-weight) + dist.Normal(-gap, 1.0).log_prob(y)))


@add(
    "labels enumerated",
    num_samples=2000,
    args=(VALUES,),
    grid={"weight": (0.0, 1.0), "gap": (0.0, 9.0)},
    density=by_hand,
    needs="funsor",
)
def _(y):
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    gap = numpyro.sample("gap", dist.HalfNormal(2.0))
    with numpyro.plate("rows", len(y)):
        label = numpyro.sample("label", dist.Bernoulli(weight), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(jnp.where(label == 1, gap, -gap), 1.0), obs=y)


# ---- rows that are censored, cut off, missing or doubtful --------------------------------------------------


@add("censored on the right", grid={"rate": (0.0, 6.0)})
def _():
    rate = numpyro.sample("rate", dist.Gamma(2.0, 2.0))
    law = dist.RightCensoredDistribution(dist.Weibull(1 / rate, jnp.full(4, 1.5)), jnp.array([0, 1, 0, 1]))
    numpyro.sample("y", law.to_event(1), obs=jnp.array([0.5, 2.0, 0.7, 2.0]))


@add("censored on the left", grid={"mean": (-8.0, 8.0), "scale": (0.0, 8.0)})
def _():
    mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    law = dist.LeftCensoredDistribution(dist.Normal(jnp.full(4, mean), scale), jnp.array([1, 1, 0, 0]))
    numpyro.sample("y", law.to_event(1), obs=jnp.array([0.0, 0.0, 0.7, 2.0]))


@add("intervals by a factor", grid={"mean": (-3.0, 9.0)})
def _():
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    low, high = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 3.0, 4.0])
    law = dist.Normal(mean, 1.0)
    numpyro.factor("y", jnp.sum(jnp.log(law.cdf(high) - law.cdf(low))))


@add("rows below a bound never seen", grid={"mean": (-12.0, 6.0)})
def _():
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0))
    law = dist.TruncatedNormal(mean, 1.0, low=0.0).expand([3]).to_event(1)
    numpyro.sample("y", law, obs=jnp.array([0.2, 0.5, 1.5]))


@add(
    "missing rows drawn",
    args=(np.array([1.0, np.nan, 3.0], np.float32),),
    expected={"mean": 4 / 3, "lost": 4 / 3},
)
def _(y):
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    lost = numpyro.sample("lost", dist.Normal(mean, 1.0))
    numpyro.sample("y", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=jnp.where(jnp.isnan(y), lost, y))


@add("outliers", grid={"mean": (-6.0, 10.0)})
def _():
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    law = dist.StudentT(3.0, mean, 0.5).expand([5]).to_event(1)
    numpyro.sample("y", law, obs=jnp.array([0.9, 1.0, 1.2, 1.3, 9.0]))


@add(
    "errors in the predictor",
    expected={
        "true": (np.array([-1.0, 0.2, 1.1]) / 0.09 + 2 * np.array([-1.8, 0.3, 2.6]) / 0.25)
        / (1 / 0.09 + 4 / 0.25)
    },
)
def _():
    true = numpyro.sample("true", dist.Normal(jnp.array([-1.0, 0.2, 1.1]), 0.3).to_event(1))
    numpyro.sample("y", dist.Normal(2 * true, 0.5).to_event(1), obs=jnp.array([-1.8, 0.3, 2.6]))


# ---- Gaussian processes ------------------------------------------------------------------------------------


@add("Gaussian process", num_samples=2000, grid={"length": (0.0, 12.0), "noise": (0.0, 4.0)})
def _():
    t, y = jnp.arange(5.0), jnp.array([0.0, 0.8, 1.1, 0.2, -0.7])
    length = numpyro.sample("length", dist.InverseGamma(4.0, 6.0))
    noise = numpyro.sample("noise", dist.HalfNormal(0.5))
    kernel = jnp.exp(-0.5 * ((t[:, None] - t) / length) ** 2) + (noise**2 + 1e-3) * jnp.eye(5)
    numpyro.sample("y", dist.MultivariateNormal(0.0, kernel), obs=y)
