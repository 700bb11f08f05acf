"""AnnealerGibbs with the mock of a quantum annealer behind an embedding: exact, whatever the chains do."""

import itertools
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.backends import DimodBackend
from qdesampler.infer.discrete.kernel import AnnealerGibbs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # invalid escapes in docstrings of Ocean's dependencies
    from dwave.system import FixedEmbeddingComposite

pytestmark = pytest.mark.usefixtures("no_network")

LABELS = ["zeta", "b", "alpha", "d"]
BITS = np.array(list(itertools.product(range(2), repeat=4)))
TABLE = 1.5 * np.random.default_rng(4).normal(size=16)
LAW = np.exp(TABLE - np.log(np.exp(TABLE).sum()))


def rugged():
    """Four fair bits with a table of log densities: terms of all orders."""
    x = numpyro.sample("x", dist.Bernoulli(0.5).expand([4]).to_event(1))
    numpyro.factor("table", jnp.asarray(TABLE)[jnp.sum(x * jnp.array([8, 4, 2, 1]))])


@pytest.mark.slow
def test_the_enumerated_posterior_through_broken_chains(machine, embedding, run, assert_expectation):
    backend = DimodBackend(
        FixedEmbeddingComposite(machine, embedding),
        labels=LABELS,
        answer_mode="histogram",
        chain_strength=0.05,
    )
    mcmc = run(
        AnnealerGibbs(rugged, backend=backend, move="coset", pool_size=60),
        warmup=50,
        samples=1500,
    )
    x = mcmc.get_samples(group_by_chain=True)["x"].astype(int)
    i, j = np.triu_indices(4, 1)
    assert_expectation(x, LAW @ BITS)
    assert_expectation(x[..., i] * x[..., j], LAW @ (BITS[:, i] * BITS[:, j]))
    assert [record["reads"] for record in backend.records] == [60]  # one pool, no call in a chain
    assert backend.records[0]["chain_break_fraction"] > 0.2
    # the machine's own law is another: its reads are no draws from the posterior
    pool = np.asarray(mcmc.last_state.adapt_state.pool).reshape(-1, 4)[:60]
    far = np.abs(pool.mean(0) - LAW @ BITS) / np.sqrt(0.25 / 60)
    assert far.max() > 3
