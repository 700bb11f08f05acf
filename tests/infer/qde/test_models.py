"""Kinds of models that NUTS takes: enumeration, parameters, scans, extreme scales, jumps."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive, init_to_value, log_likelihood

from qdesampler.infer.qde.kernel import QDE


@pytest.mark.slow
def test_enumerated_mixture_against_quadrature(run, assert_expectation):
    y = np.array([-1.2, 0.3, 2.0, 2.4], dtype=np.float32)

    def model(y):
        weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
        gap = numpyro.sample("gap", dist.HalfNormal(2.0))
        with numpyro.plate("rows", len(y)):
            label = numpyro.sample("label", dist.Bernoulli(weight), infer={"enumerate": "parallel"})
            numpyro.sample("obs", dist.Normal(jnp.where(label == 1, gap, -gap), 1.0), obs=y)

    w, g = np.meshgrid(np.linspace(0, 1, 402)[1:-1], np.linspace(0, 8, 401), indexing="ij")
    log_p = np.log(w * (1 - w)) - g**2 / 8
    for value in y:
        log_p += np.log(w * np.exp(-((value - g) ** 2) / 2) + (1 - w) * np.exp(-((value + g) ** 2) / 2))
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    samples = run(QDE(model, dense_mass=False, solve=False), y).get_samples(group_by_chain=True)
    assert set(samples) == {"weight", "gap"}
    assert_expectation(samples["weight"], (p * w).sum())
    assert_expectation(samples["gap"], (p * g).sum())


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
def test_parameters_stay_fixed_and_can_be_lifted(run, assert_expectation):
    def model(y):
        loc = numpyro.param("loc", 2.0)
        x = numpyro.sample("x", dist.Normal(loc, 1.0))
        numpyro.sample("obs", dist.Normal(x, 1.0), obs=y)

    samples = run(QDE(model, dense_mass=False, solve=False), 4.0).get_samples(group_by_chain=True)
    assert set(samples) == {"x"}
    assert_expectation(samples["x"], 3.0)
    lifted = numpyro.handlers.lift(model, prior={"loc": dist.Normal(0.0, 1.0)})
    samples = run(QDE(lifted, dense_mass=False, solve=False), 4.0).get_samples(group_by_chain=True)
    # y ~ Normal(loc, sqrt 2), loc ~ Normal(0, 1)
    assert_expectation(samples["loc"], 4 / 3)
    assert_expectation(samples["x"], 8 / 3)


def test_scan_model_is_the_gaussian_it_should_be(run, assert_expectation):
    y = np.array([1.0, 2.0, 4.0], dtype=np.float32)

    def model(y):
        def transition(before, value):
            x = numpyro.sample("x", dist.Normal(before, 1.0))
            numpyro.sample("obs", dist.Normal(x, 0.5), obs=value)
            return x, x

        scan(transition, jnp.array(0.0), y)

    samples = run(QDE(model, dense_mass=False, solve=False), y).get_samples(group_by_chain=True)
    steps = np.eye(3) - np.eye(3, k=-1)
    precision = steps.T @ steps + np.eye(3) / 0.25
    assert_expectation(samples["x"], np.linalg.solve(precision, y / 0.25))


def test_a_subsampled_plate_is_refused(run):
    def model(y):
        loc = numpyro.sample("loc", dist.Normal(0.0, 100.0))
        with numpyro.plate("rows", 10, subsample_size=4) as index:
            numpyro.sample("obs", dist.Normal(loc, 1.0), obs=y[index])

    with pytest.raises(ValueError, match="subsamples the plates 'rows'"):
        run(QDE(model), np.arange(10.0), warmup=0, samples=1)


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


def test_extreme_scales(run, assert_expectation):
    n, k = 5e6, 3849.0

    def model():
        p = numpyro.sample("p", dist.Beta(1.0, 1.0))
        far = numpyro.sample("far", dist.Normal(1e6, 1e3))
        numpyro.sample("tiny", dist.Normal(0.0, 1e-6))
        numpyro.deterministic("offset", far - 1e6)
        numpyro.sample("obs", dist.Binomial(n, probs=p), obs=k)

    samples = run(QDE(model, dense_mass=False, solve=False), warmup=500).get_samples(group_by_chain=True)
    assert_expectation(samples["p"] * n, k + 1, min_ess=50)
    assert_expectation(samples["tiny"], 0.0, min_ess=50)
    assert abs(samples["tiny"].std() / 1e-6 - 1) < 0.2


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
