"""Faults: too little memory, a full disk, clocks that jump, potentials of NaN, Ctrl-C at any moment."""

import os
import shutil
import signal
import subprocess
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import HMC, NUTS

from qdesampler import MCMC, QDE, AnnealedQDE, diagnose
from qdesampler.driver import CheckpointError, StoreError
from qdesampler.driver import loop as run_loop
from qdesampler.driver.program import ChainProgram
from tests.support.kernels import GaussianWalk


def model():
    numpyro.sample("x", dist.Normal(0, 1).expand([20]).to_event(1))


def driver(kernel=None, **options):
    settings = {"num_warmup": 10, "num_samples": 200, "num_chains": 2, "progress_bar": False} | options
    return MCMC(kernel or GaussianWalk(model), **settings)


def exhausted(self, *args, **kwargs):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.\nmore")


@pytest.mark.parametrize("place", ["init", "advance"])
def test_too_little_memory_proposes_a_smaller_batch(place, monkeypatch):
    monkeypatch.setattr(ChainProgram, place, exhausted)
    with pytest.raises(
        MemoryError, match=r"for 8 chains at a time. Try chain_batch=4. .RESOURCE_EXHAUSTED: O"
    ):
        driver(num_chains=8).run(jax.random.key(0))
    with pytest.raises(MemoryError, match="for 2 chains at a time. Try chain_batch=1"):
        driver(num_chains=8, chain_batch=2).run(jax.random.key(0))
    with pytest.raises(MemoryError, match=r"for 1 chains at a time. \(RESOURCE"):
        driver(num_chains=1).run(jax.random.key(0))


def test_draws_before_the_memory_ended_are_kept(monkeypatch):
    mcmc = driver(num_samples=5000, callbacks=[lambda p: p.draws >= 50 and fail()])

    def fail():
        monkeypatch.setattr(ChainProgram, "advance", exhausted)

    with pytest.raises(MemoryError):
        mcmc.run(jax.random.key(0))
    kept = mcmc.get_samples(group_by_chain=True)["x"]
    assert 50 <= kept.shape[1] < 5000
    assert np.isfinite(kept).all()
    assert mcmc.report.ended_by == "error"


def test_memory_that_no_machine_has():
    def vast():
        x = numpyro.sample("x", dist.Normal())
        numpyro.deterministic("vast", jnp.zeros(2**42) + x)

    with pytest.raises(MemoryError, match="too little memory for 2 chains at a time. Try chain_batch=1"):
        driver(HMC(vast)).run(jax.random.key(0))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 kB that can be made larger."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        if shutil.which("mount") is None:
            return False
        done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", folder], capture_output=True)
        return done.returncode == 0

    if not mount("-o", "size=256k"):
        pytest.skip("a small disk cannot be mounted here: that needs root and the right to mount")
    yield folder, lambda: mount("-o", "remount,size=64m")
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_keeps_the_checkpoint_before(small_disk):
    folder, enlarge = small_disk
    mcmc = driver(checkpoint=folder / "run.ckpt", every=20, num_samples=2000)
    with pytest.raises(CheckpointError, match="No space left on device.*free space or name another folder"):
        mcmc.run(jax.random.key(0))
    drawn = mcmc.get_samples(group_by_chain=True)["x"]
    whole = driver(num_samples=2000)
    whole.run(jax.random.key(0))
    whole = whole.get_samples(group_by_chain=True)["x"]
    assert 0 < drawn.shape[1] < 2000
    assert np.array_equal(drawn, whole[:, : drawn.shape[1]])
    assert not [path for path in (folder / "run.ckpt").iterdir() if path.name.startswith(".")]
    assert enlarge()
    resumed = driver(num_samples=2000)
    resumed.resume(folder / "run.ckpt")
    assert np.array_equal(resumed.get_samples(group_by_chain=True)["x"], whole)


def test_a_full_disk_ends_a_stored_run_with_its_draws(small_disk):
    folder, _ = small_disk
    mcmc = driver(store=folder / "draws.zarr", num_samples=20_000)
    with pytest.raises(StoreError, match="No space left on device. What it holds can be read"):
        mcmc.run(jax.random.key(0))
    kept = mcmc.get_samples(group_by_chain=True)["x"]
    assert 1000 < kept.shape[1] < 20_000
    assert (kept.std((0, 1)) > 0.5).all()


def test_the_wall_clock_may_jump(monkeypatch):
    jumps = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    whole = driver(until={"max_time": 60.0})
    whole.run(jax.random.key(0))
    assert whole.report.ended_by == "num_samples"
    ended = driver(until={"max_time": 0.5}, num_samples=10**6)
    began = time.monotonic()
    ended.run(jax.random.key(0))
    assert ended.report.ended_by == "max_time"
    assert 0.5 < ended.report.seconds <= time.monotonic() - began


def test_a_clock_that_stands(monkeypatch):
    told = []
    monkeypatch.setattr(run_loop.time, "monotonic", lambda: 5.0)
    mcmc = driver(callbacks=[told.append])
    mcmc.run(jax.random.key(0))
    assert mcmc.report.draws == 200
    assert all(np.isfinite(p.seconds_left) for p in told)


def test_states_are_told_apart_by_their_iteration_not_their_age(tmp_path):
    mcmc = driver(checkpoint=tmp_path / "c", every=50, callbacks=[lambda p: p.iteration >= 120])
    mcmc.run(jax.random.key(0))
    newest = sorted((tmp_path / "c").glob("state-*"))[-1]
    os.utime(newest, (0, 0))
    told = []
    resumed = driver(callbacks=[told.append])
    resumed.resume(tmp_path / "c")
    assert told[0].iteration > int(newest.stem.removeprefix("state-"))


def test_the_second_interrupt_ends_at_once(tmp_path, monkeypatch):
    """In the middle of a chunk: nothing half done is kept, and a resumed run draws the same."""
    advance, calls = ChainProgram.advance, []

    def interrupted(self, *args):
        calls.append(None)
        if len(calls) == 8:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return advance(self, *args)

    mcmc = driver(checkpoint=tmp_path / "c", every=20)
    with monkeypatch.context() as patch:
        patch.setattr(ChainProgram, "advance", interrupted)
        with pytest.warns(RuntimeWarning, match="Interrupted"):
            mcmc.run(jax.random.key(0))
    assert len(calls) == 8
    kept, whole = mcmc.get_samples(group_by_chain=True)["x"], driver()
    whole.run(jax.random.key(0))
    assert np.array_equal(kept, whole.get_samples(group_by_chain=True)["x"][:, : kept.shape[1]])
    resumed = driver()
    resumed.resume(tmp_path / "c")
    assert np.array_equal(resumed.get_samples()["x"], whole.get_samples()["x"])


def region(z):
    return jnp.sum(jnp.where(z > 1, jnp.nan, z**2 / 2))


def stripes(z):
    """NaN in a fifth of the space, everywhere."""
    return jnp.sum(z**2 / 2) + jnp.where(jnp.any(jnp.abs(z * 10 % 1.0) < 0.1), jnp.nan, 0.0)


@jax.custom_jvp
def gradients(z):
    return jnp.sum(z**2) / 2


@gradients.defjvp
def _(point, slope):
    (z,), (dz,) = point, slope
    return gradients(z), jnp.sum(jnp.where(z > 1, jnp.nan, z) * dz)


STORMS = [
    pytest.param(
        kernel, storm, marks=() if quick else pytest.mark.slow, id=f"{kernel.__name__}-{storm.__name__}"
    )
    for kernel, storm, quick in [
        (NUTS, region, False),
        (QDE, region, True),
        (AnnealedQDE, region, False),
        (NUTS, stripes, False),
        (QDE, stripes, False),
        (AnnealedQDE, stripes, False),
        (NUTS, gradients, False),
        (QDE, gradients, False),
        (AnnealedQDE, gradients, False),
    ]
]


@pytest.mark.parametrize(("kernel", "storm"), STORMS)
def test_no_draw_is_where_the_density_is_nan(kernel, storm):
    mcmc = driver(kernel(potential_fn=storm), num_warmup=200, num_samples=500, num_chains=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mcmc.run(jax.random.key(0), init_params=jnp.full((4, 2), 0.053))
    draws = mcmc.get_samples()
    assert np.isfinite(draws).all()
    assert np.isfinite(jax.vmap(storm)(draws)).all()
    assert np.unique(draws).size > 500
    assert mcmc.report.divergences > 20  # each step into NaN is counted, and told:
    findings = diagnose(mcmc)
    assert not findings.good
    assert any("diverged" in str(finding) for finding in findings)
