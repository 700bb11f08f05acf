"""`sample`: its draws, its evaluations, and that everything which reads a run reads this one."""

import warnings

import numpy as np
import pytest

import qdesampler
from qdesampler.densities import BudgetError, Parameter
from tests.densities.functions import WIDTHS, gaussian

DATA = np.random.default_rng(0).normal(2.0, 1.5, 30)
TABLE = {"sigma": "positive", "mu": "real", "w": Parameter("simplex", 3, "part")}
POWERS = np.array([1.0, 2.0, 3.0])


def normal(points):
    """Normal data with a flat prior on mu and log sigma, and a Dirichlet(2, 3, 4) beside them."""
    sigma, mu, w = points[:, 0], points[:, 1], points[:, 2:]
    off = (DATA - mu[:, None]) / sigma[:, None]
    values = -0.5 * np.sum(off**2, 1) - (len(DATA) + 1) * np.log(sigma) + np.sum(POWERS * np.log(w), 1)
    slopes = np.stack([np.sum(off**2, 1) / sigma - (len(DATA) + 1) / sigma, np.sum(off, 1) / sigma], 1)
    return values, np.concatenate([slopes, POWERS / w], 1)


class Counted:
    def __init__(self, function):
        self.function, self.points, self.calls = function, 0, 0

    def __call__(self, points):
        self.points += len(points)
        self.calls += 1
        return self.function(points)


@pytest.fixture(scope="module")
def run():
    return qdesampler.sample(normal, parameters=TABLE, num_samples=500, progress=False)


def check_moments(run, assert_expectation):
    draws, n, mean = run.get_samples(group_by_chain=True), len(DATA), np.mean(DATA)
    square = np.sum((DATA - mean) ** 2)
    assert_expectation(draws["mu"], mean, standard_errors=5)
    assert_expectation(draws["sigma"] ** 2, square / (n - 3), standard_errors=5)
    assert_expectation((draws["mu"] - mean) ** 2, square / n / (n - 3), standard_errors=5)
    for part, alpha in enumerate(POWERS + 1):
        assert_expectation(draws["w"][..., part], alpha / 9, standard_errors=5)


def test_draws_have_the_known_moments(run, assert_expectation):
    assert run.get_samples(group_by_chain=True)["w"].shape == (4, 500, 3)
    assert run.get_samples()["w"].shape == (2000, 3)
    check_moments(run, assert_expectation)


def test_log_densities_alone_are_enough(assert_expectation):
    counted = Counted(lambda points: normal(points)[0])
    alone = qdesampler.sample(counted, parameters=TABLE, num_samples=500, progress=False)
    check_moments(alone, assert_expectation)
    assert alone.costs.evaluations == alone.costs.made == counted.points
    # A point with its score costs five; four draws of ten or so are local moves, of about three such points.
    assert alone.costs.evaluations - alone.costs.of_warmup < 500 * 4 * 8
    with pytest.raises(ValueError, match="returns no scores"):
        qdesampler.zero_variance(alone)


def test_every_evaluation_is_counted():
    counted = Counted(normal)
    run = qdesampler.sample(counted, parameters=TABLE, num_samples=50, progress=False)
    assert run.costs.evaluations == run.costs.made == counted.points
    attributes = qdesampler.to_datatree(run).attrs
    assert attributes["warmup_evals"] + attributes["sampling_evals"] == counted.points
    assert counted.calls < counted.points / 5


def test_all_that_reads_runs_reads_this_one(run, tmp_path):
    tree = qdesampler.to_datatree(run)
    assert list(tree["posterior"].data_vars) == list(TABLE)
    assert tree["posterior"]["w"].dims == ("chain", "draw", "part")
    assert tree["posterior"]["mu"].dtype == np.float64
    assert tree.attrs["solve_outcome"] in ("solved", "middling")
    assert tree.attrs["model"] == "normal"
    table = qdesampler.summary(run)
    assert list(table.index) == ["sigma", "mu", "w[0]", "w[1]", "w[2]"]
    found = qdesampler.diagnose(run)
    assert found.good, found
    assert any(check.name.startswith("Virial") and check.passed for check in found.checks)
    means = qdesampler.zero_variance(run)
    assert means.attrs["evaluations"] == 0
    assert abs(float(means["mu"].sel(estimate="mean")) - np.mean(DATA)) < 0.01
    assert "solve" in repr(run)
    only = {"only": "real"}
    small = qdesampler.sample(lambda x: (-0.5 * x[:, 0] ** 2, -x), parameters=only, progress=False)
    path = qdesampler.report(small, tmp_path / "report.html")  # a page for each parameter takes a second
    assert "only" in path.read_text()


def test_lp_and_scores_are_those_of_unconstrained_space(run):
    stats = qdesampler.to_datatree(run)["sample_stats"]
    draws = run.get_samples(group_by_chain=True)
    points = np.concatenate([draws["sigma"][..., None], draws["mu"][..., None], draws["w"]], 2)
    values, slopes = normal(points[0])
    w = draws["w"][0]
    sticks = np.log(w[:, 0]) + np.log1p(-w[:, 0]) + np.log(w[:, 1]) + np.log(w[:, 2]) - np.log1p(-w[:, 0])
    np.testing.assert_allclose(stats["lp"][0], values + np.log(draws["sigma"][0]) + sticks)
    scores = run.known_scores()
    assert scores.labels == ("sigma", "mu", "w[0]", "w[1]")
    np.testing.assert_allclose(scores.scores[0, :, 1], slopes[:, 1])
    np.testing.assert_allclose(scores.scores[0, :, 0], slopes[:, 0] * draws["sigma"][0] + 1)


def test_bounds_and_starts(assert_expectation):
    """A Gaussian cut at 0, far from the origin of its unconstrained space."""
    start = [900.0, 3.0]

    def cut(points):
        scaled = (points - [1000.0, 0]) / [5.0, 2.0]
        return -0.5 * np.sum(scaled**2, 1), -scaled / [5.0, 2.0]

    run = qdesampler.sample(
        cut, start=start, bounds=[(None, None), (0, np.inf)], num_samples=500, progress=False
    )
    draws = run.get_samples(group_by_chain=True)["x"]
    assert np.all(draws[..., 1] > 0)
    assert_expectation(draws[..., 0], 1000.0, standard_errors=5)
    assert_expectation(draws[..., 1], 2 * np.sqrt(2 / np.pi), standard_errors=5)


def test_a_budget_is_kept():
    counted = Counted(gaussian)
    run = qdesampler.sample(counted, dim=3, max_evals=700, progress=False)
    assert run.ended_by == "max_evals"
    assert counted.points == run.costs.evaluations <= 700
    assert run.costs.evaluations > 690
    assert 10 < run.num_samples < 1000
    with pytest.raises(BudgetError, match="before the first draw.*Raise max_evals"):
        qdesampler.sample(Counted(gaussian), dim=3, max_evals=60, progress=False)


def test_a_run_ends_when_it_has_enough_effective_draws():
    run = qdesampler.sample(gaussian, dim=3, num_samples=5000, until={"ess": 250}, progress=False)
    assert run.ended_by == "until"
    assert run.num_samples in (100, 125)


def test_draws_depend_on_the_seed_alone():
    first, again = (qdesampler.sample(gaussian, dim=3, num_samples=20, progress=False) for _ in range(2))
    other = qdesampler.sample(gaussian, dim=3, num_samples=20, seed=1, progress=False)
    assert np.array_equal(first.get_samples()["x"], again.get_samples()["x"])
    assert not np.any(first.get_samples()["x"] == other.get_samples()["x"])


def test_progress_is_told_in_evaluations(monkeypatch):
    monkeypatch.setattr("qdesampler.densities.progress._PAUSE", 0.0)
    told = []
    run = qdesampler.sample(gaussian, dim=3, num_samples=300, progress=told.append)
    assert told[-1].evaluations == run.costs.evaluations
    counts = [progress.evaluations for progress in told]
    assert counts == sorted(counts)
    assert any("acceptance" in progress.phase for progress in told)
    burn_in = next(progress for progress in told if progress.phase == "burn-in")
    left = run.costs.evaluations - burn_in.evaluations
    assert burn_in.evaluations_left == pytest.approx(left, rel=0.1)
    assert told[-1].evaluations_left == 0
    assert all((p.seconds_left is None) == (p.evaluations_left is None) for p in told if p.evaluations)


def test_the_bar_counts_evaluations(capsys):
    run = qdesampler.sample(gaussian, dim=3, num_samples=30)
    text = capsys.readouterr().err
    assert f"draw 30 of 30: 100%|{'\N{FULL BLOCK}' * 10}| {run.costs.evaluations}/" in text


def test_scales_that_differ_by_far():
    widths = 10.0 ** np.array([-6, 0, 5])

    def far(points):
        return -0.5 * np.sum((points / widths) ** 2, 1), -points / widths**2

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = qdesampler.sample(far, dim=3, num_samples=200, progress=False)
    found = np.std(run.get_samples()["x"], 0)
    np.testing.assert_allclose(found, widths, rtol=0.15)
    assert WIDTHS.shape == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give dim=, start=, bounds= or parameters="),
        ({"dim": 2, "start": np.zeros(3)}, "dim says 2 columns, another argument 3"),
        ({"dim": 3, "bounds": [(0, 1)]}, "bounds says 1 columns"),
        ({"parameters": {"a": "real"}, "bounds": [(0, 1)]}, "either bounds= or parameters="),
        ({"parameters": {"a": "real"}, "dim": 2}, "the table of parameters says 1 columns"),
        ({"bounds": [0, 1]}, "expected a pair"),
        ({"bounds": [(1, 0)]}, "each lower one must be below the upper"),
        ({"start": [np.nan, 0]}, "expected finite numbers"),
        ({"start": "here"}, "expected numbers"),
        ({"dim": 3, "seed": -1}, "seed is -1"),
        ({"dim": 3, "failures": "ignore"}, "expected 'raise' or 'reject'"),
        ({"dim": 3, "retries": 1.5}, "retries is 1.5"),
        ({"dim": 3, "executor": 4}, "expected an object with `submit`"),
        ({"dim": 3, "until": {"max_time": 1}}, "takes ess and rhat here"),
        ({"dim": 3, "num_samples": 0}, "num_samples must be a positive integer"),
        ({"dim": 3, "max_evals": 0}, "max_evals must be a positive integer"),
        ({"dim": 3, "chunk_size": 0}, "chunk_size must be a positive integer"),
        ({"dim": 3, "timeout": -1}, "timeout must be"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        qdesampler.sample(gaussian, progress=False, **options)
