"""The warm-up of a ladder: equal swap rates, step sizes at the target, constants near the truth."""

import numpy as np
import pytest
from scipy.special import softmax

from qdesampler.kernels.references.path import GeometricPath
from qdesampler.kernels.references.reference import gaussian_reference
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings, anneal
from qdesampler.kernels.tempering.host_ladder import (
    STARTS,
    LadderSettings,
    trajectory_steps,
    tune_ladder,
)

PRIOR = gaussian_reference(np.zeros(2), np.full(2, 4.0))


def target(points):
    """Two Gaussians of width 0.5, normalised, times `e^2`."""
    offsets = points[None] - np.array([[[-4.0, 0.0]], [[4.0, 0.0]]])
    parts = np.log([[0.3], [0.7]]) - 2 * np.sum(offsets**2, 2) - np.log(2 * np.pi * 0.25)
    share = softmax(parts, axis=0)
    return np.logaddexp(*parts) + 2, -4 * np.sum(share[:, :, None] * offsets, 0)


@pytest.fixture(scope="module")
def tuned():
    rng = np.random.default_rng(0)
    found = anneal(rng, target, PRIOR, GeometricPath(), ParticleSettings())
    uneven = np.array([0.0, 0.5, 0.6, 0.7, 1.0])
    settings = LadderSettings(400, 16, 0.8)
    return tune_ladder(rng, found, PRIOR, GeometricPath(), uneven, target, settings, 0.0)


def test_all_pairs_swap_at_the_same_rate(tuned):
    assert tuned.betas[0] == 0
    assert tuned.betas[-1] == 1
    assert np.all(np.diff(tuned.betas) > 0)
    assert np.ptp(tuned.rejections) < 0.2  # of the rungs at the beginning 0.85
    assert np.mean(tuned.rejections) > 0.2


def test_the_constants_sum_to_the_evidence(tuned):
    assert abs(np.sum(tuned.centres) - 2) < 0.15


def test_the_target_has_the_starts_of_both_modes(tuned):
    last = tuned.starts.positions.reshape(5, STARTS, 2)[-1]
    np.testing.assert_allclose(np.abs(last[:, 0]), 4, atol=2.5)
    assert 2 <= np.sum(last[:, 0] < 0) <= STARTS - 2
    np.testing.assert_allclose(tuned.starts.log_p, target(tuned.starts.positions)[0], rtol=1e-9)


def test_two_rungs_that_swap_often_need_few_trajectories():
    assert trajectory_steps([0.5], 16, 0.2) == (3, 1)
    assert trajectory_steps([0.5], 16, 0.75) == (3, 4)
    assert trajectory_steps([0.5], 16, 0.9) == (1, 4)
    assert trajectory_steps([0.1, 0.1], 16, 0.9) == (4, 1)
