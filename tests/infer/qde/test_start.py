"""Where chains begin: strategies, given starts, any pytree; bad starts are refused or flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import (
    MCMC,
    init_to_feasible,
    init_to_mean,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
)
from numpyro.infer.util import ParamInfo

from qdesampler.infer.qde.kernel import QDE

FAST = {"dense_mass": False, "trajectory_length": 1.7, "solve": False}


def model():
    numpyro.sample("a", dist.Gamma(4.0, 2.0))
    numpyro.sample("b", dist.Normal(3.0, 0.1).expand([2]).to_event(1))


def energy_of_model(z):
    a = jnp.exp(z["a"])
    log_p = dist.Gamma(4.0, 2.0).log_prob(a) + z["a"] + dist.Normal(3.0, 0.1).log_prob(z["b"]).sum()
    return -log_p


STRATEGIES = {
    "uniform": (init_to_uniform, lambda a, b: np.all(np.abs([np.log(a), *b]) < 2)),
    "near": (init_to_uniform(radius=0.01), lambda a, b: np.all(np.abs([np.log(a), *b]) < 0.01)),
    "feasible": (init_to_feasible, lambda a, b: a == 1 and np.all(b == 0)),
    "sample": (init_to_sample, lambda a, b: np.all(np.abs(b - 3) < 0.5)),
    "median": (init_to_median, lambda a, b: np.all(np.abs(b - 3) < 0.2)),
    "mean": (init_to_mean, lambda a, b: abs(a - 2) < 1e-5 and np.allclose(b, 3)),
    "value": (init_to_value(values={"a": 0.25}), lambda a, b: abs(a - 0.25) < 1e-6),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_choose_the_start_and_its_energy_is_known(name):
    strategy, holds = STRATEGIES[name]
    kernel = QDE(model, init_strategy=strategy)
    one, two = jax.random.key(0), jax.random.split(jax.random.key(0), 2)
    for key in (one, two) if name in ("uniform", "sample", "value") else (one,):
        state = kernel.init(key, 0, None, (), {})
        rows = [state.z] if key.shape == () else [jax.tree.map(lambda x, i=i: x[i], state.z) for i in (0, 1)]
        for z, energy in zip(rows, np.ravel(state.potential_energy), strict=True):
            assert holds(np.exp(z["a"]), np.asarray(z["b"]))
            np.testing.assert_allclose(energy, energy_of_model(z), rtol=1e-5)
        if len(rows) == 2 and name != "value":
            assert rows[0]["a"] != rows[1]["a"]


@pytest.mark.parametrize("chains", [1, 2])
def test_given_unconstrained_starts_are_honoured_and_left_alone(run, chains):
    shape = () if chains == 1 else (chains,)
    given = {"a": np.full(shape, -1.5), "b": np.full((*shape, 2), 2.75)}
    before = jax.tree.map(np.copy, given)
    fixed = {
        "step_size": 1e-6,
        "adapt_step_size": False,
        "adapt_mass_matrix": False,
        "trajectory_length": 1e-6,
    }
    for start in (given, ParamInfo(given, None, None)):
        mcmc = run(QDE(model, **fixed), warmup=0, samples=2, chains=chains, init_params=start)
        samples = mcmc.get_samples()
        np.testing.assert_allclose(samples["a"], np.exp(-1.5), rtol=1e-3)
        np.testing.assert_allclose(samples["b"], 2.75, rtol=1e-3)
    assert all(np.array_equal(before[name], given[name]) for name in given)


TREES = {
    "dict": ({"b": jnp.zeros(2), "a": jnp.zeros(())}, {"b": jnp.array([1.0, 2.0]), "a": jnp.array(3.0)}),
    "list": ([jnp.zeros(2), jnp.zeros(())], [jnp.array([1.0, 2.0]), jnp.array(3.0)]),
    "array": (jnp.zeros((2, 2)), jnp.array([[1.0, 2.0], [3.0, 4.0]])),
    "scalar": (jnp.zeros(()), jnp.array(3.0)),
    "nested": ({"x": (jnp.zeros(1), {"y": jnp.zeros(())})}, {"x": (jnp.array([1.0]), {"y": jnp.array(3.0)})}),
}


@pytest.mark.parametrize(
    ("tree", "forward"),
    [
        ("scalar", False),
        ("nested", True),
        *(pytest.param(tree, False, marks=pytest.mark.slow) for tree in TREES if tree != "scalar"),
        pytest.param("scalar", True, marks=pytest.mark.slow),
    ],
)
def test_a_potential_over_any_pytree(run, assert_expectation, tree, forward):
    start, centre = TREES[tree]

    def potential(z):
        squares = jax.tree.map(lambda x, c: 0.5 * jnp.sum((x - c) ** 2), z, centre)
        return sum(jax.tree.leaves(squares))

    kernel = QDE(potential_fn=potential, forward_mode_differentiation=forward, **FAST)
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (4, *x.shape)), start)
    samples = run(kernel, warmup=100, samples=100, init_params=many).get_samples(group_by_chain=True)
    assert jax.tree.structure(samples) == jax.tree.structure(start)
    jax.tree.map(lambda x, c: assert_expectation(x, np.asarray(c)), samples, centre)
    if tree == "nested" and not forward:
        one = run(kernel, warmup=100, samples=20, chains=1, init_params=start).get_samples()
        assert jax.tree.map(jnp.shape, one) == {"x": ((20, 1), {"y": (20,)})}


def test_forward_mode_takes_loops_that_reverse_mode_cannot(run, assert_expectation):
    def looped():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        y = jax.lax.while_loop(lambda pair: pair[0] < 3, lambda pair: (pair[0] + 1, pair[1] + x), (0, 0.0))[1]
        numpyro.sample("obs", dist.Normal(y, 1.0), obs=10.0)

    samples = run(QDE(looped, forward_mode_differentiation=True, **FAST), samples=100)
    assert_expectation(samples.get_samples(group_by_chain=True)["x"], 3.0)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        QDE(looped).init(jax.random.key(0), 10, None, (), {})


WRONG = {
    "missing": (1, None, "must be provided"),
    "chain axis": (2, jnp.zeros((3, 2)), "same leading dimension|leading axis of 2"),
    "no chain axis": (
        2,
        {"a": jnp.zeros(2), "b": jnp.zeros(())},
        r"\['b'\] has shape \(\); expected a leading",
    ),
    "outside": (1, jnp.full(2, jnp.nan), "not finite at `init_params` of the start"),
    "one outside": (2, jnp.array([[0.0, 0.0], [jnp.inf, 0.0]]), r"of chains \[1\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_starts_of_a_potential_are_refused(run, case):
    chains, start, message = WRONG[case]

    def potential(z):
        return 0.5 * sum(jnp.sum(x**2) for x in jax.tree.leaves(z))

    with pytest.raises(ValueError, match=message):
        run(QDE(potential_fn=potential), driver=MCMC, warmup=0, samples=1, chains=chains, init_params=start)


WRONG_SITES = {
    "missing": ({"a": 0.0}, r"missing \['b'\]"),
    "unknown": ({"a": 0.0, "b": [0.0, 0.0], "c": 1.0}, r"unknown \['c'\]"),
    "shape": ({"a": 0.0, "b": [0.0, 0.0, 0.0]}, r"\['b'\] has shape \(3,\); expected \(2,\)"),
    "structure": ([0.0, [0.0, 0.0]], "has structure"),
}


@pytest.mark.parametrize("case", WRONG_SITES)
def test_wrong_sites_of_a_start_are_refused(case):
    start, message = WRONG_SITES[case]
    start = jax.tree.map(jnp.asarray, start, is_leaf=lambda x: isinstance(x, list) and case != "structure")
    with pytest.raises(ValueError, match=message):
        QDE(model).init(jax.random.key(0), 10, start, (), {})


def test_a_model_without_any_valid_start_gives_numpyros_error():
    def impossible():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("never", jnp.where(x < 1e6, -jnp.inf, 0.0))

    with pytest.raises(RuntimeError, match="Cannot find valid initial parameters"):
        QDE(impossible).init(jax.random.key(0), 10, None, (), {})


def half_line(z):
    return jnp.where(z > 0, 0.5 * (z - 3) ** 2, jnp.nan)


def test_under_jit_a_start_without_density_is_flagged_and_left(run):
    @jax.jit
    def draws(start):
        mcmc = run(
            QDE(potential_fn=half_line, **FAST),
            driver=MCMC,
            warmup=60,
            samples=40,
            chains=2,
            init_params=start,
        )
        return mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields(group_by_chain=True)

    samples, fields = draws(jnp.array([-0.1, 2.0]))
    assert np.all(np.isfinite(samples))
    outside = np.asarray(samples) <= 0
    assert np.array_equal(np.asarray(fields["diverging"])[outside], np.ones(outside.sum(), bool))
    assert not outside[:, -1].any()
    assert np.all(np.isfinite(fields["energy"][~outside]))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_nan_everywhere_is_said_before_a_warmup(transform):
    kernel = QDE(potential_fn=lambda z: jnp.nan * z, step_size=0.1, **FAST)
    with pytest.raises((RuntimeError, ValueError), match="not finite"):
        transform(lambda z: kernel.init(jax.random.key(0), 2, z).z)(jnp.array(0.5))


def test_nan_everywhere_is_flagged_in_every_draw_of_a_run_without_warmup():
    kernel = QDE(potential_fn=lambda z: jnp.nan * z, step_size=0.1, **FAST)

    @jax.jit
    def two_draws(z):
        state = kernel.init(jax.random.key(0), 0, z)
        first = kernel.sample(state, (), {})
        return state, first, kernel.sample(first, (), {})

    for state in two_draws(jnp.array(0.5)):
        assert state.z == 0.5
        assert state.diverging
        assert state.potential_energy == jnp.inf
        assert np.isfinite(state.adapt_state.step_size)
    assert state.accept_prob == 0


def test_nan_regions_are_never_entered(run, assert_expectation):
    kernel = QDE(potential_fn=half_line, **FAST)
    samples = run(kernel, samples=500, init_params=jnp.full(4, 2.0)).get_samples(group_by_chain=True)
    assert np.all(samples > 0)
    edge = np.exp(-4.5) / np.sqrt(2 * np.pi) / 0.9986501
    assert_expectation(samples, 3 + edge)
