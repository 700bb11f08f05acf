"""Dual averaging finds the step whose acceptance is the target, and can search for a start first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.mcmc.dual_averaging import start_averaging, update_averaging


def run(start, target, scale, search, count=300):
    """Acceptance exp(-(step / scale)^2): the target is met at scale * sqrt(-log target)."""

    def body(state, _):
        acceptance = jnp.exp(-((jnp.exp(state.log_step) / scale) ** 2))
        state = update_averaging(state, acceptance, target)
        return state, state.log_step

    return jax.lax.scan(body, start_averaging(start, search=search), None, count)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("search", [False, True])
def test_converges_to_the_target(scale, search):
    state, _ = run(1.0, 0.8, scale, search)
    expected = scale * np.sqrt(-np.log(0.8))
    assert float(jnp.exp(state.log_average)) == pytest.approx(expected, rel=0.15)


def test_search_doubles_or_halves_until_the_target_is_crossed():
    _, path = run(1.0, 0.8, 100.0, True, 10)
    np.testing.assert_allclose(np.exp(path[:6]), [2, 4, 8, 16, 32, 64], rtol=1e-5)
    _, path = run(1.0, 0.8, 0.05, True, 8)
    np.testing.assert_allclose(np.exp(path[:5]), [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32], rtol=1e-5)
