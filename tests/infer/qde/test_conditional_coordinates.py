"""Densities that are Gaussian given a few coordinates: QDE samples them in the coordinates of that law."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.driver import MCMC
from qdesampler.infer import QDE

DIM, SCALE = 10, 3.0


def funnel(z):
    """Potential of `theta ~ N(0, 3)`, `x_j ~ N(0, exp(theta / 2))`: no site shows the scale."""
    theta, x = z[0], z[1:]
    return 0.5 * (theta / SCALE) ** 2 + 0.5 * jnp.sum(x**2) * jnp.exp(-theta) + 0.5 * (DIM - 1) * theta


def ran(kernel, *args, draws=1000, **settings):
    mcmc = MCMC(kernel, num_warmup=500, num_samples=draws, num_chains=4, progress_bar=False)
    mcmc.run(jax.random.key(0), *args, **settings)
    return mcmc


@pytest.fixture(scope="module")
def bare_funnel():
    starts = jax.random.uniform(jax.random.key(1), (4, DIM), minval=-2, maxval=2)
    return ran(QDE(potential_fn=funnel), init_params=starts)


def evaluations(mcmc):
    return int(np.sum(np.asarray(mcmc.get_extra_fields()["num_evals"]))), int(
        np.sum(mcmc.last_state.num_evals)
    )


def test_a_bare_funnel_is_sampled_from_neck_to_mouth(bare_funnel, assert_expectation):
    z = np.asarray(bare_funnel.get_samples(group_by_chain=True), float)
    theta = z[..., 0] / SCALE
    assert_expectation(theta, 0.0, min_ess=1500)
    assert_expectation(theta**2, 1.0, min_ess=1500)
    assert_expectation(np.asarray(theta < -1.2816, float), 0.1, min_ess=1500)  # the neck
    assert_expectation((z[..., 1] * np.exp(-0.5 * z[..., 0])) ** 2, 1.0, min_ess=1500)


def test_it_takes_two_evaluations_a_draw(bare_funnel):
    draws = 4 * 1000
    sampling, all_of_them = evaluations(bare_funnel)
    assert sampling < 2.5 * draws
    assert all_of_them < 4000 + 2.5 * draws


def random_walk(y):
    """Both scales of a random walk under noise: the walk is Gaussian given the two."""
    step = numpyro.sample("step", dist.LogNormal(0, 2))
    noise = numpyro.sample("noise", dist.LogNormal(0, 2))
    x = numpyro.sample("x", dist.GaussianRandomWalk(scale=step, num_steps=len(y)))
    with numpyro.plate("time", len(y)):
        numpyro.sample("y", dist.Normal(x, noise), obs=y)


WALK = np.array([0.1, -0.2, 0.3, 0.2, 0.6, 0.4, 0.9, 0.7, 0.8, 1.2, 0.9, 1.3])


def scales_by_quadrature():
    """Means of `log step` and `log noise`, and of their squares: the walk is integrated in closed form."""
    log_step, log_noise = np.meshgrid(np.linspace(-14, 6, 401), np.linspace(-14, 6, 401), indexing="ij")
    count = len(WALK)
    joint = np.minimum.outer(np.arange(1, count + 1), np.arange(1, count + 1)).astype(float)
    values, vectors = np.linalg.eigh(joint)
    seen = vectors.T @ WALK
    variance = values * np.exp(2 * log_step)[..., None] + np.exp(2 * log_noise)[..., None]
    log = -0.5 * np.sum(np.log(variance) + seen**2 / variance, -1) - (log_step**2 + log_noise**2) / 8
    share = np.exp(log - log.max())
    share /= share.sum()
    return {
        "step": [np.sum(share * log_step**k) for k in (1, 2)],
        "noise": [np.sum(share * log_noise**k) for k in (1, 2)],
    }


def test_both_scales_of_a_random_walk_have_the_moments_of_quadrature(assert_expectation):
    mcmc = ran(QDE(random_walk), WALK, draws=1500)
    law = mcmc.last_state.adapt_state.shared.law
    assert law is not None
    assert np.any(np.asarray(law.prior_slopes))
    assert np.any(np.asarray(law.data_shifts))
    samples = mcmc.get_samples(group_by_chain=True)
    for name, moments in scales_by_quadrature().items():
        logs = np.log(np.asarray(samples[name], float))
        for power, moment in enumerate(moments, 1):
            assert_expectation(logs**power, moment, min_ess=400)


@pytest.mark.slow  # two runs; that the coordinates change and the draws are right is fast
def test_as_written_a_bare_funnel_costs_several_times_as_much(bare_funnel, monkeypatch):
    monkeypatch.setattr("qdesampler.infer.qde.structures.find_conditional_gaussian", lambda *_: None)
    starts = jax.random.uniform(jax.random.key(1), (4, DIM), minval=-2, maxval=2)
    plain = ran(QDE(potential_fn=funnel), init_params=starts)
    assert sum(evaluations(plain)) > 1.5 * sum(evaluations(bare_funnel))
