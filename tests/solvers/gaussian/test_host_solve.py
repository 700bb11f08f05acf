"""The Gaussian solve on the host: exact on Gaussians, honest elsewhere, nothing compiled."""

import numpy as np
import pytest

from qdesampler.numerics.numpy_metric import identity, to_position_rows
from qdesampler.solvers.gaussian.descents import Descent, descend
from qdesampler.solvers.gaussian.host_step import Gaussian, gaussian_step
from qdesampler.solvers.gaussian.search import Search
from qdesampler.solvers.gaussian.solve import Outcome, SolveSettings, solve_gaussian

DOUBLE = np.float64


class Target:
    """A log density with its score in NumPy, which counts its evaluations."""

    def __init__(self, function):
        self.function, self.num_evals = function, 0

    def __call__(self, points):
        self.num_evals += len(points)
        return self.function(points)


def rotated_gaussian(sd, centre=1.0, precision=DOUBLE, seed=0):
    """A Gaussian of these widths along random axes, and the map that whitens it."""
    dim = len(sd)
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]

    def function(x):
        along = (x - centre) @ axes / sd
        values, scores = -0.5 * np.sum(along**2, 1), -(along / sd) @ axes.T
        return values.astype(precision).astype(float), scores.astype(precision).astype(float)

    return Target(function), axes.T / np.asarray(sd)[:, None]


def starts(dim, seed=1, count=4):
    return np.random.default_rng(seed).uniform(-2, 2, (count, dim))


def descended(target, begin, precision=DOUBLE):
    """Descents that started at these points and have ended, and what they took."""
    eps = float(np.finfo(precision).eps)
    descents = [Descent(x, v, s, eps) for x, v, s in zip(begin, *target(begin), strict=True)]
    spent = descend(target, descents, 320, lambda points: points.astype(precision).astype(float))
    return descents, len(begin) + spent


def solve_from(target, begin, seed=2, report=None, **settings):
    given = SolveSettings(**{"rank": begin.shape[1], "precision": DOUBLE} | settings)
    descents, spent = descended(target, begin, given.precision)
    found = solve_gaussian(target, descents, given, np.random.default_rng(seed), report)
    assert found.evaluations + spent == target.num_evals  # all are counted
    return found


def solve(target, dim, **settings):
    return solve_from(target, starts(dim), **settings)


def whitened_levels(trial, inverse):
    """Singular values of the exact whitening times the factor found: all 1 where it is exact."""
    factor = to_position_rows(trial.metric, np.eye(trial.centre.size)).T
    return np.linalg.svd(inverse @ factor, compute_uv=False)


# --------------------------------------------------------------------------- Gaussians


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
def test_a_gaussian_is_found_exactly_whatever_its_condition(condition):
    target, inverse = rotated_gaussian(np.logspace(-0.5 * np.log10(condition), 0, 12))
    found = solve(target, 12)
    assert found.outcome is Outcome.SOLVED
    np.testing.assert_allclose(found.trial.centre, 1, atol=1e-6)
    np.testing.assert_allclose(whitened_levels(found.trial, inverse), 1, atol=1e-5)
    assert found.certificate.energy < 1e-8
    assert target.num_evals < 600


def test_a_target_in_float32_of_condition_1e8_is_found_to_its_precision():
    target, inverse = rotated_gaussian(np.logspace(-4, 0, 20), precision=np.float32)
    found = solve(target, 20, precision=np.float32)
    np.testing.assert_allclose(whitened_levels(found.trial, inverse), 1, atol=0.02)
    assert found.outcome is Outcome.SOLVED


@pytest.mark.parametrize(("rank", "sd"), [(0, np.logspace(-3, 0, 400)), (24, None)])
def test_diagonal_and_low_rank_factors_in_many_dimensions(rank, sd):
    dim = 400
    if sd is not None:
        target = Target(lambda x: (-0.5 * np.sum(((x - 1) / sd) ** 2, 1), -(x - 1) / sd**2))
    else:
        axes = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, 12)))[0]
        widths = np.r_[np.full(6, 30.0), np.full(6, 0.03)]

        def function(x):
            along = (x - 1) @ axes
            rest = x - 1 - along @ axes.T
            values = -0.5 * (np.sum(rest**2, 1) + np.sum((along / widths) ** 2, 1))
            return values, -rest - (along / widths**2) @ axes.T

        target = Target(function)
    found = solve(target, dim, rank=rank, degrees=np.inf)
    assert found.outcome is Outcome.SOLVED
    assert found.certificate.acceptance > 0.9


def test_a_low_rank_trial_of_a_diagonal_gaussian_drops_directions_that_are_noise():
    sd = np.logspace(-1, 1, 300)
    found = solve(
        Target(lambda x: (-0.5 * np.sum((x / sd) ** 2, 1), -x / sd**2)), 300, rank=24, degrees=600.0
    )
    assert found.outcome is Outcome.SOLVED
    assert len(found.steps) <= 4
    np.testing.assert_allclose(found.trial.metric.scale, sd, rtol=1e-6)
    np.testing.assert_allclose(found.trial.metric.stretch, 1)


def test_a_low_rank_trial_that_does_not_suffice_becomes_dense_where_that_is_allowed():
    dim = 200
    sd, settings = np.logspace(-1, 1, dim), {"rank": 24, "degrees": 2.0 * dim}
    assert solve(rotated_gaussian(sd)[0], dim, **settings).outcome is Outcome.HOPELESS
    target, inverse = rotated_gaussian(sd)
    found = solve(target, dim, dense_up_to=dim, **settings)
    assert found.outcome is Outcome.SOLVED
    assert found.evaluations < 16 * dim
    np.testing.assert_allclose(whitened_levels(found.trial, inverse), 1, atol=1e-3)


def test_a_usable_low_rank_trial_is_kept_where_a_dense_one_is_worse(monkeypatch):
    """The sixteen wide axes are more than the factor holds, and the dense start is spoilt on purpose."""
    dim = 150
    target, _ = rotated_gaussian(np.r_[np.full(16, 1.5), np.ones(dim - 16)])
    make_dense = Search.make_dense

    def spoilt(self):
        make_dense(self)
        monkeypatch.setattr(Search, "move", lambda self, recentre=None: None)
        self.trial = self.trial._replace(centre=self.trial.centre + 30)

    monkeypatch.setattr(Search, "make_dense", spoilt)
    found = solve(target, dim, rank=4, degrees=2.0 * dim, dense_up_to=dim)
    assert found.outcome is Outcome.MIDDLING
    assert found.trial.metric.basis.shape == (dim, 4)
    assert found.certificate.acceptance >= 0.15


def test_one_step_from_dim_plus_two_exact_points_is_exact_and_a_wrong_twin_is_not():
    target, inverse = rotated_gaussian(np.logspace(-1, 1, 6), centre=3.0)
    points = np.random.default_rng(3).normal(size=(14, 6))
    _, scores = target(points)
    blank = Gaussian(np.zeros(6), identity(6, 6))
    right = gaussian_step(blank, points, scores, np.ones(14))
    np.testing.assert_allclose(right.centre, 3, atol=1e-8)
    np.testing.assert_allclose(whitened_levels(right, inverse), 1, atol=1e-8)
    wrong = gaussian_step(blank, points, 2 * scores, np.ones(14))
    assert np.max(np.abs(whitened_levels(wrong, inverse) - 1)) > 0.2


# --------------------------------------------------------------------------- wells of rounding


@pytest.mark.parametrize("well", ["flat", "steep"])
def test_a_descent_does_not_leap_over_a_wall_into_a_well_that_no_slope_leads_to(monkeypatch, well):
    """As where a float32 likelihood cancels: 4e4 nats down behind `x = 40`, 2e5 up behind `x = 60`."""

    def function(x):
        mode = -0.5 * (x[:, 0] / 30) ** 2
        slope = {"flat": np.full(len(x), 1e-3), "steep": 30 * np.sin(1e3 * x[:, 0])}[well]
        values = np.where(x[:, 0] < 40, mode, np.where(x[:, 0] < 60, -4e4, 2e5 + x[:, 0]))
        return values, np.where(x[:, 0] < 40, -x[:, 0] / 900, slope)[:, None]

    def ends():
        target = Target(function)
        return descended(target, np.array([[-39.0], [-20.0]]))[0]

    monkeypatch.setattr(Descent, "_quasi_newton", lambda self: np.array([100.0]))
    assert all(end.position[0] < 40 for end in ends())
    monkeypatch.setattr("qdesampler.solvers.gaussian.descents._FREE", np.inf)
    assert any(end.position[0] > 60 for end in ends())  # the wrong twin


# --------------------------------------------------------------------------- modes


def two_gaussians(log_mass, width, height_offset=0.0):
    """A spike of mass `exp(log_mass)` at -2 beside a unit Gaussian at 2, two dimensions."""

    def function(x):
        spike = -0.5 * np.sum(((x + 2) / width) ** 2, 1) - 2 * np.log(width) + log_mass
        broad = -0.5 * np.sum((x - 2) ** 2, 1)
        values = np.logaddexp(spike, broad)
        share = np.exp(spike - values)[:, None]
        return values, -share * (x + 2) / width**2 - (1 - share) * (x - 2)

    return Target(function)


@pytest.mark.parametrize(("log_mass", "kept"), [(-3.0, 2.0), (3.0, -2.0)])
def test_the_mode_of_more_mass_is_kept_whatever_its_height(log_mass, kept):
    target = two_gaussians(log_mass, width=0.05)
    begin = np.array([[-2.1, -2.0], [1.0, 1.0], [-1.9, -2.05], [2.5, 2.0]])
    found = solve_from(target, begin)
    spike, broad = target.function(np.array([[-2.0, -2.0], [2.0, 2.0]]))[0]
    assert (spike > broad) or log_mass > 0  # the spike is the higher mode in both cases
    np.testing.assert_allclose(found.trial.centre, kept, atol=0.1)
    assert found.modes.shape == (2, 2)
    assert found.log_masses[0] - found.log_masses[1] == pytest.approx(3.0, abs=0.5)


def test_ends_of_one_mode_are_not_taken_for_several():
    target, _ = rotated_gaussian(np.logspace(-2, 0, 8))
    found = solve(target, 8)
    assert len(found.modes) == 1
    assert np.isnan(found.log_masses).all()


# --------------------------------------------------------------------------- no ground state, or no density


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (np.zeros(len(x)), np.zeros_like(x)),
        lambda x: (-(x[:, 0] ** 2), np.stack([-2 * x[:, 0], 0 * x[:, 1]], 1)),
        lambda x: (x[:, 0] - x[:, 1] ** 2, np.stack([np.ones(len(x)), -2 * x[:, 1]], 1)),
        lambda x: (np.sum(x**2, 1), 2 * x),
    ],
    ids=["flat", "flat axis", "slope", "unbounded"],
)
def test_a_target_without_ground_state_is_unbounded(function):
    with np.errstate(over="ignore", invalid="ignore"):
        found = solve(Target(function), 2)
    assert found.outcome is Outcome.UNBOUNDED


def test_points_without_density_are_stepped_back_from_and_counted_as_rejected():
    def gamma(x):  # 2 log x - x, NaN outside the quadrant
        with np.errstate(invalid="ignore"):
            return np.sum(2 * np.log(x) - x, 1), 2 / x - 1

    begin = np.random.default_rng(0).uniform(0.5, 2, (4, 2))
    found = solve_from(Target(gamma), begin)
    assert found.outcome in (Outcome.SOLVED, Outcome.MIDDLING)
    assert 0.7 < min(step.certificate.finite_fraction for step in found.steps) < 1
    assert np.all(np.isfinite(found.trial.centre))
    assert np.all(found.trial.centre > 1)


def test_a_target_of_nan_everywhere_is_said_to_be_unbounded_for_the_price_of_its_starts():
    target = Target(lambda x: (np.full(len(x), np.nan), np.full_like(x, np.nan)))
    assert solve(target, 3).outcome is Outcome.UNBOUNDED
    assert target.num_evals == 4


def test_a_banana_is_not_called_solved():
    def banana(x):
        bend = x[:, 1] - 0.5 * (x[:, 0] ** 2 - 25)
        values = -0.5 * (x[:, 0] / 5) ** 2 - 0.5 * bend**2
        return values, np.stack([-x[:, 0] / 25 + bend * x[:, 0], -bend], 1)

    found = solve(Target(banana), 2, candidates=128)
    assert found.outcome in (Outcome.MIDDLING, Outcome.HOPELESS)
    assert found.certificate.time > 2


# --------------------------------------------------------------------------- descents


def test_descents_come_near_the_mode_and_count_every_evaluation():
    target, _ = rotated_gaussian(np.logspace(-2, 0, 10))
    descents, spent = descended(target, starts(10))
    assert target.num_evals == spent
    assert all(descent.is_done for descent in descents)
    assert max(descent.log_density for descent in descents) > -1  # the mode is at 0, the bulk at -5
    assert all(descent.log_density > -10 for descent in descents)


def test_a_descent_backs_out_of_a_wall_and_stops_where_nothing_is_gained():
    walled = Target(lambda x: (np.where(x[:, 0] > 0, -x[:, 0], np.nan), -np.ones_like(x)))
    (descent,), _ = descended(walled, np.array([[3.0]]))
    assert descent.is_done
    assert 0 < descent.position[0] < 0.1


def test_the_same_generator_gives_the_same_solve_and_progress_is_reported():
    target, _ = rotated_gaussian(np.logspace(-1, 0, 5))
    seen = []
    first = solve(target, 5, report=seen.append)
    target.num_evals = 0
    again = solve(target, 5)
    np.testing.assert_array_equal(first.trial.centre, again.trial.centre)
    assert first.steps == again.steps == tuple(seen)
    assert first.steps[-1].evaluations == first.evaluations
