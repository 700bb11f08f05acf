"""Ladders leave the product of their rungs invariant; paths, references and sums are what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ks_2samp, kstest

from qdesampler.kernels.paths.path import DiffusionPath, GeometricPath, work
from qdesampler.kernels.paths.path_integral import PathIntegralPath, _bridge
from qdesampler.kernels.paths.replica import Rung, explore, make_replica
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.mixture_fit import fit_mixture, fit_product
from qdesampler.kernels.smc.persistent_sampling import (
    ParticleSettings,
    run_persistent_sampling,
    target_log_weights,
)
from qdesampler.kernels.smc.reference_fit import fit_reference, num_slots
from qdesampler.kernels.tempering.evidence_sums import BATCHES, add_iteration, empty_sums
from qdesampler.kernels.tempering.schedule import num_rungs_for, place_rungs
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


@pytest.mark.parametrize("path", [GeometricPath(), DiffusionPath(4.0)], ids=["geometric", "diffusion"])
def test_a_sweep_leaves_every_rung_invariant(path):
    assert min(rungs_after(path)) > 1e-3


def test_a_swap_with_one_sign_flipped_does_not():
    assert min(rungs_after(GeometricPath(), lambda up, down: up + down)) < 1e-9


def funnel_after(moves=12, **options):
    """Kolmogorov-Smirnov p-values of a two-dimensional funnel's coordinates, after local moves from it."""
    noise = np.random.default_rng(11).normal(size=(2 * LADDERS, 2))
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

    final = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(2), 2 * LADDERS), x))
    scaled = final[:, 1] * np.exp(-final[:, 0])
    return kstest(final[:, 0] / 1.5, "norm").pvalue, kstest(scaled, "norm").pvalue


def test_steps_that_follow_the_score_leave_a_funnel_invariant():
    assert min(funnel_after()) > 1e-3


def test_steps_that_follow_the_score_without_their_ratio_do_not():
    assert min(funnel_after(log_ratio=lambda step, there, here: jnp.zeros_like(step))) < 1e-9


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


def test_the_features_of_a_ring_have_these_gradients_and_its_slices_its_energy():
    path, dim = PathIntegralPath(slices=4, loose=2.0), 2
    scale = jnp.asarray([2.0, 0.5])
    reference = references.gaussian_reference(jnp.zeros(dim), scale, 2)
    evaluate = jax.value_and_grad(lambda x: -jnp.sum(x**4) + x[0] * x[1])
    position = jnp.asarray(np.random.default_rng(2).normal(size=8).astype(np.float32))
    features, gradients = path.features(position, evaluate, reference)
    numeric = jax.jacrev(lambda y: path.features(y, evaluate, reference)[0])(position)
    np.testing.assert_allclose(gradients, numeric, rtol=1e-3, atol=1e-3)
    points = position[:dim] / scale + _bridge(4) @ position[dim:].reshape(3, dim)
    ring = jnp.sum((points - jnp.roll(points, 1, axis=0)) ** 2)
    np.testing.assert_allclose(features[3], -0.5 * ring, rtol=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        PathIntegralPath(slices=1)
    with pytest.raises(ValueError, match="loose < stiff"):
        PathIntegralPath(loose=3.0, stiff=2.0)


def test_paths_lead_from_the_reference_to_the_target_and_diffusion_lowers_d():
    for path in (GeometricPath(), DiffusionPath(8.0, 0.4)):
        assert [float(c) for c in path.coefficients(jnp.asarray(0.0))] == [1, 0]
        assert [float(c) for c in path.coefficients(jnp.asarray(1.0))] == [0, 1]
    a, b = DiffusionPath(8.0, 0.4).coefficients(jnp.asarray(0.4))
    assert float(a) == 0
    np.testing.assert_allclose(float(b), 1 / 8, rtol=1e-6)
    with pytest.raises(ValueError, match="above 1"):
        DiffusionPath(0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        DiffusionPath(2.0, 1.0)


def test_work_is_zero_where_the_reference_alone_matters_and_the_target_vanishes():
    lower, upper = jnp.asarray([0.7, 0.0]), jnp.asarray([0.6, 0.0])
    np.testing.assert_allclose(work(lower, upper, jnp.asarray([-1.0, -jnp.inf])), 0.1, rtol=1e-5)


def test_a_fitted_mixture_is_normalised_and_is_drawn_from_exactly():
    key = jax.random.key(3)
    points = jnp.concatenate(
        [jax.random.normal(key, (300, 2)) * 0.5 + 3, jax.random.normal(key, (100, 2)) - 3]
    )
    mixture = fit_mixture(jax.random.key(4), points, 2)
    axis = jnp.linspace(-12, 12, 301)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = np.exp(np.asarray(jax.vmap(lambda x: references.log_density(mixture, x))(grid)))
    np.testing.assert_allclose(density.sum() * float(axis[1] - axis[0]) ** 2, 1, atol=2e-3)
    draws = jax.vmap(lambda k: references.draw(mixture, k))(jax.random.split(jax.random.key(5), 8000))
    share = float(jnp.mean(draws[:, 0] > 0))
    assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 8000) + 0.01
    np.testing.assert_allclose(jnp.mean(draws, 0), np.asarray(density @ grid / density.sum()), atol=0.2)


def test_a_fitted_product_is_normalised_drawn_from_exactly_and_holds_every_combination_of_modes():
    signs = np.random.default_rng(6).choice([-1.0, 1.0], (600, 3), p=[0.3, 0.7])
    points = jnp.asarray(2 * signs + 0.3 * np.random.default_rng(7).normal(size=signs.shape), float)
    wide = references.gaussian_reference(jnp.zeros(3), jnp.ones(3), 2)
    off = jnp.full(2, -jnp.inf)
    product = fit_product(jax.random.key(0), points)
    reference = wide._replace(log_weights=off, product_log_weight=jnp.zeros(()), product=product)
    axis = jnp.linspace(-4, 4, 81)
    grid = jnp.stack(jnp.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    density = np.exp(np.asarray(jax.vmap(lambda x: references.log_density(reference, x))(grid)))
    np.testing.assert_allclose(density.sum() * 0.1**3, 1, atol=2e-2)
    draws = jax.vmap(lambda k: references.draw(reference, k))(jax.random.split(jax.random.key(1), 4000))
    octants = np.asarray(draws > 0) @ np.array([1, 2, 4])
    expected = np.prod(np.where(np.array([[i >> k & 1 for k in range(3)] for i in range(8)]), 0.7, 0.3), 1)
    np.testing.assert_allclose(np.bincount(octants, minlength=8) / 4000, expected, atol=0.06)
    # A Gaussian beside it keeps the whole normalised.
    both = references.add_component(reference, 1, jnp.zeros(3), jnp.eye(3), jnp.asarray(0.25))
    weights = jnp.append(both.log_weights, both.product_log_weight)
    np.testing.assert_allclose(jax.nn.logsumexp(weights), 0, atol=1e-6)


def test_narrow_clusters_stay_narrow_beside_wide_ones():
    rng = np.random.default_rng(9)
    narrow, wide = 0.02 * rng.normal(size=(200, 6)), 5 + rng.normal(size=(200, 6))
    mixture = fit_mixture(jax.random.key(0), jnp.asarray(np.concatenate([narrow, wide]), float), 16)
    at = references.log_density(mixture, jnp.full(6, 0.01))
    truth = np.log(0.5) - 6 * np.log(0.02 * np.sqrt(2 * np.pi)) - 0.5 * 6 * 0.25
    assert abs(float(at) - truth) < 2


def test_rungs_split_a_known_barrier_evenly():
    betas = place_rungs(jnp.linspace(0, 1, 5), jnp.asarray([0.6, 0.2, 0.1, 0.1]), 5)
    # A quarter of the barrier of 1 each: the first at 0.25 / 0.6 of the first quarter.
    np.testing.assert_allclose(betas, [0, 0.25 / 0.6 / 4, 0.5 / 0.6 / 4, 0.25 + 0.15 / 0.2 / 4, 1], atol=2e-3)
    assert num_rungs_for(0.0, 40) == 3
    assert num_rungs_for(4.0, 40) == 10
    assert num_rungs_for(100.0, 40) == 40


def test_sums_merge_their_batches_and_lose_nothing():
    n, sums = 5 * BATCHES + 3, empty_sums(3)
    ups = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    centres = jnp.zeros(2)
    add = jax.jit(
        lambda s, up: add_iteration(
            s, centres, jnp.full(2, 0.5), up, -up, jnp.asarray([1, 0, -1]), jnp.asarray(1)
        )
    )
    for up in ups:
        sums = add(sums, jnp.asarray(up))
    assert int(sums.counts.sum()) == n
    assert int(sums.length) == 8
    assert int(sums.round_trips) == n
    np.testing.assert_allclose(sums.bridge[:, 0].sum(0), (1 / (1 + np.exp(-ups))).sum(0), rtol=1e-4)
    np.testing.assert_allclose(
        np.logaddexp.reduce(np.asarray(sums.stones), axis=0)[0], np.logaddexp.reduce(ups, axis=0), rtol=1e-4
    )
    np.testing.assert_allclose(sums.rejections, 0.5 * n, rtol=1e-5)


def test_particles_find_the_evidence_and_the_masses_of_two_modes():
    density, law = rung_law(
        GeometricPath(), references.gaussian_reference(jnp.zeros(1), jnp.full((1,), 3.0), 2), 1.0
    )
    truth, left = np.log(density.sum() * (GRID[1] - GRID[0])), np.interp(0, GRID, law)
    wide = references.gaussian_reference(jnp.zeros(1), jnp.full((1,), 4.0), num_slots(1))
    settings = ParticleSettings(num_particles=400, stages=24)

    def run(key):
        particles = run_persistent_sampling(
            key, jax.value_and_grad(log_target), wide, GeometricPath(), settings
        )
        weights = target_log_weights(particles, GeometricPath())
        log_z = jax.nn.logsumexp(weights) - jnp.log(particles.num_stages * 400)
        mass = jnp.sum(jax.nn.softmax(weights) * (particles.replicas.position[:, 0] < 0))
        return log_z, mass, particles.finished

    log_z, mass, finished = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 16))
    assert bool(jnp.all(finished))
    for values, expected in ((np.exp(np.asarray(log_z) - truth), 1.0), (np.asarray(mass), left)):
        assert values.std() < 0.15
        assert abs(values.mean() - expected) < 5 * values.std(ddof=1) / 4


@pytest.mark.slow
def test_a_spike_that_particles_cannot_see_is_found_by_descents():
    dim, width = 6, 0.02

    def spike(x):
        narrow = jnp.log(0.9) - 0.5 * jnp.sum((x / width) ** 2) - dim * jnp.log(width)
        return jnp.logaddexp(narrow, jnp.log(0.1) - 0.5 * jnp.sum(x**2))

    wide = references.gaussian_reference(jnp.zeros(dim), jnp.full((dim,), 3.0), num_slots(dim))
    evaluate = jax.value_and_grad(spike)

    def run(key):
        particles = run_persistent_sampling(
            key, evaluate, wide, GeometricPath(), ParticleSettings(num_particles=64, stages=24)
        )
        one = jax.tree.map(lambda leaf: leaf[None], particles)
        return fit_reference(key, one, evaluate, wide, GeometricPath())

    fit = jax.jit(run)(jax.random.key(0))
    assert abs(float(fit.missed_mass) - 0.9) < 0.1
    near = jnp.full(dim, 0.01)
    peak = -0.5 * dim * np.log(2 * np.pi) - dim * np.log(width) - 0.5 * 6 * 0.25
    assert float(references.log_density(fit.reference, near)) > peak - 1
