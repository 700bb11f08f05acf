"""Laplace's map given scales: its inverse, volume and scores, and what it makes of a Gaussian hierarchy."""

import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.numerics import laplace_map
from qdesampler.numerics.laplace_map import (
    LaplaceMap,
    find_laplace_map,
    into_map,
    out_of_map,
    push_forward,
    to_map,
    value_and_score_in_map,
)
from qdesampler.numerics.scaling_symmetry import ScalingSymmetry
from qdesampler.numerics.triangular_map import to_device

# Coordinates: x_0 and x_4, logarithms of scales, x_2, which scales nothing, and a field of four sites.
FIELD, SCALES = np.array([1, 3, 5, 6]), np.array([0, 4])
WIDTHS = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 1.0, 0.5])
EXPONENTS = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.5], [0.0, 0.0]])
DIM = 7
DESIGN = np.random.default_rng(0).normal(size=(6, 4))
SEEN = np.random.default_rng(1).normal(size=6)
SYMMETRY = ScalingSymmetry(FIELD[:3], SCALES, EXPONENTS[:3], WIDTHS[FIELD[:3]])
PLACE = np.array([0.2, 0.1, -0.3, 0.4, -0.5, 0.3, 0.2])


def density(points):
    """Normal data on a linear combination of the scaled field; priors of the field and of the rest."""
    z, scale = points[:, FIELD], np.exp(points[:, SCALES] @ EXPONENTS.T)
    u = z * scale
    rest = u @ DESIGN.T - SEEN
    by_u = -rest @ DESIGN
    values = -0.5 * np.sum(rest**2, 1) - 0.5 * np.sum((z / WIDTHS[FIELD]) ** 2, 1)
    scores = np.zeros_like(points)
    scores[:, FIELD] = by_u * scale - z / WIDTHS[FIELD] ** 2
    scores[:, SCALES] = (by_u * u) @ EXPONENTS
    others = np.array([0, 2, 4])
    values = values - 0.5 * np.sum(points[:, others] ** 2, 1)
    scores[:, others] -= points[:, others]
    return values, scores


def law():
    found = find_laplace_map(density, WIDTHS, SYMMETRY, PLACE)
    assert found is not None
    return found


def points(count=5):
    return np.random.default_rng(2).normal(size=(count, DIM))


def by_differences(function, v, step=1e-5):
    axes = step * np.eye(DIM)
    return np.stack([(function(v + row) - function(v - row)) / (2 * step) for row in axes], -1)


def test_the_scores_of_the_test_are_those_of_its_density():
    v = points()
    np.testing.assert_allclose(by_differences(lambda x: density(x)[0], v), density(v)[1], atol=1e-7)


def test_the_likelihood_of_normal_data_is_found():
    found = law()
    np.testing.assert_array_equal(found.field, FIELD)
    np.testing.assert_array_equal(found.rest, [0, 2, 4])
    np.testing.assert_allclose(found.data, DESIGN.T @ DESIGN, atol=1e-8)
    np.testing.assert_allclose(found.pull, DESIGN.T @ SEEN, atol=1e-8)


def test_the_field_is_standard_normal_at_any_scales_and_independent_of_them():
    """In `v` the density is a standard normal one times that of the scales."""
    v = 2 * points(50)
    values, scores = value_and_score_in_map(law(), v, density)
    np.testing.assert_allclose(scores[:, FIELD], -v[:, FIELD], atol=1e-6)
    alone = v.copy()
    alone[:, FIELD] = 0
    apart = value_and_score_in_map(law(), alone, density)[0] - 0.5 * np.sum(v[:, FIELD] ** 2, 1)
    np.testing.assert_allclose(values, apart, atol=1e-7)


def test_with_another_likelihood_it_is_not():
    """The twin whose data are half as many."""
    wrong = law()._replace(data=0.5 * DESIGN.T @ DESIGN)
    v = points(50)
    assert np.max(np.abs(value_and_score_in_map(wrong, v, density)[1][:, FIELD] + v[:, FIELD])) > 0.3


def test_the_inverse_gives_the_point_and_the_same_volume():
    v = points()
    x, change = push_forward(law(), v)
    back, same = to_map(law(), x)
    np.testing.assert_allclose(back, v, atol=1e-10)
    np.testing.assert_allclose(same, change, atol=1e-10)
    np.testing.assert_array_equal(x[:, [0, 2, 4]], v[:, [0, 2, 4]])


def test_the_volume_is_the_determinant_of_the_derivative():
    v = points(3)
    derivative = by_differences(lambda rows: push_forward(law(), rows)[0], v)
    np.testing.assert_allclose(push_forward(law(), v)[1], np.linalg.slogdet(derivative)[1], atol=1e-7)


def bent(x):
    """The score of a target that has nothing to do with the map."""
    return -x - 0.3 * x**3


def bent_value(x):
    return np.sum(-0.5 * x**2 - 0.075 * x**4, -1)


def in_map(v):
    x, change = push_forward(law(), v)
    return bent_value(x) + change


def test_scores_of_any_target_are_pulled_back_and_returned():
    v = points()
    x, _ = push_forward(law(), v)
    pulled = into_map(law(), x, bent(x))[2]
    np.testing.assert_allclose(pulled, by_differences(in_map, v), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(out_of_map(law(), v, pulled)[2], bent(x), atol=1e-9)


def test_a_score_that_forgets_the_turn_of_the_factor_is_another(monkeypatch):
    """The twin with `dL = 0`: the mean moves with the scales, the factor does not."""
    v = points()
    x, _ = push_forward(law(), v)
    monkeypatch.setattr(np, "cumsum", lambda products, axis: 0.5 * products)
    assert np.max(np.abs(into_map(law(), x, bent(x))[2] - by_differences(in_map, v))) > 0.01


@pytest.mark.usefixtures("x64")
def test_the_device_computes_the_same():
    v = points()
    x, change = push_forward(law(), v)
    pulled = into_map(law(), x, bent(x))[2]
    device = to_device(law())
    assert isinstance(device, LaplaceMap)
    for row, point in enumerate(v):
        found, volume = push_forward(device, jnp.asarray(point))
        np.testing.assert_allclose(found, x[row], atol=1e-10)
        assert float(volume) == pytest.approx(change[row], abs=1e-10)
        np.testing.assert_allclose(to_map(device, found)[0], point, atol=1e-10)
        there = into_map(device, found, jnp.asarray(bent(x[row])))[2]
        np.testing.assert_allclose(there, pulled[row], atol=1e-9)
        np.testing.assert_allclose(out_of_map(device, jnp.asarray(point), there)[2], bent(x[row]), atol=1e-9)


def test_many_rows_are_taken_in_blocks(monkeypatch):
    v = points(40)
    whole = value_and_score_in_map(law(), v, density), push_forward(law(), v), into_map(law(), v, v)
    monkeypatch.setattr(laplace_map, "_ROWS", 7)
    parts = value_and_score_in_map(law(), v, density), push_forward(law(), v), into_map(law(), v, v)
    for a, b in zip(whole, parts, strict=True):
        for left, right in zip(a, b, strict=True):
            np.testing.assert_allclose(left, right, atol=1e-12)


def test_points_that_have_run_away_are_not_finite_and_spoil_no_other():
    v = points(4)
    good = value_and_score_in_map(law(), v, density)
    v[1, 0] = -1e4  # a scale of 0: the precision of the prior overflows
    v[2, 5] = np.nan
    with np.errstate(all="ignore"):
        values, scores = value_and_score_in_map(law(), v, density)
    assert not np.any(np.isfinite(values[[1, 2]]))
    np.testing.assert_allclose(values[[0, 3]], good[0][[0, 3]])
    np.testing.assert_allclose(scores[[0, 3]], good[1][[0, 3]])


def test_a_likelihood_that_curves_upwards_has_a_factor_all_the_same():
    def wavy(points):
        values, scores = density(points)
        scale = np.exp(points[:, SCALES] @ EXPONENTS.T)
        u = points[:, FIELD] * scale
        scores = scores.copy()
        scores[:, FIELD] += 40 * u * scale
        scores[:, SCALES] += (40 * u**2) @ EXPONENTS
        return values + 20 * np.sum(u**2, 1), scores

    found = find_laplace_map(wavy, WIDTHS, SYMMETRY, PLACE)
    assert found is not None
    assert np.all(np.linalg.eigvalsh(found.data) > 0)
    x, _ = push_forward(found, points())
    assert np.all(np.isfinite(x))


def test_too_large_a_field_and_scores_that_are_not_finite_give_none(monkeypatch):
    assert find_laplace_map(lambda x: (x[:, 0], x * np.nan), WIDTHS, SYMMETRY, PLACE) is None
    assert find_laplace_map(density, np.where(WIDTHS == 1, 0.0, WIDTHS), SYMMETRY, PLACE) is None
    monkeypatch.setattr(laplace_map, "_MOST", 3)
    assert find_laplace_map(density, WIDTHS, SYMMETRY, PLACE) is None
