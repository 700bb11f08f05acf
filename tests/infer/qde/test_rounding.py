"""Densities that rise by float32 rounding alone, far from the mode: descents do not leap there."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import initialize_model

from qdesampler import QDE
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.solvers.gaussian import descents
from qdesampler.solvers.gaussian.descents import Descent, descend
from qdesampler.solvers.gaussian.rounding import is_rounding, without_rounding

RNG = np.random.default_rng(0)
COUNTS = RNG.negative_binomial(300, 300 / 1300, size=200)
SUCCESSES = RNG.binomial(5000, RNG.beta(90.0, 210.0, size=200))
WIDE = dist.TransformedDistribution(dist.HalfNormal(0.1), dist.transforms.PowerTransform(-2.0))
FARTHEST = 25.0  # log of a concentration that no data of this kind support


def overdispersed():
    """Negative binomial counts by mean and dispersion."""
    conc = numpyro.sample("conc", WIDE)
    mu = numpyro.sample("mu", dist.TruncatedNormal(1000.0, 200.0, low=0.0))
    numpyro.sample("y", dist.NegativeBinomial2(mu, conc).expand([200]).to_event(1), obs=COUNTS)


def gamma_poisson():
    """Poisson counts whose rates are gamma variables."""
    conc = numpyro.sample("conc", dist.LogNormal(5.0, 3.0))
    mu = numpyro.sample("mu", dist.LogNormal(7.0, 1.0))
    numpyro.sample("y", dist.GammaPoisson(conc, conc / mu).expand([200]).to_event(1), obs=COUNTS)


def beta_binomial():
    """Successes whose chances are beta variables."""
    conc = numpyro.sample("conc", dist.LogNormal(5.0, 4.0))
    mu = numpyro.sample("mu", dist.Beta(2.0, 2.0))
    law = dist.BetaBinomial(mu * conc, (1 - mu) * conc, total_count=5000)
    numpyro.sample("y", law.expand([200]).to_event(1), obs=SUCCESSES)


def zero_inflated():
    """Negative binomial counts, some of which are zeros of another kind."""
    conc = numpyro.sample("conc", dist.LogNormal(5.0, 3.0))
    mu = numpyro.sample("mu", dist.LogNormal(7.0, 1.0))
    law = dist.ZeroInflatedNegativeBinomial2(mu, conc, gate=0.05)
    numpyro.sample("y", law.expand([200]).to_event(1), obs=np.where(np.arange(200) % 20 == 0, 0, COUNTS))


MODELS = [overdispersed, gamma_poisson, beta_binomial, zero_inflated]


def ends(model, count=120):
    """Log concentrations at the ends of many descents from uniform starts, and which ends are rounding."""
    info = initialize_model(jax.random.key(0), model)
    flat, unravel = ravel_pytree(info.param_info.z)
    evaluate = Evaluator(jax.value_and_grad(lambda x: -info.potential_fn(unravel(x))), flat.size)
    starts = evaluate.rounded(np.random.default_rng(0).uniform(-4, 4, (count, flat.size)))
    values, scores = evaluate(starts)
    sound = np.isfinite(values) & np.all(np.isfinite(scores), 1)
    begin, precision = zip(starts[sound], values[sound], scores[sound], strict=True), 1.2e-7
    found = [Descent(*start, precision) for start in begin]
    descend(evaluate, found, 320, evaluate.rounded)
    rounding = [is_rounding(evaluate, descent, precision) for descent in found]
    kept, _ = without_rounding(evaluate, found, precision)
    assert max(kept, key=lambda d: d.log_density).position[0] < FARTHEST
    return np.array([descent.position[0] for descent in found]), np.array(rounding)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(m, marks=[pytest.mark.slow] if m not in MODELS[::2] else [], id=m.__name__)
        for m in MODELS
    ],
)
def test_hardly_a_descent_ends_where_the_density_is_rounding_and_its_end_is_known(model):
    found, rounding = ends(model)
    assert len(found) > 60
    assert np.mean(found > FARTHEST) <= 0.03
    np.testing.assert_array_equal(rounding, found > FARTHEST)


def test_without_the_rule_some_do(monkeypatch):
    monkeypatch.setattr(descents, "_FREE", np.inf)
    found, rounding = ends(gamma_poisson)
    assert np.sum(found > FARTHEST) >= 3
    assert np.mean(rounding[found > FARTHEST]) > 0.8
    assert not np.any(rounding[found < 10])


def test_the_trial_is_at_the_mode():
    kernel = QDE(overdispersed)
    state = kernel.init(jax.random.split(jax.random.key(0), 4), 500, None, (), {})
    assert np.all(np.abs(np.asarray(state.z["conc"]) - np.log(330.0)) < 0.7)
    assert kernel.facts(state)["solve_outcome"] == "solved"
