"""Trajectories on a rung leave its density invariant, also with steps that follow the score."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import kstest

from qdesampler.kernels.paths.path import GeometricPath
from qdesampler.kernels.paths.replica import Rung, explore, make_replica
from qdesampler.kernels.references import reference as references
from qdesampler.numerics.metric import identity_metric

SAMPLES = 6000


def funnel_after(moves=12, **options):
    """Kolmogorov-Smirnov p-values of a two-dimensional funnel's coordinates, after local moves from it."""
    noise = np.random.default_rng(11).normal(size=(SAMPLES, 2))
    width = 1.5 * noise[:, 0]
    x = jnp.asarray(np.stack([width, np.exp(width) * noise[:, 1]], 1).astype(np.float32))

    def funnel(x):
        return -0.5 * (x[0] / 1.5) ** 2 - x[0] - 0.5 * (x[1] * jnp.exp(-x[0])) ** 2

    evaluate, path = jax.value_and_grad(funnel), GeometricPath()
    reference, end = (
        references.gaussian_reference(jnp.zeros(2), jnp.ones(2), 1),
        path.coefficients(jnp.asarray(1.0)),
    )
    rung = Rung(end, identity_metric(2, 0), jnp.asarray(0.6), jnp.asarray(0.5))
    settings = (evaluate, reference, path, rung, jnp.asarray(3))

    def run(key, x):
        def one(i, replica):
            return explore(jax.random.fold_in(key, i), replica, *settings, **options)[0]

        return jax.lax.fori_loop(0, moves, one, make_replica(x, evaluate, reference, path, end)).position

    final = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(2), SAMPLES), x))
    scaled = final[:, 1] * np.exp(-final[:, 0])
    return kstest(final[:, 0] / 1.5, "norm").pvalue, kstest(scaled, "norm").pvalue


def test_steps_that_follow_the_score_leave_a_funnel_invariant():
    assert min(funnel_after()) > 1e-3


def test_steps_that_follow_the_score_without_their_ratio_do_not():
    assert min(funnel_after(log_ratio=lambda step, there, here: jnp.zeros_like(step))) < 1e-9
