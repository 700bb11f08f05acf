"""QDE's iteration as a pure function: without NumPyro it solves, samples exactly, and counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size

from qdesampler.kernels.adaptation.imaginary_time import SOLVED
from qdesampler.kernels.adaptation.state import AdaptationSettings, start_adaptation
from qdesampler.kernels.adaptation.step import StepSettings, qde_step
from qdesampler.kernels.mcmc.integrators import DYNAMICS, INTEGRATORS
from qdesampler.kernels.mcmc.trajectory import TrajectoryState
from qdesampler.numerics.metric import identity_metric

WARM, DRAWS = 96, 800
MEAN, SD = np.array([1.0, -2.0]), np.array([0.1, 3.0])


def log_density(x):
    return -0.5 * jnp.sum(((x - MEAN) / SD) ** 2)


@pytest.mark.parametrize("chains", [None, 2], ids=["one chain", "a batch"])
def test_a_gaussian_is_solved_and_sampled(chains):
    evaluate = jax.value_and_grad(log_density)
    settings = AdaptationSettings(blocks=((0, 1),), block_rank=2, solve=True)
    start = jnp.full((1 if chains is None else chains, 2), 0.5)
    first = TrajectoryState(start, *jax.vmap(evaluate)(start))
    adaptation = start_adaptation(settings, identity_metric(2, 2), first, WARM)
    points = jax.tree.map(lambda leaf: leaf[0], first) if chains is None else first
    fixed = StepSettings(settings, DYNAMICS["canonical"], INTEGRATORS["leapfrog"])

    def one(carry, inputs):
        i, key = inputs
        key_shared, key_moves = jax.random.split(key)
        key_moves = key_moves if chains is None else jax.random.split(key_moves, chains)
        points, adaptation, info = qde_step(key_shared, key_moves, *carry, i, evaluate, fixed)
        return (points, adaptation), (points, info.num_evals)

    inputs = (jnp.arange(WARM + DRAWS), jax.random.split(jax.random.key(3), WARM + DRAWS))
    (_, adaptation), (path, evals) = jax.jit(lambda c: jax.lax.scan(one, c, inputs))((points, adaptation))
    assert int(adaptation.solve.outcome) == SOLVED
    assert float(adaptation.global_probability) > 0.3
    assert np.all(np.asarray(evals)[WARM:] >= 1)
    assert np.asarray(evals)[:WARM].sum() < 1000 * start.shape[0]
    np.testing.assert_allclose(
        path.log_density,
        jax.vmap(log_density)(path.position.reshape(-1, 2)).reshape(path.log_density.shape),
        rtol=1e-4,
        atol=1e-3,
    )
    draws = np.asarray(path.position)[WARM:].reshape(DRAWS, -1, 2)
    for column in range(2):
        values = (draws[:, :, column].T - MEAN[column]) / SD[column]
        for series, expected in ((values, 0), (values**2, 1)):
            ess = float(effective_sample_size(series))
            assert ess > 60
            assert abs(series.mean() - expected) < 5 * series.std() / np.sqrt(ess)
