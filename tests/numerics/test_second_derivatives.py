"""Curvature by differences of scores against the exact Hessian; which of the two a function gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.numerics.second_derivatives import (
    EVALUATIONS_OF_DIFFERENCES,
    linearized_score,
    product_with_hessian,
    score_jacobian,
)

DIM = 5
SCALES = np.geomspace(1e-3, 1e2, DIM)
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]
CORRELATED = (ROTATION * np.geomspace(1.0, 30.0, DIM)) @ ROTATION.T  # in units of SCALES


def banana(x):
    return -0.5 * (x[0] / 3) ** 2 - 0.5 * ((x[1] - 0.3 * x[0] ** 2) / 0.1) ** 2 - 0.5 * jnp.sum(x[2:] ** 2)


def badly_scaled(x):
    y = (x - 7 * SCALES.astype(x.dtype)) / SCALES.astype(x.dtype)
    return -0.5 * y @ CORRELATED.astype(x.dtype) @ y


def far_from_zero(x):
    return -0.5 * jnp.sum(((x - 1e4) / 0.5) ** 2)


def without_forward_mode(f):
    """The gradient, as a function of which JAX has no forward derivative."""
    score = jax.custom_vjp(jax.grad(f))
    score.defvjp(lambda x: (jax.grad(f)(x), None), lambda _, slope: (slope,))
    return score


CASES = {
    "banana": (banana, np.array([1.5, 0.6, 0.2, -1.0, 0.4]), 3.0),
    "badly scaled": (badly_scaled, 6 * SCALES, 30 * SCALES),
    "scale far too large": (badly_scaled, 6 * SCALES, 1e3 * SCALES),
    "far from 0": (far_from_zero, np.full(DIM, 1e4 + 0.3), 1.0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["x32", "x64"])
def test_differences_are_the_hessian(request, case, precision):
    if precision == "x64":
        request.getfixturevalue("x64")
    function, point, scale = CASES[case]
    x = jnp.asarray(point, jnp.result_type(float))
    exact = np.asarray(jax.hessian(function)(x), float)
    found, spent = jax.jit(lambda x: score_jacobian(without_forward_mode(function), x, scale))(x)
    assert spent == EVALUATIONS_OF_DIFFERENCES * DIM
    units = np.sqrt(np.abs(np.diag(exact)))
    error = np.max(np.abs(np.asarray(found, float) - exact) / np.outer(units, units))
    # units of the curvature along the coordinates; float64 is spared the rounding of scores and points
    assert error < (1e-2 if precision == "x32" else 1e-6), error


def test_exact_where_jax_can_differentiate_twice():
    x = jnp.array([0.3, -0.2, 1.0, 0.0, 0.5])
    found, spent = score_jacobian(jax.grad(banana), x)
    assert spent == DIM
    np.testing.assert_allclose(found, jax.hessian(banana)(x), rtol=1e-6)
    score, product = linearized_score(jax.grad(banana), x)
    np.testing.assert_allclose(score, jax.grad(banana)(x), rtol=1e-6)
    np.testing.assert_allclose(product(x), jax.hessian(banana)(x) @ x, rtol=1e-4)


def through_the_host(x):
    """A Gaussian whose score is computed by NumPy: JAX refuses its derivative at once, not when it runs."""
    return jax.pure_callback(
        np.negative, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
    )


@pytest.mark.parametrize("score", [without_forward_mode(banana), through_the_host])
def test_a_product_along_any_direction_under_transforms(score):
    x, v = jnp.array([0.3, -0.2, 1.0, 0.0, 0.5]), jnp.array([100.0, -3.0, 0.0, 20.0, 1.0])
    known = -jnp.eye(DIM) if score is through_the_host else jax.hessian(banana)(x)
    product, count = product_with_hessian(score, x)
    assert count == EVALUATIONS_OF_DIFFERENCES
    both = jax.jit(jax.vmap(product))(jnp.stack([v, jnp.zeros(DIM)]))
    np.testing.assert_allclose(both[0], known @ v, atol=1e-2 * float(jnp.abs(known @ v).max()))
    np.testing.assert_array_equal(both[1], 0)
    np.testing.assert_allclose(linearized_score(score, x)[1](v), both[0], rtol=1e-3, atol=1.0)


def test_a_nested_function_without_forward_mode_is_seen():
    def inside_a_loop(x):
        return jax.lax.fori_loop(0, 2, lambda _, total: total + without_forward_mode(banana)(x), 0 * x)

    _, count = product_with_hessian(inside_a_loop, jnp.ones(DIM))
    assert count == EVALUATIONS_OF_DIFFERENCES


def test_an_error_of_the_function_itself_is_raised():
    def wrong(x):
        raise ValueError("no such column")

    with pytest.raises(ValueError, match="no such column"):
        score_jacobian(wrong, jnp.ones(2))


def test_beside_an_edge_the_curvature_is_not_finite():
    def edge(x):
        return jnp.where(x < 1, -x, jnp.nan)

    hidden = jax.custom_vjp(edge)
    hidden.defvjp(lambda x: (edge(x), None), lambda _, slope: (slope,))
    matrix, _ = score_jacobian(hidden, jnp.array([0.999, 0.0]))
    assert jnp.isnan(matrix[0, 0])
