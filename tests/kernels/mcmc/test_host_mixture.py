"""The mixture on the host: invariance, a wrong twin, division into chunks, resting iterations."""

import numpy as np
import pytest
from scipy import stats

from qdesampler.kernels.mcmc import host_mixture
from qdesampler.kernels.mcmc.host_mixture import HostMixture, Schedule, walk
from qdesampler.kernels.mcmc.host_trajectories import DYNAMICS, Chains
from qdesampler.kernels.mcmc.integrators import INTEGRATORS
from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import HostMetric

CHAINS = 4000


def logistic(points):
    """Independent logistic laws: heavier tails than the trial's bulk, a known distribution function."""
    values = -np.sum(points + 2 * np.log1p(np.exp(-points)), 1)
    return values, -np.tanh(points / 2)


def mixture(probability, **options):
    dim = 2
    metric = HostMetric(np.array([1.0, 2.5]), np.zeros((dim, 0)), np.ones(0))
    trial = host_trial(np.array([0.5, -0.5]), metric, 0.1)
    settings = {"step_size": 0.9, "length": 1.7, "candidates": 2, "moves": 2, "most_steps": 100} | options
    return HostMixture(
        trial,
        probability=probability,
        dynamics=DYNAMICS["canonical"],
        integrator=INTEGRATORS["leapfrog"],
        **settings,
    )


def schedule(first, count, active=lambda index: True):
    return Schedule(first, count, active, lambda index, move: np.random.default_rng([7, index, move]))


def exact_chains():
    points = np.random.default_rng(1).logistic(size=(CHAINS, 2))
    return Chains(points, *logistic(points))


def as_given(points):
    return points


@pytest.mark.parametrize("probability", [0.0, 1.0, 0.5])
def test_exact_draws_stay_exact(probability):
    made = walk(logistic, as_given, exact_chains(), mixture(probability), schedule(0, 8))
    moved = made.positions[-1]
    assert np.mean(np.any(moved != exact_chains().positions, 1)) > 0.5
    for column in moved.T:
        assert stats.kstest(column, "logistic").pvalue > 1e-3


def test_the_twin_without_the_density_of_the_trial_is_caught(monkeypatch):
    monkeypatch.setattr(host_mixture, "log_trial_rows", lambda trial, points: np.zeros(len(points)))
    made = walk(logistic, as_given, exact_chains(), mixture(1.0), schedule(0, 8))
    assert min(stats.kstest(column, "logistic").pvalue for column in made.positions[-1].T) < 1e-6


def test_the_division_of_a_run_does_not_change_it():
    start = Chains(*(part[:4] for part in exact_chains()))
    whole = walk(logistic, as_given, start, mixture(0.5), schedule(0, 12))
    first = walk(logistic, as_given, start, mixture(0.5), schedule(0, 5))
    middle = Chains(first.positions[-1], first.log_densities[-1], first.scores[-1])
    second = walk(logistic, as_given, middle, mixture(0.5), schedule(5, 7))
    for name in whole._fields:
        joined = np.concatenate([getattr(first, name), getattr(second, name)])
        assert np.array_equal(joined, getattr(whole, name)), name


def test_iterations_that_rest_cost_nothing_and_move_nothing():
    start = Chains(*(part[:4] for part in exact_chains()))
    made = walk(logistic, as_given, start, mixture(0.5), schedule(0, 6, lambda index: index < 2))
    assert np.all(made.num_evals[:2] > 0)
    assert np.all(made.num_evals[2:] == 0)
    assert np.array_equal(made.positions[1], made.positions[-1])


def test_every_evaluation_is_counted():
    calls = []

    def counted(points):
        calls.append(len(points))
        return logistic(points)

    start = Chains(*(part[:4] for part in exact_chains()))
    made = walk(counted, as_given, start, mixture(0.5), schedule(0, 20))
    assert sum(calls) == 4 * np.sum(made.num_evals)


def test_the_first_candidate_is_taken_where_the_start_is_to_be_forgotten():
    far = np.full((4, 2), 30.0)
    values, scores = logistic(far)
    start = Chains(far, values + 1000, scores)  # so much above the trial that no candidate would be taken
    kept = walk(logistic, as_given, start, mixture(1.0), schedule(0, 1))
    left = walk(logistic, as_given, start, mixture(1.0), schedule(0, 1), forget=True)
    assert np.all(kept.positions[0] == far)
    assert np.all(np.abs(left.positions[0]) < 30)


def test_points_without_density_are_never_entered():
    def half(points):
        values, scores = logistic(points)
        inside = points[:, 0] > 0
        return np.where(inside, values, np.nan), np.where(inside[:, None], scores, np.nan)

    points = np.abs(np.random.default_rng(0).logistic(size=(200, 2)))
    made = walk(half, as_given, Chains(points, *half(points)), mixture(0.5), schedule(0, 20))
    assert np.all(made.positions[..., 0] > 0)
    assert np.all(np.isfinite(made.log_densities))
