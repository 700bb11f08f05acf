"""One object for all that is known of a run: each part is computed once, and every function takes it."""

import pytest
import xarray as xr

from qdesampler import diagnose, report, summary
from qdesampler.diagnostics import Analysis, Finding, Plot, draw_plots, save_plots
from qdesampler.diagnostics.reporting import analysis
from qdesampler.diagnostics.statistics import summary as statistics


@pytest.fixture
def counted(monkeypatch):
    """Names of the expensive functions, in the order of their calls."""
    calls = []

    def count(module, name, result=None):
        function = getattr(module, name)

        def counting(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs) if result is None else result

        monkeypatch.setattr(module, name, counting)

    count(statistics, "to_datatree")
    count(statistics, "_table")
    count(statistics, "estimates_of")
    count(analysis, "diagnose")
    count(analysis, "draw_plots", [Plot("trace", "Trace", "", b"png")])
    return calls


def test_each_part_is_computed_once(mcmc, counted, tmp_path):
    found = Analysis(mcmc, {"seed": 3})
    assert counted == []
    report(found, tmp_path / "report.html")
    summary(found)
    diagnose(found)
    assert [path.name for path in found.save_plots(tmp_path)] == ["trace.png"]
    found.to_netcdf(tmp_path / "run.nc")
    assert sorted(counted) == ["_table", "diagnose", "draw_plots", "estimates_of", "to_datatree"]
    written = xr.load_datatree(tmp_path / "run.nc", engine="h5netcdf")
    assert written.attrs["seed"] == 3
    assert "zero_variance" in written.children


def test_it_says_what_the_functions_say(mcmc):
    found = Analysis(mcmc)
    assert found.table.equals(summary(mcmc))
    assert list(found.findings) == list(diagnose(mcmc))
    assert found.findings.checks == diagnose(mcmc).checks


def test_a_target_that_may_not_be_evaluated_is_not(mcmc, monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("the target was evaluated")

    monkeypatch.setattr(statistics, "estimates_of", refused)
    assert diagnose(Analysis(mcmc), target=False).checks


def test_a_tree_of_your_own_and_findings_from_elsewhere(mcmc, tree):
    further = Finding("reference", "Far off.", "Look.")
    found = Analysis(mcmc, tree=tree, further=[further])
    assert found.tree is tree
    assert "theta[A]" in found.table.index
    assert further in found.findings
    assert not found.findings.good


def test_plots_of_an_analysis_need_no_second_table(tree, counted, tmp_path):
    found = Analysis(tree)
    next(iter(draw_plots(found)))
    assert counted.count("_table") == 1
    with pytest.raises(ValueError, match="no group 'posterior'"):
        save_plots(xr.DataTree(), tmp_path)
