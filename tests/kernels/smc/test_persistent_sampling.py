"""Persistent sampling: evidence, masses of modes, independent populations, and what stops it."""

import numpy as np
import pytest
from scipy.special import softmax

from qdesampler.kernels.references.path import DiffusionPath, GeometricPath
from qdesampler.kernels.references.reference import gaussian_reference
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings, anneal, resample
from qdesampler.numerics.log_sums import log_mean

WIDE = gaussian_reference(np.zeros(2), np.full(2, 4.0))
LEFT = 0.3  # mass of the left mode


def target(points):
    """Two unit Gaussians 8 apart, normalised, times `e^2`."""
    offsets = points[None] - np.array([[[-4.0, 0.0]], [[4.0, 0.0]]])
    parts = np.log([[LEFT], [1 - LEFT]]) - 0.5 * np.sum(offsets**2, 2) - np.log(2 * np.pi)
    share = softmax(parts, axis=0)
    return np.logaddexp(*parts) + 2, -np.sum(share[:, :, None] * offsets, 0)


@pytest.mark.parametrize("path", [GeometricPath(), DiffusionPath(4.0)], ids=["geometric", "diffusion"])
def test_particles_find_the_evidence_and_the_masses_of_two_modes(path):
    settings = ParticleSettings(num_particles=200, populations=8)
    found = anneal(np.random.default_rng(0), target, WIDE, path, settings)
    assert found.arrived
    values = np.exp(found.log_evidence - 2)
    shares = softmax(found.target_log_weights, axis=1)
    left = np.sum(shares * (found.particles.positions[:, 0].reshape(shares.shape) < 0), 1)
    for numbers, truth in ((values, 1.0), (left, LEFT)):
        error = numbers.std(ddof=1) / np.sqrt(8)
        assert error < 0.06
        assert abs(numbers.mean() - truth) < 4 * error


def test_stored_particles_serve_any_rung():
    found = anneal(np.random.default_rng(1), target, WIDE, GeometricPath(), ParticleSettings())
    # The reference is normalised, and half way its square root times that of the target.
    assert np.all(np.abs(log_mean(found.weights_on(np.array([1.0, 0.0])))) < 0.1)
    grid = np.stack(np.meshgrid(*[np.linspace(-14, 14, 281)] * 2), -1).reshape(-1, 2)
    log_q = -0.5 * np.sum(grid**2, 1) / 16 - np.log(2 * np.pi * 16)
    truth = np.log(np.sum(np.exp(0.5 * (log_q + target(grid)[0]))) * 0.1**2)
    assert abs(log_mean(found.weights_on(np.array([0.5, 0.5])).reshape(-1)) - truth) < 0.1


def test_a_reference_too_far_away_does_not_arrive():
    far = gaussian_reference(np.full(2, 1e4), np.full(2, 1e-2))
    found = anneal(np.random.default_rng(0), target, far, GeometricPath(), ParticleSettings(32, stages=4))
    assert not found.arrived
    assert len(found.betas) == 4


def test_particles_without_any_density_have_no_evidence():
    def nowhere(points):
        return np.full(len(points), np.nan), np.full_like(points, np.nan)

    found = anneal(np.random.default_rng(0), nowhere, WIDE, GeometricPath(), ParticleSettings(16, stages=3))
    assert np.all(found.log_evidence == -np.inf)


def test_resampling_is_proportional():
    weights = np.log([0.1, 0.0 + 1e-300, 0.6, 0.3])
    counts = np.bincount(resample(np.random.default_rng(0), weights, 1000), minlength=4)
    np.testing.assert_allclose(counts, [100, 0, 600, 300], atol=1)
    assert len(np.unique(resample(np.random.default_rng(0), np.full(8, -np.inf), 8))) == 8
