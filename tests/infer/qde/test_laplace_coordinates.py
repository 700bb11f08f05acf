"""Hierarchies with several scales: QDE samples them in the coordinates of Laplace's approximation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.driver import MCMC
from qdesampler.infer import QDE
from qdesampler.numerics.laplace_map import LaplaceMap

GROUPS, MEMBERS, NOISE = 4, 3, 0.4
GROUP = np.repeat(np.arange(GROUPS), MEMBERS)
Y = np.array([1.1, 0.8, 1.9, -0.3, 0.2, -1.0, 0.5, 0.4, 1.3, -0.9, -1.6, -0.4])


def nested(y):
    """Effects of groups and of their members, each with a scale of its own, written non-centred."""
    between = numpyro.sample("between", dist.HalfNormal(1.0))
    within = numpyro.sample("within", dist.HalfNormal(1.0))
    group = numpyro.sample("group", dist.Normal(0.0, 1.0).expand([GROUPS]).to_event(1))
    member = numpyro.sample("member", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    effect = between * group[GROUP] + within * member
    numpyro.sample("y", dist.Normal(effect, NOISE).to_event(1), obs=y)


def moments_by_quadrature():
    """Means of both log scales and of their squares: the effects are integrated in closed form."""
    grid = np.linspace(-9, 2, 221)
    same = (GROUP[:, None] == GROUP).astype(float)
    log = np.empty((len(grid), len(grid)))
    for (i, a), (j, b) in itertools.product(enumerate(grid), enumerate(grid)):
        covariance = np.exp(2 * a) * same + (np.exp(2 * b) + NOISE**2) * np.eye(len(Y))
        fit = -0.5 * (np.linalg.slogdet(covariance)[1] + Y @ np.linalg.solve(covariance, Y))
        log[i, j] = fit + sum(-0.5 * np.exp(2 * x) + x for x in (a, b))
    share = np.exp(log - log.max())
    share /= share.sum()
    own = share.sum(1), share.sum(0)
    return {
        name: [weights @ grid**k for k in (1, 2)]
        for name, weights in zip(("between", "within"), own, strict=True)
    }


def ran(draws=2000, **settings):
    options = {"num_warmup": 300, "num_samples": draws, "num_chains": 4, "progress_bar": False}
    mcmc = MCMC(QDE(nested), **options | settings)
    mcmc.run(jax.random.key(0), Y)
    return mcmc


@pytest.fixture(scope="module")
def sampled():
    return ran()


def check(mcmc, assert_expectation):
    samples = mcmc.get_samples(group_by_chain=True)
    for name, moments in moments_by_quadrature().items():
        logs = np.log(np.asarray(samples[name], float))
        for power, moment in enumerate(moments, 1):
            assert_expectation(logs**power, moment, min_ess=300)


def test_the_map_of_both_scales_is_used_and_nearly_all_candidates_are_taken(sampled):
    shared = sampled.last_state.adapt_state.shared
    assert isinstance(shared.law, LaplaceMap)
    assert shared.law.exponents.shape == (GROUPS + len(Y), 2)
    assert float(shared.acceptance) > 0.7


def test_both_scales_have_the_moments_of_quadrature(sampled, assert_expectation):
    check(sampled, assert_expectation)


def test_a_compiled_run_draws_from_the_same_law(monkeypatch, assert_expectation):
    """The run above was made on the host."""
    monkeypatch.setattr("qdesampler.infer.qde.kernel.is_soon_done", lambda *_: False)
    check(ran(), assert_expectation)


def test_a_run_in_two_parts_is_the_run_in_one(tmp_path):
    whole = ran(draws=60)

    def stop(progress):
        if progress.iteration >= 200:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        ran(draws=60, checkpoint=tmp_path, every=20, callbacks=[stop])
    again = MCMC(QDE(nested), num_warmup=300, num_samples=60, num_chains=4, progress_bar=False)
    again.resume(tmp_path, Y)
    for name, value in whole.get_samples().items():
        assert np.array_equal(value, again.get_samples()[name]), name


def test_the_state_holds_the_energy_of_the_model_as_written(sampled):
    state = sampled.last_state
    energies = jax.vmap(sampled.sampler.get_potential_fn((Y,), {}))(jax.tree.map(jnp.asarray, state.z))
    np.testing.assert_allclose(energies, state.potential_energy, rtol=1e-5)
