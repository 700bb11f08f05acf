"""Draws on the host by our driver: their law, their fields, and a run in two parts."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler import MCMC, QDE
from qdesampler.infer.qde.host_sampler import is_soon_done

DATA = np.array([0.3, -0.4, 1.5, 0.9])


def model(y):
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("twice", 2 * loc)
    numpyro.sample("y", dist.Normal(loc, scale), obs=y)


def sampled(draws=400, chains=4, **options):
    settings = {"num_warmup": 100, "num_samples": draws, "num_chains": chains, "progress_bar": False}
    mcmc = MCMC(QDE(model), **settings | options)
    mcmc.run(jax.random.key(3), DATA, extra_fields=("z_grad", "i"))
    return mcmc


@pytest.fixture(scope="module")
def on_host():
    return sampled()


@pytest.fixture(scope="module")
def by_program():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qdesampler.infer.qde.kernel.is_soon_done", lambda *_: False)
        return sampled()


def test_both_ways_draw_from_one_law(on_host, by_program, assert_expectation):
    host, program = (run.get_samples(group_by_chain=True) for run in (on_host, by_program))
    assert not np.array_equal(host["loc"], program["loc"])
    assert {name: value.shape for name, value in host.items()} == {
        name: value.shape for name, value in program.items()
    }
    for name in ("loc", "scale"):
        for power in (1, 2):
            assert_expectation(host[name] ** power, np.mean(program[name] ** power), standard_errors=6)
    np.testing.assert_allclose(host["twice"], 2 * host["loc"], rtol=1e-6)


def test_fields_are_those_of_the_program_and_true(on_host, by_program):
    host, program = (run.get_extra_fields(group_by_chain=True) for run in (on_host, by_program))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), host) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), program
    )
    assert np.array_equal(host["i"][0], np.arange(101, 501))
    samples = on_host.get_samples(group_by_chain=True)
    z = {"loc": samples["loc"], "scale": np.log(samples["scale"])}
    potential = jax.jit(jax.vmap(jax.vmap(on_host.sampler.get_potential_fn((DATA,), {}))))
    np.testing.assert_allclose(potential(jax.tree.map(jnp.asarray, z)), host["potential_energy"], rtol=1e-4)
    state = on_host.last_state
    assert np.array_equal(state.potential_energy, host["potential_energy"][:, -1])
    assert on_host.report.evaluations == np.sum(state.warmup_evals) + np.sum(host["num_evals"])


def test_a_run_in_two_parts_is_the_run_in_one(tmp_path):
    whole = sampled(draws=60)
    with pytest.raises(KeyboardInterrupt):
        sampled(draws=60, checkpoint=tmp_path, every=20, callbacks=[stop_after(70)])
    again = MCMC(QDE(model), num_warmup=100, num_samples=60, num_chains=4, progress_bar=False)
    again.resume(tmp_path, DATA)
    for name, value in whole.get_samples().items():
        assert np.array_equal(value, again.get_samples()[name]), name


def stop_after(iterations):
    def stop(progress):
        if progress.iteration >= iterations:
            raise KeyboardInterrupt
        return False

    return stop


def test_a_single_chain_and_thinning():
    run = sampled(draws=40, chains=1, thinning=2)
    assert run.get_samples(group_by_chain=True)["loc"].shape == (1, 20)
    assert np.array_equal(run.get_extra_fields()["i"], np.arange(102, 142, 2))


def test_long_runs_and_recentred_models_are_left_to_the_program(on_host):
    state = on_host.last_state
    assert is_soon_done(state, 500, 1)
    assert not is_soon_done(state, 10_000_000, 1)
    shared = state.adapt_state.shared
    recentred = shared._replace(centredness=jnp.zeros_like(shared.centredness))
    assert not is_soon_done(state._replace(adapt_state=state.adapt_state._replace(shared=recentred)), 500, 1)
