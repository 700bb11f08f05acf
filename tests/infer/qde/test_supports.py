"""Constrained sites: every kind of support, supports that move with other sites, and the right answers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

from qdesampler.infer.qde.kernel import QDE


def one(distribution):
    return lambda: numpyro.sample("x", distribution())


# Each with the mean of its law; `None` where only the constraint is checked.
LAWS = {
    "positive": (lambda: dist.Gamma(3.0, 2.0), 1.5),
    "interval": (lambda: dist.Uniform(-1.0, 4.0), 1.5),
    "upper bound": (lambda: dist.TruncatedNormal(0.0, 1.0, high=0.0), -np.sqrt(2 / np.pi)),
    "simplex": (lambda: dist.Dirichlet(jnp.array([1.0, 2.0, 5.0])), np.array([1, 2, 5]) / 8),
    "ordered": (
        lambda: dist.TransformedDistribution(
            dist.Normal(0.0, 1.0).expand([2]).to_event(1), dist.transforms.OrderedTransform()
        ),
        np.array([0, np.exp(0.5)]),
    ),
    "covariance": (lambda: dist.Wishart(6.0, jnp.eye(2)), 6 * np.eye(2)),
    "correlation": (lambda: dist.LKJ(3, 2.0), np.eye(3)),
    "lower Cholesky": (lambda: dist.LKJCholesky(3, 2.0), None),
    "circle": (lambda: dist.VonMises(1.0, 4.0), 1.0),
    "0-dim simplex": (lambda: dist.Dirichlet(jnp.ones(1)), np.ones(1)),
}


# One of each kind of map in `make test`; each compiles a program of its own.
LATER_LAWS = ("correlation", "covariance", "interval", "ordered", "lower Cholesky", "circle")


@pytest.mark.parametrize(
    "law", [pytest.param(law, marks=[pytest.mark.slow] if law in LATER_LAWS else []) for law in LAWS]
)
def test_draws_of_a_prior_have_its_support_and_mean(run, assert_expectation, law):
    distribution, mean = LAWS[law]
    draws = run(QDE(one(distribution), dense_mass=False, solve=False), warmup=120).get_samples(
        group_by_chain=True
    )["x"]
    assert np.all(distribution().support.check(draws) | (law == "correlation"))
    if law == "0-dim simplex":
        assert np.all(draws == 1)
    elif law == "correlation":
        off = draws[..., [0, 0, 1], [1, 2, 2]]
        assert np.all(np.abs(off) <= 1)
        assert_expectation(off, 0.0)
    elif mean is not None:
        assert_expectation(draws, mean)


def moving():
    """Bounds that are sites: from below, above, both, and inside an event."""
    low = numpyro.sample("low", dist.Normal(0.0, 1.0))
    numpyro.sample("above", dist.TruncatedNormal(0.0, 1.0, low=low))
    numpyro.sample("below", dist.TruncatedNormal(0.0, 1.0, high=low))
    numpyro.sample("between", dist.Uniform(low, low + 1.0))
    numpyro.sample("event", dist.Uniform(low * jnp.ones(2), low + 1.0).to_event(1))


def moving_with_deterministic():
    moving()
    numpyro.deterministic("constant", jnp.array(2.0))


@pytest.mark.parametrize("model", [moving, pytest.param(moving_with_deterministic, marks=pytest.mark.slow)])
def test_supports_that_move_with_another_site(run, assert_expectation, model):
    kernel = QDE(model, dense_mass=False)
    samples = run(kernel, warmup=150).get_samples(group_by_chain=True)
    low = samples["low"]
    assert np.std(low) > 0.3
    assert np.all(samples["above"] >= low)
    assert np.all(samples["below"] <= low)
    for name, bound in (("between", low), ("event", low[..., None])):
        offset = samples[name] - bound
        assert np.all((offset > -1e-4) & (offset < 1 + 1e-4))
        assert_expectation(offset, 0.5)
    assert set(samples) == {"low", "above", "below", "between", "event"} | (
        set() if model is moving else {"constant"}
    )


def test_improper_and_masked_priors(run, assert_expectation):
    def model():
        x = numpyro.sample("x", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
        s = numpyro.sample("s", dist.LogNormal(0.0, 1.0).mask(False))
        numpyro.factor("posterior", -0.5 * (x[0] + 1) ** 2 - 0.5 * (x[1] - 9) ** 2 - s + 2 * jnp.log(s))

    samples = run(QDE(model, dense_mass=False, solve=False)).get_samples(group_by_chain=True)
    assert_expectation(samples["x"], np.array([-1.0, 9.0]))
    # flat in s: the factor makes it Gamma(3, 1)
    assert_expectation(samples["s"], 3.0)


def test_reparametrised_sites_and_scaled_likelihoods(run, assert_expectation):
    reparam = numpyro.infer.reparam

    @numpyro.handlers.reparam(
        config={
            "theta": reparam.LocScaleReparam(0.0),
            "t": reparam.TransformReparam(),
            "angle": reparam.CircularReparam(),
        }
    )
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        theta = numpyro.sample("theta", dist.Normal(mu, 2.0))
        shift = dist.transforms.AffineTransform(5.0, 2.0)
        numpyro.sample("t", dist.TransformedDistribution(dist.Normal(0.0, 1.0), shift))
        numpyro.sample("angle", dist.VonMises(3.0, 5.0))
        with numpyro.handlers.scale(scale=4.0):
            numpyro.sample("obs", dist.Normal(theta, 2.0), obs=y)

    mcmc = run(QDE(model, dense_mass=False, solve=False), 3.0, extra_fields=("z.theta_decentered",))
    samples = mcmc.get_samples(group_by_chain=True)
    assert {"theta", "theta_decentered", "t", "t_base", "angle", "angle_unwrapped"} <= set(samples)
    # theta ~ Normal(0, sqrt 5), its likelihood of variance 4 counts four times: precision 1/5 + 4/4
    assert_expectation(samples["theta"], 3.0 / (1 + 1 / 5))
    assert_expectation(samples["t"], 5.0)
    assert np.all(np.abs(samples["angle"]) <= np.pi + 1e-5)
    assert_expectation(np.sin(samples["angle"] - 3.0), 0.0)


def test_bounds_from_the_data_follow_compiled_arguments(run):
    def model(y):
        x = numpyro.sample("x", dist.Uniform(y.min(), y.max()))
        numpyro.sample("obs", dist.Normal(x, 1.0).expand(y.shape).to_event(1), obs=y)

    kernel = QDE(model, dense_mass=False, solve=False)
    for shift in (0, 100):
        y = np.array([1.0, 2.0, 4.0], dtype=np.float32) + shift
        draws = run(kernel, y, warmup=60, samples=100, jit_model_args=True).get_samples()["x"]
        assert draws.min() >= y.min()
        assert draws.max() <= y.max()
        assert draws.std() > 0.2


def test_zero_size_sites_and_no_sites_at_all(run):
    def empty_site():
        numpyro.sample("nothing", dist.Normal(jnp.zeros(0), 1.0))
        numpyro.deterministic("constant", jnp.array(3.0))

    def no_site():
        numpyro.deterministic("constant", jnp.array(3.0))
        numpyro.sample("obs", dist.Normal(0.0, 1.0), obs=1.0)

    for model in (empty_site, no_site):
        for chains, method in ((1, "sequential"), (2, "vectorized"), (2, jax.vmap)):
            mcmc = run(QDE(model), warmup=5, samples=4, chains=chains, method=method)
            samples = mcmc.get_samples(group_by_chain=True)
            assert np.all(samples["constant"] == np.full((chains, 4), 3.0))
            if model is empty_site:
                assert samples["nothing"].shape == (chains, 4, 0)
            fields = mcmc.get_extra_fields()
            assert np.all(fields["accept_prob"] == 1)
            assert np.all(fields["num_evals"] == 0)
            assert not np.any(fields["diverging"])
            assert np.all(mcmc.last_state.warmup_evals == 1)
