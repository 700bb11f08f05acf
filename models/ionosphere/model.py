"""Ionosphere: Bayesian logistic regression on 34 standardised radar pulses."""

import numpyro
import numpyro.distributions as dist


def prepare(data):
    """Standardise every column; one that is constant stays at zero."""
    returns = data["returns"]
    spread = returns.std(axis=0)
    spread[spread == 0] = 1
    return {"X": (returns - returns.mean(axis=0)) / spread, "good": data["good"].astype(int)}


def model(X, good):
    """Whether a radar return shows structure, by a logistic regression with standard normal priors.

    Args:
        X: standardised predictors, shape ``(returns, predictors)``.
        good: 1 for a good return and 0 for a bad one, shape ``(returns,)``; None draws from the prior
            predictive.
    """
    alpha = numpyro.sample("alpha", dist.Normal(0, 1))
    with numpyro.plate("predictor", X.shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0, 1))
    with numpyro.plate("return", X.shape[0]):
        numpyro.sample("good", dist.Bernoulli(logits=alpha + X @ beta), obs=good)
