"""The iterative process: gradient descent, Newton's method, diffusion, annealing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Schedule, expand, iterative_process


def bowl(x):
    """A convex objective with its minimum at (1, -2)."""
    u = x - jnp.array([1.0, -2.0])
    return jnp.sum(jnp.log(jnp.cosh(u))) + u @ u / 4


START = np.array([0.4, -1.0])
MINIMUM = np.array([1.0, -2.0])


def follow(order, tau, diffusion):
    """Return the points of an iteration of bowl from START without noise."""
    run = jax.jit(lambda d: iterative_process(bowl, START, order=order, tau=tau, diffusion=d).points)
    return np.asarray(run(jnp.asarray(diffusion)))


def test_order_one_without_noise_is_gradient_descent(x64):
    points = follow(1, 0.8, np.full(60, 0.5))
    gradient = jax.jit(jax.grad(bowl))
    x = START
    for point in points[:5]:
        x = x - 0.5 * 0.8**2 * np.asarray(gradient(x))
        np.testing.assert_allclose(point, x, rtol=1e-12)
    np.testing.assert_allclose(points[-1], [1, -2], atol=1e-8)


def test_order_two_is_newtons_method_at_long_times(x64):
    """Near the minimum Newton's error is squared at each step; gradient descent shrinks it by a factor."""
    newton = np.linalg.norm(follow(2, 1e4, np.full(4, 0.5)) - MINIMUM, axis=1)
    assert newton[0] < 0.5
    assert np.all(newton[1:3] < newton[:2] ** 2)
    assert newton[-1] < 1e-12
    assert np.linalg.norm(follow(1, 0.8, np.full(4, 0.5))[-1] - MINIMUM) > 1e-2


def test_order_zero_with_noise_is_brownian_motion():
    diffusion = Schedule.geometric(1.0, 0.1).table(4)
    keys = jax.random.split(jax.random.key(0), 5000)

    @jax.jit
    @jax.vmap
    def ends(key):
        return iterative_process(bowl, START, order=0, tau=0.3, diffusion=diffusion, key=key).points[-1]

    moved = np.asarray(ends(keys)) - START
    variance = 2 * 0.3 * float(jnp.sum(diffusion))
    assert np.abs(moved.mean(axis=0)).max() < 5 * math.sqrt(variance / 5000)
    assert np.abs(moved.var(axis=0) / variance - 1).max() < 5 * math.sqrt(2 / 5000)


def test_annealing_gathers_on_the_minimum():
    """As D is lowered, noisy order-2 steps settle with the variance sqrt(2 D / a) about the minimum."""
    schedule = Schedule.geometric(1.0, 1e-6)
    keys = jax.random.split(jax.random.key(1), 400)

    @jax.jit
    @jax.vmap
    def run(key):
        return iterative_process(bowl, START, order=2, tau=2e4, diffusion=schedule.table(12), key=key).points

    away = np.asarray(run(keys)) - MINIMUM
    assert np.sqrt(np.mean(away[:, 0] ** 2)) > 0.5
    curvature = 1.5  # of bowl at its minimum, along both coordinates
    expected = np.sqrt(2e-6 / curvature)
    assert abs(np.mean(away[:, -1] ** 2) / expected - 1) < 5 * math.sqrt(2 / (2 * 400))


def test_path_carries_the_mass_of_each_step(x64):
    diffusions = [0.5, 0.25]
    path = iterative_process(bowl, START, order=2, tau=0.5, diffusion=diffusions)
    log_mass = jax.jit(lambda x, d: expand(bowl, x, 2).log_mass(x, 0.5, d))
    for before, mass, diffusion in zip([START, path.points[0]], path.log_mass, diffusions, strict=True):
        np.testing.assert_allclose(mass, log_mass(before, diffusion), rtol=1e-12)


def test_failures_are_named():
    def saddle(x):
        return x[0] ** 2 - x[1] ** 2

    with pytest.raises(ValueError, match="step 0 of the iteration is not finite: .* concave direction"):
        iterative_process(saddle, START, order=2, tau=5.0, diffusion=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"shape \(num_steps,\), got shape \(\)"):
        iterative_process(bowl, START, order=1, tau=1.0, diffusion=1.0)
    with pytest.raises(ValueError, match="diffusion must be positive and finite at every step"):
        iterative_process(bowl, START, order=1, tau=1.0, diffusion=[1.0, 0.0])
    with pytest.raises(ValueError, match="tau must be positive"):
        iterative_process(bowl, START, order=1, tau=-1.0, diffusion=[1.0])
    with pytest.raises(ValueError, match="order must be 0, 1 or 2, got 4|order must be 0, 1 or 2 .*got 4"):
        iterative_process(bowl, START, order=4, tau=1.0, diffusion=[1.0])
