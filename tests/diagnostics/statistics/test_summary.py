"""The summary table against ArviZ and NumPy, and its text."""

import pickle

import arviz as az
import numpy as np
import pytest
import xarray as xr

from qdesampler.diagnostics import format_summary, summary, to_datatree, zero_variance
from qdesampler.diagnostics.statistics.summary import with_estimates
from qdesampler.diagnostics.statistics.summary_table import (
    COLUMNS,
    ZERO_VARIANCE_COLUMNS,
    SummaryTable,
    formatted_rows,
    rounded,
    shortened,
)


def test_the_table_is_arvizs(mcmc, tree):
    table = summary(tree)
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 18
    theta = np.asarray(tree["posterior"]["theta"].sel(school="C"), np.float64)
    row = table.loc["theta[C]"]
    assert row["mean"] == pytest.approx(theta.mean(), rel=1e-12)
    assert row["sd"] == pytest.approx(theta.std(ddof=1), rel=1e-12)
    assert row["ess_bulk"] == pytest.approx(float(az.ess(theta, method="bulk")))
    assert row["r_hat"] == pytest.approx(float(az.rhat(theta)))
    of_run = summary(mcmc)  # which knows its target
    assert list(of_run.columns) == [*COLUMNS, *ZERO_VARIANCE_COLUMNS]
    np.testing.assert_allclose(of_run["mean"], table["mean"])


def test_zero_variance_means_stand_beside_the_plain_ones(mcmc, tree, tmp_path):
    found = zero_variance(mcmc)
    table = summary(with_estimates(tree, found))
    np.testing.assert_array_equal(table.loc["mu", "zv_mean"], found["mu"].sel(estimate="mean"))
    np.testing.assert_array_equal(table["zv_gain"].filter(like="theta["), found["theta"].sel(estimate="gain"))
    assert np.all(np.abs(table["zv_mean"] - table["mean"]) < 5 * (table["mcse_mean"] + table["zv_mcse"]))
    np.testing.assert_allclose(summary(mcmc)["zv_mean"], table["zv_mean"])
    assert "ZV mean" in format_summary(table).splitlines()[0]
    with_estimates(tree, found).to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    again = summary(az.from_netcdf(tmp_path / "run.nc"))
    np.testing.assert_allclose(again["zv_mean"], table["zv_mean"])
    # a variable of which nothing was estimated is NaN, and what is asked for alone stands alone
    assert np.isnan(summary(tree, estimates=found.drop_vars("tau")).loc["tau", "zv_mean"])
    assert list(summary(with_estimates(tree, found), var_names=["tau"]).index) == ["tau"]
    assert with_estimates(tree, None) is tree


def test_chosen_variables(tree):
    assert list(summary(tree, var_names=["tau", "mu"]).index) == ["tau", "mu"]
    with pytest.raises(ValueError, match="No variable rho; there are mu, tau, offset, theta"):
        summary(tree, var_names=["rho"])


def test_large_offsets_keep_their_digits():
    rng = np.random.default_rng(0)
    draws = (1e4 + 0.1 * rng.normal(size=(4, 500))).astype(np.float32)
    row = summary(az.from_dict({"posterior": {"x": draws}})).loc["x"]
    assert row["sd"] == pytest.approx(0.1, rel=0.1)
    assert 0.9 < row["r_hat"] < 1.02


@pytest.mark.filterwarnings("error")
def test_constants_and_nans_are_shown_as_such():
    values = {"one": np.ones((2, 50)), "bad": np.full((2, 50), np.nan), "bit": np.eye(50, dtype=bool)[:2]}
    table = summary(az.from_dict({"posterior": {**values, "none": np.ones((2, 50, 0))}}))
    assert list(table.index) == ["one", "bad", "bit"]
    assert np.isnan(table.loc["one", "r_hat"])
    assert table.loc["one", "mean"] == 1
    assert np.isnan(table.loc["bad"]).all()
    assert table.loc["bit", "mean"] == 0.02
    constant, bad, bit = (line.split() for line in format_summary(table).splitlines()[1:4])
    assert "nan" not in constant
    assert constant[-1] == "-"
    assert bad[1] == "nan"  # draws that are not finite stay in sight
    assert "nan" not in bit


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match="no group 'posterior', only: prior"):
        summary(xr.DataTree.from_dict({"prior": xr.Dataset()}))
    with pytest.raises(ValueError, match="every variable is empty"):
        summary(az.from_dict({"posterior": {"none": np.ones((2, 5, 0))}}))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (4.2318, 0.0123, "4.232"),
        (4.2318, 0.5, "4.23"),
        (1234.5, 20.0, "1234"),
        (-0.00012345, 1e-6, "-0.0001234"),
        (3.21e-9, 4.5e-11, "3.210e-09"),
        (1.23456e9, 4e6, "1.2346e+09"),
        (2.5, 0.0, "2.5"),
        (2.5, float("nan"), "2.5"),
        (float("nan"), 1.0, "nan"),
        (float("-inf"), 1.0, "-inf"),
        (0.0, 1e-9, "0.0e+00"),
    ],
)
def test_numbers_end_at_the_second_digit_of_their_error(value, error, text):
    assert rounded(value, error) == text


def test_the_text_is_aligned(tree):
    table = summary(tree)
    lines = format_summary(table).splitlines()
    assert len(lines) == 19
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == [
        "mean",
        "sd",
        "MCSE",
        "mean",
        "MCSE",
        "sd",
        "ESS",
        "bulk",
        "ESS",
        "tail",
        "R-hat",
    ]
    for line, (label, *cells) in zip(lines[1:], formatted_rows(table), strict=True):
        assert line.split() == [label, *cells]


def test_a_long_table_keeps_its_worst_rows(tree):
    table = summary(tree)
    rows, note = shortened(table, 3)
    worst = set(table["ess_bulk"].nsmallest(3).index)
    assert set(rows.index) == worst
    assert list(rows.index) == [name for name in table.index if name in worst]
    assert "3 of 18 rows" in note
    text = format_summary(table, max_rows=3).splitlines()
    assert len(text) == 5
    assert text[-1] == note
    whole, note = shortened(table, 18)
    assert whole is table
    assert note == ""


# --------------------------------------------------------------------------- a table that prints itself


def test_the_table_prints_itself_and_is_a_data_frame_in_all_else(mcmc, tree):
    plain, table = summary(tree), summary(mcmc)
    for of in (plain, table):
        assert isinstance(of, SummaryTable)
        assert str(of) == repr(of) == format_summary(of)
        assert repr(pickle.loads(pickle.dumps(of))) == repr(of)
    frame = xr.Dataset({"mean": ("row", table["mean"])}, coords={"row": list(table.index)}).to_dataframe()
    assert isinstance(table, type(frame))
    assert list(table.index) == list(frame.index)
    assert table.index.dtype == frame.index.dtype
    assert table.index.name is None
    assert set(table.dtypes) == {np.dtype(float)}
    # parts and copies are ordinary frames, and a table with another column hides nothing
    for part in (table[["mean", "sd"]], table.iloc[:2], table.copy(), table[table["r_hat"] < 2]):
        assert type(part) is type(frame)
    table["truth"] = 0.0
    assert "truth" in repr(table)
    assert "truth" in table._repr_html_()


def test_a_notebook_shows_the_same_cells(tree):
    table = summary(tree)
    html = table._repr_html_()
    assert html.count("<tr>") == len(table) + 1
    for label, *cells in formatted_rows(table):
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        assert f"<tr><th>{label}</th>{row}</tr>" in html
    named = summary(az.from_dict({"posterior": {"a<b": np.ones((2, 50, 60))}}))
    assert "a&lt;b[0]" in named._repr_html_()
    assert "(40 of 60 rows are shown" in named._repr_html_()
    long = "a_name_that_leaves_no_room_for_numbers"
    page = summary(az.from_dict({"posterior": {long: np.ones((2, 50))}}))._repr_html_()
    assert f'title="{long}"' in page
    assert f">{long}<" not in page


@pytest.mark.parametrize(
    ("draws", "reason"),
    [((2, 3), "there are 6 draws, and they need at least 8."), ((2, 20), "Namespace has no potential")],
)
def test_a_run_without_zero_variance_means_says_why(draws, reason, ended):
    run = ended(lambda x: x @ x, np.random.default_rng(0).normal(size=(*draws, 2)))
    del run.sampler.get_potential_fn
    table = summary(run)
    assert list(table.columns) == list(COLUMNS)
    assert format_summary(table).splitlines()[-1].startswith("(There are no zero-variance means: ")
    assert reason in str(table)
    assert reason in table._repr_html_()
    assert "no zero-variance means" not in str(summary(to_datatree(run)))  # a tree never has them by itself
