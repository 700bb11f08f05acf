"""Helpers shared by the tests of this room: a runner, and a check of draws against known expectations."""

import jax
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size

from qdesampler import MCMC


def _run(
    kernel, *args, warmup=200, samples=300, chains=4, method="vectorized", key=0, driver=MCMC, **options
):
    """Run a driver without a progress bar; `args`, and the remaining options of `MCMC.run`, are passed on.

    Ours compiles one small program for QDE, where NumPyro's driver compiles the whole transition.
    """
    names = ("thinning", "jit_model_args")
    mcmc = driver(
        kernel,
        num_warmup=warmup,
        num_samples=samples,
        num_chains=chains,
        chain_method=method,
        progress_bar=False,
        **{name: options.pop(name) for name in names if name in options},
    )
    mcmc.run(jax.random.key(key) if isinstance(key, int) else key, *args, **options)
    return mcmc


def _assert_expectation(draws, expected, *, standard_errors=5.0, min_ess=100):
    """Compare the mean of draws, shape `(chains, draws, ...)`, with a known value, entry by entry.

    The bound is `standard_errors` times the Monte Carlo standard error by the draws' own effective sample
    size, which must reach `min_ess`, so that a chain that hardly moves cannot pass.
    """
    draws = np.asarray(draws, dtype=np.float64)
    assert np.all(np.isfinite(draws))
    ess = np.asarray(effective_sample_size(draws))
    assert np.all(ess >= min_ess), f"effective sample size {ess} is below {min_ess}"
    error = draws.std(axis=(0, 1)) / np.sqrt(ess)
    mean = draws.mean(axis=(0, 1))
    assert np.all(np.abs(mean - expected) <= standard_errors * error), (
        f"mean {mean} is more than {standard_errors} standard errors ({error}) from {expected}"
    )


@pytest.fixture
def run():
    return _run


@pytest.fixture
def assert_expectation():
    return _assert_expectation
