"""Constrained sites: names, bounds from arguments, no entries; kinds of them: `test_kinds_of_models.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from qdesampler.infer.qde.kernel import QDE


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
