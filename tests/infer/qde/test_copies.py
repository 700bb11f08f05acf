"""Copies of a mode, by whole turns of an angle or in another order of labels; other modes are none."""

from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.reparam import CircularReparam

from qdesampler import QDE
from qdesampler.infer import load_model
from qdesampler.infer.qde.copies import equal_modes, without_turns
from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import identity
from qdesampler.solvers.gaussian.descents import Descent

MODELS = Path(__file__).parents[3] / "models"
TURN = 2 * np.pi
TRIAL = host_trial(np.array([1.0, 0.0]), identity(2, 0)._replace(scale=np.array([0.2, 0.5])))
POINTS = np.array([[1.1, 0.2], [0.9, -0.4], [1.0, 0.1]])


def circular(x):
    """The first coordinate is an angle, the second is not."""
    return 25 * np.cos(x[:, 0] - 1) - 2 * x[:, 1] ** 2, np.zeros_like(x)


def nearly_circular(x):
    """Another mode a turn away, half as high."""
    values, scores = circular(x)
    return values - np.log(2) * (x[:, 0] > 4), scores


@pytest.mark.parametrize("turns", [1, -3])
def test_whole_turns_of_an_angle_are_taken_back(turns):
    ends = np.array([[1.05 + TURN * turns, 0.1], [1.0, 0.0], [1.0, TURN], [2.5, 0.0], [np.inf, 0.0]])
    moved = without_turns(circular, ends, TRIAL, POINTS, circular(POINTS)[0])
    np.testing.assert_allclose(moved[0], [1.05, 0.1])
    np.testing.assert_array_equal(moved[1:], ends[1:])  # no turn, no angle, no whole turn, nowhere


def test_another_mode_a_turn_away_stays_there():
    ends = np.array([[1.05 + TURN, 0.1]])
    moved = without_turns(nearly_circular, ends, TRIAL, POINTS, nearly_circular(POINTS)[0])
    np.testing.assert_array_equal(moved, ends)


def test_ends_on_a_slope_are_no_modes():
    """Descents of this regression stop in a valley that is badly scaled."""
    case = load_model(MODELS / "diamonds")
    kernel = QDE(case.model)
    state = kernel.init(jax.random.split(jax.random.key(0), 4), 1000, None, (), dict(case.data))
    assert kernel.facts(state)["solve_outcome"] == "solved"
    assert kernel.facts(state)["solve_outliers"] == 0


def angle(y):
    with numpyro.handlers.reparam(config={"mu": CircularReparam()}):
        mu = numpyro.sample("mu", dist.VonMises(0.0, 0.1))
    kappa = numpyro.sample("kappa", dist.HalfNormal(5.0))
    numpyro.sample("y", dist.VonMises(mu, kappa).expand(y.shape).to_event(1), obs=y)


def test_descents_into_copies_are_no_outliers():
    y = (np.pi - 0.1 + 0.5 * np.random.default_rng(0).standard_normal(60) + np.pi) % TURN - np.pi
    start = {"mu_unwrapped": np.array([3.0, 3.0 - TURN, 3.0 + TURN, 2.5]), "kappa": np.ones(4)}
    kernel = QDE(angle)
    state = kernel.init(jax.random.split(jax.random.key(0), 4), 200, start, (y,), {})
    assert kernel.facts(state)["solve_outcome"] == "solved"
    assert kernel.facts(state)["solve_outliers"] == 0


def two_wells(lower):
    """Gaussians about -5 and +5 in every coordinate, the second one lower by some nats."""

    def evaluate(x):
        one, other = (-0.5 * np.sum((x - sign * 5.0) ** 2, 1) for sign in (-1, 1))
        return np.logaddexp(one, other - lower), np.zeros_like(x)

    return evaluate


def ends(evaluate, dim, *places):
    points = np.stack([np.full(dim, place) for place in places])
    values, scores = evaluate(points)
    return [Descent(*end, 1e-7) for end in zip(points, values, scores, strict=True)]


@pytest.mark.parametrize(
    ("dim", "lower", "places", "copies"),
    [
        (24, 0.2, (5.0, -5.0, -5.01), 1),
        (24, 3.0, (5.0, -5.0, -5.01), 0),  # another mode, of less mass
        (24, 0.2, (-5.0, -5.02, -4.99), 0),  # one mode
        (24, 0.2, (-5.0, np.nan), 0),  # nowhere
        (4, 0.2, (5.0, -5.0, -5.01), 0),  # chains may go from one to the other
    ],
)
def test_equal_modes_in_many_dimensions_are_copies(dim, lower, places, copies):
    evaluate = two_wells(lower)
    with np.errstate(invalid="ignore"):
        best, number = equal_modes(evaluate, ends(evaluate, dim, *places))
    assert number == copies
    np.testing.assert_array_equal(best.position, -5.0)
