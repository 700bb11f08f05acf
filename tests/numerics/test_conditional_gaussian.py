"""Conditionally Gaussian targets: found from scores, and made independent by their map."""

import numpy as np
import pytest
from scipy.linalg import cho_factor, cho_solve

from qdesampler.numerics.conditional_gaussian import find_conditional_gaussian, holds_at, scales_of
from qdesampler.numerics.triangular_map import pull_back, push_forward, to_map

FIELD = 6
RNG = np.random.default_rng(5)
ROOTS = RNG.normal(size=(3, FIELD, FIELD))
SOURCES = np.einsum("kij,klj->kil", ROOTS, ROOTS)
MEANS = 2 * RNG.normal(size=(3, FIELD))
EXPONENTS = np.array([[1.0, 0.0], [-0.5, 1.0], [0.0, 0.5]])
PLACE = np.r_[0.2, -0.1, RNG.normal(size=FIELD)]


class Target:
    """`p(t) prod_k N(x; m_k, exp(2 e_k.t) A_k^-1)`, `t` the first two coordinates; scores by hand."""

    def __init__(self, sources, cubic=0.0):
        self.sources, self.cubic, self.spent = sources, cubic, 0

    def __call__(self, points):
        self.spent += len(points)
        t, x = points[:, :2], points[:, 2:]
        values = -np.cosh(t[:, 0]) - 0.5 * t[:, 1] ** 2
        by_t, by_x = np.stack([-np.sinh(t[:, 0]), -t[:, 1]], 1), np.zeros_like(x)
        for k in self.sources:
            size = np.exp(-2 * t @ EXPONENTS[k])[:, None]
            pull = (x - MEANS[k]) @ SOURCES[k]
            square = np.sum((x - MEANS[k]) * pull, 1, keepdims=True)
            values += -0.5 * (size * square)[:, 0] - FIELD * t @ EXPONENTS[k]
            by_x -= size * pull
            by_t += (size * square - FIELD) * EXPONENTS[k]
        values += self.cubic * np.sin(x[:, 0])
        by_x[:, 0] += self.cubic * np.cos(x[:, 0])
        return values, np.concatenate([by_t, by_x], 1)

    def conditional(self, t):
        """Mean and covariance of `x` given `t`."""
        sizes = np.exp(-2 * EXPONENTS[list(self.sources)] @ t)
        precision = np.tensordot(sizes, SOURCES[list(self.sources)], 1)
        pull = sum(size * SOURCES[k] @ MEANS[k] for size, k in zip(sizes, self.sources, strict=True))
        factor = cho_factor(precision)
        return cho_solve(factor, pull), cho_solve(factor, np.eye(FIELD))


def found(target, place=PLACE):
    return find_conditional_gaussian(target, place, np.zeros(len(place)), np.random.default_rng(0))


def far_points(law, count=50):
    """Of the map, at scales far from those where it was fitted."""
    v = np.random.default_rng(1).normal(size=(count, 2 + FIELD))
    x, _ = push_forward(law, v)
    x[:, :2] = np.random.default_rng(2).uniform(-4, 4, (count, 2))
    v = to_map(law, x)[0]
    v[:, 2:] = np.random.default_rng(3).normal(size=(count, FIELD))
    return v


def rest(law, target):
    """`v + d log p / dv` of the Gaussian coordinates, zero where they are standard normal, at far points."""
    v = far_points(law)
    scores = pull_back(law, v, target(push_forward(law, v)[0])[1])
    return (v + scores)[:, 2:]


def test_the_scores_of_the_test_are_those_of_its_density():
    target, step = Target((0, 1), cubic=0.3), 1e-5
    sides = [target(PLACE + sign * step * np.eye(2 + FIELD))[0] for sign in (1, -1)]
    np.testing.assert_allclose((sides[0] - sides[1]) / (2 * step), target(PLACE[None])[1][0], rtol=1e-6)


@pytest.mark.parametrize("sources", [(0,), (0, 1), (1, 2)])
def test_given_the_scales_the_coordinates_of_the_map_are_standard_normal(sources):
    target = Target(sources)
    law = found(target)
    assert law is not None
    assert np.max(np.abs(rest(law, target))) < 0.05


def test_mean_and_covariance_are_those_of_the_conditional_law():
    target = Target((0, 1))
    law = found(target)
    for t in ([0.0, 0.0], [-3.0, 2.5], [2.0, 3.0]):
        mean, covariance = target.conditional(np.array(t))
        start = np.r_[t, np.zeros(FIELD)]
        v = np.repeat(to_map(law, start[None])[0], 1 + FIELD, 0)
        v[:, 2:] = np.concatenate([np.zeros((1, FIELD)), np.eye(FIELD)])
        x = push_forward(law, v)[0]
        np.testing.assert_allclose(x[:, :2], np.repeat([t], 1 + FIELD, 0), atol=1e-8)
        width = np.sqrt(np.diag(covariance))
        assert np.max(np.abs(x[0, 2:] - mean) / width) < 0.05
        roots = x[1:, 2:] - x[0, 2:]
        np.testing.assert_allclose(
            roots.T @ roots / np.outer(width, width), covariance / np.outer(width, width), atol=0.05
        )


@pytest.mark.parametrize("wrong", ["data_shifts", "prior_slopes", "width_slopes"])
def test_a_map_without_one_of_its_parts_is_not_it(wrong):
    target = Target((0, 1))
    law = found(target)
    law = law._replace(**{wrong: np.zeros_like(getattr(law, wrong))})
    assert np.max(np.abs(rest(law, target))) > 1


def banana(points):
    x, y = points.T
    rest = y - 0.3 * (x**2 - 1)
    return -0.5 * x**2 - 0.5 * rest**2, np.stack([-x + 0.6 * x * rest, -rest], 1)


@pytest.mark.parametrize("wrong", [None, "data_shifts", "prior_slopes"])
def test_points_show_whether_the_map_holds(wrong):
    target = Target((0, 1))
    law = found(target)
    assert scales_of(law) == (0, 1)
    if wrong:
        law = law._replace(**{wrong: np.zeros_like(getattr(law, wrong))})
    v = far_points(law)
    scores = pull_back(law, v, target(push_forward(law, v)[0])[1])
    assert holds_at(law, v, scores) is (wrong is None)


def test_a_mean_that_bends_is_seen_where_the_scale_is_known_to_be_wide():
    law = find_conditional_gaussian(banana, np.zeros(2), np.array([3.0, 3.0]), np.random.default_rng(0))
    assert law is None


def test_single_precision_is_enough():
    target = Target((0, 1))

    def rounded(points):
        return tuple(
            part.astype(np.float32).astype(float) for part in target(points.astype(np.float32).astype(float))
        )

    law = found(rounded)
    assert np.max(np.abs(rest(law, target))) < 0.1


def test_what_it_costs():
    target = Target((0, 1))
    found(target)
    assert target.spent == 2 * (2 + FIELD) + 1 + 7 * (FIELD + 3)


def standard(points):
    return -0.5 * np.sum(points**2, 1), -points


def logistic(points):
    return -np.sum(np.log(2 * np.cosh(points)), 1) - 0.1 * np.sum(points**2, 1), -np.tanh(
        points
    ) - 0.2 * points


def many_scales(points):
    t, x = points[:, :6], points[:, 6:]
    square = x**2 * np.exp(-2 * t)
    values = np.sum(-0.5 * square - t - 0.5 * t**2, 1)
    return values, np.concatenate([square - 1 - t, -x * np.exp(-2 * t)], 1)


def nowhere(points):
    return np.full(len(points), np.nan), np.full(points.shape, np.nan)


@pytest.mark.parametrize(
    "target",
    [Target((0, 1, 2)), Target((0, 1), cubic=3.0), standard, logistic, many_scales, nowhere],
    ids=["three sources", "a coordinate that is not Gaussian", "no scale", "logistic", "six scales", "nan"],
)
def test_none_where_the_density_is_another(target):
    place = PLACE if isinstance(target, Target) else np.full(12, 0.3)
    assert found(target, place) is None


def test_none_in_too_many_dimensions_for_no_evaluation():
    def never(points):
        raise AssertionError("evaluated")

    assert found(never, np.zeros(500)) is None
