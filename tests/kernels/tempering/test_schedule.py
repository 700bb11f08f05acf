"""Rungs at equal rejection rates, their number, and what particles predict of a ladder."""

import numpy as np

from qdesampler.kernels.references.path import GeometricPath
from qdesampler.kernels.references.reference import gaussian_reference, log_density
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings, anneal
from qdesampler.kernels.tempering.schedule import (
    log_normalisers_at,
    num_rungs_for,
    place_rungs,
    predicted_rejections,
    reference_acceptance,
)

PRIOR = gaussian_reference(np.zeros(2), np.ones(2))


def shifted(shift):
    return lambda x: (-0.5 * np.sum((x - shift) ** 2, 1) - np.log(2 * np.pi) + 1, shift - x)


def test_rungs_split_a_known_barrier_evenly():
    betas = place_rungs(np.linspace(0, 1, 5), np.asarray([0.6, 0.2, 0.1, 0.1]), 5)
    # A quarter of the barrier of 1 each: the first at 0.25 / 0.6 of the first quarter.
    np.testing.assert_allclose(betas, [0, 0.25 / 0.6 / 4, 0.5 / 0.6 / 4, 0.25 + 0.15 / 0.2 / 4, 1], atol=2e-3)
    assert num_rungs_for(0.0, 40) == 3
    assert num_rungs_for(4.0, 40) == 10
    assert num_rungs_for(100.0, 40) == 40


def test_fresh_draws_of_the_target_itself_are_all_accepted_and_of_a_shifted_one_few():
    rates = []
    for shift in (0.0, 2.0):
        rng, settings = np.random.default_rng(0), ParticleSettings(num_particles=64)
        found = anneal(rng, shifted(shift), PRIOR, GeometricPath(), settings)
        rates.append(reference_acceptance(rng, found, shifted(shift), PRIOR, 256))
    assert rates[0] > 0.999
    # The harmonic mean is below the mean, 2 Phi(-d / sqrt 2) for Gaussians d = 2 sqrt 2 apart.
    assert 0 < rates[1] < 0.0455


def test_rejections_and_normalisers_are_those_of_gaussians():
    rng = np.random.default_rng(1)
    found = anneal(rng, shifted(1.5), PRIOR, GeometricPath(), ParticleSettings())
    betas = np.array([0.0, 0.5, 1.0])
    log_q = log_density(PRIOR, found.particles.positions)
    # On a rung the mean is 1.5 beta, so that neighbours are d = 0.75 sqrt 2 apart: 1 - 2 Phi(-d / sqrt 2).
    rejections = predicted_rejections(rng, found, log_q, GeometricPath(), betas)
    np.testing.assert_allclose(rejections, 0.5467, atol=0.06)
    log_z = log_normalisers_at(found, log_q, GeometricPath(), betas)
    np.testing.assert_allclose(log_z, [0, 0.5 - 2 * 1.5**2 / 8, 1], atol=0.1)
