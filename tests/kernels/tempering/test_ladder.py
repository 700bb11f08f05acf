"""Iterations of a frozen ladder leave the product of its rungs invariant; wrong swaps do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.path import DiffusionPath, GeometricPath
from qdesampler.kernels.tempering import ladder as moves
from qdesampler.kernels.tempering.evidence_sums import empty_sums
from qdesampler.kernels.tempering.ladder import FrozenLadder, Ladder, ladder_step
from qdesampler.kernels.tempering.swaps import Replicas, swap_log_ratio
from qdesampler.numerics.metric import identity_metric

GRID = np.linspace(-12, 12, 4001)
LADDERS, ITERATIONS = 4000, 8
BETAS = {4: np.array([0.0, 0.1, 0.35, 1.0]), 2: np.array([0.0, 1.0])}


def log_target(x):
    """Two unequal modes, unnormalised."""
    return jnp.logaddexp(-0.5 * ((x[0] - 2) / 0.5) ** 2, -1.0 - 0.5 * ((x[0] + 2) / 0.7) ** 2) + 1.5


REFERENCE = references.add_gaussian(
    references.gaussian_reference(np.zeros(1), np.full(1, 3.0)), np.array([2.0]), np.array([[1.5]]), 0.4
)


def frozen(path, rungs, **changes):
    betas = BETAS[rungs]
    metrics = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (rungs - 1, *leaf.shape)), identity_metric(1, 0)
    )
    found = FrozenLadder(
        reference=references.to_device(REFERENCE),
        betas=jnp.asarray(betas),
        coefficients=jnp.asarray(path.coefficients(betas)),
        centres=jnp.zeros(rungs - 1),
        metrics=metrics,
        step_sizes=jnp.full(rungs - 1, 0.5),
        num_steps=jnp.asarray(2),
        move_every=jnp.asarray(1),
    )
    return found._replace(**changes)


def rung_laws(path, rungs):
    log_q = references.log_density(REFERENCE, GRID[:, None])
    log_p = np.asarray(jax.vmap(log_target)(jnp.asarray(GRID)[:, None]), float)
    for of_q, of_p in path.coefficients(BETAS[rungs]):
        density = np.exp(of_q * log_q + of_p * log_p)
        yield np.cumsum(density) / density.sum()


def started(x, reference, rungs):
    evaluate = jax.value_and_grad(log_target)
    log_p, scores_p = jax.vmap(evaluate)(x)
    log_q, scores_q = references.value_and_score(reference, x)
    return Ladder(Replicas(x, log_q, scores_q, log_p, scores_p), jnp.zeros(rungs, int), empty_sums(rungs))


def run(path, rungs, log_ratio=swap_log_ratio, **changes):
    """Ladders after a few iterations from exact draws of the product."""
    ladder = frozen(path, rungs, **changes)
    unit = np.random.default_rng(5).uniform(size=(LADDERS, rungs))
    x = np.stack([np.interp(unit[:, k], law, GRID) for k, law in enumerate(rung_laws(path, rungs))], 1)

    def one(key, x):
        def body(i, state):
            key_step = jax.random.fold_in(key, i)
            step = ladder_step(
                key_step, state, ladder, jax.value_and_grad(log_target), i, log_ratio=log_ratio
            )
            return step[0]

        return jax.lax.fori_loop(0, ITERATIONS, body, started(x[:, None], ladder.reference, rungs))

    keys = jax.random.split(jax.random.key(1), LADDERS)
    return jax.jit(jax.vmap(one))(keys, jnp.asarray(x, jnp.result_type(float)))


def p_values(path, rungs, **options):
    """Kolmogorov-Smirnov p-values of every rung."""
    final = np.asarray(run(path, rungs, **options).replicas.positions)[..., 0]
    return [
        kstest(final[:, k], lambda v, law=law: np.interp(v, GRID, law)).pvalue
        for k, law in enumerate(rung_laws(path, rungs))
    ]


@pytest.mark.parametrize(
    ("path", "rungs"),
    [(GeometricPath(), 4), (GeometricPath(), 2), (DiffusionPath(4.0), 4)],
    ids=["geometric", "two rungs", "diffusion"],
)
def test_an_iteration_leaves_every_rung_invariant(path, rungs):
    assert min(p_values(path, rungs)) > 1e-3


def test_a_swap_with_one_sign_flipped_does_not():
    assert min(p_values(GeometricPath(), 4, log_ratio=lambda up, down: up + down)) < 1e-5


def test_trajectories_without_their_kinetic_energy_do_not(monkeypatch):
    whole = moves._finish

    def wrong(units, start, velocity, end, coefficients):
        return whole(units, start, velocity, end._replace(velocity=velocity), coefficients)

    monkeypatch.setattr(moves, "_finish", wrong)
    assert min(p_values(GeometricPath(), 4, step_sizes=jnp.full(3, 0.9))) < 1e-6


def test_what_an_iteration_reports():
    ladder = frozen(GeometricPath(), 4, move_every=jnp.asarray(3))
    start = started(jnp.asarray([[0.0], [0.5], [1.0], [2.0]]), ladder.reference, 4)
    step = jax.jit(
        lambda i, keeps, active: ladder_step(
            jax.random.key(0), start, ladder, jax.value_and_grad(log_target), i, keeps, active
        )
    )
    after, info = step(3, True, True)
    assert int(info.num_evals) == 3 * 2 + 1
    assert bool(info.moved)
    assert int(after.kept.counts.sum()) == 1
    np.testing.assert_allclose(
        after.replicas.log_p, jax.vmap(log_target)(after.replicas.positions), rtol=1e-5
    )
    assert list(np.asarray(after.directions))[::3] == [1, -1]
    # Between trajectories only the reference draws, and it is evaluated.
    after, info = step(4, False, True)
    assert int(info.num_evals) == 1
    assert float(info.accept_prob) == 1
    assert int(after.kept.counts.sum()) == 0
    np.testing.assert_allclose(after.replicas.log_p[0], log_target(after.replicas.positions[0]), rtol=1e-5)
    # At rest nothing changes and nothing is evaluated.
    after, info = step(0, False, False)
    assert int(info.num_evals) == 0
    for new, old in zip(jax.tree.leaves(after.replicas), jax.tree.leaves(start.replicas), strict=True):
        np.testing.assert_array_equal(new, old)
