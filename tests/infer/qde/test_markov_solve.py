"""Models whose graph is sparse: the solve needs evaluations for neighbours, not for dimensions."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.driver import MCMC
from qdesampler.infer import QDE

GROUPS, EACH = 60, 6
GROUP = np.repeat(np.arange(GROUPS), EACH)


def made_up():
    rng = np.random.default_rng(5)
    level = 1.0 + 0.7 * rng.standard_normal(GROUPS)
    return level[GROUP] + 0.8 * rng.standard_normal(GROUP.size)


def hierarchy(y):
    """Levels of 60 groups with a common mean and spread; 63 dimensions."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = numpyro.sample("spread", dist.HalfNormal(2.0))
    noise = numpyro.sample("noise", dist.HalfNormal(2.0))
    with numpyro.plate("groups", GROUPS):
        level = numpyro.sample("level", dist.Normal(mean, spread))
    numpyro.sample("y", dist.Normal(level[GROUP], noise).to_event(1), obs=y)


def ran(draws=500):
    mcmc = MCMC(QDE(hierarchy), num_warmup=500, num_samples=draws, num_chains=4, progress_bar=False)
    mcmc.run(jax.random.key(0), made_up())
    return mcmc


def spent(mcmc):
    """Evaluations of the warm-up, all chains together."""
    return int(np.sum(np.asarray(mcmc.last_state.warmup_evals)))


def mean_by_quadrature(y):
    """Mean and variance of the common mean: levels and mean are integrated in closed form."""
    totals = np.array([y[group == GROUP].sum() for group in range(GROUPS)])
    within = sum(np.sum((y[group == GROUP] - y[group == GROUP].mean()) ** 2) for group in range(GROUPS))
    spread, noise = np.meshgrid(np.linspace(0.05, 2.5, 300), np.linspace(0.5, 1.2, 300), indexing="ij")
    variance = spread**2 + noise**2 / EACH
    means = totals / EACH
    precision = GROUPS / variance + 1 / 25
    centre = means.sum() / variance / precision
    square = np.sum(means**2) / variance - centre**2 * precision
    log = -0.5 * (GROUPS * np.log(variance) + np.log(precision) + square)
    log -= GROUPS * (EACH - 1) * np.log(noise) + 0.5 * within / noise**2 + (spread**2 + noise**2) / 8
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = np.sum(weight * centre)
    return mean, np.sum(weight * (1 / precision + centre**2)) - mean**2


@pytest.fixture(scope="module")
def solved():
    return ran()


def test_the_hierarchy_is_solved_in_few_evaluations(solved):
    shared = solved.last_state.adapt_state.shared
    assert np.asarray(shared.acceptance).min() > 0.5
    assert spent(solved) < 3000


def test_draws_are_those_of_the_model(solved, assert_expectation):
    mean, variance = mean_by_quadrature(made_up())
    draws = np.asarray(solved.get_samples(group_by_chain=True)["mean"], float)
    assert_expectation(draws, mean, min_ess=400)
    assert_expectation((draws - mean) ** 2, variance, min_ess=400)


@pytest.mark.slow  # a run without the graph
def test_without_the_graph_the_warm_up_takes_more(solved, monkeypatch):
    monkeypatch.setattr("qdesampler.infer.qde.trials.find_field", lambda *_: None)
    assert spent(ran()) > 1.3 * spent(solved)
