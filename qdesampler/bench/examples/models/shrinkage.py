"""Priors that shrink most coefficients to nothing."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES"]


def _three_of(dim: int, points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Independent features of which the first three matter, and the mean."""
    rng = generator(seed)
    x = rng.standard_normal((points, dim))
    return x, x[:, :3] @ np.array([2.0, -1.0, 0.5])


def _horseshoe(dim):
    """Coefficients `tau lambda_k beta_k`, not centred."""
    local = latent("lambdas", dist.HalfCauchy(1), dim)
    tau = latent("tau", dist.HalfCauchy(1))
    return tau * local * latent("unscaled_betas", dist.Normal(0, 1), dim)


def horseshoe_normal() -> Example:
    """`horseshoe_regression.py`, a normal outcome: 20 features, 50 points, 42 dimensions."""
    x, mean = _three_of(20, 50, 42)
    y = mean + 0.05 * generator(43).standard_normal(50)

    def model(x, y):
        betas = _horseshoe(20)
        precision = latent("prec_obs", dist.Gamma(3.0, 1.0))
        numpyro.sample("y", dist.Normal(x @ betas, precision**-0.5).to_event(1), obs=y)

    return example("horseshoe", model, {"x": x, "y": y}, draws=2000)


def horseshoe_binary() -> Example:
    """`horseshoe_regression.py`, a binary outcome: 10 features, 100 points."""
    x, mean = _three_of(10, 100, 44)
    y = (generator(45).random(100) < 1 / (1 + np.exp(-mean))).astype(int)

    def model(x, y):
        numpyro.sample("y", dist.Bernoulli(logits=x @ _horseshoe(10)).to_event(1), obs=y)

    return example("horseshoe-binary", model, {"x": x, "y": y}, draws=2000)


def horseshoe_centred() -> Example:
    """`bad_posterior_geometry.ipynb`: the horseshoe centred, with little noise."""
    x, mean = _three_of(5, 50, 47)
    y = mean + 0.05 * generator(47).standard_normal(50)

    def model(x, y):
        local = latent("lambdas", dist.HalfCauchy(1), 5)
        tau = latent("tau", dist.HalfCauchy(1))
        betas = latent("betas", dist.Normal(0, tau * local).to_event(1))
        numpyro.sample("y", dist.Normal(x @ betas, 0.05).to_event(1), obs=y)

    return example("horseshoe-centred", model, {"x": x, "y": y})


def kernel_interactions() -> Example:
    """`sparse_regression.py`: main effects and all pairwise interactions, in the form of a kernel.

    10 features, 30 points; the hyperparameters are those of the original. 14 dimensions.
    """
    rng = generator(14)
    points, dim, sparsity = 30, 10, 3.0
    x = rng.standard_normal((points, dim))
    y = x[:, :3] @ np.array([1.0, 2.0, -1.5]) + x[:, 0] * x[:, 1] + 0.15 * rng.standard_normal(points)

    def model(x, y):
        sigma = latent("sigma", dist.HalfNormal(3.0))
        phi = sigma * (sparsity / jnp.sqrt(points)) / (dim - sparsity)
        eta1 = latent("eta1", dist.HalfCauchy(phi))
        m2 = latent("msq", dist.InverseGamma(3.0, 1.0))
        xi2 = latent("xisq", dist.InverseGamma(3.0, 1.0))
        local = latent("lambda", dist.HalfCauchy(1), dim)
        eta2 = eta1**2 * jnp.sqrt(xi2) / m2
        scaled = jnp.sqrt(m2) * local / jnp.sqrt(m2 + (eta1 * local) ** 2) * x
        gram = scaled @ scaled.T
        kernel = 0.5 * eta2**2 * (1 + gram) ** 2 - 0.5 * eta2**2 * (scaled**2 @ (scaled**2).T)
        kernel = kernel + (eta1**2 - eta2**2) * gram + 1 - 0.5 * eta2**2
        root = jnp.linalg.cholesky(kernel + (sigma**2 + 1e-4) * jnp.eye(points))
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(points), scale_tril=root), obs=y)

    return example("sparse-interactions", model, {"x": x, "y": (y - y.mean()) / y.std()}, warmup=500)


def _credit(name: str, centred: bool) -> Example:
    """200 made-up customers, 24 features: `beta_k ~ N(0, exp(l_k))`, `l_k ~ N(l, 1)`, `l ~ N(0, 10)`."""
    rng = generator(24)
    dim = 24
    x = rng.standard_normal((200, dim))
    beta = 0.8 * rng.standard_normal(dim) * (rng.random(dim) < 0.4)
    y = (rng.random(200) < 1 / (1 + np.exp(-x @ beta))).astype(int)

    def model(x, y):
        top = latent("log_tau_zero", dist.Normal(0, 10))
        log_tau = latent("log_tau", dist.Normal(top, 1), dim)
        scale = jnp.exp(log_tau)
        if centred:
            beta = latent("beta", dist.Normal(0, scale).to_event(1))
        else:
            beta = scale * latent("beta_standard", dist.Normal(0, 1), dim)
        numpyro.sample("obs", dist.Bernoulli(logits=x @ beta).to_event(1), obs=y)

    return example(name, model, {"x": x, "y": y})


def credit_centred() -> Example:
    """`variationally_inferred_parameterization.ipynb`: German credit, centred. 49 dimensions."""
    return _credit("credit-centred", centred=True)


def credit_not_centred() -> Example:
    """`variationally_inferred_parameterization.ipynb` at centredness 0."""
    return _credit("credit-reparametrised", centred=False)


EXAMPLES: dict[str, Builder] = {
    "horseshoe": horseshoe_normal,
    "horseshoe-binary": horseshoe_binary,
    "horseshoe-centred": horseshoe_centred,
    "sparse-interactions": kernel_interactions,
    "credit-centred": credit_centred,
    "credit-reparametrised": credit_not_centred,
}
