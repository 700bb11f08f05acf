"""What models bring of their own: distributions against their densities, and the solver of an ODE."""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from numpyro.infer.util import potential_energy
from scipy import integrate

from qdesampler.infer import load_model

MODELS = Path(__file__).parents[2] / "models"


def test_ordered_prior_integrates_to_one_and_sorts_its_draws(x64):
    case = load_model(MODELS / "low_dim_gauss_mix")
    prior = case.model.__globals__["OrderedNormal"](2.0, 2)
    grid = np.linspace(-14, 14, 561)
    first, second = np.meshgrid(grid, grid, indexing="ij")
    density = np.exp(prior.log_prob(np.stack([first, second], -1)))
    mass = (
        np.sum(np.where(first < second, density, 0.5 * density * (first == second)))
        * (grid[1] - grid[0]) ** 2
    )
    assert mass == pytest.approx(1.0, abs=1e-4)
    draws = np.asarray(prior.sample(jax.random.key(0), (20_000,)))
    assert np.all(draws[:, 0] < draws[:, 1])
    # The larger of two normals has mean s / sqrt(pi) and variance s^2 (1 - 1/pi).
    standard_error = 2 * np.sqrt((1 - 1 / np.pi) / 20_000)
    assert abs(draws[:, 1].mean() - 2 / np.sqrt(np.pi)) < 4 * standard_error


def test_ordered_rates_are_drawn_from_their_density(x64):
    """The mean by quadrature over the region: of x_2 given x_1 < x_2, and so the mass with it."""
    rates = load_model(MODELS / "hmm_drive").model.__globals__["OrderedRates"]()
    draws = np.asarray(rates.sample(jax.random.key(0), (20_000,)))
    assert np.all(draws[:, 0] > 0)
    assert np.all(draws[:, 0] < draws[:, 1])
    grid = np.linspace(0, 10, 1001)
    first, second = np.meshgrid(grid, grid, indexing="ij")
    weight = np.where(first < second, 1.0, 0.5 * (first == second)) * 1e-4
    weight *= np.where((first == 0), 0.5, 1.0)  # trapezoids
    density = np.exp(rates.log_prob(np.stack([first, second], -1))) * weight
    assert density.sum() == pytest.approx(1.0, abs=1e-4)
    for k, x in enumerate((first, second)):
        mean = np.sum(density * x)
        deviation = np.sqrt(np.sum(density * (x - mean) ** 2))
        assert abs(draws[:, k].mean() - mean) < 4 * deviation / np.sqrt(20_000)


def test_captures_are_drawn_from_their_density(x64):
    capture = load_model(MODELS / "mt").model.__globals__["AugmentedCapture"](0.6, np.array([0.2, 0.5, 0.7]))
    rows = np.array(list(itertools.product([0, 1], repeat=3)))
    expected = np.exp(capture.log_prob(rows))
    assert expected.sum() == pytest.approx(1.0, abs=1e-12)
    draws = np.asarray(capture.sample(jax.random.key(0), (20_000,)))
    found = np.bincount(draws.astype(int) @ np.array([4, 2, 1]), minlength=8) / 20_000
    assert np.all(np.abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000))


def concentration(data, k_a, K_m, V_m):
    """C at the measurements by Radau's method, an implicit one with steps of its own."""

    def slope(t, C):
        absorption = data["D"] * k_a / data["V"] * np.exp(-k_a * t)
        return absorption - V_m / data["V"] * C / (K_m + C)

    span = (0, data["times"][-1])
    return integrate.solve_ivp(
        slope, span, [0.0], "Radau", data["times"], rtol=1e-10, atol=1e-13, first_step=1e-8
    ).y[0]


def solved(k_a, K_m, V_m):
    """Concentrations at the measurements as the model has them."""
    case = load_model(MODELS / "one_comp_mm_elim_abs")
    names = case.model.__globals__
    settings = {name: value for name, value in case.data.items() if name != "C_hat"}
    C = jax.jit(lambda *z: names["solve"](*z, **settings))(k_a, K_m, V_m)
    return C[names["FIRST"] - 1 :: names["LATER"]]


# Over the range of the reference draws: K_m from 1e-4 to 300.
POSTERIOR_POINTS = [
    (0.67, 1e-4, 0.86),
    (0.65, 3e-3, 0.91),
    (0.74, 0.05, 0.8),
    (0.77, 0.63, 1.15),
    (0.81, 1.86, 1.18),
    (0.55, 30.0, 3.5),
    (1.0, 300.0, 45.0),
]


def test_ode_solver_against_radau_in_both_precisions():
    data = json.loads((MODELS / "one_comp_mm_elim_abs" / "data.json").read_text())
    expected = [concentration(data, *point) for point in POSTERIOR_POINTS]
    single = [solved(*point) for point in POSTERIOR_POINTS]
    assert single[0].dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5)
    with jax.enable_x64(True):
        double = [solved(*point) for point in POSTERIOR_POINTS]
    np.testing.assert_allclose(double, expected, rtol=2e-7)


def test_ode_density_is_finite_where_the_solver_is_not_accurate():
    """Elimination far faster than absorption: stiff, and away from the posterior."""
    case = load_model(MODELS / "one_comp_mm_elim_abs")
    evaluate = jax.jit(jax.vmap(jax.value_and_grad(lambda z: potential_energy(case.model, (), case.data, z))))
    unit = np.random.default_rng(0).uniform(-1, 1, (500, 4)).astype(np.float32)
    names = ("k_a", "K_m", "V_m", "sigma")
    energy, _ = evaluate({name: 4 * unit[:, i] for i, name in enumerate(names)})
    assert np.all(np.isfinite(energy))
    energy, gradient = evaluate({name: 2 * unit[:, i] for i, name in enumerate(names)})  # a chain's starts
    assert np.all(np.isfinite(energy))
    for leaf in gradient.values():
        assert np.all(np.isfinite(leaf))


def test_levels_of_the_nile_are_those_of_linear_algebra(x64):
    """`levels` is linear in its noise: mean and covariance of the walk given the flows, without a filter."""
    case = load_model(MODELS / "nile_local_level")
    y, step, noise = case.data["y"], 0.4, 1.2
    law = case.model.__globals__["LocalLevel"](step, noise, len(y))
    mean = law.levels(y, np.zeros(100))
    root = (jax.vmap(law.levels, (None, 0))(y, np.eye(100)) - mean).T
    year = np.arange(100)
    walk = 9 + step**2 * np.minimum(year[:, None], year)
    gain = walk @ np.linalg.inv(walk + noise**2 * np.eye(100))
    np.testing.assert_allclose(mean, 10 + gain @ (y - 10), rtol=1e-10)
    np.testing.assert_allclose(root @ root.T, walk - gain @ walk, atol=1e-10)
    draws = law.sample(jax.random.key(0), (50_000,)) - 10
    expected = np.diag(walk) + noise**2
    assert np.all(np.abs(draws.var(0) / expected - 1) < 5 * np.sqrt(2 / 50_000))
    correlation = walk[9, 60] / np.sqrt(expected[9] * expected[60])
    assert abs(np.corrcoef(draws[:, 9], draws[:, 60])[0, 1] - correlation) < 5 / np.sqrt(50_000)
