"""The solve as a user meets it: its outcome and price, rest, frozen draws, small targets, hard targets."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler import MCMC
from qdesampler.infer import QDE, compare_with_reference, load_model
from qdesampler.infer.qde.warmup import OUTCOMES

FOLDER = Path(__file__).parents[3] / "models"
DIM = 6


def ill_conditioned():
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]
    return (q * np.geomspace(1e-3, 10, DIM)) @ q.T


COVARIANCE = ill_conditioned()
PRECISION = jnp.asarray(np.linalg.inv(COVARIANCE), jnp.float32)
CENTRE = jnp.arange(DIM) - 2.0


def gaussian():
    kernel = QDE(potential_fn=lambda z: 0.5 * (z - CENTRE) @ PRECISION @ (z - CENTRE))
    return kernel, {"init_params": jax.random.uniform(jax.random.key(0), (4, DIM), minval=-2, maxval=2)}


def regression():
    rng = np.random.default_rng(1)
    design = rng.normal(size=(40, 2))
    response = 1 + design @ [0.5, -2.0] + 0.7 * rng.normal(size=40)

    def model(design, response):
        intercept = numpyro.sample("intercept", dist.Normal(0.0, 10.0))
        slope = numpyro.sample("slope", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(5.0))
        numpyro.sample("y", dist.Normal(intercept + design @ slope, sigma), obs=response)

    return QDE(model), {"design": jnp.asarray(design), "response": jnp.asarray(response)}


@pytest.mark.parametrize("case", [gaussian, pytest.param(regression, marks=pytest.mark.slow)])
def test_a_regular_posterior_is_solved_for_a_few_hundred_evaluations(assert_expectation, case):
    kernel, arguments = case()
    warm = 200
    mcmc = MCMC(
        kernel, num_warmup=warm, num_samples=300, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    fields = ("z", "adapt_state.step_size") if case is regression else ("adapt_state.step_size",)
    mcmc.warmup(jax.random.key(2), **arguments, collect_warmup=True, extra_fields=("num_evals", *fields))
    evals = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["num_evals"])
    walk = jax.tree.leaves(mcmc.get_samples(group_by_chain=True))
    solved = mcmc.last_state
    shared = solved.adapt_state.shared
    assert OUTCOMES[int(shared.outcome)] == "solved"
    assert int(shared.outliers) == 0
    assert int(solved.warmup_evals.sum()) == evals.sum() < 600
    assert float(shared.global_probability) > 0.3
    # the rest of the warm-up costs nothing and moves nothing
    rest = np.flatnonzero(evals[0] > 0).max() + 1
    assert rest < warm - 20
    assert np.all(evals[:, rest:] == 0)
    assert all(np.all(np.asarray(leaf[:, rest:]) == np.asarray(leaf[:, rest - 1 : rest])) for leaf in walk)

    mcmc.run(jax.random.key(3), **arguments)
    after = mcmc.last_state
    before, kept = (jax.tree.leaves(s.adapt_state) for s in (solved, after))
    assert all(np.array_equal(a, b) for a, b in zip(before, kept, strict=True))
    assert np.array_equal(after.warmup_evals, solved.warmup_evals)
    evals = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["num_evals"])
    assert evals.min() >= 1
    if case is gaussian:
        draws = np.asarray(mcmc.get_samples(group_by_chain=True))
        assert_expectation(draws, np.asarray(CENTRE), min_ess=400)
        assert_expectation((draws - np.asarray(CENTRE)) ** 2, np.diag(COVARIANCE), min_ess=400)


def test_the_solve_can_be_left_out():
    kernel, arguments = gaussian()
    for options in ({"solve": False}, {"adapt_mass_matrix": False}, {"adapt_step_size": False}):
        kernel = QDE(potential_fn=lambda z: 0.5 * z @ z, **options)
        state = kernel.init(jax.random.split(jax.random.key(0), 4), 200, arguments["init_params"])
        assert OUTCOMES[int(state.adapt_state.shared.outcome)] == "not tried"
        assert state.adapt_state.shared.global_probability == 0


@pytest.mark.parametrize("warmup", [45, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_hard_walls_are_respected(run, assert_expectation, warmup):
    """Uniform on a box, beside a Gaussian."""

    def potential(z):
        inside = jnp.all(jnp.abs(z[:2]) < 1)
        return jnp.where(inside, 0.5 * (z[2] - 3) ** 2, jnp.inf)

    kernel = QDE(potential_fn=potential)
    mcmc = run(kernel, warmup=warmup, samples=1500, init_params=jnp.full((4, 3), 0.1))
    draws = np.asarray(mcmc.get_samples(group_by_chain=True))
    assert np.all(np.abs(draws[..., :2]) < 1)
    assert_expectation(draws, np.array([0, 0, 3.0]))
    assert_expectation((draws - [0, 0, 3]) ** 2, np.array([1 / 3, 1 / 3, 1.0]))


def test_one_dimension_and_no_density_on_one_side(run, assert_expectation):
    """Gamma(2, 1), NaN below zero: a wall, a skew, an exponential tail."""
    kernel = QDE(potential_fn=lambda z: jnp.where(z > 0, z - jnp.log(jnp.where(z > 0, z, 1)), jnp.nan))
    draws = run(kernel, warmup=150, samples=800, init_params=jnp.full(4, 2.0)).get_samples(
        group_by_chain=True
    )
    assert np.all(np.asarray(draws) > 0)
    assert_expectation(draws, 2.0)
    assert_expectation((np.asarray(draws) - 2) ** 2, 2.0)


def check(name, seed, warmup=500, smallest_ess=400):
    case = load_model(FOLDER / name)
    assert case.reference is not None
    mcmc = MCMC(
        QDE(case.model),
        num_warmup=warmup,
        num_samples=1000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(seed), **case.data)
    found = compare_with_reference(mcmc.get_samples(group_by_chain=True), case.reference)
    assert found.smallest_ess > smallest_ess, found
    assert np.abs(found.error).max() < 4.0, found


def test_the_centred_funnel_of_eight_schools():
    check("eight_schools_centered", 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eight_schools_centered", "glmm_poisson"])
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_hierarchies_of_centred_sites(name, seed):
    check(name, seed)
