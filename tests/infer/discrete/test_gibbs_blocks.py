"""AnnealerGibbs on sites of several states, and as a block of Gibbs beside continuous sites."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS, Gibbs
from numpyro.infer.gibbs import discrete_latent_sites

from qdesampler.infer.discrete.kernel import AnnealerGibbs
from qdesampler.infer.discrete.pools import renew_pools
from qdesampler.infer.qde.kernel import QDE

COUPLING = np.random.default_rng(4).normal(size=(4, 4))


def states():
    """Sites of one, two, three and again three states, one of them counted from 2, one in a plate."""
    colour = numpyro.sample("colour", dist.Categorical(jnp.array([0.5, 0.2, 0.3])))
    numpyro.sample("only", dist.Categorical(jnp.ones(1)))
    flag = numpyro.sample("flag", dist.Bernoulli(0.3))
    with numpyro.plate("levels", 2):
        level = numpyro.sample("level", dist.DiscreteUniform(2, 4))
    x = jnp.array([colour, flag, level[0] - 2, level[1] - 2]).astype(float)
    numpyro.factor("pairs", x @ COUPLING @ x * 0.4 + jnp.where(x[0] * x[2] == 2, 1.5, 0.0))


def enumerated():
    x = np.array(list(itertools.product(range(3), range(2), range(3), range(3))), float)
    value = np.einsum("ri,ij,rj->r", x, COUPLING, x) * 0.4 + np.where(x[:, 0] * x[:, 2] == 2, 1.5, 0.0)
    value += np.log([0.5, 0.2, 0.3])[x[:, 0].astype(int)] + np.log([0.7, 0.3])[x[:, 1].astype(int)]
    law = np.exp(value - value.max())
    return x, law / law.sum()


@pytest.mark.parametrize(
    "options",
    [
        {"move": "mask"},
        pytest.param({"move": "coset", "taylor_order": 0}, marks=pytest.mark.slow),
        pytest.param({"move": "surrogate"}, marks=pytest.mark.slow),
        pytest.param({"move": "annealed"}, marks=pytest.mark.slow),
        pytest.param({"move": "local", "taylor_order": 1}, marks=pytest.mark.slow),
    ],
)
def test_sites_of_any_numbers_of_states(run, assert_expectation, options):
    mcmc = run(AnnealerGibbs(states, **options), warmup=50, samples=600)
    z = mcmc.get_samples(group_by_chain=True)
    assert np.all(np.asarray(z["only"]) == 0)
    assert set(np.unique(z["level"])) == {2, 3, 4}
    x, law = enumerated()
    columns = [z["colour"][..., None], z["flag"][..., None], z["level"] - 2]
    found = np.concatenate(columns, -1)
    for k in (1, 2):
        assert_expectation(found[..., [0, 2, 3]] == k, law @ (x[:, [0, 2, 3]] == k))
    assert_expectation(found[..., 1], law @ x[:, 1])
    assert_expectation(found[..., 0] * found[..., 2], law @ (x[:, 0] * x[:, 2]))


P = 3
X = np.random.default_rng(0).normal(size=(12, 1)) + 0.5 * np.random.default_rng(1).normal(size=(12, P))
Y = 0.6 * X[:, 0] + 0.8 * np.random.default_rng(2).normal(size=12)


def spike_and_slab(x, y):
    with numpyro.plate("predictors", P):
        gamma = numpyro.sample("gamma", dist.Bernoulli(0.4))
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    numpyro.deterministic("effect", gamma * beta)
    numpyro.sample("y", dist.Normal(x @ (gamma * beta), 0.8), obs=y)


def conjugate():
    """Inclusion probabilities and mean effects: given gamma the model is a Gaussian regression."""
    bits = np.array(list(itertools.product(range(2), repeat=P)))
    value, effect = [], []
    for g in bits:
        z = X * g
        cov = 0.64 * np.eye(12) + z @ z.T
        solved = np.linalg.solve(cov, Y)
        value.append(-np.linalg.slogdet(cov)[1] / 2 - Y @ solved / 2 + g.sum() * np.log(0.4 / 0.6))
        effect.append(z.T @ solved)
    law = np.exp(np.array(value) - max(value))
    law /= law.sum()
    return law @ bits, law @ np.array(effect)


@pytest.mark.parametrize(
    ("other", "chains", "method"),
    [
        ("nuts", 1, "sequential"),
        pytest.param("qde", 1, "sequential", marks=pytest.mark.slow),
        pytest.param("nuts", 3, jax.vmap, marks=pytest.mark.slow),
        pytest.param("nuts", 2, "sequential", marks=pytest.mark.slow),
    ],
)
def test_a_block_beside_continuous_sites(assert_expectation, other, chains, method):
    continuous = QDE(spike_and_slab, dense_mass=False, trajectory_length=1.7) if other == "qde" else None
    continuous = continuous or NUTS(spike_and_slab)
    kernel = Gibbs([(AnnealerGibbs(spike_and_slab), discrete_latent_sites), (continuous, None)])
    mcmc = MCMC(
        kernel, num_warmup=100, num_samples=1200 // chains, num_chains=chains, chain_method=method,
        progress_bar=False,
    )  # fmt: skip
    key = jax.random.key(0)
    mcmc.warmup(key, X, Y)
    before = mcmc.last_state.block_states[0].adapt_state.pool
    renew_pools(mcmc, key, X, Y)
    assert not np.array_equal(mcmc.post_warmup_state.block_states[0].adapt_state.pool, before)
    mcmc.run(key, X, Y, extra_fields=("block_states.0.num_evals",))
    z = mcmc.get_samples(group_by_chain=True)
    inclusion, effect = conjugate()
    assert_expectation(z["gamma"], inclusion)
    assert_expectation(z["effect"], effect)
    evals = mcmc.get_extra_fields(group_by_chain=True)["block_states.0.num_evals"]
    # given beta the model is quadratic: third differences, then all changes of one and two sites
    assert np.all(evals[:, 0] > 128 + 7)
    # a coset move and a local one; and the energy anew whenever the other block moved
    assert np.all((evals[:, 1:] >= 4) & (evals[:, 1:] <= 6))


def test_pools_are_renewed_after_a_warm_up_only():
    mcmc = MCMC(AnnealerGibbs(states, move="local"), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError, match="warmup"):
        renew_pools(mcmc, jax.random.key(0))
    other = MCMC(NUTS(spike_and_slab), num_warmup=1, num_samples=1, progress_bar=False)
    other.post_warmup_state = ()
    with pytest.raises(TypeError, match="NUTS"):
        renew_pools(other, jax.random.key(0), X, Y)
