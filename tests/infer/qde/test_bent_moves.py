"""Maps that are fitted to where chains go: what they gain, and when they are not believed."""

from typing import Any

import numpy as np
import pytest

from qdesampler.infer.qde import bent_moves as module
from qdesampler.infer.qde.bent_moves import bent_moves
from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.prepared import WarmupSettings
from qdesampler.kernels.adaptation.walk import LocalSettings
from qdesampler.kernels.mcmc.host_trajectories import DYNAMICS
from qdesampler.kernels.mcmc.integrators import INTEGRATORS
from qdesampler.numerics.triangular_map import push_forward

DIM = 6


class Rows:
    """A density of rows in NumPy that counts its evaluations."""

    dim, dtype, score_cost = DIM, np.dtype(float), 1.0

    def __init__(self, value_and_score):
        self._value_and_score = value_and_score
        self.num_evals = 0

    def rounded(self, points):
        return points

    def __call__(self, points):
        self.num_evals += len(points)
        with np.errstate(all="ignore"):
            return self._value_and_score(points)


def hyperbola(points):
    """A scale and what it multiplies: `theta ~ N(0, .5)`, `x_1 exp(theta) ~ N(4, .1)`; the rest is normal."""
    theta, x, rest = points[:, 0], points[:, 1], points[:, 2:]
    off = (x * np.exp(theta) - 4) / 0.1
    value = -0.5 * (theta / 0.5) ** 2 - 0.5 * off**2 + theta - 0.5 * np.sum(rest**2, 1)
    by_x = -off * np.exp(theta) / 0.1
    return value, np.column_stack([-theta / 0.25 + by_x * x + 1, by_x, -rest])


def normal(points):
    return -0.5 * np.sum(points**2, 1), -points


def settings():
    local = LocalSettings(
        step_size=1.0,
        length=None,
        target_accept_prob=0.8,
        most_steps=255,
        adapt_step_size=True,
        adapt_metric=True,
        search_step_size=False,
        regularize=True,
        blocks=(tuple(range(DIM)),),
        rank=DIM,
        force_blocks=False,
        dynamics=DYNAMICS["canonical"],
        integrator=INTEGRATORS["leapfrog"],
    )
    return WarmupSettings(500, True, local)


def found(value_and_score, starts):
    coordinates = RowCoordinates(Rows(value_and_score))
    mixed = bent_moves(coordinates, None, starts, settings(), np.random.default_rng(1))
    return coordinates, mixed


@pytest.fixture(scope="module")
def bent():
    rng = np.random.default_rng(0)
    starts = rng.normal(size=(4, DIM))
    starts[:, 1] = 4
    return found(hyperbola, starts)


def test_a_scale_and_what_it_multiplies_have_a_map(bent):
    coordinates, mixed = bent
    assert coordinates.law is not None
    assert mixed.acceptance > 0.5
    assert mixed.local.step_size > 0.25
    assert coordinates.evaluator.num_evals < 9_000


def test_its_candidates_lie_where_the_density_is(bent):
    coordinates, mixed = bent
    noise = np.random.default_rng(2).normal(size=(2000, DIM))
    x, _ = push_forward(coordinates.law, mixed.trial.shift + mixed.trial.width * noise)
    off = (x[:, 1] * np.exp(x[:, 0]) - 4) / 0.1
    assert np.mean(np.abs(off) < 3) > 0.9
    np.testing.assert_allclose(np.std(x[:, 0]), 0.5, rtol=0.35)


def test_a_normal_density_has_none_and_the_coordinates_are_as_before():
    coordinates, mixed = found(normal, np.random.default_rng(0).normal(size=(4, DIM)))
    assert mixed is None
    assert coordinates.law is None


def test_chains_of_which_one_is_elsewhere_are_not_believed(bent):
    _, mixed = bent
    unused: Any = None
    believed = module._Bent(unused, mixed, np.full(4, mixed.acceptance))
    assert believed.is_believed
    assert not believed._replace(rates=np.r_[np.full(3, mixed.acceptance), 0.0]).is_believed
    assert not believed._replace(rates=np.full(4, 0.2 * mixed.acceptance)).is_believed


def test_the_twin_that_is_fitted_once_is_worse(bent, monkeypatch):
    """What the mixture has seen in the coordinates of the first map makes a better second one."""
    monkeypatch.setattr(module, "_MAPS", 1)
    monkeypatch.setattr(module, "_LEAST", 0.0)
    starts = np.random.default_rng(0).normal(size=(4, DIM))
    starts[:, 1] = 4
    _, once = found(hyperbola, starts)
    assert once is None or once.acceptance < bent[1].acceptance
