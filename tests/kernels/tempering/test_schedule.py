"""Rungs at equal rejection rates, and their number."""

import jax.numpy as jnp
import numpy as np

from qdesampler.kernels.tempering.schedule import num_rungs_for, place_rungs


def test_rungs_split_a_known_barrier_evenly():
    betas = place_rungs(jnp.linspace(0, 1, 5), jnp.asarray([0.6, 0.2, 0.1, 0.1]), 5)
    # A quarter of the barrier of 1 each: the first at 0.25 / 0.6 of the first quarter.
    np.testing.assert_allclose(betas, [0, 0.25 / 0.6 / 4, 0.5 / 0.6 / 4, 0.25 + 0.15 / 0.2 / 4, 1], atol=2e-3)
    assert num_rungs_for(0.0, 40) == 3
    assert num_rungs_for(4.0, 40) == 10
    assert num_rungs_for(100.0, 40) == 40
