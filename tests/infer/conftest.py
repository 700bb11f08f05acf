"""Helpers shared by the tests of this room: a runner, and a check of draws against known expectations."""

import jax
import pytest

from qdesampler import MCMC
from tests.support.expectation import assert_mean


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


@pytest.fixture
def run():
    return _run


@pytest.fixture
def assert_expectation():
    return assert_mean
