"""The trial state as a guide: solved at `init`, near the evidence bound at once, in SVI and in Predictive."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.reparam import NeuTraReparam

from qdesampler import MCMC
from qdesampler.infer import QDE
from qdesampler.infer.ground_states.guide import AutoGroundState
from qdesampler.solvers import GaussianTrial, SpectralGrid
from qdesampler.solvers.flow.solver import FlowTrial

X = np.linspace(-1.0, 1.0, 12)
Y = 1.0 + 0.5 * X + 0.3 * np.sin(7.0 * np.arange(12))
NOISE, WIDE = 0.4, 2.0
TINY_FLOW = FlowTrial(layers=2, width=8, evaluations=1024, rounds=2, steps=60, batch=64)


def regression(x, y=None):
    """A line with known noise: a Gaussian posterior whose evidence has a closed form."""
    a = numpyro.sample("a", dist.Normal(0, WIDE))
    b = numpyro.sample("b", dist.Normal(0, WIDE))
    with numpyro.plate("point", len(x)):
        numpyro.sample("y", dist.Normal(a + b * x, NOISE), obs=y)


def scale_model(y=None):
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    numpyro.deterministic("ratio", mu / sigma)
    with numpyro.plate("point", len(Y)):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def closed_form():
    design = np.stack([np.ones_like(X), X], 1)
    precision = design.T @ design / NOISE**2 + np.eye(2) / WIDE**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ design.T @ Y / NOISE**2
    law = np.eye(len(X)) * NOISE**2 + WIDE**2 * design @ design.T
    evidence = -0.5 * (Y @ np.linalg.solve(law, Y) + np.linalg.slogdet(2 * np.pi * law)[1])
    return mean, covariance, evidence


def started(model, guide, *args):
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO(num_particles=64))
    state = svi.init(jax.random.key(0), *args)
    return svi, state


@pytest.mark.parametrize("kind", ["dense", "low-rank"])
def test_parameters_start_at_the_posterior_and_the_loss_at_the_evidence(kind):
    mean, covariance, evidence = closed_form()
    guide = AutoGroundState(regression, GaussianTrial(kind=kind))
    svi, state = started(regression, guide, X, Y)
    params = svi.get_params(state)
    np.testing.assert_allclose(params["auto_loc"], mean, atol=1e-3)
    tril = np.asarray(params["auto_scale_tril"])
    np.testing.assert_allclose(tril @ tril.T, covariance, rtol=2e-3, atol=1e-5)
    assert float(svi.evaluate(state, X, Y)) == pytest.approx(-evidence, abs=1e-2)


def test_svi_runs_from_there_and_stays():
    evidence = closed_form()[2]
    guide = AutoGroundState(regression)
    svi = SVI(regression, guide, numpyro.optim.Adam(1e-3), Trace_ELBO(num_particles=8))
    result = svi.run(jax.random.key(1), 50, X, Y, progress_bar=False)
    assert np.isfinite(result.losses).all()
    np.testing.assert_allclose(result.losses, -evidence, atol=0.1)


def test_diagonal_guide():
    guide = AutoGroundState(regression, GaussianTrial(kind="diagonal"))
    svi, state = started(regression, guide, X, Y)
    params = svi.get_params(state)
    covariance = closed_form()[1]
    np.testing.assert_allclose(params["auto_scale"] ** 2, np.diag(covariance), rtol=5e-3)
    u = jax.random.normal(jax.random.key(0), (5, 2))
    np.testing.assert_allclose(
        guide.get_transform(params)(u), params["auto_loc"] + params["auto_scale"] * u, rtol=1e-6
    )


def test_predictive_draws_the_posterior_and_the_data():
    mean, covariance, _ = closed_form()
    guide = AutoGroundState(regression)
    svi, state = started(regression, guide, X, Y)
    params = svi.get_params(state)
    drawn = Predictive(regression, guide=guide, params=params, num_samples=4000)(jax.random.key(2), X)
    assert drawn["y"].shape == (4000, 12)
    expected = mean[0] + mean[1] * X
    spread = np.sqrt(NOISE**2 + covariance[0, 0] + covariance[1, 1] * X**2)
    assert np.all(np.abs(drawn["y"].mean(0) - expected) < 4.5 * spread / 4000**0.5)
    sites = guide.sample_posterior(jax.random.key(3), params, sample_shape=(4000,))
    assert sites["a"].shape == (4000,)
    assert abs(float(sites["a"].std()) / covariance[0, 0] ** 0.5 - 1) < 4.5 / 8000**0.5
    assert float(guide.median(params)["b"]) == pytest.approx(mean[1], abs=1e-3)
    low, high = guide.quantiles(params, [0.1, 0.9])["a"]
    assert float(high - low) == pytest.approx(2 * 1.2815516 * covariance[0, 0] ** 0.5, rel=5e-3)


def test_constrained_and_deterministic_sites():
    guide = AutoGroundState(scale_model)
    svi, state = started(scale_model, guide, Y)
    sites = guide.sample_posterior(jax.random.key(3), svi.get_params(state), sample_shape=(200,))
    assert set(sites) >= {"sigma", "mu", "ratio"}
    assert bool(jnp.all(sites["sigma"] > 0))
    np.testing.assert_allclose(sites["ratio"], sites["mu"] / sites["sigma"], rtol=1e-5)


@pytest.mark.slow
def test_flow_guide():
    guide = AutoGroundState(scale_model, TINY_FLOW)
    svi, state = started(scale_model, guide, Y)
    params = svi.get_params(state)
    assert set(params) == {"auto_flow"}
    loss = float(svi.evaluate(state, Y))
    bound = float(guide.ground_state.diagnostics["evidence_lower_bound"])
    assert loss == pytest.approx(-bound, abs=0.1)
    base = jax.random.normal(jax.random.key(5), (7, 2))
    transform = guide.get_transform(params)
    x = transform(base)
    np.testing.assert_allclose(transform._inverse(x), base, atol=1e-4)
    posterior = guide.get_posterior(params)
    np.testing.assert_allclose(posterior.log_prob(x), jax.vmap(guide.ground_state.log_prob)(x), atol=1e-3)
    state, loss = svi.update(state, Y)
    assert np.isfinite(float(loss))
    moved = svi.get_params(state)["auto_flow"]
    assert 0 < float(jnp.max(jnp.abs(moved - params["auto_flow"]))) < 2e-3
    drawn = Predictive(scale_model, guide=guide, params=params, num_samples=20)(jax.random.key(6))
    assert drawn["y"].shape == (20, 12)
    median = guide.median(params)
    draws = guide.sample_posterior(jax.random.key(8), params, sample_shape=(4000,))
    below = float(jnp.mean(draws["sigma"] < median["sigma"]))
    assert abs(below - 0.5) < 4.5 * (0.25 / 4000 + 0.25 / 8192) ** 0.5


def test_bad_input():
    with pytest.raises(TypeError, match="solver must be an object such as GaussianTrial"):
        AutoGroundState(regression, GaussianTrial)
    guide = AutoGroundState(regression)
    with pytest.raises(ValueError, match=r"call svi.init"):
        guide.median({})
    svi = SVI(regression, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    with pytest.raises(ValueError, match="cannot be under jit"):
        jax.jit(lambda key: svi.init(key, X, Y).optim_state)(jax.random.key(0))
    svi.init(jax.random.key(0), X, Y)  # the failed call left nothing behind
    grid = AutoGroundState(
        lambda: numpyro.sample("x", dist.Normal(0, 1)), SpectralGrid(bounds=(-6.0, 6.0), points=64)
    )
    grid_svi = SVI(grid.model, grid, numpyro.optim.Adam(1e-3), Trace_ELBO())
    with pytest.raises(TypeError, match="a guide needs that of"):
        grid_svi.init(jax.random.key(0))


def sample_through(guide, model, seed, *args, warmup=200, draws=500):
    """QDE in the coordinates of a guide's base: the guide is the trial, moves stay exact."""
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    params = svi.get_params(svi.init(jax.random.key(seed), *args))
    mcmc = MCMC(
        QDE(NeuTraReparam(guide, params).reparam(model)),
        num_warmup=warmup,
        num_samples=draws,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(seed + 1), *args)
    return mcmc


def test_moves_of_qde_in_the_coordinates_of_a_guide(assert_expectation):
    mean, covariance, _ = closed_form()
    mcmc = sample_through(AutoGroundState(regression), regression, 3, X, Y)
    draws = mcmc.get_samples(group_by_chain=True)
    for name, m, v in zip("ab", mean, np.diag(covariance), strict=True):
        assert_expectation(draws[name], m)
        assert_expectation((np.asarray(draws[name]) - m) ** 2, v)
    # the base of the right Gaussian is round: nothing is left to solve
    assert float(mcmc.last_state.adapt_state.shared.acceptance) > 0.9


@pytest.mark.slow
def test_moves_of_qde_in_the_coordinates_of_a_flow(assert_expectation):
    def banana():
        x = numpyro.sample("x", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(0.03 * (x**2 - 100), 1))

    mcmc = sample_through(AutoGroundState(banana, FlowTrial()), banana, 0, warmup=500, draws=1000)
    draws = mcmc.get_samples(group_by_chain=True)
    assert_expectation(draws["x"], 0.0)
    assert_expectation(np.asarray(draws["x"]) ** 2, 100.0)
    assert_expectation(draws["y"], 0.0)
    assert_expectation(np.asarray(draws["y"]) ** 2, 19.0)
    assert float(mcmc.last_state.adapt_state.shared.acceptance) > 0.8
    spent = mcmc.last_state.warmup_evals.sum() + mcmc.get_extra_fields()["num_evals"].sum()
    assert int(spent) < 10_000
