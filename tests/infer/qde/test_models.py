"""Models that are refused or warned of, jumps, what is made of draws; the rest: `test_kinds_of_models.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import Predictive, init_to_value, log_likelihood

from qdesampler.infer.qde.kernel import QDE


def test_unmarked_discrete_sites_are_enumerated_with_numpyros_warning(run):
    def model():
        label = numpyro.sample("label", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(jnp.where(label == 1, 4.0, 0.0), 1.0))

    kernel = QDE(model)
    with pytest.warns(FutureWarning, match="enumerate"):
        state = kernel.init(jax.random.key(0), 10, None, (), {})
    x = jnp.array(1.0)
    expected = -jnp.log(0.3 * jnp.exp(-0.5 * (x - 4) ** 2) + 0.7 * jnp.exp(-0.5 * x**2)) + 0.5 * jnp.log(
        2 * jnp.pi
    )
    assert set(state.z) == {"x"}
    np.testing.assert_allclose(kernel.get_potential_fn()({"x": x}), expected, rtol=1e-5)


def test_discrete_sites_without_enumeration_point_to_gibbs():
    def model():
        numpyro.sample("x", dist.Normal(numpyro.sample("n", dist.Poisson(3.0)), 1.0))

    with pytest.raises(RuntimeError, match=r"site n does not have enumerate support.*DiscreteGibbs"):
        QDE(model).init(jax.random.key(0), 10, None, (), {})


@pytest.mark.slow
def test_a_jump_in_the_density_is_found(run):
    counts = np.concatenate([np.full(12, 20), np.full(8, 5)]).astype(np.float32)

    def model(counts):
        before = numpyro.sample("before", dist.Exponential(0.1))
        after = numpyro.sample("after", dist.Exponential(0.1))
        tau = numpyro.sample("tau", dist.Uniform(0.0, 1.0))
        rate = jnp.where(jnp.arange(len(counts)) < tau * len(counts), before, after)
        numpyro.sample("obs", dist.Poisson(rate), obs=counts)

    start = init_to_value(values={"before": 10.0, "after": 10.0, "tau": 0.5})
    samples = run(QDE(model, init_strategy=start, dense_mass=False), counts).get_samples(group_by_chain=True)
    switch = np.ceil(samples["tau"] * len(counts))
    assert np.median(switch) == 12
    assert abs(np.median(samples["before"]) - 20) < 2
    assert abs(np.median(samples["after"]) - 5) < 2


def test_draws_serve_predictive_and_log_likelihood(run):
    def model(y=None):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        numpyro.deterministic("twice", 2 * loc)
        numpyro.sample("obs", dist.Normal(loc, 1.0).expand([3]).to_event(1), obs=y)

    y = np.zeros(3, dtype=np.float32)
    mcmc = run(QDE(model, dense_mass=False, solve=False), y, warmup=30, samples=10, chains=2)
    samples = mcmc.get_samples()
    predicted = Predictive(model, samples)(jax.random.key(1))
    assert predicted["obs"].shape == (20, 3)
    np.testing.assert_allclose(predicted["twice"], samples["twice"], rtol=1e-6)
    terms = log_likelihood(model, samples, y)["obs"]
    potential = mcmc.get_extra_fields()["potential_energy"]
    prior = dist.Normal(0.0, 1.0).log_prob(samples["loc"])
    np.testing.assert_allclose(-potential, terms + prior, rtol=1e-5)
