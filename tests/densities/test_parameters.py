"""Tables of parameters: supports, bijections, Jacobians, gradients, and tables that make no sense."""

import numpy as np
import pytest
from numpyro.distributions import constraints
from scipy import stats

from qdesampler.densities import Parameter
from qdesampler.densities.parameters import NAMED, space_of, space_of_bounds

SHAPES = {"simplex": 3, "ordered_vector": 3, "positive_ordered_vector": 3}
MATRICES = ("corr_cholesky", "corr_matrix", "lower_cholesky", "positive_definite")


def shape_of(support):
    return (3, 3) if support in MATRICES else SHAPES.get(support, 2)


def numerical_volume(space, point, step=1e-6):
    """log sqrt det J^T J, which is log |dx/du| where as many columns as coordinates are free."""
    columns = [
        (space.constrain(point + step * e)[0] - space.constrain(point - step * e)[0]).ravel() / (2 * step)
        for e in np.eye(space.dim)
    ]
    return np.array(columns).T


QUICK = ("real", "positive", "unit_interval", "simplex", "ordered_vector", "lower_cholesky")


@pytest.mark.parametrize(
    "support", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMED]
)
def test_gradients_are_those_of_the_transformed_density(support):
    space = space_of({"x": Parameter(support, shape_of(support))})
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(space.columns)
    point = 0.5 * rng.standard_normal((1, space.dim))

    def density(points):
        values, change, inside = space.constrain(points)
        assert np.all(inside)
        return np.sin(values) @ weights + change

    values = space.constrain(point)[0]
    score = space.pull_back(point, np.cos(values) * weights)
    steps = 1e-6 * np.eye(space.dim)
    found = (density(point + steps) - density(point - steps)) / 2e-6
    np.testing.assert_allclose(score[0], found, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(space.unconstrain(values), point, atol=1e-8)


@pytest.mark.parametrize(
    ("support", "free"),
    [("positive", (0, 1)), ("unit_interval", (0, 1)), ("ordered_vector", (0, 1, 2)), ("simplex", (0, 1))],
)
def test_volumes_are_those_of_the_map(support, free):
    space = space_of({"x": Parameter(support, shape_of(support))})
    point = np.linspace(-0.4, 0.7, space.dim)[None]
    jacobian = numerical_volume(space, point)[list(free)]
    _, expected = np.linalg.slogdet(jacobian)
    np.testing.assert_allclose(space.constrain(point)[1][0], expected, atol=1e-7)


def test_bounds_of_all_kinds_in_float64():
    space = space_of_bounds(np.array([-np.inf, 0, -np.inf, 2]), np.array([np.inf, np.inf, 5, 3]))
    points = np.array([[0.1, 1e-9, 0.2, -0.3]])
    values, change, inside = space.constrain(points)
    expected = [0.1, np.exp(1e-9), 5 - np.exp(0.2), 2 + 1 / (1 + np.exp(0.3))]
    np.testing.assert_allclose(values[0], expected, rtol=1e-15)
    assert change[0] == pytest.approx(1e-9 + 0.2 + stats.logistic.logpdf(-0.3), rel=1e-12)
    assert inside[0]
    assert space.labels == ("x[0]", "x[1]", "x[2]", "x[3]")


def test_columns_and_names_follow_the_table():
    table = {
        "b": (0, None),
        "a": Parameter("real", (2, 2), ("row", "column")),
        "c": constraints.greater_than(1.0),
    }
    space = space_of(table)
    named = space.named(np.arange(12.0).reshape(2, 6))
    assert list(named) == ["b", "a", "c"]
    assert named["a"].tolist()[0] == [[1, 2], [3, 4]]
    np.testing.assert_allclose(named["c"], 1 + np.exp([5.0, 11.0]))
    assert space.dims == {"a": ("row", "column")}
    assert np.all(space.constrain(np.zeros((1, 6)))[0][0][[0, 5]] == [1, 2])


def test_what_overflows_is_outside():
    space = space_of({"s": "positive"})
    assert space.constrain(np.array([[0.0], [800.0], [-800.0]]))[2].tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "expected a table"),
        (["mu"], "expected a table"),
        ({"1a": "real"}, "no name of a parameter"),
        ({"a": "positif"}, "expected one of real, positive"),
        ({"a": (1, 0)}, "each lower one must be below"),
        ({"a": (np.nan, 1)}, "each lower one must be below"),
        ({"a": ("x", 1)}, "A bound of a is 'x'"),
        ({"a": Parameter("real", -1)}, "expected positive integers"),
        ({"a": Parameter("real", 3, ("i", "j"))}, "1 axes and 2 names"),
        ({"a": Parameter("simplex")}, "cannot have the shape"),
        ({"a": 7}, "cannot have the shape"),
    ],
)
def test_bad_tables(table, message):
    with pytest.raises(ValueError, match=message):
        space_of(table)


def test_a_value_outside_its_support_is_no_start():
    space = space_of({"s": "positive"})
    with pytest.raises(ValueError, match="not in its support 'positive'"):
        space.unconstrain(np.array([[-1.0]]))
