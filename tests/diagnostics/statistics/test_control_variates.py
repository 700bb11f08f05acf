"""Zero-variance means: right, far less noisy, honest about it, and loud where the identity fails."""

import re

import arviz_base as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpyro.infer import NUTS

from qdesampler import MCMC
from qdesampler.diagnostics.statistics import control_fit as module
from qdesampler.diagnostics.statistics import control_variates
from qdesampler.diagnostics.statistics.control_variates import ESTIMATES, ZeroVarianceWarning, zero_variance
from qdesampler.diagnostics.statistics.summary import RunStatistics
from qdesampler.infer import QDE
from qdesampler.infer.model.scores import RunScores, run_scores

SUCCESSES, TRIALS = 7, 20


def model():
    """A beta posterior of closed form, beside a vector of normals with one correlated coordinate."""
    chance = numpyro.sample("chance", dist.Beta(2, 2))
    numpyro.deterministic("odds", chance / (1 - chance))
    with numpyro.plate("school", 3):
        effect = numpyro.sample("effect", dist.Normal(1, 2))
    numpyro.sample("noted", dist.Normal(effect[0], 1), obs=3.0)
    numpyro.sample("successes", dist.Binomial(TRIALS, chance), obs=SUCCESSES)


@pytest.fixture(scope="module")
def ran():
    kernel = QDE(model)
    mcmc = MCMC(
        kernel, num_warmup=200, num_samples=300, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(0), extra_fields=("z_grad", "potential_energy"))
    return mcmc


def estimate(dataset, name):
    return {key: np.asarray(dataset[name].sel(estimate=key)) for key in ESTIMATES}


def test_means_of_all_sites_are_right_and_less_noisy(ran):
    found = zero_variance(ran)
    assert found.attrs["evaluations"] == 0  # the run had its gradients
    assert found.attrs["disagreeing"] == []
    a, b = 2 + SUCCESSES, 2 + TRIALS - SUCCESSES
    truths = {"chance": a / (a + b), "odds": a / (b - 1), "effect": np.array([2.6, 1.0, 1.0])}
    for name, truth in truths.items():
        got = estimate(found, name)
        assert np.all(np.abs(got["mean"] - truth) < 4 * got["mcse"] + 1e-4), name
        assert np.all(np.abs(got["plain_mean"] - truth) < 4 * got["plain_mcse"]), name
        assert np.all(got["gain"] > 20), name
    # normal coordinates lose all of it, up to the rounding of single precision
    assert np.all(estimate(found, "effect")["gain"] > 1000)
    assert found["effect"].dims == ("school", "estimate")
    assert set(np.unique(found["effect_order"])) <= {1.0, 1.5, 2.0}


def test_collected_and_recomputed_gradients_agree(ran):
    fields = ran._states.pop("z_grad")
    try:
        again = zero_variance(ran, order=1)
    finally:
        ran._states["z_grad"] = fields
    assert again.attrs["evaluations"] == 1200
    np.testing.assert_allclose(again["odds"], zero_variance(ran, order=1)["odds"], rtol=1e-3)


def test_scores_are_computed_once_a_run_and_follow_data_changed_in_place():
    y = np.array([1.0, 3.0], dtype=np.float32)

    def normal(y):
        x = numpyro.sample("x", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(x, 1).expand(y.shape).to_event(1), obs=y)

    def slope(run):  # of log p at the draws, by hand
        x = np.asarray(run.get_samples(group_by_chain=True)["x"], np.float64)
        return y.sum() - 2 * x - x / 100

    run = MCMC(QDE(normal, dense_mass=False, solve=False), num_warmup=40, num_samples=20, progress_bar=False)
    run.run(jax.random.key(0), y)
    first = run_scores(run)
    np.testing.assert_allclose(first.scores[..., 0], slope(run), atol=1e-3)
    assert run_scores(run) is first
    y += 5
    run.run(jax.random.key(0), y)
    np.testing.assert_allclose(run_scores(run).scores[..., 0], slope(run), atol=1e-3)


def test_functions_of_the_draws(ran):
    found = zero_variance(ran, lambda draw: {"late": draw["chance"] > 0.5, "square": draw["effect"] ** 2})
    got = estimate(found, "square")
    assert np.all(np.abs(got["mean"] - np.array([2.6**2 + 0.8, 5.0, 5.0])) < 4 * got["mcse"] + 1e-3)
    assert np.all(got["gain"] > 100)
    # an indicator is no polynomial: little is gained and nothing lost
    late = estimate(found, "late")
    assert 0.99 <= late["gain"] < 20
    a, b = 2 + SUCCESSES, 2 + TRIALS - SUCCESSES
    truth = 1 - float(jax.scipy.special.betainc(a, b, 0.5))
    assert abs(late["mean"] - truth) < 4 * late["mcse"]
    assert estimate(zero_variance(ran, lambda draw: draw["effect"].sum()), "fn")["gain"] > 1000


def test_order_zero_is_the_plain_mean(ran):
    got = estimate(zero_variance(ran, order=0), "effect")
    np.testing.assert_array_equal(got["mean"], got["plain_mean"])
    np.testing.assert_array_equal(got["gain"], 1.0)


def test_another_kernel_of_a_potential_and_one_chain():
    mcmc = MCMC(
        NUTS(potential_fn=lambda z: jnp.sum(z["x"] ** 2 / 2 + z["x"] ** 4 / 40)),
        num_warmup=200,
        num_samples=400,
        progress_bar=False,
    )
    mcmc.run(jax.random.key(1), init_params={"x": jnp.zeros(2)})
    found = zero_variance(mcmc)
    assert found.attrs["evaluations"] == 400
    got = estimate(found, "x")
    assert np.all(np.abs(got["mean"]) < 4 * got["mcse"])
    assert np.all(got["gain"] > 3)


def test_reported_errors_cover():
    """Means of 200 sets of independent draws from a skewed law: the scores have a z of variance one."""
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(200):
        x = np.log(rng.gamma(3.0, size=(4, 250, 1)))  # log density 3 x - e^x
        a = 3.0 - np.exp(x)
        columns = np.exp(0.5 * x).reshape(-1, 1)
        fold = np.repeat(np.arange(4), 250)
        points = module.whitened_points(x.reshape(-1, 1), a.reshape(-1, 1), fold)
        (row,), _ = module.estimate([columns], points, module.affordable_orders(1, 2, 1000.0), (4, 250))
        scores.append((row[0] - 1.6616755) / row[1])  # Gamma(3.5) / Gamma(3)
        assert row[4] > 3
    inside = np.mean(np.abs(scores) < 2)
    assert 0.9 <= inside <= 0.98
    assert abs(np.mean(scores)) < 4 / np.sqrt(200)


def test_control_variates_that_lack_their_constant_are_noticed(ran, monkeypatch):
    """The wrong twin: without the Laplacian the features have a mean."""
    right = module.features

    def wrong(order, x, a):
        # x a and its mean of -1, as a user would get by leaving out lap phi; and every coefficient is wanted
        return right(order, x, a) - 2.0 * (order > 1)

    monkeypatch.setattr(module, "features", wrong)
    with pytest.warns(ZeroVarianceWarning, match="disagree by more than 5 standard errors"):
        found = zero_variance(ran, lambda draw: draw["effect"] ** 2)
    assert found.attrs["disagreeing"]


def test_bad_input(ran):
    with pytest.raises(ValueError, match="order must be 0, 1 or 2, got 3"):
        zero_variance(ran, order=3)
    with pytest.raises(ValueError, match="fn is not finite at every draw"):
        zero_variance(ran, lambda draw: jnp.log(draw["chance"] - 0.4))
    with pytest.raises(RuntimeError, match="There are no draws"):
        zero_variance(MCMC(QDE(model), num_warmup=1, num_samples=1))


def test_pieces_are_the_whole(monkeypatch):
    """Small pieces of rows and few columns at once give what one piece gives; a thinned fit nearly so."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 3.0]])
    a = -(x - x.mean(0)) @ np.linalg.inv(np.cov(x.T))
    functions = [x, np.exp(x[:, :1] / 2), x[:, :2] ** 2]
    points = module.whitened_points(x, a, np.arange(4000) // 1000)
    whole, orders = module.estimate(functions, points, [1.0, 1.5, 2.0], (4, 1000))
    monkeypatch.setattr(module, "_NUMBERS", 1000)
    monkeypatch.setattr(module, "_COLUMNS", 8000)
    pieces, again = module.estimate(functions, points, [1.0, 1.5, 2.0], (4, 1000))
    np.testing.assert_allclose(pieces, whole, rtol=1e-6)
    np.testing.assert_array_equal(orders, again)
    monkeypatch.setattr(module, "_ROWS_A_FEATURE", 400)
    unthinned, _ = module.estimate(functions, points, [2.0], (4, 1000))
    np.testing.assert_allclose(unthinned[3, 4], whole[3, 4], rtol=0.1)  # the gain of exp(x / 2)


@pytest.mark.parametrize(
    ("slow", "score", "reason"),
    [
        (
            True,
            -1.0,
            r"needs 12 effective draws, 4 for each of 3 coordinates, and x\[1\] has \d+\.",
        ),
        (False, 0.0, "fitted and make no error smaller: the density is far from Gaussian"),
        (False, -1.0, ""),
    ],
)
def test_a_summary_says_why_no_error_is_smaller(slow, score, reason, monkeypatch):
    """One slow coordinate forbids the fits of all; scores that say nothing make fits of no use."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 100, 3))
    if slow:
        x[..., 1] = np.cumsum(x[..., 1], axis=1)
    scores = score * x if score else rng.normal(size=x.shape)
    labels = tuple(f"x[{i}]" for i in range(3))
    monkeypatch.setattr(control_variates, "run_scores", lambda mcmc: RunScores(x, scores, 0, labels))
    tree = xr.DataTree.from_dict({"posterior": az.dict_to_dataset({"x": x})})
    table = RunStatistics(object(), tree=tree).table
    if reason:
        assert re.search(reason, table.attrs["no_zero_variance"])
        assert "zv_gain" not in table
    else:
        assert (table["zv_gain"] > 100).all()
