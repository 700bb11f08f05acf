"""The kept draws are exact: chains that begin at exact draws stay at them, a wrong twin does not."""

import numpy as np
import pytest
from scipy import stats

from qdesampler.densities import draws
from qdesampler.densities.calls import Calls, CallSettings
from qdesampler.densities.draws import HostChains, Plan, warm_up
from qdesampler.densities.evaluator import SpaceEvaluator
from qdesampler.densities.parameters import Space, space_of
from qdesampler.densities.progress import Meter
from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.starts import find_starts
from qdesampler.infer.qde.warmup import prepare

CHAINS = 3000


def width(u):
    return 0.3 * np.exp(1.5 * u)


def funnel(points):
    """A funnel: `u = log s ~ Normal(0, 1)`, `a ~ Normal(0, width(u))`, in the user's values."""
    a, s = points.T
    u = np.log(s)
    off = a / width(u)
    values = -0.5 * off**2 - 0.5 * u**2 - 2.5 * u
    return values, np.stack([-off / width(u), (1.5 * off**2 - u - 2.5) / s], 1)


def funnel_alone(points):
    return funnel(points)[0]


def moved(evaluate, monkeypatch=None, breakage=None):
    """Chains from exact draws after some iterations, and the coordinates of the moves."""
    space = space_of({"a": "real", "s": "positive"})
    evaluator = SpaceEvaluator(Calls(evaluate, 2, CallSettings(None, None, False)), space)
    coordinates = RowCoordinates(evaluator)
    prepared = warm_up(coordinates, find_starts(coordinates, None), Meter(None))
    if breakage is not None:
        breakage(monkeypatch)
    rng = np.random.default_rng(5)
    u = rng.standard_normal(CHAINS)
    exact = np.stack([width(u) * rng.standard_normal(CHAINS), u], 1)
    values, scores = evaluator(exact)
    prepared = prepared._replace(starts=exact, log_densities=values, scores=scores)
    chains = HostChains(coordinates, evaluator, prepared, Plan(1, CHAINS, 1, None))
    made = chains.advance(10)
    ends = coordinates.to_sites(made.positions[-1])
    assert np.mean(np.any(ends != exact, 1)) > 0.5
    return ends, coordinates, prepared


def p_values(ends):
    a, u = ends.T
    return [stats.kstest(draws, stats.norm.cdf).pvalue for draws in (u, a / width(u))]


def no_jacobian(monkeypatch):
    constrain = Space.constrain

    def without(self, points):
        values, change, inside = constrain(self, points)
        return values, np.zeros_like(change), inside

    monkeypatch.setattr(Space, "constrain", without)


def no_change_of_the_map(monkeypatch):
    outside = RowCoordinates.outside

    def without(self, points):
        return outside(self, points)._replace(log_densities=np.zeros(len(points.positions)))

    monkeypatch.setattr(RowCoordinates, "outside", without)


def test_every_move_is_a_draw_and_the_burn_in_has_as_many_moves(monkeypatch):
    made = []

    def watched(*arguments):
        made.append(prepare(*arguments)._replace(moves=3))
        return made[-1]

    monkeypatch.setattr(draws, "prepare", watched)
    _, _, prepared = moved(funnel)
    assert prepared.moves == 1
    assert prepared.burn_in == 3 * made[0].burn_in


@pytest.mark.parametrize("evaluate", [funnel, funnel_alone])
def test_exact_draws_stay_exact(evaluate):
    ends, coordinates, prepared = moved(evaluate)
    assert coordinates.law is not None  # the moves are made in the coordinates of a triangular map
    assert 0 < prepared.probability < 1
    assert min(p_values(ends)) > 1e-3


def test_the_twin_without_the_jacobian_of_the_support_is_caught(monkeypatch):
    ends, _, _ = moved(funnel, monkeypatch, no_jacobian)
    assert min(p_values(ends)) < 1e-6


def test_the_twin_without_the_jacobian_of_the_map_is_caught(monkeypatch):
    ends, _, _ = moved(funnel_alone, monkeypatch, no_change_of_the_map)
    assert min(p_values(ends)) < 1e-6


def test_iterations_have_their_own_random_numbers(monkeypatch):
    """Blocks of other sizes give the same draws."""
    import qdesampler

    first = qdesampler.sample(
        funnel, parameters={"a": "real", "s": "positive"}, num_samples=60, progress=False
    )
    monkeypatch.setattr(draws, "_BLOCK", 37)
    other = qdesampler.sample(
        funnel, parameters={"a": "real", "s": "positive"}, num_samples=60, progress=False
    )
    assert first.costs.evaluations == other.costs.evaluations
    for name, value in first.get_samples().items():
        np.testing.assert_array_equal(value, other.get_samples()[name])
