"""Local adaptation: metric, step size and length of known targets, blocks, walls, re-centring, counts."""

import numpy as np
import pytest

from qdesampler.kernels.adaptation.jump_efficiency import BestLength
from qdesampler.kernels.adaptation.local import adapt_locally, tune_step_size
from qdesampler.kernels.adaptation.walk import LocalSettings
from qdesampler.kernels.mcmc.host_trajectories import DYNAMICS, Chains, run_trajectories
from qdesampler.kernels.mcmc.integrators import INTEGRATORS
from qdesampler.kernels.mcmc.trajectory import gaussian_step_size
from qdesampler.numerics.numpy_metric import HostMetric, identity, to_position_rows, whiten_rows

DIM = 4
ALL = (tuple(range(DIM)),)
PLAIN = LocalSettings(
    step_size=1.0,
    length=None,
    target_accept_prob=0.8,
    most_steps=1023,
    adapt_step_size=True,
    adapt_metric=True,
    search_step_size=False,
    regularize=True,
    blocks=ALL,
    rank=DIM,
    force_blocks=False,
    dynamics=DYNAMICS["canonical"],
    integrator=INTEGRATORS["leapfrog"],
)


class Target:
    """Coordinates of a target in NumPy that counts evaluations and is never re-centred."""

    def __init__(self, function):
        self.function, self.num_evals, self.batches = function, 0, 0

    def evaluate(self, points):
        self.num_evals += len(points)
        self.batches += 1
        return self.function(points)

    def recentre(self, points, scores, weights):
        return None


def logistic(factor, centre=0.0):
    """`x = centre + factor y` with independent logistic `y`: no metric is exact, so the gain test decides."""
    inverse = np.linalg.inv(factor)

    def function(points):
        y = (points - centre) @ inverse.T
        tanh = np.tanh(y / 2)
        return -np.sum(2 * np.logaddexp(y / 2, -y / 2), 1), -tanh @ inverse

    return Target(function)


def gaussian(sd, seed=0):
    """A Gaussian of these widths along random axes, and the map that whitens it."""
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(sd), len(sd))))[0]

    def function(points):
        along = points @ axes / sd
        return -0.5 * np.sum(along**2, 1), -(along / sd) @ axes.T

    return Target(function), axes.T / np.asarray(sd)[:, None]


def begun(target, dim=DIM, spread=1.0, seed=1):
    points = spread * np.random.default_rng(seed).uniform(-2, 2, (4, dim))
    return Chains(points, *target.function(points))


def adapt(target, iterations=200, seed=2, chains=None, metric=None, **changes):
    chains = begun(target) if chains is None else chains
    metric = identity(chains.positions.shape[1], DIM) if metric is None else metric
    target.num_evals = target.batches = 0
    rng = np.random.default_rng(seed)
    found = adapt_locally(target, chains, metric, iterations, PLAIN._replace(**changes), rng)
    assert found.num_evals == target.num_evals  # every evaluation is counted
    return found


def factor_of(metric):
    return to_position_rows(metric, np.eye(metric.scale.size)).T


def acceptance(found, target, rounds=30, **changes):
    """Mean acceptance of the end points with the settings found, from where the chains have come to."""
    settings, rng = PLAIN._replace(**changes), np.random.default_rng(5)
    here, seen = found.chains, []
    for _ in range(rounds):
        steps = max(1, round(found.length * rng.uniform(0.6, 1.4) / found.step_size))
        path = run_trajectories(
            target.function,
            here,
            found.metric,
            found.step_size,
            steps,
            rng,
            settings.dynamics,
            settings.integrator,
        )
        taken = (rng.random(len(path.accept_probs[-1])) < path.accept_probs[-1])[:, None]
        here = Chains(
            *(
                np.where(taken if new.ndim == 2 else taken[:, 0], new, old)
                for new, old in zip(path.ends, here, strict=True)
            )
        )
        seen.append(path.accept_probs[-1])
    return float(np.mean(seen))


# --------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("condition", [1e2, 1e6])
def test_an_ill_conditioned_gaussian_is_whitened(condition):
    target, inverse = gaussian(np.logspace(-0.5 * np.log10(condition), 0, DIM))
    found = adapt(target)
    levels = np.linalg.svd(inverse @ factor_of(found.metric))[1]
    assert np.all((levels > 0.8) & (levels < 1.25)), levels
    assert not found.at_floor
    assert 0.65 < acceptance(found, target) < 0.95


def test_the_length_is_about_a_quarter_period_of_a_whitened_gaussian_whatever_the_random_numbers():
    """With a step size that changed while trajectories are recorded it was between .4 and 3."""
    target, _ = gaussian(np.geomspace(0.1, 1, DIM))
    found = [adapt(target, seed=seed) for seed in range(4)]
    assert all(1.1 < each.length < 2.3 for each in found)
    assert all(3 < each.cost < 10 for each in found)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (3 * np.eye(DIM), "identity"),
        (np.diag(np.geomspace(0.05, 5, DIM)), "diagonal"),
        (gaussian(np.geomspace(0.02, 1, DIM), 3)[1].T * np.geomspace(0.02, 1, DIM) ** 2, "correlated"),
    ],
    ids=["identity", "diagonal", "correlated"],
)
def test_the_metric_is_as_general_as_the_target_asks_for(factor, expected):
    metric = adapt(logistic(factor), 250).metric
    kind = "correlated" if np.any(metric.stretch != 1) else "diagonal"
    kind = "identity" if kind == "diagonal" and np.ptp(metric.scale) == 0 else kind
    assert kind == expected
    # A logistic variable has the least Fisher divergence at the width sqrt(pi), within a factor 1.6.
    levels = np.linalg.svd(np.linalg.solve(factor, factor_of(metric)))[1] / np.sqrt(np.pi)
    assert np.all((levels > 1 / 1.6) & (levels < 1.6)), levels
    assert metric.basis.shape == (DIM, DIM)


def test_coordinates_of_different_blocks_stay_uncorrelated():
    factor = np.linalg.cholesky(0.1 * np.eye(DIM) + 0.9 * np.ones((DIM, DIM)))
    covariance = {}
    for name, blocks in (("pairs", ((0, 2), (1, 3))), ("none", ())):
        metric = identity(DIM, DIM if blocks else 0)
        root = factor_of(adapt(logistic(factor), blocks=blocks, rank=2, metric=metric).metric)
        covariance[name] = root @ root.T
    np.testing.assert_allclose(covariance["pairs"][np.ix_([0, 2], [1, 3])], 0, atol=1e-12)
    assert covariance["pairs"][0, 2] > 0.5 * covariance["pairs"][0, 0]
    assert covariance["pairs"][1, 3] > 0.5 * covariance["pairs"][1, 1]
    np.testing.assert_allclose(covariance["none"], np.diag(np.diag(covariance["none"])), atol=1e-12)


@pytest.mark.parametrize("integrator", ["leapfrog", "mn2"])
@pytest.mark.parametrize("dynamics", ["canonical", "isokinetic"])
def test_the_step_size_has_the_acceptance_aimed_at(dynamics, integrator):
    """Within .07 of .9; a lower aim gives longer steps, which four chains do not overdo."""
    target, _ = gaussian(np.ones(DIM))
    moves = {"dynamics": DYNAMICS[dynamics], "integrator": INTEGRATORS[integrator], "length": 1.5}
    found = adapt(target, 300, target_accept_prob=0.9, **moves)
    assert acceptance(found, target, 100, **moves) == pytest.approx(0.9, abs=0.07)
    lower = adapt(target, 300, target_accept_prob=0.6, **moves)
    assert lower.step_size > 1.03 * found.step_size  # MN2 is nearly at the limit of its stability
    assert acceptance(lower, target, 100, **moves) > 0.55


def test_draws_are_those_of_the_target():
    """Mean and variance of the latest draws within 4.5 standard errors, by the spread between chains."""
    target, inverse = gaussian(np.geomspace(0.05, 1, DIM))
    points = np.random.default_rng(6).normal(size=(40, DIM)) @ np.linalg.inv(inverse).T
    found = adapt(target, 120, chains=Chains(points, *target.function(points)))
    assert len(found.draws) >= 40 * 30
    np.testing.assert_allclose(found.scores, target.function(found.draws)[1])
    np.testing.assert_array_equal(found.draws[-40:], found.chains.positions)
    white = (found.draws @ inverse.T).reshape(-1, 40, DIM)
    for values, expected in ((white, 0), (white**2, 1)):
        means = values.mean(0)
        assert np.all(np.abs(means.mean(0) - expected) < 4.5 * means.std(0, ddof=1) / np.sqrt(40))


# --------------------------------------------------------------------------- where it cannot work


def dusty(points):
    """A log density that is noise of 1e4 nats: ends are accepted or not whatever the step size."""
    noise = np.modf(np.sin(np.sum(points * np.array([12.9898, 78.233, 37.719, 4.581]), 1) * 1e3) * 43758.5)[0]
    return -0.5 * np.sum(points**2, 1) + 1e4 * noise, -points


def test_where_no_step_size_works_it_says_so():
    for target in (Target(dusty), Target(lambda x: (np.full(len(x), -np.inf), -x))):
        points = np.random.default_rng(7).normal(size=(4, DIM))
        chains = Chains(points, np.zeros(4), -points)
        found = adapt(target, 150, chains=chains, target_accept_prob=0.9)
        assert found.at_floor
        assert found.step_size < 1e-3 * gaussian_step_size(DIM)
        assert np.all(np.isfinite(found.chains.positions))


def test_a_region_without_density_is_not_entered_and_spoils_nothing():
    def half(points):
        inside = points[:, 0] > 0
        values = np.where(inside, -0.5 * np.sum(points**2, 1), np.nan)
        return values, np.where(inside[:, None], -points, np.nan)

    target = Target(half)
    points = np.abs(begun(target).positions) + 0.1
    found = adapt(target, 150, chains=Chains(points, *half(points)))
    assert np.all(found.draws[:, 0] > 0)
    assert np.all(np.isfinite(factor_of(found.metric)))
    assert not found.at_floor
    assert np.std(found.draws[:, 0]) > 0.3


# --------------------------------------------------------------------------- what is left alone


def test_what_is_not_to_be_adapted_is_kept():
    target, _ = gaussian(np.array([0.5, 1.0, 1.0, 2.0]))
    metric = HostMetric(np.full(DIM, 0.7), np.zeros((DIM, DIM)), np.ones(DIM))
    found = adapt(target, 80, metric=metric, adapt_metric=False, length=1.3)
    assert found.metric is metric
    assert found.length == 1.3
    assert found.cost == np.inf
    assert found.step_size != 1.0
    found = adapt(target, 80, adapt_step_size=False, step_size=0.21)
    assert found.step_size == 0.21
    assert not found.at_floor
    assert np.any(found.metric.scale != 1)


def test_tuning_changes_step_size_and_length_alone():
    target, inverse = gaussian(np.geomspace(0.01, 1, DIM))
    metric = HostMetric(np.ones(DIM), *np.linalg.svd(np.linalg.inv(inverse))[:2])
    rng = np.random.default_rng(8)
    found = tune_step_size(target, begun(target, spread=0.1), metric, 40, PLAIN, rng)
    assert found.metric is metric
    assert 0.5 < found.length < 4
    assert 0.4 < found.step_size < 2
    assert found.num_evals == target.num_evals


@pytest.mark.parametrize("length", [None, 1.5])
@pytest.mark.parametrize("iterations", [1, 19, 59, 60, 350])
def test_every_chain_makes_as_many_trajectories_as_it_is_given(monkeypatch, iterations, length):
    from qdesampler.kernels.adaptation import walk

    made = []

    def counted(*args):
        made.append(args[4])
        return run_trajectories(*args)

    monkeypatch.setattr(walk, "run_trajectories", counted)
    target, _ = gaussian(np.ones(DIM))
    found = adapt(target, iterations, length=length, most_steps=6)
    assert len(made) == iterations
    assert max(made) <= 6
    assert np.isfinite(found.cost) == (length is None and iterations >= 60)


def test_the_same_generator_gives_the_same_result():
    target, _ = gaussian(np.geomspace(0.1, 1, DIM))
    one, two = adapt(target, 70), adapt(target, 70)
    np.testing.assert_array_equal(one.draws, two.draws)
    assert one.step_size == two.step_size
    assert adapt(target, 70, seed=3).step_size != one.step_size


# --------------------------------------------------------------------------- coordinates that change


class Scaled(Target):
    """Coordinates `y = x / unit` of a Gaussian of width 100, in which the unit is found once."""

    def __init__(self):
        super().__init__(self._density)
        self.unit, self.asked = 1.0, 0

    def _density(self, points):
        x = points * self.unit
        return -0.5 * np.sum((x / 100) ** 2, 1), -x / 100**2 * self.unit

    def recentre(self, points, scores, weights):
        self.asked += 1
        assert points.shape == scores.shape
        assert weights.shape == (len(points),)
        if self.unit != 1:
            return None
        self.unit = 50.0
        return lambda y: y / 50


def test_chains_follow_when_the_coordinates_change():
    target = Scaled()
    found = adapt(target, 150)
    assert target.asked > 1
    np.testing.assert_allclose(found.metric.scale, 2, rtol=1e-3)  # of width 100, in units of 50
    values, scores = target.function(found.chains.positions)
    np.testing.assert_allclose(found.chains.log_densities, values)
    np.testing.assert_allclose(found.chains.scores, scores)
    assert np.max(np.abs(whiten_rows(found.metric, found.draws))) < 6


def corner(points):
    """Exponential with mean `(.05, 20)`: the density is largest at its edge."""
    scale = np.array([0.05, 20.0])
    inside = np.all(points > 0, 1)
    return np.where(inside, -np.sum(points / scale, 1), -np.inf), np.broadcast_to(-1 / scale, points.shape)


def stairs(points):
    """Gaussian times a step function: a jump of 4 nats at every integer, up to 0 and down after it."""
    steps = -4 * np.abs(np.floor(points[:, 0]))
    return steps - 0.5 * np.sum(points**2, 1) / 9, -points / 9


def test_widths_at_edges_come_from_the_draws():
    """The scores are constant and say nothing of them; a metric that believes them is 1e3 times too wide."""
    target = Target(corner)
    start = np.random.default_rng(3).exponential([0.05, 20.0], (4, 2))
    chains = Chains(start, *target.function(start))
    settings = PLAIN._replace(blocks=((0, 1),), rank=2)
    found = adapt_locally(target, chains, identity(2, 2), 350, settings, np.random.default_rng(1))
    assert found.edges > 0.1
    assert not found.at_floor
    root = factor_of(found.metric)
    np.testing.assert_allclose(np.sqrt(np.diag(root @ root.T)), [0.05, 20.0], rtol=0.6)
    assert found.step_size > 0.1
    assert np.all(found.draws > 0)
    assert adapt(logistic(np.eye(DIM))).edges == 0


def test_long_steps_are_kept_where_the_density_jumps():
    """Steps that seldom cross a jump would have to be tiny; by what a draw costs long ones are better."""
    target = Target(stairs)
    start = np.random.default_rng(4).normal(size=(4, 2)) * [0.5, 3.0]
    chains = Chains(start, *target.function(start))
    settings = PLAIN._replace(blocks=((0, 1),), rank=2)
    found = adapt_locally(target, chains, identity(2, 2), 350, settings, np.random.default_rng(1))
    root = factor_of(found.metric)
    assert found.step_size * np.sqrt((root @ root.T)[0, 0]) > 0.1  # a tenth of a stair
    latest = found.draws[-400:, 0]
    assert np.mean((latest > 0) & (latest < 1)) > 0.8  # by quadrature .96 is between 0 and 1


@pytest.mark.parametrize("adapt_moves", [adapt_locally, tune_step_size])
def test_the_step_size_is_that_of_the_length(monkeypatch, adapt_moves):
    """A search that keeps a larger step size finds the length with it: both are frozen together."""
    from qdesampler.kernels.adaptation import local

    def keep_larger(walk, iterations, centre):
        walk.held, walk.length = 0.7, 1.4
        return BestLength(2.0, 10.0, False)

    monkeypatch.setattr(local, "_search_length", keep_larger)
    target, _ = gaussian(np.ones(DIM))
    start = np.random.default_rng(4).normal(size=(4, DIM))
    chains = Chains(start, *target.function(start))
    settings = PLAIN._replace(step_size=1e-3)
    found = adapt_moves(target, chains, identity(DIM, DIM), 80, settings, np.random.default_rng(1))
    assert (found.step_size, found.length) == (0.7, 1.4)


def test_trajectories_that_seldom_meet_an_edge_count_as_rejected():
    """A wall that one trajectory in a hundred meets changes no step size: scores show the widths."""
    target, _ = gaussian(np.ones(DIM))
    function = target.function

    def walled(points):
        values, scores = function(points)
        return np.where(points[:, 0] < 3.5, values, -np.inf), scores

    free, behind = (adapt(each, 300) for each in (target, Target(walled)))
    assert behind.edges < 0.1
    np.testing.assert_allclose(behind.step_size, free.step_size, rtol=0.35)
