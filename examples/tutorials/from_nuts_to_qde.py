"""From NUTS to QDE in one word; cells begin with `# %%`.

python examples/tutorials/from_nuts_to_qde.py [--quick]
"""

# %% [markdown]
# # From NUTS to QDE in one word
#
# You have a NumPyro model and sample it with NUTS. `QDE` takes the place and the arguments of NUTS: one
# word changes. This page runs both on the same model and counts the evaluations of each, warm-up included.

# %%
import sys

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS

from qdesampler import QDE, diagnose, summary, to_datatree

QUICK = "--quick" in sys.argv
WARMUP, DRAWS = (150, 250) if QUICK else (500, 1000)

# %% [markdown]
# The model is a regression with two predictors that are nearly the same. This makes the posterior long and
# narrow.

# %%
rng = np.random.default_rng(0)
first = rng.normal(size=60)
x = np.stack([first, first + 0.05 * rng.normal(size=60)], axis=1)
y = x @ [1.0, 0.5] + 0.3 * rng.normal(size=60)


def model(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(0, 10).expand([2]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(x @ slopes, noise), obs=y)


# %% [markdown]
# First NUTS. It does not count its evaluations during the warm-up, so we collect the warm-up and add up
# `num_steps`. Draws of QDE have `num_evals`. One evaluation is one log density with its gradient.


# %%
def run(kernel, field):
    mcmc = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.warmup(jax.random.key(0), x, y, collect_warmup=True, extra_fields=(field,))
    warmup = int(np.sum(mcmc.get_extra_fields()[field]))
    mcmc.run(jax.random.key(1), x, y, extra_fields=(field,))
    draws = int(np.sum(mcmc.get_extra_fields()[field]))
    ess = effective_sample_size(np.asarray(mcmc.get_samples(group_by_chain=True)["slopes"])).min()
    return mcmc, f"{warmup:7d} evaluations in the warm-up, {draws:7d} for {ess:.0f} effective draws"


nuts, nuts_cost = run(NUTS(model), "num_steps")

# %% [markdown]
# Now QDE. It adapts once for all chains, before the first iteration. The evaluations of this are counted in
# the first draw of the warm-up.

# %%
qde, qde_cost = run(QDE(model), "num_evals")

# %% [markdown]
# Both find the same posterior. These are their evaluations:

# %%
for name, mcmc, cost in (("NUTS", nuts, nuts_cost), ("QDE", qde, qde_cost)):
    slopes = np.asarray(mcmc.get_samples()["slopes"])
    print(f"{name:4s} slopes {slopes.mean(0).round(2)}, sd {slopes.std(0).round(2)}: {cost}")

# %% [markdown]
# After that, work with ArviZ. `diagnose` says what speaks against the draws, with advice; here nothing
# should.

# %%
tree = to_datatree(qde)
print(summary(tree))
print(diagnose(tree).verdict)

# %% [markdown]
# Where QDE's trial state does not fit, QDE is a local sampler like others. The page *How to choose* has
# measurements, the unfavourable ones included.
