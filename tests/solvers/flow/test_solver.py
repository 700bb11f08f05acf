"""The flow trial: what it is (a normalised state), what it finds, what it refuses."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.bench.targets.hard import banana, funnel
from qdesampler.equation import Hamiltonian
from qdesampler.infer import GroundStateDistribution, load_model, model_hamiltonian
from qdesampler.numerics.metric import identity_metric
from qdesampler.solvers import GaussianTrial, NoGroundStateError, SpectralGrid, ground_state
from qdesampler.solvers.flow.boltzmann import _residual, _standard
from qdesampler.solvers.flow.network import forward, inverse, network
from qdesampler.solvers.flow.solver import FlowTrial, FlowTrialWarning
from qdesampler.solvers.flow.wavefunction import FlowWavefunction
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction

MODELS = Path(__file__).parents[3] / "models"
TINY = FlowTrial(layers=2, width=8, evaluations=2048, rounds=4, steps=150, batch=64, rate=1e-2)


def bent(x):
    """A banana of unit size: `x0 ~ N(0, 1)`, `x1 | x0 ~ N(x0^2, 1/4)`; `log Z = log(2 pi) - log 2`."""
    return -0.5 * x[0] ** 2 - 2 * (x[1] - x[0] ** 2) ** 2


def warped(dim, seed=0):
    """A flow with random numbers in every layer, around a centre away from the origin."""
    numbers, form = network(jax.random.key(seed), dim, 3, 8)
    keys = jax.random.split(jax.random.key(seed + 1), len(numbers))
    numbers = tuple(
        leaf + 0.2 * jax.random.normal(key, leaf.shape, leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else leaf
        for key, leaf in zip(keys, numbers, strict=True)
    )
    gaussian = GaussianWavefunction(jnp.arange(dim) / 2.0, identity_metric(dim, dim, 0.8))
    return FlowWavefunction(gaussian, numbers, form)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_bijection_starts_as_the_identity_and_inverts(dim):
    numbers, form = network(jax.random.key(0), dim, 3, 8)
    u = jax.random.normal(jax.random.key(1), (dim,))
    push = jax.jit(lambda numbers, u: forward(numbers, form, u))
    y, volume = push(numbers, u)
    np.testing.assert_allclose(y, u, atol=1e-6)
    assert abs(float(volume)) < 1e-5
    psi = warped(dim)
    y, volume = push(psi.numbers, u)
    assert float(jnp.max(jnp.abs(y - u))) > 0.05
    back, minus = jax.jit(lambda y: inverse(psi.numbers, psi.form, y))(y)
    np.testing.assert_allclose(back, u, atol=2e-5)
    jacobian = jax.jit(jax.jacobian(lambda u: push(psi.numbers, u)[0]))(u)
    assert float(volume) == pytest.approx(float(jnp.linalg.slogdet(jacobian)[1]), abs=1e-4)
    assert float(minus) == pytest.approx(-float(volume), abs=1e-4)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_state_is_normalised(dim, x64):
    psi = warped(dim)
    axes = [np.linspace(-12.0, 14.0, 400)] * dim
    grid = jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim))
    mass = jnp.sum(jnp.exp(2 * jax.jit(jax.vmap(psi.log_psi))(grid))) * (26 / 399) ** dim
    assert float(mass) == pytest.approx(1, abs=1e-4)


def test_the_state_is_smooth_and_passes_through_jit_vmap_and_grad(x64):
    psi = warped(2)
    x = jnp.array([0.3, -0.4])
    hessian = jax.jit(jax.hessian(psi.log_psi))(x)
    step = 1e-4
    slope = jax.jit(jax.grad(psi.log_psi))
    numeric = np.stack([(slope(x + step * e) - slope(x - step * e)) / (2 * step) for e in jnp.eye(2)])
    np.testing.assert_allclose(hessian, numeric, atol=1e-6)
    logs = jax.jit(lambda psi, x: jax.vmap(psi.log_psi)(x))(psi, jnp.stack([x, 2 * x]))
    one = jax.jit(psi.log_psi)
    np.testing.assert_allclose(logs, [one(x), one(2 * x)], rtol=1e-10)
    by_state = jax.jit(jax.grad(lambda psi: psi.log_psi(x), allow_int=True))(psi)
    np.testing.assert_allclose(by_state.gaussian.centre, -slope(x), rtol=1e-8)  # it moves with its centre


def test_the_residual_is_the_score_difference_seen_from_the_base(x64):
    psi = _standard(warped(2))
    x = jnp.array([0.3, -0.4])
    score = jnp.array([0.5, -1.0])
    u = psi.pull(x)[0]
    jacobian = jax.jit(jax.jacobian(lambda u: psi.push(u)[0]))(u)
    expected = jacobian.T @ (score - 2 * jax.jit(jax.grad(psi.log_psi))(x))
    np.testing.assert_allclose(jax.jit(_residual)(psi, x, score), expected, rtol=1e-8)


@pytest.fixture(scope="module")
def solved():
    return ground_state(Hamiltonian.from_log_density(bent, dim=2), TINY, key=jax.random.key(0))


@pytest.mark.slow
def test_a_bent_posterior(solved):
    found = solved.diagnostics
    log_z = float(np.log(2 * np.pi / 2))
    assert found["acceptance"] > 0.8
    assert found["acceptance"] > 1.5 * found["gaussian_acceptance"]
    assert found["pays"] is True
    assert log_z - 0.2 < float(found["evidence_lower_bound"]) < log_z + 0.05
    draws = solved.sample(jax.random.key(1), (4000,))
    weights = jnp.exp(jax.vmap(lambda x: bent(x) - solved.log_prob(x))(draws))
    assert float(weights.mean()) == pytest.approx(np.pi, rel=0.05)  # no mass is missed
    assert 0 < float(solved.energy) < float(solved.energy_error)


def test_every_evaluation_is_counted(solved):
    found = solved.diagnostics
    assert found["history"]["held_out_bound"].shape == (found["rounds"] + 1,)
    training = int(found["history"]["evaluations"][-1])
    assert found["evaluations"] == found["start_evaluations"] + training + 1024
    first = np.diff(np.concatenate([[0], np.asarray(found["history"]["evaluations"])]))
    assert np.all(first % 128 == 0)
    assert np.all(first > 0)


def test_a_local_energy_for_diffusion_monte_carlo(solved):
    h = Hamiltonian.from_log_density(bent, dim=2)
    draws = solved.sample(jax.random.key(2), (2000,))
    local = jax.jit(jax.vmap(lambda x: h.local_energy(solved.log_psi, x)))(draws)
    assert bool(jnp.isfinite(local).all())
    error = float(local.std()) / 2000**0.5 + 2 * float(solved.diagnostics["energy_standard_error"])
    assert float(local.mean()) == pytest.approx(float(solved.energy), abs=4.5 * error)


def test_a_distribution_for_numpyro(solved):
    law = GroundStateDistribution(solved)
    draws = law.sample(jax.random.key(3), (5,))
    np.testing.assert_allclose(law.log_prob(draws), jax.vmap(solved.log_prob)(draws), rtol=1e-6)


def test_the_gaussian_start_is_where_training_begins():
    h = Hamiltonian.from_log_density(lambda x: -0.5 * jnp.sum((x - 1) ** 2 / jnp.array([4.0, 0.25])), dim=2)
    start = ground_state(h, GaussianTrial(), key=jax.random.key(0))
    gs = ground_state(h, dataclasses.replace(TINY, start=start), key=jax.random.key(1))
    found = gs.diagnostics
    assert float(found["history"]["held_out_acceptance"][0]) > 0.99
    assert found["pays"] is False  # nothing to gain on a Gaussian, and it says so
    assert found["start_evaluations"] == start.diagnostics["evaluations"]
    with pytest.raises(ValueError, match="start is a state of 2 coordinates, the Hamiltonian has 3"):
        ground_state(
            Hamiltonian.from_log_density(lambda x: -0.5 * x @ x, dim=3),
            dataclasses.replace(TINY, start=start),
            key=jax.random.key(1),
        )


def test_descents_find_what_draws_around_the_origin_do_not():
    h = Hamiltonian.from_log_density(lambda x: -0.5 * jnp.sum(((x - 40) / 0.01) ** 2), dim=2)
    gs = ground_state(h, TINY, key=jax.random.key(0))
    np.testing.assert_allclose(gs.sample(jax.random.key(1), (500,)).mean(0), 40, atol=5e-3)


@pytest.mark.slow
def test_one_dimension_by_elementwise_maps():
    h = Hamiltonian.from_log_density(lambda x: x[0] - jnp.exp(x[0]), dim=1)  # log of an exponential variable
    gs = ground_state(h, dataclasses.replace(TINY, layers=3), key=jax.random.key(0))
    assert gs.diagnostics["acceptance"] > 0.9
    assert abs(float(gs.diagnostics["evidence_lower_bound"])) < 0.05


@pytest.mark.slow
def test_an_objective_s_energy_against_the_grid():
    h = Hamiltonian.from_objective(lambda x: (x[0] ** 2 - 1) ** 2 + 0.5 * (x[1] - x[0]) ** 2, dim=2)
    exact = ground_state(h, SpectralGrid(bounds=(-5.0, 5.0), points=48))
    solver = FlowTrial(layers=2, width=8, evaluations=32_000, rounds=2, batch=64, rate=1e-2)
    gs = ground_state(h, solver, key=jax.random.key(0))
    gaussian = ground_state(h, GaussianTrial(), key=jax.random.key(0))
    error = float(gs.diagnostics["energy_standard_error"])
    assert float(gs.energy) > float(exact.energy) - 4.5 * error  # variational
    assert float(gs.energy) - float(exact.energy) < 0.5 * float(gaussian.energy - exact.energy)
    held_out = gs.diagnostics["history"]["held_out_energy"]
    assert float(held_out.min()) < float(held_out[0])


@pytest.mark.parametrize(
    ("log_p", "message"),
    [
        (lambda x: jnp.nan * x[0], "was not finite"),
        (lambda x: -0.5 * x[0] ** 2, "no normalisable ground state"),
        (lambda x: 0.5 * x @ x, "no normalisable ground state"),
    ],
)
def test_targets_without_a_ground_state(log_p, message):
    with pytest.raises(NoGroundStateError, match=message):
        ground_state(Hamiltonian.from_log_density(log_p, dim=2), TINY, key=jax.random.key(0))


def test_holes_in_the_density_are_told():
    def half(x):
        return jnp.where(x[0] > -1, -0.5 * x @ x, jnp.nan)

    with pytest.warns(FlowTrialWarning, match="not finite at"):
        ground_state(Hamiltonian.from_log_density(half, dim=2), TINY, key=jax.random.key(0))


def test_bad_arguments():
    with pytest.raises(TypeError, match="start must be a ground state found by GaussianTrial"):
        FlowTrial(start=3.0)
    grid = ground_state(
        Hamiltonian.from_log_density(lambda x: -0.5 * x @ x, dim=1),
        SpectralGrid(bounds=(-8.0, 8.0), points=64),
    )
    with pytest.raises(TypeError, match="got a state with a GridWavefunction"):
        FlowTrial(start=grid)
    with pytest.raises(ValueError, match="layers must be a positive integer, got 0"):
        FlowTrial(layers=0)
    with pytest.raises(ValueError, match="acceptance must be at most 1"):
        FlowTrial(acceptance=1.5)
    with pytest.raises(ValueError, match="at least 128 a round"):
        FlowTrial(evaluations=100)
    h = Hamiltonian.from_log_density(bent, dim=2)
    with pytest.raises(ValueError, match="give a key"):
        ground_state(h, TINY)
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda key: ground_state(h, TINY, key=key).energy)(jax.random.key(0))


WITHOUT = """
import sys
for name in ("flowjax", "flowjax.bijections"):
    sys.modules[name] = None
import jax
from qdesampler import Hamiltonian, ground_state
import qdesampler.solvers.flow.solver as flow
h = Hamiltonian.from_log_density(lambda x: -0.5 * x @ x, dim=2)
try:
    ground_state(h, flow.FlowTrial(), key=jax.random.key(0))
except ModuleNotFoundError as error:
    print(error)
"""


def test_without_the_extra_the_import_works_and_the_solve_names_it():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'qdesampler[flow]'" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["funnel", "banana", "eight_schools_centered"])
def test_the_bars_of_hard_posteriors(name):
    """At least twice the acceptance of the Gaussian, seen from draws of `p` where these are exact."""
    cases = {"funnel": funnel, "banana": banana}
    case = cases[name]() if name in cases else load_model(MODELS / name)
    found = model_hamiltonian(jax.random.key(0), case.model, **case.data)
    gs = ground_state(found.hamiltonian, FlowTrial(), key=jax.random.key(0))
    assert gs.diagnostics["acceptance"] > 2 * gs.diagnostics["gaussian_acceptance"]
    assert gs.diagnostics["pays"]
    if name in cases:
        theta = (3 if name == "funnel" else 10) * jax.random.normal(jax.random.key(1), (2000, 1))
        noise = jax.random.normal(jax.random.key(2), (2000, found.hamiltonian.dim - 1))
        rest = noise * jnp.exp(theta / 2) if name == "funnel" else 0.03 * (theta**2 - 100) + noise
        exact = jnp.concatenate([theta, rest], 1)

        def log_weight(x):
            return found.hamiltonian.function(x) - gs.log_prob(x)

        present = jax.vmap(log_weight)(exact)
        proposed = jax.vmap(log_weight)(gs.sample(jax.random.key(3), (2000,)))
        accepted = jnp.exp(jnp.minimum(proposed[None, :] - present[:, None], 0)).mean()
        assert float(accepted) > 0.7
