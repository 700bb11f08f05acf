"""Quintic splines: exact on quintics, order six on the rest, smooth across nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.solvers.grid import spline

pytestmark = pytest.mark.usefixtures("x64")
evaluate = jax.jit(spline.evaluate)
evaluate_with_gradient = jax.jit(spline.evaluate_with_gradient)


def test_a_quintic_is_reproduced_as_far_as_the_walls():
    polynomial = np.polynomial.Polynomial([0.3, -1.0, 0.2, 0.1, -0.05, 0.01])
    coefficients = jnp.asarray(spline.fit(polynomial(np.arange(9.0))))
    t = jnp.linspace(-0.5, 8.5, 50)[:, None]
    value, slope = jax.vmap(lambda s: evaluate_with_gradient(coefficients, s))(t)
    np.testing.assert_allclose(value, polynomial(np.array(t[:, 0])), atol=1e-9)
    np.testing.assert_allclose(slope[:, 0], polynomial.deriv()(np.array(t[:, 0])), atol=1e-9)


def test_order_six_by_regression():
    errors = []
    sizes = (16, 32, 64, 128)
    for n in sizes:
        coefficients = jnp.asarray(spline.fit(np.sin(3 * np.arange(n) / n)))
        t = jnp.linspace(0, n - 1, 301)[:, None]
        value = jax.vmap(lambda s, c=coefficients: evaluate(c, s))(t)
        errors.append(np.abs(value - np.sin(3 * t[:, 0] / n)).max())
    order = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert 5.5 < order < 6.7


def test_gradient_in_two_dimensions_is_that_of_autodiff_across_a_node():
    values = np.random.default_rng(0).standard_normal((8, 11))
    coefficients = jnp.asarray(spline.fit(values))
    for t in ([3.0, 4.0], [-0.4, 10.3], [2.3, 7.9]):
        t = jnp.array(t)
        value, slope = evaluate_with_gradient(coefficients, t)
        assert np.isclose(value, evaluate(coefficients, t))
        np.testing.assert_allclose(slope, jax.grad(lambda s: evaluate(coefficients, s))(t), atol=1e-12)
    np.testing.assert_allclose(evaluate(coefficients, jnp.array([3.0, 4.0])), values[3, 4], atol=1e-12)
    below, above = (
        jax.hessian(lambda s: evaluate(coefficients, s))(jnp.array([3.0 + e, 4.0])) for e in (-1e-9, 1e-9)
    )
    np.testing.assert_allclose(below, above, atol=1e-6)


def test_refinement_matrix_agrees_with_the_evaluation():
    values = np.random.default_rng(1).standard_normal(10)
    fitted = spline.fit(values)
    coefficients = jnp.asarray(fitted)
    t = jnp.arange(-0.5, 10.0, 0.5)[:, None]

    np.testing.assert_allclose(
        spline.refinement_matrix(10) @ fitted, jax.vmap(lambda s: evaluate(coefficients, s))(t), atol=1e-10
    )
    second = jax.vmap(jax.hessian(lambda s: evaluate(coefficients, s)))(t)[:, 0, 0]
    np.testing.assert_allclose(spline.refinement_matrix(10, 2) @ fitted, second, atol=1e-8)
