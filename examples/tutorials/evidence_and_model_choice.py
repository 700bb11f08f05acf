"""Evidence and model choice; cells begin with `# %%`.

python examples/tutorials/evidence_and_model_choice.py [--quick]
"""

# %% [markdown]
# # Evidence and model choice
#
# Is the trend a line or a parabola? The evidence of a model is the probability of the data under it. It
# answers this question without held-out data. `AnnealedQDE` gives the evidence with an error, in addition
# to the draws.

# %%
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC

from qdesampler import AnnealedQDE, compare_evidence, log_evidence
from qdesampler.evidence import ladder_findings

QUICK = "--quick" in sys.argv
WARMUP, DRAWS = (100, 200) if QUICK else (300, 1000)

# %% [markdown]
# The models are polynomials with normal priors and known noise. Their evidence has a closed form, which
# serves as a check.

# %%
NOISE, PRIOR = 0.5, 2.0
rng = np.random.default_rng(3)
x = np.linspace(-1, 1, 25)
y = 0.5 + x + 0.8 * x**2 + NOISE * rng.normal(size=x.size)


def model(powers, y):
    weights = numpyro.sample("weights", dist.Normal(0, PRIOR).expand([powers.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(powers @ weights, NOISE), obs=y)


def exact(powers):
    """`y ~ N(0, NOISE^2 I + PRIOR^2 X X^T)`."""
    covariance = NOISE**2 * np.eye(y.size) + PRIOR**2 * powers @ powers.T
    law = dist.MultivariateNormal(jnp.zeros(y.size), jnp.asarray(covariance))
    return float(law.log_prob(jnp.asarray(y)))


# %% [markdown]
# Each model has one run on the same data. The evidence depends on the priors: a wider prior lowers it.

# %%
runs = {}
for degree, name in ((1, "line"), (2, "parabola"), (3, "cubic"))[: 2 if QUICK else 3]:
    powers = x[:, None] ** np.arange(degree + 1)
    mcmc = MCMC(
        AnnealedQDE(model),
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(degree), powers, y)
    value, error = log_evidence(mcmc)
    print(f"{name:9s} log evidence {value:.3f} +- {error:.3f}, closed form {exact(powers):.3f}")
    for finding in ladder_findings(mcmc):
        print(f"  {finding}")
    runs[name] = mcmc

# %% [markdown]
# `compare_evidence` computes Bayes factors, and probabilities of the models under equal prior odds.

# %%
for row in compare_evidence(runs):
    print(
        f"{row['model']:9s} log Bayes factor {row['log_bayes_factor']:7.3f} +- "
        f"{row['log_bayes_factor_error']:.3f}, probability {row['probability']:.3f}"
    )

# %% [markdown]
# A difference below about one nat does not decide between models. For a `potential_fn` in the place of a
# model the evidence is the integral of `exp(-potential_fn)`: constants that the potential leaves out are
# missing from the evidence.
