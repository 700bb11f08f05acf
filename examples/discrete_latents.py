"""Which predictors belong in a regression: discrete latents, sampled exactly with the help of an annealer.

Coefficients and variance of a spike-and-slab regression are integrated out, so that only the indicators of
inclusion are left. Predictors come in pairs of near copies. A move that changes one indicator hardly ever
exchanges such a pair. The kernel fits a quadratic surrogate to the log density, anneals it, and uses
differences of the reads as collective moves, which are exact whatever the reads are. With ten predictors all
1024 models can be enumerated, and the example compares with them.

    python examples/discrete_latents.py
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC

from qdesampler import AnnealerGibbs
from qdesampler.backends import SimulatedAnnealing

ROWS, PREDICTORS = 50, 10


def log_evidence(gamma, x, y):
    """Slab `beta ~ Normal(0, sigma)`, `sigma^2 ~ InverseGamma(1, 1)`: `y` has a Student t law given gamma."""
    factor = jnp.linalg.cholesky(jnp.eye(PREDICTORS) + gamma[:, None] * (x.T @ x) * gamma)
    fitted = jax.scipy.linalg.solve_triangular(factor, gamma * (x.T @ y), lower=True)
    residual = y @ y - fitted @ fitted
    return -jnp.sum(jnp.log(jnp.diagonal(factor))) - (1 + ROWS / 2) * jnp.log1p(residual / 2)


def model(x, y):
    gamma = numpyro.sample("gamma", dist.Bernoulli(0.2).expand([PREDICTORS]).to_event(1))
    numpyro.factor("evidence", log_evidence(jnp.asarray(gamma, float), x, y))
    numpyro.deterministic("size", jnp.sum(gamma))


def main():
    rng = np.random.default_rng(0)
    common = np.repeat(rng.normal(size=(ROWS, PREDICTORS // 2)), 2, axis=1)
    x = common + 0.15 * rng.normal(size=(ROWS, PREDICTORS))
    y = x[:, 0] - x[:, 2] + 0.5 * rng.normal(size=ROWS)

    kernel = AnnealerGibbs(model, backend=SimulatedAnnealing(num_sweeps=100), move="coset")
    mcmc = MCMC(
        kernel, num_warmup=100, num_samples=1000, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(0), x, y, extra_fields=("warmup_evals",))
    samples = mcmc.get_samples()

    gammas = np.array(list(itertools.product([0.0, 1.0], repeat=PREDICTORS)), np.float32)
    odds = float(np.log(0.2 / 0.8))
    values = jax.jit(jax.vmap(lambda g: log_evidence(g, x, y) + odds * jnp.sum(g)))(gammas)
    exact = jax.nn.softmax(values) @ gammas

    print("predictor   exact   AnnealerGibbs")
    for k, (truth, found) in enumerate(zip(exact, samples["gamma"].mean(0), strict=True)):
        print(f"x[{k}]       {truth:.3f}   {found:.3f}")
    print(f"mean size of the model: {samples['size'].mean():.2f}, exact {exact.sum():.2f}")
    counts = mcmc.get_extra_fields(group_by_chain=True)
    print(f"evaluations in the warm-up, surrogate included: {int(counts['warmup_evals'][:, -1].sum())}")
    print(f"evaluations for the draws: {int(counts['num_evals'].sum())}")


if __name__ == "__main__":
    main()
