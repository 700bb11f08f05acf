"""Simulation-based calibration: the rank of the true parameter among draws of its posterior is uniform.

Parameters are drawn from the prior and data from the parameters; each data set gets its own warm-up, solve
and chain, all in one compiled program. (Talts et al. 2018; thinned draws, chi square over the ranks.) The
twin whose kept global moves forget the density of the trial must fail.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdesampler.infer import QDE
from qdesampler.kernels.adaptation.imaginary_time import MIDDLING, SOLVED
from qdesampler.kernels.mcmc import mixture

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


def without_the_density(trial, position):
    return jnp.zeros((), position.dtype)


def ranks_of_the_truth(model, wrong=False):
    """Ranks, shape `(replications, dim)`, and the outcomes of the solves."""
    prior, data, potential = model()

    def one(key):
        key_prior, key_data, key_start, key_chain = jax.random.split(key, 4)
        truth = prior(key_prior)
        y = data(key_data, truth)
        kernel = QDE(potential_fn=lambda z: potential(z, y))
        state = kernel.init(
            key_chain, WARMUP, jax.random.uniform(key_start, truth.shape, minval=-2, maxval=2)
        )
        state = jax.lax.fori_loop(0, WARMUP, lambda _, s: kernel.sample(s, (), {}), state)
        with pytest.MonkeyPatch.context() as patch:
            # traced here: only the moves of kept draws are wrong
            if wrong:
                patch.setattr(mixture, "log_trial", without_the_density)

            def keep(state, _):
                state = jax.lax.fori_loop(0, THINNING, lambda _, s: kernel.sample(s, (), {}), state)
                return state, state.z

            state, draws = jax.lax.scan(keep, state, length=KEPT)
        shared = state.adapt_state.shared
        return jnp.sum(draws < truth, 0), shared.solve.outcome, shared.global_probability

    keys = jax.random.split(jax.random.key(11), REPLICATIONS)
    ranks, outcome, probability = jax.jit(jax.vmap(one))(keys)
    solved = np.isin(np.asarray(outcome), [SOLVED, MIDDLING]) & (np.asarray(probability) > 0)
    return np.asarray(ranks), solved


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
def test_the_twin_without_the_trials_density_is_caught(optimised):
    ranks, solved = ranks_of_the_truth(logistic, wrong=True)
    assert solved.mean() > 0.9
    assert smallest_p(ranks) < LEVEL
