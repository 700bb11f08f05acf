"""Splitting schemes and dynamics: reversible, order two, and the right Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.mcmc.integrators import DYNAMICS, INTEGRATORS, canonical, isokinetic


def force(x):
    """Score of a quartic, correlated density."""
    return -(x**3) - 0.5 * jnp.roll(x, 1)


def potential(x):
    return jnp.sum(x**4) / 4


def quartic_force(x):
    return -(x**3)


def run(dynamics, integrator, x, v, step, count, force=quartic_force):
    """Plain reference loop, one kick at a time: nothing merged."""
    total = 0.0
    for _ in range(count):
        for k, drift in enumerate((*integrator.drifts, None)):
            v, change = dynamics.kick(v, force(x), integrator.kicks[k] * step)
            total = total + change
            if drift is not None:
                x = x + drift * step * v
    return x, v, total


@pytest.mark.parametrize("integrator", INTEGRATORS.values(), ids=INTEGRATORS)
def test_coefficients_are_consistent_and_palindromic(integrator):
    assert sum(integrator.kicks) == pytest.approx(1, abs=1e-15)
    assert sum(integrator.drifts) == pytest.approx(1, abs=1e-15)
    assert integrator.kicks == integrator.kicks[::-1]
    assert integrator.drifts == integrator.drifts[::-1]


@pytest.mark.parametrize("integrator", INTEGRATORS.values(), ids=INTEGRATORS)
@pytest.mark.parametrize("dynamics", DYNAMICS.values(), ids=DYNAMICS)
def test_trajectories_retrace_themselves(x64, dynamics, integrator):
    x = jnp.array([0.3, -0.5, 0.8])
    v = dynamics.refresh(jax.random.normal(jax.random.key(0), (3,)))
    end_x, end_v, gained = run(dynamics, integrator, x, v, 0.3, 5)
    back_x, back_v, lost = run(dynamics, integrator, end_x, -end_v, 0.3, 5)
    np.testing.assert_allclose(back_x, x, atol=1e-10)
    np.testing.assert_allclose(-back_v, v, atol=1e-10)
    assert float(gained + lost) == pytest.approx(0, abs=1e-10)
    assert np.linalg.norm(end_x - x) > 0.1


@pytest.mark.parametrize("integrator", INTEGRATORS.values(), ids=INTEGRATORS)
@pytest.mark.parametrize("dynamics", DYNAMICS.values(), ids=DYNAMICS)
def test_energy_error_is_of_order_two(x64, dynamics, integrator):
    x = jnp.array([0.3, -0.9, 0.8])
    v = dynamics.refresh(jax.random.normal(jax.random.key(1), (3,)))
    counts = np.array([8, 16, 32, 64])
    errors = []
    for count in counts:
        end, _, change = run(dynamics, integrator, x, v, 1.2 / count, int(count))
        errors.append(abs(float(potential(end) - potential(x) + change)))
    slope = np.polyfit(np.log(1.2 / counts), np.log(errors), 1)[0]
    assert 1.8 < slope < 2.3, (slope, errors)


def test_lopsided_splitting_is_only_of_order_one(x64):
    """The wrong twin of the order test: a whole kick first, then a whole drift."""
    lopsided = INTEGRATORS["leapfrog"]._replace(kicks=(1.0, 0.0))
    x, v = jnp.array([0.3, -0.9, 0.8]), canonical.refresh(jax.random.normal(jax.random.key(1), (3,)))
    errors = []
    for count in (16, 64):
        end, _, change = run(canonical, lopsided, x, v, 1.2 / count, count)
        errors.append(abs(float(potential(end) - potential(x) + change)))
    assert np.log(errors[0] / errors[1]) / np.log(4) < 1.5


def test_canonical_change_is_the_kinetic_energy_difference(x64):
    v, g = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    kicked, change = canonical.kick(v, g, 0.7)
    assert float(change) == pytest.approx(float(jnp.sum(kicked**2) - jnp.sum(v**2)) / 2, abs=1e-12)


def test_isokinetic_change_is_minus_the_log_volume_of_the_rotation(x64):
    dim = 4
    g, h = jnp.array([0.4, -1.0, 2.0, 0.3]), 0.6
    v = isokinetic.refresh(jax.random.normal(jax.random.key(2), (dim,)))
    kicked, change = isokinetic.kick(v, g, h)
    assert float(jnp.linalg.norm(kicked)) == pytest.approx(np.sqrt(dim), abs=1e-12)
    # Jacobian between the tangent planes of the sphere at both ends.
    jacobian = np.asarray(jax.jacfwd(lambda u: isokinetic.kick(u, g, h)[0])(v))
    planes = [np.linalg.svd(np.asarray(u)[None])[2][1:].T for u in (v, kicked)]
    volume = abs(np.linalg.det(planes[1].T @ jacobian @ planes[0]))
    assert float(change) == pytest.approx(-np.log(volume), abs=1e-10)


def test_isokinetic_velocities_are_uniform_on_the_sphere():
    keys = jax.random.split(jax.random.key(3), 4000)
    draws = np.asarray(jax.vmap(lambda key: isokinetic.refresh(jax.random.normal(key, (3,))))(keys))
    np.testing.assert_allclose(np.linalg.norm(draws, axis=1), np.sqrt(3), rtol=1e-5)
    # mean 0 with standard error 1 / sqrt(4000); 4.5 standard errors
    assert np.all(np.abs(draws.mean(0)) < 4.5 / np.sqrt(4000))
