"""The solve before particles: when one trial is the reference, and what speaks against it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.infer.annealed import pilot
from qdesampler.infer.annealed.pilot import solve_single_mode
from qdesampler.infer.annealed.reference_fit import KINDS
from qdesampler.kernels.references.reference import draws, gaussian_reference, log_density
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import identity
from qdesampler.solvers.gaussian.refine import measure
from tests.infer.annealed.mixtures import DIM, mixture

PRIOR = gaussian_reference(np.zeros(DIM), np.full(DIM, 3.0))


def found_in(target, dim=DIM, seed=0):
    prior = gaussian_reference(np.zeros(dim), np.full(dim, 3.0))
    return solve_single_mode(Evaluator(target, dim), prior, np.random.default_rng(seed))


@pytest.mark.parametrize("dim", [1, 5, 30])
def test_one_gaussian_is_its_own_reference(dim):
    def target(x):
        return -0.5 * jnp.sum(((x - 1) * jnp.linspace(1, 5, dim)) ** 2)

    found = found_in(jax.value_and_grad(target), dim)
    assert found is not None
    assert found.kind == KINDS["trial"]
    points = draws(found.reference, np.random.default_rng(1), 400)
    ratio = np.asarray(jax.vmap(target)(jnp.asarray(points))) - log_density(found.reference, points)
    assert np.mean(np.abs(ratio - np.median(ratio)) < 1) > 0.85  # the others are draws of the prior reference


@pytest.mark.parametrize(
    "parts",
    [
        [(2.5, 0.5, 0.3), (-2.5, 0.5, 0.7)],  # descents end elsewhere
        [(0.0, 0.02, 0.9), (0.0, 1.0, 0.1)],  # an end is higher than the trial allows
    ],
    ids=["two modes", "spike in slab"],
)
def test_more_than_one_mode_is_none(parts):
    for seed in range(3):
        assert found_in(mixture(*parts), seed=seed) is None


@pytest.mark.parametrize(("slab", "alone"), [(0.3, False), (0.0, True)])
def test_a_slab_around_a_solved_spike_has_mass_in_shells(slab, alone):
    target = mixture((0.0, 0.05, 1 - slab), (0.0, 1.0, slab)) if slab else mixture((0.0, 0.05, 1.0))
    evaluate = Evaluator(target, DIM)
    rng = np.random.default_rng(0)
    metric = identity(DIM, 0)._replace(scale=np.full(DIM, 0.05))
    found = measure(evaluate, host_trial(np.zeros(DIM), metric, 0.02), rng, 48, np.float32)
    assert found.certificate.acceptance > 0.7
    mass = pilot._mass_in_shells(evaluate, found, PRIOR, rng)
    assert (mass < pilot._NEGLIGIBLE) is alone
    if not alone:
        assert abs(mass - np.log(slab / (1 - slab))) < 2


def test_a_density_that_no_gaussian_fits_is_none():
    def banana(x):
        return -0.5 * x[0] ** 2 / 4 - 8 * (x[1] - x[0] ** 2) ** 2 - 0.5 * x[2] ** 2

    assert found_in(jax.value_and_grad(banana)) is None


def test_a_density_without_any_point_is_none():
    assert found_in(lambda x: (jnp.nan * x[0], jnp.nan * x)) is None
