"""Functions that are wrong: each gives a clear error or warning, a wrong gradient before sampling."""

import pickle
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import qdesampler
from qdesampler.densities import EvaluationError
from qdesampler.densities.errors import EvaluationWarning
from tests.densities.functions import WIDTHS, gaussian

DIM = 3


def sampled(evaluate, **options):
    return qdesampler.sample(evaluate, **{"dim": DIM, "num_samples": 20, "progress": False} | options)


def with_scores(change):
    def evaluate(points):
        values, scores = gaussian(points)
        return values, change(points, scores.copy())

    return evaluate


def scaled(column, factor):
    def change(points, scores):
        scores[:, column] *= factor
        return scores

    return change


def random_value(points):
    values, scores = gaussian(points)
    return values + np.random.default_rng().normal(size=len(values)), scores


def mixing(points):
    values, scores = gaussian(points)
    return np.full(len(points), np.sum(values)), scores


def stateful():
    calls = []

    def evaluate(points):
        calls.append(1)
        values, scores = gaussian(points)
        return values - 0.1 * len(calls), scores

    return evaluate


def sometimes_scores():
    calls = []

    def evaluate(points):
        calls.append(1)
        return gaussian(points) if len(calls) % 2 else gaussian(points)[0]

    return evaluate


def raising(points):
    raise ArithmeticError("the solver did not converge")


def of_one_point(point):
    return -0.5 * point[0] ** 2 - 0.5 * point[1] ** 2 - 0.5 * point[2] ** 2, -point


ERRORS = {
    "one value for the whole batch": (lambda x: np.sum(gaussian(x)[0]), r"log densities of shape \(\)"),
    "values in a column": (lambda x: (gaussian(x)[0][:, None], gaussian(x)[1]), r"of shape \(4, 1\)"),
    "too few values": (lambda x: gaussian(x)[0][:-1], r"of shape \(3,\) for points of shape \(4, 3\)"),
    "a function of one point": (of_one_point, r"scores of shape|log densities of shape"),
    "scores transposed": (lambda x: (gaussian(x)[0], gaussian(x)[1].T), r"scores of shape \(3, 4\)"),
    "scores of fewer columns": (
        lambda x: (gaussian(x)[0], gaussian(x)[1][:, 1:]),
        r"scores of shape \(4, 2\)",
    ),
    "nothing": (lambda x: None, "expected real numbers"),
    "words": (lambda x: ["a"] * len(x), "expected real numbers"),
    "complex numbers": (lambda x: gaussian(x)[0] + 0j, "complex128.*expected real numbers"),
    "ragged scores": (
        lambda x: (gaussian(x)[0], [[1.0]] + [[1.0, 2.0]] * (len(x) - 1)),
        "cannot be made an array",
    ),
    "three things": (lambda x: (*gaussian(x), 1), "a tuple of 3"),
    "NaN everywhere": (lambda x: np.full(len(x), np.nan), "not finite at any point that was tried"),
    "no density anywhere": (lambda x: np.full(len(x), -np.inf), "not finite at any point that was tried"),
    "NaN scores": (with_scores(lambda x, s: s * np.nan), "not finite at any point that was tried"),
    "an exception": (raising, "the solver did not converge"),
    "random": (random_value, "not deterministic"),
    "drifting": (stateful(), "not deterministic"),
    "rows that are mixed": (mixing, "mixes the rows of a batch"),
    "scores at times only": (sometimes_scores(), "scores for some points and none for others"),
    "scores of the energy": (with_scores(lambda x, s: -s), "opposite sign"),
    "scores of half the energy": (with_scores(lambda x, s: s / 2), "All are 0.5 times"),
    "scores of one coordinate": (with_scores(scaled(1, 1.1)), r"at 1 of 3 coordinates: x\[1\]"),
    "scores without a prior": (with_scores(lambda x, s: s + 0.05 * x), "at 3 of 3 coordinates"),
    "scores in another order": (with_scores(lambda x, s: s[:, ::-1]), "in another order"),
    "no scores but zeros": (with_scores(lambda x, s: 0 * s), "not the gradient"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    evaluate, message = ERRORS[name]
    with pytest.raises(EvaluationError, match=message):
        sampled(evaluate)


def test_a_wrong_gradient_is_found_before_the_warm_up(monkeypatch):
    monkeypatch.setattr(
        "qdesampler.densities.sample_density.warm_up", lambda *_: pytest.fail("it was sampled")
    )
    with pytest.raises(EvaluationError, match="by differences"):
        sampled(with_scores(scaled(2, 0.9)))


@pytest.mark.parametrize("column", [0, 11, 29])
def test_a_wrong_gradient_is_found_in_many_dimensions(column):
    widths = np.linspace(0.5, 2, 30)

    def evaluate(points):
        scores = -points / widths**2
        scores[:, column] *= 1.2
        return -0.5 * np.sum((points / widths) ** 2, 1), scores

    with pytest.raises(EvaluationError, match=rf"at 1 of 30 coordinates: x\[{column}\]"):
        sampled(evaluate, dim=30)


def test_a_gradient_in_single_precision_is_true():
    def evaluate(points):
        values, scores = gaussian(points.astype(np.float32))
        return np.float32(values), np.float32(scores)

    assert sampled(evaluate).num_samples == 20


def test_what_prints_is_heard(capsys):
    def evaluate(points):
        print("solving", len(points))
        return gaussian(points)

    with pytest.warns(EvaluationWarning, match="prints to stdout"):
        sampled(evaluate)
    capsys.readouterr()


def test_an_energy_is_no_log_density(monkeypatch):
    for name, value in {"_WARMUP": 60, "_MOST_STEPS": 63}.items():  # all trajectories run away
        monkeypatch.setattr(f"qdesampler.densities.draws.{name}", value)
    with pytest.warns(EvaluationWarning, match="return an energy"):
        run = sampled(lambda x: (-gaussian(x)[0], -gaussian(x)[1]))
    assert "no_ground_state" in {finding.code for finding in qdesampler.diagnose(run)}


def test_a_constant_is_no_density():
    with pytest.warns(EvaluationWarning, match="cannot be normalised"):
        sampled(lambda x: (np.zeros(len(x)), np.zeros(x.shape)))


def test_exceptions_count_as_no_density_where_that_is_said(assert_expectation):
    def half(points):
        if np.any(points[:, 0] < 0):
            raise ArithmeticError("no solution")
        return gaussian(points)

    with pytest.raises(EvaluationError, match="failures='reject'"):
        sampled(half)
    with pytest.warns(EvaluationWarning, match=r"raised an exception at \d+ points.*no solution"):
        run = sampled(half, failures="reject", num_samples=300)
    draws = run.get_samples(group_by_chain=True)["x"]
    assert np.all(draws[..., 0] > 0)
    assert run.costs.failures > 0
    assert_expectation(draws[..., 0], WIDTHS[0] * np.sqrt(2 / np.pi), standard_errors=5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_undefined_points_are_counted(bad):
    def evaluate(points):
        values, scores = gaussian(points)
        return np.where(points[:, 0] > 0.6, bad, values), scores

    with pytest.warns(EvaluationWarning, match=r"NaN or \+inf at \d+ points"):
        run = sampled(evaluate, num_samples=100)
    assert np.all(run.get_samples()["x"][:, 0] <= 0.6)
    assert run.costs.undefined > 0


def test_the_points_and_the_results_may_be_changed_later():
    kept = np.zeros((4096, DIM))

    def evaluate(points):
        values, scores = gaussian(points)
        points[:] = 7.0
        out = kept[: len(points)]
        out[:] = scores
        return values, out

    first = sampled(evaluate)
    assert np.array_equal(first.get_samples()["x"], sampled(gaussian).get_samples()["x"])


def test_a_start_without_density():
    with pytest.raises(EvaluationError, match=r"log density at start\[1\] is -inf"):
        sampled(
            lambda x: np.where(x[:, 0] > 5, -np.inf, gaussian(x)[0]), start=[[0.0, 0, 0], [6, 0, 0]], dim=None
        )


@pytest.mark.parametrize("function", [lambda x: gaussian(x), threading.Lock()])
def test_what_cannot_be_pickled(function):
    evaluate = function if callable(function) else (lambda x, lock=function: gaussian(x))
    with pytest.raises(Exception):  # noqa: B017, PT011 (which kind depends on the version of Python)
        pickle.dumps(evaluate)
    with ProcessPoolExecutor(1) as pool, pytest.raises(EvaluationError, match="at the top of a module"):
        sampled(evaluate, executor=pool)


def test_what_is_no_function():
    with pytest.raises(ValueError, match="expected a function"):
        sampled(np.zeros(3))
