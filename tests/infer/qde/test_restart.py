"""Stopping and continuing: separate warm-up and run, restarts, pickles; the adaptation stays frozen."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

from qdesampler.infer.qde.kernel import QDE


def model(data=None):
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.sample("obs", dist.Normal(loc, scale).expand([3]).to_event(1), obs=data)


DATA = np.array([0.5, 1.0, 3.0], dtype=np.float32)


def potential(z):
    return 0.5 * jnp.sum(z["a"] ** 2) + 0.5 * (z["b"] - 1) ** 2


def assert_equal_trees(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), first, second)


def without_key(state):
    return state._replace(rng_key=jax.random.key_data(state.rng_key))


@pytest.mark.parametrize(
    ("chains", "method"), [pytest.param(1, "sequential", marks=pytest.mark.slow), (2, "vectorized")]
)
def test_a_restart_goes_on_bitwise_as_one_longer_run(chains, method):
    def mcmc(samples):
        return MCMC(
            QDE(model, dense_mass=False, solve=False),
            num_warmup=25,
            num_samples=samples,
            num_chains=chains,
            chain_method=method,
            progress_bar=False,
        )

    long, parts = mcmc(20), mcmc(10)
    long.run(jax.random.key(0), DATA)
    parts.warmup(jax.random.key(0), DATA)
    draws = []
    for _ in range(2):
        parts.run(parts.post_warmup_state.rng_key, DATA)
        draws.append(parts.get_samples(group_by_chain=True))
        parts.post_warmup_state = parts.last_state
    joined = jax.tree.map(lambda *each: jnp.concatenate(each, axis=1), *draws)
    assert_equal_trees(joined, long.get_samples(group_by_chain=True))
    assert_equal_trees(without_key(parts.last_state), without_key(long.last_state))


@pytest.mark.parametrize("source", ["model", pytest.param("potential_fn", marks=pytest.mark.slow)])
def test_a_pickled_run_goes_on_bitwise(run, source):
    if source == "model":
        kernel, args, init_params = QDE(model, dense_mass=False, solve=False), (DATA,), None
    else:
        kernel = QDE(potential_fn=potential, dense_mass=False, solve=False)
        args, init_params = (), {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
    mcmc = run(kernel, *args, driver=MCMC, warmup=25, samples=5, chains=2, init_params=init_params)
    copied = pickle.loads(pickle.dumps(mcmc))
    assert_equal_trees(mcmc.get_samples(), copied.get_samples())
    fresh = MCMC(
        pickle.loads(pickle.dumps(kernel)),
        num_warmup=25,
        num_samples=5,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    fresh.post_warmup_state = copied.last_state
    for each in (mcmc, copied):
        each.post_warmup_state = each.last_state
    for each in (mcmc, copied, fresh):
        each.run(each.post_warmup_state.rng_key, *args)
    assert_equal_trees(mcmc.get_samples(), copied.get_samples())
    assert_equal_trees(mcmc.get_samples(), fresh.get_samples())


def test_warmup_can_be_collected(run):
    mcmc = MCMC(QDE(model, dense_mass=False, solve=False), num_warmup=25, num_samples=10, progress_bar=False)
    mcmc.warmup(jax.random.key(0), DATA, collect_warmup=True, extra_fields=("i", "warmup_evals"))
    fields = mcmc.get_extra_fields()
    assert fields["i"].tolist() == list(range(1, 26))
    assert fields["warmup_evals"].tolist() == np.cumsum(fields["num_evals"]).tolist()
    # all is adapted before the first iteration
    assert len(np.unique(fields["adapt_state.step_size"])) == 1
    spent = mcmc.post_warmup_state.warmup_evals
    mcmc.run(jax.random.key(1), DATA)
    assert mcmc.last_state.warmup_evals == spent
    assert mcmc.last_state.i == 35


@pytest.mark.parametrize(
    ("chains", "method", "dense_mass"),
    [
        pytest.param(1, "sequential", False, marks=pytest.mark.slow),
        (3, "vectorized", None),
        pytest.param(2, jax.vmap, False, marks=pytest.mark.slow),
    ],
)
def test_kept_draws_are_never_adapted(run, chains, method, dense_mass):
    kernel = QDE(model, dense_mass=dense_mass)
    mcmc = MCMC(
        kernel,
        num_warmup=70,
        num_samples=25,
        num_chains=chains,
        chain_method=method,
        progress_bar=False,
    )
    mcmc.warmup(jax.random.key(0), DATA)
    before = mcmc.post_warmup_state.adapt_state
    mcmc.run(jax.random.key(1), DATA, extra_fields=("adapt_state.trajectory_length",))
    assert_equal_trees(before, mcmc.last_state.adapt_state)
    for name in ("adapt_state.step_size", "adapt_state.trajectory_length"):
        kept = mcmc.get_extra_fields(group_by_chain=True)[name]
        assert np.all(kept == kept[:, :1])
    # and the warm-up did adapt
    start = kernel.init(jax.random.key(0), 0, None, (DATA,), {}).adapt_state.shared
    assert np.all(before.shared.step_size != start.step_size)
    assert np.all(before.shared.metric.scale != start.metric.scale)


@pytest.mark.slow
def test_one_kernel_in_two_runs_of_different_warmup(run):
    # what is adapted travels in the state
    kernel = QDE(potential_fn=potential, dense_mass=False, solve=False)
    start = {"a": jnp.zeros(3), "b": jnp.zeros(())}
    short = run(kernel, warmup=30, samples=10, chains=1, init_params=start)
    frozen = short.last_state.adapt_state
    long = run(kernel, warmup=200, samples=10, chains=1, init_params=start)
    short.post_warmup_state = short.last_state
    short.run(jax.random.key(1), init_params=start)
    assert_equal_trees(frozen, short.last_state.adapt_state)
    assert len(np.unique(short.get_extra_fields()["adapt_state.step_size"])) == 1
    assert len(np.unique(long.get_extra_fields()["adapt_state.step_size"])) == 1


def test_no_warmup_at_all_leaves_everything_as_given(run):
    kernel = QDE(potential_fn=potential, step_size=0.4, dense_mass=False, solve=False)
    mcmc = run(
        kernel, warmup=0, samples=20, chains=2, init_params={"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
    )
    assert np.all(mcmc.get_extra_fields()["adapt_state.step_size"] == np.float32(0.4))
    assert np.all(mcmc.last_state.warmup_evals == 0)
    assert np.all(mcmc.last_state.adapt_state.shared.metric.scale == 1)
