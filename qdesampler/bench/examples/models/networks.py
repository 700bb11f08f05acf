"""Small neural networks with priors on their weights; hidden units can be exchanged and change sign."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent
from qdesampler.bench.examples.models.gaussian_processes import standardised_curve

__all__ = ["EXAMPLES"]


def _weights(name, *shape):
    return latent(name, dist.Normal(0, 1), *shape)


def bayesian_network() -> Example:
    """`bnn.py`: two hidden layers of five units, 46 dimensions, 40 points.

    Weights have many equivalent modes; draws are judged by the predictions at 8 points and the noise.
    """
    line, y = standardised_curve(40, 0.05, 46)
    x = line[:, None] ** np.arange(3)
    at = np.linspace(-1.1, 1.1, 8)[:, None] ** np.arange(3)

    def model(x, y):
        w1, w2, w3 = _weights("w1", 3, 5), _weights("w2", 5, 5), _weights("w3", 5, 1)

        def network(inputs):
            return (jnp.tanh(jnp.tanh(inputs @ w1) @ w2) @ w3)[:, 0]

        precision = latent("prec_obs", dist.Gamma(3.0, 1.0))
        numpyro.deterministic("prediction", network(at))
        numpyro.sample("y", dist.Normal(network(x), precision**-0.5).to_event(1), obs=y)

    def summary(draws):
        return {"prediction": draws["prediction"], "log_precision": np.log(draws["prec_obs"])}

    return example("bnn", model, {"x": x, "y": y}, summary=summary, draws=2000)


def noise_network() -> Example:
    """`nnx_example.ipynb`: a network for the mean and a positive linear layer for the noise. 15 dimensions.

    The original optimises the mean's network; here its four hidden units are sampled. Draws are judged by the
    predictions at 8 points and by the noise.
    """
    rng = generator(100)
    x = np.linspace(-1, 1, 100)
    y = np.sin(3 * x) + (0.15 + 0.25 * (x + 1)) * rng.standard_normal(100)
    at = np.linspace(-1, 1, 8)

    def model(x, y):
        inner, shift, outer = _weights("inner", 4), _weights("shift", 4), _weights("outer", 4)
        constant = latent("constant", dist.Normal(0, 1))
        slope = latent("noise_slope", dist.HalfNormal(1))
        level = latent("noise_level", dist.Normal(0, 1))

        def mean(points):
            return jnp.tanh(3 * points[:, None] * inner + shift) @ outer + constant

        numpyro.deterministic("prediction", mean(jnp.asarray(at)))
        numpyro.sample("y", dist.Normal(mean(x), jax.nn.softplus(slope * x + level)).to_event(1), obs=y)

    def summary(draws):
        return {
            "prediction": draws["prediction"],
            "log_slope": np.log(draws["noise_slope"]),
            "level": draws["noise_level"],
        }

    return example("noise-network", model, {"x": x, "y": y}, summary=summary)


EXAMPLES: dict[str, Builder] = {"bnn": bayesian_network, "noise-network": noise_network}
