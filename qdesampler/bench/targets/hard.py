"""Targets on which samplers are hard pressed, in the forms that the sampling literature reports on.

Each says how its moments are known. "Closed form" moments come with the target; the others are stored under
`truth_data/` by `python -m qdesampler.bench.targets.make_truths`, from long runs of NUTS, with the settings
of the run. Data that a target needs are made from a fixed key, except the German credit data of
`models/german_credit`.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from qdesampler.bench.targets.closed_form import (
    banana,
    closed_form,
    gaussian_moments,
    moments,
    rotated_gaussian,
)
from qdesampler.infer import ModelCase, load_model

__all__ = [
    "HARD_TARGETS",
    "JUDGED_SITES",
    "bare_funnel",
    "brownian_motion",
    "cauchy",
    "data_digest",
    "funnel",
    "garch",
    "generator",
    "gp_counts",
    "item_response",
    "rosenbrock",
    "sparse_german_credit",
    "stochastic_volatility",
]

GERMAN_CREDIT = Path(__file__).parents[3] / "models" / "german_credit"

# Sites to judge draws by where the latent sites have no useful moments.
JUDGED_SITES: dict[str, tuple[str, ...]] = {
    "cauchy-100": ("u",),
    "funnel-20": ("theta", "standard"),
    "bare-funnel-20": ("theta", "standard"),
}


def rosenbrock(pairs: int = 18, noise: float = 0.1) -> ModelCase:
    """Independent pairs `x ~ N(1, 1)`, `y | x ~ N(x^2, noise)` (a variance): narrow and curved.

    Closed form. With E x^2 = 2, E x^4 = 10, E x^8 = 764 and Q the noise: E y = 2, Var y = 6 + Q,
    E y^2 = 10 + Q, E y^4 = 764 + 60 Q + 3 Q^2. 36 dimensions and Q = 0.1 as in Robnik, De Luca, Silverstein
    & Seljak, JMLR 24, 2023.
    """

    def model():
        with numpyro.plate("pair", pairs):
            x = numpyro.sample("x", dist.Normal(1, 1))
            numpyro.sample("y", dist.Normal(x**2, noise**0.5))

    square = 10 + noise
    fourth = 764 + 60 * noise + 3 * noise**2
    reference = {f"x[{i + 1}]": moments(1.0, 1.0, 2.0, 6**0.5) for i in range(pairs)}
    for i in range(pairs):
        reference[f"y[{i + 1}]"] = moments(2.0, (6 + noise) ** 0.5, square, (fourth - square**2) ** 0.5)
    return closed_form(f"rosenbrock-{2 * pairs}", model, reference)


def funnel(dim: int = 20, scale: float = 3.0) -> ModelCase:
    """Neal's funnel: `theta ~ N(0, 3)`, `x_i | theta ~ N(0, exp(theta / 2))`, both standard deviations.

    Closed form. Draws are judged by theta and by the standardised `x_i exp(-theta / 2)`, both normal: x_i^2
    has a variance of order e^18, which no run sees. R. Neal, Annals of Statistics 31(3), 2003, section 8.
    """

    def model():
        theta = jnp.asarray(numpyro.sample("theta", dist.Normal(0, scale)))
        with numpyro.plate("leaf", dim - 1):
            x = numpyro.sample("x", dist.Normal(0, jnp.exp(theta / 2)))
        numpyro.deterministic("standard", x * jnp.exp(-0.5 * theta))

    reference = {f"standard[{i + 1}]": gaussian_moments(1.0) for i in range(dim - 1)}
    return closed_form(f"funnel-{dim}", model, {"theta": gaussian_moments(scale), **reference})


def bare_funnel(dim: int = 20, scale: float = 3.0) -> ModelCase:
    """The density of `funnel` as one vector with a potential: no site shows which coordinate is a scale."""

    def model():
        z = jnp.asarray(numpyro.sample("z", dist.ImproperUniform(constraints.real_vector, (), (dim,))))
        theta, x = z[0], z[1:]
        log_density = -0.5 * (theta / scale) ** 2 - 0.5 * jnp.sum(x**2) * jnp.exp(-theta)
        numpyro.factor("log_density", log_density - 0.5 * (dim - 1) * theta)
        numpyro.deterministic("theta", theta)
        numpyro.deterministic("standard", x * jnp.exp(-0.5 * theta))

    reference = {f"standard[{i + 1}]": gaussian_moments(1.0) for i in range(dim - 1)}
    return closed_form(f"bare-funnel-{dim}", model, {"theta": gaussian_moments(scale), **reference})


def cauchy(dim: int = 100) -> ModelCase:
    """Independent standard Cauchy coordinates: tails without moments.

    Closed form, for `u = arctan(x) / pi`, which is uniform on (-1/2, 1/2): E u^2 = 1/12, E u^4 = 1/80. Draws
    are judged by u.
    """

    def model():
        with numpyro.plate("coordinate", dim):
            x = numpyro.sample("x", dist.Cauchy(0, 1))
        numpyro.deterministic("u", jnp.arctan(x) / jnp.pi)

    entry = moments(0.0, 12**-0.5, 1 / 12, (1 / 80 - 1 / 144) ** 0.5)
    return closed_form(f"cauchy-{dim}", model, {f"u[{i + 1}]": entry for i in range(dim)})


def brownian_motion(steps: int = 30) -> ModelCase:
    """A random walk seen through noise, both scales unknown, the middle third not observed. 32 dimensions.

        innovation, observation ~ LogNormal(0, 2),   x_1 ~ N(0, innovation),   x_t ~ N(x_t-1, innovation)
        y_t ~ N(x_t, observation)   for t <= 10 and t > 20

    The model of Inference Gym ("Brownian motion, unknown scales, missing middle observations"). The data are
    made here, with scales 0.1 and 0.15: figures agree with published ones in size only.
    """

    def model(y, observed):
        innovation = numpyro.sample("innovation_noise_scale", dist.LogNormal(0, 2))
        observation = numpyro.sample("observation_noise_scale", dist.LogNormal(0, 2))
        walk = dist.GaussianRandomWalk(scale=innovation, num_steps=len(y))
        x = numpyro.sample("x", walk)
        with numpyro.plate("time", len(y)), numpyro.handlers.mask(mask=observed):
            numpyro.sample("y", dist.Normal(x, observation), obs=y)

    rng = generator(30)
    x = np.cumsum(0.1 * rng.standard_normal(steps))
    time = np.arange(steps)
    observed = (time < steps // 3) | (time >= 2 * steps // 3)
    y = np.where(observed, x + 0.15 * rng.standard_normal(steps), 0.0)
    return _case("brownian-32", model, {"y": y, "observed": observed})


def sparse_german_credit() -> ModelCase:
    """German credit with a sparse prior: logistic regression on 24 predictors and a constant. 51 dimensions.

        scale ~ Gamma(1/2, 1/2),   local_k ~ Gamma(1/2, 1/2),   weight_k ~ N(0, 1),   k = 1..25
        bad_i ~ Bernoulli(logit^-1(sum_k x_ik weight_k local_k scale)),               i = 1..1000

    The model of Inference Gym; predictors have mean 0 and standard deviation 1, the last column is constant.

    Raises:
        FileNotFoundError: outside a checkout of this repository, whose `models/german_credit` has the data.
    """
    if not GERMAN_CREDIT.is_dir():
        raise FileNotFoundError(f"german-credit-sparse needs the data in {GERMAN_CREDIT}: use a checkout.")
    data = load_model(GERMAN_CREDIT).data
    centred = data["X"] - data["X"].mean(axis=0)
    predictors = np.column_stack([centred / centred.std(axis=0), np.ones(len(centred))])

    def model(X, bad):
        scale = numpyro.sample("global_scale", dist.Gamma(0.5, 0.5))
        with numpyro.plate("predictor", X.shape[1]):
            local = numpyro.sample("local_scale", dist.Gamma(0.5, 0.5))
            weight = numpyro.sample("weight", dist.Normal(0, 1))
        with numpyro.plate("credit", X.shape[0]):
            numpyro.sample("bad", dist.Bernoulli(logits=X @ (weight * local * scale)), obs=bad)

    return _case("german-credit-sparse-51", model, {"X": predictors, "bad": data["bad"]})


def item_response(students: int = 400, questions: int = 100, responses: int = 30105) -> ModelCase:
    """The one-parameter logistic model of item response: who solves which question. 501 dimensions.

        mean ~ N(3/4, 1),   ability_s ~ N(0, 1),   difficulty_q ~ N(0, 1)
        correct_sq ~ Bernoulli(logit^-1(mean + ability_s - difficulty_q))

    The model and sizes of Inference Gym; data drawn here from the model with mean 3/4, a random choice of
    pairs observed.
    """

    def model(student, question, correct):
        mean = numpyro.sample("mean_ability", dist.Normal(0.75, 1))
        with numpyro.plate("students", students):
            ability = numpyro.sample("ability", dist.Normal(0, 1))
        with numpyro.plate("questions", questions):
            difficulty = numpyro.sample("difficulty", dist.Normal(0, 1))
        with numpyro.plate("responses", len(student)):
            logits = mean + jnp.asarray(ability)[student] - jnp.asarray(difficulty)[question]
            numpyro.sample("correct", dist.Bernoulli(logits=logits), obs=correct)

    rng = generator(501)
    ability, difficulty = rng.standard_normal(students), rng.standard_normal(questions)
    pairs = np.sort(rng.permutation(students * questions)[:responses])
    student, question = pairs // questions, pairs % questions
    logits = 0.75 + ability[student] - difficulty[question]
    correct = (rng.random(responses) < 1 / (1 + np.exp(-logits))).astype(int)
    return _case("item-response-501", model, {"student": student, "question": question, "correct": correct})


def stochastic_volatility(days: int = 2427) -> ModelCase:
    """Daily returns whose log volatility walks at random. 2429 dimensions.

        sigma ~ Exponential(50),   nu ~ Exponential(1/10),   s_1 ~ N(0, sigma),   s_t ~ N(s_t-1, sigma)
        r_t ~ StudentT(nu, 0, exp(s_t))

    Hoffman & Gelman, JMLR 15, 2014, section 4, in the form of NumPyro's example. Their data, returns of the
    S&P 500, are not redistributed here: returns are drawn from the model with sigma = 0.1, nu = 10 and a walk
    that is pulled gently towards log 0.01, so that it stays where such returns are.
    """

    def model(returns):
        sigma = numpyro.sample("sigma", dist.Exponential(50.0))
        s = numpyro.sample("s", dist.GaussianRandomWalk(scale=sigma, num_steps=len(returns)))
        nu = numpyro.sample("nu", dist.Exponential(0.1))
        with numpyro.plate("day", len(returns)):
            numpyro.sample("r", dist.StudentT(nu, 0, jnp.exp(s)), obs=returns)

    rng = generator(2429)
    steps, s = 0.1 * rng.standard_normal(days), np.empty(days)
    previous = np.log(0.01)
    for t in range(days):
        previous += 0.01 * (np.log(0.01) - previous) + steps[t]
        s[t] = previous
    chi_square = (rng.standard_normal((days, 10)) ** 2).sum(axis=1)
    returns = np.exp(s) * rng.standard_normal(days) / np.sqrt(chi_square / 10)
    return _case(f"stochastic-volatility-{days + 2}", model, {"returns": returns})


def garch(days: int = 200) -> ModelCase:
    """Returns whose variance follows the last return and the last variance, GARCH(1,1). 4 dimensions.

        mu ~ N(0, 1),   alpha_0 ~ HalfNormal(1),   alpha_1 ~ U(0, 1),   beta_1 ~ U(0, 1 - alpha_1)
        r_t ~ N(mu, sigma_t),   sigma_1 = 1,
        sigma_t^2 = alpha_0 + alpha_1 (r_t-1 - mu)^2 + beta_1 sigma_t-1^2

    In the form of posteriordb's `garch-garch11`; returns are made here, with (0.5, 0.4, 0.3, 0.5).
    """

    def model(returns):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        alpha_0 = numpyro.sample("alpha_0", dist.HalfNormal(1.0))
        alpha_1 = jnp.asarray(numpyro.sample("alpha_1", dist.Uniform(0, 1)))
        beta_1 = numpyro.sample("beta_1", dist.Uniform(0, 1 - alpha_1))

        def step(variance, last):
            variance = alpha_0 + alpha_1 * (last - mu) ** 2 + beta_1 * variance
            return variance, variance

        _, later = jax.lax.scan(step, jnp.ones(()), returns[:-1])
        deviations = jnp.sqrt(jnp.append(1.0, later))
        with numpyro.plate("day", len(returns)):
            numpyro.sample("r", dist.Normal(mu, deviations), obs=returns)

    rng = generator(11)
    returns, variance = np.empty(days), 1.0
    for t in range(days):
        returns[t] = 0.5 + np.sqrt(variance) * rng.standard_normal()
        variance = 0.4 + 0.3 * (returns[t] - 0.5) ** 2 + 0.5 * variance
    return _case("garch-4", model, {"returns": returns})


def gp_counts(points: int = 11) -> ModelCase:
    """Counts whose log rate is a Gaussian process with unknown length and scale. 13 dimensions.

        rho ~ Gamma(25, 4),   alpha ~ HalfNormal(2),   f = L noise,   L L' = alpha^2 exp(-d^2 / (2 rho^2))
        k_i ~ Poisson(exp(f_i)),   i = 1..11

    In the form of posteriordb's `gp_pois_regr`; the counts are made here, with lengths and scales of 5.5 and
    2 and a log rate of 2 added.
    """
    x = np.linspace(-10, 10, points)

    def model(x, counts):
        rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
        alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
        noise = jnp.asarray(numpyro.sample("noise", dist.Normal(0, 1).expand([len(x)]).to_event(1)))
        near = jnp.exp(-0.5 * ((x[:, None] - x[None]) / rho) ** 2)
        f = jnp.linalg.cholesky(alpha**2 * near + 1e-5 * jnp.eye(len(x))) @ noise
        with numpyro.plate("point", len(x)):
            numpyro.sample("k", dist.Poisson(jnp.exp(f)), obs=counts)

    near = np.exp(-0.5 * ((x[:, None] - x[None]) / 5.5) ** 2)
    rng = generator(3)
    f = np.linalg.cholesky(4 * near + 1e-8 * np.eye(points)) @ rng.standard_normal(points) + 2
    return _case("gp-counts-13", model, {"x": x, "counts": rng.poisson(np.exp(np.clip(f, -5, 4.5)))})


HARD_TARGETS: dict[str, Callable[[], ModelCase]] = {
    "banana": banana,
    "rotated-gaussian-100-1e3": lambda: rotated_gaussian(condition=1e3, name="rotated-gaussian-100-1e3"),
    "rosenbrock-36": rosenbrock,
    "brownian-32": brownian_motion,
    "german-credit-sparse-51": sparse_german_credit,
    "item-response-501": item_response,
    "stochastic-volatility-2429": stochastic_volatility,
    "funnel-20": funnel,
    "bare-funnel-20": bare_funnel,
    "garch-4": garch,
    "gp-counts-13": gp_counts,
    "cauchy-100": cauchy,
}


def data_digest(data: dict[str, Any]) -> str:
    """A fingerprint of a target's data, 7 significant digits of each number: stored truths carry it."""
    digest = hashlib.sha256()
    for field, value in sorted(data.items()):
        text = " ".join(f"{number:.7g}" for number in np.ravel(np.asarray(value, float)))
        digest.update(f"{field} {np.shape(value)} {text};".encode())
    return digest.hexdigest()[:16]


def _case(name: str, model: Callable[..., None], data: dict[str, Any]) -> ModelCase:
    return ModelCase(name=name, model=model, data=data, reference=None, path=Path(__file__))


def generator(seed: int) -> np.random.Generator:
    """NumPy promises no stream for ever; stored truths carry the digest of the data they belong to."""
    return np.random.Generator(np.random.PCG64(seed))
