"""Many chains on a GPU, small enough for a CPU; cells begin with `# %%`.

python examples/tutorials/many_chains.py [--quick]
"""

# %% [markdown]
# # Many chains on a GPU
#
# All vectorized chains of QDE do the same thing at the same time: a global move costs each chain as many
# evaluations as every other, and no chain waits for the longest trajectory of a batch. On a GPU a
# thousand chains then take little longer than ten, and a few draws of each are enough. Nothing in the
# code names the device: JAX takes the GPU where its GPU build is installed (`pip install 'jax[cuda13]'`),
# else the CPU. This page has been run on CPUs only.

# %%
import sys
import time

import jax
import numpy as np
from numpyro.infer import MCMC

from qdesampler import QDE

QUICK = "--quick" in sys.argv
CHAINS, DRAWS = (64, 20) if QUICK else (1024, 50)
print(f"{jax.device_count()} device(s): {jax.devices()[0]}")

# %% [markdown]
# A normal law in 20 dimensions, standard deviations from 0.1 to 10.

# %%
SCALES = np.geomspace(0.1, 10, 20).astype(np.float32)


def potential(x):
    return ((x / SCALES) ** 2).sum() / 2


def run(chains):
    starts = jax.random.normal(jax.random.key(0), (chains, 20))
    mcmc = MCMC(
        QDE(potential_fn=potential),
        num_warmup=150,
        num_samples=DRAWS,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    began = time.perf_counter()
    mcmc.run(jax.random.key(1), init_params=starts, extra_fields=("warmup_evals",))
    draws = np.asarray(mcmc.get_samples())
    seconds = time.perf_counter() - began
    spread = np.abs(draws.std(0) / SCALES - 1).max()
    print(
        f"{chains:5d} chains x {DRAWS} draws: {seconds:.1f} s with compilation, "
        f"standard deviations within {spread:.1%}"
    )
    warmup = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["warmup_evals"])[:, -1]
    print(f"      warm-up: {warmup.mean():.0f} evaluations of each chain, {warmup.sum()} in all")


run(4)
run(CHAINS)

# %% [markdown]
# One warm-up serves all chains: it is made before the first iteration, and its evaluations are divided among
# the chains. After it each chain only leaves its start, so that each of many pays less.

# %% [markdown]
# Several devices: `numpyro.set_host_device_count(n)` before JAX starts makes CPUs of `n` cores into
# devices, and `chain_method="parallel"` gives one chain to each. `Walkers` spreads its population over the
# devices of a `mesh` by itself, with the same numbers on any of them.
