"""QDE as a block of NumPyro's Gibbs: the hooks, the start, the evaluation counts, and exact answers."""

import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import DiscreteGibbs, Gibbs
from numpyro.infer.gibbs import conditioned
from numpyro.infer.util import log_density

from qdesampler.infer.qde.kernel import QDE

FAST = {"dense_mass": False, "trajectory_length": 1.7, "solve": False}


def mixture(y):
    """One label and one location: the posterior follows by enumeration and conjugacy."""
    label = numpyro.sample("label", dist.Categorical(jnp.array([0.3, 0.7])))
    x = numpyro.sample("x", dist.Normal(jnp.array([-1.0, 1.0])[label], 1.0))
    numpyro.sample("obs", dist.Normal(x, 1.0), obs=y)


def exact_mixture(y):
    """Probability of label 1 and mean of x: `y | label ~ Normal(loc, sqrt 2)`, x halfway from loc to y."""
    loc, weight = np.array([-1.0, 1.0]), np.array([0.3, 0.7])
    weight = weight * np.exp(-((y - loc) ** 2) / 4)
    weight = weight / weight.sum()
    return weight[1], weight @ ((loc + y) / 2)


@pytest.mark.parametrize(
    ("chains", "method", "jit_model_args"),
    [
        (1, "sequential", True),
        pytest.param(1, "sequential", False, marks=pytest.mark.slow),
        pytest.param(4, jax.vmap, True, marks=pytest.mark.slow),
    ],
)
def test_discrete_block_and_qde_block_reach_the_exact_mixture(
    run, assert_expectation, chains, method, jit_model_args
):
    kernel = Gibbs([(DiscreteGibbs(mixture), ["label"]), (QDE(mixture, **FAST), None)])
    for y in (0.4, -0.8) if jit_model_args else (0.4,):
        mcmc = run(
            kernel,
            y,
            warmup=100,
            samples=2000 // chains,
            chains=chains,
            method=method,
            jit_model_args=jit_model_args,
            extra_fields=("block_states.1.num_evals", "block_states.1.adapt_state.step_size"),
        )
        samples, fields = mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields(group_by_chain=True)
        label, x = exact_mixture(y)
        assert_expectation(samples["label"], label)
        assert_expectation(samples["x"], x)
        step_size = fields["block_states.1.adapt_state.step_size"]
        assert np.all(step_size == step_size[:, :1])


def correlated(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.HalfNormal(1.0))
    c = numpyro.sample("c", dist.Normal(b, 1.0))
    numpyro.deterministic("total", a + b + c)
    numpyro.sample("obs", dist.Normal(a + b + c, 0.7), obs=y)


def exact_correlated(y):
    """Posterior means by quadrature over b; given it `y ~ Normal(2 b, sqrt(2.49))`, a and c are Gaussian."""
    b = np.linspace(0, 8, 4001)
    weight = np.exp(-(b**2) / 2 - (y - 2 * b) ** 2 / (2 * 2.49))
    weight /= weight.sum()
    gain = (y - 2 * b) / 2.49
    return {"a": weight @ gain, "b": weight @ b, "c": weight @ (b + gain)}


@pytest.mark.slow
def test_two_qde_blocks_reach_the_exact_answer_and_restart_from_a_pickle(run, assert_expectation):
    blocks = Gibbs([(QDE(correlated, **FAST), ["b", "a"]), (QDE(correlated, **FAST), None)])
    mcmc = run(blocks, 1.0, warmup=100, samples=700, chains=2, method=jax.vmap)
    samples = mcmc.get_samples(group_by_chain=True)
    total = samples["a"] + samples["b"] + samples["c"]
    np.testing.assert_allclose(samples["total"], total, rtol=1e-4, atol=1e-5)
    for name, mean in exact_correlated(1.0).items():
        assert_expectation(samples[name], mean)
    copied = pickle.loads(pickle.dumps(mcmc))
    for each in (mcmc, copied):
        each.post_warmup_state = each.last_state
        each.run(each.last_state.rng_key, 1.0)
    assert np.array_equal(mcmc.get_samples()["c"], copied.get_samples()["c"])


def test_refresh_recomputes_and_charges_without_moving():
    kernel = QDE(conditioned(correlated), **FAST)
    values = {"c": jnp.array(0.3)}
    state = kernel.init(jax.random.key(0), 10, None, (1.0,), {"_gibbs_sites": values})
    state = kernel.sample(state, (1.0,), {"_gibbs_sites": values})
    assert set(state.z) == {"a", "b"}
    assert state.pending_evals == 0
    assert state.num_evals == state.warmup_evals
    other = {"_gibbs_sites": {"c": jnp.array(-2.0)}}
    fresh = kernel.refresh(state, (1.0,), other)

    def potential(z):
        b = jnp.exp(z["b"])
        sites = {"a": z["a"], "b": b, "c": -2.0}
        return -log_density(correlated, (1.0,), {}, sites)[0] - z["b"]

    energy, gradient = jax.value_and_grad(potential)(state.z)
    assert fresh.z is state.z
    np.testing.assert_allclose(fresh.potential_energy, energy, rtol=1e-5)
    np.testing.assert_allclose(fresh.z_grad["b"], gradient["b"], rtol=1e-4)
    assert np.abs(fresh.potential_energy - state.potential_energy) > 0.1
    assert fresh.pending_evals == 1
    following = kernel.sample(fresh, (1.0,), other)
    assert following.pending_evals == 0
    assert following.warmup_evals == state.warmup_evals + following.num_evals
    unconditioned = kernel.get_constrain_fn((1.0,), other)(state.z)
    np.testing.assert_allclose(unconditioned["b"], jnp.exp(state.z["b"]), rtol=1e-6)


def test_a_block_pays_for_its_refreshes(run):
    fixed = {
        "step_size": 1.2,
        "trajectory_length": 0.01,
        "adapt_step_size": False,
        "adapt_mass_matrix": False,
    }
    kernel = Gibbs([(QDE(correlated, **fixed), ["a"]), (QDE(correlated, **fixed), ["b", "c"])])
    fields = tuple(f"block_states.{i}.num_evals" for i in (0, 1))
    mcmc = run(kernel, 1.0, warmup=0, samples=60, chains=1, extra_fields=fields)
    samples = mcmc.get_samples()
    moved = [np.diff(samples[name]) != 0 for name in ("a", "b")]
    first, second = (np.asarray(mcmc.get_extra_fields()[name])[1:] for name in fields)
    # a trajectory is one step here; a block is refreshed where the other one moved since, and only there
    assert 0 < moved[0].sum() < 59
    assert np.array_equal(second, 1 + moved[0])
    assert np.array_equal(first[1:], 1 + moved[1][:-1])


def test_wrap_model_gives_a_fresh_kernel_and_leaves_the_first_alone():
    kernel = QDE(correlated, **FAST)
    state = kernel.init(jax.random.key(0), 10, None, (1.0,), {})
    wrapped = kernel.wrap_model(conditioned)
    assert wrapped._sample_fn is None
    with pytest.raises(RuntimeError, match="call `init`"):
        wrapped.get_potential_fn((1.0,), {})
    with pytest.raises(RuntimeError, match="call `init`"):
        wrapped.get_constrain_fn((1.0,), {})
    inner = wrapped.init(jax.random.key(0), 10, None, (1.0,), {"_gibbs_sites": {"a": jnp.array(0.0)}})
    assert set(inner.z) == {"b", "c"}
    assert set(kernel.sample(state, (1.0,), {}).z) == {"a", "b", "c"}
    with pytest.raises(ValueError, match="built from a model"):
        QDE(potential_fn=lambda z: z**2).wrap_model(conditioned)


def test_constrain_functions_with_and_without_deterministic_sites():
    kernel = QDE(correlated, **FAST)
    z = kernel.init(jax.random.key(0), 10, None, (1.0,), {}).z
    assert set(kernel.get_constrain_fn((1.0,), {})(z)) == {"a", "b", "c"}
    full = kernel.get_constrain_fn((1.0,), {}, return_deterministic=True)(z)
    np.testing.assert_allclose(full["total"], z["a"] + jnp.exp(z["b"]) + z["c"], rtol=1e-5)


def test_the_start_of_a_block_is_constrained_and_honoured(run):
    kernel = Gibbs([(QDE(correlated, **FAST), ["a", "b"]), (QDE(correlated, **FAST), None)])
    given = {"b": jnp.array(2.5), "c": jnp.array(-0.5)}
    state = kernel.init(jax.random.key(0), 10, given, (1.0,), {})
    np.testing.assert_allclose(state.z["b"], np.log(2.5), rtol=1e-6)
    np.testing.assert_allclose(state.z["c"], -0.5, rtol=1e-6)


def test_a_prior_draw_without_density_gives_way_to_a_valid_start():
    def model():
        numpyro.sample("b", dist.Normal(0.0, 1.0))
        x = numpyro.sample("x", dist.Normal(0.0, 100.0))
        numpyro.factor("only near zero", jnp.where(jnp.abs(x) < 2.5, 0.0, -jnp.inf))

    kernel = Gibbs([(QDE(model, **FAST), ["x"]), (QDE(model, **FAST), None)])
    with pytest.warns(UserWarning, match=r"start of the sites \['x'\] has no finite density"):
        state = kernel.init(jax.random.key(1), 10, None, (), {})
    assert np.abs(state.z["x"]) < 2.5
    assert np.isfinite(state.block_states[0].potential_energy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        states = jax.vmap(lambda key: kernel.init(key, 10, None, (), {}))(
            jax.random.split(jax.random.key(1), 3)
        )
    assert np.all(np.abs(states.z["x"]) < 2.5)


def test_supports_inside_a_block_may_move_but_not_between_blocks(run, assert_expectation):
    def model():
        numpyro.sample("label", dist.Bernoulli(0.5))
        low = numpyro.sample("low", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Uniform(low, low + 1.0))

    inside = Gibbs([(DiscreteGibbs(model), ["label"]), (QDE(model, **FAST), None)])
    samples = run(inside, warmup=100, samples=500, chains=1).get_samples(group_by_chain=True)
    assert np.all((samples["x"] >= samples["low"]) & (samples["x"] <= samples["low"] + 1))
    assert_expectation(samples["x"] - samples["low"], 0.5)
    between = Gibbs([(DiscreteGibbs(model), ["label"]), (QDE(model), ["low"]), (QDE(model), ["x"])])
    with pytest.raises(ValueError, match="depends on a site of another block"):
        between.init(jax.random.key(0), 10, None, (), {})


def test_discrete_sites_left_to_a_qde_block_are_refused():
    kernel = Gibbs([(QDE(mixture), None)])
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match=r"cannot move the sites \['label'\]"):
        kernel.init(jax.random.key(0), 10, None, (0.4,), {})


def test_a_block_may_own_nothing(run):
    def model():
        numpyro.sample("label", dist.Bernoulli(0.25))

    kernel = Gibbs([(DiscreteGibbs(model), ["label"]), (QDE(model), None)])
    draws = run(kernel, warmup=10, samples=400, chains=1).get_samples()["label"]
    assert abs(draws.mean() - 0.25) < 0.1
