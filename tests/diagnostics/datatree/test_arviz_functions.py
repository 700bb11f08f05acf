"""ArviZ's own functions on trees of four models: summary, LOO, comparison, and two of its plots."""

import warnings
from types import SimpleNamespace

import arviz as az
import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import seed, trace
from numpyro.infer import MCMC

from qdesampler.diagnostics import summary, to_datatree
from qdesampler.infer import QDE, load_model

RNG = np.random.default_rng(0)


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    with numpyro.plate("case", len(x)):
        numpyro.sample("y", dist.Normal(slope * x, 1), obs=y)


def counts(group, y=None):
    with numpyro.plate("group", 3):
        rate = numpyro.sample("rate", dist.Gamma(2, 0.5))
    with numpyro.plate("case", len(group)):
        numpyro.sample("y", dist.Poisson(rate[group]), obs=y)


def vectors(y=None):
    centre = numpyro.sample("centre", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("case", 12):
        numpyro.sample("y", dist.MultivariateNormal(centre, np.eye(2)), obs=y)


def switches(x, y=None):
    weight = numpyro.sample("weight", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.deterministic("norm", (weight**2).sum())
    with numpyro.plate("case", len(x)):
        numpyro.sample("y", dist.BernoulliLogits(x @ weight), obs=y)


X = RNG.normal(size=(20, 2))
MODELS = {
    "line": (line, {"x": X[:, 0], "y": 1.2 * X[:, 0] + RNG.normal(size=20)}),
    "counts": (counts, {"group": np.arange(15) % 3, "y": RNG.poisson(4, size=15)}),
    "vectors": (vectors, {"y": RNG.normal(size=(12, 2))}),
    "switches": (switches, {"x": X, "y": (RNG.random(20) < 0.5).astype(int)}),
}


@pytest.fixture(scope="module", params=MODELS)
def tree(request):
    """Draws about the right place, not of a sampler: what is tested is the form of the tree."""
    model, data = MODELS[request.param]
    sites = trace(seed(model, 0)).get_trace(**data).values()
    samples = {
        site["name"]: np.exp(0.2 * RNG.normal(size=(2, 100, *np.shape(site["value"]))))
        for site in sites
        if site["type"] in ("sample", "deterministic") and not site.get("is_observed")
    }
    run = SimpleNamespace(
        get_samples=lambda group_by_chain: jax.tree.map(jax.numpy.asarray, samples),
        get_extra_fields=lambda group_by_chain: {},
        sampler=SimpleNamespace(model=model),
        last_state=None,
        post_warmup_state=None,
        num_warmup=0,
        num_samples=100,
        num_chains=2,
        thinning=1,
        chain_method="vectorized",
        _args=(),
        _kwargs=data,
    )
    return to_datatree(run, log_likelihood=True, posterior_predictive=True, key=jax.random.key(0))


def all_functions(tree):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pareto k of made-up draws
        table = az.summary(tree, round_to="none")
        own = summary(tree)
        assert list(table.index) == list(own.index)
        np.testing.assert_allclose(table["mean"].astype(float), own["mean"], rtol=1e-4)
        np.testing.assert_allclose(table["ess_bulk"].astype(float), own["ess_bulk"], rtol=1e-4)
        found = az.loo(tree, pointwise=True)
        assert np.isfinite(found.elpd)
        assert found.elpd_i.size == tree["log_likelihood"]["y"][0, 0].size
        ranking = az.compare({"one": tree, "other": tree.isel(draw=slice(None, None, 2))})
        assert set(ranking.index) == {"one", "other"}
        for backend in ("none", "matplotlib"):
            az.plot_trace_dist(tree, backend=backend)
            az.plot_ppc_dist(tree, backend=backend, num_samples=20)
    plt.close("all")


def test_arvizs_functions_take_the_tree(tree):
    all_functions(tree)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eight_schools", "kidiq_interaction", "wells_interaction", "mesquite"])
def test_arvizs_functions_take_real_runs(name):
    case = load_model(f"models/{name}")
    run = MCMC(
        QDE(case.model),
        num_warmup=500,
        num_samples=200,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    run.run(jax.random.key(0), **case.data)
    converted = to_datatree(run, log_likelihood=True, posterior_predictive=True, key=jax.random.key(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        observed = list(converted["log_likelihood"].data_vars)
        assert np.isfinite(az.loo(converted, var_name=observed[0]).elpd)
        assert len(az.summary(converted)) == len(summary(converted))
        az.plot_trace_dist(converted, backend="none", var_names=list(converted["posterior"].data_vars)[:2])
        az.plot_ppc_dist(converted, backend="none", num_samples=20)
