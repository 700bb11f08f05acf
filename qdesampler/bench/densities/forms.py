"""Eight posteriors of `models/` as PyMC and Stan write them; arguments are those of the NumPyro models."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["PYMC", "STAN", "stan_data"]


def stan_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a NumPyro model as its Stan form has them: lists, and their sizes `n` and `k`."""
    lists = {key: np.asarray(value).tolist() for key, value in data.items()}
    matrix = next((np.asarray(data[key]) for key in ("X", "lags") if key in data), None)
    sizes = {"n": len(next(iter(lists.values())))}
    return lists | sizes if matrix is None else lists | sizes | {"k": matrix.shape[1]}


def _schools(pm, sigma, y):
    mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5)
    offset = pm.Normal("theta_offset", 0, 1, dims="school")
    theta = pm.Deterministic("theta", mu + tau * offset, dims="school")
    pm.Normal("y", theta, sigma, observed=y)


def _bioassay(pm, log_dose, animals, deaths):
    alpha, beta = pm.Normal("alpha", 0, 2), pm.Normal("beta", 10, 10)
    pm.Binomial("deaths", animals, logit_p=alpha + beta * log_dose, observed=deaths)


def _series(pm, lags, y):
    alpha, beta = pm.Normal("alpha", 0, 10), pm.Normal("beta", 0, 10, shape=lags.shape[1])
    pm.Normal("y", alpha + pm.math.dot(lags, beta), pm.HalfCauchy("sigma", 2.5), observed=y)


def _children(pm, mom_hs, mom_iq, kid_score):
    beta = pm.Flat("beta", shape=4)
    X = np.stack([np.ones(len(mom_hs)), mom_hs, mom_iq, mom_hs * mom_iq], 1)
    pm.Normal("kid_score", pm.math.dot(X, beta), pm.HalfCauchy("sigma", 2.5), observed=kid_score)


def _pumps(pm, failures, hours):
    alpha, beta = pm.Exponential("alpha", 1), pm.Gamma("beta", 0.1, 1)
    rate = pm.Gamma("rate", alpha, beta, shape=len(hours))
    pm.Poisson("failures", rate * hours, observed=failures)


def _stackloss(pm, X, y):
    alpha, beta = pm.Normal("alpha", 17, 10), pm.Normal("beta", 0, 10, shape=X.shape[1])
    sigma, nu = pm.HalfNormal("sigma", 5), pm.Gamma("nu", 2, 0.1)
    pm.StudentT("y", nu, mu=alpha + pm.math.dot(X, beta), sigma=sigma, observed=y)


def _light(pm, y):
    variance = pm.InverseGamma("variance", 3, 200)
    mean = pm.Normal("mean", 25, pm.math.sqrt(variance / 0.1))
    pm.Normal("y", mean, pm.math.sqrt(variance), observed=y)


def _lambs(pm, y):
    gate, rate = pm.Uniform("gate", 0, 1), pm.Exponential("rate", 1)
    pm.ZeroInflatedPoisson("y", 1 - gate, rate, observed=y)


PYMC = {
    "eight_schools": _schools,
    "bioassay": _bioassay,
    "arK": _series,
    "kidiq_interaction": _children,
    "pumps": _pumps,
    "stackloss_robust": _stackloss,
    "newcomb_light": _light,
    "lamb_movements": _lambs,
}

STAN = {
    "eight_schools": """
data { int n; vector[n] sigma; vector[n] y; }
parameters { real mu; real<lower=0> tau; vector[n] theta_offset; }
transformed parameters { vector[n] theta = mu + tau * theta_offset; }
model { mu ~ normal(0, 5); tau ~ cauchy(0, 5); theta_offset ~ std_normal(); y ~ normal(theta, sigma); }
""",
    "bioassay": """
data { int n; vector[n] log_dose; array[n] int animals; array[n] int deaths; }
parameters { real alpha; real beta; }
model {
  alpha ~ normal(0, 2); beta ~ normal(10, 10); deaths ~ binomial_logit(animals, alpha + beta * log_dose);
}
""",
    "arK": """
data { int n; int k; matrix[n, k] lags; vector[n] y; }
parameters { real alpha; vector[k] beta; real<lower=0> sigma; }
model {
  alpha ~ normal(0, 10); beta ~ normal(0, 10); sigma ~ cauchy(0, 2.5); y ~ normal(alpha + lags * beta, sigma);
}
""",
    "kidiq_interaction": """
data { int n; vector[n] mom_hs; vector[n] mom_iq; vector[n] kid_score; }
parameters { vector[4] beta; real<lower=0> sigma; }
model {
  sigma ~ cauchy(0, 2.5);
  kid_score ~ normal(beta[1] + beta[2] * mom_hs + beta[3] * mom_iq + beta[4] * mom_hs .* mom_iq, sigma);
}
""",
    "pumps": """
data { int n; array[n] int failures; vector[n] hours; }
parameters { real<lower=0> alpha; real<lower=0> beta; vector<lower=0>[n] rate; }
model {
  alpha ~ exponential(1); beta ~ gamma(0.1, 1); rate ~ gamma(alpha, beta); failures ~ poisson(rate .* hours);
}
""",
    "stackloss_robust": """
data { int n; int k; matrix[n, k] X; vector[n] y; }
parameters { real alpha; vector[k] beta; real<lower=0> sigma; real<lower=0> nu; }
model {
  alpha ~ normal(17, 10); beta ~ normal(0, 10); sigma ~ normal(0, 5); nu ~ gamma(2, 0.1);
  y ~ student_t(nu, alpha + X * beta, sigma);
}
""",
    "newcomb_light": """
data { int n; vector[n] y; }
parameters { real<lower=0> variance; real mean; }
model {
  variance ~ inv_gamma(3, 200); mean ~ normal(25, sqrt(variance / 0.1)); y ~ normal(mean, sqrt(variance));
}
""",
    "lamb_movements": """
data { int n; array[n] int y; }
parameters { real<lower=0, upper=1> gate; real<lower=0> rate; }
model {
  rate ~ exponential(1);
  for (i in 1:n) {
    if (y[i] == 0) target += log_sum_exp(bernoulli_lpmf(1 | gate), bernoulli_lpmf(0 | gate) - rate);
    else target += bernoulli_lpmf(0 | gate) + poisson_lpmf(y[i] | rate);
  }
}
""",
}
