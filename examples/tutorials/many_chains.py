"""Many chains on a GPU, small enough for a CPU; cells begin with `# %%`.

python examples/tutorials/many_chains.py [--quick]
"""

# %% [markdown]
# # Many chains on a GPU
#
# Vectorized chains of QDE do the same operations at the same time: a global move takes equally many
# evaluations in each chain, and no chain waits for a longer trajectory of another one. On a GPU many chains
# can therefore run side by side, and a few draws of each are enough. The code does not name the device: JAX
# takes the GPU if its GPU build is installed (`pip install 'jax[cuda13]'`), and else the CPU. This page has
# been run on CPUs only.

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
# The target is a normal distribution in 20 dimensions, with standard deviations from 0.1 to 10.

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
# One warm-up serves all chains. It is made before the first iteration, and its evaluations are divided
# among the chains. The more chains there are, the fewer evaluations of the warm-up each one counts.

# %% [markdown]
# To use several devices on a CPU, call `numpyro.set_host_device_count(n)` before JAX starts;
# `chain_method="parallel"` then runs one chain on each device. `Walkers` distributes its population over
# the devices of a `mesh`, and its results do not depend on their number.
