"""Gaussian processes: hyperparameters with the function integrated out, or the function sampled too."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import init_to_median

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES", "squared_exponential", "standardised_curve"]


def squared_exponential(x, variance, length):
    """`variance exp(-|x_i - x_j|^2 / (2 length^2))` for points on a line or rows of points."""
    rows = x.reshape(len(x), -1)
    distance = jnp.sum((rows[:, None] - rows[None]) ** 2, axis=-1)
    return variance * jnp.exp(-0.5 * distance / length**2)


def standardised_curve(points: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The curve of several originals on (-1, 1) with noise, of mean 0 and standard deviation 1."""
    x = np.linspace(-1, 1, points)
    y = (
        x
        + 0.2 * x**3
        + 0.5 * (0.5 + x) ** 2 * np.sin(4 * x)
        + noise * generator(seed).standard_normal(points)
    )
    return x, (y - y.mean()) / y.std()


def _observe(y, covariance, mean=0.0):
    root = jnp.linalg.cholesky(covariance)
    numpyro.sample("Y", dist.MultivariateNormal(mean + jnp.zeros(len(y)), scale_tril=root), obs=y)


def regression() -> Example:
    """`gp.py`: three hyperparameters under priors as wide as `LogNormal(0, 10)`, from their medians."""
    x, y = standardised_curve(25, 0.15, 25)

    def model(x, y):
        variance = latent("kernel_var", dist.LogNormal(0.0, 10.0))
        noise = latent("kernel_noise", dist.LogNormal(0.0, 10.0))
        length = latent("kernel_length", dist.LogNormal(0.0, 10.0))
        _observe(y, squared_exponential(x, variance, length) + (noise + 1e-6) * jnp.eye(len(x)))

    return example("gp", model, {"x": x, "y": y}, init_strategy=init_to_median(num_samples=10))


def matern_with_trend() -> Example:
    """`gpjax_example.ipynb`: a linear trend in two inputs and a Matern 3/2 residual, integrated out."""
    rng = generator(40)
    x = rng.uniform(-3, 3, (40, 2))
    y = (
        x @ np.array([0.7, -0.4])
        + 0.5
        + np.sin(2 * x[:, 0]) * np.cos(x[:, 1])
        + 0.2 * rng.standard_normal(40)
    )

    def model(x, y):
        slope = latent("slope", dist.Normal(0.0, 5.0), 2)
        intercept = latent("intercept", dist.Normal(0.0, 5.0))
        length = latent("lengthscale", dist.LogNormal(0.0, 1.0))
        variance = latent("variance", dist.LogNormal(0.0, 1.0))
        noise = latent("obs_stddev", dist.LogNormal(0.0, 1.0))
        gaps = x[:, None] - x[None]
        scaled = jnp.sqrt(3 * jnp.sum(gaps**2, axis=-1) + 1e-12) / length
        covariance = variance * (1 + scaled) * jnp.exp(-scaled) + (noise**2 + 1e-6) * jnp.eye(len(x))
        _observe(y, covariance, x @ slope + intercept)

    return example("gp-matern-trend", model, {"x": x, "y": y})


def two_inputs() -> Example:
    """`hsgp_nd_example.ipynb`: the exact process on two inputs, 50 points."""
    rng = generator(50)
    x = rng.uniform(0, 2, (50, 2))
    y = np.sin(3 * x[:, 0]) + np.cos(2 * x[:, 1]) + 0.3 * rng.standard_normal(50)

    def model(x, y):
        amplitude = latent("amplitude", dist.LogNormal(0, 1))
        length = latent("lengthscale", dist.Exponential(1))
        noise = latent("noise", dist.LogNormal(0, 1))
        _observe(y, squared_exponential(x, amplitude, length) + (noise + 1e-5) * jnp.eye(len(x)))

    return example("gp-two-inputs", model, {"x": x, "y": y})


def _basis(x, half_width, functions):
    """Square roots of the Laplacian's eigenvalues on (-L, L), and the eigenfunctions at x."""
    roots = np.arange(1, functions + 1) * np.pi / (2 * half_width)
    return roots, np.sin(roots * (x[:, None] + half_width)) / np.sqrt(half_width)


def _smooth(name, basis, roots, alpha, length, centred=False):
    """A function of the basis whose coefficients have the squared exponential's spectral density."""
    spread = jnp.sqrt(alpha * jnp.sqrt(2 * jnp.pi) * length * jnp.exp(-0.5 * (length * roots) ** 2) + 1e-12)
    if centred:
        return basis @ latent(name, dist.Normal(0, spread).to_event(1))
    return basis @ (spread * latent(name, dist.Normal(0, 1), len(roots)))


def _hilbert_space(name: str, centred: bool) -> Example:
    rng = generator(80)
    x = np.linspace(-0.5, 0.5, 80)
    y = np.sin(4 * np.pi * x) + np.sin(7 * np.pi * x) + 0.3 * rng.standard_normal(80)
    roots, basis = _basis(x, 0.8, 20)

    def model(basis, y):
        alpha = latent("alpha", dist.InverseGamma(12.0, 10.0))
        length = latent("length", dist.InverseGamma(6.0, 1.0))
        noise = latent("noise", dist.InverseGamma(12.0, 10.0))
        f = _smooth("beta", basis, jnp.asarray(roots), alpha, length, centred)
        numpyro.sample("y", dist.Normal(f, noise).to_event(1), obs=y)

    return example(name, model, {"basis": basis, "y": y})


def hilbert_space() -> Example:
    """`hsgp_example.ipynb`: 20 basis functions whose coefficients are not centred."""
    return _hilbert_space("hsgp", centred=False)


def hilbert_space_centred() -> Example:
    """`hsgp_example.ipynb` with `non_centered=False`."""
    return _hilbert_space("hsgp-centred", centred=True)


def birthdays() -> Example:
    """`hsgp.py`, on two made-up years: a trend, a yearly and a weekly pattern, some special days.

    The original has 20 years and a horseshoe over 366 days; here 30 days of the year have an effect of their
    own. The periodic part has a common scale instead of Bessel functions.
    """
    rng = generator(730)
    day = np.arange(730)
    time, week = (day - day.mean()) / day.std(), day % 7
    special = np.where(day % 365 < 30, day % 365, 30)
    year = np.column_stack([f(2 * np.pi * k * day / 365.25) for k in range(1, 5) for f in (np.sin, np.cos)])
    roots, basis = _basis(time, 1.5 * time.max(), 10)
    y = 0.5 * np.sin(1.5 * time) + year[:, :3] @ np.array([0.6, -0.3, 0.2]) + 0.8 * (week < 5)
    y = y - 1.5 * (special == 0) + 0.5 * rng.standard_normal(730)
    y = (y - y.mean()) / y.std()

    def model(basis, year, week, special, y):
        intercept = latent("intercept", dist.Normal(0, 1))
        alpha = latent("trend_alpha", dist.HalfNormal(1.0))
        length = latent("trend_length", dist.InverseGamma(10.0, 2.0))
        trend = _smooth("trend", basis, jnp.asarray(roots), alpha, length)
        size = latent("year_alpha", dist.HalfNormal(1.0))
        yearly = year @ (size * latent("year", dist.Normal(0, 1), 8))
        weekday = latent("week", dist.Normal(0, 1), 6)
        by_weekday = jnp.concatenate([-jnp.sum(weekday, keepdims=True), weekday])[week]
        tau = latent("tau", dist.HalfNormal(0.2))
        slab = latent("slab", dist.InverseGamma(25.0, 25.0))
        lam = latent("lam", dist.HalfCauchy(1.0), 30)
        c = 2 * jnp.sqrt(slab)
        shrunk = tau * jnp.sqrt(c) * lam / jnp.sqrt(c + (tau * lam) ** 2)
        days = latent("day", dist.Normal(0, shrunk).to_event(1))
        by_day = jnp.concatenate([days, jnp.zeros(1)])[special]
        sigma = latent("sigma", dist.HalfNormal(0.5))
        mean = intercept + trend + yearly + by_weekday + by_day
        numpyro.sample("y", dist.Normal(mean, sigma).to_event(1), obs=y)

    data = {"basis": basis, "year": year, "week": week, "special": special, "y": y}
    return example("hsgp-birthdays", model, data)


def circulant() -> Example:
    """`circulant_gp.ipynb`: a periodic process on a grid of 48 points, seen through binary outcomes.

    The covariance is diagonal in the Fourier basis; its spectrum is given, not computed.
    """
    points = 48
    rng = generator(48)
    angle = 2 * np.pi * np.arange(points) / points
    y = (rng.random(points) < 1 / (1 + np.exp(-2 * np.sin(angle) - np.cos(2 * angle)))).astype(int)
    k = np.arange(points // 2 + 1)

    def model(y):
        sigma = latent("sigma", dist.HalfNormal())
        length = latent("length_scale", dist.InverseGamma(5.0, 25.0))
        decay = jnp.exp(-2 * (jnp.pi * k * length / points) ** 2)
        spectrum = sigma**2 * length * jnp.sqrt(2 * jnp.pi) * decay + 1e-4
        z = latent("z", dist.CirculantNormal(jnp.zeros(points), covariance_rfft=spectrum))
        numpyro.sample("y", dist.BernoulliLogits(z).to_event(1), obs=y)

    return example("gp-circulant", model, {"y": y})


def heteroscedastic() -> Example:
    """After `hsgp_example.ipynb` and `nnx_example.ipynb`: mean and log noise are both processes.

    Each has 30 basis functions, not centred. 65 dimensions.
    """
    rng = generator(120)
    x = np.linspace(-0.5, 0.5, 120)
    y = np.sin(6 * x) + 0.5 * np.sin(13 * x) + np.exp(-1.5 + 1.5 * np.sin(5 * x)) * rng.standard_normal(120)
    roots, basis = _basis(x, 0.8, 30)

    def model(basis, y):
        functions = []
        for part, size in (("mean", 1.0), ("noise", 1.0)):
            alpha = latent(f"{part}_alpha", dist.HalfNormal(size))
            length = latent(f"{part}_length", dist.InverseGamma(6.0, 1.5))
            functions.append(_smooth(f"{part}_beta", basis, jnp.asarray(roots), alpha, length))
        level = latent("noise_level", dist.Normal(-1.0, 1.0))
        numpyro.sample("y", dist.Normal(functions[0], jnp.exp(level + functions[1])).to_event(1), obs=y)

    return example("gp-heteroscedastic", model, {"basis": basis, "y": y})


EXAMPLES: dict[str, Builder] = {
    "gp": regression,
    "gp-matern-trend": matern_with_trend,
    "gp-two-inputs": two_inputs,
    "hsgp": hilbert_space,
    "hsgp-centred": hilbert_space_centred,
    "hsgp-birthdays": birthdays,
    "gp-circulant": circulant,
    "gp-heteroscedastic": heteroscedastic,
}
