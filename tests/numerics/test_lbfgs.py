"""Descents: they arrive, at the price stated, and step back from where nothing is finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.numerics.lbfgs import next_point, start_descent, update_descent


def followed(log_p, start, memory=12, most=500):
    """Follow one descent to its end; returns it and the evaluations made, every one counted here."""
    evaluate = jax.value_and_grad(log_p)

    def going(carry):
        return ~carry[0].arrived & (carry[1] < most)

    def move(carry):
        point = next_point(carry[0])
        return update_descent(carry[0], point, *evaluate(point)), carry[1] + 1

    start = jnp.asarray(start, float)
    begun = start_descent(start, *evaluate(start), memory)
    descent, count = jax.jit(lambda d: jax.lax.while_loop(going, move, (d, jnp.zeros((), int))))(begun)
    return descent, int(count)


def quadratic(dim, condition, seed=0):
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    root = jnp.asarray((axes * np.logspace(0, 0.5 * np.log10(condition), dim)).T)
    return (lambda x: -0.5 * jnp.sum((root @ (x - 1)) ** 2)), root


@pytest.mark.parametrize("seed", range(3))
def test_arrives_on_quadratics_of_condition_1e4_in_float32(seed):
    log_p, _ = quadratic(10, 1e4, seed)
    start = np.random.default_rng(seed).uniform(-2, 2, 10)
    descent, count = followed(log_p, start)
    assert bool(descent.arrived)
    assert float(log_p(jnp.asarray(start))) < -100
    # It stops where its model predicts little gain, within the bulk of 10 dimensions, not at the top.
    assert float(descent.log_density) > -10
    assert float(descent.log_density) == pytest.approx(float(log_p(descent.position)), abs=1e-4)
    assert count < 80


def test_arrives_in_the_rosenbrock_valley():
    def log_p(x):
        return -100 * (x[1] - x[0] ** 2) ** 2 - (1 - x[0]) ** 2

    descent, count = followed(log_p, [-1.2, 1.0])
    assert bool(descent.arrived)
    # From 24 below: it arrives in the valley, where its model stops to predict a gain, and may not follow it.
    assert float(descent.log_density) > -5
    assert abs(float(descent.position[1] - descent.position[0] ** 2)) < 0.1
    assert count < 100


def test_steps_back_from_where_nothing_is_finite():
    # The first step, of unit length, would leave the half line on which log x lives.
    def log_p(x):
        return jnp.sum(2 * jnp.log(x) - 40 * x)

    descent, count = followed(log_p, [0.9])
    assert bool(descent.arrived)
    assert float(descent.position[0]) > 0
    assert float(descent.log_density) > float(log_p(jnp.array([0.05]))) - 0.3
    assert count < 40


def test_a_wall_of_nan_ends_a_descent_instead_of_holding_it_for_ever():
    def log_p(x):
        return jnp.where(x[0] < 1, x[0], jnp.nan)

    descent, count = followed(log_p, [0.0])
    assert bool(descent.arrived)
    assert 0.9 < float(descent.position[0]) <= 1
    assert np.isfinite(float(descent.log_density))
    assert count < 100


def test_no_step_is_taken_that_loses_density():
    log_p, _ = quadratic(5, 1e3)
    evaluate = jax.jit(jax.value_and_grad(log_p))
    move = jax.jit(update_descent)
    start = jnp.full((5,), 3.0)
    descent = start_descent(start, *evaluate(start), 7)  # pyright: ignore[reportCallIssue]
    heights = [float(descent.log_density)]
    for _ in range(30):
        point = next_point(descent)
        value, score = evaluate(point)
        descent = move(descent, point, value, score)
        heights.append(float(descent.log_density))
    assert all(b >= a - 1e-5 * abs(a) for a, b in zip(heights, heights[1:], strict=False))
    assert heights[-1] > heights[0] + 100


def test_an_arrived_descent_stays():
    log_p, _ = quadratic(3, 10)
    descent, _ = followed(log_p, np.zeros(3))
    np.testing.assert_array_equal(next_point(descent), descent.position)
    after = update_descent(descent, descent.position + 1, jnp.asarray(1e3), jnp.ones(3))
    for old, new in zip(descent, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_rises_without_end_runs_away():
    descent, count = followed(lambda x: x[0], [0.0])
    assert abs(float(descent.position[0])) > 1e12
    assert count < 150
