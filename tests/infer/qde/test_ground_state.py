"""A solved ground state as the target: `psi0^2` is sampled, whatever object brings it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.infer.qde.kernel import QDE
from qdesampler.solvers import FlowTrial, GaussianTrial, SpectralGrid, Walkers, ground_state


class Oscillator:
    """Ground state of the harmonic oscillator: a Gaussian of variance 1/2 about 2."""

    dim = 2

    def log_prob(self, x):
        return -jnp.sum((x - 2) ** 2)

    def sample(self, key, shape=()):
        return 2 + jnp.sqrt(0.5) * jax.random.normal(key, (*shape, self.dim))


@pytest.mark.parametrize(
    ("chains", "method"),
    [pytest.param(1, "sequential", marks=pytest.mark.slow), (4, "vectorized"), (2, jax.vmap)],
)
def test_any_object_with_a_density_and_draws(run, assert_expectation, chains, method):
    kernel = QDE(ground_state=Oscillator(), dense_mass=False, solve=method == "vectorized")
    mcmc = run(kernel, warmup=100, samples=1200 // chains, chains=chains, method=method)
    x = mcmc.get_samples(group_by_chain=True)["x"]
    assert x.shape == (chains, 1200 // chains, 2)
    assert_expectation(x, 2.0)
    assert_expectation((x - 2) ** 2, 0.5)
    assert mcmc.sampler.model is None


def test_it_starts_at_a_draw_or_where_it_is_told():
    kernel = QDE(ground_state=Oscillator())
    keys = jax.random.split(jax.random.key(0), 3)
    started = kernel.init(keys, 10).z["x"]
    assert started.shape == (3, 2)
    assert len(np.unique(started)) == 6
    given = kernel.init(jax.random.key(0), 10, {"x": jnp.array([5.0, 6.0])})
    assert given.z["x"].tolist() == [5.0, 6.0]
    assert given.potential_energy == 25.0
    with pytest.raises(ValueError, match=r"\['x'\] has shape \(3,\); expected \(2,\)"):
        kernel.init(jax.random.key(0), 10, {"x": jnp.zeros(3)})


def test_the_ground_state_of_a_double_well_is_sampled(run, assert_expectation):
    hamiltonian = Hamiltonian.from_objective(
        lambda x: 0.3 * (x[0] ** 2 - 2) ** 2 + 0.2 * x[0], dim=1, diffusion=1.0
    )
    state = ground_state(hamiltonian, SpectralGrid(bounds=(-6.0, 6.0), points=128))
    x = jnp.linspace(-6, 6, 2001)[:, None]
    density = np.exp(np.asarray(jax.vmap(state.log_prob)(x), np.float64))
    density /= density.sum()
    draws = run(QDE(ground_state=state), warmup=200, samples=500).get_samples(group_by_chain=True)["x"][
        ..., 0
    ]
    assert_expectation(draws, density @ np.asarray(x[:, 0]), min_ess=200)
    assert_expectation(draws**2, density @ np.asarray(x[:, 0]) ** 2, min_ess=200)


def test_hard_walls_are_never_crossed(run, assert_expectation):
    box = Hamiltonian.from_objective(lambda x: 0.0 * x[0], dim=1, diffusion=1.0)
    state = ground_state(box, SpectralGrid(bounds=(0.0, 1.0), points=64, boundary="hard"))
    draws = run(QDE(ground_state=state), warmup=200, samples=500).get_samples(group_by_chain=True)["x"][
        ..., 0
    ]
    assert np.all((draws > 0) & (draws < 1))
    # psi0 = sqrt(2) sin(pi x): variance 1/12 - 1/(2 pi^2)
    assert_expectation(draws, 0.5, min_ess=200)
    assert_expectation((draws - 0.5) ** 2, 1 / 12 - 1 / (2 * np.pi**2), min_ess=200)


QUARTIC = Hamiltonian.from_objective(lambda x: jnp.sum(x**4), dim=1)
SOLVERS = {
    "gaussian": GaussianTrial(),
    "walkers": Walkers(
        trial=lambda x: -0.6 * jnp.sum(x**2),
        num_walkers=512,
        num_steps=2400,
        burn_in=200,
        time_step=0.01,
        forward_time=2.0,
    ),
    "flow": FlowTrial(layers=2, width=8, evaluations=2048, rounds=4, steps=60),
}


@pytest.mark.parametrize(
    "name", ["gaussian", *(pytest.param(name, marks=pytest.mark.slow) for name in ("walkers", "flow"))]
)
def test_the_result_of_every_solver_is_sampled(run, assert_expectation, name):
    """The target is the state that was found, exactly; how near that is to the true one is the solver's."""
    state = ground_state(QUARTIC, SOLVERS[name], key=jax.random.key(0))
    x = jnp.linspace(-5, 5, 2001)[:, None]
    density = np.exp(np.asarray(jax.vmap(state.log_prob)(x), np.float64))
    second = density @ np.asarray(x[:, 0]) ** 2 / density.sum()
    mcmc = run(QDE(ground_state=state), warmup=150, samples=400)
    draws = mcmc.get_samples(group_by_chain=True)["x"][..., 0]
    assert_expectation(draws, density @ np.asarray(x[:, 0]) / density.sum(), min_ess=200)
    assert_expectation(draws**2, second, min_ess=200)
    exact = ground_state(QUARTIC, SpectralGrid(bounds=(-5.0, 5.0), points=128))
    truth = np.exp(np.asarray(jax.vmap(exact.log_prob)(x), np.float64))
    assert second == pytest.approx(truth @ np.asarray(x[:, 0]) ** 2 / truth.sum(), rel=0.06)
