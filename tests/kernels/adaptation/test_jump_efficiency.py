"""The cheapest trajectory length from recorded trajectories, against chains that ran with each length."""

import numpy as np
import pytest

from qdesampler.kernels.adaptation.jump_efficiency import JumpRecord
from qdesampler.kernels.mcmc.host_trajectories import DYNAMICS, Chains, run_trajectories
from qdesampler.kernels.mcmc.integrators import INTEGRATORS
from qdesampler.kernels.mcmc.trajectory import JITTER
from qdesampler.numerics.numpy_metric import identity

OVERHEAD = 2.0  # evaluations that a draw costs besides its steps, as the record counts them


def gaussian(sd):
    sd = np.asarray(sd, float)

    def evaluate(points):
        return -0.5 * np.sum((points / sd) ** 2, 1), -points / sd**2

    return evaluate


def trajectories(sd, step_size, steps, rng, positions, name="canonical"):
    evaluate = gaussian(sd)
    chains = Chains(positions, *evaluate(positions))
    return run_trajectories(
        evaluate,
        chains,
        identity(len(sd), 0),
        step_size,
        steps,
        rng,
        DYNAMICS[name],
        INTEGRATORS["leapfrog"],
    )


def recorded(sd, step_size, most, rounds=8, chains=200, name="canonical"):
    """A record of trajectories from exact draws."""
    rng = np.random.default_rng(0)
    record = JumpRecord(rng.normal(size=(rounds * chains, len(sd))) * sd, 1)
    for _ in range(rounds):
        starts = rng.normal(size=(chains, len(sd))) * sd
        found = trajectories(sd, step_size, most, rng, starts, name)
        record.add(starts, found.displacements, found.accept_probs)
    return record


def measured_cost(sd, step_size, length, chains=300, draws=60):
    """Evaluations per effective draw of the slowest coordinate or square, from chains with this length."""
    rng = np.random.default_rng(1)
    here = rng.normal(size=(chains, len(sd))) * sd
    path, steps_made = [here], []
    for _ in range(draws):
        steps = max(1, round(length * (1 - JITTER + 2 * JITTER * rng.random())))
        found = trajectories(sd, step_size, steps, rng, here)
        taken = rng.random(chains) < found.accept_probs[-1]
        here = np.where(taken[:, None], found.ends.positions, here)
        path.append(here)
        steps_made.append(steps)
    path = np.stack(path)
    times = []
    for values in (path / sd, (path / sd) ** 2 - 1):
        variance = np.mean(values**2, (0, 1))
        lags = [np.mean(values[lag:] * values[:-lag], (0, 1)) / variance for lag in range(1, 20)]
        times.append(1 + 2 * np.sum(lags, 0))
    return float(np.max(times)) * (OVERHEAD + np.mean(steps_made))


@pytest.mark.parametrize("sd", [np.ones(4), np.array([1.0, 1.0, 2.0])], ids=["whitened", "one wide axis"])
def test_the_length_found_is_close_to_the_cheapest(sd):
    step_size = 0.25
    best = recorded(sd, step_size, 40).best(JITTER)
    assert not best.is_longest
    costs = {length: measured_cost(sd, step_size, length) for length in (1, 2, 4, 6, 9, 14, 22)}
    mine = measured_cost(sd, step_size, best.steps)
    assert mine < 1.25 * min(costs.values())
    assert max(costs.values()) > 2 * min(costs.values())  # it matters
    assert best.cost == pytest.approx(mine, rel=0.35)


def test_on_a_whitened_gaussian_it_is_about_a_quarter_period():
    """`E cos t` of a length `t` that is uniform within 40% vanishes near pi / 2; costs draw it below."""
    for step_size in (0.1, 0.2):
        best = recorded(np.ones(4), step_size, round(4 / step_size)).best(JITTER)
        assert 0.9 < best.steps * step_size < 1.9


def test_the_slowest_coordinate_asks_for_longer_trajectories():
    narrow, wide = (recorded(sd, 0.25, 60).best(JITTER) for sd in (np.ones(3), np.array([1.0, 1.0, 4.0])))
    assert wide.steps > 1.5 * narrow.steps
    assert wide.cost > 1.5 * narrow.cost


def test_more_gradients_a_step_cost_more_and_make_trajectories_no_longer():
    costs = []
    for stages in (1, 4):
        rng = np.random.default_rng(2)
        starts = rng.normal(size=(400, 3))
        record = JumpRecord(starts, stages)
        found = trajectories(np.ones(3), 0.2, 30, rng, starts)
        record.add(starts, found.displacements, found.accept_probs)
        costs.append(record.best(JITTER))
    assert costs[1].cost > 2.5 * costs[0].cost
    assert costs[1].steps <= costs[0].steps


def test_it_says_when_no_longer_trajectory_was_seen():
    assert recorded(np.full(3, 8.0), 0.2, 6).best(JITTER).is_longest
    assert not recorded(np.ones(3), 0.2, 40).best(JITTER).is_longest


def test_ends_that_would_be_rejected_make_no_jump():
    """Where only the first steps are accepted, longer trajectories are not worth their evaluations."""
    rng = np.random.default_rng(3)
    starts = rng.normal(size=(500, 2))
    found = trajectories(np.ones(2), 0.3, 20, rng, starts)
    probs = found.accept_probs * (np.arange(20) < 3)[:, None]
    displacements = np.where(probs[..., None] > 0, found.displacements, np.nan)
    record = JumpRecord(starts, 1)
    record.add(starts, displacements, probs)
    best = record.best(0.0)
    assert best.steps <= 3.5
    assert np.isfinite(best.cost)
    open_record = JumpRecord(starts, 1)
    open_record.add(starts, found.displacements, found.accept_probs)
    assert open_record.best(0.0).steps > 3


def test_adding_in_parts_is_adding_at_once():
    rng = np.random.default_rng(4)
    starts = rng.normal(size=(60, 2))
    found = trajectories(np.ones(2), 0.3, 10, rng, starts)
    once, parts = JumpRecord(starts, 1), JumpRecord(starts, 1)
    once.add(starts, found.displacements, found.accept_probs)
    for rows in (slice(0, 25), slice(25, 60)):
        parts.add(starts[rows], found.displacements[:, rows], found.accept_probs[:, rows])
    assert once.best(JITTER)[0] == parts.best(JITTER)[0]
    assert once.best(JITTER).cost == pytest.approx(parts.best(JITTER).cost)


def test_without_trajectories_there_is_no_best():
    assert JumpRecord(np.ones((4, 2)), 1).best(JITTER) is None


def test_chains_that_all_stand_still_have_a_finite_cost():
    record = JumpRecord(np.random.default_rng(5).normal(size=(8, 2)), 1)
    record.add(np.ones((8, 2)), np.full((10, 8, 2), np.nan), np.zeros((10, 8)))
    best = record.best(JITTER)
    assert best.cost > 1000
    assert best.steps <= 1.5


def test_longer_trajectories_add_to_what_shorter_ones_told():
    """The first steps of long trajectories count for short lengths; every length has a number of its own."""
    rng = np.random.default_rng(6)
    starts = rng.normal(size=(4000, 2))
    found = trajectories(np.ones(2), 0.3, 20, rng, starts)
    some = slice(0, 300)
    mixed, whole = JumpRecord(starts, 1), JumpRecord(starts, 1)
    mixed.add(starts, found.displacements[:8], found.accept_probs[:8])
    assert mixed.best(JITTER).is_longest or mixed.best(JITTER).steps < 8
    mixed.add(starts[some], found.displacements[:, some], found.accept_probs[:, some])
    whole.add(starts, found.displacements, found.accept_probs)
    assert mixed.best(JITTER).steps == pytest.approx(whole.best(JITTER).steps, rel=0.15)
    assert mixed.best(JITTER).cost == pytest.approx(whole.best(JITTER).cost, rel=0.15)
