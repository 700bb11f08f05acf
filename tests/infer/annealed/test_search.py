"""Passes of particles: what a first one misses, a pilot that suffices, and one that does not."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.diagnostics.checks.ladder import ladder_findings
from qdesampler.infer.annealed.evidence import evidence_report, ladder_of
from qdesampler.infer.annealed.kernel import AnnealedQDE
from qdesampler.infer.annealed.population import PassResult
from qdesampler.infer.annealed.search import MAX_PASSES, anneal_until_settled
from qdesampler.kernels.paths.path import GeometricPath
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.mode_search import MAX_MISSED_MODES
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings, run_persistent_sampling
from qdesampler.kernels.smc.reference_fit import FittedReference
from qdesampler.kernels.tempering.schedule import reference_acceptance

ROWS, SLOPES, PRIOR, NOISE = 40, 4, 50.0, 0.3


def regression_data():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, SLOPES))
    return x, x @ np.array([1.0, -2.0, 0.5, 3.0]) + NOISE * rng.normal(size=ROWS)


def regression(x, y):
    """Known noise and a prior that is a thousand times as wide as the posterior."""
    slopes = numpyro.sample("slopes", dist.Normal(0, PRIOR).expand([SLOPES]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ slopes, NOISE), obs=y)


@pytest.mark.slow
def test_one_gaussian_mode_far_inside_its_prior_is_found_for_little(run):
    x, y = regression_data()
    mcmc = run(AnnealedQDE(regression), x, y, warmup=64, samples=500, chains=4)
    covariance = NOISE**2 * np.eye(ROWS) + PRIOR**2 * x @ x.T
    truth = -0.5 * (
        y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1] + ROWS * np.log(2 * np.pi)
    )
    report, ladder = evidence_report(mcmc), ladder_of(mcmc)
    assert ladder.betas.shape[1] == 2
    assert np.all(ladder.num_steps <= 4)
    # one pass from the prior leaves particles nats away from the truth
    assert abs(report.by_particles - truth) < 0.15
    assert abs(report.value - truth) < 4 * report.standard_error + 2e-3
    assert not ladder_findings(mcmc)
    assert int(np.sum(mcmc.last_state.warmup_evals)) < 12_000
    posterior = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(SLOPES) / PRIOR**2)
    draws = np.asarray(mcmc.get_samples()["slopes"], float)
    mean = posterior @ x.T @ y / NOISE**2
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(np.diag(posterior) / 500))


@pytest.fixture
def trail():
    """A pass without sampling: it finds the evidences it is given, in order, and notes its arguments."""
    asked, starts = [], []
    zero = jnp.zeros((2,))

    def make(evidences, *, components=16, accepted=0.5, missed=0.0, unimodal=False, centre=0.0):
        prior = references.gaussian_reference(jnp.zeros(1), jnp.ones(1), MAX_MISSED_MODES + 1)
        evaluate = jax.value_and_grad(lambda x: -0.5 * jnp.sum(x**2))
        small = ParticleSettings(num_particles=16, stages=2)
        path = GeometricPath()
        one = jax.jit(jax.vmap(lambda k: run_persistent_sampling(k, evaluate, prior, path, small)))(
            jax.random.split(jax.random.key(0), 2)
        )

        def run_pass(keys, init, settings, *, with_mixtures, search_modes):
            number = len(asked)
            asked.append((settings.num_particles, with_mixtures, search_modes))
            starts.append(init)
            shift = jnp.asarray(evidences[number], jnp.float32)[:, None]
            particles = one._replace(log_mixture=one.log_mixture - shift)
            fit = FittedReference(
                prior._replace(means=prior.means + centre),
                jnp.asarray(components[number] if isinstance(components, list) else components),
                jnp.zeros(()),
                jnp.asarray(missed if number == 0 else 0.0),
                jnp.asarray(unimodal),
                jnp.zeros((), int),
            )
            return PassResult(particles, prior, fit, zero, zero, zero, jnp.full(2, accepted), jnp.full(2, 10))

        return run_pass, prior

    return make, asked, starts


def found_by(run_pass, prior, pilot=False, may_continue=lambda result: True):
    keys = jax.random.split(jax.random.key(0), 2)
    return anneal_until_settled(
        run_pass,
        keys,
        prior,
        GeometricPath(),
        ParticleSettings(num_particles=256),
        pilot=pilot,
        may_continue=may_continue,
    )


@pytest.mark.slow
def test_passes_end_when_the_evidence_has_settled(trail):
    make, asked, _ = trail
    found = found_by(*make([(0, 0.1), (2, 2.1), (2.5, 2.6), (2.55, 2.6), (9, 9)], missed=0.4))
    assert len(asked) == 4
    # the second pass searches again, as the first one missed a mode; it finds none
    assert [searched for _, _, searched in asked] == [True, True, False, False]
    assert np.all(np.asarray(found.num_evals) == 40)
    assert float(found.fit.missed_mass) == pytest.approx(0.4)  # what the first pass missed is reported


@pytest.mark.slow
def test_passes_that_do_not_settle_are_as_many_as_are_allowed(trail):
    make, asked, _ = trail
    found_by(*make([(number, number) for number in range(20)]))
    assert len(asked) == MAX_PASSES


def test_no_pass_starts_from_a_reference_that_is_not_taken(trail):
    make, asked, _ = trail
    found_by(*make([(0, 0.1), (5, 5)]), may_continue=lambda result: False)
    assert len(asked) == 1


@pytest.mark.slow
def test_a_pilot_suffices_only_if_it_saw_one_gaussian(trail):
    make, asked, _ = trail
    found_by(*make([(0, 0.1)] * 3, components=1, accepted=0.9), pilot=True)
    assert asked == [(64, False, True), (64, False, False)]
    for other in ({"components": 16}, {"missed": 0.3}, {"accepted": 0.5}):
        asked.clear()
        found = found_by(*make([(0, 0.1)] * 5, **{"components": 1, "accepted": 0.9} | other), pilot=True)
        assert asked[0] == (64, False, True)
        assert asked[-1][:2] == (256, True)
        assert np.all(np.asarray(found.num_evals) == 10 * len(asked))


@pytest.mark.slow
def test_a_pilot_continues_from_the_only_mode_that_descents_found(trail):
    make, asked, starts = trail
    evidences = [(-40, -40.1), (0, 0.01)]
    found = found_by(*make(evidences, components=1, accepted=0.9, missed=0.9, unimodal=True), pilot=True)
    assert asked == [(64, False, True), (64, False, False)]
    assert np.allclose(np.exp(starts[1].log_weights), [0.95, *[0] * (MAX_MISSED_MODES - 1), 0.05])
    assert float(found.fit.missed_mass) == 0
    # several modes; or a first pass that found as much mass outside the final reference
    for other in ({"unimodal": False}, {"unimodal": True, "centre": 100.0, "first": 0.0}):
        asked.clear()
        evidences = [(other.pop("first", -40),) * 2] + [(0, 0.1)] * 12
        found_by(*make(evidences, components=1, accepted=0.9, missed=0.9, **other), pilot=True)
        assert asked[-1][:2] == (256, True)


@pytest.mark.slow
def test_a_pilot_whose_second_pass_went_astray_repeats_it_and_checks_the_mass_outside(trail):
    make, asked, _ = trail
    astray = [1, 16, 1] + [16] * 9
    found = found_by(*make([(0, 0.1)] * 12, components=astray, accepted=0.9), pilot=True)
    assert asked == [(64, False, True)] + [(64, False, False)] * 2
    assert np.all(np.asarray(found.num_evals) == 30)
    # astray twice, or the first pass found mass outside the final reference
    for components, centre in (([1] + [16] * 11, 0.0), (astray, 100.0)):
        asked.clear()
        evidences = [(0, 0.1)] * 12
        found_by(*make(evidences, components=components, accepted=0.9, centre=centre), pilot=True)
        assert [particles for particles, _, _ in asked[:4]] == [64, 64, 64, 256]


@pytest.mark.slow
def test_with_a_single_mode_a_settled_pilot_needs_less_acceptance(trail):
    make, asked, _ = trail
    for unimodal, accepted, particles in ((True, 0.5, 64), (False, 0.5, 256), (True, 0.25, 256)):
        asked.clear()
        found_by(*make([(0, 0.1)] * 12, components=1, accepted=accepted, unimodal=unimodal), pilot=True)
        assert asked[-1][0] == particles


@pytest.mark.slow
def test_fresh_draws_of_the_target_itself_are_all_accepted_and_of_a_shifted_one_few():
    prior = references.gaussian_reference(jnp.zeros(2), jnp.ones(2), 2)
    path, settings = GeometricPath(), ParticleSettings(num_particles=64, stages=4)

    def accepted(shift):
        evaluate = jax.value_and_grad(lambda x: -0.5 * jnp.sum((x - shift) ** 2))
        particles = run_persistent_sampling(jax.random.key(0), evaluate, prior, path, settings)
        return reference_acceptance(jax.random.key(1), particles, evaluate, prior, path, 256)

    values = jax.jit(jax.vmap(accepted))(jnp.asarray([0.0, 2.0]))
    assert float(values[0]) > 0.999
    # the harmonic mean is below the mean, 2 Phi(-d / sqrt 2) for Gaussians d = 2 sqrt 2 apart
    assert 0 < float(values[1]) < 0.0455
