"""Taylor kernels: the equation, the moments, the limits between the orders, hills, and bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdesampler.equation import HarmonicOscillator, TaylorExpansion, expand, log_heat_kernel
from qdesampler.equation.oscillator_functions import c

DIFFUSION = 0.7
TAU = 0.4


def line_expansion(slope, curvature, value=0.3, center=0.2):
    flat = jnp.ones(1)
    return TaylorExpansion(center * flat, jnp.asarray(value), slope * flat, curvature * flat, None)


@jax.jit
def line_kernel(slope, curvature, x, y, tau):
    expansion = line_expansion(slope, curvature)
    return jax.vmap(lambda x: expansion.log_kernel(x, y, tau, DIFFUSION))(x)


@jax.jit
def line_step(slope, curvature, y, tau):
    return line_expansion(slope, curvature).step(y, tau, DIFFUSION)


@jax.jit
def equation_sides(slope, curvature, x, y, tau):
    """Return dK/dtau and -H K for a kernel, by automatic differentiation of the kernel alone."""
    expansion = line_expansion(slope, curvature)

    def kernel(x, tau):
        return jnp.exp(expansion.log_kernel(x, y, tau, DIFFUSION))

    lap = jnp.trace(jax.hessian(kernel)(x, tau))
    return jax.grad(kernel, argnums=1)(x, tau), DIFFUSION * lap - expansion.objective(x) * kernel(x, tau)


@settings(max_examples=15, deadline=None)
@given(st.floats(-2, 2), st.floats(-3, 4), st.floats(-1, 1))
def test_moments_and_mass_by_quadrature(slope, curvature, y):
    nodes = np.linspace(-16, 16, 4001)[:, None]  # as long as the hill allows: theta < 0.83 at TAU
    with jax.enable_x64(True):
        y = jnp.array([y])
        kernel = np.exp(np.asarray(line_kernel(slope, curvature, nodes, y, TAU))) * (nodes[1] - nodes[0])
        law = line_step(slope, curvature, y, TAU)
    mass = kernel.sum()
    mean = (kernel * nodes[:, 0]).sum() / mass
    np.testing.assert_allclose(law.log_mass, np.log(mass), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(law.mean[0], mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(law.variances[0], (kernel * (nodes[:, 0] - mean) ** 2).sum() / mass, rtol=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.floats(-2, 2), st.floats(-3, 4), st.floats(-1, 1), st.floats(-1, 1), st.floats(0.2, 0.6))
def test_kernel_solves_the_imaginary_time_equation(slope, curvature, x, y, tau):
    with jax.enable_x64(True):
        left, right = equation_sides(slope, curvature, jnp.array([x]), jnp.array([y]), tau)
        swapped = line_kernel(slope, curvature, jnp.array([[y]]), jnp.array([x]), tau)[0]
        straight = line_kernel(slope, curvature, jnp.array([[x]]), jnp.array([y]), tau)[0]
    np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(swapped, straight, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("curvature", [2.0, 0.0, -1.5])
def test_kernels_compose(curvature, x64):
    """The semigroup property K_a K_b = K_{a+b} by quadrature; without the last term of log K it fails."""
    nodes = np.linspace(-14, 14, 3001)[:, None]
    x, y = jnp.array([0.5]), jnp.array([-0.3])
    step = nodes[1, 0] - nodes[0, 0]
    first = np.exp(line_kernel(0.8, curvature, nodes, y, 0.3))
    second = np.exp(line_kernel(0.8, curvature, nodes, x, 0.2))
    whole = math.exp(line_kernel(0.8, curvature, x[None], y, 0.5)[0])
    composed = np.sum(first * second) * step
    np.testing.assert_allclose(composed, whole, rtol=1e-10)

    def last_term(tau):
        return DIFFUSION * 0.8**2 * float(c(jnp.asarray(2 * DIFFUSION * curvature * tau**2))) * tau**3

    lacking = composed * math.exp(-last_term(0.3) - last_term(0.2)) / (whole * math.exp(-last_term(0.5)))
    assert abs(lacking - 1) > 1e-3


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 5 * (x[1] - x[0] ** 2) ** 2


def test_orders_reduce_to_each_other(x64):
    """Order 2 tends to order 1 as the curvature vanishes, order 1 to order 0 as the slope does."""
    center, x, y = jnp.array([0.4, -0.2]), jnp.array([0.9, 0.1]), jnp.array([0.2, 0.3])

    def objective(scale_slope, scale_curvature):
        return lambda z: 0.7 + scale_slope * (z[0] - 2 * z[1]) + scale_curvature * (z[0] * z[1] - z[1] ** 2)

    @jax.jit
    def kernels(scale_slope, scale_curvature):
        f = objective(scale_slope, scale_curvature)
        return jnp.stack([expand(f, center, order).log_kernel(x, y, TAU, DIFFUSION) for order in (0, 1, 2)])

    nearly_flat = [kernels(1.0, curvature) for curvature in (1e-2, 1e-4, 0.0)]
    gaps = [abs(float(k[2] - k[1])) for k in nearly_flat]
    assert gaps[0] > 1e-4
    assert 50 < gaps[0] / gaps[1] < 200  # first order in the curvature
    assert gaps[2] < 1e-14
    slopeless = kernels(0.0, 0.0)
    np.testing.assert_allclose(slopeless, log_heat_kernel(x, y, TAU, DIFFUSION) - 0.7 * TAU, rtol=1e-12)
    assert abs(float(nearly_flat[2][1] - nearly_flat[2][0])) > 0.1


def test_order_zero_is_diffusion_and_order_one_gradient_descent(x64):
    y = jnp.array([0.3, -0.8])

    @jax.jit
    def steps(y):
        return [expand(rosenbrock, y, order).step(y, TAU, DIFFUSION) for order in (0, 1)]

    heat, descent = steps(y)
    gradient = np.array([-2 * 0.7 - 20 * 0.3 * (-0.8 - 0.09), 10 * (-0.8 - 0.09)])
    np.testing.assert_allclose(heat.mean, y, rtol=1e-14)
    np.testing.assert_allclose(descent.mean, y - DIFFUSION * TAU**2 * gradient, rtol=1e-12)
    for law in (heat, descent):
        np.testing.assert_allclose(law.covariance, 2 * DIFFUSION * TAU * np.eye(2), rtol=1e-12)
    np.testing.assert_allclose(heat.log_mass, -rosenbrock(y) * TAU, rtol=1e-12)
    expected = -rosenbrock(y) * TAU + DIFFUSION * TAU**3 * gradient @ gradient / 3
    np.testing.assert_allclose(descent.log_mass, expected, rtol=1e-12)


def test_order_two_goes_from_gradient_descent_to_newton(x64):
    @jax.jit
    def laws(y):
        expansion = expand(rosenbrock, y, 2)
        short, long = expansion.step(y, 1e-3, DIFFUSION), expansion.step(y, 1e3, DIFFUSION)
        derivatives = jax.grad(rosenbrock)(y), jax.hessian(rosenbrock)(y)
        return short.mean, long.mean, long.covariance, derivatives

    y = np.array([0.9, 0.9])  # convex here
    short, long, covariance, (gradient, hessian) = laws(y)
    np.testing.assert_allclose(short - y, -DIFFUSION * 1e-6 * gradient, rtol=1e-4)
    np.testing.assert_allclose(long, y - np.linalg.solve(hessian, gradient), rtol=1e-10)
    # The state itself, not its square, is followed: variance sqrt(2 D / a) along each mode.
    curvature, modes = np.linalg.eigh(hessian)
    np.testing.assert_allclose(covariance, (modes * np.sqrt(2 * DIFFUSION / curvature)) @ modes.T, rtol=1e-10)


def test_order_two_is_mehlers_kernel_in_any_axes(x64):
    stiffness = np.array([[2.0, 0.7], [0.7, 1.0]])
    oscillator = HarmonicOscillator(stiffness, DIFFUSION)
    x, y = jnp.array([0.4, -1.1]), jnp.array([0.2, 0.9])

    @jax.jit
    def both(center):
        expansion = expand(oscillator.potential, center, 2)
        return (
            expansion.log_kernel(x, y, TAU, DIFFUSION),
            expansion.objective(x),
            oscillator.log_kernel(x, y, TAU),
        )

    for center in ([0.0, 0.0], [1.5, -0.5]):  # a quadratic is its own expansion about any point
        kernel, objective, exact = both(jnp.array(center))
        np.testing.assert_allclose(kernel, exact, rtol=1e-11)
        np.testing.assert_allclose(objective, oscillator.potential(x), rtol=1e-12)


def test_draws_have_the_law_of_the_kernel():
    @jax.jit
    def draw(key):
        law = expand(rosenbrock, jnp.array([0.9, 0.9]), 2).step(jnp.array([0.7, 1.0]), TAU, DIFFUSION)
        descent = expand(rosenbrock, jnp.array([0.9, 0.9]), 1).step(jnp.array([0.7, 1.0]), TAU, DIFFUSION)
        return law.sample(key, (20_000,)), descent.sample(key), law.mean, law.covariance

    draws, single, mean, covariance = draw(jax.random.PRNGKey(1))
    assert draws.shape == (20_000, 2)
    assert single.shape == (2,)
    whitened = (np.asarray(draws) - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert np.abs(whitened.mean(axis=0)).max() < 5 / np.sqrt(20_000)
    assert np.abs(np.cov(whitened.T) - np.eye(2)).max() < 5 * np.sqrt(2 / 20_000)


class TestHill:
    """Negative curvature: finite up to the caustic, and said so beyond."""

    curvature = -2.0
    caustic = math.pi / math.sqrt(2 * DIFFUSION * 2.0)

    def test_limits(self, x64):
        hill, y = line_expansion(0.5, self.curvature), jnp.array([0.1])
        np.testing.assert_allclose(hill.longest_step(DIFFUSION), self.caustic / 2, rtol=1e-14)
        assert line_expansion(0.5, 1.0).longest_step(DIFFUSION) == math.inf
        mass = jax.jit(lambda tau: hill.log_mass(y, tau, DIFFUSION))
        kernel = jax.jit(lambda tau: hill.log_kernel(y, y, tau, DIFFUSION))
        masses = [float(mass(f * self.caustic / 2)) for f in (0.9, 0.999, 1.001)]
        assert 0 < masses[0] < masses[1] < masses[2] == math.inf
        kernels = [float(kernel(f * self.caustic)) for f in (0.6, 0.999, 1.001)]
        assert np.isfinite(kernels[0])
        assert kernels[0] < kernels[1] < kernels[2] == math.inf

    def test_too_long_a_step_is_refused(self, x64):
        hill, y = line_expansion(0.5, self.curvature), jnp.array([0.1])
        with pytest.raises(
            ValueError, match=r"too long for a concave direction \(curvature -2\), the mass is finite"
        ):
            hill.step(y, 0.6 * self.caustic, DIFFUSION)
        traced = jax.jit(lambda tau: hill.step(y, tau, DIFFUSION))(0.6 * self.caustic)
        assert np.isnan(traced.mean).all()
        assert np.isnan(traced.variances).all()
        assert traced.log_mass == math.inf


def test_float32_agrees_with_float64():
    x, y = np.array([0.4, -1.1]), np.array([0.2, 0.9])

    @jax.jit
    def laws(center, x, y):
        expansion = expand(rosenbrock, center, 2)
        law = expansion.step(y, TAU, DIFFUSION)
        return expansion.log_kernel(x, y, TAU, DIFFUSION), law.mean, law.covariance, law.log_mass

    def all_of(dtype):
        out = laws(jnp.asarray([0.9, 0.9], dtype), jnp.asarray(x, dtype), jnp.asarray(y, dtype))
        assert all(part.dtype == dtype for part in out)
        return np.concatenate([np.ravel(part) for part in out])

    single = all_of(jnp.float32)
    with jax.enable_x64(True):
        np.testing.assert_allclose(single, all_of(jnp.float64), rtol=2e-5, atol=2e-5)


def test_bad_input_is_refused():
    point = jnp.zeros(2)
    for order in (-1, 3, 1.5, "2"):
        with pytest.raises(ValueError, match="order must be 0, 1 or 2"):
            expand(rosenbrock, point, order)
    with pytest.raises(ValueError, match=r"center must be one point of shape \(dim,\), got shape \(3, 2\)"):
        expand(rosenbrock, jnp.zeros((3, 2)), 1)
    with pytest.raises(ValueError, match=r"objective must return a scalar"):
        expand(lambda x: x, point, 1)
    expansion = expand(rosenbrock, point, 1)
    with pytest.raises(ValueError, match="tau must be positive and finite, got 0.0"):
        expansion.log_kernel(point, point, 0, 1.0)
    with pytest.raises(ValueError, match="diffusion must be positive and finite, got -1.0"):
        expansion.step(point, 1.0, -1.0)
    with pytest.raises(ValueError, match=r"y must be one point of shape \(2,\), got \(3,\)"):
        expansion.log_mass(jnp.zeros(3), 1.0, 1.0)
