"""Radon in Minnesota: a linear regression with an intercept for every county, centred."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """Reduce the houses to sufficient statistics.

    Houses of one county and one floor share their mean, since uranium is measured by county. All that
    the likelihood knows of such a cell is its number of houses and their average; what is left is the sum of
    squares around the averages.
    """
    county, floor, y = data["county_idx"] - 1, data["floor_measure"], data["log_radon"]
    counties = int(county.max()) + 1
    uranium = np.zeros(counties)
    uranium[county] = data["log_uppm"]
    if not np.array_equal(uranium[county], data["log_uppm"]):
        raise ValueError("log_uppm differs between houses of one county; expected one value a county.")
    count, total = np.zeros((counties, 2)), np.zeros((counties, 2))
    np.add.at(count, (county, floor), 1)
    np.add.at(total, (county, floor), y)
    average = total / np.maximum(count, 1)
    return {
        "count": count,
        "predictors": np.stack(np.meshgrid(uranium, [0.0, 1.0], indexing="ij"), axis=-1),
        "average": average,
        "residual": np.sum((y - average[county, floor]) ** 2),
        "degrees_of_freedom": len(y) - np.count_nonzero(count),
    }


def model(count, predictors, average, residual, degrees_of_freedom):
    """Log radon of a house from the uranium and the intercept of its county, and the floor.

    Averages of normal values are independent of the sum of squares around them, which is ``sigma_y^2`` times
    a chi-square: their joint density is that of the houses times a constant.

    Args:
        count: houses of each county and floor, shape ``(counties, 2)``.
        predictors: log uranium and floor of each cell, shape ``(counties, 2, 2)``.
        average: average log radon of each cell, 0 in an empty one, shape ``(counties, 2)``.
        residual: sum of squares of log radon around the averages.
        degrees_of_freedom: houses less cells that have any.
    """
    mu_alpha = numpyro.sample("mu_alpha", dist.Normal(0, 10))
    sigma_alpha = numpyro.sample("sigma_alpha", dist.HalfNormal(1))
    with numpyro.plate("county", len(count)):
        alpha = numpyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
    with numpyro.plate("predictor", 2):
        beta = numpyro.sample("beta", dist.Normal(0, 10))
    sigma_y = numpyro.sample("sigma_y", dist.HalfNormal(1))
    mean = jnp.expand_dims(alpha, 1) + predictors @ beta
    scale = sigma_y / jnp.sqrt(jnp.maximum(count, 1))
    cells = dist.Normal(mean, scale).mask(count > 0).to_event(2)
    numpyro.sample("average", cells, obs=average)
    squares = dist.Gamma(0.5 * degrees_of_freedom, 0.5 / sigma_y**2)
    numpyro.sample("residual", squares, obs=residual)
