"""German credit: Bayesian logistic regression on 24 real predictors."""

import numpyro
import numpyro.distributions as dist


def prepare(data):
    """Divide every predictor by its standard deviation (it is not centred) and code bad credits as 1."""
    predictors = data["predictors"]
    return {"X": predictors / predictors.std(axis=0), "bad": (data["credit_class"] == 2).astype(int)}


def model(X, bad):
    """Whether a credit goes bad, by a logistic regression with standard normal priors.

    Args:
        X: scaled predictors, shape ``(credits, predictors)``.
        bad: 1 for a bad credit and 0 for a good one, shape ``(credits,)``; None draws from the prior
            predictive.
    """
    alpha = numpyro.sample("alpha", dist.Normal(0, 1))
    with numpyro.plate("predictor", X.shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0, 1))
    with numpyro.plate("credit", X.shape[0]):
        numpyro.sample("bad", dist.Bernoulli(logits=alpha + X @ beta), obs=bad)
