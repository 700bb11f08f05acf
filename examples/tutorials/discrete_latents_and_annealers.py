"""Discrete latents with an annealer, then on D-Wave's machine; cells begin with `# %%`.

python examples/tutorials/discrete_latents_and_annealers.py [--quick]
"""

# %% [markdown]
# # Discrete latents with an annealer, then on D-Wave
#
# Annealers find low energies, but the distribution of their reads is unknown. `AnnealerGibbs` uses
# differences of reads as collective moves. These are exact whatever that distribution is. This page does it
# first with an annealer of the package, and then with D-Wave's software.

# %%
import itertools
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC

from qdesampler import AnnealerGibbs
from qdesampler.backends import DimodBackend, SimulatedAnnealing

QUICK = "--quick" in sys.argv
DRAWS = 500 if QUICK else 2000

# %% [markdown]
# Which of six predictors belong in a regression? They come in pairs of near copies; the coefficients are
# integrated out, so that only the indicators are left. All 64 posterior probabilities can be enumerated.

# %%
rng = np.random.default_rng(0)
common = np.repeat(rng.normal(size=(40, 3)), 2, axis=1)
x = common + 0.2 * rng.normal(size=(40, 6))
y = x[:, 0] - x[:, 2] + 0.7 * rng.normal(size=40)


def log_evidence(gamma):
    """Of the regression with the predictors that `gamma` names; slab N(0, sigma^2), sigma integrated out."""
    gram = jnp.eye(6) + gamma[:, None] * (x.T @ x) * gamma
    fitted = (gamma * (x.T @ y)) @ jnp.linalg.solve(gram, gamma * (x.T @ y))
    return -jnp.linalg.slogdet(gram)[1] / 2 - 21 * jnp.log1p((y @ y - fitted) / 2)


def model():
    gamma = numpyro.sample("gamma", dist.Bernoulli(0.3).expand([6]).to_event(1))
    numpyro.factor("evidence", log_evidence(jnp.asarray(gamma, float)))


states = np.array(list(itertools.product([0.0, 1.0], repeat=6)), np.float32)
log_odds = float(np.log(0.3 / 0.7))
weights = jax.nn.softmax(jax.jit(jax.vmap(lambda g: log_evidence(g) + log_odds * g.sum()))(states))
exact = np.asarray(weights @ states)


def sample(backend):
    mcmc = MCMC(
        AnnealerGibbs(model, backend=backend, move="coset", pool_size=100),
        num_warmup=50,
        num_samples=DRAWS,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(1))
    return np.asarray(mcmc.get_samples()["gamma"]).mean(0)


# %% [markdown]
# For another annealer change this line.

# %%
backend = SimulatedAnnealing(num_sweeps=100)
print("exact              ", exact.round(3))
print("SimulatedAnnealing ", sample(backend).round(3))

# %% [markdown]
# ## The same on D-Wave
#
# With the extra `dwave` and a token where Ocean expects it (`dwave setup`), the line becomes
#
#     from dwave.system import DWaveSampler, EmbeddingComposite
#     backend = DimodBackend(EmbeddingComposite(DWaveSampler()), answer_mode="raw")
#
# Every call is one job on the machine, so the pool is filled before the chain starts and not during it.
# **The code below runs Ocean's mock of a machine**, without a network; its reads are those of simulated
# annealing. No run on a real machine has been made for this page. Ocean manages the credentials; nothing
# here reads them.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # from Ocean's dependencies
    from dwave.samplers import SimulatedAnnealingSampler
    from dwave.system import EmbeddingComposite
    from dwave.system.testing import MockDWaveSampler

machine = MockDWaveSampler(  # DWaveSampler() in real life
    topology_type="zephyr",
    topology_shape=[2, 4],
    exact_solver_cutoff=0,
    substitute_sampler=SimulatedAnnealingSampler(),
    substitute_kwargs={"beta_range": [0.1, 1.0], "num_sweeps": 100, "seed": 7},
)
embedder = EmbeddingComposite(machine, embedding_parameters={"random_seed": 1})
with DimodBackend(embedder, answer_mode="raw") as backend:
    print("D-Wave's stack     ", sample(backend).round(3))
    for record in backend.records:
        print(f"one job of {record['reads']} reads, chains broken {record['chain_break_fraction']:.1%}")

# %% [markdown]
# The reads of the machine are not draws from the posterior, and chains of qubits break. The draws are exact
# nevertheless; a poor annealer only lowers the acceptance. Before a long run call `diagnose_backend`, which
# reports what is wrong with the reads.
