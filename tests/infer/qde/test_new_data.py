"""One MCMC object, several data sets: the posterior must follow the data, whatever is cached."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

from qdesampler.infer.qde.kernel import QDE


def model(y, scale=1.0):
    loc = numpyro.sample("loc", dist.Normal(0.0, 10.0))
    numpyro.deterministic("shifted", loc + y[0])
    numpyro.sample("obs", dist.Normal(loc, scale).expand(y.shape).to_event(1), obs=y)


def posterior_mean(y):
    return y.sum() / (len(y) + 1 / 100)


@pytest.mark.parametrize(
    ("jit_model_args", "chains", "method"),
    [
        (False, 4, "vectorized"),
        pytest.param(True, 4, "vectorized", marks=pytest.mark.slow),
        pytest.param(False, 1, "sequential", marks=pytest.mark.slow),
        pytest.param(True, 2, "sequential", marks=pytest.mark.slow),
        pytest.param(True, 2, jax.vmap, marks=pytest.mark.slow),
    ],
)
def test_new_data_of_the_same_and_another_shape(assert_expectation, jit_model_args, chains, method):
    mcmc = MCMC(
        QDE(model, dense_mass=False, trajectory_length=1.7, solve=method == "vectorized"),
        num_warmup=60,
        num_samples=240 // chains,
        num_chains=chains,
        chain_method=method,
        progress_bar=False,
        jit_model_args=jit_model_args,
    )
    spread = np.linspace(-0.5, 0.5, 6, dtype=np.float32)
    for y in (spread + 3, spread - 3, spread[:3] + 30):
        mcmc.run(jax.random.key(0), y)
        samples = mcmc.get_samples(group_by_chain=True)
        assert_expectation(samples["loc"], posterior_mean(y), min_ess=60)
        np.testing.assert_allclose(samples["shifted"], samples["loc"] + y[0], rtol=1e-5)


def test_new_data_with_a_progress_bar_and_compiled_arguments(assert_expectation):
    """The one case in which NumPyro runs the very program that it compiled for the first data."""
    mcmc = MCMC(
        QDE(model, dense_mass=False, trajectory_length=1.7, solve=False),
        num_warmup=60,
        num_samples=240,
        jit_model_args=True,
    )
    mcmc.progress_bar = True
    spread = np.linspace(-0.5, 0.5, 6, dtype=np.float32)
    for y in (spread + 3, spread - 3):
        mcmc.run(jax.random.key(0), y, scale=2.0)
        samples = mcmc.get_samples(group_by_chain=True)
        assert_expectation(samples["loc"], y.sum() / (len(y) + 4 / 100), min_ess=60)


@pytest.mark.slow
def test_another_execution_path_has_other_sites(assert_expectation):
    def branches(wide, y):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([3]).to_event(1)) if wide else jnp.zeros(3)
        numpyro.sample("obs", dist.Normal(a + b, 1.0).to_event(1), obs=y)

    mcmc = MCMC(
        QDE(branches, dense_mass=False, trajectory_length=1.7, solve=False),
        num_warmup=60,
        num_samples=60,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    y = np.array([2.0, 4.0, 6.0], dtype=np.float32)
    for wide, sites, mean in ((False, {"a"}, 3.0), (True, {"a", "b"}, 12 / 5), (False, {"a"}, 3.0)):
        mcmc.run(jax.random.key(0), wide, y)
        samples = mcmc.get_samples(group_by_chain=True)
        assert set(samples) == sites
        assert_expectation(samples["a"], mean, min_ess=60)


def bounded(upper, y):
    x = numpyro.sample("x", dist.Uniform(0.0, upper))
    numpyro.sample("obs", dist.Normal(x, 10.0), obs=y)


@pytest.mark.parametrize(
    "number", [np.float32, *(pytest.param(number, marks=pytest.mark.slow) for number in (float, np.float64))]
)
def test_a_bound_from_the_arguments_follows_them_on_a_shared_kernel(assert_expectation, number):
    kernel = QDE(bounded, dense_mass=False, trajectory_length=1.7, solve=False)
    options = {"num_warmup": 60, "num_samples": 300, "progress_bar": False}
    first, second = MCMC(kernel, **options), MCMC(kernel, **options)
    first.warmup(jax.random.key(0), number(1.0), 0.5)
    second.run(jax.random.key(0), number(100.0), 50.0)
    first.run(jax.random.key(1), number(1.0), 0.5)
    draws = first.get_samples()["x"]
    assert draws.max() <= 1
    assert_expectation(draws[None], 0.5, min_ess=60)


def test_a_bound_from_compiled_arguments_follows_them(assert_expectation):
    mcmc = MCMC(
        QDE(bounded, dense_mass=False, trajectory_length=1.7, solve=False),
        num_warmup=60,
        num_samples=300,
        jit_model_args=True,
    )
    mcmc.progress_bar = True
    for upper in (1.0, 4.0):
        mcmc.run(jax.random.key(0), upper, upper / 2)
        assert_expectation(mcmc.get_samples(group_by_chain=True)["x"], upper / 2, min_ess=60)
