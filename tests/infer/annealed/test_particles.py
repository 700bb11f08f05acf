"""Particles without a ladder: weighted draws, evidence with an error, old names, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.infer.annealed.particles import anneal_particles, anneal_walkers
from tests.targets import DOUBLE_WELL_LEFT, DOUBLE_WELL_LOG_Z, double_well

SETTINGS = {
    "potential_fn": double_well,
    "key": jax.random.key(0),
    "init_params": {"x": jnp.ones(2)},
    "reference": 3.0,
    "num_populations": 12,
}


@pytest.fixture(scope="module")
def found():
    return anneal_particles(**SETTINGS, num_particles=256)


def test_particles_have_the_masses_and_the_evidence(found):
    value, error = found.log_evidence
    assert error < 0.05
    assert abs(value - DOUBLE_WELL_LOG_Z) < 4 * error
    weights = np.exp(found.log_weights)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-4)
    left = np.sum(weights * (found.samples["x"][..., 0] < 0), axis=1)
    assert abs(left.mean() - DOUBLE_WELL_LEFT) < 4 * left.std(ddof=1) / np.sqrt(left.size)
    assert np.all(found.effective_sample_sizes > 200)
    assert found.num_evals > 12 * 256


def test_equally_weighted_draws_have_the_masses(found):
    draws = found.draw(jax.random.key(1), 4000)["x"]
    assert draws.shape == (4000, 2)
    assert abs(float(jnp.mean(draws[:, 0] < 0)) - DOUBLE_WELL_LEFT) < 0.05
    with pytest.raises(ValueError, match="at least 1"):
        found.draw(jax.random.key(1), 0)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        anneal_particles(potential_fn=double_well, key=jax.random.key(0), num_populations=1)
    with pytest.raises(ValueError, match="init_params"):
        anneal_particles(potential_fn=double_well, key=jax.random.key(0))
    with pytest.raises(ValueError, match="improper reference"):
        anneal_particles(
            potential_fn=double_well, key=jax.random.key(0), init_params={"x": jnp.ones(2)}, reference=0.0
        )


def test_the_old_names_still_work_with_a_warning(found):
    with pytest.warns(DeprecationWarning, match="now called anneal_particles"):
        old = anneal_walkers(**SETTINGS, num_walkers=256)
    np.testing.assert_array_equal(old.log_weights, found.log_weights)
    with (
        pytest.warns(DeprecationWarning, match="use num_particles=3"),
        pytest.raises(ValueError, match="num_particles is 3"),
    ):
        anneal_particles(**SETTINGS, num_walkers=3)
