"""Particles find the evidence and the masses of two modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.paths.path import GeometricPath
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.smc.persistent_sampling import (
    ParticleSettings,
    run_persistent_sampling,
    target_log_weights,
)
from qdesampler.kernels.smc.reference_fit import num_slots

GRID = np.linspace(-12, 12, 4001)


def log_target(x):
    """Two unequal modes, unnormalised."""
    return jnp.logaddexp(-0.5 * ((x[0] - 2) / 0.5) ** 2, -1.0 - 0.5 * ((x[0] + 2) / 0.7) ** 2) + 1.5


@pytest.mark.slow
def test_particles_find_the_evidence_and_the_masses_of_two_modes():
    density = np.exp(np.asarray(jax.vmap(log_target)(jnp.asarray(GRID)[:, None]), float))
    law = np.cumsum(density) / density.sum()
    truth, left = np.log(density.sum() * (GRID[1] - GRID[0])), np.interp(0, GRID, law)
    wide = references.gaussian_reference(jnp.zeros(1), jnp.full((1,), 4.0), num_slots(1))
    settings = ParticleSettings(num_particles=400, stages=24)

    def run(key):
        particles = run_persistent_sampling(
            key, jax.value_and_grad(log_target), wide, GeometricPath(), settings
        )
        weights = target_log_weights(particles, GeometricPath())
        log_z = jax.nn.logsumexp(weights) - jnp.log(particles.num_stages * 400)
        mass = jnp.sum(jax.nn.softmax(weights) * (particles.replicas.position[:, 0] < 0))
        return log_z, mass, particles.finished

    log_z, mass, finished = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 16))
    assert bool(jnp.all(finished))
    for values, expected in ((np.exp(np.asarray(log_z) - truth), 1.0), (np.asarray(mass), left)):
        assert values.std() < 0.15
        assert abs(values.mean() - expected) < 5 * values.std(ddof=1) / 4
