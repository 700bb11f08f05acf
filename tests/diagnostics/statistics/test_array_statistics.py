"""Statistics of many scalars at once: ArviZ's to 1e-6, and the ones that ArviZ has not."""

import arviz as az
import numpy as np
import pytest
from arviz_stats.base.array import array_stats

from qdesampler.diagnostics.statistics.array_statistics import nested_r_hat, pareto_k, r_hat, table_columns

RNG = np.random.default_rng(0)


def odd_arrays(chains, draws):
    """Scalars of every temper: independent, walking, rounded, still, two-valued, alternating, far, torn."""
    x = RNG.normal(size=(11, chains, draws))
    x[1] = np.cumsum(x[1], axis=1)
    x[2] = np.round(x[2])
    x[3] = 1.5
    x[4] = x[4] > 1
    x[5] = np.abs(x[5]) * np.where(np.arange(draws) % 2, 1, -1)
    x[6] = 1e4 + 0.01 * x[6]
    x[7] += 5 * np.arange(chains)[:, None]
    x[8] = RNG.standard_cauchy(size=(chains, draws))
    x[9, 0] = 3.0
    x[10] = np.repeat(x[10, :, ::3], 3, axis=1)[:, :draws]
    return x


def by_arviz(values, name):
    method = {
        "mcse_mean": lambda: array_stats.mcse(values, method="mean", chain_axis=0, draw_axis=1),
        "mcse_sd": lambda: array_stats.mcse(values, method="sd", chain_axis=0, draw_axis=1),
        "ess_bulk": lambda: array_stats.ess(values, method="bulk", chain_axis=0, draw_axis=1),
        "ess_tail": lambda: array_stats.ess(
            values, method="tail", prob=(0.05, 0.95), chain_axis=0, draw_axis=1
        ),
        "r_hat": lambda: array_stats.rhat(values, chain_axis=0, draw_axis=1),
    }
    return method[name]()


@pytest.mark.parametrize("shape", [(4, 100), (3, 101), (2, 4), (2, 5), (8, 7), (2, 250)])
def test_they_are_arvizs(shape):
    x = odd_arrays(*shape)
    found = table_columns(x)
    np.testing.assert_allclose(found["mean"], x.mean((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found["sd"], x.std((1, 2), ddof=1), rtol=1e-12)
    for name in ("mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "r_hat"):
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = [float(by_arviz(values, name)) for values in x]
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)


def test_one_chain_is_arvizs_but_for_r_hat_which_compares_its_halves():
    x = odd_arrays(1, 60)
    found = table_columns(x)
    expected = [float(by_arviz(values, "ess_bulk")) for values in x]
    np.testing.assert_allclose(found["ess_bulk"], expected, rtol=1e-6)
    halves = [float(az.rhat(values.reshape(2, 30), method="z_scale")) for values in x[:1]]
    assert found["r_hat"][0] >= halves[0] - 0.05
    assert found["r_hat"][1] > 1.1  # the walk


def test_what_is_not_finite_or_too_short_is_nan():
    x = RNG.normal(size=(3, 4, 20))
    x[0, 1, 2], x[1, 3, 0] = np.nan, np.inf
    found = table_columns(x)
    assert np.isnan(found["mean"][0])
    assert np.isinf(found["mean"][1])
    for name in ("sd", "ess_bulk", "r_hat", "mcse_mean"):
        assert np.isnan(found[name][:2]).all()
        assert np.isfinite(found[name][2])
    assert np.isnan(table_columns(x[:, :, :3])["ess_bulk"]).all()


def test_nested_r_hat_trusts_many_short_chains_and_sees_superchains_apart():
    good = RNG.normal(size=(40, 256, 4))
    assert np.mean(nested_r_hat(good) < 1.01) > 0.9
    assert np.mean(r_hat(good) < 1.01) < 0.8
    apart = good + np.where(np.arange(256) < 16, 4.0, 0.0)[:, None]
    assert np.all(nested_r_hat(apart) > 1.05)
    # with one draw a chain there is still the variance between the chains of a superchain
    assert np.all(np.isfinite(nested_r_hat(good[:, :, :1])))


@pytest.mark.parametrize("size", [(4, 500), (2, 60)])
def test_the_tail_index_is_arvizs(size):
    x = np.stack(
        [RNG.normal(size=size), RNG.standard_cauchy(size=size), np.exp(RNG.normal(size=size)), np.ones(size)]
    )
    expected = [
        float(array_stats.pareto_khat(values, r_eff=1.0, tail="both", chain_axis=0, draw_axis=1))
        for values in x[:3]
    ]
    found = pareto_k(x)
    np.testing.assert_allclose(found[:3], expected, rtol=1e-6)
    assert np.isnan(found[3])
