"""Scaling symmetries: found from scores, their map, and the centredness that data ask for."""

import numpy as np
import pytest

from qdesampler.numerics.scaling_symmetry import (
    ScalingSymmetry,
    centred_map,
    find_scaling_symmetry,
    suitable_centredness,
)
from qdesampler.numerics.triangular_map import push_forward, to_map

# Coordinates: x, a log scale; v, a log variance; three z of widths 1, 2, 1 and a plain one of width 1.
WIDTHS = np.array([0.0, 0.0, 1.0, 2.0, 1.0, 1.0])
PLACES = np.array([[0.3, -0.4, 0, 0, 0, 0], [-1.0, 0.5, 0, 0, 0, 0]])
EXPONENTS = np.array([[1.0, 0.0], [0.0, 0.5], [1.0, 0.5]])


def density(points, *, spoiled=0.0):
    """Data on `exp(x) z_0`, `exp(v/2) z_1`, `exp(x + v/2) z_2`, `z_3`; `spoiled`: on `x z_0`."""
    x, v, *z = points.T
    z = np.stack(z, 1)
    scale = np.exp(np.stack([x, v], 1) @ EXPONENTS.T)
    u = np.concatenate([scale * z[:, :3], z[:, 3:]], 1)
    # a likelihood that is no product, so that the symmetry is the only simple thing about it
    inside = u.sum(1) - 0.7
    values = -np.log(np.cosh(inside)) - 0.5 * np.sum((u - 0.4) ** 4, 1) ** 0.5
    root = np.maximum(np.sum((u - 0.4) ** 4, 1), 1e-12)[:, None]
    by_u = -np.tanh(inside)[:, None] - (u - 0.4) ** 3 / root**0.5
    by_z = by_u * np.concatenate([scale, np.ones((len(points), 1))], 1) - z / WIDTHS[2:] ** 2
    by_scales = (by_u[:, :3] * u[:, :3]) @ EXPONENTS + np.stack([-3 * x, np.cos(v)], 1)
    values = values - 0.5 * np.sum((z / WIDTHS[2:]) ** 2, 1) - 1.5 * x**2 + np.sin(v) + spoiled * x * z[:, 0]
    by_scales[:, 0] += spoiled * z[:, 0]
    by_z[:, 0] += spoiled * x
    return values, np.concatenate([by_scales, by_z], 1)


def test_the_scores_of_the_test_are_those_of_its_density():
    point, step = np.array([[0.2, -0.3, 0.5, -1.0, 0.8, 0.1]]), 1e-5
    sides = [density(point + sign * step * np.eye(6), spoiled=0.5)[0] for sign in (1, -1)]
    np.testing.assert_allclose(
        (sides[0] - sides[1]) / (2 * step), density(point, spoiled=0.5)[1][0], atol=1e-6
    )


def test_exponents_of_scales_variances_and_products_are_found():
    symmetry, centredness = find_scaling_symmetry(density, WIDTHS, PLACES, np.random.default_rng(0))
    np.testing.assert_array_equal(symmetry.scaled, [2, 3, 4])
    np.testing.assert_array_equal(symmetry.scales, [0, 1])
    np.testing.assert_array_equal(symmetry.exponents, EXPONENTS)
    np.testing.assert_array_equal(symmetry.widths, [1, 2, 1])
    assert np.all((centredness >= 0) & (centredness <= 1))


def test_single_precision_is_enough():
    def rounded(points):
        return tuple(
            x.astype(np.float32).astype(float) for x in density(points.astype(np.float32).astype(float))
        )

    symmetry, _ = find_scaling_symmetry(rounded, WIDTHS, PLACES, np.random.default_rng(0))
    np.testing.assert_array_equal(symmetry.exponents, EXPONENTS)


def test_what_only_nearly_scales_is_no_symmetry():
    symmetry, _ = find_scaling_symmetry(
        lambda points: density(points, spoiled=0.5), WIDTHS, PLACES, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(symmetry.scales, [1])  # `x` is spoiled, `v` is not


def test_a_symmetry_that_is_broken_a_little_is_found():
    """Errors of 2% of what the `z` change, as those of the jitter of a Gaussian process."""

    def broken(points):
        values, scores = density(points)
        without = density(np.where(WIDTHS > 0, 0.0, points))[1]
        errors = 0.02 * np.sin(7 * points[:, :1] * points[:, 2:3] + np.arange(6))
        return values, scores + errors * (scores - without)

    symmetry, _ = find_scaling_symmetry(broken, WIDTHS, PLACES, np.random.default_rng(0))
    np.testing.assert_array_equal(symmetry.exponents, EXPONENTS)


def mean_and_scale(points):
    """20 values of mean 1/4 and spread 1 from `N(mu, exp(x))`, with priors `N(0, 5^2)` and `N(0, 1)`."""
    x, mu = points.T
    precision, error = np.exp(-2 * x), 0.25 - mu
    values = -0.5 * x**2 - 0.5 * mu**2 / 25 - 20 * x - 10 * precision * (1 + error**2)
    by_x = -x - 20 + 20 * precision * (1 + error**2)
    return values, np.stack([by_x, -mu / 25 + 20 * precision * error], 1)


def test_a_mean_near_0_is_not_scaled(monkeypatch):
    places = np.array([[0.0, 0.2], [0.4, -1.0]])
    arguments = mean_and_scale, np.array([0.0, 5.0]), places
    assert find_scaling_symmetry(*arguments, np.random.default_rng(0)) is None
    monkeypatch.setattr("qdesampler.numerics.scaling_symmetry._NEARER", 1.0)  # seen from afar only
    symmetry, _ = find_scaling_symmetry(*arguments, np.random.default_rng(0))
    np.testing.assert_array_equal(symmetry.exponents, [[-1.0]])


def mean_scale_and_effects(points):
    """Effects `a_i ~ N(mu, exp(x))`, each seen once near 0; `mu` has the prior `N(0, 5^2)`."""
    x, mu, *effects = points.T
    off = np.stack(effects, 1) - mu[:, None]
    precision = np.exp(-2 * x)
    square = np.sum(off**2, 1)
    values = -0.5 * x**2 - mu**2 / 50 - 6 * x - 0.5 * precision * square - 0.5 * np.sum(points[:, 2:] ** 2, 1)
    by_x, by_mu = -x - 6 + precision * square, -mu / 25 + precision * np.sum(off, 1)
    by_effects = -precision[:, None] * off - points[:, 2:]
    return values, np.concatenate([by_x[:, None], by_mu[:, None], by_effects], 1)


def test_a_mean_of_effects_about_0_is_not_scaled(monkeypatch):
    effects = np.array([1.0, -1.0, 0.5, -0.5, 1.5, -1.5])
    places = np.stack([np.r_[0.0, 0.1, effects], np.r_[0.3, -0.2, effects[::-1]]])
    arguments = mean_scale_and_effects, np.r_[0.0, 5.0, np.zeros(6)], places
    assert find_scaling_symmetry(*arguments, np.random.default_rng(0)) is None
    monkeypatch.setattr("qdesampler.numerics.scaling_symmetry._MOVED", 0.0)  # about 0 only
    symmetry, _ = find_scaling_symmetry(*arguments, np.random.default_rng(0))
    np.testing.assert_array_equal(symmetry.exponents, [[-1.0]])


@pytest.mark.parametrize("widths", [np.zeros(6), np.ones(6)])
def test_without_standard_coordinates_or_without_others_there_is_none(widths):
    def never(points):
        raise AssertionError("nothing needs to be evaluated")

    assert find_scaling_symmetry(never, widths, PLACES, np.random.default_rng(0)) is None


def test_scores_that_are_not_finite_find_nothing():
    def broken(points):
        values, scores = density(points)
        scores[0, 0] = np.nan
        return values, scores

    assert find_scaling_symmetry(broken, WIDTHS, PLACES, np.random.default_rng(0)) is None


SYMMETRY = ScalingSymmetry(np.array([2, 3, 4]), np.array([0, 1]), EXPONENTS, np.array([1.0, 2.0, 1.0]))
CENTRE, SPREAD = np.array([0.3, -0.2, 9, 9, 9, 9]), np.array([0.5, 2.0, 9, 9, 9, 9])


@pytest.mark.parametrize("c", [0.0, 0.4, 1.0])
def test_the_map_centres_as_much_as_it_is_told(c):
    points = np.random.default_rng(1).normal(size=(20, 6)) * [0.3, 0.6, 1, 1, 1, 1] + CENTRE * (WIDTHS == 0)
    law = centred_map(SYMMETRY, np.full(3, c), CENTRE, SPREAD)
    moved, change = to_map(law, points)
    growth = (points[:, :2] - CENTRE[:2]) @ EXPONENTS.T
    # `t` bends by 2% at two standard deviations
    widening = 0.5 * np.log(1 - c + c * np.exp(2 * growth))
    expected = points[:, 2:5] * np.exp(widening)
    found = moved[:, np.argsort(law.order)]  # the map leaves coordinates in the order of its passes
    np.testing.assert_allclose(found[:, 2:5], expected, rtol=0.05)
    np.testing.assert_allclose(found[:, 5], points[:, 5], rtol=1e-12)
    np.testing.assert_allclose(change, -widening.sum(1), atol=0.05)
    back, same = push_forward(law, moved)
    np.testing.assert_allclose(back, points, rtol=1e-12)
    np.testing.assert_allclose(same, change, rtol=1e-12)


def test_centredness_follows_the_information_of_the_data():
    """With `rest = -k u^2 / 2` it is `k w^2 / (1 + k w^2)`, and `y` has one width at all scales."""
    rng, information = np.random.default_rng(2), np.array([0.0, 0.7, 30.0])
    points = rng.normal(size=(4000, 6)) * [0.4, 0.6, 1, 2, 1, 1]
    weights = rng.random(4000)
    scale = np.exp((points[:, :2] - CENTRE[:2]) @ EXPONENTS.T)
    u = points[:, 2:5] * scale
    scores = np.zeros_like(points)
    scores[:, 2:5] = -information * u * scale - points[:, 2:5] / SYMMETRY.widths**2
    points[0] = np.nan  # without weight a row may hold anything
    weights[0] = 0
    found = suitable_centredness(SYMMETRY, points, scores, weights, CENTRE)
    informed = information * SYMMETRY.widths**2
    np.testing.assert_allclose(found, informed / (1 + informed), rtol=1e-9)
    width = (SYMMETRY.widths**-2.0 + information * scale[1:] ** 2) ** -0.5
    moved = width * np.sqrt(1 - found + found * scale[1:] ** 2)
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), rtol=1e-9)
