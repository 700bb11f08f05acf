"""Paths lead from the reference to the target, and work silences what no rung uses."""

import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.paths.path import DiffusionPath, GeometricPath, work


def test_paths_lead_from_the_reference_to_the_target_and_diffusion_lowers_d():
    for path in (GeometricPath(), DiffusionPath(8.0, 0.4)):
        assert [float(c) for c in path.coefficients(jnp.asarray(0.0))] == [1, 0]
        assert [float(c) for c in path.coefficients(jnp.asarray(1.0))] == [0, 1]
    a, b = DiffusionPath(8.0, 0.4).coefficients(jnp.asarray(0.4))
    assert float(a) == 0
    np.testing.assert_allclose(float(b), 1 / 8, rtol=1e-6)
    with pytest.raises(ValueError, match="above 1"):
        DiffusionPath(0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        DiffusionPath(2.0, 1.0)


def test_work_is_zero_where_the_reference_alone_matters_and_the_target_vanishes():
    lower, upper = jnp.asarray([0.7, 0.0]), jnp.asarray([0.6, 0.0])
    np.testing.assert_allclose(work(lower, upper, jnp.asarray([-1.0, -jnp.inf])), 0.1, rtol=1e-5)
