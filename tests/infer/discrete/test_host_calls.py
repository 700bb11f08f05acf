"""Calls of an annealer on the host: one for a pool, none in a draw, whatever JAX wraps the draws in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import MCMC

from qdesampler.backends import Capabilities, IsingProblem, Samples
from qdesampler.backends.protocol import LocalBackend
from qdesampler.infer.discrete import kernel as annealer_kernel
from qdesampler.infer.discrete.kernel import AnnealerGibbs
from qdesampler.infer.discrete.moves import draw_moves
from tests.targets import NUM_BITS, bits

CHAINS, DRAWS, READS = 3, 4, 30
EVEN = IsingProblem.from_dense(np.zeros(NUM_BITS), np.zeros((NUM_BITS, NUM_BITS)))


class Host(LocalBackend):
    """Random reads, not to be traced; it counts its calls."""

    calls, capabilities = 0, Capabilities(law="unknown", jittable=False)

    def sample(self, problem, *, key, num_reads=1, beta=1.0, schedule=None, initial_states=None):
        assert not isinstance(problem.h, jax.core.Tracer)
        type(self).calls += 1
        shape = (num_reads, problem.num_variables)
        states = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), shape)
        return Samples(states, problem.energies(states))


@pytest.fixture
def kernel():
    """The surrogate is given, so that nothing else is compiled."""
    Host.calls = 0
    return AnnealerGibbs(bits, backend=Host(), move="mask", surrogate=EVEN, pool_size=READS, num_steps=1)


def calls_in_draws(kernel):
    """Draws under scan, and under cond inside vmap; the calls that the states report."""
    state = kernel.init(jax.random.split(jax.random.key(0), CHAINS), 0)

    def step(state, _=None):
        state = kernel.sample(state, (), {})
        return state, state.num_calls

    def sometimes(state, flag):
        return jax.lax.cond(flag, lambda s: step(s)[1], lambda s: 0 * s.num_calls, state)

    @jax.jit
    def run(state):
        state, calls = jax.lax.scan(step, state, length=DRAWS)
        shared = jax.tree.map(lambda _: None, state.adapt_state)
        axes = jax.tree.map(lambda _: 0, state)._replace(adapt_state=shared)
        return calls, jax.vmap(sometimes, in_axes=(axes, 0))(state, jnp.arange(CHAINS) % 2 == 0)

    return sum(int(np.sum(calls)) for calls in jax.block_until_ready(run(state)))


def test_one_call_fills_the_pool_and_draws_make_none(kernel):
    assert calls_in_draws(kernel) == Host.calls == 1


@pytest.mark.slow
def test_a_call_in_every_draw_is_seen(kernel, monkeypatch):
    def calling(key, *arguments):
        jax.debug.callback(lambda _: setattr(Host, "calls", Host.calls + 1), key)
        return draw_moves(key, *arguments)

    monkeypatch.setattr(annealer_kernel, "draw_moves", calling)
    reported = calls_in_draws(kernel)
    jax.effects_barrier()
    assert reported == 1
    assert Host.calls >= 1 + CHAINS * (DRAWS + 1)  # under vmap both branches of cond are computed


@pytest.mark.slow
def test_chains_one_after_another_have_a_pool_each(kernel):
    mcmc = MCMC(
        kernel, num_warmup=0, num_samples=5, num_chains=2, chain_method="sequential", progress_bar=False
    )
    mcmc.run(jax.random.key(0), extra_fields=("num_calls",))
    reported = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["num_calls"])
    assert Host.calls == 2
    np.testing.assert_array_equal(reported.sum(1), 1)
    assert not reported[:, 1:].any()
