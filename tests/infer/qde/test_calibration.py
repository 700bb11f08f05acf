"""Simulation-based calibration: the rank of the true parameter among draws of its posterior is uniform.

Parameters are drawn from the prior and data from the parameters; each data set gets its own warm-up and
chain. (Talts et al. 2018; thinned draws, chi square over the ranks.) The
twin whose global moves take the density of the trial at the chain with the wrong sign must fail.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from qdesampler.infer import QDE
from qdesampler.kernels.mcmc import mixture
from qdesampler.numerics.trial import log_whitened, whitened_candidate

REPLICATIONS = 240
WARMUP, KEPT, THINNING = 150, 19, 15  # 19 draws: 20 ranks, in 10 bins of 24 replications each
LEVEL = 1e-3  # over all parameters of one model
DESIGN = jnp.asarray(np.random.default_rng(3).normal(size=(40, 8)), jnp.float32)


def normal_normal():
    """Three parameters: a mean and two effects around it, three observations of each effect.

    The posterior is Gaussian.
    """

    def prior(key):
        mu, first, second = jax.random.normal(key, (3,))
        return jnp.stack([mu, mu + 0.5 * first, mu + 0.5 * second])

    def data(key, z):
        return z[1:, None] + jax.random.normal(key, (2, 3))

    def potential(z, y):
        effects = jnp.sum((z[1:] - z[0]) ** 2) / 0.5**2
        return 0.5 * (z[0] ** 2 + effects + jnp.sum((y - z[1:, None]) ** 2))

    return prior, data, potential


def logistic():
    """Eight coefficients of a logistic regression of 40 observations: skewed posteriors."""

    def prior(key):
        return jax.random.normal(key, (8,))

    def data(key, z):
        return jax.random.bernoulli(key, jax.nn.sigmoid(DESIGN @ z)).astype(z.dtype)

    def potential(z, y):
        logits = DESIGN @ z
        return 0.5 * z @ z + jnp.sum(jnp.logaddexp(0, logits) - y * logits)

    return prior, data, potential


DIMS = {normal_normal: 3, logistic: 8}


def with_the_wrong_sign(trial, whitened):
    """Minus the density of the trial, so shifted that candidates are accepted as often as before."""
    return 2 * log_whitened(trial, jnp.ones_like(whitened)) - log_whitened(trial, whitened)


def of_the_wrong_sign(noise, trial):
    """A candidate, with the same of its density."""
    candidate, _ = whitened_candidate(noise, trial)
    return candidate, with_the_wrong_sign(trial, candidate)


def ranks_of_the_truth(model, replications=REPLICATIONS, wrong=False):
    """Ranks, shape `(replications, dim)`, and whether each solve ended with a trial in use."""
    prior, data, potential = model()

    def target(y):
        # A model rather than a potential: the data are its argument, so that the draws are compiled once.
        z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (DIMS[model],)))
        numpyro.factor("density", -potential(z, y))

    kernel = QDE(target)

    def ten_draws(state, y):
        def keep(state, _):
            state = jax.lax.fori_loop(0, THINNING, lambda _, s: kernel.sample(s, (y,), {}), state)
            return state, state.z["z"]

        state = jax.lax.fori_loop(0, WARMUP, lambda _, s: kernel.sample(s, (y,), {}), state)
        return jax.lax.scan(keep, state, length=KEPT)[1]

    ranks, solved, compiled = [], [], None
    for key in jax.random.split(jax.random.key(11), replications):
        key_prior, key_data, key_chain = jax.random.split(key, 3)
        truth = prior(key_prior)
        y = data(key_data, truth)
        state = kernel.init(key_chain, WARMUP, None, (y,), {})
        if compiled is None:
            with pytest.MonkeyPatch.context() as patch:
                if wrong:  # traced here: the moves are wrong, the warm-up is right
                    patch.setattr(mixture, "log_whitened", with_the_wrong_sign)
                    patch.setattr(mixture, "whitened_candidate", of_the_wrong_sign)
                compiled = jax.jit(ten_draws).lower(state, y).compile()
        ranks.append(np.sum(np.asarray(compiled(state, y)) < truth, 0))
        facts = kernel.facts(state)
        solved.append(facts["solve_has_trial"] and facts["global_share"] > 0)
    return np.stack(ranks), np.asarray(solved)


def smallest_p(ranks):
    """Chi square of 10 bins, Bonferroni over the parameters."""
    counts = np.stack([np.bincount(column // 2, minlength=10) for column in ranks.T])
    return float(stats.chisquare(counts, axis=1).pvalue.min() * len(counts))


@pytest.mark.slow
@pytest.mark.parametrize("model", [normal_normal, logistic])
def test_ranks_are_uniform(optimised, model):
    ranks, solved = ranks_of_the_truth(model)
    # the test is about the mixture: it must be in use
    assert solved.mean() > 0.9
    assert smallest_p(ranks) > LEVEL


@pytest.mark.slow
def test_the_twin_with_the_density_of_the_wrong_sign_is_caught(optimised):
    ranks, solved = ranks_of_the_truth(logistic, 2 * REPLICATIONS, wrong=True)
    assert solved.mean() > 0.9
    assert smallest_p(ranks) < LEVEL
