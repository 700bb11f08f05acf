"""The least-energy Gaussian: exact where the state is Gaussian, honest where it is not, or there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian
from qdesampler.numerics.metric import to_position
from qdesampler.solvers import (
    GaussianTrial,
    GaussianTrialWarning,
    GaussianWavefunction,
    NoGroundStateError,
    SpectralGrid,
    ground_state,
)

KEY = jax.random.key(0)
QUARTIC = 1.0603620904841829  # of -d^2/dx^2 + x^4
boltzmann, objective = Hamiltonian.from_log_density, Hamiltonian.from_objective


def gaussian(state):
    assert isinstance(state.wavefunction, GaussianWavefunction)
    return state.wavefunction


def rotated_gaussian(sd, centre, seed=0):
    """A Gaussian of these widths along random axes, its log density and the axes."""
    dim = len(sd)
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    inverse = jnp.asarray(axes.T / np.asarray(sd)[:, None])
    return boltzmann(
        lambda x: -0.5 * jnp.sum((jnp.asarray(axes.T) @ (x - centre) / sd) ** 2), dim=dim
    ), inverse


def whitened_levels(state, inverse):
    """Singular values of the exact whitening times the factor found: all 1 where it is exact."""
    factor = jax.vmap(lambda v: to_position(gaussian(state).metric, v), in_axes=1, out_axes=1)(
        jnp.eye(state.dim)
    )
    return np.linalg.svd(np.asarray(inverse @ factor), compute_uv=False)


@pytest.mark.usefixtures("x64")
def test_exact_on_a_gaussian_from_dim_plus_two_points_a_round():
    target, inverse = rotated_gaussian(np.logspace(-1, 1, 6), 3.0)
    state = ground_state(target, GaussianTrial(candidates=8), key=KEY)
    assert state.diagnostics["converged"]
    np.testing.assert_allclose(gaussian(state).centre, 3.0, atol=1e-4)
    np.testing.assert_allclose(whitened_levels(state, inverse), 1, atol=1e-3)
    # Another covariance would have shown: the energy of a state half as wide is of order 1 in these units.
    assert float(state.energy) < 1e-4 * float(state.diagnostics["kinetic_energy"])
    assert state.gap is None
    assert state.support is None


def test_float32_finds_a_gaussian_of_condition_number_1e8():
    target, inverse = rotated_gaussian(jnp.asarray(np.logspace(-4, 0, 20)), 1.0)
    state = ground_state(target, GaussianTrial(), key=KEY)
    found = state.diagnostics
    assert found["converged"]
    assert float(jnp.max(jnp.abs(inverse @ (gaussian(state).centre - 1)))) < 0.02
    np.testing.assert_allclose(whitened_levels(state, inverse), 1, atol=0.02)
    assert float(found["acceptance"]) > 0.98
    assert float(found["independence_time"]) < 1.05
    exact = 10 * np.log(2 * np.pi) + np.sum(np.log(np.logspace(-4, 0, 20)))
    assert float(found["evidence_lower_bound"]) == pytest.approx(exact, abs=0.02)
    assert found["evaluations"] < 2000


@pytest.mark.parametrize("kind", ["diagonal", pytest.param("low-rank", marks=pytest.mark.slow)])
def test_many_dimensions_with_condition_number_1e6(kind):
    dim, rng = (1000 if kind == "diagonal" else 300), np.random.default_rng(1)
    if kind == "diagonal":
        sd = jnp.asarray(np.logspace(-3, 0, dim))
        target = boltzmann(lambda x: -0.5 * jnp.sum(((x - 1) / sd) ** 2), dim=dim)
    else:
        axes = jnp.asarray(np.linalg.qr(rng.normal(size=(dim, 12)))[0])
        sd = jnp.asarray(np.r_[np.full(6, 30.0), np.full(6, 0.03)])

        def log_p(x):
            along = axes.T @ (x - 1)
            return -0.5 * (jnp.sum((x - 1 - axes @ along) ** 2) + jnp.sum((along / sd) ** 2))

        target = boltzmann(log_p, dim=dim)
    state = ground_state(target, GaussianTrial(kind), key=KEY)
    assert state.diagnostics["converged"]
    assert float(state.diagnostics["acceptance"]) > 0.95
    assert float(state.energy) < 1e-2 * float(state.diagnostics["kinetic_energy"])


def spike_and_broad(spike_mass):
    """A spike of width 0.01 at -1 and a unit Gaussian at 1, two dimensions; the spike is the higher mode."""

    def log_p(x):
        spike = -0.5 * jnp.sum(((x + 1) / 0.01) ** 2) - 2 * jnp.log(0.01) + jnp.log(spike_mass)
        return jnp.logaddexp(spike, -0.5 * jnp.sum((x - 1) ** 2) + jnp.log(1 - spike_mass))

    return boltzmann(log_p, dim=2)


@pytest.mark.parametrize(
    ("spike_mass", "centre"), [(0.05, 1.0), pytest.param(0.95, -1.0, marks=pytest.mark.slow)]
)
def test_the_mode_of_more_mass_is_kept_whatever_its_height(spike_mass, centre):
    # The first descent starts on the spike, which is 500 or more times as high as the other mode.
    target = spike_and_broad(spike_mass)
    assert float(target.function(jnp.full(2, -1.0)) - target.function(jnp.ones(2))) > np.log(500)
    state = ground_state(target, GaussianTrial(start=(-1.0, -0.99)), key=KEY)
    found = state.diagnostics
    assert found["modes"].shape == (2, 2)
    np.testing.assert_allclose(gaussian(state).centre, centre, atol=0.1)
    masses = dict(zip(np.sign(found["modes"][:, 0]), found["mode_log_masses"], strict=True))
    ratio = masses[-1.0] - masses[1.0]
    assert float(ratio) == pytest.approx(np.log(spike_mass / (1 - spike_mass)), abs=0.3)


def test_energy_of_a_skew_target_is_that_of_its_gaussian_and_near_the_least():
    # p = log-gamma; by quadrature the least energy of a Gaussian is 0.1165 at mean 0.485, width 0.640.
    target = boltzmann(lambda x: jnp.sum(2 * x - jnp.exp(x)), dim=1)
    state = ground_state(target, GaussianTrial(candidates=512), key=KEY)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    centre, width = float(gaussian(state).centre[0]), float(gaussian(state).covariance[0, 0]) ** 0.5
    exact = 0.25 * weights @ (-nodes / width - 2 + np.exp(centre + width * nodes)) ** 2
    standard_error = float(state.diagnostics["energy_standard_error"])
    assert float(state.energy) == pytest.approx(exact, abs=4 * standard_error)
    assert standard_error < 0.3 * exact
    assert 0.1165 < exact < 0.2  # the posterior's own moments have 0.34
    assert float(state.energy_error) >= float(state.energy)
    assert 0.7 < float(state.diagnostics["acceptance"]) < 0.97
    assert float(state.diagnostics["evidence_lower_bound"]) < 4 * 0.01  # log integral p = log Gamma(2) = 0


def test_the_wavefunction_is_normalised_and_its_draws_follow_it():
    target, inverse = rotated_gaussian(np.array([0.5, 2.0]), 1.0)
    state = ground_state(target, GaussianTrial(), key=KEY)
    axis = jnp.linspace(-11, 13, 300)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = jnp.exp(jax.vmap(state.log_prob)(grid))
    assert float(jnp.sum(density) * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-3)
    draws = state.sample(jax.random.key(1), (4000,))
    whitened = np.asarray((draws - 1) @ inverse.T)
    assert np.max(np.abs(whitened.mean(0))) < 4.5 / 4000**0.5
    assert np.max(np.abs(np.cov(whitened.T) - np.eye(2))) < 4.5 * (2 / 4000) ** 0.5
    # drift = 2 D grad log psi = D grad log p
    x = jnp.array([0.3, -0.4])
    np.testing.assert_allclose(state.drift(x), jax.grad(target.function)(x), rtol=1e-3)


def test_same_key_same_state_and_other_key_other_candidates():
    target = boltzmann(lambda x: jnp.sum(2 * x - jnp.exp(x)), dim=2)
    first, again, other = (ground_state(target, GaussianTrial(), key=jax.random.key(k)) for k in (3, 3, 4))
    assert jnp.array_equal(gaussian(first).centre, gaussian(again).centre)
    assert float(first.energy) == float(again.energy)
    assert not jnp.array_equal(gaussian(first).centre, gaussian(other).centre)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: 0.0 * x[0], "dense"),
        (lambda x: -(x[0] ** 2), "dense"),
        (lambda x: -(x[0] ** 2), "diagonal"),
        (lambda x: -((x[0] + 0.7 * x[1]) ** 2), "dense"),
        (lambda x: x[0] - x[1] ** 2, "dense"),
        (lambda x: x @ x, "dense"),
    ],
    ids=["flat", "flat axis", "flat axis, diagonal", "flat direction", "slope", "unbounded"],
)
def test_no_normalisable_ground_state_is_an_error(function, kind):
    with pytest.raises(NoGroundStateError, match="no normalisable ground state"):
        ground_state(boltzmann(function, dim=2), GaussianTrial(kind), key=KEY)
    # The same with a proper prior is fine.
    proper = boltzmann(lambda x: 0.1 * function(x) - x @ x, dim=2)
    assert float(ground_state(proper, GaussianTrial(kind), key=KEY).energy) < 0.05


def test_nan_is_never_silent():
    with pytest.raises(NoGroundStateError, match=r"not finite at 256 points.*start"):
        ground_state(boltzmann(lambda x: jnp.nan * x[0], dim=2), GaussianTrial(), key=KEY)
    gamma = boltzmann(lambda x: jnp.sum(2 * jnp.log(x) - x), dim=2)  # NaN outside the quadrant
    with pytest.warns(GaussianTrialWarning, match="not finite at"):
        state = ground_state(gamma, GaussianTrial(), key=KEY)
    assert 0.8 < float(state.diagnostics["finite_share"]) < 1
    assert np.isfinite(float(state.energy))


def test_an_unfinished_search_says_so():
    target = boltzmann(lambda x: jnp.sum(2 * x - jnp.exp(x)), dim=2)
    with pytest.warns(GaussianTrialWarning, match="did not settle in 1 rounds"):
        state = ground_state(target, GaussianTrial(rounds=1, tolerance=1e-6), key=KEY)
    assert not state.diagnostics["converged"]


# --------------------------------------------------------------------------- objectives


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dim", [1, 5])
def test_harmonic_oscillators_are_exact(dim):
    root = np.random.default_rng(dim).normal(size=(dim, dim))
    stiffness = root @ root.T + np.eye(dim)
    target = objective(lambda x: 0.5 * (x - 1) @ stiffness @ (x - 1), dim=dim, diffusion=0.7)
    state = ground_state(target, GaussianTrial(), key=KEY)
    exact = 0.5 * np.sum(np.sqrt(2 * 0.7 * np.linalg.eigvalsh(stiffness)))
    assert float(state.energy) == pytest.approx(exact, rel=1e-5)
    assert abs(float(state.energy) - exact) <= float(state.energy_error) < 1e-2 * exact
    np.testing.assert_allclose(gaussian(state).centre, 1, atol=1e-3)
    # stationary: (D/2) Sigma^-2 = K
    inverse = np.linalg.inv(gaussian(state).covariance)
    np.testing.assert_allclose(0.35 * inverse @ inverse, stiffness, rtol=1e-2, atol=1e-2)


@pytest.mark.usefixtures("x64")
def test_quartic_energy_is_the_upper_bound_of_the_gaussians():
    target = objective(lambda x: jnp.sum(x**4), dim=1)
    state = ground_state(target, GaussianTrial(), key=KEY)
    # min over s of 1 / (4 s) + 3 s^2: s = 24^(-1/3), energy (3/8) 24^(1/3)
    assert float(state.energy) == pytest.approx(0.375 * 24 ** (1 / 3), rel=1e-6)
    assert float(gaussian(state).covariance[0, 0]) == pytest.approx(24 ** (-1 / 3), rel=2e-3)
    assert QUARTIC < float(state.energy) < 1.03 * QUARTIC
    assert float(state.energy) - QUARTIC <= float(state.energy_error)
    grid = ground_state(target, SpectralGrid(bounds=(-6.0, 6.0), points=128))
    assert float(state.energy) >= float(grid.energy)


@pytest.mark.parametrize("kind", ["dense", "diagonal"])
def test_sums_of_oscillators_add_up_beyond_the_quadrature(kind):
    state = ground_state(objective(lambda x: jnp.sum(x**4), dim=6), GaussianTrial(kind), key=KEY)
    assert state.diagnostics["converged"]
    assert float(state.energy) == pytest.approx(6 * 0.375 * 24 ** (1 / 3), rel=0.1)  # 128 random nodes


def test_a_sextic_well_does_not_oscillate():
    state = ground_state(objective(lambda x: jnp.sum(x**6), dim=1), GaussianTrial(), key=KEY)
    # min over s of 1 / (4 s) + 15 s^3: s = 180^(-1/4)
    assert state.diagnostics["converged"]
    assert float(state.energy) == pytest.approx(180**0.25 / 4 + 15 * 180**-0.75, rel=1e-4)


@pytest.mark.parametrize(
    "zeta",
    [lambda x: 0.0 * x[0], lambda x: x[0] ** 2, lambda x: -x @ x, lambda x: x[0] ** 2 - x[1] ** 2],
    ids=["flat", "flat axis", "unbounded", "saddle"],
)
def test_objectives_without_a_ground_state_are_refused(zeta):
    with pytest.raises(NoGroundStateError, match="no normalisable ground state"):
        ground_state(objective(zeta, dim=2), GaussianTrial(), key=KEY)


# --------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "full"}, "kind must be"),
        ({"rank": 3}, "goes with kind='low-rank'"),
        ({"kind": "low-rank", "rank": 0}, "rank must be a positive integer"),
        ({"rounds": 0}, "rounds must be a positive integer"),
        ({"candidates": 3}, "at least 4"),
        ({"tolerance": -1.0}, "tolerance must be positive"),
        ({"start": [[0.0]]}, "one finite point"),
        ({"start": [np.nan]}, "one finite point"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianTrial(**arguments)


def test_bad_calls_are_refused():
    target = boltzmann(lambda x: -x @ x, dim=2)
    with pytest.raises(ValueError, match="give a key"):
        ground_state(target, GaussianTrial())
    with pytest.raises(ValueError, match=r"start must have shape \(2,\)"):
        ground_state(target, GaussianTrial(start=(0.0,)), key=KEY)
    with pytest.raises(ValueError, match="low-rank factor"):
        ground_state(objective(lambda x: x @ x, dim=2), GaussianTrial("low-rank", rank=1), key=KEY)
    assert hash(GaussianTrial(start=np.zeros(2))) == hash(GaussianTrial(start=(0.0, 0.0)))
