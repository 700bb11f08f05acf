"""Components where draws show that a reference is too low."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.tail_components import MAX_TAIL_COMPONENTS, cover_tails

DIM, FIRST = 3, 1
WEIGHT = 0.05


def normal(x, mean, scale):
    return jnp.sum(-0.5 * ((x - mean) / scale) ** 2) - DIM * (jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi))


def two(x):
    """A small narrow mode beside the one that the reference holds; unnormalised, `log Z = 2`."""
    return 2 + jnp.logaddexp(jnp.log1p(-WEIGHT) + normal(x, 0.0, 1.0), jnp.log(WEIGHT) + normal(x, 3.0, 0.2))


def heavy(x):
    """Student's t with three degrees, of scale 2: no curvature is positive everywhere."""
    return jnp.sum(-2 * jnp.log1p((x / 2) ** 2 / 3))


def one_gaussian():
    return references.gaussian_reference(jnp.zeros(DIM), jnp.ones(DIM), FIRST + MAX_TAIL_COMPONENTS)


def covered(log_density, draws, log_z):
    @jax.jit
    def run(draws):
        log_p = jax.vmap(log_density)(draws)
        reference, evals = cover_tails(
            one_gaussian(), FIRST, draws, log_p, jnp.asarray(log_z), jax.value_and_grad(log_density)
        )
        q = jax.vmap(lambda x: references.log_density(reference, x))(draws)
        return reference, evals, log_p - log_z - q

    return run(draws)


def test_a_mode_that_was_missing_gets_its_mass_and_shape():
    rng = np.random.default_rng(0)
    near = rng.normal(size=(1000, DIM))
    draws = jnp.asarray(np.where(rng.random((1000, 1)) < WEIGHT, 3 + 0.2 * near, near), float)
    reference, evals, log_ratio = covered(two, draws, 2.0)
    used = int(evals) // (1 + DIM)
    assert 1 <= used <= 3  # one component is enough, and the worst draw may have been between the modes
    weights = np.exp(references.log_weights_of(reference))
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-4)
    found = np.argmax(weights[FIRST:]) + FIRST
    assert weights[found] == pytest.approx(WEIGHT, abs=4 * np.sqrt(WEIGHT / 1000))
    np.testing.assert_allclose(reference.means[found], 3, atol=0.1)
    np.testing.assert_allclose(reference.whiteners[found], 5 * np.eye(DIM), atol=0.5)
    assert float(log_ratio.max()) < 1.5


def test_if_the_reference_covers_everything_nothing_is_added_or_evaluated():
    draws = jax.random.normal(jax.random.key(1), (500, DIM))
    reference, evals, _ = covered(lambda x: normal(x, 0.0, 1.0), draws, 0.0)
    assert int(evals) == 0
    assert all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(reference), jax.tree.leaves(one_gaussian()), strict=True)
    )


def test_tails_without_positive_curvature_are_covered_better_and_all_stays_finite():
    draws = 2 * jax.random.t(jax.random.key(2), 3.0, (1000, DIM))
    log_z = DIM * np.log(2 * np.sqrt(3) * np.pi / 2)
    reference, evals, log_ratio = covered(heavy, draws, log_z)
    before = jax.vmap(lambda x: heavy(x) - log_z - normal(x, 0.0, 1.0))(draws)
    assert int(evals) == MAX_TAIL_COMPONENTS * (1 + DIM)
    assert np.all(np.isfinite(log_ratio))
    assert float(jnp.mean(log_ratio)) < float(jnp.mean(before)) - 1
    assert float(jnp.quantile(log_ratio, 0.99)) < float(jnp.quantile(before, 0.99)) - 5
    assert all(not np.any(np.isnan(leaf)) for leaf in jax.tree.leaves(reference))
