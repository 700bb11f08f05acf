"""The search before a ladder: its parts in order, when passes end, and what is refused."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.bench.targets.evidence import mixture_40
from qdesampler.diagnostics.checks.ladder import MOST_SURPRISING, ladder_findings
from qdesampler.infer.annealed import search
from qdesampler.infer.annealed.evidence import evidence_report, ladder_of
from qdesampler.infer.annealed.kernel import AnnealedQDE
from qdesampler.infer.annealed.reference_fit import KINDS, FittedReference
from qdesampler.infer.annealed.search import MAX_PASSES, SearchSettings, check_arrival, prepare_ladder
from qdesampler.kernels.references.path import GeometricPath
from qdesampler.kernels.references.reference import gaussian_reference
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings, anneal
from qdesampler.numerics.evaluator import Evaluator
from tests.infer.annealed.mixtures import mixture

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
    assert abs(report.by_particles - truth) < 0.15
    assert abs(report.value - truth) < 4 * report.standard_error + 2e-3
    assert not ladder_findings(mcmc)
    assert int(np.sum(mcmc.last_state.warmup_evals)) < 1_500
    posterior = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(SLOPES) / PRIOR**2)
    draws = np.asarray(mcmc.get_samples()["slopes"], float)
    mean = posterior @ x.T @ y / NOISE**2
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(np.diag(posterior) / 500))


SETTINGS = SearchSettings(ParticleSettings(num_particles=64), "auto", True, None, 40, 200, 0.8)


def found_in(target, scale=3.0, seed=0, **changes):
    """What the search finds, and the words it said."""
    said: list[str] = []
    evaluate = Evaluator(target, 3)
    prior = gaussian_reference(np.zeros(3), np.full(3, scale))
    settings = SETTINGS._replace(**changes)
    rng = np.random.default_rng(seed)
    return prepare_ladder(evaluate, prior, GeometricPath(), settings, rng, said.append), said


def test_one_mode_is_solved_and_has_two_rungs():
    found, said = found_in(mixture((1.0, 0.5, 1.0)))
    assert found.kind == KINDS["trial"]
    np.testing.assert_array_equal(found.tuned.betas, [0, 1])
    assert [words.split(",")[0] for words in said] == ["solve", "ladder of 2 rungs"]
    assert abs(np.mean(found.log_evidences)) < 0.1
    assert found.num_evals < 1500


def test_two_modes_are_annealed_until_the_evidence_settles():
    found, said = found_in(mixture((2.5, 0.5, 0.3), (-2.5, 0.5, 0.7)))
    assert found.kind > 1
    assert said[1].startswith("particles")
    assert abs(np.mean(np.exp(found.log_evidences)) - 1) < 0.2
    last = found.tuned.starts.positions[-32:, 0]
    assert 2 <= np.sum(last > 0) <= 20


def test_parts_can_be_left_out():
    target = mixture((2.5, 0.5, 0.3), (-2.5, 0.5, 0.7))
    _, said = found_in(target, without=("pilot", "settle"))
    assert [words.split(",")[0] for words in said][:2] == ["particles", said[1].split(",")[0]]
    assert len(said) == 2
    found, _ = found_in(target, reference_kind="prior", num_rungs=6)
    assert found.kind == 0
    assert len(found.tuned.betas) == 6
    found, _ = found_in(target, without=("mixture",))
    assert found.kind != 16
    assert found.kind != 64


def test_a_spike_in_a_slab_is_not_taken_for_the_slab():
    found, said = found_in(mixture((0.0, 0.02, 0.9), (0.0, 1.0, 0.1)))
    assert len(said) > 2
    assert found.missed_mass > 0.5
    assert abs(np.log(np.mean(np.exp(found.log_evidences)))) < 0.2


@pytest.mark.parametrize(("particles", "surprised"), [(64, True), (256, False)])
def test_populations_too_small_for_the_modes_surprise_one_another(particles, surprised):
    """Forty modes: each population of 64 particles loses many."""
    target = mixture_40()
    evaluate = Evaluator(jax.value_and_grad(target.log_density), 2)
    prior = gaussian_reference(np.zeros(2), np.full(2, target.reference))
    settings = SETTINGS._replace(particles=ParticleSettings(num_particles=particles), without=("settle",))
    shares = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        one = search._Search(evaluate, prior, GeometricPath(), settings, rng, search._silent)
        shares.append(one.run_pass(None, search_modes=False).fit.surprising)
    assert (np.median(shares) > MOST_SURPRISING) == surprised


@pytest.fixture
def passes(monkeypatch):
    """A search whose passes find the evidences that they are given, in order."""

    def make(evidences, missed=0.0):
        asked = []
        prior = gaussian_reference(np.zeros(1), np.ones(1))
        settings = ParticleSettings(num_particles=16)
        normal = Evaluator(lambda x: (-0.5 * x @ x, -x), 1)
        annealed = anneal(np.random.default_rng(0), normal, prior, GeometricPath(), settings)

        def run_pass(self, last, *, search_modes):
            value, error = evidences[len(asked)]
            asked.append(search_modes)
            fit = FittedReference(prior, 16, 0.0, missed if len(asked) == 1 else 0.0)
            found = search._Pass(annealed, fit, 0.5)
            monkeypatch.setattr(search._Pass, "evidence", property(lambda self: (value, error)))
            return found

        monkeypatch.setattr(search._Search, "run_pass", run_pass)
        rng = np.random.default_rng(0)
        one = search._Search(normal, prior, GeometricPath(), SETTINGS, rng, search._silent)
        return one, asked

    return make


def test_passes_end_when_the_evidence_has_settled(passes):
    one, asked = passes([(0.0, 0.05), (2.0, 0.05), (2.1, 0.3), (2.15, 0.05), (9, 0)], missed=0.4)
    found = one.annealed()
    # The third agrees with the second but is uncertain; the second searches for modes again.
    assert asked == [True, True, False, False]
    assert found.fit.missed_mass == pytest.approx(0.4)  # what the first pass missed is reported


def test_passes_that_do_not_settle_are_as_many_as_are_allowed(passes):
    one, asked = passes([(number, 0.0) for number in range(20)])
    one.annealed()
    assert len(asked) == MAX_PASSES


def test_particles_that_saw_nothing_or_stopped_early_are_refused():
    rng, settings = np.random.default_rng(0), ParticleSettings(num_particles=16, stages=3)
    prior = gaussian_reference(np.zeros(1), np.ones(1))

    def nowhere(points):
        return np.full(len(points), -np.inf), np.zeros_like(points)

    def far(points):
        return -0.5 * np.sum((points - 300) ** 2, 1), 300 - points

    with pytest.raises(RuntimeError, match="No particle drawn from the prior reference"):
        check_arrival(anneal(rng, nowhere, prior, GeometricPath(), settings))
    with pytest.raises(RuntimeError, match="of the path in 3 stages"):
        check_arrival(anneal(rng, far, prior, GeometricPath(), settings))
