"""What descents tell beside walkers: one top alone, or several, and what walkers had not seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.paths.path import GeometricPath
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.mode_search import descend_from, starts_where_thin
from qdesampler.kernels.smc.persistent_sampling import WalkerSettings, run_walkers
from qdesampler.kernels.smc.reference_fit import outside

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
    """Descents from places all over, beside walkers that saw the slab, or the mode at `walkers`, only."""

    def look(name, walkers, scale):
        evaluate = jax.value_and_grad(TARGETS[name])
        points = walkers + scale * jax.random.normal(jax.random.key(0), (256, DIM))
        starts = 4 * jax.random.normal(jax.random.key(1), (16, DIM))
        run = jax.jit(lambda: descend_from(starts, points, jnp.zeros(256), jnp.zeros(()), points, evaluate))
        return run()

    return look


@pytest.mark.parametrize(
    ("name", "walkers", "scale", "alone", "hidden"),
    [
        ("one", 1.0, 0.5, True, False),
        ("two", 3.0, 0.5, False, True),
        ("next to nothing", -3.0, 0.5, True, False),
        ("spike in slab", 0.0, 1.0, True, True),
    ],
)
def test_one_top_or_several_and_what_is_unseen(found, name, walkers, scale, alone, hidden):
    ends = found(name, walkers, scale)
    assert bool(ends.alone) is alone
    assert (float(ends.share) > 0) is hidden
    assert int(ends.num_evals) >= 16 * (1 + DIM)


def test_the_top_and_its_curvature_are_those_of_the_unseen_mode(found):
    ends = found("two", 3.0, 0.5)
    assert np.allclose(ends.means[0], -3, atol=0.3)
    assert np.allclose(ends.whiteners[0].T @ ends.whiteners[0], np.eye(DIM) / 0.25, atol=0.1)
    assert np.allclose(ends.share, 0.7 / 1.7, atol=0.02)  # log Z is given as 0: sigmoid(log 0.7)


def test_every_unseen_mode_is_told_of_once():
    parts = [(-3.0, 0.5, 0.5), (3.0, 0.5, 0.3), (12.0, 0.5, 0.2)]
    evaluate = jax.value_and_grad(together(*parts))
    points = -3 + 0.5 * jax.random.normal(jax.random.key(0), (256, DIM))
    starts = jnp.array([-3.0, 3, 12, 12, 3, 12])[:, None] + 0.1 * jnp.arange(6)[:, None] * jnp.ones(DIM)
    log_z = jnp.log(0.5)  # of what walkers saw
    ends = jax.jit(lambda: descend_from(starts, points, jnp.zeros(256), log_z, points, evaluate))()
    assert np.allclose(ends.means[:2, 0], [3, 12], atol=0.05)  # the larger one first
    assert np.allclose(ends.shares, [0.3 / 0.8, 0.2 / 0.7, 0, 0], atol=0.01)
    assert np.allclose(ends.share, 1 - (1 - 0.3 / 0.8) * (1 - 0.2 / 0.7), atol=0.01)
    # slots that are off hold numbers too
    assert np.all(np.isfinite(ends.means))
    assert np.all(np.isfinite(ends.whiteners))
    assert not bool(ends.alone)


def test_descents_start_on_the_flanks_of_the_modes_that_the_reference_lacks():
    # 5 to 7 standard deviations from two tops, where a walker weighs nothing; one mode is known.
    evaluate = jax.value_and_grad(together((3.0, 0.5, 0.3), (-3.0, 0.5, 0.5), (12.0, 0.5, 0.2)))
    away = jax.random.normal(jax.random.key(0), (200, DIM))
    away /= jnp.linalg.norm(away, axis=1, keepdims=True)
    known = -3 + 0.5 * jnp.linspace(0, 2, 200)[:, None] * away
    off = 0.5 * jnp.linspace(5, 7, 5)[:, None] * away[:5]
    flanks = jnp.stack([3 + off, 12 + off])
    points = jnp.concatenate([known, *flanks])
    densities, scores = jax.vmap(evaluate)(points)
    wide = references.broad(jnp.zeros(DIM), jnp.full(DIM, 6.0), 2)
    known_one = references.broad(jnp.full(DIM, -3.0), jnp.full(DIM, 0.5), 2)
    reference = references.add_component(known_one, 1, wide.means[0], wide.whiteners[0], jnp.asarray(0.05))
    covered = jax.vmap(lambda x: references.log_density(reference, x))(flanks[0])
    assert jnp.all(densities[200:205] < covered)  # by the density alone not even thin there
    starts = starts_where_thin(reference, points, densities, scores, jnp.zeros(()))
    # One start for each of them: the Gaussian that the first one predicts covers the other four.
    first, second = (jnp.any(jnp.all(flanks == start, -1), 1) for start in starts[:2])
    assert first.sum() == second.sum() == 1
    assert jnp.all(first != second)


def test_mass_outside_a_reference_is_what_walkers_found_there():
    evaluate = jax.value_and_grad(together((3.0, 0.5, 0.3), (-3.0, 0.5, 0.7)))
    wide, path = references.broad(jnp.zeros(DIM), jnp.full(DIM, 3.0), 2), GeometricPath()
    settings = WalkerSettings(walkers=512)
    run = jax.jit(jax.vmap(lambda key: run_walkers(key, evaluate, wide, path, settings)))
    walkers = run(jax.random.split(jax.random.key(0), 4))
    one = references.broad(jnp.full(DIM, -3.0), jnp.full(DIM, 0.5), 2)
    with_broad = references.add_component(one, 1, wide.means[0], wide.whiteners[0], jnp.asarray(0.05))
    # four populations of 512 know the smaller mode's mass to about a tenth
    assert float(jnp.exp(outside(walkers, path, with_broad))) == pytest.approx(0.3, rel=0.3)
