"""A model's posterior as a ground state: zero local energy, and the grid solution of a conjugate model."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.infer import model_hamiltonian
from qdesampler.solvers import SpectralGrid, ground_state


def scale_model(y):
    tau = numpyro.sample("tau", dist.HalfNormal(2.0))
    numpyro.deterministic("variance", tau**2)
    numpyro.sample("y", dist.Normal(0.0, tau), obs=y)


def mean_model(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_root_of_the_posterior_has_zero_local_energy(x64):
    found = model_hamiltonian(jax.random.key(0), scale_model, jnp.array([0.3, -1.2, 0.8]), diffusion=0.7)
    log_density = found.hamiltonian.log_density
    for x in (jnp.array([-0.4]), jnp.array([0.9])):
        energy = found.hamiltonian.local_energy(lambda x: 0.5 * log_density(x), x)
        assert float(energy) == pytest.approx(0, abs=1e-9)
        # the wrong twin: the posterior itself is not the ground state
        assert abs(float(found.hamiltonian.local_energy(log_density, x))) > 0.05
    sites = found.constrain(jnp.array([0.5]))
    assert float(sites["tau"]) == pytest.approx(np.exp(0.5))
    assert float(sites["variance"]) == pytest.approx(np.exp(1.0))


def test_grid_ground_state_is_the_conjugate_posterior(x64):
    y = np.array([1.0, 2.0, 0.5])
    found = model_hamiltonian(jax.random.key(1), mean_model, y)
    solved = ground_state(found.hamiltonian, SpectralGrid(bounds=(-4.0, 6.0), points=128))
    precision = len(y) + 0.25
    exact = dist.Normal(y.sum() / precision, precision**-0.5)
    assert float(solved.energy) == pytest.approx(0, abs=1e-8)
    assert float(solved.gap) == pytest.approx(precision, rel=1e-6)  # Ornstein-Uhlenbeck: D / sigma^2
    for x in (0.0, 1.0, 2.2):
        assert float(solved.log_prob(jnp.array([x]))) == pytest.approx(float(exact.log_prob(x)), abs=1e-5)


def test_a_model_without_latent_sites_is_refused():
    def observed(y):
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    with pytest.raises(ValueError, match="no continuous latent site"):
        model_hamiltonian(jax.random.key(0), observed, jnp.array(1.0))
