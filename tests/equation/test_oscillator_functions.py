"""The three functions of the quadratic kernel against their closed forms in complex arithmetic."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import oscillator_functions

CLOSED = {
    "log_f": lambda s, theta: np.log((theta / np.sinh(theta)).real),
    "k": lambda s, theta: (np.tanh(theta / 2) / theta).real,
    "c": lambda s, theta: ((1 - 2 * np.tanh(theta / 2) / theta) / s).real,
}
AT_ZERO = {"log_f": (0.0, -1 / 6), "k": (1 / 2, -1 / 24), "c": (1 / 12, -1 / 120)}  # value and slope


@pytest.mark.parametrize("name", CLOSED)
def test_values_on_both_sides_of_the_branches(name, x64):
    s = np.array([-9.8, -4.0, -0.2501, -0.2499, -0.05, 0.05, 0.2499, 0.2501, 3.0, 400.0])
    ours = jax.jit(getattr(oscillator_functions, name))(jnp.asarray(s))
    np.testing.assert_allclose(ours, CLOSED[name](s, np.sqrt(s.astype(complex))), rtol=2e-13, atol=2e-14)


@pytest.mark.parametrize("name", CLOSED)
def test_value_and_slope_at_zero_and_at_long_times(name, x64):
    function = getattr(oscillator_functions, name)
    value, slope = jax.jit(jax.value_and_grad(function))(0.0)
    np.testing.assert_allclose((value, slope), AT_ZERO[name], rtol=1e-14, atol=1e-16)
    far, slope = jax.jit(jax.value_and_grad(function))(1e8)  # sinh(1e4) would overflow
    assert np.isfinite(far)
    assert np.isfinite(slope)
    np.testing.assert_allclose(far, {"log_f": math.log(2e4) - 1e4, "k": 1e-4, "c": 1e-8}[name], rtol=1e-3)


@pytest.mark.parametrize("name", CLOSED)
def test_caustic_is_infinite_and_nan_stays(name):
    s = jnp.array([-(math.pi**2) - 1e-3, -100.0, -jnp.inf, jnp.nan, -9.0])
    ours = jax.jit(getattr(oscillator_functions, name))(s)
    assert np.all(np.isposinf(ours[:3]))
    assert np.isnan(ours[3])
    assert np.isfinite(ours[4])
    assert ours.dtype == jnp.float32
