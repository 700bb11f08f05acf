"""Autoregression of order K, conditional on the first K values of the series."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """Lay the series out as a regression: row t of ``lags`` holds y[t-1], ..., y[t-K], nearest first."""
    series, order = data["y"], data["K"]
    windows = np.lib.stride_tricks.sliding_window_view(series, order)
    return {"lags": windows[:-1, ::-1].copy(), "y": series[order:]}


def model(lags, y):
    """Each value from the K values before it.

    Args:
        lags: the values before each time point, nearest first, shape ``(times, K)``.
        y: the series from its value K + 1 on, shape ``(times,)``; None predicts each step from ``lags``.
    """
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    with numpyro.plate("lag", lags.shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0, 10))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("time", lags.shape[0]):
        numpyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)
