"""Batches of sums merge without loss."""

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.kernels.tempering.evidence_sums import BATCHES, add_iteration, empty_sums


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
