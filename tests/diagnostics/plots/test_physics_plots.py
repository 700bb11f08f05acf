"""Plots of the equation's own things: what is drawn, by a backend that keeps a record, and images of all."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from qdesampler.backends import ExactEnumeration, IsingProblem
from qdesampler.diagnostics import (
    plot_evolution,
    plot_ground_state,
    plot_reads,
    plot_trial,
    plot_zero_variance,
    summary,
)
from qdesampler.diagnostics.plots.canvas import Canvas
from qdesampler.equation import Hamiltonian
from qdesampler.solvers import GaussianTrial, SpectralGrid, evolve, ground_state, propagate

GRID = SpectralGrid(bounds=(-3.0, 3.0), points=64, states=3)


def recorded(collection, panel):
    """What was drawn into a panel: a list of `{"function": ..., ...}`."""
    return collection.viz["plot"].sel(panel=panel).item()


def lines(collection, panel):
    return [element for element in recorded(collection, panel) if element["function"] == "line"]


@pytest.fixture(scope="module")
def well():
    hamiltonian = Hamiltonian.from_objective(lambda x: 2 * (x[0] ** 2 - 1) ** 2, dim=1, diffusion=0.3)
    return hamiltonian, ground_state(hamiltonian, GRID)


@pytest.fixture(scope="module")
def bowl():
    hamiltonian = Hamiltonian.from_objective(lambda x: x[0] ** 2 + 4 * x[1] ** 2, dim=2, diffusion=0.5)
    return hamiltonian, ground_state(hamiltonian, GaussianTrial(), key=jax.random.key(0))


@pytest.fixture(scope="module")
def fall(well):
    return propagate(well[0], GRID, lambda x: jnp.exp(-4 * (x[0] - 1) ** 2), time_step=0.02, num_steps=40)


@pytest.fixture(scope="module")
def reads():
    rng = np.random.default_rng(0)
    problem = IsingProblem.from_dense(rng.normal(size=6) / 2, np.triu(rng.normal(size=(6, 6)), 1) / 2)
    return problem, ExactEnumeration().sample(problem, key=jax.random.key(0), num_reads=400)


def test_a_ground_state_with_its_potential_and_levels(well):
    hamiltonian, state = well
    drawn = recorded(plot_ground_state(state, hamiltonian, (-2.0, 2.0), backend="none"), "state")
    levels = [element["y"] for element in drawn if element["function"] == "vline"]  # so ArviZ calls them
    np.testing.assert_allclose(levels, state.levels, rtol=1e-6)
    potential, density = (element for element in drawn if element["function"] == "line")
    x = potential["x"]
    inside = np.isfinite(potential["y"])
    np.testing.assert_allclose(potential["y"][inside], 2 * (x[inside] ** 2 - 1) ** 2, atol=1e-4)
    lifted = density["y"] - levels[0]
    expected = np.exp([float(state.log_prob(jnp.array([at]))) for at in x[::40]])
    np.testing.assert_allclose(lifted[::40] / lifted.max(), expected / expected.max(), rtol=0.05, atol=0.02)


def test_contours_have_the_right_axes(bowl):
    hamiltonian, state = bowl
    collection = plot_ground_state(state, hamiltonian, (-2.0, 2.0), backend="none")
    (filled,) = (e for e in recorded(collection, "density") if e["function"] == "contourf")
    density = filled["density"]  # first axis: first coordinate
    assert density[len(density) // 4].max() > density[:, len(density) // 4].max()
    assert [e["function"] for e in recorded(collection, "potential")].count("contour") == 1


def test_axes_have_one_scale_and_the_names_of_the_coordinates(bowl, well):
    hamiltonian, state = bowl
    collection = plot_ground_state(state, hamiltonian, (-2.0, 2.0), names=("u", "v"), backend="matplotlib")
    for panel in ("density", "potential"):
        axes = recorded(collection, panel)
        assert axes.get_aspect() == 1.0
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("u", "v")
    long = plot_ground_state(state, hamiltonian, ((-20.0, 20.0), (-1.0, 1.0)), backend="matplotlib")
    assert recorded(long, "density").get_aspect() == "auto"  # one scale would leave a thin strip
    single = plot_ground_state(*well[::-1], names=("r",), backend="matplotlib")
    assert recorded(single, "state").get_xlabel() == "r"
    with pytest.raises(ValueError, match="one name for each of the 2 coordinates"):
        plot_ground_state(state, hamiltonian, names=("u",), backend="none")
    plt.close("all")


def test_a_legend_lies_outside_of_titles(well):
    collection = plot_ground_state(*well[::-1], backend="matplotlib")
    figure = collection.viz["figure"].item()
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    axes = recorded(collection, "state")
    assert not legend.overlaps(axes.title.get_window_extent())
    assert legend.y1 <= axes.xaxis.label.get_window_extent().y0
    plt.close("all")


def test_evolution_of_energy_and_density(fall, bowl):
    collection = plot_evolution(fall, backend="none")
    (energy,) = lines(collection, "energy")
    np.testing.assert_allclose(energy["y"], fall.energy, rtol=1e-6)
    (density,) = lines(collection, "density")
    assert np.trapezoid(density["y"], density["x"]) == pytest.approx(1, abs=0.02)
    path = evolve(*bowl, time_step=0.05, num_steps=5, key=jax.random.key(1))
    collection = plot_evolution(path, path, backend="none")
    assert len(lines(collection, "moments")) == 4  # two coordinates of two paths
    first, second = lines(collection, "energy")
    assert second["x"][0] == first["x"][-1]


def test_reads_of_an_annealer(reads):
    problem, samples = reads
    collection = plot_reads(problem, samples, backend="none")
    (bars,) = (e for e in recorded(collection, "energies") if e["function"] == "hist")
    assert np.sum(bars["y"]) == 400
    asked, told = lines(collection, "temperature")
    np.testing.assert_allclose(told["y"], asked["y"], atol=0.05)
    (shares,) = (e for e in recorded(collection, "temperature") if e["function"] == "scatter")
    np.testing.assert_allclose(shares["y"], 1 / (1 + np.exp(-2 * shares["x"])), atol=0.12)


def test_trial_and_gain_of_a_run(mcmc):
    table = summary(mcmc)
    collection = plot_zero_variance(table, backend="none")
    plain, reduced = (e for e in recorded(collection, "gain") if e["function"] == "scatter")
    np.testing.assert_allclose(2 * (plain["x"] - reduced["x"]), np.log10(table["zv_gain"]), atol=0.1)
    collection = plot_trial(mcmc, backend="none")
    draws, trial = lines(collection, "mu")
    assert np.trapezoid(np.abs(draws["y"] - trial["y"]), draws["x"]) < 0.6  # total variation, twice


@pytest.mark.parametrize("name", ["well", "bowl", "fall", "reads", "trial", "gain"])
def test_images(name, well, bowl, fall, reads, mcmc, tmp_path):
    plots = {
        "well": lambda: plot_ground_state(*well[::-1], backend="matplotlib"),
        "bowl": lambda: plot_ground_state(*bowl[::-1], backend="matplotlib"),
        "fall": lambda: plot_evolution(fall, backend="matplotlib"),
        "reads": lambda: plot_reads(*reads, backend="matplotlib"),
        "trial": lambda: plot_trial(mcmc, backend="matplotlib"),
        "gain": lambda: plot_zero_variance(summary(mcmc), backend="matplotlib"),
    }
    plots[name]().savefig(tmp_path / "plot.png")
    plt.close("all")
    image = plt.imread(tmp_path / "plot.png")
    assert image.shape[0] > 200
    red, green, blue = np.moveaxis(image[..., :3], 2, 0)
    colourful = np.maximum(np.abs(red - green), np.abs(green - blue)) > 0.1
    assert np.mean(colourful) > 0.002  # axes, text and an empty panel are grey


def test_bad_input(well, bowl, mcmc, tree):
    hamiltonian, state = well
    with pytest.raises(ValueError, match="backend must be one of none, matplotlib"):
        Canvas(["one"], backend="gnuplot")
    with pytest.raises(ValueError, match="bounds must be increasing"):
        plot_ground_state(state, hamiltonian, (1.0, -1.0), backend="none")
    with pytest.raises(ValueError, match="at least one path"):
        plot_evolution()
    with pytest.raises(TypeError, match="expected a path"):
        plot_evolution(state)
    with pytest.raises(ValueError, match="has 1 coordinates, the draws have 10"):
        plot_trial(mcmc, state, backend="none")
    with pytest.raises(ValueError, match="no zero-variance columns"):
        plot_zero_variance(summary(tree))
    three = Hamiltonian.from_objective(lambda x: x @ x, dim=3)
    box = ground_state(three, GaussianTrial(), key=jax.random.key(0))
    with pytest.raises(ValueError, match="of 3 coordinates cannot be drawn"):
        plot_ground_state(box, three)
