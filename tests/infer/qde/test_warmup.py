"""The warm-up on the host: its outcomes on small targets, proportions, starts, counts, and nothing random."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.infer.qde import global_moves, structures, trials, warmup
from qdesampler.infer.qde.coordinates.device import MoveCoordinates
from qdesampler.infer.qde.coordinates.host import HostCoordinates
from qdesampler.infer.qde.prepared import SMALLEST_SOLVE, WarmupSettings
from qdesampler.infer.qde.starts import find_starts
from qdesampler.infer.qde.warmup import OUTCOMES, prepare
from qdesampler.kernels.adaptation.walk import LocalSettings
from qdesampler.kernels.mcmc.host_trajectories import DYNAMICS
from qdesampler.kernels.mcmc.integrators import INTEGRATORS
from qdesampler.kernels.mcmc.mixture import MOST_CANDIDATES
from qdesampler.kernels.mcmc.trajectory import gaussian_step_size
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.numerics.numpy_metric import identity, to_position_rows
from qdesampler.solvers.gaussian.descents import Descent
from qdesampler.solvers.gaussian.refine import CLEAR
from qdesampler.solvers.gaussian.search import Outcome
from tests.targets import double_well

ROOT = np.array([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [0.0, 0.5, 0.1]])
PRECISION = jnp.asarray(np.linalg.inv(ROOT @ ROOT.T), jnp.float32)


def gaussian(z):
    return 0.5 * (z - 1) @ PRECISION @ (z - 1)


def banana(z):
    return 0.5 * (z[0] / 4) ** 2 + 0.5 * (z[1] - 0.5 * (z[0] ** 2 - 16)) ** 2


def funnel(z):
    """Eight dimensions whose widths differ by factors of many."""
    return 0.5 * (z[0] / 2) ** 2 + 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) + 0.5 * (z.size - 1) * z[0]


def slope(z):
    return z[1] ** 2 - z[0]


TARGETS = {"gaussian": (gaussian, 3), "banana": (banana, 2), "funnel": (funnel, 8), "slope": (slope, 2)}
TARGETS["double well"] = double_well, 2


def coordinates_of(potential, dim):
    prototype = jnp.zeros(dim)
    moves = MoveCoordinates(potential, prototype, None, (), None, forward_mode=False)
    return HostCoordinates(moves, prototype)


def settings_for(dim, num_warmup=200, *, solve=True, **changes):
    local = LocalSettings(
        step_size=1.0,
        length=None,
        target_accept_prob=0.9,
        most_steps=255,
        adapt_step_size=True,
        adapt_metric=True,
        search_step_size=False,
        regularize=True,
        blocks=(tuple(range(dim)),),
        rank=dim,
        force_blocks=False,
        dynamics=DYNAMICS["canonical"],
        integrator=INTEGRATORS["leapfrog"],
    )
    return WarmupSettings(num_warmup, solve, local._replace(**changes))


def run(potential, dim, num_warmup=200, given=None, **changes):
    coordinates = coordinates_of(potential, dim)
    starts = find_starts(coordinates, given)
    prepared = prepare(coordinates, starts, identity(dim, dim), settings_for(dim, num_warmup, **changes))
    assert prepared.num_evals == coordinates.evaluator.num_evals
    return prepared


@pytest.fixture(scope="module")
def prepared():
    """The result of each target, made when it is first asked for."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = run(*TARGETS[name])
        return made[name]

    return of


def share_of(found):
    """Fraction of the evaluations that global moves make."""
    steps = max(found.length / found.step_size, 1)
    jumps = found.probability * found.candidates
    return jumps / (jumps + (1 - found.probability) * steps)


# --------------------------------------------------------------------------- outcomes


def test_a_gaussian_is_solved_and_known_exactly(prepared):
    found = prepared("gaussian")
    assert OUTCOMES[found.outcome] == "solved"
    assert found.acceptance > 0.85
    assert found.short_fraction == 0
    np.testing.assert_allclose(found.trial.centre, 1, atol=1e-2)
    factor = np.linalg.solve(ROOT, to_position_rows(found.trial.metric, np.eye(3)).T)
    np.testing.assert_allclose(np.linalg.svd(factor)[1], 1, atol=0.05)
    assert found.num_evals < 300
    assert found.candidates == 1
    assert found.burn_in < 10
    assert share_of(found) > 0.8
    assert 0.5 * gaussian_step_size(3) < found.step_size < gaussian_step_size(3)
    assert found.outliers == 0
    assert not found.at_floor


def test_a_banana_has_a_second_trial(prepared):
    found = prepared("banana")
    assert OUTCOMES[found.outcome] == "middling"
    assert found.law is not None
    assert found.acceptance > 0.9
    assert found.num_evals < 2000


def test_a_banana_without_one_is_left_to_local_moves(monkeypatch):
    """Descents have ended outside the poor Gaussian."""
    monkeypatch.setattr(warmup, "second_trial", lambda *_: None)
    found = run(*TARGETS["banana"])
    assert OUTCOMES[found.outcome] == "hopeless"
    assert found.acceptance < 0.5
    assert share_of(found) <= 0.5
    assert found.step_size != pytest.approx(0.8 * gaussian_step_size(2))  # it has been tuned


def test_a_funnel_is_solved_given_its_scale(prepared):
    found = prepared("funnel")
    assert OUTCOMES[found.outcome] == "solved"
    assert found.law is not None
    assert len(found.law.width_slopes) > 0
    assert found.acceptance > 0.8


def without_conditional(monkeypatch):
    monkeypatch.setattr(structures, "find_conditional_gaussian", lambda *_: None)


def test_a_funnel_with_an_unknown_scale_is_hopeless_and_its_local_moves_are_adapted(monkeypatch):
    without_conditional(monkeypatch)
    found = run(*TARGETS["funnel"])
    assert OUTCOMES[found.outcome] == "hopeless"
    assert found.num_evals > 2000
    assert found.length / found.step_size > 2
    assert found.short_fraction > 0  # for the neck
    # the trial is fitted to draws: it does not stand at the neck
    assert np.all(np.isfinite(found.trial.centre))
    assert np.max(found.trial.metric.scale) > 0.3


def test_a_refused_second_trial_changes_nothing_but_the_count(monkeypatch):
    without, with_numbers = (
        refused_after(monkeypatch, partial(draw_and_refuse, number=number)) for number in (0, 7)
    )
    for one, two in zip(jax.tree.leaves(without), jax.tree.leaves(with_numbers), strict=True):
        np.testing.assert_array_equal(one, two)


def draw_and_refuse(rng, number):
    rng.normal(size=number)


def refused_after(monkeypatch, draw):
    """The warm-up of a funnel whose second trial draws numbers and is refused."""
    without_conditional(monkeypatch)
    monkeypatch.setattr(warmup, "second_trial", lambda *args: draw(args[-1]))
    return run(*TARGETS["funnel"])


@pytest.mark.filterwarnings("error")
def test_a_slope_has_no_normalisable_ground_state():
    found = run(*TARGETS["slope"])
    assert OUTCOMES[found.outcome] == "no normalisable ground state"
    assert found.outcome == OUTCOMES.index(str(Outcome.UNBOUNDED))
    assert np.all(np.isfinite(found.starts))
    assert 0 < found.step_size < np.inf


def test_the_mode_that_was_not_kept_is_counted():
    given = np.array([[2.0, 0.5], [-2.0, 0.1], [1.5, -0.4], [-1.6, 0.7]])
    found = run(double_well, 2, given=given)
    assert OUTCOMES[found.outcome] == "solved"
    assert found.trial.centre[0] == pytest.approx(1.75, abs=0.15)
    assert found.outliers == 2


def test_a_trial_that_its_own_candidates_do_not_bear_out_is_given_up(monkeypatch):
    """The solve calls it middling; measured, it is hopeless."""
    without_conditional(monkeypatch)
    monkeypatch.setattr(warmup, "second_trial", lambda *_: None)
    seen = []
    solve = trials.solve_gaussian

    def watched(*args, **options):
        seen.append(solve(*args, **options))
        return seen[-1]

    monkeypatch.setattr(trials, "solve_gaussian", watched)
    found = run(*TARGETS["funnel"])
    assert [each.outcome for each in seen] == [Outcome.MIDDLING]
    assert OUTCOMES[found.outcome] == "hopeless"


def test_a_trial_that_chains_contradict_is_given_up(monkeypatch, prepared):
    """Trajectories that come to places where a chain of global moves would be held for ever."""
    believed = prepared("banana")
    monkeypatch.setattr(global_moves, "time_at", lambda *_: 1e5)
    monkeypatch.setattr(warmup, "second_trial", lambda *_: None)
    found = run(*TARGETS["banana"])
    assert OUTCOMES[found.outcome] == "hopeless"
    assert found.num_evals > 2 * believed.num_evals


# --------------------------------------------------------------------------- the result


@pytest.mark.parametrize("name", TARGETS)
def test_proportions_are_within_their_bounds(prepared, name):
    found = prepared(name)
    assert 1 <= found.candidates <= MOST_CANDIDATES
    assert 0 < found.probability < 1
    assert share_of(found) <= 0.95 + 1e-9
    if found.acceptance < CLEAR:
        assert share_of(found) <= 0.5
    limit = 2 * found.candidates * found.acceptance
    assert found.probability <= limit + 1e-9
    assert share_of(found) >= 0.05 - 1e-9 or found.probability == pytest.approx(limit)
    assert 5 <= found.burn_in <= 100


@pytest.mark.parametrize("name", ["gaussian", "banana", "funnel", "double well"])
def test_starts_are_points_of_the_posterior_with_their_density(prepared, name):
    found, (potential, dim) = prepared(name), TARGETS[name]
    assert found.starts.shape[1] == dim
    assert len(found.starts) >= 4
    values, gradients = jax.vmap(jax.value_and_grad(potential))(jnp.asarray(found.starts, float))
    np.testing.assert_allclose(found.log_densities, -values, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.scores, -gradients, rtol=1e-3, atol=1e-2)
    assert len(np.unique(found.starts, axis=0)) > 2
    if name in ("gaussian", "banana"):
        # Twice the potential is chi-squared: no start is beyond its quantile of 1 - 1e-5.
        assert np.max(2 * np.asarray(values)) < 23 + 2 * dim
        assert np.ptp(found.starts[:, 0]) > 0.5


def test_every_point_that_the_target_sees_is_counted(monkeypatch):
    seen = []
    right = Evaluator.__call__

    def watched(self, points):
        seen.append(len(points))
        return right(self, points)

    monkeypatch.setattr(Evaluator, "__call__", watched)
    assert run(*TARGETS["banana"]).num_evals == sum(seen)


@pytest.mark.parametrize("name", ["gaussian", "banana", "funnel"])
def test_the_same_target_and_starts_give_the_same_result(prepared, name):
    one, two = prepared(name), run(*TARGETS[name])
    leaves = (jax.tree.leaves(each) for each in (one, two))
    for mine, theirs in zip(*leaves, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    other = run(*TARGETS[name], given=np.random.default_rng(1).uniform(-1, 1, (4, TARGETS[name][1])))
    # where a map is used, the trial stands at the origin of its coordinates
    where_one, where_other = (
        each.trial.centre if each.law is None else each.law.centre for each in (one, other)
    )
    assert np.any(where_other != where_one)


# --------------------------------------------------------------------------- what is not to be done


@pytest.mark.parametrize(("num_warmup", "solve"), [(SMALLEST_SOLVE - 1, True), (120, False)])
def test_without_a_solve_all_moves_are_local(num_warmup, solve):
    found = run(gaussian, 3, num_warmup, solve=solve)
    assert OUTCOMES[found.outcome] == "not tried"
    assert found.probability == 0
    assert found.candidates == 1
    assert found.step_size != 1
    # every iteration of four chains makes a step at least
    assert found.num_evals >= 4 * num_warmup


def test_without_iterations_nothing_is_adapted():
    found = run(gaussian, 3, 0, length=2.5)
    assert OUTCOMES[found.outcome] == "not tried"
    assert (found.step_size, found.length, found.probability) == (1.0, 2.5, 0)
    np.testing.assert_array_equal(found.trial.metric.scale, 1)
    assert found.num_evals < 20


def test_a_step_size_and_a_length_of_the_user_are_kept(prepared):
    found = run(banana, 2, adapt_step_size=False, step_size=0.3, length=1.2)
    assert (found.step_size, found.length) == (0.3, 1.2)
    assert OUTCOMES[found.outcome] == "middling"
    assert prepared("banana").step_size != 0.3


def test_where_no_step_size_works_it_is_said():
    def dusty(z):
        return 0.5 * jnp.sum(z**2) + 1e4 * jnp.modf(jnp.sin(jnp.sum(z) * 12.9898) * 43758.5)[0]

    found = run(dusty, 2, 120, solve=False)
    assert found.at_floor
    assert np.all(np.isfinite(found.log_densities))
    assert not run(gaussian, 3, 120, solve=False).at_floor


# --------------------------------------------------------------------------- starts


def test_starts_that_are_given_come_first_and_are_filled_up_to_four():
    coordinates = coordinates_of(gaussian, 3)
    assert find_starts(coordinates, None).shape == (4, 3)
    given = np.full((2, 3), 0.25)
    found = find_starts(coordinates, given)
    np.testing.assert_array_equal(found[:2], given)
    assert len(found) >= 4
    assert np.all(np.abs(found) <= 2)
    many = np.random.default_rng(0).normal(size=(9, 3))
    np.testing.assert_array_equal(find_starts(coordinates, many), many[:4])


def test_starts_lie_where_the_density_is_finite_however_small_that_place_is():
    def small(z):
        return jnp.where(jnp.max(jnp.abs(z)) < 0.8, 0.5 * jnp.sum(z**2), jnp.nan)

    coordinates = coordinates_of(small, 2)
    found = find_starts(coordinates, None)
    assert found.shape == (4, 2)
    assert np.max(np.abs(found)) < 0.8
    assert len(np.unique(found, axis=0)) == 4
    assert coordinates.evaluator.num_evals % 4 == 0


def test_a_target_without_finite_density_is_refused():
    with pytest.raises(RuntimeError, match="not finite at 256 points within 2 of the origin"):
        find_starts(coordinates_of(lambda z: jnp.nan * z[0], 2), None)


def labels(z):
    """Two copies of one mode, about -3 and +3 in all of 20 coordinates."""
    return -jnp.logaddexp(-0.5 * jnp.sum((z - 3) ** 2), -0.5 * jnp.sum((z + 3) ** 2))


def side_of(found):
    return np.sign(np.mean(found.starts, 1))


@pytest.mark.parametrize("at_one", [True, False])
def test_local_moves_are_adapted_at_one_copy(monkeypatch, at_one):
    monkeypatch.setattr(warmup, "beside", lambda *_: None)  # no trial is usable
    monkeypatch.setattr(warmup, "second_trial", lambda *_: None)
    if not at_one:
        monkeypatch.setattr("qdesampler.infer.qde.copies._TRAVELLED", 1000)
    found = run(labels, 20)
    assert len(set(side_of(found))) == (1 if at_one else 2)
    assert (found.outliers > 0) is at_one  # the others are reported


def test_ends_that_ran_away_are_no_copies(monkeypatch):
    monkeypatch.setattr(warmup, "equal_modes", lambda _, descents: (descents[0], 2))
    away, home = (Descent(np.full(20, place), 0.0, np.zeros(20), 1e-7) for place in (1e13, 1.0))
    coordinates, starts = coordinates_of(labels, 20), np.zeros((4, 20))
    for end, copies in ((away, 0), (home, 2)):
        begun, _, number = warmup._at_one_copy(coordinates, starts, [end])
        assert number == copies
        np.testing.assert_array_equal(begun, starts + (1.0 if copies else 0.0))
