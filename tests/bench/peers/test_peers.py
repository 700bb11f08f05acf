"""The peers: right draws, and a bill that agrees with a count of their calls. Skipped where not installed."""

import threading
from dataclasses import replace

import jax
import numpy as np
import pytest
from numpyro.infer import NUTS

from qdesampler.bench.__main__ import main
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.unconstrained import unconstrain, unconstrained_target
from qdesampler.bench.measurement import measure
from qdesampler.bench.peers import blackjax as blackjax_peers
from qdesampler.bench.peers import nutpie as nutpie_peer
from qdesampler.bench.peers import registry as peers
from qdesampler.bench.peers.blackjax import (
    adjusted_mclmc_runner,
    nuts_runner,
    pathfinder_runner,
    smoothed_weights,
)
from qdesampler.bench.peers.nutpie import CountedGradient, sample_with_nutpie
from qdesampler.bench.peers.registry import RUNNERS, missing_packages
from qdesampler.bench.targets.closed_form import banana, standard_gaussian
from qdesampler.infer import load_model

SCHOOLS = __file__.replace("tests/bench/peers/test_peers.py", "models/eight_schools")
ONE_CHAIN = Settings(chains=1, warmup=30, draws=20)


@pytest.fixture
def calls(monkeypatch):
    """Counts every evaluation that a BlackJAX sampler makes, by a callback in the log density."""
    counted, lock, original = [], threading.Lock(), unconstrained_target

    def tick(_):
        with lock:
            counted.append(1)

    def with_callback(*arguments):
        target = original(*arguments)

        def log_density(x):
            jax.debug.callback(tick, x[0])
            return target.log_density(x)

        return replace(target, log_density=log_density)

    monkeypatch.setattr(blackjax_peers, "unconstrained_target", with_callback)

    def total():
        jax.effects_barrier()
        return len(counted)

    return total


@pytest.mark.parametrize(
    "runner",
    [
        pytest.param(nuts_runner(dense=False), id="nuts"),
        pytest.param(adjusted_mclmc_runner(transitions=2), id="mams", marks=pytest.mark.slow),
    ],
)
def test_blackjax_s_bill_is_the_number_of_calls(runner, calls):
    pytest.importorskip("blackjax")
    outcome = runner(banana(), 3, ONE_CHAIN)
    assert outcome.draw_evals.shape == (1, 20)
    assert outcome.warmup_evals + outcome.draw_evals.sum() == calls()


def test_pathfinder_s_bill_is_its_line_searches_and_its_draws(calls):
    pytest.importorskip("blackjax")
    elbo_draws, iterations = 4, 3
    runner = pathfinder_runner(elbo_draws=elbo_draws, max_iterations=iterations)
    outcome = runner(banana(), 3, Settings(chains=2, warmup=1, draws=15))
    padded = 2 * (iterations + 1) * elbo_draws
    line_searches = calls() - padded - 2 * 15
    elbo = outcome.warmup_evals - line_searches
    assert line_searches >= 2 * (iterations + 1)
    assert elbo % elbo_draws == 0
    assert 2 * elbo_draws <= elbo <= 2 * iterations * elbo_draws
    assert outcome.draw_evals.sum() == 2 * 15
    assert np.exp(outcome.log_weights).sum() == pytest.approx(1.0)


def test_nutpie_s_bill_is_its_own_steps_and_the_search_for_a_start():
    pytest.importorskip("nutpie")
    settings = Settings(chains=2, warmup=1, draws=50)
    case = banana()
    outcome, tuning = sample_with_nutpie(case, 0, settings, low_rank=False, tune=60)
    assert outcome.draw_evals.shape == (2, 50)
    assert 2 <= outcome.warmup_evals - tuning <= 2 * 40
    again, _ = sample_with_nutpie(case, 0, settings, low_rank=False, tune=60)
    np.testing.assert_array_equal(again.samples["x2"], outcome.samples["x2"])  # threads change nothing
    other, _ = sample_with_nutpie(case, 1, settings, low_rank=False, tune=60)
    assert not np.array_equal(other.samples["x2"], outcome.samples["x2"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel", ["blackjax-nuts-dense", "blackjax-mams-8", "blackjax-pathfinder", "nutpie-low-rank"]
)
def test_a_peer_s_good_run(kernel):
    pytest.importorskip(kernel.split("-")[0])
    record = measure(standard_gaussian(3), kernel, 1, Settings(4, 300, 500))
    assert record.status == "ok"
    assert record.dim == 3
    assert record.ess > 200
    assert record.error_se < 5
    assert record.sd_error < 0.2
    assert record.warmup_evals > 0
    assert (record.pareto_k is None) == (kernel != "blackjax-pathfinder")


def test_starts_are_nuts_s_own():
    case = load_model(SCHOOLS)
    kernel = NUTS(case.model)
    state = kernel.init(jax.random.split(jax.random.key(5), 3), 10, None, (), case.data)
    target = unconstrained_target(case, 5, 3)
    z = np.concatenate([np.asarray(state.z[site]).reshape(3, -1) for site in sorted(state.z)], axis=1)
    np.testing.assert_allclose(target.starts, z, rtol=1e-6)
    energies = -jax.jit(jax.vmap(target.log_density))(target.starts)
    np.testing.assert_allclose(energies, state.potential_energy, rtol=1e-5)


def test_constrained_draws_go_back():
    case = load_model(SCHOOLS)
    target = unconstrained_target(case, 0, 2)
    x = np.random.default_rng(0).standard_normal((2, 4, target.dim))
    samples = target.constrain(x)
    assert (samples["tau"] > 0).all()
    found = unconstrain(case, {site: samples[site] for site in target.sites})
    flat = np.concatenate([found[site].reshape(2, 4, -1) for site in sorted(found)], axis=-1)
    np.testing.assert_allclose(flat, x, rtol=1e-4, atol=1e-5)


def test_counted_gradient():
    gradient = CountedGradient(lambda x: -(x**2).sum(), jax.numpy.ones(2))
    value, slope = gradient(np.array([1.0, 2.0]))
    assert (value, gradient.calls) == (-5.0, 1)
    assert slope.dtype == np.float64
    np.testing.assert_allclose(slope, [-2.0, -4.0])


def test_smoothed_weights():
    rng = np.random.default_rng(0)
    log_weights, k = smoothed_weights(0.1 * rng.standard_normal((2, 500)))
    assert np.exp(log_weights).sum() == pytest.approx(1.0)
    assert k < 0.5
    heavy = rng.pareto(1.0, (2, 500))  # a tail index of 1
    assert smoothed_weights(np.log(heavy))[1] > 0.7
    some = np.zeros((2, 500))
    some[0, 0] = -np.inf
    assert smoothed_weights(some)[0][0, 0] == -np.inf
    assert smoothed_weights(some)[1] == -np.inf  # equal ratios have no tail
    with pytest.raises(ValueError, match="expected at least 25"):
        smoothed_weights(np.zeros((2, 12)))
    for broken in (np.nan, np.inf):
        some[0, 0] = broken
        with pytest.raises(FloatingPointError):
            smoothed_weights(some)


def test_a_missing_package_is_explained_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert missing_packages(["qde", "nutpie-low-rank"]) == ["nutpie"]
    assert missing_packages(["qde", "nuts"]) == []
    with pytest.raises(SystemExit):
        main(["--kernels", "qde,blackjax-nuts"])
    assert "needs blackjax, not installed here: pip install 'qdesampler[bench]'" in capsys.readouterr().err


@pytest.mark.parametrize("kernel", ["blackjax-nuts", "nutpie"])
def test_a_missing_package_makes_a_failed_row(kernel, monkeypatch):
    def missing():
        raise ImportError("it is not installed")

    monkeypatch.setattr(blackjax_peers, "_blackjax", missing)
    monkeypatch.setattr(nutpie_peer, "_nutpie", missing)
    record = measure(standard_gaussian(1), kernel, 0, Settings(1, 5, 8))
    assert record.status == "failed: ImportError: it is not installed"


def test_every_runner_of_an_optional_package_is_named_for_it():
    optional = {name.split("-")[0] for name in RUNNERS} - {"annealed", "qde", "nuts"}
    assert optional == set(peers.PACKAGES)
