"""Draws in a zarr store: the same as in memory, readable by xarray, bounded memory, resumed, refused."""

import errno
import operator
import os

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
import zarr

from qdesampler import MCMC
from qdesampler.diagnostics import to_datatree
from qdesampler.driver import StoreError, draw_store
from qdesampler.driver.draw_buffer import DrawBuffer
from qdesampler.driver.draw_store import DrawStore
from qdesampler.driver.stopping import check_convergence
from tests.support.kernels import GaussianWalk

Y = jnp.array([0.3, 1.2, -0.4, 0.8])
FIELDS = ("potential_energy", "num_evals")


def model(y):
    mean = numpyro.sample("a/mean", dist.Normal(0, 3))
    wide = numpyro.sample("wide", dist.Normal(0, 1).expand([2, 3]).to_event(2))
    numpyro.deterministic("many", jnp.sum(wide) > 0)
    numpyro.sample("y", dist.Normal(mean, 1), obs=y)


def driver(**options):
    settings = {"num_warmup": 20, "num_samples": 110, "num_chains": 2, "progress_bar": False} | options
    return MCMC(GaussianWalk(model), **settings)


def sampled(**options):
    mcmc = driver(**options)
    mcmc.run(jax.random.key(1), Y, extra_fields=FIELDS)
    return mcmc


@pytest.fixture(scope="module")
def whole():
    return sampled()


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def assert_same_run(one, other):
    for by_chain in (False, True):
        assert_same(one.get_samples(by_chain), other.get_samples(by_chain))
        assert_same(one.get_extra_fields(by_chain), other.get_extra_fields(by_chain))


def test_a_store_holds_what_memory_would(tmp_path, whole):
    mcmc = sampled(store=tmp_path / "draws.zarr", chain_batch=1)
    np.testing.assert_allclose(mcmc.get_samples()["wide"], whole.get_samples()["wide"], rtol=2e-4, atol=2e-4)
    tree = xr.open_datatree(tmp_path / "draws.zarr", engine="zarr", consolidated=False)
    assert tree.attrs["finished"]
    assert tree.attrs["draws"] == 110
    ours = to_datatree(mcmc)
    for group in ("posterior", "sample_stats"):
        assert set(tree[group].data_vars) == set(ours[group].data_vars)
        for name, variable in ours[group].data_vars.items():
            np.testing.assert_array_equal(tree[group][name], variable)
            assert tree[group][name].dtype == variable.dtype
            assert tree[group][name].dims == variable.dims
    assert set(tree["posterior"].coords) == {"chain", "draw"}


def test_a_store_becomes_netcdf(tmp_path):
    mcmc = sampled(store=tmp_path / "draws.zarr")
    with xr.open_datatree(tmp_path / "draws.zarr", engine="zarr", consolidated=False) as tree:
        tree.to_netcdf(tmp_path / "draws.nc", engine="h5netcdf")
    again = az.from_netcdf(tmp_path / "draws.nc")
    ours = to_datatree(mcmc)
    for group in ("posterior", "sample_stats"):
        assert set(again[group].data_vars) == set(ours[group].data_vars)
        for name, variable in ours[group].data_vars.items():
            np.testing.assert_array_equal(again[group][name], variable)
            assert again[group][name].dtype == variable.dtype
    assert again.attrs["draws"] == 110


def test_a_second_run_needs_another_store(tmp_path, whole):
    mcmc = sampled(store=tmp_path / "draws.zarr")
    assert_same_run(mcmc, whole)
    with pytest.raises(StoreError, match="the draws of another run already"):
        mcmc.run(jax.random.key(1), Y)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="notes.txt holds something else already"):
        sampled(store=tmp_path / "notes.txt")
    with pytest.raises(StoreError, match="something else"):
        sampled(store=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_resumed_run_writes_its_store_anew(tmp_path, whole):
    files = {"store": tmp_path / "draws.zarr", "checkpoint": tmp_path / "run.ckpt", "every": 15}
    sampled(**files, callbacks=[lambda p: p.draws >= 30])
    resumed = driver(store=tmp_path / "draws.zarr")
    resumed.resume(tmp_path / "run.ckpt", Y)
    assert_same_run(resumed, whole)
    store = zarr.open_group(tmp_path / "draws.zarr")
    store.update_attributes({"run": "0123"})
    with pytest.raises(StoreError, match="another run"):
        driver(store=tmp_path / "draws.zarr").resume(tmp_path / "run.ckpt", Y)
    assert store["posterior/wide"].shape == (2, 110, 2, 3)


def test_warmup_is_not_stored(tmp_path):
    mcmc = driver(store=tmp_path / "draws.zarr")
    mcmc.warmup(jax.random.key(1), Y)
    assert not (tmp_path / "draws.zarr").exists()
    mcmc.run(jax.random.key(2), Y)
    assert zarr.open_group(tmp_path / "draws.zarr", mode="r")["posterior/wide"].shape == (2, 110, 2, 3)


def filled(buffer, pieces, rng=0):
    rng = np.random.default_rng(rng)
    first = 0
    for rows in pieces:
        made = {"x": rng.normal(size=(3, rows, 5, 2)), "k": rng.integers(0, 9, (3, rows))}
        fields = (made, rng.normal(size=(3, rows)))
        for chains in (slice(0, 2), slice(2, 3)):
            cut = operator.itemgetter(chains)
            buffer.put(chains, first, rows, jax.tree.map(cut, fields))
        first += rows
        buffer.reach(first)
    return buffer


def test_any_pieces_end_in_the_same_chunks(tmp_path):
    pieces = (1, 3, 8, 8, 2, 7, 5)
    names = ("z", "potential_energy")
    stored = filled(DrawStore(tmp_path / "d", 3, 8, names, {}), pieces)
    memory = filled(DrawBuffer(3, 40), pieces)
    on_disk = zarr.open_group(tmp_path / "d", mode="r")["posterior/x"]
    assert on_disk.shape == (3, 32, 5, 2)  # whole chunks, before the end
    for first, last in ((0, 34), (5, 6), (31, 33), (33, 34), (7, 7)):
        assert_same(stored.named(first, last), memory.named(first, last))
    looked = check_convergence(stored.sample(), 30)
    assert looked == check_convergence(memory.sample(), 30)
    stored.close()
    jax.tree.map(np.testing.assert_array_equal, stored.fields(), memory.fields())
    again = DrawStore(tmp_path / "again", 3, 8, names, {})
    again.put_named(0, stored.named(0, 34), stored.fields())
    jax.tree.map(np.testing.assert_array_equal, again.fields(), memory.fields())


def test_a_look_in_small_pieces_sees_the_same(tmp_path, monkeypatch):
    memory = filled(DrawBuffer(3, 200), (200,))
    whole = check_convergence(memory.sample(), 200)
    assert 0 < whole.ess < np.inf
    monkeypatch.setattr("qdesampler.driver.stopping._MOST_READ", 3 * 200 * 3)
    monkeypatch.setattr("qdesampler.driver.stopping._MOST_WORKED", 1)
    seen = check_convergence(memory.sample(), 200)
    assert (seen.ess, seen.rhat) == pytest.approx((whole.ess, whole.rhat))


def test_a_full_disk_keeps_what_was_written(tmp_path, monkeypatch):
    stored = DrawStore(tmp_path / "d", 3, 8, ("z", "energy"), {})
    filled(stored, (8, 3))

    def full(self, selection, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(StoreError, match="No space left on device. What it holds can be read"):
        stored.close()
    assert stored.fields()[1].shape == (3, 11)


def test_names_that_meet_and_types_that_zarr_lacks(tmp_path):
    x = np.zeros((2, 3))
    store = DrawStore(tmp_path / "d", 2, 8, ("z",), {})
    with pytest.raises(StoreError, match="posterior/a.b: two collected arrays"):
        store.put(slice(None), 0, 3, ({"a/b": x, "a.b": x},))
    with pytest.raises(StoreError, match="posterior/x has the type bfloat16"):
        store.put(slice(None), 0, 3, ({"x": np.asarray(jnp.zeros((2, 3), jnp.bfloat16))},))
    assert not (tmp_path / "d").exists()


def test_without_zarr(tmp_path, monkeypatch):
    monkeypatch.setitem(draw_store.__builtins__, "__import__", _no_zarr)
    with pytest.raises(ImportError, match=r"pip install 'qdesampler\[store\]'"):
        driver(store=tmp_path / "d")


_import = __import__


def _no_zarr(name, *rest):
    if name == "zarr":
        raise ImportError(name)
    return _import(name, *rest)
