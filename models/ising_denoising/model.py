"""A noisy black-and-white image: an Ising network of 36 pixels."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

COUPLING, ERROR = 0.45, 0.25


def model(seen):
    """Pixels that like to equal their neighbours, each seen wrongly with probability 1/4.

    Args:
        seen: the image as seen, zeros and ones, shape ``(rows, columns)``.
    """
    pixel = numpyro.sample("pixel", dist.Bernoulli(0.5).expand(seen.shape).to_event(2))
    spin = 2.0 * jnp.asarray(pixel) - 1.0
    bonds = jnp.sum(spin[1:] * spin[:-1]) + jnp.sum(spin[:, 1:] * spin[:, :-1])
    numpyro.factor("network", COUPLING * bonds)
    numpyro.sample("seen", dist.Bernoulli(ERROR + (1 - 2 * ERROR) * pixel).to_event(2), obs=seen)
