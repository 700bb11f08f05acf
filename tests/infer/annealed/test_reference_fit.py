"""Which reference held-out particles choose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.infer.annealed.reference_fit import KINDS, fit_reference
from qdesampler.kernels.references.path import GeometricPath
from qdesampler.kernels.references.reference import gaussian_reference, log_density
from qdesampler.kernels.smc.persistent_sampling import ParticleSettings, anneal
from qdesampler.numerics.evaluator import Evaluator


def gaussian(x):
    return -0.5 * jnp.sum((x - 1) ** 2 * jnp.array([1.0, 4.0, 9.0]))


def funnel(x):
    return -0.5 * x[0] ** 2 - jnp.sum(0.5 * x[1:] ** 2 * jnp.exp(-x[0]) + 0.5 * x[0])


def wells(x):
    """Eight modes."""
    return jnp.sum(jnp.logaddexp(-8 * (x - 1.5) ** 2, -8 * (x + 1.5) ** 2))


def two(x):
    return jnp.logaddexp(-2 * jnp.sum((x - 2) ** 2), -2 * jnp.sum((x + 2) ** 2))


def fitted(log_density_of, **options):
    evaluate = Evaluator(jax.value_and_grad(log_density_of), 3)
    prior = gaussian_reference(np.zeros(3), np.full(3, 2.5))
    rng = np.random.default_rng(0)
    found = anneal(rng, evaluate, prior, GeometricPath(), ParticleSettings())
    fit = fit_reference(rng, found, prior, evaluate, **options)
    particles = found.particles[rng.choice(len(found.particles.log_p), 2000)]
    return fit, particles, float(np.mean(found.log_evidence))


@pytest.mark.parametrize(
    ("target", "kinds"),
    [
        (gaussian, {1, KINDS["map"]}),
        (funnel, {KINDS["map"]}),
        (wells, {KINDS["product"], 16, 64}),
        (two, {16, 64}),
    ],
    ids=["gaussian", "funnel", "wells", "two"],
)
def test_the_kind_suits_the_target_and_covers_it(target, kinds):
    fit, particles, log_z = fitted(target)
    assert fit.kind in kinds
    assert fit.covers
    assert fit.missed_mass < 0.05
    # Where the target has its mass the reference has it too: the ratio is that of the evidence.
    ratio = particles.log_p - log_density(fit.reference, particles.positions) - log_z
    bulk = particles.log_p > np.quantile(particles.log_p, 0.5)
    assert np.median(np.abs(ratio[bulk])) < 0.7


def test_candidates_can_be_left_out():
    fit, _, _ = fitted(wells, without=("mixture", "product"))
    assert fit.kind in (0, 1, KINDS["map"])
    fit, _, _ = fitted(two, without=("mixture", "product"), search_modes=False)
    assert fit.kind in (0, 1, KINDS["map"])
    assert fit.missed_mass == 0
