"""The summary table against ArviZ and NumPy, and its text."""

import arviz as az
import numpy as np
import pytest
import xarray as xr

from qdesampler.diagnostics import format_summary, summary, zero_variance
from qdesampler.diagnostics.statistics.summary import (
    COLUMNS,
    ZERO_VARIANCE_COLUMNS,
    formatted_rows,
    rounded,
    shortened,
    with_estimates,
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
    assert "nan" in format_summary(table)


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
