"""QDE on models of every kind that NumPyro can write: each starts, keeps its support, has the right means.

The tables are in `tests/support/kinds`. Means are closed forms, or sums of the density over a grid.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

from qdesampler.infer.qde.kernel import QDE
from tests.support.kinds.flows import FLOWS
from tests.support.kinds.handlers import HANDLERS
from tests.support.kinds.likelihoods import LIKELIHOODS
from tests.support.kinds.supports import SUPPORTS

KINDS = {**SUPPORTS, **LIKELIHOODS, **HANDLERS, **FLOWS}
CHAINS = 4
# One or two of each sort, the cheap ones; the slow suite has all.
FAST = (
    """
positive; interval; two bounds; half Cauchy; simplex at its corners; ordered; sum of zero; positive ordered;
absolute values of sum below one; circle across its cut; direction; Cholesky factor of a correlation;
moving bounds; a bound above; Gaussian by its factor; copula; relaxed coin; diffusion in time;
zeros inflated; multinomial on a simplex; mixture of two families; labels enumerated; censored on the right;
missing rows drawn; decentred; centred as learnt by a parameter; explicit map; wavelets; several at once;
mask of a law; condition; intervention; scopes; parameter lifted; module of arrays drawn one by one;
dict of arrays as data; site without entries; nested plates; rows fixed of a subsampled plate;
potential of a tree; scan, decentred; scan in a plate; random walk as a law; branch of sites; lax.cond;
forward algorithm by hand; two states, enumerated in a scan; custom_vjp
""".replace("\n", " ")
    .strip()
    .split("; ")
)


def drawn(run, name, **options):
    kind = KINDS[name]
    if kind.needs is not None and importlib.util.find_spec(kind.needs) is None:
        pytest.skip(f"{kind.needs} is not installed")
    if kind.init_params is None:
        return run(QDE(kind.model), *kind.args, **options).get_samples(group_by_chain=True)
    starts = jax.tree.map(lambda leaf: np.stack([leaf] * CHAINS), kind.init_params)
    return run(QDE(potential_fn=kind.model), init_params=starts, **options).get_samples(group_by_chain=True)


def supports_at(kind, sites):
    """Whether each value is in the support that its site has beside these values of the others."""
    model = numpyro.handlers.substitute(numpyro.handlers.seed(kind.model, 0), data=sites)
    trace = numpyro.handlers.trace(model).get_trace(*kind.args)
    return {
        name: trace[name]["fn"].support(value)
        for name, value in sites.items()
        if name in trace and trace[name]["type"] == "sample"
    }


def test_the_tables_have_no_name_twice():
    tables = (SUPPORTS, LIKELIHOODS, HANDLERS, FLOWS)
    assert len(KINDS) == sum(map(len, tables))
    assert len(KINDS) > 130


@pytest.mark.contract
@pytest.mark.parametrize("name", FAST)
def test_it_starts_and_keeps_the_support(run, name):
    kind = KINDS[name]
    samples = drawn(run, name, warmup=30, samples=20, chains=CHAINS)
    for leaf in jax.tree.leaves(samples):
        assert leaf.shape[:2] == (CHAINS, 20)
        assert np.all(np.isfinite(leaf))
    varied = [leaf for leaf in jax.tree.leaves(samples) if leaf.size]
    assert max(np.max(np.std(leaf, (0, 1))) for leaf in varied) > 0
    if kind.init_params is None and not kind.rounds:
        for chain in (0, CHAINS - 1):
            last = {site: jnp.asarray(values[chain, -1]) for site, values in samples.items()}
            inside = supports_at(kind, last)
            assert inside
            assert all(np.all(value) for value in inside.values()), inside


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Continuous inference poorly handles circular", "ignore:init_to_uniform")
@pytest.mark.parametrize("name", KINDS)
def test_its_means_are_right(run, assert_expectation, name):
    kind = KINDS[name]
    samples = drawn(run, name, warmup=300, samples=kind.num_samples, chains=CHAINS)
    for label, mean in kind.means().items():
        assert_expectation(kind.draws(samples, label), mean, standard_errors=4.0)
