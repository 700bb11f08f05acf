"""The gap of the Boltzmann Hamiltonian is the rate at which Langevin dynamics forgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import SpectralGrid, ground_state

DIFFUSION = 0.7
BLOCKS = 40
EARLY, LATE = 0.5, 1.5  # by EARLY the next odd state, 10 times faster, is gone


def _log_p(x):
    return -1.5 * (x @ x - 1) ** 2


def _correlations(start, key, step, noise_scale):
    """Return `f(x_0) f(x_tau)` at EARLY and LATE, `f(x) = tanh 2x`, by Euler steps `step` and `2 step`."""
    force = jax.vmap(jax.grad(_log_p))

    def move(x, dt, noise):
        return x + DIFFUSION * force(x) * dt + noise_scale * noise

    def pair(carry, key):  # the coarse path is driven by the same noise
        fine, coarse = carry
        first, second = jnp.sqrt(step) * jax.random.normal(key, (2, *fine.shape))
        fine = move(move(fine, step, first), step, second)
        return (fine, move(coarse, 2 * step, first + second)), None

    def advance(state, key, time):
        return jax.lax.scan(pair, state, jax.random.split(key, round(time / (2 * step))))[0]

    def observe(state):
        return [jnp.tanh(2 * x[:, 0]) * jnp.tanh(2 * start[:, 0]) for x in state]

    early = advance((start, start), key, EARLY)
    late = advance(early, jax.random.fold_in(key, 1), LATE - EARLY)
    return jnp.array([observe(early), observe(late)])  # (time, path, walker)


def _relaxation_rate(state, walkers, noise_scale):
    """Return the rate, its bias of first order in the step taken out, and its jackknife standard error."""
    start = state.sample(jax.random.key(1), (walkers,))
    products = jax.jit(lambda s: _correlations(s, jax.random.key(2), 0.005, noise_scale))(start)
    blocks = np.asarray(products, np.float64).reshape(2, 2, BLOCKS, -1).mean(axis=-1)

    def rate(mean):
        fine, coarse = np.log(mean[0] / mean[1]) / (LATE - EARLY)
        return 2 * fine - coarse

    left_out = (blocks.sum(axis=-1, keepdims=True) - blocks) / (BLOCKS - 1)
    rates = np.array([rate(left_out[..., b]) for b in range(BLOCKS)])
    return rate(blocks.mean(axis=-1)), np.sqrt((BLOCKS - 1) * rates.var())


@pytest.mark.parametrize(
    ("walkers", "precision"), [(40_000, 0.03), pytest.param(1_600_000, 0.005, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_gap_is_the_measured_relaxation_rate(walkers, precision):
    hamiltonian = Hamiltonian.from_log_density(_log_p, dim=1, diffusion=DIFFUSION)
    state = ground_state(hamiltonian, SpectralGrid(bounds=(-2.8, 2.8), points=96))
    gap = float(state.gap)
    rate, error = _relaxation_rate(state, walkers, np.sqrt(2 * DIFFUSION))
    assert error < precision * gap  # sharp enough to tell
    assert abs(rate - gap) < 3 * error
    # Wrong twin: noise of half the variance, as if drift were D grad log psi and not 2 D grad log psi.
    rate, error = _relaxation_rate(state, walkers, np.sqrt(DIFFUSION))
    assert abs(rate - gap) > 6 * error
