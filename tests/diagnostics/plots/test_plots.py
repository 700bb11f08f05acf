"""The plots: what is drawn, what is left out and said, and that nothing global changes."""

from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from arviz_base import from_dict, rcParams

from qdesampler.diagnostics import PLOT_NAMES, Analysis, Plot, draw_plots, save_plots, write_plots
from qdesampler.diagnostics.plots import posterior as plots
from qdesampler.diagnostics.plots.integers import draw_bars

PNG = b"\x89PNG\r\n\x1a\n"
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def many():
    """12 scalars, one of them constant and one with a NaN, in 3 chains; one chain of x[0] is stuck."""
    x = RNG.normal(size=(3, 60, 10))
    x[1, :, 0] = 0.5
    posterior = {"x": x, "one": np.ones((3, 60)), "bad": np.where(np.eye(3, 60) > 0, np.nan, 1.0)}
    stats = {"energy": RNG.normal(size=(3, 60)), "diverging": RNG.random((3, 60)) > 0.9}
    return from_dict({"posterior": posterior, "sample_stats": stats})


def test_all_plots_and_no_traces(many, tmp_path):
    mine = plt.figure()
    before = dict(matplotlib.rcParams), matplotlib.get_backend(), dict(rcParams)
    few = xr.DataTree.from_dict(
        {
            "posterior": many["posterior"].to_dataset().isel(x_dim_0=slice(2)),
            "sample_stats": many["sample_stats"].to_dataset(),
        }
    )
    paths = save_plots(few, tmp_path / "new" / "folder")
    assert [path.stem for path in paths] == list(PLOT_NAMES)
    assert all(path.read_bytes().startswith(PNG) and path.stat().st_size > 5000 for path in paths)
    assert sorted(tmp_path.rglob("*.*")) == sorted(paths)  # no temporary files
    assert plt.get_fignums() == [mine.number]
    assert plt.gcf() is mine
    assert (dict(matplotlib.rcParams), matplotlib.get_backend(), dict(rcParams)) == before
    plt.close(mine)


@pytest.fixture
def drawn_labels(monkeypatch):
    """Replaces the drawing by a record of what would be drawn: kind to (labels, tree)."""
    seen = {}

    def record(kind):
        def draw(tree):
            seen[kind.name] = (list(tree["posterior"].data_vars), tree)

        return kind._replace(draw=draw)

    monkeypatch.setattr(plots, "_KINDS", tuple(record(kind) for kind in plots._KINDS))
    monkeypatch.setattr(plots, "_png", lambda collection: PNG)
    return seen


def test_the_worst_scalars_are_shown_and_the_caption_says_so(many, drawn_labels):
    captions = {plot.name: plot.caption for plot in draw_plots(many)}
    assert drawn_labels["trace"][0] == [f"x[{i}]" for i in range(10)]
    assert "left out" in captions["trace"]
    assert "Shown are" not in captions["trace"]
    assert len(drawn_labels["pair"][0]) == 5
    assert "x[0]" in drawn_labels["pair"][0]  # the stuck chain has the smallest ESS
    assert "Shown are 5 of 10 scalars" in captions["pair"]
    assert "2 scalars that never change or are not finite" in captions["pair"]
    assert "Shown" not in captions["energy"]


def test_what_a_run_cannot_show_is_not_drawn(drawn_labels):
    single = from_dict({"posterior": {"x": RNG.normal(size=(1, 50))}})
    assert [plot.name for plot in draw_plots(single)] == ["trace", "forest", "autocorrelation", "ess"]
    still = from_dict({"posterior": {"x": np.ones((2, 50))}})
    assert list(draw_plots(still)) == []


def test_long_runs_are_thinned_and_many_chains_cut(drawn_labels):
    long = from_dict({"posterior": {"x": RNG.normal(size=(20, 1000)), "y": RNG.normal(size=(20, 1000))}})
    captions = {plot.name: plot.caption for plot in draw_plots(long)}
    assert captions["trace"].endswith("Shown are the first 8 of 20 chains.")
    assert "chains." not in captions["ess"]
    assert plots._thinned(drawn_labels["pair"][1], plots.MAX_POINTS)["posterior"].sizes == {
        "chain": 20,
        "draw": 200,
    }


def test_odd_labels_and_integers(drawn_labels):
    count = RNG.integers(0, 3, size=(2, 50, 2))
    dims = ("chain", "draw")
    variables = {
        "n": ((*dims, "same"), count),
        "n[0]": (dims, count[..., 0]),
        "big": (dims, 1e30 * count[..., 0]),
        "x": ((*dims, "cut"), RNG.normal(size=(2, 50, 1))),
    }
    posterior = xr.Dataset(variables, coords={"same": ["a", "a"], "cut": ["a/b"]})
    assert len(list(draw_plots(xr.DataTree.from_dict({"posterior": posterior})))) == 6
    labels, tree = drawn_labels["trace"]
    assert labels == ["n[0]", "n[1]", "n[0] #2", "big", "x[a\N{DIVISION SLASH}b]"]
    assert tree["posterior"]["n[0] #2"].dtype == np.int64
    assert tree["posterior"]["big"].dtype == np.float64
    assert np.array_equal(tree["posterior"]["n[1]"], count[..., 1])


LONG = "a_parameter_whose_name_does_not_fit_below_a_panel_of_a_plot"


def test_long_names_are_shortened_and_the_caption_says_so(drawn_labels):
    posterior = {LONG: RNG.normal(size=(2, 50, 2)), "x": RNG.normal(size=(2, 50))}
    run = from_dict({"posterior": posterior, "sample_stats": {"energy": RNG.normal(size=(2, 50))}})
    captions = {plot.name: plot.caption for plot in draw_plots(run)}
    assert "shortened" not in captions.pop("energy")  # it shows no names
    rooms = {kind.name: kind.room for kind in plots._KINDS}
    assert set(captions) == set(rooms) - {"energy"}
    for name, caption in captions.items():
        labels = drawn_labels[name][0]
        assert max(map(len, labels)) == rooms[name]
        assert labels[0].endswith("[0]")
        assert labels[2] == "x"
        assert caption.endswith("Long names are shortened in the middle.")


@pytest.fixture
def integers():
    """Integers, of few and of many values, beside a real number, with divergent draws."""
    variables = {
        "few": RNG.integers(0, 3, size=(2, 50)),
        "many": RNG.integers(0, 60, size=(2, 50)),
        "x": RNG.normal(size=(2, 50)),
    }
    data = {"posterior": variables, "sample_stats": {"diverging": RNG.random((2, 50)) > 0.5}}
    tree = from_dict(data)
    yield plots._flat(tree, [(name, tree["posterior"][name].to_numpy()) for name in variables])
    plt.close("all")


def test_integers_are_drawn_as_bars(integers):
    collection = plots._trace(integers)
    few, many, real = (collection.get_viz("plot", name, column="dist") for name in ("few", "many", "x"))
    values = integers["posterior"]["few"].to_numpy()
    heights = np.array([bar.get_height() for bar in few.patches]).reshape(2, 3)  # chain, integer
    expected = [[np.mean(row == i) for i in range(3)] for row in values]
    np.testing.assert_allclose(heights, expected)
    centres = [bar.get_x() + bar.get_width() / 2 for bar in few.patches]
    assert np.array_equal(np.round(centres), [0, 1, 2, 0, 1, 2])
    assert [len(panel.lines) for panel in (few, many, real)] == [0, 0, 2]
    assert [len(panel.patches) for panel in (few, many, real)] == [6, 2, 0]
    assert collection.get_viz("plot", "few", column="trace").get_ylabel() == ""
    diagonal = plots._diagonal(plots._pair(integers), 0)
    np.testing.assert_allclose([bar.get_height() for bar in diagonal.patches], np.mean(expected, axis=0))


def test_bars_need_a_line_for_each_chain(integers):
    axes = plt.figure().subplots()
    axes.plot([0, 1])
    with pytest.raises(ValueError, match="has 1 lines, but the draws have 2 rows"):
        draw_bars(axes, integers["posterior"]["few"])


def test_a_run_of_qde_shows_its_gain_and_its_trial(mcmc, tree, drawn_labels, monkeypatch):
    monkeypatch.setattr(plots, "plot_trial", lambda run, backend: run)
    monkeypatch.setattr(plots, "plot_zero_variance", lambda table, backend: table)
    extra = [plot.name for plot in draw_plots(Analysis(mcmc, tree=tree))][len(drawn_labels) :]
    assert extra == ["gain", "trial"]
    local = SimpleNamespace(last_state=mcmc.last_state, sampler=SimpleNamespace(facts=lambda state: {}))
    found = Analysis(tree)
    assert "zv_gain" not in found.table
    found.run = local
    extra = [plot.name for plot in draw_plots(found)][len(drawn_labels) :]
    assert extra == []


def test_a_plot_that_fails_is_reported_and_the_others_drawn(many, drawn_labels, monkeypatch):
    def broken(tree):
        plt.figure()
        raise ValueError("no ink")

    kinds = tuple(k._replace(draw=broken) if k.name == "rank" else k for k in plots._KINDS)
    monkeypatch.setattr(plots, "_KINDS", kinds)
    with pytest.warns(RuntimeWarning, match="'rank' could not be drawn: ValueError.'no ink'"):
        names = [plot.name for plot in draw_plots(many)]
    assert names == [name for name in PLOT_NAMES if name != "rank"]
    assert plt.get_fignums() == []


def test_finished_plots_are_written(tmp_path):
    (path,) = write_plots([Plot("one", "One", "", PNG)], tmp_path)
    assert path == tmp_path / "one.png"
    assert path.read_bytes() == PNG
