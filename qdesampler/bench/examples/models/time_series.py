"""Time series."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from qdesampler.bench.examples.example import Builder, Example, example, generator, latent

__all__ = ["EXAMPLES"]


def autoregression() -> Example:
    """`ar2.py`: an autoregression of order two, 142 values."""
    rng = generator(142)
    y = np.zeros(142)
    for t in range(2, 142):
        y[t] = 0.2 + 0.6 * y[t - 1] - 0.3 * y[t - 2] + 0.4 * rng.standard_normal()

    def model(y):
        a1, a2 = latent("alpha_1", dist.Normal(0, 1)), latent("alpha_2", dist.Normal(0, 1))
        const, sigma = latent("const", dist.Normal(0, 1)), latent("sigma", dist.HalfNormal(1))
        mean = const + a1 * y[1:-1] + a2 * y[:-2]
        numpyro.sample("y", dist.Normal(mean, sigma).to_event(1), obs=y[2:])

    return example("ar2", model, {"y": y})


def vector_autoregression() -> Example:
    """`var2.py`: two series of 100 values, order two, correlated noise. 13 dimensions."""
    rng = generator(13)
    phi1, phi2 = np.array([[0.5, 0.1], [-0.2, 0.4]]), np.array([[-0.2, 0.0], [0.1, 0.2]])
    root = np.linalg.cholesky(np.array([[0.5, 0.2], [0.2, 0.4]]))
    y = np.zeros((100, 2))
    for t in range(2, 100):
        y[t] = 0.3 + phi1 @ y[t - 1] + phi2 @ y[t - 2] + root @ rng.standard_normal(2)

    def model(y):
        c = latent("c", dist.Normal(0, 1), 2)
        phi1, phi2 = (latent(p, dist.Normal(0, 1), 2, 2) for p in ("Phi1", "Phi2"))
        sigma = latent("sigma", dist.HalfNormal(1), 2)
        root = sigma[:, None] * latent("L_omega", dist.LKJCholesky(2, concentration=1.0))
        mean = c + y[1:-1] @ phi1.T + y[:-2] @ phi2.T
        numpyro.sample("y", dist.MultivariateNormal(mean, scale_tril=root).to_event(1), obs=y[2:])

    return example("var2", model, {"y": y})


def holt_winters() -> Example:
    """`holt_winters.py`: exponential smoothing of level, trend and season, 60 values of period 6."""
    season, length = 6, 60
    rng = generator(60)
    t = np.arange(length)
    y = 0.05 * t + np.sin(2 * np.pi * t / season) + 0.2 * rng.standard_normal(length)

    def model(y):
        names = ("level_smoothing", "trend_smoothing", "seasonality_smoothing")
        a, b, c = (latent(name, dist.Beta(1, 1)) for name in names)
        c = c * (1 - a)
        noise = latent("noise", dist.HalfNormal(1))
        level, trend = (
            latent("level_init", dist.Normal(0, 1)),
            latent("trend_init", dist.Normal(0, 1)),
        )
        seasonal = latent("seasonality_init", dist.Normal(0, 1), season)

        def step(carry, value):
            level, trend, seasonal = carry
            mean = level + trend + seasonal[0]
            new_level = a * (value - seasonal[0]) + (1 - a) * (level + trend)
            new_trend = b * (new_level - level) + (1 - b) * trend
            new_season = c * (value - level - trend) + (1 - c) * seasonal[0]
            return (new_level, new_trend, jnp.concatenate([seasonal[1:], new_season[None]])), mean

        _, mean = jax.lax.scan(step, (level, trend, seasonal), y)
        numpyro.sample("y", dist.Normal(mean, noise).to_event(1), obs=y)

    return example("holt-winters", model, {"y": y})


def stochastic_volatility() -> Example:
    """`stochastic_volatility.py` over 150 days: a random walk of log volatility, centred. 152 dimensions."""
    rng = generator(152)
    log_scale = np.log(0.01) + np.cumsum(0.1 * rng.standard_normal(150))
    returns = np.exp(log_scale) * rng.standard_t(8, 150)

    def model(returns):
        step = latent("sigma", dist.Exponential(50.0))
        s = latent("s", dist.GaussianRandomWalk(scale=step, num_steps=150))
        nu = latent("nu", dist.Exponential(0.1))
        numpyro.sample("r", dist.StudentT(nu, 0.0, jnp.exp(s)).to_event(1), obs=returns)

    return example("stochastic-volatility", model, {"returns": returns}, warmup=600, draws=600)


def seasonal_global_trend() -> Example:
    """`time_series_forecasting.ipynb`: the trend is a power of the level, errors are Student.

    48 values of period 6; the original has period 38 and 5000 iterations of warm-up and draws.
    """
    season, length = 6, 48
    rng = generator(48)
    t = np.arange(length)
    shape = np.array([0.6, 0.8, 1.2, 1.6, 1.1, 0.7])[t % season]
    y = (100 + 1.5 * t) * shape * np.exp(0.05 * rng.standard_normal(length))
    width = y.max() / 150

    def model(y):
        nu, powx = latent("nu", dist.Uniform(2, 20)), latent("powx", dist.Uniform(0, 1))
        sigma = latent("sigma", dist.HalfCauchy(width))
        offset = latent("offset_sigma", dist.TruncatedCauchy(loc=1e-10, scale=width, low=1e-10))
        trend = latent("coef_trend", dist.Cauchy(0, width))
        pow_trend = 1.5 * latent("pow_trend_beta", dist.Beta(1, 1)) - 0.5
        pow_season = latent("pow_season", dist.Beta(1, 1))
        level_sm, s_sm = (
            latent("level_sm", dist.Beta(1, 2)),
            latent("s_sm", dist.Uniform(0, 1)),
        )
        first = latent("init_s", dist.Cauchy(0, jnp.asarray(y[:season]) * 0.3).to_event(1))
        before = jnp.concatenate([jnp.zeros(season), y])[1:length]

        def step(carry, now):
            level, s, total = carry
            t, value, leaving = now
            # Levels and seasons stay off zero, where their powers have no gradient.
            seasonal = s[0] * level**pow_season
            mean = jnp.maximum(level + trend * level**pow_trend + seasonal, 1e-3)
            total = total + value - leaving
            smooth = jnp.where(t >= season, total / season, value - seasonal)
            new_level = jnp.maximum(level_sm * smooth + (1 - level_sm) * level, 1e-3)
            safe = jnp.where(jnp.abs(seasonal) < 1e-3, 1e-3, seasonal)
            new = (s_sm * (value - new_level) / safe + 1 - s_sm) * s[0]
            return (new_level, jnp.concatenate([s[1:], new[None]]), total), mean

        start = (jnp.asarray(y[0]), jnp.roll(first, -1), jnp.asarray(y[0]))
        _, mean = jax.lax.scan(step, start, (jnp.arange(1, length), y[1:], before))
        numpyro.sample("y", dist.StudentT(nu, mean, sigma * mean**powx + offset).to_event(1), obs=y[1:])

    return example("seasonal-global-trend", model, {"y": y})


def hierarchical_forecast() -> Example:
    """`hierarchical_forecasting.ipynb`, small: trips between stations, levels drift by destination.

    Three stations, period 4 instead of a week of hours, 24 steps, drifts not centred. 112 dimensions.
    """
    stations, period, length = 3, 4, 24
    rng = generator(216)
    pattern = 3 + rng.standard_normal((stations, 1, period)) + rng.standard_normal((1, stations, period))
    levels = np.cumsum(0.1 * rng.standard_normal((stations, length)), axis=1)
    y = levels[None] + np.tile(pattern, length // period) + rng.standard_normal((stations, stations, 1))
    y = y + 0.3 * rng.standard_normal(y.shape)

    def model(y):
        def normal(name, scale, *shape):
            return latent(name, dist.Normal(0, scale), *shape)

        drift_scale = latent("drift_scale", dist.LogNormal(-3.0, 1.0))
        levels = jnp.cumsum(drift_scale * normal("drift", 1.0, stations, length), axis=-1)
        origin, destination = (
            normal("origin", 5.0, stations, period),
            normal("destination", 5.0, stations, period),
        )
        pairs = normal("pairwise", 1.0, stations, stations)
        scales = [
            latent(f"{end}_scale", dist.LogNormal(-2.0, 1.0), stations) for end in ("origin", "destination")
        ]
        seasonal = jnp.tile(origin[:, None] + destination[None], length // period)
        mean = levels[None] + seasonal + pairs[..., None]
        scale = (scales[0][:, None] + scales[1][None])[..., None]
        numpyro.sample("y", dist.Normal(mean, scale).to_event(3), obs=y)

    return example("hierarchical-forecast", model, {"y": y})


EXAMPLES: dict[str, Builder] = {
    "ar2": autoregression,
    "var2": vector_autoregression,
    "holt-winters": holt_winters,
    "stochastic-volatility": stochastic_volatility,
    "seasonal-global-trend": seasonal_global_trend,
    "hierarchical-forecast": hierarchical_forecast,
}
