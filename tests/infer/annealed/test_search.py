"""The walkers' legs: what a first one overlooks, a pilot that is enough, and one that is not."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.diagnostics.checks.ladder import ladder_findings
from qdesampler.infer.annealed.evidence import evidence_report, ladder_of
from qdesampler.infer.annealed.kernel import AnnealedQDE
from qdesampler.infer.annealed.population import Start
from qdesampler.infer.annealed.search import MOST_LEGS, search
from qdesampler.kernels.paths.path import GeometricPath
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.mode_search import PEAKS
from qdesampler.kernels.smc.persistent_sampling import WalkerSettings, run_walkers
from qdesampler.kernels.smc.reference_fit import FittedReference
from qdesampler.kernels.tempering.schedule import direct_acceptance

ROWS, SLOPES, PRIOR, NOISE = 40, 4, 50.0, 0.3


def regression_data():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, SLOPES))
    return x, x @ np.array([1.0, -2.0, 0.5, 3.0]) + NOISE * rng.normal(size=ROWS)


def regression(x, y):
    """Known noise and a prior that is a thousand times as wide as the posterior."""
    slopes = numpyro.sample("slopes", dist.Normal(0, PRIOR).expand([SLOPES]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ slopes, NOISE), obs=y)


def test_one_plain_mode_far_inside_its_prior_is_found_for_little(run):
    x, y = regression_data()
    mcmc = run(AnnealedQDE(regression), x, y, warmup=64, samples=500, chains=4)
    covariance = NOISE**2 * np.eye(ROWS) + PRIOR**2 * x @ x.T
    truth = -0.5 * (
        y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1] + ROWS * np.log(2 * np.pi)
    )
    report, ladder = evidence_report(mcmc), ladder_of(mcmc)
    assert ladder.fractions.shape[1] == 2
    assert np.all(ladder.num_steps <= 4)
    # one leg from the prior leaves walkers nats away from the truth
    assert abs(report.walkers - truth) < 0.15
    assert abs(report.value - truth) < 4 * report.standard_error + 2e-3
    assert not ladder_findings(mcmc)
    assert int(np.sum(mcmc.last_state.warmup_evals)) < 12_000
    posterior = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(SLOPES) / PRIOR**2)
    draws = np.asarray(mcmc.get_samples()["slopes"], float)
    mean = posterior @ x.T @ y / NOISE**2
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(np.diag(posterior) / 500))


@pytest.fixture
def trail():
    """A leg without walkers: it finds the evidences it is told, in order, and notes how it was asked."""
    asked, begun = [], []
    zero = jnp.zeros((2,))

    def make(evidences, *, components=16, direct=0.5, hidden=0.0, alone=False, centre=0.0):
        wide = references.broad(jnp.zeros(1), jnp.ones(1), PEAKS + 1)
        evaluate = jax.value_and_grad(lambda x: -0.5 * jnp.sum(x**2))
        small = WalkerSettings(walkers=16, stages=2)
        one = jax.jit(jax.vmap(lambda k: run_walkers(k, evaluate, wide, GeometricPath(), small)))(
            jax.random.split(jax.random.key(0), 2)
        )

        def leg(keys, begin, settings, rich, look):
            number = len(asked)
            asked.append((settings.walkers, rich, look))
            begun.append(begin)
            shift = jnp.asarray(evidences[number], jnp.float32)[:, None]
            walkers = one._replace(log_mixture=one.log_mixture - shift)
            fit = FittedReference(
                wide._replace(means=wide.means + centre),
                jnp.asarray(components[number] if isinstance(components, list) else components),
                jnp.zeros(()),
                jnp.asarray(hidden if number == 0 else 0.0),
                jnp.asarray(alone),
                jnp.zeros((), int),
            )
            return Start(walkers, wide, fit, zero, zero, zero, jnp.full(2, direct), jnp.full(2, 10))

        return leg, wide

    return make, asked, begun


def found_by(leg, wide, pilot=False, again=lambda found: True):
    keys = jax.random.split(jax.random.key(0), 2)
    return search(leg, keys, wide, GeometricPath(), WalkerSettings(walkers=256), pilot, again)


def test_legs_end_when_the_evidence_has_settled(trail):
    make, asked, _ = trail
    found = found_by(*make([(0, 0.1), (2, 2.1), (2.5, 2.6), (2.55, 2.6), (9, 9)], hidden=0.4))
    assert len(asked) == 4
    # a second look, as the first one found a mode; the second found none
    assert [look for _, _, look in asked] == [True, True, False, False]
    assert np.all(np.asarray(found.num_evals) == 40)
    assert float(found.fit.hidden_share) == pytest.approx(0.4)  # what the first leg's descents found is told


def test_legs_that_do_not_settle_are_as_many_as_are_allowed(trail):
    make, asked, _ = trail
    found_by(*make([(number, number) for number in range(20)]))
    assert len(asked) == MOST_LEGS


def test_no_leg_starts_from_a_reference_that_is_not_taken(trail):
    make, asked, _ = trail
    found_by(*make([(0, 0.1), (5, 5)]), again=lambda found: False)
    assert len(asked) == 1


def test_a_pilot_is_enough_only_where_it_saw_one_gaussian(trail):
    make, asked, _ = trail
    found_by(*make([(0, 0.1)] * 3, components=1, direct=0.9), pilot=True)
    assert asked == [(64, False, True), (64, False, False)]
    for other in ({"components": 16}, {"hidden": 0.3}, {"direct": 0.5}):
        asked.clear()
        found = found_by(*make([(0, 0.1)] * 5, **{"components": 1, "direct": 0.9} | other), pilot=True)
        assert asked[0] == (64, False, True)
        assert asked[-1][:2] == (256, True)
        assert np.all(np.asarray(found.num_evals) == 10 * len(asked))


def test_a_pilot_goes_on_from_the_only_top_that_descents_found(trail):
    make, asked, begun = trail
    evidences = [(-40, -40.1), (0, 0.01)]
    found = found_by(*make(evidences, components=1, direct=0.9, hidden=0.9, alone=True), pilot=True)
    assert asked == [(64, False, True), (64, False, False)]
    assert np.allclose(np.exp(begun[1].log_weights), [0.95, *[0] * (PEAKS - 1), 0.05])
    assert float(found.fit.hidden_share) == 0
    # several tops; or a first leg that saw as much outside of what comes of the only one
    for other in ({"alone": False}, {"alone": True, "centre": 100.0, "first": 0.0}):
        asked.clear()
        evidences = [(other.pop("first", -40),) * 2] + [(0, 0.1)] * 12
        found_by(*make(evidences, components=1, direct=0.9, hidden=0.9, **other), pilot=True)
        assert asked[-1][:2] == (256, True)


def test_a_pilot_whose_second_leg_went_astray_walks_it_once_more_and_looks_elsewhere(trail):
    make, asked, _ = trail
    astray = [1, 16, 1] + [16] * 9
    found = found_by(*make([(0, 0.1)] * 12, components=astray, direct=0.9), pilot=True)
    assert asked == [(64, False, True)] + [(64, False, False)] * 2
    assert np.all(np.asarray(found.num_evals) == 30)
    # twice astray, or not all of what the first leg saw is in what comes of it
    for components, centre in (([1] + [16] * 11, 0.0), (astray, 100.0)):
        asked.clear()
        evidences = [(0, 0.1)] * 12
        found_by(*make(evidences, components=components, direct=0.9, centre=centre), pilot=True)
        assert [walkers for walkers, _, _ in asked[:4]] == [64, 64, 64, 256]


def test_with_one_top_alone_a_settled_pilot_needs_less_acceptance(trail):
    make, asked, _ = trail
    for alone, direct, walkers in ((True, 0.5, 64), (False, 0.5, 256), (True, 0.25, 256)):
        asked.clear()
        found_by(*make([(0, 0.1)] * 12, components=1, direct=direct, alone=alone), pilot=True)
        assert asked[-1][0] == walkers


def test_fresh_draws_of_the_target_itself_are_all_accepted_and_of_a_shifted_one_few():
    wide = references.broad(jnp.zeros(2), jnp.ones(2), 2)
    path, settings = GeometricPath(), WalkerSettings(walkers=64, stages=4)

    def accepted(shift):
        evaluate = jax.value_and_grad(lambda x: -0.5 * jnp.sum((x - shift) ** 2))
        walkers = run_walkers(jax.random.key(0), evaluate, wide, path, settings)
        return direct_acceptance(jax.random.key(1), walkers, evaluate, wide, path, 256)

    values = jax.jit(jax.vmap(accepted))(jnp.asarray([0.0, 2.0]))
    assert float(values[0]) > 0.999
    # the harmonic mean is below the mean, 2 Phi(-d / sqrt 2) for Gaussians d = 2 sqrt 2 apart
    assert 0 < float(values[1]) < 0.0455
