"""What users of NUTS read from a run and call on it: counts, the metric by site, divergences, `_compile`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC as NumPyroMCMC
from numpyro.infer import NUTS, CustomGibbs, Gibbs, HMCGibbs
from numpyro.infer.gibbs import conditioned
from numpyro.util import nested_attrgetter

from qdesampler import diagnose
from qdesampler.infer.qde.kernel import QDE

FORMS = [
    (False, None),
    (True, None),
    ([("y", "x")], None),
    ([("x", "w"), ("y",)], None),
    (False, {("y",): np.full(4, 2.0)}),
    ([("x",)], {("w",): np.full(10, 3.0)}),
]


def model():
    numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(0.0, 1.0).expand([4]))
    numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 5]))


def pair():
    a = numpyro.sample("a", dist.Normal(0.0, 3.0))
    numpyro.sample("b", dist.Normal(a, 1.0).expand([2]).to_event(1))


def test_steps_are_the_evaluations_and_unknown_fields_are_named(run):
    mcmc = run(QDE(model), warmup=40, samples=10, chains=2, extra_fields=("num_steps",))
    fields = mcmc.get_extra_fields(group_by_chain=True)
    assert np.array_equal(fields["num_steps"], fields["num_evals"])
    state = mcmc.last_state
    for path, known in (("steps", "num_steps"), ("adapt_state.metric", "inverse_mass_matrix")):
        with pytest.raises(AttributeError, match=rf"{path[-5:]}' is no field of .* has .*{known}"):
            nested_attrgetter(path)(state)
    assert np.array_equal(state[0], state.i)


@pytest.mark.parametrize(("dense_mass", "inverse_mass_matrix"), FORMS)
def test_the_metric_has_the_form_that_nuts_gives_it(dense_mass, inverse_mass_matrix):
    options = {"dense_mass": dense_mass, "inverse_mass_matrix": inverse_mass_matrix}
    ours = QDE(model, **options, adapt_mass_matrix=False).init(jax.random.key(0), 0)
    given = dict(inverse_mass_matrix) if inverse_mass_matrix else None
    blocks: Any = dense_mass if isinstance(dense_mass, list) else [("w", "x", "y")] if dense_mass else []
    nuts = NUTS(model, dense_mass=blocks, inverse_mass_matrix=given, adapt_mass_matrix=False)
    theirs = nuts.init(jax.random.key(0), 0, None, (), {}).adapt_state
    for name in ("inverse_mass_matrix", "mass_matrix_sqrt"):
        mine, known = getattr(ours.adapt_state, name), getattr(theirs, name)
        assert set(mine) == set(known)
        for names, block in mine.items():
            np.testing.assert_allclose(block, known[names], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["vectorized", pytest.param("sequential", marks=pytest.mark.slow)])
def test_the_metric_of_every_chain_is_the_covariance(run, method):
    mcmc = run(QDE(pair), warmup=60, samples=10, chains=3, method=method)
    adapt = mcmc.last_state.adapt_state
    covariance, root = adapt.inverse_mass_matrix["a", "b"], adapt.mass_matrix_sqrt["a", "b"]
    expected = np.full((3, 3), 9.0) + np.diag([0.0, 1.0, 1.0])
    assert covariance.shape == (3, 3, 3)
    for each, factor in zip(covariance, root, strict=True):
        np.testing.assert_allclose(each, expected, rtol=1e-3)
        np.testing.assert_allclose(factor @ factor.T @ expected, np.eye(3), atol=2e-2)
        assert np.all(np.triu(factor, 1) == 0)


def test_the_metric_of_an_array_and_of_a_gibbs_block():
    kernel = QDE(potential_fn=lambda z: 0.5 * z @ z, dense_mass=False)
    adapt = kernel.init(jax.random.key(0), 0, jnp.zeros(3)).adapt_state
    assert np.array_equal(adapt.inverse_mass_matrix, np.ones(3))
    assert np.array_equal(adapt.mass_matrix_sqrt, np.ones(3))
    block = QDE(conditioned(pair), dense_mass=True).init(
        jax.random.split(jax.random.key(0)), 10, None, (), {"_gibbs_sites": {}}
    )
    assert block.adapt_state.inverse_mass_matrix["a", "b"].shape == (2, 3, 3)


@pytest.mark.parametrize("chains", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_compiling_and_warming_up_first_gives_the_draws_of_a_run(chains):
    mcmc = NumPyroMCMC(
        QDE(pair),
        num_warmup=50,
        num_samples=10,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    key = jax.random.key(3)
    mcmc.run(key)
    draws = mcmc.get_samples()
    mcmc._compile(key)
    mcmc.warmup(key)
    assert mcmc.last_state is not None
    mcmc.run(mcmc.last_state.rng_key)
    for name, again in mcmc.get_samples().items():
        assert np.array_equal(draws[name], again)


def edge():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(x, 1.0))
    numpyro.factor("limit", jnp.where(jnp.less(x, 1.0), 0.0, -jnp.inf))


def test_an_edge_that_no_support_knows_is_reported(run, capsys):
    mcmc = run(QDE(edge), warmup=100, samples=200)
    diverging = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["diverging"])
    assert np.min(np.mean(diverging, 1)) > 0.02
    mcmc.print_summary()
    assert f"Number of divergences: {diverging.sum()}" in capsys.readouterr().out
    assert "divergences" in [finding.code for finding in diagnose(mcmc)]


def limit_at_the_largest(values):
    """The upper limit of the data is unknown, and no gradient says that it is above all of them."""
    loc = numpyro.sample("loc", dist.Normal())
    high = numpyro.sample("high", dist.Normal())
    inside = jnp.where(values.max() < high, 0.0, -jnp.inf)
    numpyro.factor("values", inside + dist.Normal(loc, 1.0).log_prob(values).sum())
    numpyro.factor("mass", -values.size * jnp.log(jax.scipy.stats.norm.cdf(high, loc, 1.0)))


@pytest.mark.slow
def test_a_step_size_that_collapsed_at_an_edge_is_reported(run):
    values = np.linspace(-2.0, 0.88, 1000)
    mcmc = run(QDE(limit_at_the_largest), values, warmup=200, samples=200)
    codes = [finding.code for finding in diagnose(mcmc)]
    assert "divergences" in codes
    assert "edges" in codes


def test_a_smooth_posterior_has_no_divergences(run):
    mcmc = run(QDE(pair), warmup=60, samples=500)
    assert not np.any(mcmc.get_extra_fields()["diverging"])
    assert mcmc.sampler.facts(mcmc.last_state)["step_size_at_floor"] == 0


def sum_of_two():
    x = numpyro.sample("x", dist.Normal(0.0, 2.0))
    y = numpyro.sample("y", dist.Normal(0.0, 2.0))
    numpyro.sample("sum", dist.Normal(x + y, 1.0), obs=1.0)


def draw_x(rng_key, gibbs_sites, hmc_sites):
    """Its conditional: `Normal(0.8 (1 - y), 0.8)`."""
    noise = jax.random.normal(rng_key)
    return {"x": 0.8 * (1 - hmc_sites["y"]) + jnp.sqrt(0.8) * noise}


def test_a_custom_conditional_and_qde_are_blocks_of_gibbs(run, assert_expectation):
    """`HMCGibbs` takes NumPyro's kernels only; it is this composition."""
    with pytest.raises(ValueError, match="HMC or NUTS"):
        HMCGibbs(QDE(sum_of_two), draw_x, ["x"])  # pyright: ignore[reportArgumentType]
    blocks = Gibbs([(CustomGibbs(draw_x), ["x"]), (QDE(sum_of_two, dense_mass=False), None)])
    mcmc = run(blocks, warmup=200, samples=2000, chains=1)
    draws = mcmc.get_samples(group_by_chain=True)
    assert_expectation(draws["x"], 4 / 9)
    assert_expectation(draws["x"] + draws["y"], 8 / 9)
    assert_expectation((draws["x"] - draws["y"]) ** 2, 8.0)
