"""When the posterior has many modes; cells begin with `# %%`.

python examples/tutorials/many_modes.py [--quick]
"""

# %% [markdown]
# # When the posterior has many modes
#
# A sampler that has found one mode does not show the others. This page shows how to notice that there are
# more, and which kernel to take then.

# %%
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler import MCMC, QDE, AnnealedQDE, diagnose, log_evidence
from qdesampler.evidence import ladder_findings, ladder_summary
from qdesampler.plots import plot_ladder

QUICK = "--quick" in sys.argv
WARMUP, DRAWS = (100, 300) if QUICK else (300, 1500)
OUT = Path("figures")

# %% [markdown]
# The target has two wells of unequal mass with a barrier of 9 nats between them. By quadrature, 15.57% of
# the mass lies at `x[0] < 0`, and the logarithm of the integral is 10.2935.

# %%
LEFT, LOG_Z = 0.155692903, 10.293479707


def potential(x):
    """`U = -log p` of one point, shape `(2,)`."""
    return x[0] ** 4 - 6 * x[0] ** 2 - x[0] / 2 + x[1] ** 2 / 2


def sampler(kernel):
    return MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )


# %% [markdown]
# QDE moves within the mode that its warm-up chose. In the first run the chains start far apart. The
# descents begin at the first four starts, and `diagnose` reports those that end in other modes. In the
# second run all chains start in one well, and no descent leaves it. `diagnose` finds the other well
# nevertheless, because it is nearly the mirror image of the first, and the density gives its mass. It does
# not report a mode that is no mirror image and that no descent finds.

# %%
APART = jnp.array([[3.0, 0.0], [-3.0, 1.0], [2.0, -1.0], [-2.0, 0.0]])
TOGETHER = jnp.array([[1.7, 0.0], [1.8, 1.0], [1.6, -1.0], [1.7, 0.5]])


def left(mcmc):
    return f"{100 * np.mean(np.asarray(mcmc.get_samples())[:, 0] < 0):.1f}% of the draws on the left"


local = sampler(QDE(potential_fn=potential))
for name, starts in (("apart", APART), ("together", TOGETHER)):
    local.run(jax.random.key(0), init_params=starts)
    print(f"QDE, chains started {name}: {left(local)}, exact {100 * LEFT:.1f}%")
    for finding in diagnose(local):
        print(f"- {finding}")

# %% [markdown]
# `AnnealedQDE` runs a ladder of replicas inside each chain, from a wide reference to the posterior. A
# replica that travels to the reference and back may return in any mode.

# %%
annealed = sampler(AnnealedQDE(potential_fn=potential))
annealed.run(jax.random.key(0), init_params=TOGETHER)
value, error = log_evidence(annealed)
print(f"AnnealedQDE: {left(annealed)}; log Z {value:.3f} +- {error:.3f}, exact {LOG_Z:.3f}")

# %% [markdown]
# Does the ladder join the reference and the posterior? All neighbours should swap at about the same rate,
# and replicas should make round trips. `ladder_findings` lists what speaks against it; an empty list is
# good.

# %%
seen = ladder_summary(annealed)
print(f"{seen.swap_rates.shape[1] + 1} rungs, least swap rate {seen.swap_rates.min():.2f}")
print(f"round trips of each chain: {seen.round_trips.astype(int).tolist()}")
print("findings:", [finding.message for finding in ladder_findings(annealed)])
OUT.mkdir(exist_ok=True)
plot_ladder(annealed).savefig(OUT / "many_modes.png", dpi=100)

# %% [markdown]
# Tempering fails where a narrow mode of large mass has hardly any mass on the rungs before the last (a
# spike in a slab). There AnnealedQDE depends on descents that find the mode. The measured page `evidence`
# has this case.
