"""The fit by elimination: exact where conditionals are Gaussian, from points that are no draws."""

import numpy as np
import pytest

from qdesampler.numerics.triangular_map import pull_back, to_map
from qdesampler.solvers.quadratic.elimination import eliminate
from qdesampler.solvers.quadratic.sample import Sample


def funnel_scores(points):
    """Of `theta = points[:, 0]` with deviation 3 and others of variance `exp(theta)`."""
    theta, others = points[:, 0], points[:, 1:]
    squares = np.sum(others**2, 1) * np.exp(-theta)
    first = -theta / 9 + 0.5 * squares - 0.5 * others.shape[1]
    return np.column_stack([first, -others * np.exp(-theta)[:, None]])


def chain_scores(points):
    """`x1 ~ N(0, 1)`, `x2 | x1 ~ N(x1^2, .1)`, `x3 | x2 ~ N(x2 / 2, 1)`, in the order x3, x1, x2."""
    x3, x1, x2 = points.T
    bend, line = (x2 - x1**2) / 0.1, x3 - x2 / 2
    return np.stack([-line, -x1 + 2 * x1 * bend, -bend + line / 2], 1)


def elsewhere(scores, centre, count=200):
    """Uniform points about a centre, which no density has drawn."""
    points = np.asarray(centre) + np.random.default_rng(0).uniform(-2, 2, (count, len(centre)))
    return Sample(points, scores(points), np.ones(count), float(count))


def residual(law, scores, points):
    v, _ = to_map(law, points)
    return np.abs(v + pull_back(law, v, scores(points)))


def test_bends_are_found_exactly_from_points_that_are_no_draws():
    law = eliminate(elsewhere(chain_scores, (1.0, 0.0, 1.0)))
    assert list(law.order) == [1, 2, 0]
    far = np.random.default_rng(1).uniform(-4, 4, (50, 3))
    assert np.max(residual(law, chain_scores, far)) < 1e-4
    assert law.depth == 3


def test_a_funnel_is_found_from_its_neck():
    """The points have `theta` between -5 and -1; the map holds in the mouth, up to its bounded terms."""
    neck = elsewhere(funnel_scores, (-3.0, 0.0, 0.0, 0.0), count=400)
    points = neck.points * np.array([1.0, 0.1, 0.1, 0.1])
    law = eliminate(Sample(points, funnel_scores(points), np.ones(400), 400.0))
    assert law.order[0] == 0
    assert sorted(map(tuple, law.width_terms)) == [(1, 0), (2, 0), (3, 0)]
    v, _ = to_map(law, np.array([[0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(v[:, 0], [0.0, 1.0], atol=0.3)  # the marginal of theta, from scores alone


def test_the_twin_that_forgets_the_scores_of_the_others_is_caught(monkeypatch):
    monkeypatch.setattr("qdesampler.solvers.quadratic.elimination._eliminated", lambda *_: None)
    far = np.random.default_rng(1).uniform(-4, 4, (50, 3))
    law = eliminate(elsewhere(chain_scores, (1.0, 0.0, 1.0)))
    assert np.max(residual(law, chain_scores, far)) > 1e-2


def test_noise_in_the_scores_makes_no_terms():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(300, 6))
    law = eliminate(Sample(points, -points + 0.3 * rng.normal(size=points.shape), np.ones(300), 300.0))
    assert len(law.shift_terms) + len(law.width_terms) <= 2


def test_scores_without_units_are_refused():
    points = np.random.default_rng(3).normal(size=(50, 2))
    with np.errstate(all="ignore"), pytest.raises(np.linalg.LinAlgError):
        eliminate(Sample(points, points * np.inf, np.ones(50), 50.0))
