"""NUTS's keyword arguments, with NUTS's meaning: metric, step size, length, depth, dynamics."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import NUTS

from qdesampler.infer.qde.kernel import QDE
from qdesampler.numerics.metric import dense_matrix

COVARIANCE = np.array([[4.0, 0.9, 0.0], [0.9, 0.25, 0.0], [0.0, 0.0, 9.0]])


def model():
    numpyro.sample("pair", dist.MultivariateNormal(jnp.zeros(2), jnp.asarray(COVARIANCE[:2, :2])))
    numpyro.sample("alone", dist.Normal(0.0, 3.0))


def potential(z):
    return 0.5 * z @ jnp.linalg.inv(jnp.asarray(COVARIANCE)) @ z


def metric_of(state):
    return np.asarray(dense_matrix(state.adapt_state.shared.metric))


def test_every_argument_of_nuts_is_taken_in_its_place():
    ours, nuts = (inspect.signature(kernel.__init__).parameters for kernel in (QDE, NUTS))
    assert list(nuts) == list(ours)[: len(nuts)]
    defaults = {name: p.default for name, p in nuts.items()}
    differing = {name for name in nuts if name != "self" and ours[name].default != defaults[name]}
    # the shape of the metric is chosen by a test; acceptance of end points is not that of a whole path
    assert differing == {"dense_mass", "target_accept_prob"}


@pytest.mark.parametrize("method", [pytest.param("sequential", marks=pytest.mark.slow), "vectorized"])
def test_a_given_metric_is_the_metric_of_every_draw(run, assert_expectation, method):
    # ravelled order is alphabetic: alone, pair
    order = [2, 0, 1]
    blocks = {("alone",): np.array([9.0]), ("pair",): COVARIANCE[:2, :2]}
    dense = COVARIANCE[np.ix_(order, order)]
    cases = [
        (dense, None, dense),
        (blocks, None, dense),
        (dense, [("pair",)], dense),
        (np.array([9.0, 4.0, 0.25]), False, np.diag([9.0, 4.0, 0.25])),
    ]
    for given, dense_mass, expected in cases if method == "vectorized" else cases[1:2]:
        kernel = QDE(
            model,
            inverse_mass_matrix=given,
            adapt_mass_matrix=False,
            dense_mass=dense_mass,
            trajectory_length=1.7,
        )
        mcmc = run(kernel, warmup=40, samples=60, chains=2, method=method)
        metric = mcmc.last_state.adapt_state.shared.metric
        if method == "sequential":
            metric = jax.tree.map(lambda leaf: leaf[0], metric)
        np.testing.assert_allclose(dense_matrix(metric), expected, rtol=1e-4, atol=1e-5)
        if expected is dense:
            # the whitened target is round: a step of about one is stable and accepted
            assert mcmc.last_state.adapt_state.step_size.min() > 0.5


def test_a_given_metric_is_exact_beyond_the_dense_default():
    dim = 140
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))
    covariance = rotation @ np.diag(np.geomspace(0.1, 10, dim)) @ rotation.T
    kernel = QDE(potential_fn=lambda z: 0.5 * z @ z, inverse_mass_matrix=covariance)
    state = kernel.init(jax.random.key(0), 10, jnp.zeros(dim))
    np.testing.assert_allclose(metric_of(state), covariance, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("dense_mass", "zeros", "close"),
    [
        (False, [(0, 1), (0, 2), (1, 2)], False),
        ([("pair",)], [(0, 1), (0, 2)], True),
        pytest.param(True, [], True, marks=pytest.mark.slow),
        (None, [], True),
    ],
)
def test_dense_mass_shapes_the_adapted_metric(run, dense_mass, zeros, close):
    mcmc = run(QDE(model, dense_mass=dense_mass), warmup=250, samples=5, chains=2)
    metric = metric_of(mcmc.last_state)
    assert all(abs(metric[i, j]) < 1e-6 for i, j in zeros)
    if close:
        correlation = metric[1, 2] / np.sqrt(metric[1, 1] * metric[2, 2])
        assert abs(correlation - 0.9) < 0.02
    np.testing.assert_allclose(metric[0, 0], 9.0, rtol=0.3)


def test_step_size_length_and_depth_stay_as_given(run):
    fixed = {"step_size": 0.25, "adapt_step_size": False, "adapt_mass_matrix": False}
    start = jnp.zeros(3)

    def draws(**options):
        return run(
            QDE(potential_fn=potential, **fixed, **options),
            warmup=20,
            samples=80,
            chains=1,
            init_params=start,
            extra_fields=("adapt_state.trajectory_length",),
        ).get_extra_fields()

    fields = draws(trajectory_length=2.0)
    assert np.all(fields["adapt_state.step_size"] == 0.25)
    assert np.all(fields["adapt_state.trajectory_length"] == 2.0)
    # lengths are uniform within 40% of the mean: 8 steps, 4.8 to 11.2
    assert {4, 5} & set(np.unique(fields["num_evals"]).tolist())
    assert fields["num_evals"].min() >= 4
    assert fields["num_evals"].max() <= 12
    assert abs(fields["num_evals"].mean() - 8) < 1
    assert draws(trajectory_length=2.0, max_tree_depth=2)["num_evals"].max() == 3
    assert draws(trajectory_length=2.0, max_tree_depth=(10, 3))["num_evals"].max() == 7


def test_depth_of_the_warmup_is_its_own(run):
    kernel = QDE(
        potential_fn=potential,
        step_size=0.1,
        trajectory_length=50.0,
        adapt_step_size=False,
        adapt_mass_matrix=False,
        max_tree_depth=(2, 4),
    )
    mcmc = run(kernel, warmup=20, samples=10, chains=1, init_params=jnp.zeros(3))
    assert mcmc.last_state.warmup_evals == 20 * 3 + 1
    assert np.all(mcmc.get_extra_fields()["num_evals"] == 15)


@pytest.mark.parametrize(("target", "lowest", "highest"), [(0.6, 0.5, 0.8), (0.95, 0.9, 0.98)])
def test_acceptance_follows_its_target(run, target, lowest, highest):
    kernel = QDE(
        potential_fn=lambda z: 0.5 * jnp.sum(z**2) + 0.25 * jnp.sum(z**4),
        target_accept_prob=target,
        trajectory_length=1.5,
        dense_mass=False,
        solve=False,  # a solved trial makes global moves, whose acceptance follows nothing
    )
    mcmc = run(kernel, warmup=400, samples=300, init_params=jnp.zeros((4, 20)))
    assert lowest < mcmc.get_extra_fields()["accept_prob"].mean() < highest


@pytest.mark.parametrize("first", [1e-4, 100.0])
def test_the_heuristic_finds_the_scale_of_the_step(run, first):
    kernel = QDE(
        potential_fn=potential,
        step_size=first,
        find_heuristic_step_size=True,
        adapt_mass_matrix=False,
        trajectory_length=1.0,
        max_tree_depth=4,
    )
    mcmc = run(kernel, warmup=30, samples=5, init_params=jnp.zeros((4, 3)))
    # the narrowest direction of the covariance has a standard deviation of 0.21
    assert 0.05 < mcmc.last_state.adapt_state.step_size[0] < 1


@pytest.mark.parametrize(
    ("dynamics", "integrator"),
    [
        ("isokinetic", "leapfrog"),
        ("canonical", "mn2"),
        pytest.param("isokinetic", "mn2", marks=pytest.mark.slow),
    ],
)
def test_other_dynamics_and_integrators_sample_the_same_law(run, assert_expectation, dynamics, integrator):
    kernel = QDE(model, dynamics=dynamics, integrator=integrator, dense_mass=False, solve=False)
    mcmc = run(kernel, warmup=250, samples=500)
    samples = mcmc.get_samples(group_by_chain=True)
    for i in (0, 1):
        assert_expectation(samples["pair"][..., i] ** 2, COVARIANCE[i, i])
    assert_expectation(samples["alone"] ** 2, 9.0)
    assert_expectation(samples["pair"].prod(-1), 0.9)
    evals = np.asarray(mcmc.get_extra_fields()["num_evals"])
    assert np.all(evals % (2 if integrator == "mn2" else 1) == 0)


def test_regularisation_floors_the_metric_of_few_draws():
    metrics = []
    for regularize in (True, False):
        kernel = QDE(
            potential_fn=lambda z: 0.5 * z @ z,
            dense_mass=True,
            regularize_mass_matrix=regularize,
            solve=False,
        )
        # 20 iterations of four chains (the window) are fewer than twice 60 dimensions
        metrics.append(metric_of(kernel.init(jax.random.key(0), 24, jnp.ones(60))))
    assert not np.array_equal(*metrics)
    assert all(np.all(np.linalg.eigvalsh(metric) > 0) for metric in metrics)
