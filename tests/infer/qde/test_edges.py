"""Densities that end at an edge or jump where they are large: right means, and a kernel that says so."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.diagnostics import diagnose, summary, zero_variance
from qdesampler.infer.qde.kernel import QDE

RNG = np.random.default_rng(1)
UNIFORM = RNG.uniform(-1, 2, 80)
DELAYS = 2 + RNG.exponential(0.5, 40)
COUNTS = np.r_[RNG.poisson(20, 12), RNG.poisson(5, 8)]


def uniform():
    """Observations of a uniform law bound its ends."""
    low = numpyro.sample("low", dist.Normal(0, 5))
    width = numpyro.sample("width", dist.HalfNormal(5))
    numpyro.sample("y", dist.Uniform(low, low + width), obs=jnp.asarray(UNIFORM))


def delay():
    """An exponential law behind a threshold that no observation may precede."""
    threshold = numpyro.sample("threshold", dist.Normal(0, 5))
    rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
    late = jnp.asarray(DELAYS) - threshold
    numpyro.factor("y", jnp.where(jnp.all(late > 0), jnp.sum(jnp.log(rate) - rate * late), -jnp.inf))


def jump():
    """The rate of counts changes at an unknown time, between two of which nothing depends on it."""
    before = numpyro.sample("before", dist.Exponential(0.1))
    after = numpyro.sample("after", dist.Exponential(0.1))
    time = numpyro.sample("time", dist.Uniform(0, 1))
    numpyro.sample(
        "y", dist.Poisson(jnp.where(jnp.arange(20) < time * 20, before, after)), obs=jnp.asarray(COUNTS)
    )


def mean_on_grid(log_density, *axes):
    """Means by sums over a grid, each cell at its middle."""
    grids = np.meshgrid(*axes, indexing="ij")
    weights = log_density(*grids)
    weights = np.exp(weights - np.max(weights))
    return [float(np.sum(grid * weights) / np.sum(weights)) for grid in grids]


def middles(low, high, count):
    return low + (np.arange(count) + 0.5) * (high - low) / count


def uniform_means():
    def log_density(low, width):
        inside = low + width > UNIFORM.max()
        return np.where(inside, -0.5 * low**2 / 25 - 0.5 * width**2 / 25 - 80 * np.log(width), -np.inf)

    low, width = mean_on_grid(
        log_density, middles(UNIFORM.min() - 0.6, UNIFORM.min(), 1500), middles(2.5, 4.2, 1500)
    )
    return {"low": low, "width": width}


def delay_means():
    def log_density(threshold, rate):
        late = DELAYS.sum() - len(DELAYS) * threshold
        return -0.5 * threshold**2 / 25 - rate + len(DELAYS) * np.log(rate) - rate * late

    threshold, rate = mean_on_grid(
        log_density, middles(DELAYS.min() - 0.3, DELAYS.min(), 1500), middles(0.2, 5.0, 1500)
    )
    return {"threshold": threshold, "rate": rate}


def jump_means():
    """Between two times `before` and `after` are gamma variates, so that only the time is summed over."""
    from scipy.special import gammaln

    total, masses, before, after = COUNTS.sum(), [], [], []
    for number in range(1, 21):  # observations at the first rate
        early = COUNTS[:number].sum()
        shapes, rates = (early + 1, total - early + 1), (number + 0.1, 20 - number + 0.1)
        masses.append(sum(gammaln(s) - s * np.log(r) for s, r in zip(shapes, rates, strict=True)))
        before.append(shapes[0] / rates[0])
        after.append(shapes[1] / rates[1])
    weights = np.exp(np.array(masses) - np.max(masses))
    weights /= weights.sum()
    times = (np.arange(1, 21) - 0.5) / 20
    return {"before": weights @ before, "after": weights @ after, "time": weights @ times}


MODELS = {
    "uniform": (uniform, uniform_means),
    "delay": (delay, delay_means),
    "jump": (jump, jump_means),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "uniform" else pytest.mark.slow) for name in MODELS]
)
def test_means_at_edges_and_jumps(run, assert_expectation, name):
    """Four chains, within 5 standard errors; the kernel and `diagnose` say that there is an edge."""
    model, means = MODELS[name]
    kernel = QDE(model)
    mcmc = run(kernel, warmup=500, samples=1000, key=1)
    samples = mcmc.get_samples(group_by_chain=True)
    for site, expected in means().items():
        assert_expectation(samples[site], expected, min_ess=150)
    assert kernel.facts(mcmc.last_state)["density_edges"] == 1
    codes = {finding.code for finding in diagnose(mcmc)}
    assert "edges" in codes
    assert not codes & {"funnel", "virial"}
    with pytest.raises(ValueError, match="use plain means"):
        zero_variance(mcmc)
    table = summary(mcmc)
    assert "zv_mean" not in table
    assert "edge" in table.attrs["no_zero_variance"]
