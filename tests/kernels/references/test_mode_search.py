"""What descents say beside particles: one mode or several, and the modes that particles missed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.paths.path import GeometricPath
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.mode_search import descend_from, starts_from_low_weights
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings, run_persistent_sampling
from qdesampler.kernels.smc.reference_fit import log_mass_outside

DIM = 3


def normal(x, mean, scale, weight=1.0):
    distance = jnp.sum(((x - mean) / scale) ** 2)
    return jnp.log(weight) - 0.5 * distance - DIM * (jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi))


def together(*parts):
    return lambda x: jax.nn.logsumexp(jnp.stack([normal(x, *part) for part in parts]))


TARGETS = {
    "one": together((1.0, 0.5)),
    "two": together((3.0, 0.5, 0.3), (-3.0, 0.5, 0.7)),
    "next to nothing": together((3.0, 0.5, 1e-5), (-3.0, 0.5, 1.0)),
    "spike in slab": together((0.0, 0.02, 0.9), (0.0, 1.0, 0.1)),
}


@pytest.fixture(scope="module")
def found():
    """Descents from starts all over, beside particles that saw only the slab, or the mode at `centre`."""

    def search(name, centre, scale):
        evaluate = jax.value_and_grad(TARGETS[name])
        points = centre + scale * jax.random.normal(jax.random.key(0), (256, DIM))
        starts = 4 * jax.random.normal(jax.random.key(1), (16, DIM))
        run = jax.jit(lambda: descend_from(starts, points, jnp.zeros(256), jnp.zeros(()), points, evaluate))
        return run()

    return search


@pytest.mark.parametrize(
    ("name", "centre", "scale", "unimodal", "missed"),
    [
        ("one", 1.0, 0.5, True, False),
        ("two", 3.0, 0.5, False, True),
        ("next to nothing", -3.0, 0.5, True, False),
        ("spike in slab", 0.0, 1.0, True, True),
    ],
)
def test_one_mode_or_several_and_what_was_missed(found, name, centre, scale, unimodal, missed):
    ends = found(name, centre, scale)
    assert bool(ends.unimodal) is unimodal
    assert (float(ends.missed_mass) > 0) is missed
    assert int(ends.num_evals) >= 16 * (1 + DIM)


def test_the_mean_and_the_curvature_are_those_of_the_missed_mode(found):
    ends = found("two", 3.0, 0.5)
    assert np.allclose(ends.means[0], -3, atol=0.3)
    assert np.allclose(ends.whiteners[0].T @ ends.whiteners[0], np.eye(DIM) / 0.25, atol=0.1)
    assert np.allclose(ends.missed_mass, 0.7 / 1.7, atol=0.02)  # log Z is given as 0: sigmoid(log 0.7)


def test_every_missed_mode_is_reported_once():
    parts = [(-3.0, 0.5, 0.5), (3.0, 0.5, 0.3), (12.0, 0.5, 0.2)]
    evaluate = jax.value_and_grad(together(*parts))
    points = -3 + 0.5 * jax.random.normal(jax.random.key(0), (256, DIM))
    starts = jnp.array([-3.0, 3, 12, 12, 3, 12])[:, None] + 0.1 * jnp.arange(6)[:, None] * jnp.ones(DIM)
    log_z = jnp.log(0.5)  # of what particles saw
    ends = jax.jit(lambda: descend_from(starts, points, jnp.zeros(256), log_z, points, evaluate))()
    assert np.allclose(ends.means[:2, 0], [3, 12], atol=0.05)  # the larger one first
    assert np.allclose(ends.missed_masses, [0.3 / 0.8, 0.2 / 0.7, 0, 0], atol=0.01)
    assert np.allclose(ends.missed_mass, 1 - (1 - 0.3 / 0.8) * (1 - 0.2 / 0.7), atol=0.01)
    # unused slots hold numbers too
    assert np.all(np.isfinite(ends.means))
    assert np.all(np.isfinite(ends.whiteners))
    assert not bool(ends.unimodal)


@pytest.mark.slow
def test_descents_start_beside_the_modes_that_the_reference_lacks():
    # 5 to 7 standard deviations from two modes, where a particle has no weight; one mode is known.
    evaluate = jax.value_and_grad(together((3.0, 0.5, 0.3), (-3.0, 0.5, 0.5), (12.0, 0.5, 0.2)))
    away = jax.random.normal(jax.random.key(0), (200, DIM))
    away /= jnp.linalg.norm(away, axis=1, keepdims=True)
    known = -3 + 0.5 * jnp.linspace(0, 2, 200)[:, None] * away
    off = 0.5 * jnp.linspace(5, 7, 5)[:, None] * away[:5]
    beside = jnp.stack([3 + off, 12 + off])
    points = jnp.concatenate([known, *beside])
    densities, scores = jax.vmap(evaluate)(points)
    prior = references.gaussian_reference(jnp.zeros(DIM), jnp.full(DIM, 6.0), 2)
    known_one = references.gaussian_reference(jnp.full(DIM, -3.0), jnp.full(DIM, 0.5), 2)
    reference = references.add_component(known_one, 1, prior.means[0], prior.whiteners[0], jnp.asarray(0.05))
    covered = jax.vmap(lambda x: references.log_density(reference, x))(beside[0])
    assert jnp.all(densities[200:205] < covered)  # by the density alone `p/q` is not even large there
    starts = starts_from_low_weights(reference, points, densities, scores, jnp.zeros(()))
    # One start for each of them: the Gaussian that the first one predicts covers the other four.
    first, second = (jnp.any(jnp.all(beside == start, -1), 1) for start in starts[:2])
    assert first.sum() == second.sum() == 1
    assert jnp.all(first != second)


@pytest.mark.slow
def test_mass_outside_a_reference_is_what_particles_found_there():
    evaluate = jax.value_and_grad(together((3.0, 0.5, 0.3), (-3.0, 0.5, 0.7)))
    prior, path = references.gaussian_reference(jnp.zeros(DIM), jnp.full(DIM, 3.0), 2), GeometricPath()
    settings = ParticleSettings(num_particles=512)
    run = jax.jit(jax.vmap(lambda key: run_persistent_sampling(key, evaluate, prior, path, settings)))
    particles = run(jax.random.split(jax.random.key(0), 4))
    one = references.gaussian_reference(jnp.full(DIM, -3.0), jnp.full(DIM, 0.5), 2)
    with_prior = references.add_component(one, 1, prior.means[0], prior.whiteners[0], jnp.asarray(0.05))
    # four populations of 512 know the smaller mode's mass to about a tenth
    assert float(jnp.exp(log_mass_outside(particles, path, with_prior))) == pytest.approx(0.3, rel=0.3)
