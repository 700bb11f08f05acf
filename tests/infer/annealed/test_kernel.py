"""AnnealedQDE: modes, evidence, NumPyro's contract, restarts, disagreement of chains, bad input."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC
from numpyro.infer.gibbs import GIBBS_SITES_KWARG

from qdesampler.infer.annealed.evidence import evidence_report, ladder_of, log_evidence
from qdesampler.infer.annealed.kernel import AnnealedQDE
from qdesampler.infer.annealed.reference_fit import KINDS
from qdesampler.kernels.references.path import DiffusionPath
from tests.targets import DOUBLE_WELL_LEFT, DOUBLE_WELL_LOG_Z, double_well


def conjugate(y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    with numpyro.plate("data", 5):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


DATA = jnp.array([1.0, 2.0, 0.5, 1.5, 3.0])


def conjugate_log_evidence(y):
    cov = np.eye(5) + 4.0
    return -0.5 * (y @ np.linalg.solve(cov, y) + np.linalg.slogdet(cov)[1] + 5 * np.log(2 * np.pi))


def test_the_double_well_has_its_masses_and_its_evidence(annealed_wells, assert_expectation):
    left = np.asarray(annealed_wells.get_samples(group_by_chain=True)["x"][..., 0] < 0, float)
    assert_expectation(left, DOUBLE_WELL_LEFT, standard_errors=4)
    value, error = log_evidence(annealed_wells)
    assert error < 0.05
    assert abs(value - DOUBLE_WELL_LOG_Z) < 4 * error
    report = evidence_report(annealed_wells)
    assert report.lower - 4 * error < DOUBLE_WELL_LOG_Z < report.upper + 4 * error
    assert abs(report.by_particles - DOUBLE_WELL_LOG_Z) < 4 * report.by_particles_error + 0.05
    assert report.iterations == 2000


def test_every_evaluation_is_counted(annealed_wells):
    state, ladder = annealed_wells.last_state, ladder_of(annealed_wells)
    rungs = ladder.betas.shape[1]
    evals = np.asarray(annealed_wells.get_extra_fields(group_by_chain=True)["num_evals"])
    kept = np.arange(200, 200 + evals.shape[1])
    moves = kept % ladder.move_every[:, None] == 0
    np.testing.assert_array_equal(evals, (rungs - 1) * ladder.num_steps[:, None] * moves + 1)
    # at least the stages of the particles, and one evaluation in each iteration that leaves the starts
    assert np.all(np.asarray(state.warmup_evals) > 2 * 128 + 16)


def test_a_run_is_continued_without_loss(annealed_wells):
    kernel = pickle.loads(pickle.dumps(annealed_wells.sampler))
    mcmc = MCMC(
        kernel, num_warmup=200, num_samples=500, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    before = ladder_of(annealed_wells)
    mcmc.post_warmup_state = pickle.loads(pickle.dumps(jax.device_get(annealed_wells.last_state)))
    mcmc.run(jax.random.key(1), init_params={"x": jnp.ones((4, 2))})
    after = ladder_of(mcmc)
    assert np.all(after.ladder.kept.counts.sum(1) == 2500)
    assert np.all(after.ladder.kept.round_trips >= before.ladder.kept.round_trips)
    for name in ("betas", "step_sizes", "centres"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    gained = after.ladder.kept.bridge.sum(1) - before.ladder.kept.bridge.sum(1)
    assert np.all((gained > 0) & (gained < 500))
    value, error = log_evidence(mcmc)
    assert abs(value - DOUBLE_WELL_LOG_Z) < 4 * error


@pytest.mark.parametrize(
    "method", ["vectorized", "sequential", jax.vmap], ids=["vectorized", "sequential", "vmap"]
)
def test_a_model_has_its_marginal_likelihood_by_every_chain_method(run, method):
    kernel = AnnealedQDE(conjugate)
    mcmc = run(kernel, y=DATA, warmup=64, samples=600, chains=2, method=method)
    value, error = log_evidence(mcmc)
    assert error < 0.05
    assert abs(value - conjugate_log_evidence(np.asarray(DATA))) < 4 * error + 1e-3
    assert set(ladder_of(mcmc).kind) == {KINDS["trial"]}  # one mode: the solve sufficed
    assert int(np.sum(mcmc.last_state.warmup_evals)) < 2_000
    mean = 4 * DATA.sum() / (4 * 5 + 1)
    assert abs(float(mcmc.get_samples()["mu"].mean() - mean)) < 0.1


def test_all_chain_methods_share_one_search_and_a_seed_makes_another():
    def found(kernel, key):
        return kernel.init(key, 64, None, (), {"y": DATA}).adapt_state.shared.ladder.reference

    keys = jax.random.split(jax.random.key(3), 2)
    first = found(AnnealedQDE(conjugate, num_particles=16), keys)
    same = [found(AnnealedQDE(conjugate, num_particles=16), keys[1])]
    same.append(jax.jit(lambda key: found(AnnealedQDE(conjugate, num_particles=16), key))(keys[0]))
    other = found(AnnealedQDE(conjugate, num_particles=16, search_seed=1), keys)
    for leaves in zip(*map(jax.tree.leaves, (first, *same)), strict=True):
        for leaf in leaves[1:]:
            np.testing.assert_array_equal(leaf, leaves[0])
    assert not np.array_equal(first.means, other.means)


def test_a_search_serves_again_for_equal_data_only():
    kernel = AnnealedQDE(conjugate, num_particles=16)
    evals = [
        int(kernel.init(jax.random.key(0), 64, None, (), {"y": y}).pending_evals)
        for y in (DATA, jnp.array(DATA), DATA + 1)
    ]
    assert evals[0] > 100
    assert evals[1] == 0
    assert evals[2] > 100
    assert int(
        pickle.loads(pickle.dumps(kernel)).init(jax.random.key(0), 64, None, (), {"y": DATA}).pending_evals
    )


def test_a_target_without_values_is_refused():
    kernel = AnnealedQDE(conjugate)
    with pytest.raises(TypeError, match="values for the model's arguments"):
        jax.jit(lambda y: kernel.init(jax.random.key(0), 64, None, (), {"y": y}).z)(DATA)
    with pytest.raises(TypeError, match="cannot be a block of Gibbs"):
        kernel.init(jax.random.key(0), 64, None, (), {"y": DATA, GIBBS_SITES_KWARG: {}})


@pytest.mark.slow
def test_new_data_are_not_ignored(run):
    kernel = AnnealedQDE(conjugate, num_particles=64)
    for y in (DATA, DATA - 6):
        mcmc = run(kernel, y=y, warmup=64, samples=400, chains=2)
        value, error = log_evidence(mcmc)
        assert abs(value - conjugate_log_evidence(np.asarray(y))) < 5 * error + 1e-3


@pytest.mark.slow
def test_r_hat_shows_chains_that_no_ladder_joins(run):
    """Two rungs without overlap and few particles: chains stay where they started."""

    def far_wells(x):
        return -jnp.logaddexp(-0.5 * jnp.sum((x - 6) ** 2), -0.5 * jnp.sum((x + 6) ** 2))

    kernel = AnnealedQDE(
        potential_fn=far_wells, reference=3.0, num_particles=16, num_rungs=2, reference_kind="prior"
    )
    mcmc = run(kernel, warmup=40, samples=100, chains=4, key=2, init_params=jnp.ones((4, 8)))
    assert np.max(split_gelman_rubin(np.asarray(mcmc.get_samples(group_by_chain=True)))) > 1.1
    report = evidence_report(mcmc)
    assert not report.standard_error < 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": np.inf}, "improper reference"),
        ({"reference": (0.0, -1.0)}, "positive finite"),
        ({"num_rungs": 1}, "at least 2"),
        ({"path": "quantum"}, "expected one of"),
        ({"path": "diffusion", "reference_kind": "fitted"}, "reference_kind='prior'"),
        ({"reference_kind": "third"}, "expected one of"),
        ({"target_accept_prob": 1.5}, "between 0 and 1"),
        ({"num_particles": 3}, "at least 16"),
        ({"num_particles": 16.5}, "at least 16"),
        ({"max_steps": True}, "at least 1"),
        ({"num_rungs": "four"}, "num_rungs is 'four'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AnnealedQDE(potential_fn=double_well, **options)


def test_old_argument_names_still_work_with_a_warning():
    with pytest.warns(DeprecationWarning, match="use num_particles=64"):
        kernel = AnnealedQDE(potential_fn=double_well, num_walkers=64)
    assert kernel.search_settings.particles.num_particles == 64
    with pytest.warns(DeprecationWarning, match="use reference_kind='prior'"):
        kernel = AnnealedQDE(potential_fn=double_well, leg="broad")
    assert kernel.search_settings.reference_kind == "prior"
    with pytest.warns(DeprecationWarning, match="reference_fraction"):
        path = DiffusionPath(leg=0.4)
    assert path == DiffusionPath(reference_fraction=0.4)


def test_a_reference_without_any_density_is_refused(run):
    kernel = AnnealedQDE(potential_fn=double_well, reference=(1e12, 1.0), num_particles=16)
    with pytest.raises(RuntimeError, match="No particle"):
        run(kernel, samples=10, init_params={"x": jnp.ones((4, 2))})


def test_bad_runs_are_refused(run):
    kernel = AnnealedQDE(potential_fn=double_well, num_particles=16)
    with pytest.raises(ValueError, match="at least 32"):
        run(kernel, warmup=0, samples=10, init_params={"x": jnp.ones((4, 2))})
    with pytest.raises(ValueError, match="init_params"):
        run(kernel, samples=10)
    with pytest.raises(ValueError, match="not finite"):  # the fourth power overflows
        run(kernel, samples=10, init_params={"x": jnp.full((4, 2), 1e12)})
    with pytest.raises(ValueError, match="AnnealedQDE"):
        log_evidence("no run")

    def improper():
        numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(0, 1), obs=0.0)

    with pytest.raises(ValueError, match="reference="):
        run(AnnealedQDE(improper, num_particles=16), samples=10)


@pytest.mark.slow
def test_half_of_the_particles_without_density_do_no_harm(run):
    def half(x):
        return jnp.where(x[0] > 0, 0.5 * jnp.sum(x**2), jnp.inf)

    mcmc = run(
        AnnealedQDE(potential_fn=half, reference=2.0, num_particles=64),
        samples=1500,
        init_params=jnp.ones((4, 1)),
    )
    value, error = log_evidence(mcmc)
    assert error < 0.05
    assert abs(value - 0.5 * np.log(np.pi / 2)) < 4 * error


@pytest.mark.slow
def test_lowering_d_ends_in_the_same_posterior(run, assert_expectation):
    kernel = AnnealedQDE(potential_fn=double_well, reference=3.0, num_particles=128, path="diffusion")
    mcmc = run(kernel, warmup=200, samples=2000, init_params={"x": jnp.ones((4, 2))})
    left = np.asarray(mcmc.get_samples(group_by_chain=True)["x"][..., 0] < 0, float)
    assert left.shape == (4, 2000)
    assert_expectation(left, DOUBLE_WELL_LEFT, standard_errors=4)
    value, error = log_evidence(mcmc)
    assert error < 0.15
    assert abs(value - DOUBLE_WELL_LOG_Z) < 4 * error


@pytest.mark.slow
def test_what_one_population_lost_is_in_the_reference_of_all(run):
    """Eight wells side by side: small populations lose some, all of them together hardly any."""

    def wells(x):
        return jnp.sum(x**4 - 6 * x**2 - x / 2)

    kernel = AnnealedQDE(potential_fn=wells, reference=3.0, num_particles=64)
    mcmc = run(kernel, warmup=200, samples=1500, init_params=jnp.ones((4, 8)))
    assert set(ladder_of(mcmc).kind) == {KINDS["product"]}
    value, error = log_evidence(mcmc)
    truth = 8 * (DOUBLE_WELL_LOG_Z - 0.5 * np.log(2 * np.pi))
    assert error < 0.2
    assert abs(value - truth) < 4 * error
