"""The features of a ring of slices: their gradients and the ring's energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.paths.path_integral import PathIntegralPath, _bridge
from qdesampler.kernels.references import reference as references


def test_the_features_of_a_ring_have_these_gradients_and_its_slices_its_energy():
    path, dim = PathIntegralPath(slices=4, loose=2.0), 2
    scale = jnp.asarray([2.0, 0.5])
    reference = references.gaussian_reference(jnp.zeros(dim), scale, 2)
    evaluate = jax.value_and_grad(lambda x: -jnp.sum(x**4) + x[0] * x[1])
    position = jnp.asarray(np.random.default_rng(2).normal(size=8).astype(np.float32))
    features, gradients = path.features(position, evaluate, reference)
    numeric = jax.jacrev(lambda y: path.features(y, evaluate, reference)[0])(position)
    np.testing.assert_allclose(gradients, numeric, rtol=1e-3, atol=1e-3)
    points = position[:dim] / scale + _bridge(4) @ position[dim:].reshape(3, dim)
    ring = jnp.sum((points - jnp.roll(points, 1, axis=0)) ** 2)
    np.testing.assert_allclose(features[3], -0.5 * ring, rtol=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        PathIntegralPath(slices=1)
    with pytest.raises(ValueError, match="loose < stiff"):
        PathIntegralPath(loose=3.0, stiff=2.0)
