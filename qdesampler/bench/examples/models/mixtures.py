"""Mixtures whose components are summed out."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import i0e, logsumexp

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES", "log_sine_constant"]


def gaussian_mixture() -> Example:
    """`gmm.ipynb`: five values, two components of a common scale, which can be exchanged.

    Draws are judged by the smaller and the larger mean, the weight of the smaller one, and the scale.
    """

    def model(x):
        weights = latent("weights", dist.Dirichlet(0.5 * jnp.ones(2)))
        scale = latent("scale", dist.LogNormal(0.0, 2.0))
        locs = latent("locs", dist.Normal(0.0, 10.0), 2)
        by_component = dist.Normal(locs, scale).log_prob(x[:, None])
        numpyro.factor("x", jnp.sum(logsumexp(jnp.log(weights) + by_component, axis=1)))

    def summary(draws):
        order = np.argsort(draws["locs"], axis=-1)
        weights = np.take_along_axis(draws["weights"], order, axis=-1)[..., :1]
        ordered = np.take_along_axis(draws["locs"], order, axis=-1)
        return {"locs": ordered, "weight": weights, "log_scale": np.log(draws["scale"])}

    return example("gaussian-mixture", model, {"x": np.array([0.2, 0.9, 3.1, 4.2, 11.0])}, summary=summary)


def hidden_middle() -> Example:
    """`toy_mixture_model_discrete_enumeration.py`: A causes B causes C, all binary, B never seen.

    B can be taken for its opposite. Draws are judged by P(A), by P(C) given A, and by what the exchange
    leaves: |P(C | B) - P(C | not B)| and |P(B | A) - P(B | not A)|.
    """
    rng = generator(64)
    a = (rng.random(200) < 0.3).astype(int)
    b = rng.random(200) < np.where(a, 0.85, 0.15)
    c = (rng.random(200) < np.where(b, 0.9, 0.2)).astype(int)

    def model(a, c):
        p_a = latent("p_A", dist.Beta(1, 1))
        p_b = latent("p_B", dist.Beta(1, 1), 2)
        p_c = latent("p_C", dist.Beta(1, 1), 2)
        chance = p_b * p_c[1] + (1 - p_b) * p_c[0]  # of C, given A
        numpyro.sample("A", dist.Bernoulli(p_a).expand([200]).to_event(1), obs=a)
        numpyro.sample("C", dist.Bernoulli(chance[a]).to_event(1), obs=c)

    def summary(draws):
        b, c = (np.asarray(draws[site], np.float64) for site in ("p_B", "p_C"))
        return {
            "p_A": draws["p_A"],
            "p_C_A": b * c[..., 1:] + (1 - b) * c[..., :1],
            "c": np.abs(c[..., 1] - c[..., 0]),
            "b": np.abs(b[..., 1] - b[..., 0]),
        }

    return example("hidden-middle", model, {"a": a, "c": c}, summary=summary)


def log_sine_constant(conc_phi, conc_psi, correlation):
    """`log of the integral of exp(k cos x + l cos y + c sin x sin y)` over the torus.

    The integral over y is `2 pi I_0(sqrt(l^2 + c^2 sin^2 x))`, that over x a sum over equal steps: exact to
    float32 up to concentrations of about a thousand.
    """
    x = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    root = jnp.sqrt(conc_psi[:, None] ** 2 + (correlation[:, None] * np.sin(x)) ** 2)
    log_terms = conc_phi[:, None] * np.cos(x) + jnp.log(i0e(root)) + root
    return logsumexp(log_terms, axis=-1) + 2 * np.log(2 * np.pi) - np.log(len(x))


def angles() -> Example:
    """`ssbvm_mixture.py`, small: two skewed sine bivariate von Mises components on a torus, 150 angles.

    Two components instead of seven to ten, priors of their concentrations and means of our own that are a
    little tighter, and the constant of the density by a cheaper sum. The components can be exchanged: draws
    are judged in the order of the cosine of the second angle's mean.
    """
    rng = generator(150)
    component = rng.random(150) < 0.6
    centre = np.where(component[:, None], [-1.2, -0.8], [-1.9, 2.4])
    spread = np.where(component[:, None], [0.15, 0.2], [0.3, 0.25])
    data = (centre + spread * rng.standard_normal((150, 2)) + np.pi) % (2 * np.pi) - np.pi

    def model(data):
        weights = latent("mix_weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("mixture", 2):
            phi = latent("phi_loc", dist.VonMises(-1.5, 1.0))
            psi = latent("psi_loc", dist.VonMises(0.0, 0.1))
            conc_phi = latent("phi_conc", dist.LogNormal(2.5, 1.0))
            conc_psi = latent("psi_conc", dist.LogNormal(2.5, 1.0))
            scale = latent("corr_scale", dist.Beta(2.0, 10.0))
            skewness = latent("skewness", dist.Normal(0, 0.5), 2)
        bounded = skewness / (1 + jnp.sum(jnp.abs(skewness), axis=-1, keepdims=True))
        sines, cosines = (f(data[:, None] - jnp.stack([phi, psi], axis=-1)) for f in (jnp.sin, jnp.cos))
        correlation = scale * jnp.sqrt(conc_phi * conc_psi)
        log_p = conc_phi * cosines[..., 0] + conc_psi * cosines[..., 1] + correlation * jnp.prod(sines, -1)
        log_p = log_p - log_sine_constant(conc_phi, conc_psi, correlation)
        log_p = log_p + jnp.log1p(jnp.sum(bounded * sines, axis=-1))
        numpyro.factor("angles", jnp.sum(logsumexp(jnp.log(weights) + log_p, axis=1)))

    def summary(draws):
        order = np.argsort(np.cos(draws["psi_loc"]), axis=-1)
        sites = ("mix_weights", "phi_loc", "psi_loc", "phi_conc", "psi_conc", "corr_scale")
        found = {site: np.take_along_axis(draws[site], order, axis=-1) for site in sites}
        turned = {site: found.pop(site) for site in ("phi_loc", "psi_loc")}
        for site, angle in turned.items():
            found |= {f"cos {site}": np.cos(angle), f"sin {site}": np.sin(angle)}
        found["skewness"] = np.take_along_axis(draws["skewness"], order[..., None], axis=-2)
        return found

    return example("angles-mixture", model, {"data": data}, summary=summary, warmup=500)


EXAMPLES: dict[str, Builder] = {
    "gaussian-mixture": gaussian_mixture,
    "hidden-middle": hidden_middle,
    "angles-mixture": angles,
}
