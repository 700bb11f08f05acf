"""What NumPyro's MCMC asks of a kernel: every way to run chains, the fields of the state, keys, thinning."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

from qdesampler.infer.qde.kernel import QDE

CHAINS, DRAWS = 2, 12
FIELDS = {"diverging", "energy", "potential_energy", "accept_prob", "num_evals", "adapt_state.step_size"}


def model():
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("rows", 3):
        x = numpyro.sample("x", dist.Normal(loc, scale))
    numpyro.deterministic("total", x.sum())


def kernel():
    return QDE(model, dense_mass=False, solve=False)


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


@pytest.mark.parametrize(
    "method", [pytest.param("sequential", marks=pytest.mark.slow), "vectorized", jax.vmap]
)
def test_every_chain_method_fills_samples_and_fields(run, method):
    mcmc = run(
        kernel(), warmup=60, samples=DRAWS, chains=CHAINS, method=method, extra_fields=("z.scale", "i")
    )
    grouped = mcmc.get_samples(group_by_chain=True)
    axes = (CHAINS, DRAWS)
    assert shapes(grouped) == {"loc": axes, "scale": axes, "x": (*axes, 3), "total": axes}
    assert shapes(mcmc.get_samples())["x"] == (CHAINS * DRAWS, 3)
    np.testing.assert_allclose(grouped["total"], grouped["x"].sum(-1), rtol=1e-5)
    fields = mcmc.get_extra_fields(group_by_chain=True)
    assert set(fields) == FIELDS | {"z.scale", "i"}
    assert all(value.shape == axes for value in fields.values())
    # the unconstrained value and the site are one and the same draw
    np.testing.assert_allclose(jnp.exp(fields["z.scale"]), grouped["scale"], rtol=1e-5)
    assert np.array_equal(fields["i"], np.tile(np.arange(61, 61 + DRAWS), (CHAINS, 1)))
    # the chains differ, and they move
    assert np.all(np.abs(grouped["loc"][0] - grouped["loc"][1]) > 0)
    assert all(len(np.unique(chain)) > DRAWS / 3 for chain in grouped["loc"])


@pytest.mark.slow
def test_one_chain_equals_the_same_chain_of_several(run):
    keys = jax.random.split(jax.random.key(3), CHAINS)
    options = {"warmup": 10, "samples": DRAWS, "driver": MCMC}  # on the host a key is that of all chains
    several = run(kernel(), chains=CHAINS, method=jax.vmap, key=keys, **options)
    one = run(kernel(), chains=1, method="sequential", key=keys[1], **options)
    assert one.last_state.z["x"].shape == (3,)
    for name, draws in several.get_samples(group_by_chain=True).items():
        # both programs round differently, and trajectories carry that from draw to draw
        first = draws[1][: DRAWS // 2], one.get_samples()[name][: DRAWS // 2]
        np.testing.assert_allclose(*first, rtol=1e-2, atol=1e-2)


def test_parallel_chains_on_two_devices_equal_sequential_ones():
    script = """
import jax, numpy as np, numpyro, numpyro.distributions as dist
from numpyro.infer import MCMC
from qdesampler.infer.qde.kernel import QDE
assert jax.local_device_count() == 2
def model():
    numpyro.deterministic("twice", 2 * numpyro.sample("x", dist.HalfNormal(1.0)))
kernel = QDE(model, dense_mass=False, solve=False)
def draws(method):
    mcmc = MCMC(kernel, num_warmup=20, num_samples=20, num_chains=2, chain_method=method, progress_bar=False)
    assert mcmc.chain_method == method
    mcmc.run(jax.random.key(0))
    return mcmc.get_samples(group_by_chain=True)
parallel, sequential = draws("parallel"), draws("sequential")
for name in ("x", "twice"):
    assert parallel[name].shape == (2, 20)
    np.testing.assert_allclose(parallel[name], sequential[name], rtol=1e-2)
"""
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_thinning_keeps_the_last_draw_of_each_window(run):
    every = run(kernel(), warmup=30, samples=DRAWS, chains=1)
    thinned = run(kernel(), warmup=30, samples=DRAWS, chains=1, thinning=3)
    for name, draws in every.get_samples().items():
        assert np.array_equal(draws[2::3], thinned.get_samples()[name])


@pytest.mark.slow
def test_progress_bar_changes_no_draw(run, capsys):
    plain = run(kernel(), warmup=10, samples=DRAWS, chains=1, driver=MCMC)
    shown = MCMC(kernel(), num_warmup=10, num_samples=DRAWS)
    shown.progress_bar = True  # NumPyro switches it off where the variable CI is set
    shown.run(jax.random.key(0))
    assert "evaluations, step size" in capsys.readouterr().err
    for name, draws in plain.get_samples().items():
        np.testing.assert_allclose(draws, shown.get_samples()[name], rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_legacy_keys_run_and_give_the_draws_of_typed_keys(run):
    options = {"warmup": 30, "samples": DRAWS, "chains": CHAINS}
    typed = run(kernel(), key=jax.random.key(7), **options)
    legacy = run(kernel(), key=jax.random.PRNGKey(7), **options)
    assert legacy.last_state.rng_key.shape == (CHAINS, 2)
    for name, draws in typed.get_samples().items():
        assert np.array_equal(draws, legacy.get_samples()[name])


def test_sites_can_be_left_out_of_the_samples(run):
    mcmc = run(kernel(), warmup=0, samples=DRAWS, chains=1, extra_fields=("~z.x", "z.x"))
    assert set(mcmc.get_samples()) == {"loc", "scale", "total"}
    assert mcmc.get_extra_fields()["z.x"].shape == (DRAWS, 3)


def test_arviz_and_the_summary_find_what_they_read(run, capsys):
    mcmc = run(kernel(), warmup=30, samples=DRAWS, chains=CHAINS)
    mcmc.print_summary()
    printed = capsys.readouterr().out
    assert "scale" in printed
    assert "Number of divergences" in printed
    assert "total" not in printed
    assert mcmc.sampler.model is model
    assert mcmc.sampler.sample_field == "z"
    assert set(mcmc.sampler.default_fields) == FIELDS | {"z"}
