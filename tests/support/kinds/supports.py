"""Supports and laws: one site each, or sites whose bounds are other sites."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints, transforms
from numpyro.infer.reparam import CircularReparam, ProjectedNormalReparam
from scipy import special, stats

from tests.support.kinds.kind import Table

SUPPORTS = Table()
prior = SUPPORTS.prior

# ---- the half line and intervals ---------------------------------------------------------------------------

prior("positive", lambda: dist.Gamma(3.0, 2.0), 1.5)
prior("half normal", lambda: dist.HalfNormal(2.0), 2 * np.sqrt(2 / np.pi))
prior("inverse gamma", lambda: dist.InverseGamma(5.0, 2.0), 0.5)
prior("Weibull", lambda: dist.Weibull(2.0, 1.5), 2 * special.gamma(1 + 1 / 1.5))
prior("Pareto", lambda: dist.Pareto(1.0, 4.0), 4 / 3)
prior("Gompertz", lambda: dist.Gompertz(1.0, 1.0), np.e * special.exp1(1.0))
prior("interval", lambda: dist.Uniform(-1.0, 4.0), 1.5)
prior("bent down at both ends", lambda: dist.Beta(0.5, 0.5), 0.5)
prior("Kumaraswamy", lambda: dist.Kumaraswamy(2.0, 3.0), 3 * special.beta(1.5, 3.0))
prior("log uniform", lambda: dist.LogUniform(1.0, 100.0), 99 / np.log(100))
prior("power law between bounds", lambda: dist.DoublyTruncatedPowerLaw(-2.0, 1.0, 4.0), np.log(4) / 0.75)
prior("upper bound", lambda: dist.TruncatedNormal(0.0, 1.0, high=0.0), -np.sqrt(2 / np.pi))
prior("lower bound", lambda: dist.TruncatedNormal(0.0, 1.0, low=1.0), stats.norm.pdf(1) / stats.norm.sf(1))
prior(
    "two bounds",
    lambda: dist.TruncatedNormal(1.0, 2.0, low=0.0, high=3.0),
    stats.truncnorm(-0.5, 1, loc=1, scale=2).mean(),
)
prior("folded", lambda: dist.FoldedDistribution(dist.Normal(1.0, 1.0)), stats.foldnorm(1.0).mean())

# ---- the line, heavy tails ---------------------------------------------------------------------------------

prior("Gumbel", lambda: dist.Gumbel(1.0, 2.0), 1 + 2 * np.euler_gamma)
prior("corner at the mode", lambda: dist.Laplace(1.0, 2.0), 1.0, num_samples=2000)
prior("skewed Laplace", lambda: dist.AsymmetricLaplace(0.0, 1.0, 2.0), 1 / 2 - 2)
prior("Student t", lambda: dist.StudentT(4.0, 1.0, 2.0), 1.0)
prior(
    "half Cauchy",
    lambda: dist.HalfCauchy(3.0),
    expected={"log": np.log(3.0)},
    of={"log": lambda s: np.log(s["x"])},
)
prior("Levy", lambda: dist.Levy(0.0, 2.0), expected={"inverse": 0.5}, of={"inverse": lambda s: 1 / s["x"]})
prior(
    "Cauchy between bounds",
    lambda: dist.TruncatedCauchy(0.0, 1.0, low=-1.0, high=2.0),
    np.log(5 / 2) / 2 / (np.arctan(2) + np.pi / 4),
)
prior(
    "Student t of three", lambda: dist.MultivariateStudentT(6.0, jnp.arange(3.0), jnp.eye(3)), np.arange(3.0)
)


@SUPPORTS.add(
    "Cauchy by its quantiles",
    expected={"angle": 0.0, "inside": 0.5},
    of={
        "angle": lambda s: np.arctan((s["x"] - 1) / 2),
        "inside": lambda s: (np.abs(s["x"] - 1) < 2).astype(float),
    },
)
def _():
    u = numpyro.sample("u", dist.Uniform(0.0, 1.0))
    numpyro.deterministic("x", 1 + 2 * jnp.tan(jnp.pi * (u - 0.5)))


# ---- vectors with a constraint -----------------------------------------------------------------------------

prior("simplex", lambda: dist.Dirichlet(jnp.array([1.0, 2.0, 5.0])), np.array([1, 2, 5]) / 8)
prior("simplex at its corners", lambda: dist.Dirichlet(jnp.full(3, 0.3)), np.full(3, 1 / 3), rounds=True)
prior("simplexes", lambda: dist.Dirichlet(jnp.ones((2, 3))), np.full((2, 3), 1 / 3))
prior(
    "ordered",
    lambda: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0).expand([2]).to_event(1), transforms.OrderedTransform()
    ),
    np.array([0, np.exp(0.5)]),
)
prior(
    "sum of zero",
    lambda: dist.ZeroSumNormal(1.0, event_shape=(3,)),
    np.zeros(3),
    expected={"square": 2 / 3},
    of={"square": lambda s: s["x"] ** 2},
    rounds=True,
)


@SUPPORTS.add("simplex of one", expected={"y": 1.0})
def _():
    x = numpyro.sample("x", dist.Dirichlet(jnp.ones(1)))
    numpyro.sample("y", dist.Normal(x[0], 1.0))


@SUPPORTS.add("improper ordered", expected={"x": np.array([-1.0, 9.0])})
def _():
    x = numpyro.sample("x", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    numpyro.factor("density", -0.5 * jnp.sum((x - jnp.array([-1.0, 9.0])) ** 2))


@SUPPORTS.add("positive ordered", expected={"x": np.array([1.0, 2.0])})
def _():
    x = numpyro.sample("x", dist.ImproperUniform(constraints.positive_ordered_vector, (), (2,)))
    numpyro.factor("density", -x[1])  # Gamma(2, 1), and the first uniform below it


@SUPPORTS.add(
    "absolute values of sum below one", expected={"size": 1 / 3}, of={"size": lambda s: np.abs(s["x"])}
)
def _():
    numpyro.sample("x", dist.ImproperUniform(constraints.l1_ball, (), (2,)))


# ---- angles and directions ---------------------------------------------------------------------------------

_RESULTANT = special.i1(4.0) / special.i0(4.0)
prior(
    "circle",
    lambda: dist.VonMises(1.0, 4.0),
    expected={"sin": 0.0, "cos": _RESULTANT},
    of={"sin": lambda s: np.sin(s["x"] - 1), "cos": lambda s: np.cos(s["x"] - 1)},
)


@SUPPORTS.add(
    "circle across its cut",
    expected={"sin": 0.0, "cos": _RESULTANT},
    of={"sin": lambda s: np.sin(s["x"] - 3), "cos": lambda s: np.cos(s["x"] - 3)},
    rounds=True,
)
@numpyro.handlers.reparam(config={"x": CircularReparam()})
def _():
    numpyro.sample("x", dist.VonMises(3.0, 4.0))


@SUPPORTS.add(
    "two angles",
    expected={"phi": 0.0, "psi": 0.0},
    of={"phi": lambda s: np.sin(s["x"][..., 0] - 1), "psi": lambda s: np.sin(s["x"][..., 1] + 1)},
)
def _():
    numpyro.sample("x", dist.SineBivariateVonMises(1.0, -1.0, 4.0, 5.0, correlation=1.0))


_LENGTH = 2.0
_ALONG = np.sqrt(np.pi / 8) * _LENGTH * np.exp(-1) * (special.i0(1) + special.i1(1))


@SUPPORTS.add("direction", expected={"x": np.array([0.6, 0.8]) * _ALONG}, rounds=True)
@numpyro.handlers.reparam(config={"x": ProjectedNormalReparam()})
def _():
    numpyro.sample("x", dist.ProjectedNormal(_LENGTH * jnp.array([0.6, 0.8])))


# ---- matrices ----------------------------------------------------------------------------------------------

prior("covariance", lambda: dist.Wishart(6.0, jnp.eye(2)), 6 * np.eye(2))
prior("inverse covariance", lambda: dist.InverseWishart(9.0, jnp.eye(2)), np.eye(2) / 6, num_samples=2000)
prior(
    "Cholesky factor of a covariance",
    lambda: dist.WishartCholesky(6.0, jnp.eye(2)),
    expected={"diagonal": np.array([stats.chi(6).mean(), stats.chi(5).mean()]), "below": 0.0},
    of={"diagonal": lambda s: s["x"][..., [0, 1], [0, 1]], "below": lambda s: s["x"][..., 1, 0]},
)
prior(
    "correlation",
    lambda: dist.LKJ(3, 2.0),
    expected={"off": 0.0, "square": 1 / 6},
    of={
        "off": lambda s: s["x"][..., [0, 0, 1], [1, 2, 2]],
        "square": lambda s: s["x"][..., [0, 0, 1], [1, 2, 2]] ** 2,
    },
    rounds=True,
)
prior(
    "Cholesky factor of a correlation",
    lambda: dist.LKJCholesky(3, 2.0),
    expected={"correlation": 0.0, "square": 1 / 6},
    of={"correlation": lambda s: s["x"][..., 1, 0], "square": lambda s: s["x"][..., 1, 0] ** 2},
    rounds=True,
)
prior("matrix", lambda: dist.MatrixNormal(jnp.ones((2, 3)), jnp.eye(2), 2 * jnp.eye(3)), np.ones((2, 3)))


@SUPPORTS.add(
    "lower triangle",
    expected={"diagonal": np.sqrt(2 / np.pi), "below": 1.0},
    of={"diagonal": lambda s: s["x"][..., [0, 1], [0, 1]], "below": lambda s: s["x"][..., 1, 0]},
)
def _():
    x = numpyro.sample("x", dist.ImproperUniform(constraints.lower_cholesky, (), (2, 2)))
    numpyro.factor("density", -0.5 * jnp.sum((x - jnp.array([[0.0, 0], [1, 0]])) ** 2))


# ---- bounds that are data, or other sites ------------------------------------------------------------------


@SUPPORTS.add(
    "moving bounds",
    expected={"above": 0.5, "event": 0.5},
    of={"above": lambda s: s["x"] - s["low"], "event": lambda s: s["event"] - s["low"][..., None]},
)
def _():
    low = numpyro.sample("low", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Uniform(low, low + 1.0))
    numpyro.sample("event", dist.Uniform(low * jnp.ones(2), low + 1.0).to_event(1))


@SUPPORTS.add(
    "a bound above",
    expected={"low": 0.0, "below": 0.0},
    of={
        # the hazard of a normal law is known where it is cut
        "below": lambda s: s["x"] + stats.norm.pdf(s["low"]) / stats.norm.cdf(s["low"]),
    },
)
def _():
    low = numpyro.sample("low", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.TruncatedNormal(0.0, 1.0, high=low))


@SUPPORTS.add("uniform below a site", expected={"y": 1.5, "x": 0.75})
def _():
    y = numpyro.sample("y", dist.Uniform(1.0, 2.0))
    numpyro.sample("x", dist.Uniform(0.0, y))


@SUPPORTS.add("bounds from data", args=(np.array([1.0, 2.0, 4.0], np.float32),), grid={"x": (1.0, 4.0)})
def _(y):
    x = numpyro.sample("x", dist.Uniform(y.min(), y.max()))
    numpyro.sample("obs", dist.Normal(x, 1.0).expand(y.shape).to_event(1), obs=y)


# ---- Gaussian laws of several coordinates ------------------------------------------------------------------

_TRIL = np.array([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [-2.0, 1.0, 5.0]], np.float32)
prior(
    "Gaussian by its factor",
    lambda: dist.MultivariateNormal(jnp.arange(3.0), scale_tril=jnp.asarray(_TRIL)),
    np.arange(3.0),
    expected={"product": 0.9},
    of={"product": lambda s: s["x"][..., 0] * (s["x"][..., 1] - 1)},
)
prior(
    "low rank Gaussian",
    lambda: dist.LowRankMultivariateNormal(jnp.ones(3), 3 * jnp.ones((3, 1)), jnp.full(3, 0.1)),
    np.ones(3),
)
_RING = np.roll(np.eye(4), 1, 0) + np.roll(np.eye(4), -1, 0)
prior(
    "conditional autoregression",
    lambda: dist.CAR(1.0, 0.5, 2.0, jnp.asarray(_RING)),
    np.ones(4),
    expected={"square": np.linalg.inv(2 * (2 * np.eye(4) - 0.5 * _RING))[0, 0]},
    of={"square": lambda s: (s["x"] - 1) ** 2},
)
prior(
    "copula",
    lambda: dist.GaussianCopula(dist.Gamma(2.0, 1.0), jnp.array([[1.0, 0.7], [0.7, 1.0]])),
    np.full(2, 2.0),
)
prior(
    "circulant",
    lambda: dist.CirculantNormal(jnp.arange(4.0), jnp.array([2.0, 0.5, 0.1, 0.5])),
    np.arange(4.0),
    expected={"square": 2.0},
    of={"square": lambda s: (s["x"] - np.arange(4)) ** 2},
)
prior(
    "independent",
    lambda: dist.Normal(jnp.arange(3.0), 2.0).expand([2, 3]).to_event(2),
    np.tile(np.arange(3.0), (2, 1)),
)
prior(
    "chain of transforms",
    lambda: dist.TransformedDistribution(
        dist.Normal(0.0, 0.5),
        [
            transforms.AffineTransform(1.0, 0.5),
            transforms.ExpTransform(),
            transforms.AffineTransform(-2.0, 3.0),
        ],
    ),
    3 * np.exp(1 + 0.5 * 0.25**2) - 2,
)
prior(
    "relaxed coin",
    lambda: dist.RelaxedBernoulli(jnp.array(0.7), probs=jnp.array(0.3)),
    expected={"logit": special.logit(0.3) / 0.7},
    of={"logit": lambda s: special.logit(np.clip(s["x"].astype(float), 1e-7, 1 - 1e-7))},
)
prior(
    "diffusion in time",
    lambda: dist.EulerMaruyama(jnp.linspace(0.0, 1.0, 5), lambda x, t: (-x, 0.5), dist.Normal(2.0, 0.1)),
    2 * 0.75 ** np.arange(5),
)
