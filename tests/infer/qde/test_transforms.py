"""Under `jit`, `vmap` and in both precisions: stable types, nothing traced or computed left on the kernel."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.core import Tracer
from numpyro.infer import MCMC

from qdesampler.infer.qde.kernel import QDE


def model(y=None):
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("ratio", loc / scale)
    numpyro.sample("obs", dist.Normal(loc, scale), obs=y)


def bounded(y):
    """A bound that is traced whenever the data are."""
    x = numpyro.sample("x", dist.Uniform(jnp.min(y), jnp.max(y)))
    numpyro.sample("obs", dist.Normal(x, 1.0).expand(y.shape).to_event(1), obs=y)


def draws(kernel, key, *args, **options):
    mcmc = MCMC(kernel, num_warmup=30, num_samples=20, progress_bar=False, **options)
    mcmc.run(key, *args)
    return mcmc.get_samples(group_by_chain=True)["loc"], mcmc.get_extra_fields(group_by_chain=True)


def test_whole_run_inside_jit_with_traced_settings():
    @jax.jit
    def run(key, y, step_size, target_accept_prob, trajectory_length):
        kernel = QDE(
            model,
            step_size=step_size,
            target_accept_prob=target_accept_prob,
            trajectory_length=trajectory_length,
            dense_mass=False,
            solve=False,
        )
        return draws(kernel, key, y, num_chains=2, chain_method="vectorized")

    # the density has a spike at scale 0, where an ordinary target lets trajectories diverge
    key, settings = jax.random.key(0), (0.3, 0.97, 1.1)
    inside, fields = run(key, 1.0, *settings)
    assert np.all(np.isfinite(inside))
    assert not np.any(fields["diverging"])
    other, _ = run(key, 1.0, 0.3, 0.97, 2.2)
    assert not np.array_equal(inside, other)


def test_whole_runs_inside_vmap_are_the_runs_of_their_data():
    def run(key, y):
        return draws(QDE(model, dense_mass=False, trajectory_length=1.7, solve=False), key, y)[0]

    key, data = jax.random.key(1), jnp.array([-3.0, 3.0])
    both = jax.vmap(run, in_axes=(None, 0))(key, data)
    assert both.shape == (2, 1, 20)
    assert both[0].mean() < 0 < both[1].mean()


def reachable(root):
    """Every object that can be reached from an object, without going through modules and globals."""
    seen, todo = {}, [root]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type) or type(item).__name__ == "module":
            continue
        seen[id(item)] = item
        todo += [x for x in gc.get_referents(item) if not (isinstance(x, dict) and "__builtins__" in x)]
    return list(seen.values())


@pytest.mark.parametrize(
    ("target", "transform"),
    [
        (model, jax.vmap),
        (bounded, jax.jit),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((model, jax.jit), (bounded, jax.vmap))),
    ],
)
def test_nothing_computed_stays_on_the_kernel(target, transform):
    kernel = QDE(target, dense_mass=False)
    keys, y = jax.random.split(jax.random.key(0), 2), jnp.array([[1.0, 2.0], [3.0, 5.0]])

    def first_draw(key, y):
        state = kernel.sample(kernel.init(key, 10, None, (y,), {}), (y,), {})
        return kernel.postprocess_fn((y,), {})(state.z)

    if transform is jax.jit:
        with jax.checking_leaks():
            transform(first_draw)(keys[0], y[0])
    else:
        transform(first_draw)(keys, y)
    held = [item for item in reachable(kernel) if isinstance(item, (Tracer, jax.Array))]
    assert held == []


@pytest.mark.parametrize("precision", ["x32", "x64"])
@pytest.mark.parametrize("chains", [1, 2])
def test_state_has_one_type_for_all_iterations(request, precision, chains):
    if precision == "x64":
        request.getfixturevalue("x64")
    kernel = QDE(
        model, init_strategy=numpyro.infer.init_to_value(values={"loc": 0.5, "scale": np.float32(1)})
    )
    key = jax.random.key(0) if chains == 1 else jax.random.split(jax.random.key(0), chains)
    state = kernel.init(key, 80, None, (1.0,), {})

    def types(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, getattr(x, "weak_type", False)), tree)

    following = jax.eval_shape(lambda s: kernel.sample(s, (1.0,), {}), state)
    assert types(jax.tree.map(jax.typeof, state)) == types(following)
    refreshed = jax.eval_shape(lambda s: kernel.refresh(s, (1.0,), {}), state)
    assert types(jax.tree.map(jax.typeof, state)) == types(refreshed)
    size = 8 if precision == "x64" else 4
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert all(leaf.dtype.itemsize == size for leaf in floats)
    assert not any(jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(state))
    if chains == 2:
        leaves = jax.tree.leaves(state._replace(adapt_state=state.adapt_state._replace(shared=())))
        assert {leaf.shape[0] for leaf in leaves} == {chains}


def test_one_compilation_serves_every_iteration():
    kernel = QDE(model, dense_mass=False)
    step = jax.jit(lambda state: kernel.sample(state, (1.0,), {}))
    state = kernel.init(jax.random.key(0), 3, None, (1.0,), {})
    for _ in range(6):
        state = step(state)
    assert step._cache_size() == 1
    assert state.i == 6


@pytest.mark.parametrize("given", [np.float32, pytest.param(np.int32, marks=pytest.mark.slow)])
def test_double_precision_throughout_whatever_the_start(x64, run, assert_expectation, given):
    data = np.array([1.5, 2.5], dtype=np.float32)

    def potential(z):
        return (0.5 * jnp.sum((z["x"] - data) ** 2)).astype(jnp.float32)

    start = {"x": np.zeros((4, 2), dtype=given)}
    kernel = QDE(potential_fn=potential, dense_mass=False, trajectory_length=1.7, solve=False)
    mcmc = run(kernel, warmup=50, samples=50, init_params=start)
    assert all(value.dtype == np.float64 for value in jax.tree.leaves(mcmc.get_samples()))
    fields = mcmc.get_extra_fields()
    assert fields["energy"].dtype == fields["potential_energy"].dtype == np.float64
    assert fields["num_evals"].dtype == np.int64
    assert_expectation(mcmc.get_samples(group_by_chain=True)["x"], data, min_ess=40)
