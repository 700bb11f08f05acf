"""Sweeps of a ladder leave the product of their rungs invariant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ks_2samp, kstest

from qdesampler.kernels.paths.path import DiffusionPath, GeometricPath
from qdesampler.kernels.paths.path_integral import PathIntegralPath
from qdesampler.kernels.paths.replica import make_replica
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.tempering.swaps import Tempering, sweep
from qdesampler.numerics.metric import identity_metric

GRID = np.linspace(-12, 12, 4001)
LADDERS = 3000


def log_target(x):
    """Two unequal modes, unnormalised."""
    return jnp.logaddexp(-0.5 * ((x[0] - 2) / 0.5) ** 2, -1.0 - 0.5 * ((x[0] + 2) / 0.7) ** 2) + 1.5


def rung_law(path, reference, beta):
    a, b = np.asarray(path.coefficients(jnp.asarray(beta)))
    x = jnp.asarray(GRID)[:, None]
    log_q = jax.vmap(lambda y: references.log_density(reference, y))(x)
    density = np.exp(np.asarray(a * log_q + b * jax.vmap(log_target)(x), float))
    return density, np.cumsum(density) / density.sum()


def rungs_after(path, log_ratio=None, sweeps=6):
    """Kolmogorov-Smirnov p-values of every rung, after sweeps from exact draws of the product."""
    reference = references.gaussian_reference(jnp.zeros(1), jnp.full((1,), 3.0), 2)
    betas = jnp.asarray([0.0, 0.1, 0.35, 1.0])
    laws = [rung_law(path, reference, s)[1] for s in betas]
    unit = np.random.default_rng(5).uniform(size=(LADDERS, 4))
    x = np.stack([np.interp(unit[:, k], laws[k], GRID) for k in range(4)], 1)[..., None]
    coefficients = jax.vmap(path.coefficients)(betas)
    evaluate = jax.value_and_grad(log_target)
    metric = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *leaf.shape)), identity_metric(1, 0))
    options = {} if log_ratio is None else {"log_ratio": log_ratio}

    def run(key, x):
        replicas = jax.vmap(lambda y, c: make_replica(y, evaluate, reference, path, c))(x, coefficients)

        def one(i, replicas):
            steps, local = jnp.full(4, 0.5), jnp.asarray([0.0, 0.0, 0.8, 0.8])
            tempering = Tempering(reference, path, betas, metric, steps, local, jnp.asarray(2))
            return sweep(jax.random.fold_in(key, i), replicas, evaluate, tempering, i % 2, **options)[0]

        return jax.lax.fori_loop(0, sweeps, one, replicas).position[..., 0]

    keys = jax.random.split(jax.random.key(1), LADDERS)
    final = np.asarray(jax.jit(jax.vmap(run))(keys, jnp.asarray(x)))
    return [kstest(final[:, k], lambda v, law=laws[k]: np.interp(v, GRID, law)).pvalue for k in range(4)]


@pytest.mark.parametrize(
    "path",
    [GeometricPath(), pytest.param(DiffusionPath(4.0), marks=pytest.mark.slow)],
    ids=["geometric", "diffusion"],
)
def test_a_sweep_leaves_every_rung_invariant(path):
    assert min(rungs_after(path)) > 1e-3


def test_a_swap_with_one_sign_flipped_does_not():
    assert min(rungs_after(GeometricPath(), lambda up, down: up + down)) < 1e-9


def ring_draws(path, reference, beta, key, count):
    """Positions from a rung of the path integral, by importance resampling of a broad proposal."""
    n = 64 * count
    coefficients = path.coefficients(jnp.asarray(beta))
    key_first, key_ring = jax.random.split(key)
    first = 3.5 * jax.random.normal(key_first, (n, 1))
    ring = jax.random.normal(key_ring, (n, path.slices - 1)) / jnp.sqrt(coefficients[3])
    x = jnp.concatenate([first, ring], 1)
    placed = jax.vmap(
        lambda y: make_replica(y, jax.value_and_grad(log_target), reference, path, coefficients)
    )(x)
    log_proposal = -0.5 * (first[:, 0] / 3.5) ** 2 - 0.5 * coefficients[3] * jnp.sum(ring**2, 1)
    weights = np.exp(np.asarray(placed.log_density - log_proposal, float))
    return x[np.random.default_rng(3).choice(n, count, p=weights / weights.sum())]


@pytest.mark.slow
def test_a_sweep_leaves_the_rings_of_a_path_integral_invariant_and_its_end_is_the_target():
    path = PathIntegralPath(slices=3, loose=1.0, stiff=50.0)
    reference = references.gaussian_reference(jnp.zeros(1), jnp.full((1,), 3.0), 2)
    betas = jnp.asarray([0.0, 0.3, 0.7, 1.0])
    coefficients = jax.vmap(path.coefficients)(betas)
    keys = jax.random.split(jax.random.key(8), 4)
    x = jnp.stack([ring_draws(path, reference, s, k, LADDERS) for s, k in zip(betas, keys, strict=True)], 1)
    evaluate = jax.value_and_grad(log_target)
    metric = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *leaf.shape)), identity_metric(3, 0))

    def run(key, x):
        replicas = jax.vmap(lambda y, c: make_replica(y, evaluate, reference, path, c))(x, coefficients)

        def one(i, replicas):
            steps, local = jnp.asarray([0.4, 0.4, 0.2, 0.15]), jnp.asarray([0.0, 0.7, 0.0, 0.7])
            tempering = Tempering(reference, path, betas, metric, steps, local, jnp.asarray(2))
            return sweep(jax.random.fold_in(key, i), replicas, evaluate, tempering, i % 2)[0]

        return jax.lax.fori_loop(0, 6, one, replicas).position

    final = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(9), LADDERS), x))
    law = rung_law(GeometricPath(), reference, 1.0)[1]
    assert kstest(final[:, -1, 0], lambda v: np.interp(v, GRID, law)).pvalue > 1e-3
    assert kstest(final[:, 0, 0] / 3.0, "norm").pvalue > 1e-3
    for rung in range(4):
        for column in range(3):
            assert ks_2samp(final[:, rung, column], np.asarray(x)[:, rung, column]).pvalue > 1e-3
