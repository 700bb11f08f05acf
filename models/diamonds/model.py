"""Diamonds: log price by a linear regression whose predictors are nearly collinear."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

LEVELS = {"cut": 5, "color": 7, "clarity": 8}


def orthogonal_polynomials(levels):
    """Contrasts of an ordered factor: orthonormal polynomials of degree 1, 2, ... on 1..levels, by column."""
    position = np.arange(levels) - (levels - 1) / 2
    q, r = np.linalg.qr(np.vander(position, increasing=True))
    return (q * np.sign(np.diag(r)))[:, 1:]


def prepare(data):
    """Build the design and reduce the prices to sufficient statistics.

    With the centred design ``Xc = Q R`` (Q with orthonormal columns) and least squares coefficients ``c``
    the sum of squares is ``|y - mean(y) - Xc b|^2 = |R (b - c)|^2 + residual``, the residual free of ``b``.
    """
    carat = data["carat"]
    sizes = np.log(np.stack([data["x"], data["y"], data["z"]], axis=1))
    factors = [orthogonal_polynomials(levels)[data[name] - 1] for name, levels in LEVELS.items()]
    design = np.column_stack([carat, sizes, *factors, carat[:, None] * sizes])
    log_price = np.log(data["price"])
    average = log_price.mean()
    q, r = np.linalg.qr(design - design.mean(axis=0))
    rotated = q.T @ (log_price - average)
    return {
        "R": r,
        "least_squares": np.linalg.solve(r, rotated),
        "average": average,
        "residual": np.sum((log_price - average - q @ rotated) ** 2),
        "size": len(carat),
    }


def model(R, least_squares, average, residual, size):
    """Log price from size, weight and quality, through statistics of the 5,000 prices.

    The average of normal values, their part along the design and the sum of squares that is left are
    independent: normal, normal, and ``sigma^2`` times a chi-square. Their joint density is that of the prices
    times a constant.

    Args:
        R: triangular factor of the centred design, shape ``(predictors, predictors)``.
        least_squares: coefficients of the least squares fit, shape ``(predictors,)``.
        average: mean of the log prices.
        residual: sum of squares of the log prices around the least squares fit.
        size: number of diamonds.
    """
    predictors = len(least_squares)
    with numpyro.plate("predictor", predictors):
        b = numpyro.sample("b", dist.Normal(0, 1))
    intercept = numpyro.sample("Intercept", dist.StudentT(3, 8, 10))
    sigma = numpyro.sample("sigma", dist.FoldedDistribution(dist.StudentT(3, 0, 10)))
    numpyro.sample("average", dist.Normal(intercept, sigma / size**0.5), obs=average)
    # From the fit, where the rotated prices are 0: in float32, R b and Q'y would cancel digits that count.
    deviation = dist.Normal(R @ (b - least_squares), sigma).to_event(1)
    numpyro.sample("deviation", deviation, obs=jnp.zeros(predictors))
    squares = dist.Gamma(0.5 * (size - 1 - predictors), 0.5 / sigma**2)
    numpyro.sample("residual", squares, obs=residual)
