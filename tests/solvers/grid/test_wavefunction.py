"""One law: draws, density and drift of a state on a grid; its far tails; transformations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import SpectralGrid, ground_state
from qdesampler.solvers.grid.grid import Grid
from qdesampler.solvers.grid.wavefunction import build_grid_wavefunction

DRAWS = 100_000
# Kolmogorov-Smirnov statistic times sqrt(n): exceeded with probability 2e-3.
KS_LIMIT = 1.86


def _double_well(x):
    return -2 * (x @ x - 1) ** 2 + 0.3 * x[0]


def _state(objective, points=256, bounds=(-8.0, 8.0), dim=1, **settings):
    hamiltonian = Hamiltonian.from_objective(objective, dim=dim, diffusion=0.5)
    return ground_state(hamiltonian, SpectralGrid(bounds=bounds, points=points, **settings))


def _statistic(draws, cumulative):
    return np.sqrt(len(draws)) * stats.kstest(np.asarray(draws), cumulative).statistic


def _batched(function, x):
    return jax.jit(jax.vmap(function))(x)


@pytest.mark.usefixtures("x64")
def test_draws_follow_the_density_and_cells_alone_do_not():
    hamiltonian = Hamiltonian.from_log_density(_double_well, dim=1)
    state = ground_state(hamiltonian, SpectralGrid(bounds=(-2.6, 2.6), points=48))
    x = np.linspace(-2.6, 2.6, 4001)
    density = np.exp(_batched(_double_well, jnp.asarray(x)[:, None]))  # the truth, not the interpolation
    cumulative = integrate.cumulative_simpson(density, x=x, initial=0)
    cumulative /= cumulative[-1]

    def exact(y):
        return np.interp(y, x, cumulative)

    draws = state.sample(jax.random.key(0), (DRAWS,))[:, 0]
    assert _statistic(draws, exact) < KS_LIMIT
    # Wrong twin: every proposal accepted, so that the law is flat within a cell.
    careless = dataclasses.replace(
        state.wavefunction, cell_log_bounds=jnp.full_like(state.wavefunction.cell_log_bounds, -1e3)
    )
    wrong = dataclasses.replace(state, wavefunction=careless).sample(jax.random.key(0), (DRAWS,))[:, 0]
    assert _statistic(wrong, exact) > 2 * KS_LIMIT


def test_draws_in_float32_follow_the_density():
    state = _state(lambda x: 0.5 * x @ x, points=40)
    draws = state.sample(jax.random.PRNGKey(1), (DRAWS,))
    assert draws.dtype == jnp.float32
    assert _statistic(draws[:, 0], stats.norm(scale=np.sqrt(0.5)).cdf) < KS_LIMIT
    wrong = stats.norm(scale=np.sqrt(0.5) * 1.03)  # wrong twin: a width 3% off shows
    assert _statistic(draws[:, 0], wrong.cdf) > KS_LIMIT


@pytest.mark.usefixtures("x64")
def test_moments_of_draws_in_two_dimensions():
    covariance = np.array([[1.0, 0.7], [0.7, 1.0]])
    precision = np.linalg.inv(covariance)
    hamiltonian = Hamiltonian.from_log_density(lambda x: -0.5 * x @ precision @ x, dim=2)
    state = ground_state(hamiltonian, SpectralGrid(bounds=(-6.5, 6.5), points=44))
    draws = np.asarray(state.sample(jax.random.key(2), (DRAWS,)))
    white = draws @ np.linalg.cholesky(precision)
    assert np.all(np.abs(white.mean(axis=0)) < 4 / np.sqrt(DRAWS))
    assert np.all(np.abs(white.var(axis=0) - 1) < 4 * np.sqrt(2 / DRAWS))
    assert abs(np.mean(white[:, 0] * white[:, 1])) < 4 / np.sqrt(DRAWS)
    # The law of the squared radius, chi-square with two degrees of freedom, sees the joint tails.
    assert _statistic(np.sum(white**2, axis=1), stats.chi2(2).cdf) < KS_LIMIT
    assert _statistic(1.03 * np.sum(white**2, axis=1), stats.chi2(2).cdf) > KS_LIMIT


@pytest.mark.usefixtures("x64")
def test_the_tail_of_a_harmonic_state_is_exact_far_out():
    state = _state(lambda x: 0.5 * x @ x)
    x = jnp.linspace(-6, 6, 241)[:, None]  # up to psi = 1.5e-8 of its maximum
    np.testing.assert_allclose(_batched(state.log_psi, x), -(x[:, 0] ** 2) / 2 - np.log(np.pi) / 4, atol=1e-7)
    np.testing.assert_allclose(_batched(state.drift, x), -x, atol=1e-6)
    far = jnp.linspace(-12, 12, 481)[:, None]  # across the walls at 8, below all rounding
    np.testing.assert_allclose(
        _batched(state.log_psi, far), -(far[:, 0] ** 2) / 2 - np.log(np.pi) / 4, atol=1e-4
    )
    np.testing.assert_allclose(_batched(state.drift, far), -far, atol=1e-4)
    assert np.isclose(np.sum(np.exp(_batched(state.log_prob, far))) * 0.05, 1, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_quartic_tail_follows_its_asymptotic_slope():
    state = _state(lambda x: (x @ x) ** 2, bounds=(-6.0, 6.0), points=160)
    x = jnp.linspace(3.5, 5.5, 9)[:, None]  # psi from 1e-9 to 1e-34 of its maximum
    slope = _batched(state.drift, x)[:, 0]  # 2 D grad log psi, D = 1/2
    r, energy = np.asarray(x[:, 0]), float(state.energy)
    momentum = np.sqrt(2 * (r**4 - energy))
    expected = -momentum - 2 * r**3 / momentum**2  # WKB: -p - p' / (2 p)
    np.testing.assert_allclose(slope, expected, rtol=4e-4)
    assert np.all(np.abs(slope / -momentum - 1) > 4e-3)  # the leading order alone is not enough


@pytest.mark.usefixtures("x64")
def test_the_local_energy_is_the_energy_everywhere():
    hamiltonian = Hamiltonian.from_objective(
        lambda x: 0.25 * jnp.sum(x**4) + 0.5 * x[0] * x[1], dim=2, diffusion=0.5
    )
    state = ground_state(hamiltonian, SpectralGrid(bounds=(-4.5, 4.5), points=40))
    points = jax.random.uniform(jax.random.key(0), (60, 2), minval=-3, maxval=3)
    local = _batched(lambda x: hamiltonian.local_energy(state.log_psi, x), points)
    np.testing.assert_allclose(local, state.energy, atol=5e-3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dim", [1, 2])
def test_beyond_the_walls_it_falls_smoothly_and_stays_finite(dim):
    state = _state(lambda x: 0.25 * jnp.sum(x**4) + 0.4 * x[0], dim=dim, bounds=(-4.5, 4.5), points=40)
    direction = jnp.ones(dim) / jnp.sqrt(dim)
    edge = 4.5 * np.sqrt(dim)
    for side in (-1, 1):
        steps = jnp.array([edge - 1e-7, edge + 1e-7, 2 * edge, 1e3, 1e8, 1e150])
        path = side * steps[:, None] * direction
        values = _batched(state.log_prob, path)
        drifts = _batched(state.drift, path) @ direction * side
        assert np.all(np.diff(values) < 0)
        np.testing.assert_allclose(values[0], values[1], atol=1e-3)
        np.testing.assert_allclose(drifts[0], drifts[1], rtol=1e-4)
        assert np.all(np.isfinite(drifts))
        assert np.all(drifts < 0)
    for extreme in (1e200, -1e300, np.inf):
        assert float(state.log_prob(jnp.full(dim, extreme))) == -np.inf


def test_transformations_and_precision():
    state = _state(lambda x: 0.5 * x @ x, dim=2, points=32, bounds=(-6.0, 6.0))
    points = jnp.array([[0.3, -0.2], [1.5, 2.0], [7.0, 0.0], [-9.0, 9.0]])
    batched = _batched(state.log_psi, points)
    assert batched.dtype == jnp.float32
    exact = -jnp.sum(points**2, axis=1) / 2 - np.log(np.pi) / 2
    np.testing.assert_allclose(batched, exact, atol=2e-2)
    np.testing.assert_allclose(batched[:2], exact[:2], atol=2e-5)
    for x, value in zip(points, batched, strict=True):
        np.testing.assert_allclose(state.log_psi(x), value, rtol=1e-5)
    hessian = jax.hessian(state.log_psi)(points[0])
    np.testing.assert_allclose(hessian, -np.eye(2), atol=5e-3)
    stacked = jax.tree_util.tree_map(lambda leaf: jnp.stack([leaf, leaf]), state.wavefunction)
    both = jax.vmap(lambda w, x: w.log_psi(x))(stacked, points[:2])
    np.testing.assert_allclose(both, batched[:2], rtol=1e-5)


def test_a_state_too_rough_to_draw_from_is_refused():
    rough = 40 * np.random.default_rng(0).standard_normal((8, 8))
    with pytest.raises(ValueError, match="varies too much from node to node"):
        build_grid_wavefunction(Grid((0.0, 0.0), (1.0, 1.0), (8, 8)), rough, hard=False)
