"""A reference fitted to particles holds the modes that descents found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.paths.path import GeometricPath
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.smc.persistent_sampling import (
    ParticleSettings,
    run_persistent_sampling,
)
from qdesampler.kernels.smc.reference_fit import fit_reference, num_slots


@pytest.mark.slow
def test_a_spike_that_particles_cannot_see_is_found_by_descents():
    dim, width = 6, 0.02

    def spike(x):
        narrow = jnp.log(0.9) - 0.5 * jnp.sum((x / width) ** 2) - dim * jnp.log(width)
        return jnp.logaddexp(narrow, jnp.log(0.1) - 0.5 * jnp.sum(x**2))

    wide = references.gaussian_reference(jnp.zeros(dim), jnp.full((dim,), 3.0), num_slots(dim))
    evaluate = jax.value_and_grad(spike)

    def run(key):
        particles = run_persistent_sampling(
            key, evaluate, wide, GeometricPath(), ParticleSettings(num_particles=64, stages=24)
        )
        one = jax.tree.map(lambda leaf: leaf[None], particles)
        return fit_reference(key, one, evaluate, wide, GeometricPath())

    fit = jax.jit(run)(jax.random.key(0))
    assert abs(float(fit.missed_mass) - 0.9) < 0.1
    near = jnp.full(dim, 0.01)
    peak = -0.5 * dim * np.log(2 * np.pi) - dim * np.log(width) - 0.5 * 6 * 0.25
    assert float(references.log_density(fit.reference, near)) > peak - 1
