"""Models that are written non-centred though their data are strong: QDE centres them by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import seed, substitute, trace

from qdesampler.driver import MCMC
from qdesampler.infer import QDE
from qdesampler.infer.model.centering import standard_widths
from qdesampler.numerics.laplace_map import LaplaceMap

Y = np.array([3.0, -0.1, 0.2, 0.05, -4.0, 0.3, -0.2, 0.1, 5.0, 0.0, 0.15, -0.25])
NOISE = 0.05


def products(y):
    """Effects `tau lambda_j z_j`, each seen once with little noise: a horseshoe, written non-centred."""
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    with numpyro.plate("effects", len(y)):
        local = numpyro.sample("lambda", dist.HalfCauchy(1.0))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(tau * local * z, NOISE), obs=y)


def log_tau_by_quadrature():
    """Mean and variance of `log tau`: each effect integrated over its scale, the rest is one integral."""
    log_tau, log_local = np.linspace(-12, 8, 400), np.linspace(-25, 25, 4001)
    scale = np.exp(log_tau[:, None] + log_local)
    prior = 1 / np.cosh(log_local)  # a half Cauchy law, in logarithms
    total = np.log(1 / np.cosh(log_tau))
    for y in Y:
        variance = scale**2 + NOISE**2
        total += np.log(np.sum(prior * np.exp(-0.5 * y**2 / variance) / np.sqrt(variance), 1))
    weight = np.exp(total - total.max())
    weight /= weight.sum()
    mean = weight @ log_tau
    return mean, weight @ (log_tau - mean) ** 2


def ran(draws=1400):
    mcmc = MCMC(QDE(products), num_warmup=500, num_samples=draws, num_chains=4, progress_bar=False)
    mcmc.run(jax.random.key(0), Y)
    return mcmc


@pytest.fixture(scope="module")
def scaled():
    return ran()


def test_the_products_are_found_and_centred(scaled):
    law = scaled.last_state.adapt_state.shared.law
    assert isinstance(law, LaplaceMap)
    # every effect is scaled by its own scale and by the common one
    assert np.count_nonzero(law.exponents) == 2 * len(Y)
    # and the data are those of the products
    np.testing.assert_allclose(np.diag(law.data), NOISE**-2, rtol=0.05)


def test_draws_are_those_of_the_model_as_written(scaled, assert_expectation):
    mean, variance = log_tau_by_quadrature()
    log_tau = np.log(np.asarray(scaled.get_samples(group_by_chain=True)["tau"], float))
    assert_expectation(log_tau, mean, min_ess=500)
    assert_expectation((log_tau - mean) ** 2, variance, min_ess=400)


@pytest.mark.slow  # two runs; that the coordinates change and the draws are right is fast
def test_as_written_it_costs_several_times_as_much(scaled, monkeypatch):
    monkeypatch.setattr("qdesampler.infer.qde.structures.find_scaling_symmetry", lambda *_: None)
    plain = ran()
    assert plain.last_state.adapt_state.shared.law is None
    per_draw = []
    for mcmc in (scaled, plain):
        x = np.log(np.asarray(mcmc.get_samples(group_by_chain=True)["lambda"], float))
        evals = np.sum(np.asarray(mcmc.get_extra_fields()["num_evals"]))
        size = np.exp(np.mean(np.log(numpyro.diagnostics.effective_sample_size(x))))
        per_draw.append(evals / size)
    assert 2 * per_draw[0] < per_draw[1]


def sites(x):
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    numpyro.sample("number", dist.Normal(0.0, 1.0))
    numpyro.sample("array", dist.Normal(jnp.zeros(3), 2.0).to_event(1))
    numpyro.sample("expanded", dist.Normal(0.0, 0.5).expand([2, 2]).to_event(2))
    numpyro.sample("from data", dist.Normal(0.0, x))
    numpyro.sample("elsewhere", dist.Normal(1.0, 1.0))
    numpyro.sample("moving", dist.Normal(0.0, tau))
    numpyro.sample("moving array", dist.Normal(tau * jnp.ones(2), 1.0).to_event(1))
    numpyro.sample("heavy", dist.StudentT(3.0, 0.0, 1.0))
    numpyro.sample("improper", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("seen", dist.Normal(0.0, 1.0), obs=x)


def test_exactly_the_sites_with_a_normal_prior_of_their_own_are_standard():
    known = {"improper": jnp.array(0.0)}
    drawn = trace(seed(substitute(sites, data=known), 0)).get_trace(jnp.array(3.0))
    latent = {
        name: jax.ShapeDtypeStruct(site["value"].shape, site["value"].dtype)
        for name, site in drawn.items()
        if name != "seen"
    }
    found = standard_widths(sites, latent, (jnp.array(3.0),), {}, {})
    expected = {
        "number": np.array(1.0),
        "array": np.full(3, 2.0),
        "expanded": np.full((2, 2), 0.5),
        "from data": np.array(3.0),
    }
    assert found.keys() == expected.keys()
    for name, widths in expected.items():
        np.testing.assert_allclose(found[name], widths, rtol=1e-6)
