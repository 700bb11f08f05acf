"""Trajectories of particles leave every rung invariant."""

import numpy as np
import pytest
from scipy.stats import kstest

from qdesampler.kernels.references.path import GeometricPath
from qdesampler.kernels.references.reference import gaussian_reference, log_density
from qdesampler.kernels.smc import particles as host
from qdesampler.kernels.smc.particles import Rung, evaluated, move
from qdesampler.numerics.numpy_metric import identity

GRID = np.linspace(-12, 12, 4001)
REFERENCE = gaussian_reference(np.zeros(1), np.full(1, 3.0))
BETAS = np.array([0.3, 1.0])
ROWS = 2000


def target(points):
    """Two unequal modes, unnormalised."""
    x = points[:, 0]
    right, left = -0.5 * ((x - 2) / 0.5) ** 2, -1 - 0.5 * ((x + 2) / 0.7) ** 2
    value = np.logaddexp(right, left)
    score = np.exp(right - value) * (2 - x) / 0.25 + np.exp(left - value) * (-2 - x) / 0.49
    return value + 1.5, score[:, None]


def law_of(coefficients):
    log_q = log_density(REFERENCE, GRID[:, None])
    density = np.exp(coefficients[0] * log_q + coefficients[1] * target(GRID[:, None])[0])
    return np.cumsum(density) / density.sum()


def p_values(local_scale):
    rng = np.random.default_rng(3)
    coefficients = GeometricPath().coefficients(BETAS)
    laws = [law_of(rung) for rung in coefficients]
    start = np.concatenate([np.interp(rng.uniform(size=ROWS), law, GRID) for law in laws])[:, None]
    particles = evaluated(start, target, REFERENCE)
    rungs = [Rung(rung, identity(1, 0), 0.8, local_scale) for rung in coefficients]
    for _ in range(5):
        particles, probs = move(rng, particles, rungs, 2, target, REFERENCE)
    assert 0.2 < probs.mean() < 0.99  # else nothing is tested
    parts = particles.positions[:, 0].reshape(2, ROWS)
    return [
        kstest(part, lambda x, law=law: np.interp(x, GRID, law)).pvalue
        for part, law in zip(parts, laws, strict=True)
    ]


def test_moves_leave_every_rung_invariant():
    assert min(p_values(0.0)) > 1e-3


def test_steps_that_follow_the_score_do_too():
    assert min(p_values(0.8)) > 1e-3


@pytest.mark.parametrize(("factors", "exact"), [((1.0, 0.3), True), ((0.3, 1.0), False)])
def test_a_wrong_force_is_paid_for_and_a_wrong_energy_is_not(monkeypatch, factors, exact):
    whole = host.rung_density

    def wrong(particles, coefficients):
        value, score = whole(particles, coefficients)
        return factors[0] * value, factors[1] * score

    monkeypatch.setattr(host, "rung_density", wrong)
    p_value = min(p_values(0.0))
    assert p_value > 1e-3 if exact else p_value < 1e-6


def test_without_the_ratio_of_their_proposals_local_steps_are_wrong(monkeypatch):
    monkeypatch.setattr(host, "log_scales", lambda forces: -np.abs(forces[:, 0]))
    assert min(p_values(0.8)) > 1e-3
    scales = iter([host.log_scales, lambda forces: np.zeros(len(forces))] * 5)
    monkeypatch.setattr(host, "log_scales", lambda forces: next(scales)(forces))
    assert min(p_values(0.8)) < 1e-6


def test_points_without_density_are_left():
    rng = np.random.default_rng(0)

    def half(points):
        inside = points[:, 0] > 0
        return np.where(inside, -0.5 * points[:, 0] ** 2, np.nan), -points

    start = evaluated(np.abs(rng.normal(size=(400, 1))), half, REFERENCE)
    rung = Rung(np.array([0.0, 1.0]), identity(1, 0), 1.0)
    moved, _ = move(rng, start, [rung], 1, half, REFERENCE)
    assert np.all(moved.positions > 0)
    assert np.all(np.isfinite(moved.log_p))
    assert np.any(moved.positions != start.positions)


@pytest.mark.parametrize("steps", [1, 3])
def test_rungs_side_by_side_are_moved_as_alone(steps):
    coefficients = GeometricPath().coefficients(BETAS)
    start = evaluated(np.random.default_rng(1).normal(size=(8, 1)), target, REFERENCE)
    rungs = [Rung(rung, identity(1, 0), 0.1) for rung in coefficients]
    moved, probs = move(np.random.default_rng(2), start, rungs, steps, target, REFERENCE)
    assert np.all(probs > 0.95)
    np.testing.assert_allclose(moved.log_p, target(moved.positions)[0])
    np.testing.assert_allclose(moved.log_q, log_density(REFERENCE, moved.positions))
