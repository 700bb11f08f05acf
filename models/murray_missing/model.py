"""Murray's twelve points: a correlation with two modes, and eight missing values drawn along."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(pairs, first_only, second_only):
    """Centred bivariate normal points, of which eight lack a coordinate.

    Args:
        pairs: complete points, shape ``(complete, 2)``.
        first_only: first coordinates of points that lack the second, shape ``(m,)``.
        second_only: second coordinates of points that lack the first, shape ``(n,)``.
    """
    with numpyro.plate("coordinate", 2):
        scale = jnp.asarray(numpyro.sample("scale", dist.HalfNormal(2)))
    correlation = numpyro.sample("correlation", dist.Uniform(-1, 1))
    slope = correlation * scale[::-1] / scale  # of the second on the first, of the first on the second
    rest = scale[::-1] * jnp.sqrt(1 - correlation**2)
    with numpyro.plate("complete", len(pairs)):
        first = numpyro.sample("first", dist.Normal(0, scale[0]), obs=pairs[:, 0])
        numpyro.sample("second", dist.Normal(slope[0] * first, rest[0]), obs=pairs[:, 1])
    with numpyro.plate("lacks_second", len(first_only)):
        first = numpyro.sample("first_only", dist.Normal(0, scale[0]), obs=first_only)
        numpyro.sample("missing_second", dist.Normal(slope[0] * first, rest[0]))
    with numpyro.plate("lacks_first", len(second_only)):
        second = numpyro.sample("second_only", dist.Normal(0, scale[1]), obs=second_only)
        numpyro.sample("missing_first", dist.Normal(slope[1] * second, rest[1]))
