"""Gaussian Markov fields: the graph, the order of elimination, and the fitted covariance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdesampler.numerics.fisher_fit import centred_rows, dense_factor
from qdesampler.numerics.markov_field import eliminate, find_field, sparse_factor

GROUPS, SHARED = 40, 3


def random_precision(rng: np.random.Generator, graph: np.ndarray) -> np.ndarray:
    """A precision with this graph, diagonally dominant, in units that differ by four orders."""
    values = np.where(graph, rng.normal(size=graph.shape), 0.0)
    values = np.tril(values) + np.tril(values).T
    np.fill_diagonal(values, 1.2 * np.sum(np.abs(values), 1) + 0.1)
    units = 10 ** rng.uniform(-2, 2, len(graph))
    return units[:, None] * values * units


def star(number: int, shared: int) -> np.ndarray:
    """Each of `number` effects is a neighbour of the `shared` parameters, which are neighbours."""
    graph = np.zeros((number + shared, number + shared), bool)
    graph[:, number:] = graph[number:, :] = True
    np.fill_diagonal(graph, False)
    return graph


def chain(number: int) -> np.ndarray:
    """Each coordinate is a neighbour of the two before it."""
    distance = np.abs(np.subtract.outer(np.arange(number), np.arange(number)))
    return (distance > 0) & (distance <= 2)


GRAPHS = {"star": star(GROUPS, SHARED), "chain": chain(30), "complete": ~np.eye(12, dtype=bool)}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_fit_is_exact_on_a_gaussian_from_few_points(name):
    """A few more points than a row has unknowns, fewer than dimensions: enough for a Markov field."""
    rng = np.random.default_rng(1)
    precision = random_precision(rng, GRAPHS[name])
    elimination = eliminate(GRAPHS[name])
    number = elimination.width + 40
    widths = 1 / np.sqrt(np.diag(precision))
    x = widths * rng.normal(size=(number, len(precision)))
    weights = rng.uniform(0.5, 1.5, number)
    factor = sparse_factor(
        elimination, centred_rows(x, weights), centred_rows(-x @ precision, weights), fallback=1.0
    )
    ratio = factor.T @ precision @ factor
    np.testing.assert_allclose(np.linalg.eigvalsh(ratio), 1.0, atol=0.02)


def test_a_dense_fit_needs_more_points_than_that():
    """The ablation: the same points determine no dense covariance."""
    rng = np.random.default_rng(1)
    precision = random_precision(rng, GRAPHS["star"])
    x = rng.normal(size=(20, len(precision))) / np.sqrt(np.diag(precision))
    factor = dense_factor(
        centred_rows(x, np.ones(20)), centred_rows(-x @ precision, np.ones(20)), few=True, fallback=1.0
    )
    assert np.max(np.abs(np.linalg.eigvalsh(factor.T @ precision @ factor) - 1)) > 0.5


def test_a_wrong_graph_is_no_exact_fit():
    """The wrong twin: with the shared parameters taken for strangers the covariance is another."""
    rng = np.random.default_rng(2)
    precision = random_precision(rng, GRAPHS["star"])
    x = rng.normal(size=(200, len(precision))) / np.sqrt(np.diag(precision))
    rows = centred_rows(x, np.ones(200)), centred_rows(-x @ precision, np.ones(200))
    wrong = eliminate(np.zeros_like(GRAPHS["star"]))
    factor = sparse_factor(wrong, *rows, fallback=1.0)
    assert np.max(np.abs(np.linalg.eigvalsh(factor.T @ precision @ factor) - 1)) > 0.2


@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.floats(0.0, 0.6))
@settings(max_examples=50, deadline=None)
def test_an_elimination_holds_every_edge_once(seed, number, density):
    """Each edge leads from a coordinate to a parent or lies within the rest, and parents come later."""
    graph = np.random.default_rng(seed).random((number, number)) < density
    graph = np.triu(graph, 1) | np.triu(graph, 1).T
    elimination = eliminate(graph)
    place = np.empty(number, int)
    place[np.concatenate([elimination.order, elimination.rest])] = np.arange(number)
    assert sorted(place) == list(range(number))
    kept = np.zeros_like(graph)
    for k, row in zip(elimination.order, elimination.parents, strict=True):
        assert np.all(place[row] > place[k])
        kept[k, row] = kept[row, k] = True
    kept[np.ix_(elimination.rest, elimination.rest)] = True
    assert np.all(kept[graph])


def test_a_star_has_its_effects_eliminated_first():
    """Rows of an effect have the shared parameters for parents, however many effects there are."""
    elimination = eliminate(star(200, 3))
    assert elimination.width == 4
    assert set(elimination.order) >= set(range(199))


def quartic(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A hierarchy: `theta_j ~ Normal(m, s)` with a quartic likelihood of its own for each effect."""
    theta, m, log_s = points[:, :GROUPS], points[:, GROUPS, None], points[:, GROUPS + 1, None]
    z = (theta - m) * np.exp(-log_s)
    value = np.sum(-0.5 * z**2 - log_s - theta**4, 1) - 0.5 * np.sum(points[:, GROUPS:] ** 2, 1)
    scores = np.concatenate(
        [
            -z * np.exp(-log_s) - 4 * theta**3,
            np.sum(z * np.exp(-log_s), 1, keepdims=True) - m,
            np.sum(z**2 - 1, 1, keepdims=True) - log_s,
        ],
        1,
    )
    return value, scores


def test_the_graph_of_a_hierarchy_is_found_with_its_curvature():
    """Effects are neighbours of location and scale, not of one another; the pairs are the Hessian's rows."""
    place = np.random.default_rng(0).normal(size=GROUPS + 2)
    score = quartic(place[None])[1][0]
    field = find_field(quartic, place, score, np.full(GROUPS + 2, 1e-5))
    assert field is not None
    assert field.elimination.width == 3
    hessian = np.linalg.lstsq(field.steps, field.bends, rcond=None)[0]
    step = 1e-4
    moved = place + step * np.eye(GROUPS + 2)
    expected = (quartic(place - step * np.eye(GROUPS + 2))[1] - quartic(moved)[1]) / (2 * step)
    np.testing.assert_allclose(np.abs(hessian), np.abs(expected), rtol=1e-2, atol=1e-2)


def test_a_dense_graph_is_given_up_after_few_evaluations():
    """A Gaussian whose precision has no zeros costs a handful of evaluations, not one for each dimension."""
    rng = np.random.default_rng(3)
    precision = random_precision(rng, ~np.eye(60, dtype=bool))
    seen = []

    def evaluate(points):
        seen.append(len(points))
        return -0.5 * np.sum((points @ precision) * points, 1), -points @ precision

    assert find_field(evaluate, np.zeros(60), np.zeros(60), np.full(60, 1e-3)) is None
    assert sum(seen) <= 8
