"""The fit of a triangular map: it finds bends and funnels, and nothing where there is nothing."""

import numpy as np
import pytest

from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import HostMetric
from qdesampler.numerics.triangular_map import pull_back, push_forward, to_map
from qdesampler.solvers.gaussian.refine import draw_and_weigh
from qdesampler.solvers.quadratic.fit import (
    BY_MOMENTS,
    coordinate_order,
    fit_steps,
    more_steps,
    plain_map,
)
from qdesampler.solvers.quadratic.sample import Sample
from qdesampler.solvers.quadratic.solve import choose_map, log_rows, solve_quadratic, weighted_sample


def gaussian(rng, count):
    factor = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.3, 2.0]])
    x = rng.normal(size=(count, 3)) @ factor.T
    precision = np.linalg.inv(factor @ factor.T)
    return x, -x @ precision


def banana(rng, count):
    """The bent coordinate stands first, so that the fit has to order them."""
    x = 10 * rng.normal(size=count)
    rest = rng.normal(size=count)
    scores = np.stack([-rest, -x / 100 + 0.06 * x * rest], 1)
    return np.stack([0.03 * (x**2 - 100) + rest, x], 1), scores


def funnel(rng, count, dim=6):
    width = rng.normal(size=count) * 3
    others = rng.normal(size=(count, dim - 1))
    score = -width / 9 + 0.5 * np.sum(others**2, 1) - 0.5 * (dim - 1)
    scores = np.concatenate([-others * np.exp(-width / 2)[:, None], score[:, None]], 1)
    return np.concatenate([others * np.exp(width / 2)[:, None], width[:, None]], 1), scores


def sample_of(target, count, seed=0):
    points, scores = target(np.random.default_rng(seed), count)
    return Sample(points, scores, np.ones(count), float(count))


def diagonal(sample):
    return plain_map(sample, np.diag(np.var(sample.points, 0)))


def misfit(law, sample):
    """Median of `|v + g|^2` a dimension, zero where the map is exact."""
    v, _ = to_map(law, sample.points)
    return float(np.median(np.mean((v + pull_back(law, v, sample.scores)) ** 2, 1)))


@pytest.mark.parametrize("target", [gaussian, banana, funnel])
def test_the_scores_of_the_test_are_those_of_its_densities(target):
    """Partial integration: `E [grad log p . x] = -dim`."""
    points, scores = target(np.random.default_rng(5), 200_000)
    terms = np.sum(points * scores, 1)
    assert abs(np.mean(terms) + points.shape[1]) < 5 * np.std(terms) / np.sqrt(len(terms))


@pytest.mark.parametrize(("target", "first"), [(banana, 1), (funnel, 5)])
def test_the_coordinate_that_predicts_others_comes_first(target, first):
    sample = sample_of(target, 400)
    scale = np.std(sample.points, 0)
    z = (sample.points - np.mean(sample.points, 0)) / scale
    assert coordinate_order(z, sample.scores * scale, sample.share, sample.effective)[0] == first


def test_a_banana_is_found_exactly():
    sample = sample_of(banana, 200)
    laws = fit_steps(sample, diagonal(sample))
    assert misfit(laws[0], sample) > 0.5
    assert misfit(laws[-1], sample_of(banana, 200, seed=1)) < 1e-6
    assert list(laws[-1].order) == [1, 0]


def test_a_funnel_is_found():
    sample, other = sample_of(funnel, 400), sample_of(funnel, 400, seed=1)
    law = fit_steps(sample, diagonal(sample))[-1]
    assert misfit(law, other) < 0.05 < misfit(diagonal(sample), other)
    assert list(law.order)[0] == 5
    of_width = law.width_terms[:, 1] == 0  # the first of the order
    assert np.sum(of_width) == 5
    np.testing.assert_allclose(law.width_slopes[of_width], 1.5, rtol=0.2)  # half of the width's deviation


def test_steps_by_scores_do_better_than_by_moments():
    sample, other = sample_of(funnel, 150), sample_of(funnel, 400, seed=1)
    laws = fit_steps(sample, diagonal(sample))
    assert misfit(laws[-1], other) < 0.3 * misfit(laws[BY_MOMENTS], other)


def test_steps_by_scores_need_no_exact_weights():
    """Candidates of a map of few draws: they have its errors, the scores there show them."""
    few, other = sample_of(banana, 40), sample_of(banana, 200, seed=1)
    law = fit_steps(few, diagonal(few))[BY_MOMENTS]
    points, _ = push_forward(law, np.random.default_rng(2).normal(size=(200, 2)))
    candidates = Sample(points, evaluate_banana(points)[1], np.ones(200), 200.0)
    moved = fit_steps(candidates, law)[BY_MOMENTS]  # by moments it stays where it is, but for noise
    assert misfit(law, other) > 1e-3
    assert misfit(more_steps(candidates, law, 4), other) < 0.01 * min(
        misfit(law, other), misfit(moved, other)
    )


def test_a_gaussian_has_no_terms_worth_keeping():
    assert choose_map(sample_of(gaussian, 300)) is None


def test_too_few_points_show_nothing():
    assert choose_map(sample_of(banana, 12)) is None


def log_banana(x):
    return -0.5 * (x[:, 1] / 10) ** 2 - 0.5 * (x[:, 0] - 0.03 * (x[:, 1] ** 2 - 100)) ** 2


def evaluate_banana(x):
    rest = x[:, 0] - 0.03 * (x[:, 1] ** 2 - 100)
    return log_banana(x), np.stack([-rest, -x[:, 1] / 100 + 0.06 * x[:, 1] * rest], 1)


def first_candidates(rng, evaluate):
    gaussian = host_trial(np.zeros(2), HostMetric(np.array([4.0, 8.0]), np.zeros((2, 0)), np.ones(0)))
    return weighted_sample(draw_and_weigh(evaluate, gaussian, rng, 300, np.float64))


def test_a_search_that_begins_with_a_gaussian_s_candidates_ends_with_the_banana():
    rng = np.random.default_rng(3)
    found = solve_quadratic(evaluate_banana, first_candidates(rng, evaluate_banana), rng, 96, np.float64)
    assert found is not None
    assert found.certificate.acceptance > 0.9
    exact, _ = banana(np.random.default_rng(4), 1000)
    weights = log_banana(exact) - np.log(2 * np.pi * 10) - log_rows(found.law, found.base, exact)
    assert abs(np.mean(weights)) < 0.05  # nats between the target and the trial, both normalised


def test_candidates_without_density_are_left_out():
    """A wall in the bulk: some of the candidates have none."""
    rng = np.random.default_rng(3)

    def evaluate(x):
        values, scores = evaluate_banana(x)
        return np.where(x[:, 1] > -10, values, -np.inf), scores

    first = first_candidates(rng, evaluate)
    assert 200 < len(first.points) < 300
    found = solve_quadratic(evaluate, first, rng, 96, np.float64)
    assert found is not None
    assert found.certificate.finite_fraction < 1
    assert found.certificate.acceptance > 0.5


@pytest.mark.parametrize("spoilt", ["constant", "steep", "one point"])
def test_points_without_a_fit_are_no_error(spoilt):
    """A coordinate that never changes, scores near the end of the numbers, one point that counts alone."""
    sample = sample_of(banana, 100)
    points, scores, weights = sample.points.copy(), sample.scores.copy(), sample.weights.copy()
    if spoilt == "constant":
        points[:, 0] = 3.0
    elif spoilt == "steep":
        scores *= 1e300
    else:
        points[:] = points[0]
    with np.errstate(all="ignore"):
        found = solve_quadratic(
            evaluate_banana, Sample(points, scores, weights, 100.0), np.random.default_rng(0), 96, np.float64
        )
    assert found is None or found.certificate.acceptance < 0.9
