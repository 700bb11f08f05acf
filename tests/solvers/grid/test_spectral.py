"""Golden spectra, honest errors, and what the grid solver refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import GridWarning, SpectralGrid, ground_state

QUARTIC_LEVELS = (1.0603620904841829, 3.7996730298013942, 7.4556979379867383)  # of -d^2/dx^2 + x^4


def _harmonic(dim=1):
    return Hamiltonian.from_objective(lambda x: 0.5 * x @ x, dim=dim, diffusion=0.5)


def _quartic():
    return Hamiltonian.from_objective(lambda x: (x @ x) ** 2, dim=1)


def _ornstein_uhlenbeck(sigma, diffusion):
    return Hamiltonian.from_log_density(lambda x: -0.5 * (x @ x) / sigma**2, dim=1, diffusion=diffusion)


def _assert_errors_cover(state, exact):
    """The error is at least the true one, and not vacuous: within 100 of it, or below 1e-9."""
    true = np.abs(np.asarray(state.levels) - np.asarray(exact))
    errors = np.asarray(state.level_errors)
    assert np.all(true <= errors)
    assert np.all(errors <= np.maximum(100 * true, 1e-9))
    assert float(state.energy) == float(state.levels[0])
    assert float(state.energy_error) == float(state.level_errors[0])


@pytest.mark.usefixtures("x64")
def test_harmonic_levels():
    state = ground_state(_harmonic(), SpectralGrid(bounds=(-8.0, 8.0), points=256, states=6))
    np.testing.assert_allclose(state.levels, np.arange(6) + 0.5, atol=1e-10)
    np.testing.assert_allclose(state.gap, 1.0, atol=1e-10)
    _assert_errors_cover(state, np.arange(6) + 0.5)


@pytest.mark.usefixtures("x64")
def test_ornstein_uhlenbeck_ladder():
    sigma, diffusion = 0.7, 0.3
    solver = SpectralGrid(bounds=(-7.0, 7.0), points=160, states=6)
    state = ground_state(_ornstein_uhlenbeck(sigma, diffusion), solver)
    exact = np.arange(6) * diffusion / sigma**2
    np.testing.assert_allclose(state.levels, exact, atol=1e-8)
    _assert_errors_cover(state, exact)


@pytest.mark.usefixtures("x64")
def test_quartic_oscillator():
    state = ground_state(_quartic(), SpectralGrid(bounds=(-6.0, 6.0), points=128, states=3))
    np.testing.assert_allclose(state.levels, QUARTIC_LEVELS, atol=1e-10)
    _assert_errors_cover(state, QUARTIC_LEVELS)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dim", "points", "bounds", "levels"),
    [
        (2, (30, 36), ((-6.0, 6.0), (-7.0, 6.5)), (1, 2, 2, 3, 3, 3)),
        (3, 22, (-6.0, 6.0), (1.5, 2.5, 2.5, 2.5)),
    ],
)
def test_harmonic_levels_in_two_and_three_dimensions(dim, points, bounds, levels):
    solver = SpectralGrid(bounds=bounds, points=points, states=len(levels))
    state = ground_state(_harmonic(dim), solver)
    np.testing.assert_allclose(state.levels, levels, atol=1e-6)
    _assert_errors_cover(state, levels)


@pytest.mark.usefixtures("x64")
def test_a_correlated_boltzmann_state_has_energy_zero_and_the_slow_gap():
    precision = np.linalg.inv([[1.0, 0.8], [0.8, 1.0]])
    hamiltonian = Hamiltonian.from_log_density(lambda x: -0.5 * x @ precision @ x, dim=2)
    state = ground_state(hamiltonian, SpectralGrid(bounds=(-6.5, 6.5), points=48))
    exact = np.array([0.0, 1 / 1.8])  # D times the least eigenvalue of the precision
    assert np.all(np.abs(state.levels - exact) <= state.level_errors)
    np.testing.assert_allclose(state.levels, exact, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("bounds", "points", "least", "most"),
    [
        ((-4.0, 4.0), 64, 1e-7, 1e-5),  # the bounds limit
        ((-8.0, 8.0), 18, 1e-6, 1e-3),  # the spacing limits
        ((-8.0, 8.0), 22, 1e-9, 1e-5),
    ],
)
def test_a_poor_grid_says_how_poor_it_is(bounds, points, least, most):
    state = ground_state(_harmonic(), SpectralGrid(bounds=bounds, points=points, states=3))
    true = abs(float(state.energy) - 0.5)
    assert least < true < most  # poor indeed
    _assert_errors_cover(state, np.arange(3) + 0.5)


def test_in_float32_the_error_includes_the_noise_of_the_potential():
    # Energy 0 is what is left of a potential of hundreds, by cancellation: in float64 it is exact to 1e-10.
    hamiltonian = Hamiltonian.from_log_density(lambda x: -2.1 * (x @ x - 1.3) ** 2, dim=1)
    state = ground_state(hamiltonian, SpectralGrid(bounds=(-2.9, 2.9), points=90))
    assert {leaf.dtype for leaf in (state.energy, state.levels, state.gap)} == {jnp.dtype(jnp.float32)}
    assert 1e-9 < abs(float(state.energy)) <= float(state.energy_error) < 1e-4


@pytest.mark.usefixtures("x64")
def test_hard_walls_are_part_of_the_problem():
    box = Hamiltonian.from_objective(lambda x: 0.0 * x[0], dim=1)
    state = ground_state(box, SpectralGrid(bounds=(1.0, 3.0), points=24, states=3, boundary="hard"))
    np.testing.assert_allclose(state.levels, (np.arange(1, 4) * np.pi / 2) ** 2, atol=1e-10)
    x = jnp.linspace(1.001, 2.999, 41)[:, None]
    np.testing.assert_allclose(
        jax.vmap(state.log_psi)(x), np.log(np.sin(np.pi * (x[:, 0] - 1) / 2)), atol=1e-9
    )
    outside = jnp.array([[0.5], [1.0], [3.0], [7.0]])
    assert np.all(jax.vmap(state.log_prob)(outside) == -np.inf)
    assert np.all(jax.vmap(state.drift)(outside) == 0.0)
    draws = state.sample(jax.random.key(0), (20_000,))
    assert float(draws.min()) > 1
    assert float(draws.max()) < 3
    variance = 4 * (1 / 12 - 1 / (2 * np.pi**2))
    assert abs(float(draws.var()) - variance) < 5 * variance * np.sqrt(2 / 20_000)


@pytest.mark.usefixtures("x64")
def test_wells_too_far_apart_for_rounding():
    wells = ((6.0, 1.0), (-6.0, 2.0))

    def log_p(x):
        return jax.nn.logsumexp(jnp.stack([jnp.log(w) - 0.5 * (x[0] - c) ** 2 for c, w in wells]))

    solver = SpectralGrid(bounds=(-13.0, 13.0), points=200)
    state = ground_state(Hamiltonian.from_log_density(log_p, dim=1), solver)
    ratio = jnp.exp(state.log_prob(jnp.array([-6.0])) - state.log_prob(jnp.array([6.0])))
    np.testing.assert_allclose(ratio, 2.0, rtol=1e-6)  # the weights, which the gap of 5e-8 alone would blur
    alike = Hamiltonian.from_objective(lambda x: 2 * jnp.minimum((x[0] - 6) ** 2, (x[0] + 6) ** 2), dim=1)
    with pytest.warns(GridWarning, match="lowest 2 levels agree to rounding"):
        ground_state(alike, SpectralGrid(bounds=(-12.0, 12.0), points=200))


def test_one_state_has_no_gap_and_the_key_is_ignored():
    solver = SpectralGrid(bounds=(-6.0, 6.0), points=64, states=1)
    state = ground_state(_harmonic(), solver)
    assert state.gap is None
    assert state.levels.shape == (1,)
    again = ground_state(_harmonic(), solver, key=jax.random.key(3))
    assert float(again.energy) == float(state.energy)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bounds": (2.0, -2.0)}, ValueError, "finite with lower < upper"),
        ({"bounds": (-np.inf, 2.0)}, ValueError, "finite with lower < upper"),
        ({"bounds": (1.0, 2.0, 3.0)}, ValueError, r"bounds must be \(lower, upper\)"),
        ({"bounds": "wide"}, ValueError, r"bounds must be \(lower, upper\)"),
        ({"points": 7}, ValueError, "points must be at least 8, got 7"),
        ({"points": 64.0}, TypeError, "points must be an integer"),
        ({"points": (64, 5)}, ValueError, "points must be at least 8, got 5"),
        ({"states": 0}, ValueError, "states must be at least 1"),
        ({"states": 40}, ValueError, "states = 40 is too many for 64 points"),
        ({"boundary": "periodic"}, ValueError, "boundary must be 'open' or 'hard'"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be positive"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        SpectralGrid(**{"bounds": (-8.0, 8.0), "points": 64, **settings})


def test_another_dimension_is_refused():
    with pytest.raises(ValueError, match=r"up to 3 dimensions, got dim = 4; use GaussianTrial"):
        ground_state(_harmonic(4), SpectralGrid(bounds=(-8.0, 8.0), points=16))
    with pytest.raises(ValueError, match="bounds are given for 3 axes, but the Hamiltonian has dim = 2"):
        ground_state(_harmonic(2), SpectralGrid(bounds=((-8.0, 8.0),) * 3, points=16))
    with pytest.raises(ValueError, match="points are given for 1 axes, but the Hamiltonian has dim = 2"):
        ground_state(_harmonic(2), SpectralGrid(bounds=(-8.0, 8.0), points=(16,)))
    with pytest.raises(ValueError, match="makes 8000000 nodes, more than"):
        ground_state(_harmonic(3), SpectralGrid(bounds=(-8.0, 8.0), points=200))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_potential_that_is_not_finite_is_refused(value):
    hamiltonian = Hamiltonian.from_objective(lambda x: jnp.where(x[0] > 1, value, x[0] ** 2), dim=1)
    with pytest.raises(ValueError, match=r"not finite at 28 of 64 grid points, first .* at x = .*hard"):
        ground_state(hamiltonian, SpectralGrid(bounds=(-8.0, 8.0), points=64))


@pytest.mark.parametrize("objective", [lambda x: -x @ x, lambda x: 3 * x[0]])
def test_a_potential_without_lower_bound_is_refused(objective):
    hamiltonian = Hamiltonian.from_objective(objective, dim=1)
    with pytest.raises(ValueError, match="sits at the wall .* unbounded below"):
        ground_state(hamiltonian, SpectralGrid(bounds=(-8.0, 8.0), points=64))


def test_bounds_that_cut_the_density():
    with pytest.raises(ValueError, match=r"cut off about .* of the density.*widen them"):
        ground_state(_harmonic(), SpectralGrid(bounds=(-1.5, 1.5), points=64))
    with pytest.warns(GridWarning, match="of the density lies outside the bounds"):
        state = ground_state(_harmonic(), SpectralGrid(bounds=(-3.0, 3.0), points=64))
    exact = 2.2e-5  # erfc(3)
    assert exact / 2 < state.diagnostics["outside_mass"] < 2 * exact


def test_too_few_points():
    narrow = Hamiltonian.from_objective(lambda x: 500 * x @ x, dim=1, diffusion=0.5)  # width 0.15
    with pytest.raises(ValueError, match="too few points"), pytest.warns(GridWarning):
        ground_state(narrow, SpectralGrid(bounds=(-8.0, 8.0), points=34))
    with pytest.warns(GridWarning, match="may be wrong by .* take more points"):
        ground_state(narrow, SpectralGrid(bounds=(-8.0, 8.0), points=70))
