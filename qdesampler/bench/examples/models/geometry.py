"""Densities of a difficult shape, with little or no data."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from numpyro.distributions import constraints

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES"]


def funnel_centred() -> Example:
    """`funnel.py`: Neal's funnel of 10 dimensions as it is written, `y ~ N(0, 3), x_i ~ N(0, exp(y / 2))`."""

    def model():
        y = latent("y", dist.Normal(0, 3))
        latent("x", dist.Normal(jnp.zeros(9), jnp.exp(y / 2)).to_event(1))

    def summary(draws):
        # x has a variance of order e^9, which no run sees: the tail is judged by y, the rest by arctan.
        return {"y": draws["y"], "angle": np.arctan(draws["x"])}

    return example("funnel", model, summary=summary)


def funnel_not_centred() -> Example:
    """`funnel.py`, reparametrised: independent normal coordinates."""

    def model():
        y = latent("y", dist.Normal(0, 3))
        standard = latent("x_standard", dist.Normal(0, 1), 9)
        numpyro.deterministic("x", standard * jnp.exp(y / 2))

    return example("funnel-reparametrised", model)


def gaussian_shells() -> Example:
    """`gaussian_shells.py`: two rings of radius 2 and width 0.1 in the plane, the choice summed out.

    The rings are mirror images with nothing between them: draws are judged by |x_1| and x_2.
    """

    def model():
        x = latent("x", dist.Uniform(-6.0, 6.0), 2)
        centres = jnp.array([[-3.5, 0.0], [3.5, 0.0]])
        distance = jnp.sqrt(jnp.sum((x - centres) ** 2, axis=-1) + 1e-12)
        numpyro.factor("shells", logsumexp(-0.5 * ((distance - 2.0) / 0.1) ** 2))

    def summary(draws):
        return {"distance": np.abs(draws["x"][..., :1]), "height": draws["x"][..., 1:]}

    return example("gaussian-shells", model, summary=summary)


def dual_moon() -> Example:
    """`neutra.py`: two facing crescents, `(|x| - 2)^2 / .32` and a mixture over the first coordinate."""

    def model():
        x = latent("x", dist.ImproperUniform(constraints.real_vector, (), (2,)))
        radius = jnp.sqrt(jnp.sum(x**2) + 1e-12)
        sides = logsumexp(-0.5 * ((x[0] + jnp.array([-2.0, 2.0])) / 0.6) ** 2)
        numpyro.factor("moons", sides - 0.5 * ((radius - 2) / 0.4) ** 2)

    return example("dual-moon", model)


def correlated_normal() -> Example:
    """`bad_posterior_geometry.ipynb`: 200 normal variables, every two correlated by 0.999."""
    rho, dim = 0.999, 200

    def model():
        x = latent("x", dist.ImproperUniform(constraints.real_vector, (), (dim,)))
        # |x - mean|^2 / (1 - rho) along the differences, mean^2 dim / (1 + (dim - 1) rho) along the mean.
        mean = jnp.mean(x)
        along = dim * mean**2 / (1 + (dim - 1) * rho)
        numpyro.factor("normal", -0.5 * (jnp.sum((x - mean) ** 2) / (1 - rho) + along))

    return example("correlated-normal-200", model)


def partly_correlated() -> Example:
    """`bad_posterior_geometry.ipynb`: two correlated pairs, tied to each other, beside 100 free variables."""
    root = np.linalg.cholesky(np.array([[10.0, 0.9], [0.9, 0.1]]))

    def model():
        pair = dist.MultivariateNormal(jnp.zeros(2), scale_tril=jnp.asarray(root))
        x1, x2 = latent("x1", pair), latent("x2", pair)
        latent("y", dist.Normal(jnp.zeros(100), 1.0).to_event(1))
        numpyro.sample("obs", dist.Normal(x1 - x2, 0.1).to_event(1), obs=jnp.ones(2))

    return example("partly-correlated", model)


def latent_classification() -> Example:
    """`dais_demo.py`: a Gaussian process on 16 points whose cube is the logit of a class."""
    grid = np.linspace(-1, 1, 16)
    curve = grid + 0.2 * grid**3 + 0.5 * (0.5 + grid) ** 2 * np.sin(4 * grid)
    labels = (curve + 0.3 * np.sin(37 * grid) > curve.mean()).astype(int)
    covariance = np.exp(-0.5 * ((grid[:, None] - grid) / 0.2) ** 2) + 1e-6 * np.eye(16)
    root = np.linalg.cholesky(covariance)

    def model(labels):
        f = latent("f", dist.MultivariateNormal(jnp.zeros(16), scale_tril=jnp.asarray(root)))
        numpyro.sample("obs", dist.Bernoulli(logits=f**3).to_event(1), obs=labels)

    return example("gp-classification-cubed", model, {"labels": labels})


def exponential_decay() -> Example:
    """`consensus_mc.ipynb`: an exponential decay, `amplitude exp(-rate x) + offset`, which trade off."""
    x = np.linspace(0.0, 4.0, 200)
    y = 6.0 * np.exp(-0.9 * x) + 1.0 + 0.4 * generator(200).standard_normal(200)

    def model(x, y):
        amplitude = latent("amplitude", dist.Normal(5.0, 3.0))
        rate = latent("rate", dist.HalfNormal(3.0))
        offset = latent("offset", dist.Normal(0.0, 2.0))
        sigma = latent("sigma", dist.HalfNormal(1.0))
        numpyro.sample("obs", dist.Normal(amplitude * jnp.exp(-rate * x) + offset, sigma), obs=y)

    return example("exponential-decay", model, {"x": x, "y": y})


EXAMPLES: dict[str, Builder] = {
    "funnel": funnel_centred,
    "funnel-reparametrised": funnel_not_centred,
    "gaussian-shells": gaussian_shells,
    "dual-moon": dual_moon,
    "correlated-normal-200": correlated_normal,
    "partly-correlated": partly_correlated,
    "gp-classification-cubed": latent_classification,
    "exponential-decay": exponential_decay,
}
