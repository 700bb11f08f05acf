"""What descents say beside particles: the modes that these missed, and where to look for more."""

import numpy as np
import pytest

from qdesampler.infer.annealed.mode_search import descend_from, distinct_modes, starts_from_low_weights
from qdesampler.kernels.references.path import GeometricPath
from qdesampler.kernels.references.reference import add_gaussian, gaussian_reference, log_density
from qdesampler.kernels.smc.particles import evaluated
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings, anneal
from qdesampler.numerics.evaluator import Evaluator
from tests.infer.annealed.mixtures import DIM, mixture

TARGETS = {
    "one": mixture((1.0, 0.5, 1.0)),
    "two": mixture((3.0, 0.5, 0.3), (-3.0, 0.5, 0.7)),
    "next to nothing": mixture((3.0, 0.5, 1e-5), (-3.0, 0.5, 1.0)),
    "spike in slab": mixture((0.0, 0.02, 0.9), (0.0, 1.0, 0.1)),
}


def seen_at(centre, scale):
    """Particles of a population that knows one Gaussian only."""
    law = gaussian_reference(np.full(DIM, centre), np.full(DIM, scale))
    known = Evaluator(mixture((centre, scale, 1.0)), DIM)
    settings = ParticleSettings(num_particles=64)
    return anneal(np.random.default_rng(0), known, law, GeometricPath(), settings)


def search(name, centre, scale):
    """Descents from starts all over, beside particles that saw only one Gaussian."""
    annealed = seen_at(centre, scale)
    starts = 4 * np.random.default_rng(1).normal(size=(16, DIM))
    evaluate = Evaluator(TARGETS[name], DIM)
    found = descend_from(starts, annealed, 0.0, annealed.particles.positions, evaluate)
    assert evaluate.num_evals > 16
    return found


@pytest.mark.parametrize(
    ("name", "centre", "scale", "mass"),
    [
        ("one", 1.0, 0.5, 0.0),
        ("two", 3.0, 0.5, 0.7 / 1.7),  # log Z is given as 0: sigmoid(log 0.7)
        ("next to nothing", -3.0, 0.5, 0.0),
        ("spike in slab", 0.0, 1.0, 0.9 / 1.9),
    ],
)
def test_the_mass_of_what_particles_missed(name, centre, scale, mass):
    np.testing.assert_allclose(search(name, centre, scale).missed_mass, mass, atol=0.02)


def test_the_mean_and_the_curvature_are_those_of_the_missed_mode():
    [(mode, _)] = search("two", 3.0, 0.5).missed
    np.testing.assert_allclose(mode.position, -3, atol=0.05)
    np.testing.assert_allclose(mode.whitener.T @ mode.whitener, np.eye(DIM) / 0.25, atol=0.1)
    assert abs(mode.log_mass - np.log(0.7)) < 0.02


def test_every_missed_mode_is_reported_once():
    evaluate = Evaluator(mixture((-3.0, 0.5, 0.5), (3.0, 0.5, 0.3), (12.0, 0.5, 0.2)), DIM)
    annealed = seen_at(-3.0, 0.5)
    starts = np.array([-3.0, 3, 12, 12, 3, 12])[:, None] + 0.1 * np.arange(6)[:, None] * np.ones(DIM)
    found = descend_from(starts, annealed, np.log(0.5), annealed.particles.positions, evaluate)
    positions = [mode.position[0] for mode, _ in found.missed]
    np.testing.assert_allclose(positions, [3, 12], atol=0.05)  # the larger one first
    np.testing.assert_allclose([mass for _, mass in found.missed], [0.3 / 0.8, 0.2 / 0.7], atol=0.01)
    np.testing.assert_allclose(found.missed_mass, 1 - (1 - 0.3 / 0.8) * (1 - 0.2 / 0.7), atol=0.01)


def test_an_end_without_curvature_is_no_mode():
    flat = Evaluator(lambda x: (-0.5 * x[0] ** 2, -x * np.array([1.0, 0, 0])), DIM)
    [mode] = distinct_modes(np.zeros((1, DIM)), flat, np.ones(DIM))
    assert mode.whitener is None
    assert mode.log_mass == -np.inf


def test_descents_start_beside_the_modes_that_the_reference_lacks():
    # 5 to 7 standard deviations from two modes, where a particle has no weight; one mode is known.
    evaluate = Evaluator(mixture((3.0, 0.5, 0.3), (-3.0, 0.5, 0.5), (12.0, 0.5, 0.2)), DIM)
    away = np.random.default_rng(0).normal(size=(200, DIM))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    known = -3 + 0.5 * np.linspace(0, 2, 200)[:, None] * away
    off = 0.5 * np.linspace(5, 7, 5)[:, None] * away[:5]
    beside = np.stack([3 + off, 12 + off])
    prior = gaussian_reference(np.zeros(DIM), np.full(DIM, 6.0))
    reference = gaussian_reference(np.full(DIM, -3.0), np.full(DIM, 0.5))
    reference = add_gaussian(reference, prior.means[0], prior.whiteners[0], 0.05)
    particles = evaluated(np.concatenate([known, *beside]), evaluate, reference)
    # By the density alone `p/q` is not even large there.
    assert np.all(particles.log_p[200:205] < log_density(reference, beside[0]))
    starts = starts_from_low_weights(reference, particles, 0.0)
    # One start for each of them: the Gaussian that the first one predicts covers the other four.
    first, second = (np.any(np.all(np.isclose(beside, start), -1), 1) for start in starts[:2])
    assert first.sum() == second.sum() == 1
    assert np.all(first != second)
